"""The file that RunPod Hub requires. It runs `python -m handler`, which the image runs without it."""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    # Python puts this file's directory first, where `handler` would be this file itself; the package is one above.
    sys.path[0] = str(Path(__file__).parents[1])
    runpy.run_module("handler", run_name="__main__", alter_sys=True)
