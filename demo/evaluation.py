"""Measures a demo model: does an answer keep every word of the prompt, and does it end by itself?"""

from dataclasses import dataclass

from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from demo.text import Chat, Writer, message
from demo.tokenizer import render
from demo.words import HELD_OUT_ENHANCE_SYSTEMS, IMAGE_TARGETS, VIDEO_TARGETS, WORD, WRAPPERS

#: tokens; a longer answer counts as one that does not end
LONGEST_ANSWER = 200


@dataclass(frozen=True)
class Trial:
    """A prompt to be enhanced, in its chat."""

    chat: Chat
    prompt: str
    #: True where training saw none of its nouns, verbs and adjectives
    unseen: bool


@dataclass(frozen=True)
class Outcome:
    """The model's answer to a trial."""

    trial: Trial
    answer: str
    #: True where it ended within LONGEST_ANSWER tokens
    ended: bool

    @property
    def keeps_prompt(self) -> bool:
        """True where every word of the prompt is a word of the answer, in the same case."""
        return set(WORD.findall(self.trial.prompt)) <= set(WORD.findall(self.answer))


def trials(count: int = 200, seed: int = 7) -> list[Trial]:
    """Prompts drawn apart from training, every second one of held-out words."""
    writer, drawn = Writer(seed, subwords=list("aeiou")), []
    for unseen in [False, True] * (count // 2):
        r = writer.rng
        prompt = writer.held_out_prompt() if unseen else writer.plain_prompt()
        system = writer.enhance_system(r.choice([IMAGE_TARGETS, VIDEO_TARGETS]), HELD_OUT_ENHANCE_SYSTEMS)
        asked = r.choice(WRAPPERS).replace("{}", prompt) if r.random() < 0.1 else prompt
        drawn.append(Trial([message("system", system), message("user", asked)], prompt, unseen))
    return drawn


def answers(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, chats: list[Chat]) -> list[tuple[str, bool]]:
    """The model's greedy answer to each chat, and whether it ended by itself."""
    answered: list[tuple[str, bool]] = []
    for first in range(0, len(chats), 40):
        asked = [render(tokenizer, chat, generate=True) for chat in chats[first : first + 40]]
        inputs = tokenizer(asked, padding=True, padding_side="left", return_tensors="pt").to(model.device)
        output = model.generate(**inputs, max_new_tokens=LONGEST_ANSWER, do_sample=False)  # type: ignore[misc]
        for row in output[:, inputs["input_ids"].shape[1] :].tolist():
            answer = tokenizer.decode(row, skip_special_tokens=True)
            answered.append((str(answer), tokenizer.eos_token_id in row))
    return answered


def evaluate(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, asked: list[Trial]) -> list[Outcome]:
    """Answer every trial."""
    answered = answers(model, tokenizer, [trial.chat for trial in asked])
    return [Outcome(trial, answer, ended) for trial, (answer, ended) in zip(asked, answered, strict=True)]


def summarize(outcomes: list[Outcome]) -> dict[str, str]:
    """The shares that the card states, by their names in it."""
    counted = {
        "known prompts that keep every word": [o.keeps_prompt for o in outcomes if not o.trial.unseen],
        "unseen prompts that keep every word": [o.keeps_prompt for o in outcomes if o.trial.unseen],
        "answers that begin with the whole prompt": [o.answer.startswith(o.trial.prompt) for o in outcomes],
        "answers that end by themselves": [o.ended for o in outcomes],
    }
    return {name: f"{100 * sum(hits) / len(hits):.1f} %" for name, hits in counted.items()}
