"""A brief: the request and, where it names one, a pack's entry, as one value.

Knows no engine. Where the request brings its own messages, an entry only says how the result is measured.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from math import ceil

from pydantic import JsonValue

from handler.api.enhance import EnhanceRequest, Language, Mode
from handler.api.text import Message
from handler.enhancement import scripts, spans, vocabulary
from handler.enhancement.begun import begun
from handler.enhancement.encoder import Encoder, Encoders
from handler.enhancement.limits import Limit
from handler.enhancement.negation import Negated, movable, without
from handler.enhancement.pack import PackSampling, Rules, Weights, Words, fill
from handler.enhancement.packs import Found, Loaded, Packs
from handler.enhancement.searched import Spans
from handler.enhancement.syntax import encoded
from handler.errors import InvalidRequest, NoPack

#: the rules of requests that name no entry: every clause is a subject, and no fault is looked for
NO_RULES = Rules(
    version="none",
    optimizations=None,
    drop_order=("subject",),
    coverage=(),
    score=Weights(words_kept=1, coverage=0, repetition=0, added_style=0, length=0),
)
NO_WORDS = Words()

#: fewer tokens than these have no room for a comma and a clause
MIN_ROOM = 3

#: bytes of all phrases of a pack that a request brings, at most
MAX_PHRASE_BYTES = 24_576

#: every text fits
UNLIMITED = Limit(lambda text: 0, 0)


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """The text encoder that will read the result, and how many content tokens it is to have."""

    encoder: Encoder
    min_tokens: int
    max_tokens: int
    #: the result is trimmed to `max_tokens`
    fit: bool

    def count(self, text: str) -> int:
        """Tokens of what the encoder reads of a text; a UI takes its syntax out."""
        return self.encoder.count(encoded(text))


@dataclass(frozen=True, slots=True)
class Brief:
    """One prompt to rewrite, and the rules for the result."""

    #: the user's prompt, as it was sent
    sent: str
    #: the same; where the entry moves negations, without these
    prompt: str
    #: nouns that the user negates, which the reply's negative prompt names and `prompt` does not
    moved: tuple[str, ...]
    #: the pack's entry; None where the request names none
    found: Found | None
    #: True where the model reads the entry's messages; else the entry only measures, fits and scores
    by_pack: bool
    #: None where nothing is measured
    budget: TokenBudget | None
    mode: Mode
    #: None where it is not checked
    language: Language | None
    #: the result is to be in another language than the prompt
    translated: bool
    spans: Spans
    #: the user's words are put back where the answer lost them
    repair: bool
    #: texts that must be in the result
    protect: tuple[str, ...]

    @property
    def read_prompt(self) -> str:
        """The prompt as the model reads it in mode extend, in messages and in the begun answer: without syntax."""
        return encoded(self.prompt)

    @property
    def begun(self) -> str:
        """How the model's answer begins; nothing but in mode extend."""
        return begun(self.read_prompt) if self.mode == "extend" else ""

    @property
    def head(self) -> str:
        """How the result begins where something is added to the prompt: the prompt to the letter, and a comma."""
        return begun(self.prompt) or self.prompt

    @property
    def room(self) -> int | None:
        """The tokens of the budget that the prompt leaves; None without a budget."""
        return None if self.budget is None else self.budget.max_tokens - self.budget.count(self.prompt)

    @property
    def rules(self) -> Rules:
        """The entry's rules, or none."""
        return NO_RULES if self.found is None else self.found.rules

    @property
    def words(self) -> Words:
        """The pack's word lists, or none."""
        return NO_WORDS if self.found is None else self.found.words

    @property
    def fit(self) -> bool:
        """Whether the result is trimmed to the budget."""
        return self.budget is not None and self.budget.fit

    @property
    def limit(self) -> Limit:
        """The budget; without one, every text fits."""
        return UNLIMITED if self.budget is None else Limit(self.budget.encoder.count, self.budget.max_tokens)

    def stems(self, text: str) -> Set[str]:
        """The stems of a text's content words."""
        return vocabulary.stems(text, self.words.without_content).keys()

    @property
    def is_checked(self) -> bool:
        """Whether the request asks for anything that a text can fail."""
        return self.found is not None or self.budget is not None or self.language is not None or bool(self.protect)

    @property
    def may_change_the_answer(self) -> bool:
        """Whether the result may be another text than the model's."""
        return self.by_pack or self.fit or self.repair or self.mode == "extend"

    @property
    def identity(self) -> Mapping[str, JsonValue]:
        """Everything in it that can change an answer."""
        budget = self.budget
        return {
            "prompt": self.sent,
            "moved": list(self.moved),
            "pack": None if self.found is None else self.found.loaded.sha256,
            "entry": None if self.found is None else self.found.name,
            "by_pack": self.by_pack,
            "encoder": None if budget is None else [budget.encoder.name, budget.encoder.measured_with],
            "budget": None if budget is None else [budget.min_tokens, budget.max_tokens, budget.fit],
            "mode": self.mode,
            "language": self.language,
            "protect": list(self.protect),
            "repair": self.repair,
        }

    @classmethod
    def of(cls, request: EnhanceRequest, packs: Packs, encoders: Encoders) -> "Brief":
        """Look up what the request names.

        Raises:
            NoPack: there is no such entry.
            InvalidRequest: the pack that was sent cannot be read, or the entry cannot do what was asked; also for an
                unknown entry beside the caller's own messages.
        """
        found = _find(request, packs)
        by_pack = found is not None and not request.brings_messages
        language = request.language
        if found is not None and by_pack:
            language = _language(request, found)
        prompt, protect = request.original_prompt, request.protect or ()
        words = NO_WORDS if found is None else found.words
        translated = language is not None and not scripts.speaks(prompt, language, words)
        moved: tuple[str, ...] = ()
        found_spans = spans.find(prompt, words, protect, translated=translated)
        negations: tuple[Negated, ...] = ()
        if found is not None and by_pack and found.entry.negations == "move" and not translated:
            negations = movable(prompt, words)
        if negations and (rest := without(prompt, negations, words)):
            found_spans = spans.moved(found_spans, spans.find(rest, words, protect))
            prompt, moved = rest, tuple(prompt[noun.start : noun.end] for one in negations for noun in one.nouns)
        return cls(
            sent=request.original_prompt,
            prompt=prompt,
            moved=moved,
            found=found,
            by_pack=by_pack,
            budget=_budget(request, found, encoders),
            mode=_mode(request, found if by_pack else None, translated),
            language=language,
            translated=translated,
            spans=found_spans,
            repair=by_pack or request.protect is not None,
            protect=protect,
        )


