"""`python -m handler.precompile.launcher`: compiles the C module that Triton launches kernels with; no image has gcc.

Triton would compile it on the first GPU that it sees; it finds this one in TRITON_CACHE_DIR instead, under a name that
comes of Triton's own source and of the platform (docs/decisions/0008). Knows no model and no kernel.
"""

import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

#: the driver's library, which no build machine has; with a function of its the linker keeps it as needed
LIBRARY, CONTENTS = "libcuda.so.1", "void cuGetErrorString(void) {}"


def compile_launcher(cache: Path) -> str | None:
    """Compile the module into Triton's cache directory, with gcc and without a GPU; returns what went wrong."""
    with tempfile.TemporaryDirectory() as directory:
        stub = Path(directory, LIBRARY)
        subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", stub], input=CONTENTS, text=True, check=True)
        os.environ |= {"TRITON_LIBCUDA_PATH": directory, "TRITON_CACHE_DIR": str(cache)}
        from triton.backends.nvidia.driver import CudaUtils

        try:
            CudaUtils()
        except ImportError as error:  # compiled and kept; but then loaded, for which the driver is needed
            print(f"compiled; loaded on no GPU it says: {error}")
    kept = list(cache.rglob("cuda_utils*.so"))
    if not kept:
        return f"Triton kept no module in {cache}"
    if LIBRARY.encode() not in kept[0].read_bytes():
        return f"{kept[0]} is not linked against {LIBRARY}"
    return None


if __name__ == "__main__":
    if find_spec("triton") is None:
        print("no Triton here, as beside a torch for CPUs: nothing to compile")
    else:
        sys.exit(compile_launcher(Path(os.environ["TRITON_CACHE_DIR"])))
