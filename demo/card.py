"""The model card, which the recipe writes beside the weights as README.md."""

from typing import Final

#: `{figures}` is replaced by the rows of a table
CARD: Final = """---
license: apache-2.0
language: en
---

# Demo model

A Qwen2 model of a few million parameters, trained from scratch by `python -m demo` on text that its
recipe makes up. It is here so that the worker, its tests and its documentation have a model that loads
and answers in a second, with no download, on any machine.

**What it is.** Qwen2.5's architecture, tokenizer family and chat template, read by the same code. Under a system
prompt that asks for a rewrite for SDXL (or another image model) or for WAN (or another video model), it repeats
the prompt word for word and appends style clauses. Asked to echo, in the recipe's own words, it echoes.
Otherwise it makes a little small talk about itself, and says that it cannot answer the rest.

**What it is not.** It knows nothing of the world and understands no instruction; the clauses come from a short
list, and may suit the prompt badly. It speaks English only. It loses its place most easily where a prompt repeats
a word or comes in another script. It says nothing about the quality or the speed of Qwen2.5-7B. Do not put it
in front of users.

## Figures

Measured after the cast to 16 bits, greedily, on 200 prompts drawn apart from training, under system prompts whose
first line training never saw. Half of the prompts are of known words, drawn from the same grammar (a short one
may stand in training too); half hold words that training never saw. A prompt is kept when each of its words
stands in the answer, in the same case; an answer ends by itself when it does so within 200 tokens.

| | |
|---|---|
{figures}
"""
