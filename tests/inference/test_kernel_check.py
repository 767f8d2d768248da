"""What the self-check finds is logged, is in the ledger, and ends the start where the operator wants the kernels."""

import threading
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch

from handler.errors import StartError
from handler.inference.kernel_check import KernelCheck, sizes_of
from handler.ops.parts import Part, Parts
from tests.support import models

ON = Parts.every(kernels=True, reason="CUDA with Triton")
SIZES = sizes_of(models.served("qwen3"), models.info("qwen3"), page_size=64, tokens_in_vocab=500)


def checked(
    setting: Literal["auto", "reference", "kernel"] = "auto", *, lost: str | None = None, **off: str
) -> tuple[KernelCheck, Callable[[], Parts]]:
    def run(parts: Parts, _: object, **__: object) -> Parts:
        reasons: dict[Part, Any] = {**off}  # type: ignore[dict-item]
        return parts.without(reasons)

    check = KernelCheck(SIZES, setting, lost=lost, check=run)
    return check, lambda: check(ON)


def test_the_shapes_are_those_of_the_model() -> None:
    assert (SIZES.heads, SIZES.kv_heads, SIZES.head_dim, SIZES.hidden, SIZES.intermediate) == (4, 2, 32, 64, 96)
    assert (SIZES.vocab, SIZES.tokens, SIZES.page_size) == (models.VOCAB, 500, 64)
    assert SIZES.dtype == torch.float32


def test_healthy_kernels_leave_an_empty_list_and_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    check, run = checked()
    assert run() == ON
    assert check.wait(1) == {"off": {}}
    assert capsys.readouterr().err == ""


def test_each_part_that_is_off_has_a_line_in_the_log_and_a_reason_in_the_ledger(
    capsys: pytest.CaptureFixture[str],
) -> None:
    check, run = checked(prefill="self-check: TypeError: scale", sampler="self-check: draw differs")
    parts = run()
    assert (parts.decode, parts.prefill, parts.layers, parts.sampler) == (True, False, True, False)
    assert check.wait(1) == {"off": {"prefill": "self-check: TypeError: scale", "sampler": "self-check: draw differs"}}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all('"level": "WARN"' in line for line in lines)
    assert "prefill: plain torch runs" in lines[0]


def test_with_the_kernels_required_the_start_ends_and_names_part_and_reason() -> None:
    check, run = checked("kernel", decode="self-check: RuntimeError: no compiler")
    with pytest.raises(StartError, match=r"ATTENTION=kernel, but the kernels of decode .*no compiler.*ATTENTION=auto"):
        run()
    assert check.wait(0)["off"]


def test_after_a_lost_device_no_kernel_is_run_and_the_reason_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    check, run = checked("reference", lost="AcceleratorError: CUDA error: unspecified launch failure")
    parts = run()
    assert not any((parts.decode, parts.prefill, parts.layers, parts.sampler))
    assert "unspecified launch failure" in parts.reasons["decode"]
    assert check.wait(1)["restarted"] == "AcceleratorError: CUDA error: unspecified launch failure"
    assert "started again on plain torch" in capsys.readouterr().err


def test_an_error_of_the_check_ends_the_wait_for_it() -> None:
    def run(*_: object, **__: object) -> Parts:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    check = KernelCheck(SIZES, "auto", check=run)
    with pytest.raises(RuntimeError):
        check(ON)
    assert check.wait(0) == {"off": {}}


def test_a_check_that_hangs_ends_the_start() -> None:
    held = threading.Event()

    def run(parts: Parts, *_: object, **__: object) -> Parts:
        held.wait()
        return parts

    check = KernelCheck(SIZES, "auto", check=run)
    thread = threading.Thread(target=check, args=(ON,))
    thread.start()
    with pytest.raises(StartError, match=r"not done after STEP_TIMEOUT_S=0\.01: start another worker"):
        check.wait(0.01)
    held.set()
    thread.join()
