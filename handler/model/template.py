"""Turns messages into token ids: the caller's contents in the frame of the chat template, and nothing else.

The checkpoint's own chat template decides the frame around the contents. No default system prompt is added, and no
control token can come from a caller's text. Knows no request; runs on any thread.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

import jinja2
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel

from handler.engine.protocol import Prompt, Thought
from handler.engine.thinking import Thinking
from handler.errors import ContextLengthExceeded, InvalidRequest, StartError, Unsupported
from handler.model.one_line import reason
from handler.model.thoughts import CLOSING, Thinks, ends_inside_thought
from handler.model.tokenizer import ChatTokenizer

#: characters of a prompt, at most, whatever the context: 4,000,000 spaces take 1.2 s and 0.6 GB, and on 11,000,000 the
#: tokenizer's pattern gives up in a panic
MAX_CHARACTERS = 4_000_000
#: turns of a conversation whose frame is kept, at most
MAX_KEPT_TURNS = 64


class Turn(NamedTuple):
    """One message: the role of its author, and the text."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt, as text for people and as the token ids that the model reads."""

    text: str
    prompt: Prompt
    #: of the token ids in decimal, joined by commas; proves which prompt the model read
    sha256: str


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a prompt, where the model begins to generate."""

    #: the last turn is an unfinished one of the assistant, which the model continues
    continues: bool = False
    #: the model may think before it answers; only for templates that support it
    thinks: bool = False


ANSWER = Ending()
#: what a chat template that is no good can raise beside Jinja's own errors; ArithmeticError covers a division by 0
BROKEN = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError, MemoryError)


class Template:
    """The tokenizer and chat template of one checkpoint.

    Raises:
        StartError: the checkpoint has a chat template that is not ChatML, or no byte-level tokenizer.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        #: False for a base checkpoint without a chat template: only raw text can be encoded
        self.chats = bool(tokenizer.chat_template)
        backend = tokenizer.backend
        if not isinstance(backend.decoder, ByteLevel):
            raise StartError("the model's tokenizer is not byte-level BPE; use a Qwen2, 2.5 or 3 model")
        self._tokenizer = tokenizer
        self._backend = backend
        self._plain = _without_added_tokens(backend)
        added = backend.get_added_tokens_decoder()
        # Some checkpoints mark the tags of thoughts as special; as text they are needed all the same.
        self._added_bytes = {
            id_: b""
            if token.special and token.content not in (Thinking.OPEN, Thinking.CLOSE)
            else token.content.encode()
            for id_, token in added.items()
        }
        self._control_ids = {token.content: id_ for id_, token in added.items()}
        self._control = re.compile(
            "|".join(re.escape(text) for text in sorted(self._control_ids, key=len, reverse=True))
        )
        if self.chats and not {"<|im_start|>", "<|im_end|>"} <= self._control_ids.keys():
            raise StartError(
                "the model's tokenizer has no token <|im_start|> or <|im_end|>; use a Qwen2, 2.5 or 3 instruct model"
            )
        self._known_bytes: dict[int, bytes] = {}
        #: ids from this one on have no token; the model's embedding may have rows for them
        self.tokens_in_vocab = backend.get_vocab_size()
        self._longest_token = max(map(len, backend.get_vocab(with_added_tokens=False)), default=0)
        if not self._longest_token:
            raise StartError("the model's tokenizer has no tokens; fetch the checkpoint again")
        self._frame = lru_cache(maxsize=256)(self._render_frame)
        #: the template refuses `enable_thinking: false`, and is never given it
        self._insists = False
        self.thinks: Thinks = "never"
        #: the token that ends a turn of the assistant; None where the template writes none
        self.end_id: int | None = None
        #: the tokens that close a thought
        self.closing: tuple[int, ...] = ()
        #: the template's own system prompt; it is used only where the operator sets MODEL_DEFAULT_SYSTEM
        self.default_system: str | None = None
        if not self.chats:
            return
        try:
            self._insists = self._refuses_not_to_think()
            # Read between two turns: a template may write nothing after the last one.
            self._turn_end = self._parts(("system", "user"), answer=False)[1].removesuffix("<|im_start|>user\n")
            before = self._frame(("user",), ANSWER)[0]
        except InvalidRequest as error:
            raise StartError(f"{error}; use a Qwen2, 2.5 or 3 instruct model") from error
        if before != "<|im_start|>user\n":
            raise StartError("the model's chat template is not ChatML; use a Qwen2, 2.5 or 3 instruct model")
        self.thinks = self._thinks()
        self.end_id = self._end_of_turn()
        (closing,) = self._encode([CLOSING], backend)
        self.closing = tuple(closing)
        self.default_system = self._default_system()

    def chat(self, turns: Sequence[Turn], max_tokens: int, ending: Ending = ANSWER, begun: str = "") -> Rendered:
        """Render turns up to the place where the model begins to generate.

        Args:
            begun: how the answer begins. It stands after all that the template writes before an answer, an empty think
                block included, and control tokens in it stay text, as in a message.

        Raises:
            ContextLengthExceeded: more than `max_tokens` prompt tokens.
            InvalidRequest: more than `MAX_CHARACTERS`, or roles that the template refuses.
            Unsupported: the checkpoint has no chat template.
        """
        if not self.chats:
            raise Unsupported(
                "the model has no chat template, so it can only continue a text: send generate with a prompt, or serve "
                "an instruct model"
            )
        contents = [*(turn.content for turn in turns), begun]
        self._check_characters(sum(map(len, contents)), max_tokens)
        # The frame of a long conversation is large, and seldom needed again.
        render = self._frame if len(turns) <= MAX_KEPT_TURNS else self._render_frame
        frame = render(tuple(turn.role for turn in turns), ending)
        if begun:
            frame = (*frame[:-1], _without_open_thoughts(frame[-1]))
        # The text between two control tokens of the frame is encoded as one run: white space at the start of a caller's
        # text then merges with the frame's, as in the reference rendering of the whole template.
        controls: list[int] = []
        runs = [""]
        for part, content in zip(frame, contents, strict=True):
            position = 0
            for control in self._control.finditer(part):
                runs[-1] += part[position : control.start()]
                runs.append("")
                controls.append(self._control_ids[control.group()])
                position = control.end()
            runs[-1] += part[position:] + content
        first, *others = self._encode(runs)
        token_ids = first + [id_ for control, run in zip(controls, others, strict=True) for id_ in (control, *run)]
        text = "".join(part + content for part, content in zip(frame, contents, strict=True))
        end_ids = () if self.end_id is None else (self.end_id,)
        # An answer that has begun is no thought, whatever its text holds.
        thought = None if begun else self._thought(text, asked=ending.thinks)
        return _rendered(text, Prompt((*token_ids,), b"", end_ids, thought), max_tokens)

    def raw(self, text: str, max_tokens: int, *, special_tokens: bool = False) -> Rendered:
        """Encode text without a template; control tokens in it are encoded as text unless `special_tokens` is set.

        Raises:
            ContextLengthExceeded: more than `max_tokens` prompt tokens.
            InvalidRequest: more than `MAX_CHARACTERS`.
        """
        self._check_characters(len(text), max_tokens)
        (token_ids,) = self._encode([text], self._backend if special_tokens else self._plain)
        return _rendered(text, Prompt((*token_ids,), thought=self._thought(text)), max_tokens)

    def count(self, text: str) -> int:
        """How many tokens a text has by itself."""
        return len(self._encode([text])[0])

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a generated token adds to the text: none for special tokens and for ids without a token."""
        known = self._known_bytes.get(token_id)
        if known is None:
            known = self._known_bytes[token_id] = self._look_up_bytes(token_id)
        return known

    def token(self, token_id: int) -> str:
        """A token as the tokenizer's files write it; empty for ids without one."""
        return self._backend.id_to_token(token_id) or ""

    def _look_up_bytes(self, token_id: int) -> bytes:
        if token_id in self._added_bytes:
            return self._added_bytes[token_id]
        token = self._backend.id_to_token(token_id)
        return b"" if token is None else bytes(_BYTE_OF[character] for character in token)

    def _encode(self, texts: list[str], tokenizer: Tokenizer | None = None) -> list[list[int]]:
        # A batch even of one text: unlike `encode` it releases the GIL (tokenizers 0.23), so other jobs go on.
        encoded = (tokenizer or self._plain).encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    def _check_characters(self, characters: int, max_tokens: int) -> None:
        """Refuse a text that is too long for any tokens, before it is encoded, which would take time."""
        # Twice the longest token, because NFC normalisation can shorten a text, by less than half.
        if characters > 2 * max_tokens * self._longest_token:
            raise ContextLengthExceeded(
                f"a prompt of {characters} characters has too many tokens, and the limit is {max_tokens}"
            )
        if characters > MAX_CHARACTERS:
            raise InvalidRequest(f"a prompt of {characters} characters is too long to encode; {MAX_CHARACTERS} at most")

    def _render_frame(self, roles: tuple[str, ...], ending: Ending) -> tuple[str, ...]:
        """The text that the template puts around the contents: one part before each content, one after the last."""
        if roles[0] == "system":
            parts = self._parts(roles, answer=not ending.continues, thinks=ending.thinks)
        else:
            # Qwen2.5's template adds its own system prompt where none was sent. Render a system turn, and cut it off.
            _, first, *rest = self._parts(("system", *roles), answer=not ending.continues, thinks=ending.thinks)
            parts = (first.removeprefix(self._turn_end), *rest)
        return (*parts[:-1], "") if ending.continues else parts

    def _parts(self, roles: tuple[str, ...], *, answer: bool, thinks: bool = False) -> tuple[str, ...]:
        """Render turns whose contents are marks, and split the text at the marks."""
        """Render turns whose contents are marks, and split the text at the marks."""
        marks = [f"\ue000{index}\ue001" for index in range(len(roles))]
        text = self._apply([Turn(role, mark) for role, mark in zip(roles, marks, strict=True)], answer, thinks)
        parts: list[str] = []
        for mark in marks:
            part, found, text = text.partition(mark)
            if not found:
                raise InvalidRequest(
                    f"the model's chat template does not render the roles {', '.join(roles)} in this order"
                )
            parts.append(part)
        return (*parts, text)

    def _refuses_not_to_think(self) -> bool:
        """True where the template renders a chat with `enable_thinking: true`, and none with false."""
        hello = [Turn("system", ""), Turn("user", "")]
        for thinks in (False, True):
            with suppress(InvalidRequest):
                self._apply(hello, True, thinks)
                return thinks
        return False

    def _thinks(self) -> Thinks:
        """Told by what the template writes before an answer, not by the names in it."""
        off = self._frame(("user",), ANSWER)[-1]
        if self._insists or ends_inside_thought(off):
            return "always"
        with suppress(InvalidRequest):
            return "never" if self._frame(("user",), Ending(thinks=True))[-1] == off else "choice"
        return "never"

    def _end_of_turn(self) -> int | None:
        """The first control token after the assistant's words; of another turn's where the template refuses them."""
        after: list[str] = []
        for roles in (("system", "user", "assistant", "user"), ("user", "assistant")):
            with suppress(InvalidRequest):
                after.append(self._parts(roles, answer=False)[roles.index("assistant") + 1])
        for text in after or [self._turn_end]:
            found = self._control.search(text)
            if found is not None and found.group() != "<|im_start|>":
                return self._control_ids[found.group()]
        return None

    def _thought(self, text: str, *, asked: bool = False) -> Thought | None:
        """The think block that the answer to a rendered prompt may begin with."""
        opened = ends_inside_thought(text)
        return Thought(opened, self.closing) if asked or opened else None

    def _apply(self, turns: list[Turn], answer: bool, thinks: bool = False) -> str:
        conversation = [turn._asdict() for turn in turns]
        try:
            return self._tokenizer.render(
                conversation, add_generation_prompt=answer, enable_thinking=thinks or self._insists
            )
        except jinja2.TemplateError as error:
            raise InvalidRequest(f"the model's chat template refuses these roles: {reason(error)}") from error
        except BROKEN as error:
            raise InvalidRequest(f"the model's chat template fails on these roles ({type(error).__name__})") from error

    def _default_system(self) -> str | None:
        """The system prompt that the template adds where the caller sends none; None where it adds none."""
        mark = "\ue000"
        before, _, _ = self._apply([Turn("user", mark)], answer=False).partition(mark)
        turn, _, _ = before.rpartition(self._turn_end)
        _, opened, prompt = turn.partition("<|im_start|>system\n")
        return prompt if opened else None


