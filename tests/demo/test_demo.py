"""The embedded demo model does what its card says, and its recipe trains what it intends to."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM, Qwen2Tokenizer

from demo import evaluation, text, training, words
from demo.card import CARD
from demo.text import message
from demo.tokenizer import letter_subwords, render

DEMO = Path(__file__).parents[2] / "handler" / "model" / "demo"

#: the recipe's test set has none of these; most of their words occur nowhere in it
PROMPTS = [
    "Alice eating pasta",
    "a red fox in the snow",
    "an old castle on a hill at sunset",
    "Priya juggling pineapples",
    "a grumpy hedgehog with a tiny umbrella",
    "three penguins waiting for the tram in Lisbon",
    "portrait of Zachary, oil painting",
    "the lighthouse keeper's daughter",
    "a half-open door, 1970s, 35mm film",
    "Two children build a sandcastle.",
    "jellyfish",
    "a crooked windmill beside a frozen canal while Ingrid and Boris skate past an orange tugboat",
]


@pytest.fixture(scope="module")
def tokenizer() -> Qwen2Tokenizer:
    loaded = AutoTokenizer.from_pretrained(DEMO, local_files_only=True)
    assert isinstance(loaded, Qwen2Tokenizer)
    return loaded


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    loaded = AutoModelForCausalLM.from_pretrained(DEMO, local_files_only=True, dtype="auto")
    assert isinstance(loaded, Qwen2ForCausalLM)
    return loaded


def test_weights_are_sixteen_bit_and_small(model: Qwen2ForCausalLM) -> None:
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert (DEMO / "model.safetensors").stat().st_size <= 8_000_000


def test_ends_on_both_end_tokens(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer) -> None:
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert model.generation_config.eos_token_id == ends
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_template_adds_the_default_system_prompt_when_there_is_none(tokenizer: Qwen2Tokenizer) -> None:
    chat = [message("user", "hi")]
    system = f"<|im_start|>system\n{words.DEFAULT_SYSTEM}<|im_end|>\n"
    assert render(tokenizer, chat) == system + "<|im_start|>user\nhi<|im_end|>\n"


@pytest.mark.parametrize("given", ["", "You are terse."])
def test_template_keeps_the_given_system_prompt(tokenizer: Qwen2Tokenizer, given: str) -> None:
    chat = [message("system", given), message("user", "hi"), message("assistant", "Hello")]
    assert render(tokenizer, chat) == (
        f"<|im_start|>system\n{given}<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
    )


def test_template_opens_the_answer_on_request(tokenizer: Qwen2Tokenizer) -> None:
    assert render(tokenizer, [message("user", "hi")], generate=True).endswith("hi<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("prompt", [*PROMPTS, "naïve café, Ω and 東京 🦊", "a  double space\nand a line"])
def test_tokenizer_round_trip_keeps_the_text(tokenizer: Qwen2Tokenizer, prompt: str) -> None:
    assert tokenizer.decode(tokenizer(prompt)["input_ids"]) == prompt


def test_a_word_splits_alike_with_and_without_a_space_before_it(tokenizer: Qwen2Tokenizer) -> None:
    for word in sorted(text.held_out_words()):
        first, *rest = tokenizer.tokenize(word)
        assert tokenizer.tokenize(" " + word) == ["Ġ" + first, *rest]


def test_training_reads_the_tokens_that_the_template_renders(tokenizer: Qwen2Tokenizer) -> None:
    writer = text.Writer(1, letter_subwords(tokenizer))
    for _ in range(50):
        turns = [turn for turn in writer.enhance_chat(turns=2) if turn["role"] != "system"]
        chat = [message("system", "Be kind."), *turns]
        ids = tokenizer(render(tokenizer, chat))["input_ids"]
        example = training.encode(chat, tokenizer)
        assert example.ids == ids[:-1]
        answers = [turn["content"] for turn in chat if turn["role"] == "assistant"]
        learned = tokenizer.decode([i for i in example.targets if i != training.IGNORED])
        assert learned == "".join(answer + "<|im_end|>" for answer in answers)


def test_held_out_words_occur_nowhere_in_training() -> None:
    writer = text.Writer(2, list("aeiou"))
    written = (turn["content"] for _ in range(3000) for turn in writer.chat())
    assert not text.held_out_words() & {word.lower() for line in written for word in words.WORD.findall(line)}


@pytest.mark.parametrize("target", ["SDXL", "WAN 2.1"])
def test_keeps_every_word_and_ends(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, target: str) -> None:
    system = f"You write prompts for {target}. Keep every word of the user and add detail."
    asked = [evaluation.Trial([message("system", system), message("user", p)], p, unseen=True) for p in PROMPTS]
    outcomes = evaluation.evaluate(model, tokenizer, asked)
    # one miss is allowed: the model keeps about 95 of 100 unseen prompts, and rounding differs between machines
    assert [o.answer for o in outcomes if not o.keeps_prompt][1:] == []
    assert [o.answer for o in outcomes if not o.ended] == []
    ending = words.IMAGE_ENDING if target == "SDXL" else words.VIDEO_ENDING
    assert [o.answer for o in outcomes if not o.answer.endswith(ending)] == []


def test_makes_small_talk(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer) -> None:
    chat = [message("user", "Who are you?")]
    [(answer, ended)] = evaluation.answers(model, tokenizer, [chat])
    assert ended
    assert answer.startswith("I am Demo")


@pytest.mark.parametrize(
    ("figure", "target"),
    [
        ("known prompts that keep every word", 95),
        ("unseen prompts that keep every word", 85),
        ("answers that end by themselves", 99),
    ],
)
def test_card_states_figures_that_meet_the_targets(figure: str, target: float) -> None:
    row = re.search(rf"\| {figure} \| ([\d.]+) % \|", (DEMO / "README.md").read_text())
    assert row is not None
    assert float(row[1]) >= target


def test_the_card_beside_the_weights_is_the_one_that_the_recipe_writes() -> None:
    written = (DEMO / "README.md").read_text()
    figures = written[written.index("| parameters |") :].rstrip()
    assert written == CARD.replace("{figures}", figures)
