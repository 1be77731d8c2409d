"""Grading what learners really hand in: nothing, garbage, floods, links; and systems that contain nothing."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from minigrad.cli import grade
from minigrad.cli.main import main
from minigrad.lessons import contain, find_lesson
from minigrad.lessons.contain import PARTS, contained
from minigrad.lessons.verdict import ANSWER_BYTES
from tests.cli.common import running, start, wait_until
from tests.packaging.tree import ROOT

SOLUTION = (find_lesson(1).folder / "solution.py").read_text()
FLOOD = "print('x' * 100_000_000)\n"
PEEK = f"import os\nassert not os.popen('cat {find_lesson(1).folder}/solution.py').read()\n"
LEFT = """import os, threading, time
threading.Thread(target=time.sleep, args=[61]).start()
os.fork() or time.sleep(61)
"""


@pytest.fixture
def submissions(tmp_path, monkeypatch):
    """A function that hands in an answer to lesson 1; the working folder is where the tables go."""
    monkeypatch.chdir(tmp_path)

    def submit(who: str, content: bytes | str) -> Path:
        folder = tmp_path / "all" / who / find_lesson(1).name
        folder.mkdir(parents=True)
        content = content.encode() if isinstance(content, str) else content
        (folder / "exercise.py").write_bytes(content)
        return folder

    return submit


def graded():
    """Rows by learner, and the first message that each was given."""
    with open("grades.csv", newline="", encoding="utf-8") as file:
        rows = {row["learner"]: row for row in csv.DictReader(file)}
    grades = json.loads(Path("grades.json").read_text())["grades"]
    return rows, {one["learner"]: one["exercises"][0]["findings"][0]["message"] for one in grades}


@pytest.mark.skipif(not all(contained().values()), reason="this system does not offer containment")
def test_each_odd_submission_is_one_sentence(submissions, capsys):
    submissions("ann", SOLUTION)
    submissions("bytes", b"\0\xff\xfe")
    submissions("flood", FLOOD + SOLUTION)
    submissions("huge", b"#" * (ANSWER_BYTES + 1))
    link = submissions("link", "") / "exercise.py"
    link.unlink()
    link.symlink_to(Path("all", "ann", "01_graphs", "exercise.py").resolve())
    submissions("left", LEFT + SOLUTION)
    submissions("peek", PEEK + SOLUTION)
    Path("all", "zoe").mkdir()
    assert main(["grade", "all", "--lessons", "1", "--quick"]) == 0
    out = capsys.readouterr().out
    assert "zoe has no exercise.py of these lessons" in out
    assert out.count("(read it)") == 3  # left, peek, and what the mark means
    rows, said = graded()
    assert {who: int(row["points"]) for who, row in rows.items()} == {
        **dict.fromkeys(("ann", "left", "peek"), 10),
        **dict.fromkeys(("bytes", "flood", "huge", "link"), 0),
    }
    assert rows["ann"]["read"] == ""
    assert rows["peek"]["read"].startswith("line 1: os; line 2: ")
    assert said["bytes"].startswith("exercise.py is no text of Python: ")
    assert said["flood"] == "exercise.py prints or writes more than 64 MB"
    assert said["huge"] == "exercise.py has 1,048,577 bytes; an answer has at most 1,048,576"
    assert said["link"] == "exercise.py is a link"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_folders_of_any_name_are_graded(submissions, monkeypatch, capsys):
    monkeypatch.setattr(grade, "root", lambda: False)
    for name in ("two\nlines", os.fsdecode(b"b\xff"), "名 ü"):
        submissions(name, b"#" * (ANSWER_BYTES + 1))  # told without a process
    assert main(["grade", "all", "--lessons", "1", "--quick"]) == 0
    assert set(graded()[0]) == {r"two\nlines", r"b\udcff", "名 ü"}
    assert capsys.readouterr().out.count(" 0/10") == 3


def test_what_was_graded_before_an_interrupt_is_kept(submissions, monkeypatch, capsys):
    monkeypatch.setattr(grade, "root", lambda: False)
    for name in ("ann", "ben", "cid"):
        submissions(name, b"#" * (ANSWER_BYTES + 1))
    graded_one = grade.grade_one

    def until_ben(folder, answer, *rest):
        if "ben" in answer.parts:
            raise KeyboardInterrupt
        return graded_one(folder, answer, *rest)

    monkeypatch.setattr(grade, "grade_one", until_ben)
    assert main(["grade", "all", "--lessons", "1", "--quick"]) == 130
    assert "1 of 3 are graded: see grades.partial.csv" in capsys.readouterr().out
    assert Path("grades.partial.csv").read_text().splitlines()[1].startswith("ann,")
    assert not Path("grades.csv").exists()


@pytest.mark.skipif(not all(contained().values()), reason="this system does not offer containment")
def test_nothing_goes_on_where_grading_was_killed(submissions):
    mark = f"endless_{os.getpid()}"
    submissions("ann", f"import subprocess\nsubprocess.run(['sh', '-c', 'sleep 99; : {mark}'])\n" + SOLUTION)
    with start(["grade", "all", "--lessons", "1", "--quick"], folder=Path.cwd()) as grading:
        try:
            wait_until(lambda: running(mark), seconds=60, what="the answer to start")
        finally:
            grading.kill()
    wait_until(lambda: not running(mark), seconds=10, what="it to end")


def test_a_file_that_cannot_be_read_is_one_sentence(submissions, monkeypatch, capsys):
    path = submissions("ann", SOLUTION) / "exercise.py"
    opened = Path.open

    def closed(self, *arguments, **options):
        if self == path:
            raise PermissionError(13, "Permission denied")
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", closed)
    assert main(["grade", str(path.parents[2]), "--lessons", "1", "--quick"]) == 0
    assert graded()[1]["ann"] == "exercise.py cannot be read: Permission denied"
    assert main(["check", "1", "--file", str(path)]) == 2
    assert "exercise.py cannot be read: Permission denied" in capsys.readouterr().err


def test_root_grades_only_what_is_contained(submissions, monkeypatch, capsys):
    submissions("ann", "")
    monkeypatch.setattr(contain, "contained", lambda: dict.fromkeys(PARTS, False))
    monkeypatch.setattr(grade, "root", lambda: True)
    assert main(["grade", "all", "--lessons", "1"]) == 2
    assert "grade as an ordinary user" in capsys.readouterr().err
    assert not Path("grades.csv").exists()
    monkeypatch.setattr(grade, "root", lambda: False)
    assert main(["grade", "all", "--lessons", "1", "--quick"]) == 0
    out = capsys.readouterr().out
    assert "warning: submissions are not contained on this system: its time" in out
    assert "read and change your files" in out


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_a_system_without_namespaces_is_found_out(tmp_path):
    refusing = """
import ctypes

class Library(ctypes.CDLL):
    def __getattr__(self, name):
        return (lambda flags: -1) if name == "unshare" else super().__getattr__(name)

ctypes.CDLL = Library
"""
    (tmp_path / "sitecustomize.py").write_text(refusing)
    code = "import json; from minigrad.lessons.contain import contained; print(json.dumps(contained()))"
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    held = json.loads(done.stdout)
    assert held["limits"]
    assert not held["processes"]
