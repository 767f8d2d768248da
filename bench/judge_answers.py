"""The labelled answers of `bench.judge`, by set; of the tests' data, in which each file says what is right."""

import json
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tests.enhancement.test_ranking import HELD_OUT, TUNED
from tests.enhancement.test_ranking import answers as kinds_of

DATA = Path(__file__).parents[1] / "tests" / "enhancement" / "data"
#: each set, and whether neither the model's contexts nor its thresholds were chosen with it. The rules were written
#: with `tables`, of which they judge every one rightly, and tuned with `ranking, tuned`.
SETS: Mapping[str, bool] = {
    "labelled": False,
    "behind": False,
    "ranking-tuned": False,
    "ranking-held": True,
    "tables": True,
}
#: marks at a prompt's end that another takes the place of
_ENDS = " .,;:。，；：、"


class Answer(NamedTuple):
    """A prompt, an answer to it, and whether that is a prompt: `order` is compared with the good one alone."""

    group: str
    language: str
    prompt: str
    text: str
    label: Literal["good", "bad", "order"]
    kind: str
    #: it begins with the prompt, which the model did not write
    begun: bool = False
    job_type: str = "sdxl_image_fast"


def answers() -> list[Answer]:
    """All of them, in the order of their sets."""
    return list(dict.fromkeys(chain(_labelled(), _ranking(), _tables())))


def _labelled() -> Iterator[Answer]:
    rows = _read("labelled")
    for row in rows:
        yield Answer("labelled", row["language"], row["prompt"], row["answer"], row["label"], row["kind"])
    for row in rows:
        own = row["prompt"].rstrip(_ENDS)
        if row["label"] == "bad" and row["kind"] != "other place":  # which is a description, too
            text = f"{own}, {row['answer']}"
            yield Answer("behind", row["language"], row["prompt"], text, "bad", row["kind"], begun=True)
        elif row["label"] == "good" and row["answer"].startswith(own):
            yield Answer("behind", row["language"], row["prompt"], row["answer"], "good", row["kind"], begun=True)


def _ranking() -> Iterator[Answer]:
    for name, rows in (("ranking-tuned", TUNED), ("ranking-held", HELD_OUT)):
        for row, kinds in kinds_of(rows):
            for kind in ("good", "keywords", "echo", "chatter", "other", "swapped"):
                if kind in kinds:
                    label: Any = {"good": "good", "keywords": "good", "swapped": "order"}.get(kind, "bad")
                    job_type = row["job_type"]
                    yield Answer(name, row["language"], row["prompt"], kinds[kind], label, kind, job_type=job_type)


def _tables() -> Iterator[Answer]:
    for name in ("field", "bad_answers", "good_answers"):
        for row in _read(name):
            if "needs" in row or "language" in row or not row["answer"].strip():
                continue
            label: Any = "bad" if "fault" in row else "good"
            kind = row.get("fault", "good answer")
            yield Answer("tables", "of tables", row["prompt"], row["answer"], label, kind, row.get("begun", False))


def _read(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    return rows
