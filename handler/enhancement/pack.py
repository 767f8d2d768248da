"""The format of a pack: the prompts, budgets and word lists of enhancement, as data that the operator owns.

Knows no request and no model. A pack holds phrases and no patterns, and no pattern is made of them, so that no pack can
stall the worker.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Literal, Self, get_args

from pydantic import ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from handler.api.enhance import EncoderName, JudgedBy, Language, Mode, Quality
from handler.engine.sampling import Distribution
from handler.engine.values import Value
from handler.enhancement.contexts import Judge
from handler.enhancement.lists import Lists, Phrase, PhraseList
from handler.enhancement.phrases import Phrases, folded
from handler.enhancement.protect import Protect
from handler.errors import InvalidRequest

#: the kind of a clause: the word list that most of its words are in; `subject` where none of them is in a list
Kind = Literal[
    "subject", "quality", "lighting", "technical", "resolution", "style", "motion", "camera", "temporal", "anatomy"
]
#: the lists of phrases by which an assistant's talk is known
TalkKind = Literal["refusals", "first_person", "addressing", "exchange", "remarks"]
#: an answer with one of these faults is no prompt
Fault = Literal["refusal", "question", "echo", "loop", "unchanged", "off_subject", "language", "low_score", "empty"]

Weight = Annotated[float, Field(ge=0, le=100)]


class Lexicon(Lists):
    """Words and phrases by kind; they are found as whole words, in any case."""

    quality: PhraseList = ()
    lighting: PhraseList = ()
    technical: PhraseList = ()
    resolution: PhraseList = ()
    style: PhraseList = ()
    motion: PhraseList = ()
    camera: PhraseList = ()
    temporal: PhraseList = ()
    anatomy: PhraseList = ()

    def phrases(self, kind: Kind) -> tuple[str, ...]:
        """The list of one kind; none for `subject`."""
        phrases: tuple[str, ...] = () if kind == "subject" else getattr(self, kind)
        return phrases

    def words(self, kind: Kind) -> Phrases:
        """The list of one kind, to be found in texts."""
        if kind not in self._lists:
            self._lists[kind] = Phrases(self.phrases(kind))
        return self._lists[kind]

    def hits(self, text: str, kinds: tuple[Kind, ...]) -> Mapping[Kind, int]:
        """How many phrases of each of these lists are in a text; where one phrase is a part of another, the longer."""
        if kinds not in self._together:
            lists: dict[str, list[Kind]] = {}
            for kind in kinds:
                for phrase in self.phrases(kind):
                    lists.setdefault(folded(phrase), []).append(kind)
            self._together[kinds] = Phrases(lists), lists
        phrases, kinds_of = self._together[kinds]
        return Counter(kind for start, end in phrases.find(text) for kind in kinds_of[folded(text[start:end])])

    @cached_property
    def generic(self) -> Phrases:
        """The lists whose phrases describe no subject: a prompt on any subject may have them."""
        return Phrases((*self.quality, *self.technical, *self.resolution, *self.style))

    @cached_property
    def _lists(self) -> dict[Kind, Phrases]:
        return {}

    @cached_property
    def _together(self) -> dict[tuple[Kind, ...], tuple[Phrases, Mapping[str, Sequence[Kind]]]]:
        return {}


class Weights(Value):
    """The weight of each part of the score; only the proportions within a group matter.

    The score is the mean of `words_kept`, `bindings` and `meaning`, which say how much of the prompt is kept, times
    the mean of the others, which say how good the additions are. A group whose weights are all 0 counts as 1.
    `meaning` and `description` are there where the model judged.
    """

    words_kept: Weight
    bindings: Weight = 0
    meaning: Weight = 0
    described: Weight = 0
    description: Weight = 0
    coverage: Weight
    repetition: Weight
    added_style: Weight
    length: Weight

    @model_validator(mode="after")
    def _not_all_zero(self) -> Self:
        if not any(self.model_dump().values()):
            raise PydanticCustomError("weights", "at least one weight must be above 0")
        return self


class Words(Lists):
    """The word lists of a pack, which all its rules share."""

    lexicon: Lexicon = Lexicon()
    protect: Protect = Protect()
    openings: PhraseList = Field(
        default=(),
        description="A remark before the prompt begins so. One that ends with a mark is all of it; any other goes on "
        "to the first colon, line end or end of a sentence.",
    )
    labels: PhraseList = Field(
        default=(), description="Names of a prompt, of which a heading or a remark before a colon has one."
    )
    closings: PhraseList = Field(default=(), description="A sentence that begins so ends the prompt before it.")
    endings: PhraseList = Field(default=(), description="Ends the prompt wherever it stands.")
    refusals: PhraseList = Field(default=(), description="A sentence that begins so refuses.")
    first_person: PhraseList = Field(
        default=(),
        description="An assistant speaks of itself so: an answer that has one is no prompt, unless the user's has one.",
    )
    addressing: PhraseList = Field(
        default=(), description="An assistant speaks to its reader so: an answer that has one is no prompt."
    )
    exchange: PhraseList = Field(
        default=(), description="Names the request or the answer itself: an answer that has one is no prompt."
    )
    remarks: PhraseList = Field(default=(), description="An answer with a sentence that begins so is no prompt.")
    stopwords: PhraseList = Field(default=(), description="Words without content of their own: articles, prepositions.")
    function_words: dict[Language, PhraseList] = Field(
        default={},
        description="Such words of other languages than that of `stopwords`, which is English: they tell languages of "
        "one script apart. Words that English has, too, do not belong here.",
    )

    @cached_property
    def opening(self) -> Phrases:
        """`openings`, to be found in texts."""
        return Phrases(self.openings)

    @cached_property
    def label(self) -> Phrases:
        """`labels`, to be found in texts."""
        return Phrases(self.labels)

    @cached_property
    def closing(self) -> Phrases:
        """`closings`, to be found in texts."""
        return Phrases(self.closings)

    @cached_property
    def ending(self) -> Phrases:
        """`endings`, to be found in texts."""
        return Phrases(self.endings)

    @cached_property
    def talk(self) -> tuple[Phrases, Mapping[str, Sequence[TalkKind]]]:
        """The lists of an assistant's phrases, to be found in texts, and the lists that each phrase is in."""
        kinds: dict[str, list[TalkKind]] = {}
        for kind in get_args(TalkKind):
            phrases: tuple[str, ...] = getattr(self, kind)
            for phrase in phrases:
                kinds.setdefault(folded(phrase), []).append(kind)
        return Phrases(kinds), kinds

    @cached_property
    def without_content(self) -> frozenset[str]:
        """`stopwords` without the difference of case."""
        return frozenset(word.casefold() for word in self.stopwords)

    @cached_property
    def languages_of(self) -> Mapping[str, frozenset[Language]]:
        """The languages of each function word, without the difference of case; `stopwords` are English."""
        listed: list[tuple[Language, PhraseList]] = [("en", self.stopwords), *self.function_words.items()]
        found: dict[str, set[Language]] = {}
        for language, words in listed:
            for word in words:
                found.setdefault(word.casefold(), set()).add(language)
        return {word: frozenset(languages) for word, languages in found.items()}

    @cached_property
    def small(self) -> frozenset[str]:
        """`stopwords` and all `function_words`, without the difference of case."""
        return frozenset(self.languages_of)


