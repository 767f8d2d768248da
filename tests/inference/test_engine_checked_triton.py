"""A worker whose kernels fail or compute something else answers as plain torch does, and says what is off and why."""

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from handler.errors import StartError
from handler.inference.kernel_check import KernelCheck, sizes_of
from handler.inference.loop import BatchingEngine
from handler.ops import attention_triton, layers_triton, sampling_triton, self_check
from handler.ops.parts import PARTS
from tests.inference.test_engine_equality import Said
from tests.inference.test_engine_triton import GPU, _gpu, alone, at_once, replays  # noqa: F401
from tests.ops.test_self_check_triton import FAILURES, WRONG, break_kernels, fail
from tests.support import graphs, models
from tests.support.kernels import CUDA

pytestmark = pytest.mark.skipif(CUDA, reason="the stand-in for graphs is the CPU's")

#: requests, and graphs: few, as each is interpreted
ASKED, BUCKETS = 2, (1,)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LENGTHS": (1, 4, 5, 0, 150), "CHUNKS": ((5, 0), (3, 6)), "SEEDS": 2}.items():
        monkeypatch.setattr(self_check, name, value)


@contextmanager
def checked(setting: Any = "auto") -> Iterator[BatchingEngine]:
    sizes = sizes_of(models.served("demo"), models.info("demo"), GPU["page_size"], models.VOCAB)
    with models.serving(check=KernelCheck(sizes, setting), **{**GPU, "graph_buckets": BUCKETS}) as engine:
        yield engine


def off(engine: BatchingEngine) -> dict[str, str]:
    """The parts that plain torch runs and the reasons, without prefill: FlashAttention takes no float32."""
    parts: Any = engine.status().details["parts"]
    assert {*parts} == {*PARTS}
    return {name: fact["reason"] for name, fact in parts.items() if not fact["kernels"] and name != "prefill"}


def test_with_healthy_kernels_nothing_is_off_and_graphs_serve(alone: list[Said]) -> None:  # noqa: F811
    with checked() as engine:
        assert engine.warm_up(120)
        assert asyncio.run(at_once(engine, ASKED)) == alone[:ASKED]
        assert off(engine) == {}
        assert engine.status().details["graphs_reason"] is None
        assert any(replays(engine).values())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of what the broken kernels compute
@pytest.mark.parametrize(
    "wrong", ["pages out of order", "the last token lost", "splits with equal weights", "values one head off"]
)
def test_attention_that_computes_something_else_gives_way_to_plain_torch(
    wrong: str,
    alone: list[Said],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    break_kernels(*WRONG[wrong], tmp_path, monkeypatch)
    with checked() as engine:
        assert engine.warm_up(120)
        assert asyncio.run(at_once(engine, ASKED)) == alone[:ASKED]
        reasons, details = off(engine), engine.status().details
    assert {*reasons} == {"decode", "layers"}
    assert reasons["decode"] == "self-check: paged_decode gives another result than plain torch"
    assert (details["attention"], details["attention_reason"]) == ("paged_reference", reasons["decode"])
    assert (details["graphs"], details["step_failures"]) == ([], 0)


@pytest.mark.parametrize("stage", FAILURES)
def test_a_triton_that_runs_nothing_gives_way_to_plain_torch(
    stage: str,
    alone: list[Said],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail(
        FAILURES[stage], {module.__name__ for module in (attention_triton, layers_triton, sampling_triton)}, monkeypatch
    )
    with checked() as engine:
        assert engine.warm_up(60)
        assert asyncio.run(at_once(engine)) == alone
        reasons, details = off(engine), engine.status().details
    assert {*reasons} == {"decode", "layers", "sampler"}
    assert all(type(FAILURES[stage]).__name__ in reason for reason in reasons.values())
    assert (details["graphs"], details["step_failures"]) == ([], 0)


def test_a_triton_that_runs_nothing_ends_the_start_where_the_operator_wants_the_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail(FAILURES["launch"], {attention_triton.__name__}, monkeypatch)
    with checked("kernel") as engine, pytest.raises(StartError, match=r"ATTENTION=kernel, .* decode .*C compiler"):
        engine.warm_up(60)


def test_a_device_that_is_lost_in_the_check_is_the_cause_of_the_failed_start(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    fail(lost, {layers_triton.__name__}, monkeypatch)
    with checked() as engine:
        with pytest.raises(StartError) as failed:
            engine.warm_up(60)
        assert failed.value.__cause__ is lost


@pytest.mark.parametrize("how", ["nothing is computed", "the second replay differs"])
def test_a_graph_that_replays_something_else_is_not_used(
    how: str,
    alone: list[Said],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sound = graphs.Graph.replay

    def broken(graph: graphs.Graph) -> None:
        if how == "the second replay differs" and graph.replays < 2:
            sound(graph)
        graph.replays += 1

    monkeypatch.setattr(graphs.Graph, "replay", broken)
    with checked() as engine:
        assert engine.warm_up(120)
        assert asyncio.run(at_once(engine, ASKED)) == alone[:ASKED]
        details = engine.status().details
    assert details["graphs"] == []
    assert details["graphs_reason"] == "a replay differs from its eager step"
    assert off(engine) == {}
    assert "steps run without graphs" in capsys.readouterr().err


def test_a_replay_without_the_product_that_gives_the_logits_differs() -> None:
    def operator(call: Any) -> str:
        return str(inspect.getclosurevars(call).nonlocals["call"].func.__name__)

    with checked() as engine, torch.inference_mode():
        assert engine.warm_up(120)
        state = engine._runner
        graph: Any = state._graphs.fitting(1)
        assert state._replays(graph)
        calls = graph.forward.calls
        product = max(at for at, call in enumerate(calls) if operator(call).startswith("mm"))
        graph.forward.calls = calls[:product] + calls[product + 1 :]
        assert not state._replays(graph)
