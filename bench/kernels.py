"""What each kernel takes of a multiprocessor: registers, spills and shared memory, by ptxas, without a GPU.

    python -m bench.kernels [--model Qwen2.5-7B] [--save]

`programs` are those that fit one multiprocessor together by registers, of which it has 65,536, and threads.
"""

import argparse
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triton import knobs

from bench.harness import Bench
from handler.precompile.__main__ import compile_kernels
from handler.precompile.cache import ARCHITECTURES, compiling_for
from handler.precompile.common import COMMON

#: of a multiprocessor: registers, and threads (1,536 on GPUs for desktops, 2,048 on the others)
REGISTERS, THREADS = 65_536, {80: 2048, 86: 1536, 89: 1536, 90: 2048, 100: 2048, 120: 1536}


@dataclass(frozen=True, slots=True)
class Usage:
    """What one compiled kernel takes."""

    name: str
    architecture: int
    #: of one thread
    registers: int
    #: bytes of one thread that do not fit its registers
    spilled: int
    #: bytes of one program
    shared: int
    warps: int

    @property
    def programs(self) -> int:
        """How many fit a multiprocessor at once, by registers and threads."""
        threads = 32 * self.warps
        # registers are allocated by 256 for each warp
        by_registers = REGISTERS // (self.warps * -(-self.registers * 32 // 256) * 256)
        return min(by_registers, THREADS[self.architecture] // threads)


def usage(kernel: Any) -> Usage:
    """Run ptxas with -v on the PTX of Triton's `CompiledKernel`; Triton's own call keeps no report."""
    ptx = kernel.asm["ptx"]
    target = re.search(r"^\.target (sm_(\d+)a?)", ptx, re.MULTILINE)
    assert target is not None
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "kernel.ptx")
        source.write_text(ptx, encoding="utf-8")
        tool = (knobs.nvidia.ptxas_blackwell if int(target[2]) >= 100 else knobs.nvidia.ptxas).path
        command = [tool, "-v", f"--gpu-name={target[1]}", source, "-o", Path(directory, "kernel.cubin")]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    (registers,) = re.findall(r"Used (\d+) registers", report)
    spilled = sum(map(int, re.findall(r"(\d+) bytes spill stores", report)))
    return Usage(
        kernel.metadata.name, int(target[2]), int(registers), spilled, kernel.metadata.shared, kernel.metadata.num_warps
    )


def usages(model: str, architecture: int) -> list[Usage]:
    """The kernels of a decode step of a `COMMON` model, each once, in the order of their first call."""
    with compiling_for(architecture) as kernels:
        compile_kernels(*COMMON[model])
    return [usage(kernel) for kernel in {kernel.hash: kernel for kernel in kernels}.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="Qwen2.5-7B", choices=COMMON)
    parser.add_argument("--save", action="store_true")
    wishes = parser.parse_args()
    bench = Bench("kernels")
    table = bench.table(
        f"The kernels of {wishes.model}, registers a thread + bytes spilled / bytes of shared memory a program / "
        "programs on a multiprocessor",
        ["kernel", *(f"sm_{architecture}" for architecture in ARCHITECTURES)],
    )
    columns = [usages(wishes.model, architecture) for architecture in ARCHITECTURES]
    for row in zip(*columns, strict=True):
        cells = [
            f"{one.registers}{f' + {one.spilled}' if one.spilled else ''} / {one.shared:,} / {one.programs}"
            for one in row
        ]
        table.add(row[0].name, *cells)
    bench.finish(wishes.save)


if __name__ == "__main__":
    main()
