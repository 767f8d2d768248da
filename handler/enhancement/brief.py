"""What a prompt has to become: a request and, where it names one, a pack's entry, as one value.

Knows no engine. Where the request brings its own messages, no pack has a say.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from handler.api.contracts import EnhanceRequest, Language, Message, Mode
from handler.api.replies import PackFacts
from handler.enhancement import checks, spans
from handler.enhancement.budget import Limit
from handler.enhancement.encoder import Encoder, Encoders
from handler.enhancement.pack import Found, Lexicon, Loaded, Packs, Protect, Rules, Weights, fill
from handler.enhancement.spans import Span
from handler.errors import InvalidRequest

#: what requests without a pack are measured by: no word is known, no fault is looked for
PLAIN = Rules(
    version="none",
    optimizations=None,
    lexicon=Lexicon(),
    drop_order=("subject",),
    protect=Protect(),
    retry_on=(),
    coverage=(),
    score=Weights(words_kept=1, coverage=0, repetition=0, added_style=0, length=0),
)


#: every text fits
UNLIMITED = Limit(lambda text: 0, 0)


@dataclass(frozen=True, slots=True)
class Brief:
    """One prompt's task."""

    prompt: str
    #: the entry of a pack; None where the request brought its own messages
    found: Found | None
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
        """The entry's, or none."""
        return PLAIN if self.found is None else self.found.rules

    @property
    def pack(self) -> PackFacts | None:
        """What a reply tells of the pack."""
        if self.found is None:
            return None
        loaded = self.found.loaded
        return PackFacts(id=loaded.pack.id, version=loaded.pack.version, sha256=loaded.sha256)

    @property
    def is_checked(self) -> bool:
        """True where anything was asked for that an answer can fail."""
        return self.found is not None or self.encoder is not None or self.language is not None or bool(self.protect)

    @property
    def limit(self) -> Limit:
        """The budget; without one, every text counts nothing."""
        if self.encoder is None or self.max_tokens is None:
            return UNLIMITED
        return Limit(self.encoder.count, self.max_tokens)

    @property
    def identity(self) -> Mapping[str, object]:
        """Everything here that can change an answer, as JSON values."""
        return {
            "prompt": self.prompt,
            "pack": None if self.found is None else self.found.loaded.sha256,
            "entry": None if self.found is None else self.found.name,
            "encoder": None if self.encoder is None else [self.encoder.name, self.encoder.measured_with],
            "budget": [self.min_tokens, self.max_tokens, self.fit],
            "mode": self.mode,
            "language": self.language,
            "protect": list(self.protect),
            "repair": self.repair,
        }


def is_plain(request: EnhanceRequest) -> bool:
    """True where the model's text is the answer, as it comes."""
    options = (request.target, request.mode, request.language, request.protect, request.cache, request.fallback)
    return by_messages(request) and request.n == 1 and all(option is None for option in options)


def by_messages(request: EnhanceRequest) -> bool:
    """True where the request brings its own messages, and no pack has a say."""
    return request.job_type is None and request.target_model is None


def brief(request: EnhanceRequest, packs: Packs, encoders: Encoders, original_prompt: str) -> Brief:
    """Look up what the request asks for.

    Raises:
        NoPack: there is no such entry.
        InvalidRequest: the pack that was sent is none, or the entry cannot do what was asked.
    """
    found = None
    if not by_messages(request):
        searched = packs if request.pack is None else Packs((Loaded.of(request.pack),))
        found = searched.find(request.job_type, request.target_model, request.quality)
    entry = None if found is None else found.entry
    language = request.language or (entry.language if entry else None)
    if found is not None and language not in found.loaded.pack.languages:
        known = ", ".join(found.loaded.pack.languages)
        raise InvalidRequest(f"the pack has no language {language}; it has {known}", field="language")
    target = request.target
    if target is not None:
        encoder, max_tokens = encoders[target.encoder], target.max_tokens
        fit = (entry is not None) if target.fit is None else target.fit
    elif entry is not None:
        encoder, max_tokens, fit = encoders[entry.encoder], entry.budget.max_tokens, True
    else:
        return _brief(request, original_prompt, None, None, None, False, language)
    return _brief(request, original_prompt, found, encoder, max_tokens, fit, language)


def _brief(
    request: EnhanceRequest,
    prompt: str,
    found: Found | None,
    encoder: Encoder | None,
    max_tokens: int | None,
    fit: bool,
    language: Language | None,
) -> Brief:
    rules = PLAIN if found is None else found.rules
    protect = request.protect or ()
    other_script = language is not None and checks.translated(prompt, language)
    return Brief(
        prompt=prompt,
        found=found,
        encoder=encoder,
        min_tokens=0 if found is None or request.target is not None else found.entry.budget.min_tokens,
        max_tokens=max_tokens,
        fit=fit,
        mode=request.mode or ("rewrite" if found is None else found.entry.mode),
        language=language,
        spans=spans.find(prompt, rules.protect, protect, translated=other_script),
        repair=found is not None or request.protect is not None,
        protect=protect,
    )


def messages(task: Brief) -> tuple[Message, ...]:
    """What the pack asks the model."""
    assert task.found is not None
    entry, pack = task.found.entry, task.found.loaded.pack
    budget = task.max_tokens or entry.budget.max_tokens
    values = {
        "prompt": task.prompt,
        "words": str(max(1, int(budget * entry.budget.words_per_token))),
        "language": pack.languages[task.language or entry.language],
    }
    return tuple(Message(role=one.role, content=one.content) for one in fill(entry.messages, values))


def sampling(task: Brief) -> dict[str, float | int]:
    """How the pack wants the answer drawn; one for a larger target may be longer by as much as its budget is."""
    assert task.found is not None
    entry = task.found.entry
    more = max(1.0, (task.max_tokens or 0) / entry.budget.max_tokens)
    return {**entry.sampling.model_dump(), "max_tokens": ceil(entry.sampling.max_tokens * more)}
