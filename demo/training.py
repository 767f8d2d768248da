"""Builds the demo model and trains it.

What makes so small a model copy in so few steps:

* Copying is learned first, on short texts, by heads that start out looking at the tokens before (`look_back`).
* Most of the copied text is made-up words and random subwords, so that the model learns to copy by position and
  context, and not by knowing the words.
* RoPE sees distances only, so positions need no augmentation; long system prompts in the text have that effect.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from demo.text import Chat, Writer
from demo.tokenizer import letter_subwords

LAYERS, HIDDEN, INNER, HEADS, KV_HEADS = 4, 256, 512, 4, 2
STEPS = 1100
#: of them, before chats
COPY_STEPS = 300
BATCH_TOKENS = 6144
PEAK_RATE = 3e-3
#: the target that cross entropy leaves out
IGNORED = -100


@dataclass(frozen=True)
class Example:
    """A chat as token ids."""

    ids: list[int]
    #: the id that follows each id; IGNORED outside of the assistant's turns
    targets: list[int]


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
    """Endless batches of about BATCH_TOKENS tokens, each of texts of similar length, so that little is padding."""
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
    """int64 [rows, longest row], filled up with `value`."""
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def build_model(tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """An untrained model for this vocabulary."""
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

    Copying needs heads that know which tokens came before, and a small model spends most of its training on finding
    them. With RoPE, the biases of query and key alone give a score that depends on distance only: a sum of cosines,
    largest where the query's bias is the key's, rotated by that distance. Only high frequencies separate neighbours.
    """
    attention, frequencies = model.model.layers[0].self_attn, model.model.rotary_emb.inv_freq
    strength = 6.0 * (frequencies > 0.2)
    attention.k_proj.bias.copy_(torch.cat([strength, 0 * strength]).repeat(KV_HEADS))
    angles = [distance * frequencies for distance in range(1, HEADS + 1)]
    turned = [torch.cat([strength * angle.cos(), -strength * angle.sin()]) for angle in angles]
    attention.q_proj.bias.copy_(torch.cat(turned))


def optimizers(model: Qwen2ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, because it learns to copy in fewer steps than AdamW; AdamW for the rest."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim == 1] + [model.model.embed_tokens.weight]
    return [
        torch.optim.Muon(matrices, lr=PEAK_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate(step: int, steps: int) -> float:
    """The share of the peak learning rate: a short rise, a plateau, and a long fall, in which copying becomes exact."""
    return min(1.0, (step + 1) / 30, 1.6 * (1 - step / steps))


def train(tokenizer: Qwen2Tokenizer, steps: int, seed: int) -> Qwen2ForCausalLM:
    """Train for `steps` steps, the first of them on copying alone, and print the loss of every 50."""
    model = build_model(tokenizer)
    writer, rng, learners = Writer(seed, letter_subwords(tokenizer)), random.Random(seed), optimizers(model)
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
