"""`minigrad run`: a script, its arguments, its ranks and its exit code."""

import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from minigrad.cli.main import main
from tests.packaging.tree import ROOT

SCRIPT = """\
import pathlib, sys
from minigrad import dist
world = dist.world()
pathlib.Path(sys.argv[1], f"rank-{world.rank}").write_text(f"{world.size} {' '.join(sys.argv[2:])}")
world.barrier()
sys.exit(3)
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # where minigrad is not installed
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def check_run(script, ranks, errors_of):
    """The script runs on its ranks with its arguments; its exit code comes back. Return the line shown."""
    words = ["run", "-n", str(ranks), str(script), str(script.parent), "-n", "9", "--epochs=3", "--help"]
    assert main(words) == 3
    answers = {path.name: path.read_text() for path in script.parent.glob("rank-*")}
    assert answers == {f"rank-{rank}": f"{ranks} -n 9 --epochs=3 --help" for rank in range(ranks)}
    (line,) = [line for line in errors_of().splitlines() if line.startswith("running: ")]
    assert line.endswith(f" {script} {script.parent} -n 9 --epochs=3 --help")
    return line


def test_one_rank_needs_no_mpi(script, capfd):
    assert "mpi" not in check_run(script, 1, lambda: capfd.readouterr().err).split(str(script))[0]


@pytest.mark.usefixtures("mpirun")
def test_several_ranks(script, capfd):
    assert " -n 2 " in check_run(script, 2, lambda: capfd.readouterr().err)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-n", "2", "no_such.py"], "no_such.py"),
        (["²"], "there is no file '²'"),
        (["-n", "0", __file__], "0 ranks"),
        (["-n", "2", "--threads", __file__], "dist.spawn"),
    ],
)
def test_misuse_is_refused(words, expected, capsys):
    assert main(["run", *words]) == 2
    line = capsys.readouterr().err
    assert line.startswith("minigrad run: ")
    assert line.count("\n") == 1
    assert expected in line


@pytest.fixture
def original(tmp_path, monkeypatch):
    """A course of one lesson, away from the empty folder in which commands run."""
    folder, work = tmp_path / "the course" / "18_data_parallel", tmp_path / "work"
    for made in (folder, work):
        made.mkdir(parents=True)
    (folder / "lesson.py").write_text("print('the original')\n")
    (folder / "exercise.py").write_text("")
    monkeypatch.setattr(
        "minigrad.lessons.find_lesson", lambda number: SimpleNamespace(name=folder.name, folder=folder)
    )
    monkeypatch.chdir(work)
    return folder / "lesson.py"


@pytest.mark.parametrize("place", ["18_data_parallel", "lessons/18_data_parallel"])
def test_a_copy_of_a_lesson_says_so_and_names_the_original(place, original, capfd):
    shutil.copytree(original.parent, place)
    Path(place, "lesson.py").write_text("print('changed')\n")
    assert main(["run", "18"]) == 0
    out, err = capfd.readouterr()
    assert out == "changed\n"
    said = [line for line in err.splitlines() if not line.startswith("running: ")]
    copy = Path(place, "lesson.py")
    assert said == [f"lesson 18: your copy, {copy}; for the original: minigrad run '{original}'"]
    assert main(shlex.split(said[0].partition(" minigrad ")[2])) == 0  # what it names can be typed
    assert capfd.readouterr().out == "the original\n"


def test_a_copy_is_found_from_within_its_folder(original, capfd, monkeypatch):
    shutil.copytree(original.parent, original.parent.name)
    monkeypatch.chdir(original.parent.name)
    assert main(["run", "18"]) == 0
    assert "lesson 18: your copy, lesson.py; " in capfd.readouterr().err


@pytest.mark.parametrize("kept", ["nothing", "exercise.py", "the course itself"])
def test_the_original_says_nothing(kept, original, capfd, monkeypatch):
    if kept == "exercise.py":
        Path(original.parent.name).mkdir()
        Path(original.parent.name, kept).write_text("")
    elif kept == "the course itself":
        monkeypatch.chdir(original.parent)
    assert main(["run", "18"]) == 0
    out, err = capfd.readouterr()
    assert out == "the original\n"
    assert [line.partition(":")[0] for line in err.splitlines()] == ["running"]
