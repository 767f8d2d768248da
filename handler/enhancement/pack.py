"""Packs: the prompts, budgets and word lists of enhancement, as data that the operator owns.

Knows no request and no model. A pack holds phrases and no patterns, so that no pack can stall the worker.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from handler.api.enhance import EncoderName, Language, Mode, PackFacts, Quality
from handler.engine.sampling import Distribution
from handler.engine.values import Value
from handler.errors import InvalidRequest, NoPack, StartError

#: the topic of a clause: the word list that has most of its words; `subject` where no list has one
Kind = Literal[
    "subject", "quality", "lighting", "technical", "resolution", "style", "motion", "camera", "temporal", "anatomy"
]
#: an answer with one of these faults is no prompt
Fault = Literal["empty", "refusal", "meta", "language"]


Phrase = Annotated[str, Field(min_length=1, max_length=200)]
Phrases = Annotated[tuple[Phrase, ...], Field(max_length=1000)]
Weight = Annotated[float, Field(ge=0, le=100)]


class Lexicon(Value):
    """Words and phrases by topic; they are found whole, in any case."""

    quality: Phrases = ()
    lighting: Phrases = ()
    technical: Phrases = ()
    resolution: Phrases = ()
    style: Phrases = ()
    motion: Phrases = ()
    camera: Phrases = ()
    temporal: Phrases = ()
    anatomy: Phrases = ()

    def phrases(self, kind: Kind) -> tuple[str, ...]:
        """The list of one kind; none for `subject`."""
        phrases: tuple[str, ...] = () if kind == "subject" else getattr(self, kind)
        return phrases


class Protect(Value):
    """The user's own words that the result must keep."""

    counts: Phrases = Field(default=(), description="Number words; numbers in digits are always counts.")
    colours: Phrases = ()
    negations: Phrases = Field(default=(), description="Words that negate what follows them.")
    names: bool = Field(default=True, description="Capitalised words inside a sentence.")
    quoted: bool = True
    syntax: bool = Field(default=True, description="LoRA tags, weights, BREAK.")


class Weights(Value):
    """The weight of each part of the score; only their proportions matter."""

    words_kept: Weight
    coverage: Weight
    repetition: Weight
    added_style: Weight
    length: Weight

    @model_validator(mode="after")
    def _not_all_zero(self) -> Self:
        if not any(self.model_dump().values()):
            raise PydanticCustomError("weights", "one weight at least is above 0")
        return self


class Words(Value):
    """The word lists of a pack, which all its rules share."""

    lexicon: Lexicon = Lexicon()
    protect: Protect = Protect()
    openings: Phrases = Field(
        default=(), description="An answer that begins so is cut up to its first colon or line end."
    )
    closings: Phrases = Field(default=(), description="A later line that begins so ends the answer before it.")
    refusals: Phrases = Field(default=(), description="An answer that begins so is a refusal.")
    stopwords: Phrases = Field(default=(), description="Words without content of their own: articles, prepositions.")


class Rules(Value):
    """How an answer is trimmed, judged and scored."""

    version: Phrase = Field(description="Returned with every score.")
    optimizations: Literal["sdxl", "wan"] | None = Field(description="The summary that a reply has.")
    drop_order: tuple[Kind, ...] = Field(
        description="Topics of clauses; the first is trimmed last, and topics that are not named are trimmed first."
    )
    retry_on: tuple[Fault, ...] = Field(description="Faults that are worth one more try.")
    coverage: tuple[Kind, ...] = Field(description="Topics that a full prompt has a word of.")
    score: Weights

    @model_validator(mode="after")
    def _order_names_the_subject(self) -> Self:
        if "subject" not in self.drop_order or len(set(self.drop_order)) < len(self.drop_order):
            raise PydanticCustomError("drop_order", "drop_order names each kind once, and subject among them")
        return self


class Budget(Value):
    """Content tokens of the target's text encoder."""

    min_tokens: Annotated[int, Field(ge=0)] = Field(default=0, description="Fewer lower the score.")
    max_tokens: Annotated[int, Field(ge=1, le=100_000)]
    words_per_token: Annotated[float, Field(gt=0, le=10)] = Field(
        default=0.6,
        description="`{{words}}` is this share of max_tokens; models write more words than they are asked for.",
    )

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise PydanticCustomError("budget", "min_tokens is above max_tokens")
        return self