class Rules(Value):
    """How an answer is trimmed, judged and scored."""

    version: Phrase = Field(description="Returned with every score.")
    optimizations: Literal["sdxl", "wan"] | None = Field(
        description="The summary of the result that a reply has: `sdxl_optimizations` or `wan_optimizations`."
    )
    drop_order: tuple[Kind, ...] = Field(
        description="Kinds of clauses; the first is trimmed last, and kinds that are not named are trimmed first."
    )
    coverage: tuple[Kind, ...] = Field(description="Kinds of which a full prompt has a word.")
    score: Weights

    @model_validator(mode="after")
    def _order_names_the_subject(self) -> Self:
        if "subject" not in self.drop_order or len(set(self.drop_order)) < len(self.drop_order):
            raise PydanticCustomError("drop_order", "drop_order must name subject, and no kind twice")
        return self


class Budget(Value):
    """Content tokens of the target's text encoder."""

    min_tokens: Annotated[int, Field(ge=0)] = Field(default=0, description="Fewer tokens lower the score.")
    max_tokens: Annotated[int, Field(ge=1, le=100_000)]
    words_per_token: Annotated[float, Field(gt=0, le=10)] = Field(
        default=0.6,
        description="`{{words}}` is this share of max_tokens; models write more words than they are asked for.",
    )

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise PydanticCustomError("budget", "min_tokens must not be above max_tokens")
        return self


#: the marks that are replaced by values, and the pattern of anything that looks like one
MARKS = ("{{prompt}}", "{{words}}", "{{language}}")
_MARK = re.compile(r"\{\{(\w*)\}\}")
#: characters of an entry's messages with their marks replaced, at most; the longest prompt is a tenth of it
MAX_FILLED = 200_000


