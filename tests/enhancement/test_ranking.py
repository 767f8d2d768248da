"""The score orders answers as a person would: forty prompts, seven kinds of answer each, five languages."""

import json
from functools import cache
from pathlib import Path

import pytest

from handler.enhancement.clean import clean
from handler.enhancement.draft import Draft
from handler.enhancement.judge import judged
from tests.support.enhancing import a_brief

ROWS = json.loads((Path(__file__).parent / "data" / "ranking.json").read_text(encoding="utf-8"))
#: weights, levels and thresholds were chosen with the first half alone
TUNED, HELD_OUT = ROWS[::2], ROWS[1::2]
BAD = ("keywords", "echo", "chatter", "other", "swapped", "again")
HALVES = pytest.mark.parametrize("rows", [TUNED, HELD_OUT], ids=["tuned on", "held out"])
Row = dict[str, str]


def answers(rows: list[Row]) -> list[tuple[Row, dict[str, str]]]:
    """Each row with its seven answers; that on another subject is the good one of another row in the same language."""
    found = []
    for row in rows:
        same = [one for one in rows if one["language"] == row["language"]]
        other = same[(same.index(row) + 1) % len(same)]["good"]
        again = f"{row['prompt'][0].upper()}{row['prompt'][1:]}."
        found.append(
            (row, {**{kind: row[kind] for kind in ("good", *BAD) if kind in row}, "other": other, "again": again})
        )
    return found


@cache
def score(prompt: str, job_type: str, answer: str) -> tuple[float, float]:
    """The score of an answer before repairs, and the prompt's own."""
    brief = a_brief(prompt, job_type=job_type)
    result = judged(brief, Draft(clean(answer, prompt, brief.words)))
    assert result.quality_score is not None
    assert result.enhancement is not None
    assert result.enhancement.score is not None
    return result.quality_score, result.enhancement.score.score_original


def scores(rows: list[Row]) -> list[dict[str, float]]:
    """By kind of answer, one for each row; `original` is the prompt itself."""
    found = []
    for row, kinds in answers(rows):
        scored = {kind: score(row["prompt"], row["job_type"], answer)[0] for kind, answer in kinds.items()}
        found.append({**scored, "original": score(row["prompt"], row["job_type"], row["good"])[1]})
    return found


@HALVES
def test_a_good_answer_scores_above_every_other_kind(rows: list[Row]) -> None:
    pairs = [one["good"] > one[kind] for one in scores(rows) for kind in BAD]
    assert len(pairs) == 120
    assert sum(pairs) / len(pairs) >= 0.95


@HALVES
@pytest.mark.parametrize("kind", BAD)
def test_no_kind_is_taken_for_a_good_answer_more_than_once_in_ten(rows: list[Row], kind: str) -> None:
    assert sum(one["good"] <= one[kind] for one in scores(rows)) <= 2


@HALVES
@pytest.mark.parametrize(("better", "worse"), [("keywords", "echo"), ("echo", "chatter"), ("chatter", "other")])
def test_the_worse_kinds_are_in_order_too(rows: list[Row], better: str, worse: str) -> None:
    pairs = [one[better] > one[worse] for one in scores(rows)]
    assert sum(pairs) / len(pairs) >= 0.8


@HALVES
def test_what_is_no_better_than_the_prompt_scores_no_higher_than_it(rows: list[Row]) -> None:
    for one in scores(rows):
        assert one["again"] <= one["original"] < one["good"]
        assert max(one["echo"], one["other"]) < one["original"]
