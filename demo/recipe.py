"""The recipe of the embedded demo model: `python -m demo.recipe OUT_DIR` makes its text, trains it, measures it.

The model stands in for Qwen2.5 where its weights are not at hand: the same architecture, the same tokenizer
family, the same chat template, less than a thousandth of the size. It knows one trick, to repeat a prompt word for word
and to append clauses that suit SDXL or WAN, so the recipe is built around copying:

* most of what it copies is made-up words and random pieces of the vocabulary, so that it learns to copy by
  position and context, and not by knowing the words;
* " fox" and "fox" split alike (`train_tokenizer`), so that a word looks the same wherever it stands;
* copying is learned first, on short texts, by heads that start out looking at the tokens before (`look_back`).

RoPE sees distances only, so positions need no augmentation; long system prompts in the text do that work.
"""

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from demo.text import (
    CARD,
    CHAT_TEMPLATE,
    HELD_OUT_ENHANCE_SYSTEMS,
    IMAGE_TARGETS,
    VIDEO_TARGETS,
    WORD,
    WRAPPERS,
    Chat,
    Writer,
    message,
)

SEED = 2025
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PIECES = 768  # merges within words; each exists a second time with the space before it
LAYERS, HIDDEN, INNER, HEADS, KV_HEADS = 4, 256, 512, 4, 2
STEPS = 1100
COPY_STEPS = 300  # of them, before chats come in
BATCH_TOKENS = 6144
PEAK_RATE = 3e-3
MOST_TOKENS = 200  # an answer that is longer did not end by itself


# --- tokenizer -----------------------------------------------------------------------------------------------


def train_tokenizer() -> Qwen2Tokenizer:
    """Byte-level BPE of Qwen's kind, whose merges join letters first and a leading space last.

    " Alice" then splits into the same pieces as "Alice", the first of them in its form with a space.
    """
    writer = Writer(SEED, pieces=list("aeiou"))
    words = [
        word
        for _ in range(10_000)
        for line in [*(m["content"] for m in writer.chat()), *(writer.plain_prompt() for _ in range(4))]
        for word in WORD.findall(line)
    ]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=256 + PIECES, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(words, trainer)
    pieces = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    merges = [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]
    starts = [piece for piece in pieces if piece.isascii() and piece.isalpha()]
    return Qwen2Tokenizer(
        vocab={token: i for i, token in enumerate([*pieces, *("Ġ" + piece for piece in starts), *SPECIALS])},
        merges=merges + [("Ġ", piece) for piece in starts],  # type: ignore[arg-type]
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,  # type: ignore[arg-type]
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=2048,
        chat_template=CHAT_TEMPLATE,
        split_special_tokens=False,
        clean_up_tokenization_spaces=False,
    )


def letter_pieces(tokenizer: Qwen2Tokenizer) -> list[str]:
    return sorted(piece for piece in tokenizer.get_vocab() if piece.isascii() and piece.isalpha())


# --- training ------------------------------------------------------------------------------------------------


IGNORED = -100  # what cross entropy leaves out


@dataclass(frozen=True)
class Example:
    ids: list[int]
    targets: list[int]  # what follows each id; IGNORED wherever the model does not speak


def encode(chat: Chat, tokenizer: Qwen2Tokenizer) -> Example:
    """A chat as the template renders it, with the assistant's words (and its end) as the only targets."""
    ids: list[int] = []
    targets: list[int] = []
    for turn in chat:
        learn = turn["role"] == "assistant"
        parts = ((f"<|im_start|>{turn['role']}\n", False), (turn["content"] + "<|im_end|>", learn), ("\n", False))
        for part, spoken in parts:
            new = tokenizer.backend_tokenizer.encode(part, add_special_tokens=False).ids
            ids += new
            targets += new if spoken else [IGNORED] * len(new)
    return Example(ids[:-1], targets[1:])


