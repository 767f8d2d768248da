"""The parts of a step that have two implementations, and which of the two runs for each. Knows no tensor, no device."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, get_args

from pydantic import JsonValue

Part = Literal["decode", "prefill", "layers", "sampler"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, slots=True)
class Parts:
    """For each part: True where its kernels run, False where plain torch does."""

    #: attention of rows with one new token: a Triton kernel, or SDPA over gathered pages
    decode: bool
    #: attention of chunks: FlashAttention, or SDPA for one row after the other
    prefill: bool
    #: the operations between matrix products: Triton, or torch's operators
    layers: bool
    #: penalties, truncation and the draw: Triton, or torch's operators
    sampler: bool
    #: part -> why it runs as it does
    reasons: Mapping[Part, str] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def every(cls, kernels: bool, reason: str) -> "Parts":
        """The same implementation, for the same reason, for each part."""
        return cls(kernels, kernels, kernels, kernels, MappingProxyType(dict.fromkeys(PARTS, reason)))

    def without(self, reasons: Mapping[Part, str]) -> "Parts":
        """The same, but plain torch runs the parts that `reasons` names.

        Without the kernel of decode the kernels of the layers are off too. Plain attention reads the slots that it
        masks, and needs their values finite: `KVPages.write` takes care of that, the kernels do not.
        """
        off = dict(reasons)
        if "decode" in off and self.layers:
            off.setdefault("layers", "plain decode needs finite values in every slot, which the kernels do not ensure")
        return replace(self, **dict.fromkeys(off, False), reasons=MappingProxyType({**self.reasons, **off}))

    @property
    def capturable(self) -> bool:
        """True where a CUDA graph can capture a decode step: plain torch needs lengths and options on the host."""
        return self.decode and self.layers and self.sampler

    def describe(self) -> dict[str, JsonValue]:
        """For the ledger and `info`: of each part whether its kernels run, and why."""
        return {part: {"kernels": getattr(self, part), "reason": self.reasons.get(part, "")} for part in PARTS}


#: plain torch for everything: where no kernel can run, or none is wanted
PLAIN = Parts.every(False, "plain torch")