#: the marks that stand for values, and the pattern of anything that looks like one
MARKS = ("{{prompt}}", "{{words}}", "{{language}}")
_MARK = re.compile(r"\{\{(\w*)\}\}")


class PackMessage(Value):
    """One turn; `{{prompt}}`, `{{words}}` and `{{language}}` stand for their values."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(max_length=20_000)]


def _require_all(schema: dict[str, JsonValue]) -> None:
    """Say in the JSON schema, too, that an entry names every field."""
    fields = schema["properties"]
    assert isinstance(fields, dict)
    schema["required"] = list(fields)
    for field in fields.values():
        assert isinstance(field, dict)
        field.pop("default", None)


class PackSampling(Distribution):
    """How tokens are drawn. An entry names every field, so that no default can change an answer."""

    model_config = ConfigDict(json_schema_extra=_require_all)

    max_tokens: Annotated[int, Field(ge=1, le=100_000)]

    @model_validator(mode="after")
    def _names_every_field(self) -> Self:
        absent = [name for name in type(self).model_fields if name not in self.model_fields_set]
        if absent:
            missing = [InitErrorDetails(type="missing", loc=(name,), input=None) for name in absent]
            raise ValidationError.from_exception_data("PackSampling", missing)
        return self


class Entry(Value):
    """One job type."""

    rules: Phrase = Field(description="Names one of the pack's rules.")
    encoder: EncoderName
    budget: Budget
    quality: Quality | None = Field(default=None, description="Null takes both.")
    mode: Mode = "rewrite"
    language: Language = Field(default="same", description="Used where the request names none.")
    messages: Annotated[tuple[PackMessage, ...], Field(min_length=1, max_length=50)]
    sampling: PackSampling
    compose: Phrases = Field(
        default=(), description="Clauses put behind the user's prompt where the model gave no answer."
    )
    negative_prompt: Annotated[str, Field(max_length=5000)] | None = Field(
        default=None, description="Answered where the request has none."
    )

    @model_validator(mode="after")
    def _messages_ask_for_the_prompt(self) -> Self:
        for mark in _MARK.finditer(" ".join(message.content for message in self.messages)):
            if mark.group() not in MARKS:
                told = {"mark": mark.group()[:100], "marks": ", ".join(MARKS)}
                raise PydanticCustomError("mark", "{mark} stands for nothing; there are {marks}", told)
        if not any("{{prompt}}" in message.content for message in self.messages):
            raise PydanticCustomError("messages", "no message holds {{prompt}}")
        if self.messages[-1].role == "assistant":
            raise PydanticCustomError("messages", "the last message is the assistant's: there is nothing to answer")
        return self


class Pack(Value):
    """A set of entries with the rules they share."""

    form: Literal["enhance-pack/2"] = Field(alias="schema")
    id: Phrase
    version: Phrase
    languages: Annotated[dict[Language, Phrase], Field(min_length=1)] = Field(
        description="What `{{language}}` becomes, by language code."
    )
    words: Words
    rules: Annotated[dict[str, Rules], Field(min_length=1)]
    entries: Annotated[dict[str, Entry], Field(min_length=1)]
    targets: dict[str, dict[Quality, str]] = Field(default={}, description="The entry for a target_model and quality.")

    @model_validator(mode="after")
    def _names_lead_somewhere(self) -> Self:
        def known(place: str, name: str, names: Collection[str]) -> None:
            if name not in names:
                raise PydanticCustomError("name", "{place} names {name}, which is not there", {"place": place, "name": name[:100]})

        for name, entry in self.entries.items():
            known(f"entries.{name}.rules", entry.rules, self.rules)
            known(f"entries.{name}.language", entry.language, self.languages)
        for target, qualities in self.targets.items():
            for quality, name in qualities.items():
                known(f"targets.{target}.{quality}", name, self.entries)
        return self


@dataclass(frozen=True, slots=True)
class Loaded:
    """A pack, and the hash of the JSON that it was read from."""

    pack: Pack
    #: over the JSON with sorted keys and no white space, so that the layout of a file does not count
    sha256: str

    @property
    def facts(self) -> PackFacts:
        """The pack as a reply names it."""
        return PackFacts(id=self.pack.id, version=self.pack.version, sha256=self.sha256)

    @classmethod
    def of(cls, value: object) -> Self:
        """Check a pack given as parsed JSON.

        Raises:
            InvalidRequest: naming the field at fault.
        """
        canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        try:
            return cls(Pack.model_validate_json(canonical), sha256(canonical.encode()).hexdigest())
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            path = ".".join(str(part)[:100] for part in ("pack", *first["loc"]))
            words = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
            raise InvalidRequest(f"{path}: {words}", field=path) from None


@dataclass(frozen=True, slots=True)
class Found:
    """An entry, with its name, its rules and its pack."""

    name: str
    entry: Entry
    rules: Rules
    loaded: Loaded

    @property
    def words(self) -> Words:
        """The pack's word lists."""
        return self.loaded.pack.words


