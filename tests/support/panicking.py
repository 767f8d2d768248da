"""A tokenizer that panics: where Oniguruma gives up, its Rust binding panics, and a panic is no Exception."""

from dataclasses import replace

from tokenizers import Regex, Tokenizer, normalizers

from handler.model.snapshot import DEMO
from handler.model.template import Template
from handler.model.tokenizer import read

#: a text on which the pattern below takes more than the 10,000,000 retries that Oniguruma allows (kkos/oniguruma#290)
FATAL = "a" * 40 + "b"


def panicking_template() -> Template:
    """The demo model's template over a tokenizer that panics on `FATAL`, and encodes what is short."""
    tokenizer = read(DEMO, "demo")
    backend = Tokenizer.from_str(tokenizer.backend.to_str())
    backend.normalizer = normalizers.Replace(Regex("(a|aa)+$"), "a")
    return Template(replace(tokenizer, backend=backend))
