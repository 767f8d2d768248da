"""The task that an enhance request sets: the request and, where it names one, a pack's entry, as one value.

Knows no engine. Where the request brings its own messages, an entry only says what the result is measured for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from pydantic import JsonValue

from handler.api.enhance import EnhanceRequest, Language, Mode
from handler.api.text import Message
from handler.enhancement import checks, spans
from handler.enhancement.budget import Limit
from handler.enhancement.encoder import Encoder, Encoders
from handler.enhancement.pack import Found, Loaded, Packs, PackSampling, Rules, Weights, Words, fill
from handler.enhancement.spans import Span
from handler.errors import InvalidRequest, NoPack

#: the rules of requests that name no entry: every clause is a subject, and no fault is looked for
NO_RULES = Rules(
    version="none",
    optimizations=None,
    drop_order=("subject",),
    retry_on=(),
    coverage=(),
    score=Weights(words_kept=1, coverage=0, repetition=0, added_style=0, length=0),
)
NO_WORDS = Words()

#: every text fits
UNLIMITED = Limit(lambda text: 0, 0)


@dataclass(frozen=True, slots=True)
class Brief:
    """One prompt to rewrite, and what the result must be."""

    prompt: str
    #: the pack's entry; None where the request names none
    found: Found | None
    #: True where the model reads the entry's messages; else the entry only measures, fits and judges
    by_pack: bool
    #: None where nothing is measured
    encoder: Encoder | None
    min_tokens: int
    max_tokens: int | None
    fit: bool
    mode: Mode
    #: None where it is not checked
    language: Language | None
    spans: tuple[Span, ...]
    #: the user's words are put back where the answer lost them
    repair: bool
    #: texts that must be in the result
    protect: tuple[str, ...]

    @property
    def rules(self) -> Rules:
        """The entry's rules, or none."""
        return NO_RULES if self.found is None else self.found.rules

    @property
    def words(self) -> Words:
        """The pack's word lists, or none."""
        return NO_WORDS if self.found is None else self.found.words

    @property
    def is_checked(self) -> bool:
        """Whether the request asks for anything that a text can fail."""
        return self.found is not None or self.encoder is not None or self.language is not None or bool(self.protect)

    @property
    def limit(self) -> Limit:
        """The budget; without one, every text fits."""
        if self.encoder is None or self.max_tokens is None:
            return UNLIMITED
        return Limit(self.encoder.count, self.max_tokens)

    @property
    def identity(self) -> Mapping[str, JsonValue]:
        """Everything in it that can change an answer."""
        return {
            "prompt": self.prompt,
            "pack": None if self.found is None else self.found.loaded.sha256,
            "entry": None if self.found is None else self.found.name,
            "by_pack": self.by_pack,
            "encoder": None if self.encoder is None else [self.encoder.name, self.encoder.measured_with],
            "budget": [self.min_tokens, self.max_tokens, self.fit],
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
            language = language or found.entry.language
            if language not in found.loaded.pack.languages:
                known = ", ".join(found.loaded.pack.languages)
                raise InvalidRequest(f"the pack has no language {language}; it has {known}", field="language")
        prompt, protect, target = request.original_prompt, request.protect or (), request.target
        encoder, max_tokens, fit, min_tokens = None, None, False, 0
        if target is not None:
            encoder, max_tokens = encoders[target.encoder], target.max_tokens
            fit = (found is not None) if target.fit is None else target.fit
        elif found is not None:
            budget = found.entry.budget
            encoder, max_tokens, fit, min_tokens = encoders[found.entry.encoder], budget.max_tokens, True, budget.min_tokens
        entry_mode: Mode = found.entry.mode if found is not None and by_pack else "rewrite"
        return cls(
            prompt=prompt,
            found=found,
            by_pack=by_pack,
            encoder=encoder,
            min_tokens=min_tokens,
            max_tokens=max_tokens,
            fit=fit,
            mode=request.mode or entry_mode,
            language=language,
            spans=spans.find(
                prompt,
                (NO_WORDS if found is None else found.words).protect,
                protect,
                translated=language is not None and checks.translated(prompt, language),
            ),
            repair=by_pack or request.protect is not None,
            protect=protect,
        )


def _find(request: EnhanceRequest, packs: Packs) -> Found | None:
    if not request.names_entry:
        return None
    searched = packs if request.pack is None else Packs((Loaded.of(request.pack),))
    try:
        return searched.find(request.job_type, request.target_model, request.quality)
    except NoPack as error:
        if not request.brings_messages:
            raise
        # The caller needs no pack to be answered; a wrong name is a mistake in the request.
        raise InvalidRequest(error.message, field=error.field) from None


def is_plain(request: EnhanceRequest) -> bool:
    """Whether the model's text is the answer, as it comes."""
    options = (request.target, request.mode, request.language, request.protect, request.cache, request.fallback)
    return not request.names_entry and request.n == 1 and all(option is None for option in options)


def messages(brief: Brief, found: Found) -> tuple[Message, ...]:
    """The messages of the pack's entry, filled for this prompt."""
    entry, pack = found.entry, found.loaded.pack
    budget = brief.max_tokens or entry.budget.max_tokens
    values = {
        "prompt": brief.prompt,
        "words": str(max(1, int(budget * entry.budget.words_per_token))),
        "language": pack.languages[brief.language or entry.language],
    }
    return tuple(Message(role=one.role, content=one.content) for one in fill(entry.messages, values))


def sampling(brief: Brief, found: Found) -> PackSampling:
    """The entry's sampling; for a larger target than the entry's, the answer may be longer in proportion."""
    entry = found.entry
    more = max(1.0, (brief.max_tokens or 0) / entry.budget.max_tokens)
    return entry.sampling.model_copy(update={"max_tokens": ceil(entry.sampling.max_tokens * more)})