@dataclass(frozen=True, slots=True)
class Packs:
    """The packs of one worker, or the one that a request brought."""

    loaded: tuple[Loaded, ...] = ()

    def find(self, job_type: str | None, target_model: str | None, quality: Quality | None) -> Found:
        """The entry that a job type names, or a target model and quality (`fast` where none was sent).

        Raises:
            NoPack: there is no such entry; the message names those there are.
            InvalidRequest: the entry is of the other quality, or of another target model.
        """
        for loaded in self.loaded:
            qualities = loaded.pack.targets.get(target_model or "", {})
            name = job_type or qualities.get(quality or "fast")
            entry = None if name is None else loaded.pack.entries.get(name)
            if name is not None and entry is not None:
                if quality not in (None, entry.quality) and entry.quality is not None:
                    raise InvalidRequest(f"job_type {name} is of quality {entry.quality}", field="quality")
                if target_model is not None and name not in qualities.values():
                    raise InvalidRequest(
                        f"job_type {name} is not of target_model {target_model}: send one of them", field="target_model"
                    )
                return Found(name, entry, loaded.pack.rules[entry.rules], loaded)
        entries = ", ".join(sorted(name for loaded in self.loaded for name in loaded.pack.entries)) or "none"
        targets = ", ".join(sorted(name for loaded in self.loaded for name in loaded.pack.targets)) or "none"
        raise NoPack(
            f"no such entry; job types: {entries}; target models: {targets}",
            field="job_type" if job_type is not None else "target_model",
        )


def load(directory: Path) -> Packs:
    """Read every pack of a directory.

    Raises:
        StartError: a pack cannot be read, with file and field; or two packs have an entry or target of the same name.
    """
    if not directory.is_dir():
        raise StartError(f"the directory of packs {directory} is not there: set PACKS_DIR to one that is")
    loaded: list[Loaded] = []
    owners: dict[tuple[str, str], str] = {}
    for path in sorted(directory.glob("*.json")):
        try:
            one = Loaded.of(json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_each_key_once))
        except InvalidRequest as error:
            raise StartError(f"PACKS_DIR: {path.name}: {error.message}") from None
        except (OSError, ValueError, RecursionError) as error:
            raise StartError(f"PACKS_DIR: {path.name} is not readable JSON: {error}") from None
        for kind, names in (("id", [one.pack.id]), ("entry", one.pack.entries), ("target", one.pack.targets)):
            for name in names:
                if (owner := owners.setdefault((kind, name), path.name)) != path.name:
                    raise StartError(f"PACKS_DIR: {kind} {name} is in {owner} and in {path.name}")
        loaded.append(one)
    return Packs(tuple(loaded))


def _each_key_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Refuse two equal keys in one object, where JSON parsers let the second hide the first."""
    for key, times in Counter(key for key, _ in pairs).items():
        if times > 1:
            raise ValueError(f"the key {key!r} is in one object twice")
    return dict(pairs)


def fill(messages: Sequence[PackMessage], values: Mapping[str, str]) -> tuple[PackMessage, ...]:
    """Replace marks by their values, in one pass: marks inside a value stay text, and a pack's bounds do not apply."""
    return tuple(
        one.model_copy(update={"content": _MARK.sub(lambda mark: values.get(mark.group(1), mark.group()), one.content)})
        for one in messages
    )
