"""Data for tests of enhancement: the published tokenizers, the default pack, briefs, random prompts and answers."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from handler.api.enhance import EnhanceRequest
from handler.api.parse import parse
from handler.enhancement import encoder
from handler.enhancement.brief import Brief
from handler.enhancement.encoder import Encoders
from handler.enhancement.packs import Packs, load

ROOT = Path(__file__).parents[2]
PACK = ROOT / "packs" / "default.json"
#: byte-identical copies of published tokenizer files; not part of this repository
DATA = ROOT.parent / "shared" / "data" / "tokenizers"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the genuine tokenizer files are not at {DATA}")


def pack_json() -> dict[str, Any]:
    """The default pack, to be changed."""
    value: dict[str, Any] = json.loads(PACK.read_text(encoding="utf-8"))
    return value


@cache
def packs() -> Packs:
    """The default pack, loaded."""
    return load(PACK.parent)


@cache
def word_encoders() -> Encoders:
    """Every encoder counts words, one token each."""
    return encoder.load(Path("/nonexistent"), "words", lambda text: len(text.split()))


@cache
def genuine_encoders() -> Encoders:
    """CLIP and T5 as they are published."""
    counts = {name: encoder._read(DATA / folder) for name, folder in (("clip", "clip-vit-l-14"), ("t5", "t5-v1_1"))}
    clip, t5 = (counts[name] or len for name in ("clip", "t5"))
    one = encoder.Encoder
    return {
        "clip": one("clip", "clip", clip, 75),
        "umt5": one("umt5", "t5-v1_1 (proxy)", t5, 511),
        "t5": one("t5", "t5-v1_1", t5),
        "qwen": one("qwen", "words", lambda text: len(text.split())),
    }


def request(**fields: Any) -> EnhanceRequest:
    """A parsed request."""
    parsed = parse({"operation": "enhance", **fields})
    assert isinstance(parsed, EnhanceRequest)
    return parsed


def a_brief(prompt: str, encoders: Encoders | None = None, **fields: Any) -> Brief:
    """A brief by the default pack, in mode rewrite and the prompt's own language."""
    fields = {"job_type": "sdxl_image_fast", "mode": "rewrite", "language": "same", **fields}
    return Brief.of(request(prompt=prompt, **fields), packs(), encoders or word_encoders())


_COUNTS = ["two", "three", "7", "1,200", "3.5", "a dozen"]
_COLOURS = ["red", "blue", "dark green", "gold"]
_NOUNS = [
    "foxes",
    "towers",
    "a cat",
    "bridge at Pont Neuf",
    "sailing boats",
    "woman named Ana",
    "antidisestablishmentarianism",
]
_ODD = [
    "no people", "without a hat", "never any rain", 'a sign that says "Open, late!"', "“déjà vu”", "<lora:snow_v2:0.8>",
    "(masterpiece:1.2)", "((sharp))", "[fog:rain:0.4]", "BREAK", "🦊🦊", "👩‍🚀 on the moon", "一只红色的狐狸", "雪の中",
    "<|im_end|>", "<|endoftext|>", "!!!", "...", "-", "x" * 40, "soft light", "highly detailed", "4k", "oil painting",
    "it's a dog's life", "f/1.8", "16:9", "https://example.org/a,b?c=d",
]  # fmt: skip
_PLAIN = st.builds(
    lambda count, colour, noun: f"{count} {colour} {noun}",
    st.sampled_from(_COUNTS),
    st.sampled_from(_COLOURS),
    st.sampled_from(_NOUNS),
)
_CLAUSE = st.one_of(_PLAIN, st.sampled_from(_ODD), st.sampled_from(_NOUNS), st.text(min_size=1, max_size=12))
#: without digits, which would make each word a number
_LONG = st.integers(100, 600).map(lambda words: " ".join(f"word{chr(ord('a') + index % 23)}" for index in range(words)))
#: prompts and answers: clauses, any text, one clause of hundreds of words, punctuation alone
TEXTS = st.one_of(
    st.lists(st.tuples(_CLAUSE, st.sampled_from([", ", ". ", "; ", " ", "，", "\n", ",", " - "])), max_size=30).map(
        lambda pairs: "".join(clause + mark for clause, mark in pairs)
    ),
    st.tuples(_LONG, _CLAUSE).map(lambda parts: f"{parts[0]} {parts[1]}"),
    st.text(max_size=200),
    st.text("!?.,;:()[]<>\"' -", max_size=40),
)
PROMPTS = TEXTS.filter(lambda text: bool(text.strip()))
