"""Facts about the GPU, and their absence."""

import pytest
import torch

from handler.machine import gpu


def test_without_a_gpu_every_figure_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (gpu.name(), gpu.utilization(), gpu.usable()) == (None, None, False)


@pytest.mark.parametrize("error", [None, RuntimeError("driver"), ModuleNotFoundError("pynvml"), KeyError("NVMLError")])
def test_a_driver_that_tells_no_load_is_no_failure(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    def utilization() -> int:
        if error is not None:
            raise error
        return 37

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "utilization", utilization)
    assert gpu.utilization() == (37 if error is None else None)


def test_torch_tells_its_versions() -> None:
    assert gpu.versions() == (torch.__version__, torch.version.cuda)
