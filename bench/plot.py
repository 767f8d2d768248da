"""Draws `docs/load.svg` from a saved run of `bench.load`: throughput and waiting by how many ask at once.

python -m bench.plot [bench/results/load.json]
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl

from bench.harness import RESULTS

mpl.use("svg")
from matplotlib import pyplot

TARGET = Path(__file__).parents[1] / "docs" / "load.svg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, default=RESULTS / "load.json")
    run = json.loads(parser.parse_args().run.read_text(encoding="utf-8"))
    table = run["tables"][0]
    columns = dict(zip(table["columns"], zip(*table["rows"], strict=True), strict=True))
    # A file that is drawn again from the same figures is the same file.
    mpl.rcParams.update({"svg.hashsalt": "load", "font.size": 9})
    figure, (rate, wait) = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    figure.suptitle(f"{table['title']}. {run['machine']}, {run['date']}", fontsize=8)
    rate.plot(columns["at once"], columns["tok/s"], marker="o")
    rate.set(xlabel="requests at once", ylabel="tokens a second", ylim=(0, None))
    for name in ("TTFT p50 ms", "TTFT p99 ms", "ITL p50 ms", "ITL p99 ms"):
        wait.plot(columns["at once"], columns[name], marker="o", label=name.removesuffix(" ms"))
    wait.set(xlabel="requests at once", ylabel="milliseconds", yscale="log")
    wait.legend(frameon=False)
    for axes in (rate, wait):
        axes.set_xscale("log", base=2)
        axes.set_xticks(columns["at once"], [str(count) for count in columns["at once"]])
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(TARGET, metadata={"Date": None})


if __name__ == "__main__":
    main()