def _mode(request: EnhanceRequest, asked: Found | None, translated: bool) -> Mode:
    """The request's mode, else that of the entry whose messages are asked; what extend cannot do is rewritten."""
    if request.mode is not None:
        if request.mode == "extend" and translated:
            raise InvalidRequest(
                "mode: extend keeps the prompt, which is in another language than the one asked for; send rewrite",
                field="mode",
            )
        return request.mode
    if asked is None or request.candidate is not None or translated or request.enable_thinking:
        return "rewrite"
    return asked.entry.mode


def _find(request: EnhanceRequest, packs: Packs) -> Found | None:
    if not request.names_entry:
        return None
    searched = packs if request.pack is None else Packs((_brought(request.pack),))
    try:
        return searched.find(request.job_type, request.target_model, request.quality)
    except NoPack as error:
        if not request.brings_messages:
            raise
        # The model could answer without a pack, so that only the name in the request is wrong.
        raise InvalidRequest(error.message, field=error.field) from None


def _brought(pack: Mapping[str, JsonValue]) -> Loaded:
    """The pack that a request brings; it is of this request alone, with all that is made of it."""
    loaded = Loaded.of(pack)
    if (size := loaded.pack.phrase_bytes) > MAX_PHRASE_BYTES:
        raise InvalidRequest(
            f"pack: its phrases take {size} bytes, and a request's own pack may have {MAX_PHRASE_BYTES}: "
            "shorten its word lists, or have the operator add it to the worker's packs",
            field="pack",
        )
    return loaded


def _language(request: EnhanceRequest, found: Found) -> Language:
    language, known = request.language or found.entry.language, found.loaded.pack.languages
    if language not in known:
        raise InvalidRequest(f"the pack has no language {language}; it has {', '.join(known)}", field="language")
    return language


def _budget(request: EnhanceRequest, found: Found | None, encoders: Encoders) -> TokenBudget | None:
    """The request's target, else the entry's budget."""
    target = request.target
    if target is not None:
        fit = (found is not None) if target.fit is None else target.fit
        return TokenBudget(encoders[target.encoder], 0, target.max_tokens, fit)
    if found is None:
        return None
    budget = found.entry.budget
    return TokenBudget(encoders[found.entry.encoder], budget.min_tokens, budget.max_tokens, fit=True)


def messages(brief: Brief, found: Found) -> tuple[Message, ...]:
    """The messages of the pack's entry, filled for this prompt.

    Raises:
        InvalidRequest: see `fill`.
    """
    entry, pack = found.entry, found.loaded.pack
    extends = brief.mode == "extend"
    words = max(1, int(_answer_tokens(brief, found) * entry.budget.words_per_token))
    values = {
        "prompt": brief.read_prompt if extends else brief.prompt,
        "words": str(words),
        "language": pack.languages[brief.language or entry.language],
    }
    filled = fill(entry.messages_for(brief.mode), values)
    return tuple(Message(role=one.role, content=one.content) for one in filled)


def sampling(brief: Brief, found: Found) -> PackSampling:
    """The entry's sampling. The answer may be longer in proportion for a larger target than the entry's; in mode
    extend it may be so long as the budget that the prompt leaves.
    """
    entry = found.entry
    share = _answer_tokens(brief, found) / entry.budget.max_tokens
    if brief.mode != "extend":
        share = max(1.0, share)
    return entry.sampling.model_copy(update={"max_tokens": max(1, ceil(entry.sampling.max_tokens * share))})


def _answer_tokens(brief: Brief, found: Found) -> int:
    """The tokens of the text encoder that the answer may take: the budget; in mode extend the prompt's are taken off.

    Where the prompt alone is over the budget, and the result is not trimmed, the budget.
    """
    budget = found.entry.budget.max_tokens if brief.budget is None else brief.budget.max_tokens
    room = brief.room
    return room if brief.mode == "extend" and room is not None and room >= MIN_ROOM else budget
