"""Messages to token ids: exactly, and only, what was sent.

The checkpoint's own chat template decides the frame around the contents, and nothing else enters: no default system
prompt, and no control token out of a caller's text. Knows no request; runs on any thread.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

import jinja2
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel

from handler.engine.protocol import Prompt
from handler.errors import ContextLengthExceeded, InvalidRequest, StartError
from handler.model.tokenizer import ChatTokenizer


class Turn(NamedTuple):
    """One message: who speaks, and the text."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as text, for people, and as the token ids that the model reads."""

    text: str
    prompt: Prompt
    #: of the token ids in decimal, joined by commas: lets anyone prove what the model read
    sha256: str


@dataclass(frozen=True, slots=True)
class Ending:
    """How a conversation is left for the model to go on."""

    #: the last turn is the assistant's and not finished: the model writes on where it ends
    continues: bool = False
    #: the model may think before it answers, where its template knows how
    thinks: bool = False


ANSWER = Ending()


class Template:
    """The tokenizer and chat template of one checkpoint.

    Raises:
        StartError: the checkpoint has no chat template of the ChatML kind, or no byte-level tokenizer.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        if not tokenizer.chat_template:
            raise StartError("the model's tokenizer has no chat template; an instruct model is needed")
        backend = tokenizer.backend
        if not isinstance(backend.decoder, ByteLevel):
            raise StartError(
                "the model's tokenizer is not byte-level BPE as Qwen's; this worker serves Qwen2, 2.5 and 3"
            )
        self._tokenizer = tokenizer
        self._backend = backend
        self._plain = _without_added_tokens(backend)
        added = backend.get_added_tokens_decoder()
        self._added_bytes = {id_: b"" if token.special else token.content.encode() for id_, token in added.items()}
        self._control_ids = {token.content: id_ for id_, token in added.items()}
        self._control = re.compile(
            "|".join(re.escape(text) for text in sorted(self._control_ids, key=len, reverse=True))
        )
        self._known_bytes: dict[int, bytes] = {}
        #: ids from this one on have no token, though the model's embedding may have rows for them
        self.tokens_in_vocab = backend.get_vocab_size()
        self._longest_token = max(map(len, backend.get_vocab(with_added_tokens=False)))
        self._frame = lru_cache(maxsize=256)(self._render_frame)
        try:
            *_, self._turn_end = self._pieces(("system", "user"), answer=False)
            before = self._frame(("user",), ANSWER)[0]
        except InvalidRequest as error:
            raise StartError(str(error)) from error
        if before != "<|im_start|>user\n":
            raise StartError("the model's chat template is not of the ChatML kind")
        #: True where the template can let the model think before it answers, as Qwen3's
        self.thinks = "enable_thinking" in tokenizer.chat_template
        #: the system prompt that the template has of its own, used only where an operator asks for it
        self.default_system = self._default_system()

    def chat(self, turns: Sequence[Turn], max_tokens: int, ending: Ending = ANSWER) -> Rendered:
        """Render turns, up to where the assistant goes on.

        Raises:
            ContextLengthExceeded: more than `max_tokens` prompt tokens.
        """
        frame = self._frame(tuple(turn.role for turn in turns), ending)
        contents = [*(turn.content for turn in turns), ""]
        self._refuse_hopeless(sum(map(len, contents)), max_tokens)
        # Text runs from one control token of the frame to the next are encoded whole: white space that a caller's
        # text begins with then merges with the frame's, as it does where the model's makers render the template.
        controls: list[int] = []
        runs = [""]
        for piece, content in zip(frame, contents, strict=True):
            position = 0
            for control in self._control.finditer(piece):
                runs[-1] += piece[position : control.start()]
                runs.append("")
                controls.append(self._control_ids[control.group()])
                position = control.end()
            runs[-1] += piece[position:] + content
        first, *others = self._encode(runs)
        token_ids = first + [id_ for control, run in zip(controls, others, strict=True) for id_ in (control, *run)]
        text = "".join(piece + content for piece, content in zip(frame, contents, strict=True))
        return _rendered(text, token_ids, max_tokens)

    def raw(self, text: str, max_tokens: int, *, special_tokens: bool = False) -> Rendered:
        """Encode text without a template; control tokens typed in it stay text unless `special_tokens` is set.

        Raises:
            ContextLengthExceeded: more than `max_tokens` prompt tokens.
        """
        self._refuse_hopeless(len(text), max_tokens)
        (token_ids,) = self._encode([text], self._backend if special_tokens else self._plain)
        return _rendered(text, token_ids, max_tokens)

    def count(self, text: str) -> int:
        """Tokens of a text by itself."""
        return len(self._encode([text])[0])

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a generated token adds to the answer: none for special tokens and for ids without a token."""
        known = self._known_bytes.get(token_id)
        if known is None:
            known = self._known_bytes[token_id] = self._look_up_bytes(token_id)
        return known

    def _look_up_bytes(self, token_id: int) -> bytes:
        if token_id in self._added_bytes:
            return self._added_bytes[token_id]
        token = self._backend.id_to_token(token_id)
        return b"" if token is None else bytes(_BYTE_OF[character] for character in token)

    def _encode(self, texts: list[str], tokenizer: Tokenizer | None = None) -> list[list[int]]:
        # As a batch, even of one: unlike `encode` it lets go of the GIL (tokenizers 0.23), so other jobs go on.
        encoded = (tokenizer or self._plain).encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    def _refuse_hopeless(self, characters: int, max_tokens: int) -> None:
        """A text too long whatever its tokens are is refused before time is spent on encoding it."""
        # Twice the longest token: normalising to NFC can shorten a text, by less than half.
        if characters > 2 * max_tokens * self._longest_token:
            raise ContextLengthExceeded(
                f"a prompt of {characters} characters cannot fit the {max_tokens} tokens there is room for"
            )

    def _render_frame(self, roles: tuple[str, ...], ending: Ending) -> tuple[str, ...]:
        """What the template puts around contents: a piece before each, and one after the last."""
        if roles[0] == "system":
            pieces = self._pieces(roles, answer=not ending.continues, thinks=ending.thinks)
        else:
            # Qwen2.5's template puts a system prompt of its own where none was sent. Render one, and cut it off.
            _, first, *rest = self._pieces(("system", *roles), answer=not ending.continues, thinks=ending.thinks)
            pieces = (first.removeprefix(self._turn_end), *rest)
        return (*pieces[:-1], "") if ending.continues else pieces

    def _pieces(self, roles: tuple[str, ...], *, answer: bool, thinks: bool = False) -> tuple[str, ...]:
        marks = [f"\ue000{index}\ue001" for index in range(len(roles))]
        text = self._apply([Turn(role, mark) for role, mark in zip(roles, marks, strict=True)], answer, thinks)
        pieces: list[str] = []
        for mark in marks:
            piece, found, text = text.partition(mark)
            if not found:
                raise InvalidRequest(
                    f"the model's chat template does not render the roles {', '.join(roles)} in this order"
                )
            pieces.append(piece)
        return (*pieces, text)

    def _apply(self, turns: list[Turn], answer: bool, thinks: bool = False) -> str:
        conversation = [turn._asdict() for turn in turns]
        try:
            return self._tokenizer.render(conversation, add_generation_prompt=answer, enable_thinking=thinks)
        except jinja2.TemplateError as error:
            raise InvalidRequest(f"the model's chat template refuses these roles: {error}") from error

    def _default_system(self) -> str | None:
        """What stands in the system turn where the caller sent none."""
        mark = "\ue000"
        before, _, _ = self._apply([Turn("user", mark)], answer=False).partition(mark)
        turn, _, _ = before.rpartition(self._turn_end)
        _, opened, prompt = turn.partition("<|im_start|>system\n")
        return prompt if opened else None


def _rendered(text: str, token_ids: list[int], max_tokens: int) -> Rendered:
    if len(token_ids) > max_tokens:
        raise ContextLengthExceeded(f"the prompt has {len(token_ids)} tokens, and there is room for {max_tokens}")
    digest = sha256(",".join(map(str, token_ids)).encode()).hexdigest()
    return Rendered(text, Prompt(tuple(token_ids)), digest)


def _without_added_tokens(backend: Tokenizer) -> Tokenizer:
    """The same encoding, for which `<|im_end|>` and its like are ordinary characters."""
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
