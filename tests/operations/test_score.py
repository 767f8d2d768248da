"""generate with `score_text`: the given text reaches the engine as it stands, and its score reaches the caller."""

import asyncio
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from handler.api.generate import GenerateRequest, ScoreReply
from handler.api.parse import parse
from handler.api.reply import to_wire
from handler.api.text import DryRunReply
from handler.engine.sampling import Sampling
from handler.errors import ContextLengthExceeded, DeadlineExceeded, InvalidRequest
from handler.inference.config import EngineOptions
from handler.inference.loop import BatchingEngine
from handler.inference.plan import plan
from handler.job import Jobs
from handler.model import weights
from handler.model.snapshot import DEMO, find
from handler.operations import score as scoring
from handler.operations.operations import Operations
from tests.operations.test_operations import HI, Line, changed, run
from tests.support.fakes import ScriptedEngine
from tests.support.models import merged
from tests.support.oracle import log_probabilities

SCORE: dict[str, Any] = {"operation": "generate", "prompt": "Once upon", "score_text": " a time"}
#: what each sampling field may be sent as
SENT: dict[str, Any] = {
    "temperature": 0, "top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1, "presence_penalty": 0,
    "frequency_penalty": 0, "max_tokens": 5, "seed": 1, "stop": ["x"], "stop_token_ids": [5], "logit_bias": {"5": 1},
}  # fmt: skip


def test_a_score_is_mean_sum_and_tokens_and_nothing_of_a_draw(line: Line, tokenizer: PreTrainedTokenizerFast) -> None:
    engine = ScriptedEngine(scores=lambda prompt, text, at: -1.0 - at)
    pieces, reply = run(line(engine), **SCORE)
    assert isinstance(reply, ScoreReply)
    ((prompt, text),) = engine.seen_scores
    assert (pieces, engine.seen) == ([], [])
    assert [tokenizer.decode(list(ids)) for ids in (prompt.token_ids, text)] == ["Once upon", " a time"]
    size = len(text)
    assert reply.score.tokens == size > 1
    assert reply.score.sum == -sum(range(1, size + 1))
    assert reply.score.mean == pytest.approx(reply.score.sum / size, abs=1e-6)
    wire: Any = to_wire(reply)
    read = len(prompt.token_ids) + size
    assert wire["usage"] == {
        "prompt_tokens": read, "completion_tokens": 0, "total_tokens": read, "cached_tokens": 0,
    }  # fmt: skip
    assert {"sampling", "finish_reason", "logprobs", "reasoning", "text"}.isdisjoint(wire)
    assert {"ttft_ms", "tokens_per_second"}.isdisjoint(wire["timing"])


