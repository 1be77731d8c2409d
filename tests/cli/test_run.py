"""`minigrad run`: a script, its arguments, its ranks and its exit code."""

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
