"""Trains the demo model's tokenizer, and renders chats with its template."""

import json

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from demo.text import Chat, Writer
from demo.words import CHAT_TEMPLATE, WORD

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
#: merges within words; each exists a second time with the space before it
MERGES = 768


def train_tokenizer(seed: int) -> Qwen2Tokenizer:
    """A byte-level BPE as Qwen's, whose merges join letters first and a leading space last.

    " fox" and "fox" are then split alike, but for the space in the first subword: a word looks the same wherever it
    stands, which makes it easier to copy.
    """
    writer = Writer(seed, subwords=list("aeiou"))
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
    trainer = trainers.BpeTrainer(vocab_size=256 + MERGES, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(words, trainer)
    subwords = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    merges = [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]
    starts = [subword for subword in subwords if subword.isascii() and subword.isalpha()]
    return Qwen2Tokenizer(
        vocab={token: i for i, token in enumerate([*subwords, *("Ġ" + subword for subword in starts), *SPECIALS])},
        merges=merges + [("Ġ", subword) for subword in starts],  # type: ignore[arg-type]
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,  # type: ignore[arg-type]
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=2048,
        chat_template=CHAT_TEMPLATE,
        split_special_tokens=False,
        clean_up_tokenization_spaces=False,
    )


def letter_subwords(tokenizer: Qwen2Tokenizer) -> list[str]:
    """The entries of the vocabulary that consist of ASCII letters."""
    return sorted(subword for subword in tokenizer.get_vocab() if subword.isascii() and subword.isalpha())


def render(tokenizer: Qwen2Tokenizer, chat: Chat, generate: bool = False) -> str:
    return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=generate))