def joined(first: Rendered, second: Rendered) -> Rendered:
    """Two that were encoded apart, one after the other, as the first's prompt goes on."""
    token_ids = (*first.prompt.token_ids, *second.prompt.token_ids)
    return Rendered(first.text + second.text, replace(first.prompt, token_ids=token_ids), _sha256(token_ids))


def _without_open_thoughts(end: str) -> str:
    """The end of a frame, with its think block closed where it leaves one open: the answer has begun."""
    opened = end.rstrip()
    return f"{opened}\n\n{Thinking.CLOSE}\n\n" if opened.endswith(Thinking.OPEN) else end


def _rendered(text: str, prompt: Prompt, max_tokens: int) -> Rendered:
    if len(prompt.token_ids) > max_tokens:
        raise ContextLengthExceeded(f"the prompt has {len(prompt.token_ids)} tokens, and the limit is {max_tokens}")
    return Rendered(text, prompt, _sha256(prompt.token_ids))


def _sha256(token_ids: Sequence[int]) -> str:
    return sha256(",".join(map(str, token_ids)).encode()).hexdigest()


def _without_added_tokens(backend: Tokenizer) -> Tokenizer:
    """The same tokenizer without added tokens: it encodes `<|im_end|>` and the like as ordinary text."""
    plain = Tokenizer(backend.model)
    plain.normalizer = backend.normalizer
    plain.pre_tokenizer = backend.pre_tokenizer
    return plain


def _byte_of_character() -> dict[str, int]:
    """GPT-2's table: byte-level BPE writes each byte as a printable character (openai/gpt-2, encoder.py)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF = _byte_of_character()
