"""The worker's entry under the name that RunPod Hub looks for; the image starts `python -m handler` itself."""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # where the package is; beside this file its name would mean this file
    runpy.run_module("handler", run_name="__main__", alter_sys=True)
