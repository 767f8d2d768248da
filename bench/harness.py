"""What every bench prints: the machine and versions first, its tables last, and the same as JSON beside.

A figure of this machine means little on another. Columns that compare two sides of one run do, and they alone are held
against the last committed run (`bench/results/NAME.json`).
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

#: that decide about speed; a machine that is lent may not have all of them
LIBRARIES = ("torch", "triton", "transformers", "runpod")
RESULTS = Path(__file__).parent / "results"
#: a ratio further below the committed one than this is called worse; two runs on a shared machine differ by as much
NOISE = 0.85

Cell = str | int | float | None


def machine(device: str = "cpu") -> dict[str, str]:
    """Where and with what the figures were taken."""
    if device == "cuda":
        where = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    else:
        where = f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return {
        "machine": where,
        "load": f"{os.getloadavg()[0]:.1f}",
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        **{library: version(library) for library in LIBRARIES if find_spec(library)},
    }


class Table:
    """Rows of one kind: the first `labels` columns name a row, the others hold figures."""

    def __init__(self, title: str, columns: Sequence[str], *, labels: int = 1, ratio: str | None = None) -> None:
        """`ratio` is the column, larger for better, that says something on any machine."""
        self.title, self.columns, self.labels, self.ratio = title, tuple(columns), labels, ratio
        self.rows: list[tuple[Cell, ...]] = []

    def add(self, *cells: Cell) -> None:
        """Add a row, and print it for whoever is waiting."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{self.title}: {len(cells)} cells for {len(self.columns)} columns")
        self.rows.append(cells)
        print(
            "  " + "  ".join(f"{name} {text(cell)}" for name, cell in zip(self.columns, cells, strict=True)), flush=True
        )

    def markdown(self) -> str:
        lines = [f"**{self.title}**", "", _line(self.columns), _line(["---"] * len(self.columns))]
        return "\n".join([*lines, *(_line([text(cell) for cell in row]) for row in self.rows)])

    def ratios(self) -> dict[str, float]:
        """The ratio of each row, by its labels."""
        if self.ratio is None:
            return {}
        at = self.columns.index(self.ratio)
        cells = {" ".join(map(str, row[: self.labels])): row[at] for row in self.rows}
        return {label: float(cell) for label, cell in cells.items() if isinstance(cell, int | float)}


class Bench:
    """One run of one bench."""

    def __init__(self, name: str, *, device: str = "cpu") -> None:
        self.name = name if device == "cpu" else f"{name}-{device}"
        self.facts = {**machine(device), "command": " ".join(["python -m", f"bench.{name}", *sys.argv[1:]])}
        self.tables: list[Table] = []
        print(", ".join(f"{key} {value}" for key, value in self.facts.items()), flush=True)

    def table(self, title: str, columns: Sequence[str], *, labels: int = 1, ratio: str | None = None) -> Table:
        table = Table(title, columns, labels=labels, ratio=ratio)
        self.tables.append(table)
        return table

    def finish(self, save: bool, results: Path = RESULTS) -> list[str]:
        """Print the tables and what became worse since the committed run, which `save` replaces with this one."""
        path = results / f"{self.name}.json"
        for table in self.tables:
            print(f"\n{table.markdown()}")
        worse = compare(self.tables, json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []
        for line in worse:
            print(f"worse: {line}")
        if save:
            results.mkdir(exist_ok=True)
            path.write_text(json.dumps(self.as_json(), indent=1) + "\n", encoding="utf-8")
        return worse

    def as_json(self) -> dict[str, object]:
        return {
            **self.facts,
            "tables": [
                {"title": t.title, "columns": t.columns, "rows": t.rows, "ratios": t.ratios()} for t in self.tables
            ],
        }


def compare(tables: Sequence[Table], committed: Mapping[str, object]) -> list[str]:
    """A line for each ratio that fell by more than noise."""
    before = {table["title"]: table["ratios"] for table in committed["tables"]}  # type: ignore[attr-defined]
    worse = []
    for table in tables:
        for label, ratio in table.ratios().items():
            then = before.get(table.title, {}).get(label)
            if then is not None and ratio < NOISE * then:
                worse.append(
                    f"{table.title}, {label}: {table.ratio} {ratio:.2f}, was {then:.2f} on {committed['date']}"
                )
    return worse


def alternate(sides: Mapping[str, Callable[[], float]], repeat: int) -> dict[str, float]:
    """The median of each side's figure. Sides take turns, so that a machine that is shared slows all of them alike."""
    seen: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeat):
        for name, run in sides.items():
            seen[name].append(run())
    return {name: statistics.median(figures) for name, figures in seen.items()}


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that so many percent of the values do not exceed; of one value that value."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def text(cell: Cell) -> str:
    """Three digits that count, as a reader wants them."""
    match cell:
        case None:
            return "-"
        case float() if abs(cell) >= 100:
            return f"{cell:,.0f}"
        case float() if abs(cell) >= 10:
            return f"{cell:.1f}"
        case float():
            return f"{cell:.2f}"
        case int():
            return f"{cell:,}"
    return cell


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _processor() -> str:
    """The processor's name, where the kernel tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
