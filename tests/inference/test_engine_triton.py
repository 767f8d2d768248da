"""The engine as on a GPU (kernels, CUDA graphs, overlap): each request gets the answer that it gets alone on a CPU."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import closing
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from handler.engine.protocol import Prompt
from handler.engine.sampling import Sampling
from handler.engine.scoring import Scored
from handler.engine.stream import Finish, Stream
from handler.errors import StartError
from handler.inference import graphs as capturing
from handler.inference import loop
from handler.inference.graphs import Captured
from handler.inference.loop import BatchingEngine
from handler.ops import attention, attention_triton, layers_triton, sampling_triton
from handler.ops.parts import Part
from tests.inference.test_engine_equality import Ids, Said, answers, habitual, in_turn
from tests.support import graphs, models
from tests.support.kernels import CUDA, parts
from tests.support.oracle import log_probabilities

pytestmark = pytest.mark.skipif(CUDA, reason="test_engine_cuda has genuine graphs")

BUCKETS = (1, 2, 4)
#: chunks of prompts, and pages that most answers outgrow
GPU: dict[str, Any] = {
    "rows": 6, "max_model_len": 36, "page_size": 4, "prefill_chunk": 7, "graph_buckets": BUCKETS, "overlap": True,
}  # fmt: skip
EVERYTHING = {
    "temperature": 1.3, "top_p": 0.9, "top_k": 30, "min_p": 0.01, "repetition_penalty": 1.3, "presence_penalty": 0.4,
    "frequency_penalty": 0.3,
}  # fmt: skip
REQUESTS: list[tuple[Ids, Sampling]] = [
    ((1, 2, 3), models.sampling(8)),
    ((4,) * 8, models.sampling(6, seed=1, **EVERYTHING)),
    ((5, 6), models.sampling(8, temperature=0.8, top_p=0.8, seed=2)),
    ((7, 8, 9, 10, 11), models.sampling(7, repetition_penalty=1.5, frequency_penalty=1.0)),
    ((1, 2, 3, 4, 5, 6), models.sampling(6, temperature=1.1, min_p=0.05, seed=3)),
    ((14, 15), models.sampling(7, temperature=0.9, top_k=5, presence_penalty=1.0, seed=4)),
    ((18, 19, 20), models.sampling(9, temperature=1.5, seed=5, stop=(" 1", "9 "))),
]


@pytest.fixture(scope="module")
def alone() -> list[Said]:
    """The answer to each of `REQUESTS` alone, on a CPU in plain torch."""
    with models.serving() as engine:
        said = asyncio.run(in_turn(engine, REQUESTS))
    assert said[0].token_ids == models.greedy("demo", REQUESTS[0][0], 8)
    assert said[-1].reason == "stop"
    return said


@pytest.fixture(autouse=True)
def _gpu(alone: list[Said], quick_interpreter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the engine take the CPU for a GPU, with as little as possible to interpret."""
    graphs.install(monkeypatch)
    monkeypatch.setattr(attention, "choose", lambda option, *_: parts(option == "auto", torch.float32))
    for name in ("LEAST_SPLITS", "MOST_SPLITS"):
        monkeypatch.setattr(attention_triton, name, 2)
    # A search of the sampler in half as many launches, of one block each.
    for name, value in {"BLOCK": 512, "PART": 512, "SLICE": 512, "TRIED": 256, "STEPS": 4}.items():
        monkeypatch.setattr(sampling_triton, name, value)


def replays(engine: BatchingEngine) -> dict[int, int]:
    """Of each forward, by its rows."""
    return {rows: graph.forward.replays for rows, graph in captured(engine).items()}  # type: ignore[attr-defined]


def captured(engine: BatchingEngine) -> dict[int, Captured]:
    return engine._runner._graphs._captured


async def at_once(engine: BatchingEngine, some: int = len(REQUESTS)) -> list[Said]:
    return await asyncio.gather(*(Said.whole(engine, *request) for request in REQUESTS[:some]))


