"""The device: a model that it cannot hold is refused before it is loaded, with the cause and the cure."""

import ctypes
from typing import Any

import pytest
import torch

from handler.errors import StartError
from handler.machine.device import GIB, Device, Gpu, read

#: Qwen2.5-7B-Instruct in bfloat16: the sizes of its four shards
SEVEN_B = 15_231_271_864
NAME = "Qwen/Qwen2.5-7B-Instruct"


def gpu(total_gib: float, free_gib: float | None = None) -> Device:
    free = total_gib * 0.98 if free_gib is None else free_gib
    return Device(Gpu("NVIDIA X", int(total_gib * GIB), int(free * GIB)), "12.8", "12.8")


@pytest.mark.parametrize(("total_gib", "weights"), [(24, SEVEN_B), (20, SEVEN_B), (16, SEVEN_B // 2), (80, SEVEN_B)])
def test_a_model_that_fits_is_accepted(total_gib: float, weights: int) -> None:
    gpu(total_gib).check(NAME, weights, on_runpod=True)


@pytest.mark.parametrize(
    ("total_gib", "weights", "pool"),
    [(16, SEVEN_B, 24), (12, SEVEN_B, 24), (24, 2 * SEVEN_B, 32), (24, 65 * 10**9, 80)],
)
def test_the_error_of_a_gpu_that_is_too_small_names_the_pool_to_choose(
    total_gib: float, weights: int, pool: int
) -> None:
    with pytest.raises(StartError) as small:
        gpu(total_gib).check(NAME, weights, on_runpod=False)
    for part in (NAME, f"{weights / 1e9:.1f} GB are weights", "NVIDIA X", f"choose a pool of {pool} GB GPUs"):
        assert part in str(small.value)


def test_a_gpu_that_another_process_fills_has_an_error_of_its_own() -> None:
    with pytest.raises(StartError, match="another process uses the rest"):
        gpu(24, free_gib=3).check(NAME, SEVEN_B, on_runpod=True)


@pytest.mark.parametrize(
    ("device", "cause"),
    [
        (
            Device(None, "12.8", "12.4"),
            "runs CUDA 12.4, torch is built for 12.8; set the endpoint's allowedCudaVersions",
        ),
        (Device(None, "12.10", "12.9"), "runs CUDA 12.9, torch is built for 12.10"),
        (Device(None, "12.8", None), "no NVIDIA driver: choose a GPU pool"),
        (
            Device(None, "12.8", "13.0"),
            "the GPU does not respond, although the driver does: this machine is broken, start another worker",
        ),
        (Device(None, None, "13.0"), "torch is built for CPUs"),
    ],
)
def test_a_large_model_without_a_usable_gpu_is_refused_on_runpod(device: Device, cause: str) -> None:
    with pytest.raises(StartError, match=cause):
        device.check(NAME, SEVEN_B, on_runpod=True)
    device.check(NAME, SEVEN_B, on_runpod=False)
    device.check("demo", 6_000_000, on_runpod=True)


def test_a_machine_is_read_as_it_is() -> None:
    device = read()
    assert (device.gpu is not None) == torch.cuda.is_available()
    assert device.torch_cuda == torch.version.cuda


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_is_read_by_name_memory_and_driver() -> None:
    device = read()
    assert device.gpu is not None
    assert device.gpu.name == torch.cuda.get_device_name()
    assert 0 < device.gpu.free <= device.gpu.total
    assert device.driver_cuda is not None


def test_a_gpu_that_does_not_work_stops_the_start_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> tuple[int, int]:
        raise RuntimeError("CUDA error: unknown error\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", broken)
    with pytest.raises(StartError, match=r"does not work \(CUDA error: unknown error\): this machine is broken"):
        read()


@pytest.mark.parametrize(("failed", "version"), [(0, "12.8"), (3, None)])
def test_the_cuda_version_is_read_from_the_driver(
    monkeypatch: pytest.MonkeyPatch, failed: int, version: str | None
) -> None:
    class Driver:
        def __init__(self, name: str) -> None: ...

        def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802  as the driver calls it
            version._obj.value = 12080
            return failed

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(ctypes, "CDLL", Driver)
    assert read().driver_cuda == version
