"""Fixtures that several files share."""

import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import HealthCheck, settings
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from handler.engine.protocol import ModelInfo
from handler.enhancement import encoder, packs
from handler.enhancement.cache import Cache
from handler.enhancement.enhancer import Enhancer
from handler.enhancement.rewrite import Rewriter
from handler.model.snapshot import DEMO
from handler.model.template import Template
from handler.model.tokenizer import read
from handler.operations.core import Core, WorkerConstants
from handler.operations.operations import Operations
from handler.report import Report
from tests.support import kernels
from tests.support.fakes import ScriptedEngine

#: what a machine may lack, and the tests that import it
_NEEDED = {"triton": "*/test_*_triton.py", "httpx2": "builder/*"}
collect_ignore_glob = [tests for module, tests in _NEEDED.items() if find_spec(module) is None]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """One process for each core; but on a GPU one alone, as a worker takes all of its memory."""
    return 0 if kernels.CUDA else None


@pytest.fixture
def no_tf32() -> Iterator[None]:
    """On CUDA float32 is not rounded to 10 bits on its way into a product."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def quick_interpreter() -> Iterator[None]:
    """See `kernels.quick_interpreter`."""
    with kernels.quick_interpreter():
        yield


# A machine that is slow for a moment is no defect: nothing is timed.
settings.register_profile("worker", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("worker")
# By hand: `make test ARGS="--hypothesis-profile=thorough tests/test_template.py"`.
settings.register_profile("thorough", settings.get_profile("worker"), max_examples=5000)


PACKS = Path(__file__).parents[1] / "packs"
#: no encoder's own tokenizer lies here, so that every machine counts with the demo model's
ENCODERS = PACKS


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """The demo model's tokenizer, as transformers has it."""
    return cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(DEMO, local_files_only=True))


@pytest.fixture(scope="session")
def template() -> Template:
    """The demo model's template."""
    return Template(read(DEMO, "demo"))


@pytest.fixture
def line(template: Template) -> Callable[[ScriptedEngine], Operations]:
    """The operations over a scripted engine, with clockwork in place of chance."""
    model = ModelInfo(
        name="scripted",
        revision=None,
        source="path",
        architecture="qwen2",
        forward="merged",
        eval_mode=True,
        dtype="float32",
        device="cpu",
        parameters=0,
        weight_bytes=0,
        vocab_size=2048,
        context_length=1000,
        stop_token_ids=(0,),
        sampling_defaults={},
    )

    def build(engine: ScriptedEngine) -> Operations:
        enhancer = Enhancer(
            packs.load(PACKS),
            encoder.load(ENCODERS, "demo", template.count),
            Rewriter(engine, template, Cache()),
            model,
        )
        worker = WorkerConstants(version="test", engine={}, python="3", libraries={})
        clockwork: dict[str, Any] = {"draw_seed": lambda: 4242, "now": lambda: "now", "new_id": lambda: "id"}
        return Operations(Core(engine, template, model, Report(), worker, enhancer, **clockwork))

    return build


@pytest.fixture
def seconds() -> Callable[[], float]:
    """CPU seconds of this process since the test began: other processes on the machine do not count."""
    started = time.process_time()
    return lambda: time.process_time() - started