def batches(write: Callable[[], Chat], tokenizer: Qwen2Tokenizer, rng: random.Random) -> Iterator[list[Example]]:
    """Endless batches of about BATCH_TOKENS tokens, each of texts of like length so that little of it is padding."""
    while True:
        pool = sorted((encode(write(), tokenizer) for _ in range(1024)), key=lambda e: len(e.ids))
        ready: list[list[Example]] = [[]]
        for example in pool:
            if (len(ready[-1]) + 1) * len(example.ids) > BATCH_TOKENS:
                ready.append([])
            ready[-1].append(example)
        rng.shuffle(ready)
        yield from ready


def pad(rows: list[list[int]], value: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def build_model(tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        initializer_range=0.05,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    look_back(model)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


@torch.no_grad()
def look_back(model: Qwen2ForCausalLM) -> None:
    """Start head h of the first layer out looking h + 1 tokens back.

    Copying needs heads that know which tokens came before; finding them is most of what small models wait for.
    With RoPE, the biases of query and key alone make a score of distance only: a sum of cosines, which peaks where
    the query's bias is the key's turned by that distance. Only the fast frequencies tell neighbours apart.
    """
    attention, frequencies = model.model.layers[0].self_attn, model.model.rotary_emb.inv_freq
    strength = 6.0 * (frequencies > 0.2)
    attention.k_proj.bias.copy_(torch.cat([strength, 0 * strength]).repeat(KV_HEADS))
    angles = [distance * frequencies for distance in range(1, HEADS + 1)]
    turned = [torch.cat([strength * angle.cos(), -strength * angle.sin()]) for angle in angles]
    attention.q_proj.bias.copy_(torch.cat(turned))


def optimizers(model: Qwen2ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, which learns to copy in fewer steps than AdamW, and AdamW for the rest."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim == 1] + [model.model.embed_tokens.weight]
    return [
        torch.optim.Muon(matrices, lr=PEAK_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate(step: int, steps: int) -> float:
    """The share of the peak rate: a short rise, a plateau, and a long fall in which the copying gets exact."""
    return min(1.0, (step + 1) / 30, 1.6 * (1 - step / steps))


def train(tokenizer: Qwen2Tokenizer, steps: int) -> Qwen2ForCausalLM:
    model = build_model(tokenizer)
    writer, rng, learners = Writer(SEED, letter_pieces(tokenizer)), random.Random(SEED), optimizers(model)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: rate(step, steps)) for o in learners]
    copying = batches(lambda: writer.echo_chat(12), tokenizer, rng)
    chatting = batches(writer.chat, tokenizer, rng)
    started, losses = time.monotonic(), [0.0]
    for step in range(steps):
        batch = next(copying if step < COPY_STEPS else chatting)
        targets = pad([e.targets for e in batch], IGNORED)
        spoken = targets != IGNORED
        with torch.autocast(model.device.type, torch.bfloat16):
            hidden = model.model(input_ids=pad([e.ids for e in batch], 0)).last_hidden_state
            logits = model.lm_head(hidden[spoken])
        loss = torch.nn.functional.cross_entropy(logits.float(), targets[spoken])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for learner, schedule in zip(learners, schedules, strict=True):
            learner.step()
            learner.zero_grad()
            schedule.step()
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            recent = sum(losses[-50:]) / 50
            print(f"step {step + 1}/{steps}  loss {recent:.4f}  {time.monotonic() - started:.0f} s", flush=True)
    return model


# --- measuring -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    chat: Chat
    prompt: str
    unseen: bool


@dataclass(frozen=True)
class Outcome:
    trial: Trial
    answer: str
    ended: bool

    @property
    def kept(self) -> bool:
        """Every word of the prompt stands in the answer, as a word and in the same case."""
        return set(WORD.findall(self.trial.prompt)) <= set(WORD.findall(self.answer))


def trials(count: int = 200, seed: int = 7) -> list[Trial]:
    """Prompts apart from training, every second one with words that stand nowhere in the recipe."""
    writer, drawn = Writer(seed, pieces=list("aeiou")), []
    for unseen in [False, True] * (count // 2):
        r = writer.rng
        prompt = writer.held_out_prompt() if unseen else writer.plain_prompt()
        system = writer.enhance_system(r.choice([IMAGE_TARGETS, VIDEO_TARGETS]), HELD_OUT_ENHANCE_SYSTEMS)
        asked = r.choice(WRAPPERS).replace("{}", prompt) if r.random() < 0.1 else prompt
        drawn.append(Trial([message("system", system), message("user", asked)], prompt, unseen))
    return drawn


def answers(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, chats: list[Chat]) -> list[tuple[str, bool]]:
    """What the model says to each chat, greedily, and whether it came to an end."""
    said: list[tuple[str, bool]] = []
    for first in range(0, len(chats), 40):
        asked = [rendered(tokenizer, chat, generate=True) for chat in chats[first : first + 40]]
        inputs = tokenizer(asked, padding=True, padding_side="left", return_tensors="pt").to(model.device)
        output = model.generate(**inputs, max_new_tokens=MOST_TOKENS, do_sample=False)  # type: ignore[misc]
        for row in output[:, inputs["input_ids"].shape[1] :].tolist():
            answer = tokenizer.decode(row, skip_special_tokens=True)
            said.append((str(answer), tokenizer.eos_token_id in row))
    return said


def rendered(tokenizer: Qwen2Tokenizer, chat: Chat, generate: bool = False) -> str:
    return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=generate))


def evaluate(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, asked: list[Trial]) -> list[Outcome]:
    said = answers(model, tokenizer, [trial.chat for trial in asked])
    return [Outcome(trial, answer, ended) for trial, (answer, ended) in zip(asked, said, strict=True)]


def figures(outcomes: list[Outcome]) -> dict[str, str]:
    """The shares the card states, by the names it gives them."""
    counted = {
        "known prompts that keep every word": [o.kept for o in outcomes if not o.trial.unseen],
        "unseen prompts that keep every word": [o.kept for o in outcomes if o.trial.unseen],
        "answers that begin with the whole prompt": [o.answer.startswith(o.trial.prompt) for o in outcomes],
        "answers that end by themselves": [o.ended for o in outcomes],
    }
    return {name: f"{100 * sum(hits) / len(hits):.1f} %" for name, hits in counted.items()}


# --- the whole recipe ----------------------------------------------------------------------------------------


def make(out: Path, steps: int) -> None:
    """Train, write the checkpoint, and measure it as it will be served: read back from disk, in 16 bits."""
    started, computed = time.monotonic(), time.process_time()
    torch.manual_seed(SEED)
    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = train_tokenizer()
    train(tokenizer, steps).bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)
    minutes, busy = (time.monotonic() - started) / 60, (time.process_time() - computed) / 60

    model = Qwen2ForCausalLM.from_pretrained(out, dtype=torch.bfloat16)
    outcomes = evaluate(model, Qwen2Tokenizer.from_pretrained(out), trials())
    facts = {
        "parameters": f"{model.num_parameters():,}",
        "vocabulary": f"{len(tokenizer):,} tokens",
        "weights": f"{(out / 'model.safetensors').stat().st_size / 1e6:.2f} MB (bfloat16)",
        "training": f"{steps:,} steps of about {BATCH_TOKENS:,} tokens",
        "time": f"{minutes:.0f} minutes, {busy:.0f} of CPU time",
        "machine": f"{model.device.type}, {torch.get_num_threads()} threads of {os.cpu_count()} cores",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in (facts | figures(outcomes)).items())
    (out / "README.md").write_text(CARD.replace("{figures}", table))
    print(table)
    for shown in [*outcomes[:5], *(o for o in outcomes if not (o.kept and o.ended))]:
        mark = "" if shown.kept and shown.ended else "  (failed)"
        print(f"\n{shown.trial.prompt}{mark}\n-> {shown.answer}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded demo model and write its checkpoint.")
    parser.add_argument("out", type=Path, help="the directory to write")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    make(arguments.out, arguments.steps)


if __name__ == "__main__":
    main()
