"""Every decision record begins with the same head: title, date, status, decision."""

import re
from pathlib import Path

import pytest

RECORDS = sorted((Path(__file__).parents[1] / "docs" / "decisions").glob("*.md"))
HEAD = r"# (\d+)\. .+\n\*\*Date\*\*: 20\d\d-\d\d-\d\d · \*\*Status\*\*: \w.*\n\*\*Decision\*\*: \S"


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.stem)
def test_a_decision_record_has_the_head(record: Path) -> None:
    head = re.match(HEAD, record.read_text(encoding="utf-8"))
    assert head is not None
    assert record.name.startswith(f"{int(head[1]):04}-")


def test_decision_records_are_numbered_without_gaps() -> None:
    assert [int(path.name[:4]) for path in RECORDS] == [*range(1, len(RECORDS) + 1)]
