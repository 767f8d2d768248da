"""Each field of OpenAI's requests and of vLLM's additions: honoured, noted or refused. docs/openai.md is made of it.

Knows no body: `requests` reads one by this table.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

#: `honour`: it has its effect. `note`: it has none and changes no token; the reply's `worker.ignored` lists it.
#: `refuse`: the answer would be another one without it, so that the request is refused.
Verdict = Literal["honour", "note", "refuse"]
Kind = Literal["chat", "completions"]
BOTH: tuple[Kind, ...] = ("chat", "completions")
CHAT: tuple[Kind, ...] = ("chat",)
COMPLETIONS: tuple[Kind, ...] = ("completions",)


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of one field of a body."""

    name: str
    verdict: Verdict
    #: for a reader: what it does here, why it has no effect, or what to send instead
    words: str
    kinds: tuple[Kind, ...] = BOTH
    #: the field of our own request that it becomes, where it has another name; `read` knows those that need more
    native: str | None = None
    #: values that count as not sent, beside null, and beside false, "", [] and {} where the field is not honoured
    neutral: tuple[JsonValue, ...] = ()
    #: of a refused field: values that change no token, and are noted
    noted: tuple[JsonValue, ...] = ()

    def is_neutral(self, value: JsonValue) -> bool:
        """True where the value is the same as none."""
        if value is None or any(_same(value, one) for one in self.neutral):
            return True
        return self.verdict != "honour" and any(_same(value, one) for one in _OFF)

    def verdict_on(self, value: JsonValue) -> Verdict:
        """What becomes of a value that is not neutral."""
        return "note" if any(_same(value, one) for one in self.noted) else self.verdict


#: values that turn a field off
_OFF: tuple[JsonValue, ...] = (False, "", [], {})