async def arriving(engine: BatchingEngine) -> list[Said]:
    """Each is sent when the one before has begun to speak, some beside one that leaves then."""
    turns = [asyncio.Event() for _ in (*REQUESTS, None)]
    turns[0].set()

    async def one(number: int, ids: Ids, sampling: Sampling) -> Said:
        await turns[number].wait()
        stream = engine.stream(Prompt(ids), sampling, logprobs=number % 2)
        beside = engine.stream(Prompt(ids[:2]), models.sampling(20, seed=9, **EVERYTHING)) if number % 3 == 1 else None
        tokens, text = list[int](), ""
        async for event in stream:
            if isinstance(event, Finish):
                return Said(tuple(tokens), text, event.reason)
            assert all(logprob.logprob <= 0 for logprob in event.logprobs)
            tokens += event.token_ids
            text += event.text
            if len(tokens) > 1:
                turns[number + 1].set()
                if beside:
                    beside.cancel()
        raise AssertionError("no finish")

    return await asyncio.gather(*(one(number, *request) for number, request in enumerate(REQUESTS)))


@pytest.mark.parametrize(
    ("ask", "setting"),
    [(arriving, {}), (at_once, {"pages": 1 + 10})],
    ids=["arriving", "preempted"],
)
def test_requests_that_come_and_go_get_the_same_answers_as_alone(
    ask: Callable[[BatchingEngine], Coroutine[Any, Any, list[Said]]], setting: dict[str, Any], alone: list[Said]
) -> None:
    options = {**GPU, **setting}
    with models.serving(**options) as engine:
        assert engine.warm_up(60)
        assert asyncio.run(ask(engine)) == alone
        details = engine.status().details
        assert {*replays(engine)} == {*options["graph_buckets"]}
        assert all(replays(engine).values())
        draws = [graph.draws for graph in captured(engine).values()]
        for full_search in (False, True):  # only some requests have top_k and top_p
            assert any(each[full_search][0].replays for each in draws)  # type: ignore[attr-defined]
    assert (details["pages_used"], details["step_failures"]) == (0, 0)
    assert (details["preemptions"] != 0) == ("pages" in setting)


def test_texts_are_scored_between_graphs_and_change_no_answer(alone: list[Said]) -> None:
    texts: list[tuple[Ids, Ids]] = [((1, 2, 3), tuple(range(20, 30))), ((4,) * 9, (5, 6))]

    async def main(engine: BatchingEngine) -> tuple[list[Said], list[Scored]]:
        scores = asyncio.gather(*(engine.score(Prompt(prompt), text, top=2) for prompt, text in texts))
        return await at_once(engine, 2), await scores

    with models.serving(**GPU) as engine:
        assert engine.warm_up(60)
        said, scores = asyncio.run(main(engine))
        assert any(replays(engine).values())
        details = engine.status().details
    assert said == alone[:2]
    assert (details["pages_used"], details["step_failures"]) == (0, 0)
    for (prompt, text), scored in zip(texts, scores, strict=True):
        right = log_probabilities(models.oracle("demo"), (*prompt, *text), len(text), 2)
        assert [one.logprob for one in scored.logprobs] == pytest.approx([one.logprob for one in right], abs=1e-4)
        assert [[id_ for id_, _ in one.top] for one in scored.logprobs] == [[i for i, _ in one.top] for one in right]


def test_guesses_in_graphs_change_nothing_but_the_number_of_steps() -> None:
    # Guessed right and wrong, one beside the other, and again not at all.
    requests = [((1, 2, 3, 4), models.sampling(16, temperature=1.0, seed=7)),
                ((5, 6), models.sampling(14, temperature=0.8, seed=7))]  # fmt: skip
    steps, said = [], []
    for setting in ({"attention": "reference"}, {**GPU, "overlap": False, "speculative_tokens": 3}):
        with models.serving(forward=habitual("demo"), **setting) as engine:
            said.append([one.token_ids for one in answers(engine, requests)])
            details = engine.status().details
            steps.append(details["steps"])
    assert said[0] == said[1]
    assert 2 < details["guessed_right"] < details["guessed_tokens"]  # type: ignore[operator]
    assert steps[1] < steps[0]  # type: ignore[operator]


def test_after_a_capture_out_of_memory_larger_steps_run_without_a_graph(alone: list[Said]) -> None:
    steps, plain = count(), models.served("demo").forward

    def forward(*step: Any, **out: Any) -> Tensor:
        if next(steps) == 3:  # once before each capture, and once in it
            raise torch.OutOfMemoryError("no room")
        return plain(*step, **out)

    with models.serving(forward=forward, **GPU) as engine:
        assert engine.warm_up(60)
        assert engine.status().details["graphs"] == [1]
        assert asyncio.run(at_once(engine, 3)) == alone[:3]
        assert engine.status().details["out_of_memory"] == 0