class PackMessage(Value):
    """One turn; `{{prompt}}`, `{{words}}` and `{{language}}` are replaced by their values."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(max_length=20_000)]


PackMessages = Annotated[tuple[PackMessage, ...], Field(min_length=1, max_length=50)]


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
    quality: Quality | None = Field(default=None, description="Null: the entry is found with both.")
    mode: Mode = Field(
        default="rewrite",
        description="Used where the request names none. In mode extend the answer is begun with the user's prompt; a "
        "prompt in another language than the result's is rewritten all the same.",
    )
    language: Language = Field(default="same", description="Used where the request names none.")
    messages: PackMessages
    extend_messages: PackMessages | None = Field(
        default=None, description="Take the place of `messages` in mode extend; absent: `messages`."
    )
    sampling: PackSampling
    compose: PhraseList = Field(
        default=(), description="Clauses that are added to the user's prompt where the model gives no usable text."
    )
    compose_language: Language = Field(
        default="en", description="Of `compose`; a prompt in another language is given back without them."
    )
    judge: JudgedBy = Field(
        default="rules",
        description="What says that an answer is talk or on another subject: `rules`, the pack's lists and counts; "
        "`model`, the likelihoods of the pack's `judge`; `both`, either of them. All else is found by rules.",
    )
    negations: Literal["keep", "move"] = Field(
        default="keep",
        description="`move`: the nouns that the user negates are named in the reply's negative_prompt, and no longer "
        "in the prompt.",
    )
    negative_prompt: Annotated[str, Field(max_length=5000)] | None = Field(
        default=None, description="Returned where the request has none."
    )

    def messages_for(self, mode: Mode) -> tuple[PackMessage, ...]:
        """The messages that the model reads in a mode."""
        return self.extend_messages if mode == "extend" and self.extend_messages is not None else self.messages

    @model_validator(mode="after")
    def _messages_ask_for_the_prompt(self) -> Self:
        for name, messages in (("messages", self.messages), ("extend_messages", self.extend_messages)):
            if messages is not None:
                _check_messages(name, messages)
        return self


def _check_messages(name: str, messages: Sequence[PackMessage]) -> None:
    for mark in _MARK.finditer(" ".join(message.content for message in messages)):
        if mark.group() not in MARKS:
            values = {"mark": mark.group()[:100], "marks": ", ".join(MARKS)}
            raise PydanticCustomError("mark", "{mark} is unknown; the marks are {marks}", values)
    if not any("{{prompt}}" in message.content for message in messages):
        raise PydanticCustomError("messages", "{name}: one message must hold {mark}", {"name": name, "mark": MARKS[0]})
    if messages[-1].role == "assistant":
        raise PydanticCustomError(
            "messages",
            "{name}: the last message must not have the role assistant: there would be nothing to answer",
            {"name": name},
        )


class Pack(Value):
    """Entries, with the word lists and rules that they share."""

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
    judge: Judge | None = Field(
        default=None,
        description="How the model itself judges answers, by likelihood; needed where an entry's `judge` is `model` or "
        "`both`.",
    )

    @model_validator(mode="after")
    def _has_what_it_names(self) -> Self:
        for name, entry in self.entries.items():
            _require(f"entries.{name}.rules", entry.rules, self.rules)
            _require(f"entries.{name}.language", entry.language, self.languages)
            if entry.judge != "rules" and self.judge is None:
                values = {"name": name, "judge": entry.judge}
                raise PydanticCustomError(
                    "judge", "entries.{name}.judge is {judge}, and the pack has no judge: add its contexts", values
                )
        for target, qualities in self.targets.items():
            for quality, name in qualities.items():
                _require(f"targets.{target}.{quality}", name, self.entries)
        return self

    @property
    def phrase_bytes(self) -> int:
        """Bytes of all phrases in UTF-8: of the word lists, and of the clauses that entries add."""
        clauses = [phrase for entry in self.entries.values() for phrase in entry.compose]
        return self.words.phrase_bytes + sum(len(phrase.encode()) for phrase in clauses)

    def is_of(self, entry: Entry, target_model: str) -> bool:
        """Whether an entry is of a target model: one of the target's entries has the same encoder and rules."""
        names = self.targets.get(target_model, {}).values()
        others = (self.entries[name] for name in names)
        return any((other.encoder, other.rules) == (entry.encoder, entry.rules) for other in others)


def _require(place: str, name: str, names: Collection[str]) -> None:
    if name not in names:
        values = {"place": place, "name": name[:100]}
        raise PydanticCustomError("name", "{place} names {name}, which the pack does not have", values)


def fill(messages: Sequence[PackMessage], values: Mapping[str, str]) -> tuple[PackMessage, ...]:
    """Replace marks by their values, in one pass: marks inside a value stay text, and a message's bound does not apply.

    Raises:
        InvalidRequest: the messages would have more than `MAX_FILLED` characters.
    """
    characters = sum(
        len(one.content) + sum(len(values.get(mark[1], mark[0])) - len(mark[0]) for mark in _MARK.finditer(one.content))
        for one in messages
    )
    if characters > MAX_FILLED:
        raise InvalidRequest(
            f"the pack's messages have {characters} characters with this prompt, and may have {MAX_FILLED}: send a "
            "shorter prompt, or repeat {{prompt}} less often in the pack",
            field="prompt",
        )
    return tuple(
        one.model_copy(update={"content": _MARK.sub(lambda mark: values.get(mark.group(1), mark.group()), one.content)})
        for one in messages
    )
