"""One step on the device: its results, which padding and order do not change."""

import random
from collections.abc import Callable, Iterable
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from handler.engine.stream import Logprob
from handler.inference import draws
from handler.inference.graphs import Captured
from handler.inference.kv_cache import KVCache
from handler.inference.model import Model
from handler.inference.runner import Runner
from handler.inference.scheduler import Scheduler
from handler.inference.step import Sequence, Step
from handler.ops import attention
from handler.ops.pages import KVPages, Layout
from handler.ops.parts import PARTS, Parts
from tests.support import models


class Heard:
    """The model's forward; keeps the log-probabilities of the last step."""

    def __init__(self, model: Model) -> None:
        self._forward = model.forward
        self.logprobs = torch.empty(0)

    def __call__(self, ids: Tensor, positions: Tensor, keep: Tensor | None, layout: Layout, pages: KVPages) -> Tensor:
        logits = self._forward(ids, positions, keep, layout, pages)
        self.logprobs = logits.log_softmax(-1)
        return logits


class Rig:
    """A scheduler and a runner, stepped by hand."""

    def __init__(self, name: str = "demo", model: Model | None = None, **options: Any) -> None:
        config = models.config(rows=8, prefill_chunk=40, **options)
        model = model or models.served(name)
        self.heard = Heard(model)
        self.runner = Runner(models.Changed(model, self.heard), models.info(name), config)
        self.scheduler: Scheduler[Sequence] = Scheduler(KVCache(config.pages, config.page_size), 8, 40)
        #: of each sequence's tokens
        self.logprobs: dict[Sequence, list[Logprob]] = {}

    def add(self, prompt: list[int], max_tokens: int = 8, *, logprobs: int | None = None, **options: Any) -> Sequence:
        size = len(prompt)
        one = Sequence(
            tokens=list(prompt),
            prompt_len=size,
            full_length=size + max_tokens,
            length=size,
            sampling=models.sampling(max_tokens, **options),
            logprobs=logprobs,
        )
        self.scheduler.add(one)
        return one

    @torch.inference_mode()
    def step(self) -> Step[Sequence]:
        step = self.scheduler.schedule()
        for one in step.admitted:
            self.runner.assign(one)
        for one, token, logprobs in self.runner.launch(step).read():
            one.tokens.append(token)
            self.logprobs.setdefault(one, []).extend(logprobs)
        return step

    def run(self) -> None:
        while self.scheduler.running or self.scheduler.waiting:
            self.step()
            for one in [one for one in self.scheduler.running if len(one.tokens) == one.full_length]:
                self.runner.release(one.row)
                self.scheduler.remove(one)


def plain_logprobs(name: str, tokens: Iterable[int]) -> Tensor:
    """[tokens, vocab] of one plain forward over the whole sequence."""
    with torch.inference_mode():
        logits: Tensor = models.oracle(name)(torch.tensor([[*tokens]])).logits[0]
    return logits.log_softmax(-1)


@pytest.mark.parametrize("build", [models.served, models.modules], ids=["merged", "modules"])
@pytest.mark.parametrize("name", models.NAMES)
def test_log_probabilities_are_those_of_a_plain_forward_to_1e_5(name: str, build: Callable[[str], Model]) -> None:
    dice = random.Random(8)
    rig = Rig(name, build(name))
    for size in (1, 15, 16, 17, 40, 41, 120, 300):
        rig.add(dice.choices(range(models.VOCAB), k=size), max_tokens=30)
    heard: list[tuple[Sequence, int, Tensor]] = []
    for _ in range(40):
        drawing = rig.step().drawing
        heard += [(one, len(one.tokens) - 2, row) for one, row in zip(drawing, rig.heard.logprobs, strict=True)]
    assert len(heard) > 200
    expected = {one: plain_logprobs(name, one.tokens) for one, _, _ in heard}
    worst = max(float((row - expected[one][position]).abs().max()) for one, position, row in heard)
    assert worst < 1e-5


def test_a_step_of_chunks_and_decode_rows_draws_in_the_order_of_the_step() -> None:
    rig = Rig()
    first = rig.add([1, 2, 3])
    rig.step()
    long, short = rig.add([4] * 38), rig.add([5, 6])
    step = rig.step()
    assert (step.decode, [chunk.sequence for chunk in step.chunks]) == ([first], [long, short])
    rig.run()
    for one in (first, long, short):
        prompt = tuple(one.tokens[: one.prompt_len])
        assert tuple(one.tokens[one.prompt_len :]) == models.greedy("demo", prompt, 8)


def test_a_reused_row_keeps_nothing_of_the_request_before() -> None:
    rig = Rig()
    options: dict[str, Any] = {"temperature": 1.0, "seed": 5, "repetition_penalty": 1.3, "frequency_penalty": 0.4}
    alone = rig.add([1, 2, 3], **options)
    rig.run()
    for number in range(8):
        rig.add([9] * 50, max_tokens=20, temperature=2.0, seed=number, presence_penalty=1.5)
    rig.run()
    again = rig.add([1, 2, 3], **options)
    rig.run()
    assert again.tokens == alone.tokens


