"""What docs/pipelines.md says is so: its code runs, its pictures and its table are computed again."""

import re
import shlex
from pathlib import Path

import pytest

from minigrad.cli.main import main
from minigrad.dist.schedules import make
from minigrad.dist.timing import peak_activations, simulate

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    minigrad (schedule .* -o \S+)$", PAGE, re.MULTILINE)


def test_the_code_runs():
    code = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(code) >= 8
    exec(compile("\n".join(code), "docs/pipelines.md", "exec"), {})  # noqa: S102 - our own page


@pytest.mark.parametrize("command", COMMANDS)
def test_pictures_are_those_of_the_commands(command: str, tmp_path, capsys):
    *words, _, path = shlex.split(command)
    assert main([*words, "-o", str(tmp_path / "x.svg")]) == 0
    assert (tmp_path / "x.svg").read_text() == (ROOT / path).read_text()
    assert f"]({Path(path).name})" in PAGE


def test_every_picture_is_there():
    assert len(COMMANDS) == 9
    assert (ROOT / "docs" / "pipelines_trace.svg").read_text().count(">measured<") == 1


def test_the_table():
    rows = re.findall(
        r"^\| `([\w-]+)`.* \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) % \| ([\d. ]+) \|$", PAGE, re.MULTILINE
    )
    assert len(rows) == 6
    for name, makespan, idle, bubble, peaks in rows:
        schedule = make(name, 4, 8, virtual=2 if name == "interleaved" else 1)
        timeline = simulate(schedule)
        assert timeline.makespan == float(makespan)
        assert timeline.idle == [float(idle)] * 4
        assert abs(100 * timeline.bubble_fraction - float(bubble)) < 0.05
        assert peak_activations(schedule) == [float(peak) for peak in peaks.split()]