@pytest.mark.parametrize("which", ["forward", "draw"])
def test_replays_that_run_out_of_memory_are_started_again(
    which: str, alone: list[Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    replay, replayed = graphs.Graph.replay, count()
    forward = which == "forward"

    def short(graph: graphs.Graph) -> None:
        # Each step replays its forward, then its draw.
        if next(replayed) in ((6, 8) if forward else (7, 10)):
            # A launch does not ask torch's allocator.
            raise torch.AcceleratorError("CUDA error: out of memory")
        replay(graph)

    with models.serving(**GPU) as engine:
        assert engine.warm_up(60)
        monkeypatch.setattr(graphs.Graph, "replay", short)
        assert asyncio.run(at_once(engine, 4)) == alone[:4]
        details = engine.status().details
        assert (details["out_of_memory"], details["step_failures"]) == (2, 0)


@pytest.mark.parametrize("part", ["decode", "layers", "sampler"])
def test_a_part_whose_kernels_are_off_runs_in_plain_torch_without_graphs(part: Part, alone: list[Said]) -> None:
    kernels = {"decode": (attention_triton, "paged_decode"), "layers": (layers_triton, "rms_norm"),
               "sampler": (sampling_triton, "draw")}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*kernels[part], None)  # a call would fail the step
        engine = BatchingEngine(
            models.served("demo"), models.info("demo"), models.token_bytes, models.config(**GPU),
            check=lambda parts: parts.without({part: "a result is off"}),
        )  # fmt: skip
        with closing(engine):
            assert engine.warm_up(60)
            assert asyncio.run(at_once(engine, 4)) == alone[:4]
            details: Any = engine.status().details
            assert (details["graphs"], details["step_failures"]) == ([], 0)
            assert details["parts"][part] == {"kernels": False, "reason": "a result is off"}
            assert details["attention"] == ("paged_reference" if part == "decode" else "paged_kernel")


def test_kernels_that_cannot_be_launched_fail_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr(InterpretedFunction, "run", launch)
    with models.serving(**GPU) as engine:
        with pytest.raises(StartError, match="Failed to find C compiler"):
            engine.warm_up(60)
        assert not engine.status().alive


@pytest.mark.parametrize("lost", ["forward", "draw", "second replay"])
def test_a_graph_that_does_not_compute_what_its_eager_step_does_is_not_used(
    lost: str, alone: list[Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = graphs.Graph.replay

    def short(graph: graphs.Graph) -> None:
        forward = len(graph.calls) > 40
        if graph.replays == (lost == "second replay") and forward == (lost != "draw"):
            kept = graph.calls
            graph.calls = kept[:-2] if forward else kept[:-1]  # the last launches were not captured
            replay(graph)
            graph.calls = kept
        else:
            replay(graph)

    monkeypatch.setattr(graphs.Graph, "replay", short)
    with models.serving(**GPU) as engine:
        assert engine.warm_up(60)
        assert asyncio.run(at_once(engine, 2)) == alone[:2]
        details = engine.status().details
        assert (details["graphs"], details["graphs_reason"]) == ([], "a replay differs from its eager step")


def test_a_worker_that_is_never_idle_gets_all_its_graphs(alone: list[Said], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (loop, capturing):
        monkeypatch.setattr(module, "FIRST_GRAPHS", 1)
    monkeypatch.setattr(loop, "STEPS_TO_CAPTURE", 2)
    capture, sent = capturing.Graphs.capture_next, threading.Event()

    def after_requests_were_sent(some: capturing.Graphs, *calls: Any) -> None:
        assert sent.wait(60)
        capture(some, *calls)

    monkeypatch.setattr(capturing.Graphs, "capture_next", after_requests_were_sent)

    async def main(engine: BatchingEngine) -> list[tuple[int, ...]]:
        seen = []

        async def read(stream: Stream) -> Said:
            tokens, text = list[int](), ""
            async for event in stream:
                if isinstance(event, Finish):
                    return Said(tuple(tokens), text, event.reason)
                seen.append(tuple(captured(engine)))
                tokens += event.token_ids
                text += event.text
            raise AssertionError("no finish")

        streams = [engine.stream(Prompt(ids), sampling) for ids, sampling in REQUESTS[:4]]
        sent.set()
        assert await asyncio.gather(*map(read, streams)) == alone[:4]
        return seen

    with models.serving(**GPU) as engine:
        seen = asyncio.run(main(engine))
    assert seen[0] == (1,)
    assert (1, 4, 2) in seen[: len(seen) // 2]