def _same(one: JsonValue, other: JsonValue) -> bool:
    """True where two JSON values are equal: unlike in Python, true is no 1."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _honoured(names: str, words: str = "As natively.") -> Iterator[Rule]:
    yield from (Rule(name, "honour", words) for name in names.split())


RULES: tuple[Rule, ...] = (
    Rule("model", "honour", "The served name, in any case, or left out; another one is a 404 that names it."),
    Rule("messages", "honour", "See the table of messages.", CHAT),
    Rule("prompt", "honour", "A string, or a list of one. No token ids, no second prompt.", COMPLETIONS),
    Rule("max_tokens", "honour", "Not sent: what the context leaves."),
    Rule("max_completion_tokens", "honour", "The same by its newer name; send one of the two.", CHAT, "max_tokens"),
    Rule("temperature", "honour", "Not sent: the worker's default, which `worker.sampling` shows."),
    Rule("top_p", "honour", "Not sent: the worker's default, which `worker.sampling` shows."),
    *_honoured("frequency_penalty presence_penalty seed stop"),
    Rule("logit_bias", "honour", "By token id, -100 to 100.", neutral=({},)),
    Rule("n", "honour", "Choices share the computed prompt; each has a seed of its own.", neutral=(1,)),
    Rule("best_of", "refuse", "no answers are compared; send n", COMPLETIONS, neutral=(1,)),
    Rule("stream", "honour", "Server-sent events."),
    Rule("stream_options", "honour", "`include_usage`; other keys are refused unless false.", neutral=({},)),
    Rule("logprobs", "honour", "In a stream all of them come with the chunk of the `finish_reason`.", CHAT),
    Rule("top_logprobs", "honour", "Beside `logprobs`.", CHAT),
    Rule("logprobs", "refuse", "completions return none; chat completions do", COMPLETIONS),
    Rule(
        "reasoning_effort",
        "honour",
        "`none`: no thinking. Another one: thinking, and the degree is noted, as there are none.",
        CHAT,
    ),
    # -- not OpenAI's: vLLM's and our own
    Rule("top_k", "honour", "0 and -1 are off.", neutral=(-1,)),
    *_honoured("min_p repetition_penalty stop_token_ids deadline_ms cache_salt sampling_defaults"),
    Rule("continue_final_message", "honour", "As natively.", CHAT),
    Rule("truncate_history", "honour", "As natively; `worker.truncated_turns` counts.", CHAT),
    Rule("enable_thinking", "honour", "As natively.", CHAT),
    Rule("max_thinking_tokens", "honour", "As natively.", CHAT),
    Rule("chat_template_kwargs", "honour", "`enable_thinking`; other keys are refused.", CHAT, neutral=({},)),
    Rule(
        "add_generation_prompt",
        "refuse",
        "it follows from continue_final_message; leave it out",
        CHAT,
        neutral=(True,),
    ),
    # -- nothing that draws a token
    *(
        Rule(name, "note", words)
        for name, words in {
            "user": "The worker keeps no account of callers.",
            "safety_identifier": "The worker keeps no account of callers.",
            "metadata": "Nothing is stored.",
            "store": "Nothing is stored.",
            "prompt_cache_key": "Equal beginnings are found by themselves; `cache_salt` keeps callers apart.",
            "prompt_cache_retention": "The cache keeps what it has room for.",
            "prompt_cache_options": "The cache keeps what it has room for.",
        }.items()
    ),
    Rule("service_tier", "note", "There is one tier.", neutral=("auto", "default")),
    Rule("tool_choice", "note", "Without tools there is nothing to choose.", CHAT),
    Rule("function_call", "note", "Without functions there is nothing to choose.", CHAT, neutral=("none", "auto")),
    Rule("parallel_tool_calls", "note", "Without tools there are no calls.", CHAT),
    Rule("verbosity", "refuse", "the model has no degrees of it; say it in the prompt", CHAT, noted=("medium",)),
    # -- refused: the answer would be another one without them
    Rule("tools", "refuse", "tools are not called; describe them in the prompt, and parse the answer", CHAT),
    Rule("functions", "refuse", "functions are not called; describe them in the prompt, and parse the answer", CHAT),
    Rule(
        "response_format",
        "refuse",
        "answers cannot be bound to a format; ask for it in the prompt",
        CHAT,
        neutral=({"type": "text"},),
    ),
    Rule("modalities", "refuse", "the model writes text alone", CHAT, neutral=(["text"],)),
    Rule("audio", "refuse", "the model writes text alone", CHAT),
    Rule("prediction", "refuse", "the worker takes no predictions; it guesses repeated text by itself", CHAT),
    Rule("web_search_options", "refuse", "the worker searches nothing", CHAT),
    Rule("moderation", "refuse", "the worker judges no content", CHAT),
    Rule("suffix", "refuse", "the model only continues text", COMPLETIONS),
    Rule("echo", "refuse", "a reply holds the completion alone", COMPLETIONS),
    *(
        Rule(name, "refuse", "the worker has no such option; leave it out", neutral=neutral)
        for name, neutral in {
            "use_beam_search": (),
            "length_penalty": (1,),
            "early_stopping": (),
            "ignore_eos": (),
            "min_tokens": (0,),
            "bad_words": (),
            "allowed_token_ids": (),
            "logits_processors": (),
            "include_stop_str_in_output": (),
            "skip_special_tokens": (True,),
            "spaces_between_special_tokens": (True,),
            "add_special_tokens": (),
            "prompt_logprobs": (),
            "truncate_prompt_tokens": (),
            "priority": (0,),
            "documents": (),
            "chat_template": (),
            "mm_processor_kwargs": (),
            "return_token_ids": (),
            "dry_run": (),
        }.items()
    ),
    *(
        Rule(name, "refuse", "answers cannot be bound to a format; ask for it in the prompt")
        for name in (
            "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
            "guided_decoding_backend", "guided_whitespace_pattern",
        )
    ),
)  # fmt: skip

#: The keys of a message. Every other one is noted: applications send whole turns as they have stored them.
MESSAGE: tuple[tuple[str, Verdict, str], ...] = (
    ("role: system, user, assistant", "honour", "At any place."),
    ("role: developer", "note", "Read as `system`; noted as `messages[].role`."),
    ("role: tool, function", "refuse", "Put a tool's result into a user's turn."),
    ("content", "honour", "A string, or a list of text parts, which are joined with nothing between them."),
    ("content: null", "honour", "Of the assistant: an empty text."),
    ("content: parts of images, audio, files", "refuse", "The model reads text alone."),
    ("tool_calls", "refuse", "Unless empty."),
    ("function_call", "refuse", "Unless null."),
    ("name, reasoning_content, reasoning, refusal, … and every other key", "note", "Noted as `messages[].name`."),
)


def rules(kind: Kind) -> dict[str, Rule]:
    """The rules of one route, by name."""
    return {rule.name: rule for rule in RULES if kind in rule.kinds}
