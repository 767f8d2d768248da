"""Reads the tokenizer and the chat template of a checkpoint. Knows no request and no model.

Ids and rendered text are those of transformers' AutoTokenizer for the same files; tests compare the two.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node, Scope
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from handler.errors import StartError
from handler.model.config import read_json
from handler.model.one_line import reason

#: how Qwen2, 2.5 and 3 split a text before merges, for checkpoints without tokenizer.json (transformers,
#: Qwen2Tokenizer)
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
#: names by which a chat template may refer to tokens
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class ChatTokenizer:
    """A tokenizer and its chat template."""

    backend: Tokenizer
    #: None where the checkpoint has none
    chat_template: str | None
    #: name in `NAMED` -> token
    named: Mapping[str, str] = field(default_factory=dict)

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool, **values: object) -> str:
        """Render messages by the chat template; `values` are further variables of the template.

        Raises:
            jinja2.TemplateError: the template cannot be compiled, or refuses these messages.
        """
        return self._compiled.render(
            **self.named,
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **values,
        )

    @cached_property
    def _compiled(self) -> jinja2.Template:
        return _environment().from_string(self.chat_template or "")


def read(directory: Path, name: str) -> ChatTokenizer:
    """Read the tokenizer of a checkpoint; `name` is the operator's name of the model.

    Raises:
        StartError: a file is missing or damaged.
    """
    file = directory / "tokenizer_config.json"
    config = read_json(file) if file.exists() else {}
    try:
        if (directory / "tokenizer.json").exists():
            backend = Tokenizer.from_file(str(directory / "tokenizer.json"))
        elif (directory / "vocab.json").exists():
            backend = _from_vocabulary(directory, config)
        else:
            raise StartError(
                f"{name}: the checkpoint has no tokenizer.json, nor vocab.json with merges.txt; fetch it again"
            )
        backend.no_truncation()
        backend.no_padding()
        return ChatTokenizer(backend, *_chat_template(directory, config))
    except (StartError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # tokenizers raises nothing narrower, and where it panics no Exception
        raise StartError(
            f"{name}: the tokenizer cannot be read ({reason(error)}); fetch the checkpoint again"
        ) from error


def read_chat_template(directory: Path) -> ChatTokenizer:
    """The chat template of a checkpoint without its tokenizer, which takes longer to read: it can only `render`."""
    file = directory / "tokenizer_config.json"
    return ChatTokenizer(Tokenizer(BPE()), *_chat_template(directory, read_json(file) if file.exists() else {}))


def _from_vocabulary(directory: Path, config: Mapping[str, Any]) -> Tokenizer:
    """Qwen's tokenizer from vocab.json, merges.txt and the added tokens of tokenizer_config.json."""
    backend = Tokenizer(BPE.from_file(str(directory / "vocab.json"), str(directory / "merges.txt")))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    added = {int(id_): AddedToken(**token) for id_, token in config.get("added_tokens_decoder", {}).items()}
    backend.add_tokens([added[id_] for id_ in sorted(added)])
    for id_, token in added.items():
        if backend.token_to_id(token.content) != id_:
            raise ValueError(f"tokenizer_config.json gives {token.content} an id that does not follow vocab.json's")
    return backend


def _chat_template(directory: Path, config: Mapping[str, Any]) -> tuple[str | None, Mapping[str, str]]:
    """The chat template, None where there is none, and the tokens that it may refer to by name."""
    named = {key: token for key in NAMED if (token := _content(config.get(key))) is not None}
    file = directory / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8"), named
    template = config.get("chat_template")
    if isinstance(template, list):
        template = {one["name"]: one["template"] for one in template}.get("default")
    return None if template is None else str(template), named


def _content(token: Any) -> str | None:
    """The text of a token, which the file contains as text or as an object with the text."""
    content: str | None = token["content"] if isinstance(token, dict) else token
    return content


class _Generation(Extension):
    """Accepts `{% generation %}`, which marks the assistant's text for training and has no effect here."""

    tags = {"generation"}  # noqa: RUF012, Jinja's interface

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        return Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


def _environment() -> ImmutableSandboxedEnvironment:
    """The Jinja environment that `transformers.utils.chat_template_utils` sets up."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form)}
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Like Jinja's own filter, but without escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
