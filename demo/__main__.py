"""`python -m demo OUT_DIR`: trains the demo model and writes its checkpoint. `recipe` does the work."""

import argparse
from pathlib import Path

from demo.recipe import make
from demo.training import STEPS


def main() -> None:
    parser = argparse.ArgumentParser("python -m demo", description="Train the demo model and write its checkpoint.")
    parser.add_argument("out", type=Path, help="the directory to write")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    make(arguments.out, arguments.steps)


if __name__ == "__main__":
    main()
