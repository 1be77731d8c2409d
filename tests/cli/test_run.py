"""`minigrad run`: a script, its arguments, its ranks and its exit code."""

import pytest

from minigrad.cli.main import main

SCRIPT = """\
import pathlib, sys
from minigrad import dist
world = dist.world()
pathlib.Path(sys.argv[1], f"rank-{world.rank}").write_text(f"{world.size} {' '.join(sys.argv[2:])}")
world.barrier()
sys.exit(3)
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.usefixtures("mpirun"))])
def test_ranks_arguments_and_exit_code(script, tmp_path, ranks):
    words = ["run", "-n", str(ranks), str(script), str(tmp_path), "-n", "9", "--epochs=3", "--help"]
    assert main(words) == 3
    answers = {path.name: path.read_text() for path in tmp_path.glob("rank-*")}
    assert answers == {f"rank-{rank}": f"{ranks} -n 9 --epochs=3 --help" for rank in range(ranks)}


def test_the_command_is_printed(script, tmp_path, capfd, mpirun):
    main(["run", "-n", "2", str(script), str(tmp_path)])
    output, errors = capfd.readouterr()
    assert "-n 2" in output + errors
    assert str(script) in output + errors


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
