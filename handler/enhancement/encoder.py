"""Counts the tokens of a target model's text encoder, with the name of the tokenizer that counted.

Knows no pack and no engine: only tokenizer files, read with the `tokenizers` library.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from handler.api.enhance import EncoderName
from handler.errors import StartError

Count = Callable[[str], int]

#: content tokens that an encoder reads at a time: CLIP 77 with BOS and EOS (openai/CLIP, `context_length`),
#: WAN's UMT5 512 with EOS (Wan2.1, configs/shared_config.py, `text_len`)
WINDOWS: Mapping[EncoderName, int] = {"clip": 75, "umt5": 511}
#: T5 v1.1 needed at most 1.32 times Qwen's tokens on 1,959 English prompts, CLIP 1.09 times; other scripts need more
ESTIMATE = 1.35


@dataclass(frozen=True, slots=True)
class Encoder:
    """One text encoder's token counter."""

    name: EncoderName
    #: the tokenizer that counts: the encoder's own, or a stand-in
    measured_with: str
    #: content tokens of a text: without BOS and EOS
    count: Count
    #: content tokens that the encoder reads at a time; None where it has no such limit
    window: int | None = None

    def windows(self, tokens: int) -> int:
        """Windows that so many tokens take, at least 1."""
        return 1 if self.window is None else max(1, ceil(tokens / self.window))


Encoders = Mapping[EncoderName, Encoder]


def load(directory: Path, model_name: str, model_count: Count) -> Encoders:
    """Every encoder: with its own tokenizer where `directory` has it, else with a stand-in that `measured_with` names.

    `model_count` counts with the served model's tokenizer, of which `model_name` is the short name (`qwen`).

    Raises:
        StartError: an encoder has a folder whose files cannot be read.
    """
    exact = {name: Encoder(name, name, count) for name in ("clip", "umt5", "t5") if (count := _read(directory / name))}
    if "t5" in exact:
        exact["t5"] = replace(exact["t5"], measured_with="t5-v1_1")
        exact.setdefault("umt5", Encoder("umt5", "t5-v1_1 (proxy)", exact["t5"].count))

    def estimate(text: str) -> int:
        return ceil(model_count(text) * ESTIMATE)

    def either(name: EncoderName) -> Encoder:
        found = exact.get(name) or Encoder(name, f"{model_name} x{ESTIMATE} (estimate)", estimate)
        return replace(found, window=WINDOWS.get(name))

    own = Encoder("qwen", model_name, model_count)
    return {"clip": either("clip"), "umt5": either("umt5"), "t5": either("t5"), "qwen": own}


def _read(folder: Path) -> Count | None:
    """Count with the tokenizer of a folder: `tokenizer.json`, or CLIP's `vocab.json` with `merges.txt`."""
    whole, vocab, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    try:
        if whole.is_file():
            tokenizer = Tokenizer.from_file(str(whole))
            tokenizer.no_truncation()
            tokenizer.no_padding()
        elif vocab.is_file() and merges.is_file():
            tokenizer = _clip(vocab, merges)
        elif folder.is_dir():
            raise StartError(f"ENCODERS_DIR: {folder.name} has no tokenizer.json, nor vocab.json with merges.txt")
        else:
            return None
    except (StartError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises nothing narrower, and where it panics no Exception
        raise StartError(f"ENCODERS_DIR: {folder.name}: its tokenizer cannot be read: {error}") from None
    # A batch of one: unlike `encode` it releases the GIL (tokenizers 0.23), and counts faster.
    return lambda text: len(tokenizer.encode_batch_fast([text], add_special_tokens=False)[0])


def _clip(vocab: Path, merges: Path) -> Tokenizer:
    """CLIP's byte-pair encoding, set up as in transformers' CLIPTokenizer; control tokens are counted as their text."""
    tokenizer = Tokenizer(
        models.BPE.from_file(
            str(vocab), str(merges), end_of_word_suffix="</w>", continuing_subword_prefix="", unk_token="<|endoftext|>"
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer
