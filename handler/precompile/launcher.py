"""`python -m handler.precompile.launcher`: compiles the C module with which Triton launches kernels.

Without it Triton compiles the module when the first kernel runs, with gcc, which the image does not have. Triton looks
it up in TRITON_CACHE_DIR by a hash of its source and of the platform (docs/decisions/0008). Knows no model and no
kernel, and imports nothing of this project.
"""

import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

#: the driver's library, which no build machine has, and a function of it, so that the linker records the library
LIBRARY, SOURCE = "libcuda.so.1", "void cuGetErrorString(void) {}"


def compile_launcher(cache: Path) -> str | None:
    """Compile the module into Triton's cache directory, with gcc and no GPU; returns a message where it failed."""
    with tempfile.TemporaryDirectory() as directory:
        stub = Path(directory, LIBRARY)
        subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", stub], input=SOURCE, text=True, check=True)
        os.environ |= {"TRITON_LIBCUDA_PATH": directory, "TRITON_CACHE_DIR": str(cache)}
        from triton.backends.nvidia.driver import CudaUtils

        try:
            CudaUtils()
        except ImportError as error:  # Triton compiles the module, keeps it, and then loads it, which needs the driver
            print(f"compiled; without a driver it cannot be loaded here: {error}")
    modules = list(cache.rglob("cuda_utils*.so"))
    if not modules:
        return f"Triton kept no module in {cache}: see how this version names it"
    if LIBRARY.encode() not in modules[0].read_bytes():
        return f"{modules[0]} is not linked against {LIBRARY}"
    return None


if __name__ == "__main__":
    if find_spec("triton") is None:
        print("Triton is not installed, as with a PyTorch for CPUs: nothing to compile")
    else:
        sys.exit(compile_launcher(Path(os.environ["TRITON_CACHE_DIR"])))
