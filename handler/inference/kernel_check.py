"""The self-check of one worker: runs on the engine's thread, logs which parts are off, and may end the start.

`ops/self_check` compares the kernels. Knows the model's shape, no request and no queue.
"""

import threading
from collections.abc import Callable
from typing import Literal

from pydantic import JsonValue

from handler import log
from handler.engine.protocol import ModelInfo
from handler.errors import StartError
from handler.inference.faults import device_is_lost
from handler.inference.model import Model
from handler.ops import self_check
from handler.ops.check_step import Sizes
from handler.ops.parts import PARTS, Part, Parts


def sizes_of(model: Model, info: ModelInfo, page_size: int, tokens_in_vocab: int) -> Sizes:
    """The shapes in which the check runs the kernels."""
    shape = model.shape
    return Sizes(
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        hidden=shape.hidden,
        intermediate=shape.intermediate,
        vocab=info.vocab_size,
        tokens=tokens_in_vocab,
        page_size=page_size,
        dtype=model.dtype,
        device=model.device,
        norms=info.architecture == "qwen3",
    )


class KernelCheck:
    """Called once on the engine's thread, before the first capture; the thread that starts the worker waits for it."""

    def __init__(
        self,
        sizes: Sizes,
        setting: Literal["auto", "reference", "kernel"],
        *,
        lost: str | None = None,
        check: Callable[..., Parts] = self_check.check,
    ) -> None:
        """`setting` is ATTENTION. `lost` is the error of the process before this one, which lost its device."""
        self._sizes, self._setting, self._lost, self._run = sizes, setting, lost, check
        self._off: dict[Part, str] = {}
        self._done = threading.Event()

    def __call__(self, parts: Parts) -> Parts:
        """The parts that run, with a reason for each.

        Raises:
            StartError: ATTENTION=kernel, and the kernels of a part are off.
            Exception: an error after which this process cannot use the device.
        """
        try:
            return self._checked(parts)
        finally:
            self._done.set()

    def wait(self, timeout_s: float) -> dict[str, JsonValue]:
        """Wait until the check is over, be it by an error; returns its facts for the ledger.

        Raises:
            StartError: it takes longer than `timeout_s` seconds.
        """
        if not self._done.wait(timeout_s):
            raise StartError(
                f"the self-check of the kernels is not done after STEP_TIMEOUT_S={timeout_s:g}: start another worker"
            )
        facts: dict[str, JsonValue] = {"off": {str(part): reason for part, reason in self._off.items()}}
        return facts if self._lost is None else {**facts, "restarted": self._lost}

    def _checked(self, parts: Parts) -> Parts:
        if self._lost is not None:
            reason = f"the device was lost in the warm-up ({self._lost}), and the worker started again on plain torch"
            log.warn(f"plain torch runs for every part: {reason}", reason=reason)
            return Parts.every(False, reason)
        checked = self._run(parts, self._sizes, fatal=device_is_lost)
        self._off = {
            part: checked.reasons[part] for part in PARTS if getattr(parts, part) and not getattr(checked, part)
        }
        for part, reason in self._off.items():
            if self._setting == "kernel":
                raise StartError(
                    f"ATTENTION=kernel, but the kernels of {part} cannot serve ({reason}): start another worker, or "
                    "set ATTENTION=auto, which serves this part by plain torch"
                )
            log.warn(f"{part}: plain torch runs, slower than the kernels: {reason}", part=part, reason=reason)
        return checked
