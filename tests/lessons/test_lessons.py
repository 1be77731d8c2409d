"""Every lesson: its solution is right, its stubs are to do, its mutants are caught, 1 and 4 ranks agree."""

import os
import re
import resource
import subprocess
import sys
import tempfile
from functools import cache

import pytest

from minigrad.lessons import Lesson, find_lesson, lessons
from minigrad.lessons.mutants import mutants_of, plant
from minigrad.lessons.verdict import check, check_each
from tests.packaging.tree import ROOT

NUMBERS = [lesson.number for lesson in lessons()]
QUICK_SECONDS = 10.0
SLACK = 6.0  # a busy machine, and two interpreters that start


@cache
def on_one_rank(number: int) -> tuple[str, float]:
    """What the lesson's short form prints as a plain script, and the processor seconds it took."""
    lesson = find_lesson(number)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, str(lesson.folder / "lesson.py")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"MINIGRAD_QUICK": "1", "MINIGRAD_FIGURES": _figures(), "PYTHONPATH": str(ROOT)},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return done.stdout, after.ru_utime - before.ru_utime


@cache
def _figures() -> str:
    return tempfile.mkdtemp(prefix="minigrad-figures-")


def findings(result):
    return [finding for verdict in result.verdicts for finding in verdict.findings if finding.state != "done"]


@pytest.mark.parametrize("number", NUMBERS)
def test_the_solution_is_right_and_the_stubs_are_to_do(number):
    lesson = find_lesson(number)
    assert findings(check(lesson, lesson.folder / "solution.py", guarded=False)) == []
    stubs = check(lesson, lesson.folder / "exercise.py")
    assert {verdict.state for verdict in stubs.verdicts} == {"todo"}, findings(stubs)
    assert 3 <= len(lesson.exercises) <= 6


@pytest.mark.parametrize("number", NUMBERS)
def test_the_solution_needs_no_piece_that_it_rebuilds(number, tmp_path):
    lesson = find_lesson(number)
    copy = tmp_path / "exercise.py"
    copy.write_text((lesson.folder / "solution.py").read_text())
    assert findings(check(lesson, copy)) == []


@pytest.mark.parametrize("number", NUMBERS)
def test_every_mutant_is_caught(number, tmp_path):
    lesson = find_lesson(number)
    mutants = mutants_of(lesson)
    assert 5 <= len(mutants) <= 12
    planted = []
    for number, mutant in enumerate(mutants):
        (tmp_path / str(number)).mkdir()
        planted.append((mutant.exercise, plant(lesson, mutant, tmp_path / str(number))))
    verdicts = check_each(lesson, planted)
    caught = {mutant.mistake: one.state for mutant, one in zip(mutants, verdicts, strict=True)}
    assert {name: state for name, state in caught.items() if state not in ("failed", "endless")} == {}


@pytest.mark.parametrize("number", NUMBERS)
def test_the_lesson_runs_in_ten_seconds(number):
    lesson: Lesson = find_lesson(number)
    printed, seconds = on_one_rank(number)
    assert printed.count("[figure ") >= 3
    assert seconds <= QUICK_SECONDS + SLACK
    assert len((lesson.folder / "lesson.py").read_text().splitlines()) <= 260


@pytest.mark.parametrize("number", NUMBERS)
def test_four_processes_print_what_one_does(number, mpirun, monkeypatch):
    monkeypatch.setenv("MINIGRAD_QUICK", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MINIGRAD_FIGURES", _figures())
    lesson = find_lesson(number)
    done = mpirun([str(lesson.folder / "lesson.py")], ranks=4, seconds=120)
    assert done.returncode == 0, done.stderr
    assert without_times(done.stdout) == without_times(on_one_rank(number)[0])


def without_times(printed: str) -> list[str]:
    """The lines without measured times, which lessons mark by their unit."""
    return [
        re.sub(r"\d[\d.]* (ms|s|us|µs)\b", "TIME", line.rstrip())
        for line in printed.splitlines()
        if line.strip()
    ]


def test_figures_are_the_same_to_the_byte():
    from minigrad.lessons.site import performed

    first, again = (performed(find_lesson(1), quick=True) for _ in range(2))
    for entry in (*first, *again):
        del entry["seconds"]
    assert first == again
