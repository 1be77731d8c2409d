"""Progress: the mode that the launcher chose, and lines that are rare and complete."""

import pytest

from minigrad.cli import progress
from minigrad.cli.progress import Progress, clock, progress_mode


@pytest.fixture
def time_passes(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until a test turns it."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize("mode", ["bar", "line", "off"])
def test_the_launcher_decides(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("MINIGRAD_PROGRESS", mode)
    assert progress_mode() == mode


def test_without_a_launcher_or_terminal_there_are_lines(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.delenv("MINIGRAD_PROGRESS", raising=False)
    assert progress_mode() == "line"


def test_a_line_every_few_seconds_and_at_the_end(time_passes: list[float], capsys) -> None:
    with Progress(100, done=40, mode="line") as shown:
        for step in range(41, 101):
            time_passes[0] += 0.5
            shown.update(step, loss=2.0, tokens_per_second=12345.6)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step 41/100  loss 2.0000  12,346 tokens/s  0:30 left"
    assert lines[1].startswith("step 49/100")
    assert lines[-1] == "step 100/100  loss 2.0000  12,346 tokens/s  0:00 left"
    assert len(lines) == 9


def test_off_is_silent(capsys) -> None:
    with Progress(10, mode="off") as shown:
        shown.update(10, loss=2.5, tokens_per_second=1000)
    assert capsys.readouterr().out == ""


def test_a_bar_shows_all_figures(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with Progress(10, mode="bar") as shown:
        shown.update(10, loss=2.5, tokens_per_second=1000)
    out = capsys.readouterr().out
    assert "10/10" in out
    assert "loss 2.5000  1,000 tokens/s" in out


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (754, "12:34"), (3723, "1:02:03")]
)
def test_the_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