class Replayed:
    """The captured graphs of a bucket on the CPU: the same decode over the whole bucket, into the same tensors."""

    def __init__(self, runner: Runner, bucket: int) -> None:
        self.runner, self.bucket = runner, bucket
        self.ids = torch.zeros(bucket, dtype=torch.int64)
        self.logits = torch.zeros(bucket, models.VOCAB)
        self.replays = 0
        draws = {full: (self.graph(partial(self.draw, full)), self.ids) for full in (False, True)}
        runner._graphs._captured[bucket] = Captured(self.graph(self.forward), self.logits, draws)

    def graph(self, replay: Callable[[], None]) -> torch.cuda.CUDAGraph:
        return cast(torch.cuda.CUDAGraph, SimpleNamespace(replay=replay))

    def forward(self) -> None:
        runner, rows = self.runner, self.runner._rows[: self.bucket]
        contexts = (runner._lengths[rows] + runner._one[rows]).tolist()
        logits, positions = runner._decode(self.bucket, runner._forward, contexts)
        self.logits.copy_(logits)
        runner._drawn[: self.bucket].copy_(positions)
        self.replays += 1

    def draw(self, full_search: bool) -> None:
        assert full_search == self.runner._sampler.needs_full_search
        self.ids.copy_(self.runner._draw_padding(self.logits, full_search))


def test_padding_a_decode_step_changes_no_row_and_the_padding_row_stays_empty() -> None:
    rig = Rig()
    graph = Replayed(rig.runner, 4)
    everybody = [rig.add([token] * (3 + 7 * token), max_tokens=6 + token) for token in range(6)]
    rig.run()
    for one in everybody:
        prompt = tuple(one.tokens[: one.prompt_len])
        assert tuple(one.tokens[one.prompt_len :]) == models.greedy("demo", prompt, one.full_length - one.prompt_len)
    assert graph.replays > 2
    assert int(rig.runner._lengths[-1]) == 0
    assert int(rig.runner._tables[-1].sum()) == 0


@pytest.mark.parametrize("bucket", [None, 4])
def test_only_requests_that_want_them_get_raw_log_probabilities_in_every_kind_of_step(bucket: int | None) -> None:
    rig, dice = Rig(), random.Random(9)
    if bucket:
        graph = Replayed(rig.runner, bucket)
    options: dict[str, Any] = {"temperature": 1.6, "top_k": 30, "repetition_penalty": 1.8, "frequency_penalty": 1.0}
    for number, asked in enumerate((None, 0, 5, None, 2, 5)):
        prompt = dice.choices(range(models.VOCAB), k=3 + 30 * number)
        rig.add(prompt, max_tokens=12, logprobs=asked, seed=number, **(options if number % 2 else {}))
    rig.run()
    for one, logprobs in rig.logprobs.items():
        assert len(logprobs) == (0 if one.logprobs is None else 12)
        expected = plain_logprobs("demo", one.tokens)[one.prompt_len - 1 :]
        for token, got, row in zip(one.tokens[one.prompt_len :], logprobs, expected, strict=False):
            assert got.logprob == pytest.approx(float(row[token]), abs=1e-5)
            best = row.topk(one.logprobs or 0)
            assert [id_ for id_, _ in got.top] == best.indices.tolist()
            assert [value for _, value in got.top] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert bucket is None or graph.replays > 2


def test_rows_of_the_vocabulary_without_a_token_are_no_alternatives() -> None:
    logits = torch.arange(8.0).expand(1, -1)
    one = Rig().add([1], logprobs=5)
    ((_, _, (logprobs,)),) = draws.Draws([one], torch.tensor([0]), logits, 6).read()
    assert [token for token, _ in logprobs.top] == [5, 4, 3, 2, 1]
    assert logprobs.logprob == pytest.approx(float(logits[0].log_softmax(0)[0]))


def test_a_batch_where_no_request_wants_log_probabilities_computes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(draws, "_logprobs")
    rig = Rig()
    rig.add([1, 2, 3])
    rig.run()


def test_products_add_their_parts_up_in_float32() -> None:
    """In bfloat16, torch's default, a row's sum would depend on the number of parts that the batch divides it into."""
    matmul = torch.backends.cuda.matmul
    matmul.allow_bf16_reduced_precision_reduction = True
    Rig()
    assert not matmul.allow_bf16_reduced_precision_reduction


def test_without_cuda_no_graph_is_captured() -> None:
    rig = Rig(graph_buckets=(1, 2))
    assert not rig.runner.capture_next(at_most=1000)
    assert rig.runner.captured == ()


def test_parts_that_are_off_are_off_for_pages_sampler_and_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(attention, "choose", lambda *_: Parts.every(True, "as the test sets"))
    for part in PARTS:
        runner = Rig(graph_buckets=(1, 2)).runner
        runner.use(runner.parts.without({part: "a result is off"}))
        assert runner._pages.parts == runner.parts
        assert not getattr(runner.parts, part)
        assert runner._sampler.capturable == (part != "sampler")
        assert runner._graphs.left() == (part == "prefill")