def test_with_logprobs_there_is_one_for_each_token_of_the_text_and_the_alternatives_asked_for(
    line: Line, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = ScriptedEngine()
    _, reply = run(line(engine), **SCORE, logprobs=True, top_logprobs=2)
    ((_, text),) = engine.seen_scores
    assert isinstance(reply, ScoreReply)
    assert reply.logprobs is not None
    assert tuple(one.token_id for one in reply.logprobs) == text
    assert "".join(one.token for one in reply.logprobs) == " a time"
    assert {one.logprob for one in reply.logprobs} == {round(-math.log(2), 6)}
    assert {len(one.top) for one in reply.logprobs} == {2}


def test_messages_are_rendered_as_for_an_answer_and_control_tokens_in_the_text_stay_text(
    line: Line, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = ScriptedEngine()
    run(line(engine), operation="generate", messages=HI, score_text="hello<|im_end|>")
    ((prompt, text),) = engine.seen_scores
    assert tokenizer.decode(list(prompt.token_ids)) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(list(text)) == "hello<|im_end|>"
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in text


def test_prompt_and_text_are_encoded_apart(line: Line, tokenizer: PreTrainedTokenizerFast) -> None:
    engine = ScriptedEngine()
    word = "prompt"
    (whole,) = [len(tokenizer.encode(word))]
    run(line(engine), operation="generate", prompt=word[:3], score_text=word[3:], special_tokens=True)
    ((prompt, text),) = engine.seen_scores
    assert list(prompt.token_ids) == tokenizer.encode(word[:3])
    assert list(text) == tokenizer.encode(word[3:])
    assert len(prompt.token_ids) + len(text) > whole


def test_a_dry_run_shows_the_tokens_of_prompt_and_text_and_how_many_are_scored(
    line: Line, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = ScriptedEngine()
    _, dry = run(line(engine), **SCORE, dry_run=True)
    assert isinstance(dry, DryRunReply)
    assert (engine.seen, engine.seen_scores) == ([], [])
    _, reply = run(line(engine), **SCORE)
    assert isinstance(reply, ScoreReply)
    ((prompt, text),) = engine.seen_scores
    assert dry.token_ids == (*prompt.token_ids, *text)
    assert (dry.rendered, dry.scored_tokens) == ("Once upon a time", len(text))
    assert (dry.usage.prompt_tokens, dry.sampling) == (reply.usage.prompt_tokens, None)
    assert dry.prompt_sha256 == reply.prompt_sha256
    _, plain = run(line(engine), operation="generate", prompt="Once upon", dry_run=True)
    assert isinstance(plain, DryRunReply)
    assert "scored_tokens" not in to_wire(plain)
    assert plain.sampling is not None


@pytest.mark.parametrize("field", [*Sampling.model_fields, "n", "sampling_defaults", "stream"])
@pytest.mark.parametrize("form", [{"prompt": "Once"}, {"messages": HI}])
def test_a_field_of_drawing_beside_score_text_is_refused_by_its_name(form: dict[str, Any], field: str) -> None:
    sent = {**SENT, "n": 2, "sampling_defaults": "model", "stream": True, "max_thinking_tokens": 1}
    with pytest.raises(InvalidRequest, match=f"^{field} does not go with score_text") as refused:
        parse({"operation": "generate", "score_text": "a", field: sent[field], **form})
    assert refused.value.field == field
    assert parse({"operation": "generate", "score_text": "a", field: None, **form})  # null counts as not sent
    assert parse({"operation": "generate", field: sent[field], **form})


def test_an_empty_text_is_refused_and_stream_false_is_not() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse({**SCORE, "score_text": ""})
    assert refused.value.field == "score_text"
    request = parse({**SCORE, "stream": False})
    assert isinstance(request, GenerateRequest)
    for operation in ("chat", "enhance"):
        with pytest.raises(InvalidRequest, match="score_text: unknown field"):
            parse({"operation": operation, "messages": HI, "score_text": "a"})


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"score_text": "one two three " * 40}, "score_text", "share a context of 50 tokens"),
        ({"score_text": "a" * 100_000}, "score_text", "share a context of 50 tokens"),
        ({"prompt": "one two three " * 40}, "prompt", "tokens"),
    ],
)
def test_what_does_not_fit_the_context_is_refused_with_the_name_of_its_field(
    line: Line, fields: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(ContextLengthExceeded, match=words) as refused:
        run(line(ScriptedEngine(max_model_len=50)), **{**SCORE, **fields})
    assert refused.value.field == field


def test_a_text_of_more_characters_than_are_encoded_is_refused_with_its_name(line: Line) -> None:
    with pytest.raises(InvalidRequest, match="too long to encode") as refused:
        run(line(ScriptedEngine(max_model_len=10_000_000)), **{**SCORE, "score_text": "a" * 4_000_001})
    assert refused.value.field == "score_text"


def test_more_log_probabilities_than_a_reply_carries_are_refused(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "MAX_LOGPROBS", 9)
    with pytest.raises(InvalidRequest, match="at most 9") as refused:
        run(line(ScriptedEngine()), **{**SCORE, "score_text": " a" * 10}, logprobs=True)
    assert refused.value.field == "logprobs"
    run(line(ScriptedEngine()), **{**SCORE, "score_text": " a" * 10})


def test_a_salt_and_the_operators_sharing_reach_the_engine(line: Line) -> None:
    engine = ScriptedEngine()
    operations = line(engine)
    for salt in ("s", "s", "t", None):
        run(operations, **SCORE, cache_salt=salt)
    run(changed(operations, prefix_sharing="off"), **SCORE, cache_salt="s")
    one, again, other, none, off = (prompt.salt for prompt, _ in engine.seen_scores)
    assert one == again
    assert none == b""
    assert len({one, other, none, off}) == 4


def test_a_deadline_is_an_error_with_its_code(line: Line) -> None:
    with pytest.raises(DeadlineExceeded):
        run(line(ScriptedEngine(step_s=0.05)), **SCORE, deadline_ms=10)


@pytest.fixture(scope="module")
def theirs() -> PreTrainedModel:
    """The demo model in 32 bits, as transformers has it."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(DEMO, local_files_only=True, dtype="float32")
    return model


@pytest.fixture(scope="module")
def jobs(theirs: PreTrainedModel) -> Iterator[Callable[[Line], Jobs]]:
    """Jobs over the engine with the same model."""
    loaded = weights.load(find("demo", name=None, revision=None, on_runpod=False))
    model = merged(theirs)
    config = plan(EngineOptions(), model.shape, device="cpu", free_bytes=1 << 30)
    engine = BatchingEngine(
        model, loaded.info, loaded.template.token_bytes, config, tokens_in_vocab=loaded.template.tokens_in_vocab
    )

    def build(line: Line) -> Jobs:
        core = replace(line(ScriptedEngine()).core, engine=engine, template=loaded.template, model=loaded.info)
        return Jobs(Operations(core), core.report)

    yield build
    engine.close()


def test_the_demo_model_scores_as_transformers_does(
    line: Line, jobs: Callable[[Line], Jobs], theirs: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    served = jobs(line)
    texts = [" a red fox in the snow", "sunset, golden light", "x"]

    async def every() -> list[Any]:
        wishes = [{**SCORE, "score_text": text, "logprobs": True, "top_logprobs": 1} for text in texts]
        return await asyncio.gather(*(served.answer({"id": "j", "input": wish}) for wish in wishes))

    for text, reply in zip(texts, asyncio.run(every()), strict=True):
        assert isinstance(reply, ScoreReply)
        ids = tokenizer.encode(text)
        right = log_probabilities(theirs, (*tokenizer.encode("Once upon"), *ids), len(ids), 1)
        assert reply.score.mean == pytest.approx(sum(one.logprob for one in right) / len(right), rel=1e-6, abs=1e-5)
        wire: Any = to_wire(reply)
        assert [one["token_id"] for one in wire["logprobs"]] == ids
    assert served.report.tokens["completion"] == 0 < served.report.tokens["prompt"]
