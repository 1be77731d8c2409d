"""The table of operations: it compares like with like, and says where it has no excuse."""

import pytest

pytest.importorskip("torch")

from benchmarks import operations
from benchmarks.operation_rows import TABLE, Row

ROWS = [row for rows in TABLE.values() for row in rows]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_minigrad_and_torch_compute_the_same(row: Row) -> None:
    assert operations.disagreement(row) <= operations.TOLERANCE


def test_a_row_that_computes_something_else_is_seen() -> None:
    row = ROWS[0]
    wrong = Row(row.name, row.ours, lambda x: row.theirs(x) * 1.1, row.shapes)
    assert operations.disagreement(wrong) > operations.TOLERANCE
    nan = Row(row.name, row.ours, lambda x: row.theirs(x) * float("nan"), row.shapes)
    assert not operations.disagreement(nan) <= operations.TOLERANCE


def test_slow_rows_need_a_reason() -> None:
    row = Row("made up", ROWS[0].ours, ROWS[0].theirs, ROWS[0].shapes)
    slow = operations.Timing(row, 0.004, 0.001, 4.0)
    assert not slow.excused
    text = operations.markdown({"some": [slow]}, None)
    assert "1 more than 3 times slower, all with a reason: NO" in text
    assert "| made up | 512×512 | 4.000 | 1.000 | 4.00 | NO REASON |" in text
    assert operations.Timing(row, 0.002, 0.001, 2.0).excused


def test_it_runs_and_saves(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(operations, "RESULTS", tmp_path)
    assert operations.main(["--only", "sigmoid", "--rounds", "1", "--seconds", "0.001", "--save", "x"]) == 0
    assert "sigmoid" in capsys.readouterr().out
    assert "| sigmoid | 512×512 |" in (tmp_path / "x.md").read_text()
