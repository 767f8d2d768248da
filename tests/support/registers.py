"""`python -m tests.support.registers`: what the sampler's kernels take on each architecture, a line of JSON for each.

In a process of its own, because tests of kernels make Triton interpret. The sampler is that of Qwen2.5-7B.
"""

import json
import re
import sys

import torch

from bench.kernels import usage
from handler.inference.sampler import Sampler
from handler.ops.sampling_triton import BLOCK
from handler.precompile.cache import ARCHITECTURES, compiling_for


def main() -> None:
    rows = torch.zeros(1, dtype=torch.int64, device="meta")
    sampler = Sampler(1, 152_064, 151_665, rows.device, kernels=True)
    logits = torch.zeros(1, 152_064, dtype=torch.bfloat16, device=rows.device)
    for architecture in ARCHITECTURES:
        with compiling_for(architecture) as kernels:
            sampler.sample(logits, rows, rows)
        for kernel in {kernel.hash: kernel for kernel in kernels}.values():
            taken = usage(kernel)
            line = {
                "architecture": architecture, "kernel": taken.name, "registers": taken.registers,
                "spilled": taken.spilled, "double": f"tensor<{BLOCK}xf64>" in kernel.asm["ttir"],
                "inexact": re.findall(r"div\.full|lg2\.approx", kernel.asm["ptx"]),
            }  # fmt: skip
            sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
