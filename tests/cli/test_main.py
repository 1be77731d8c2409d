"""The command line as a whole: errors become one line and an exit code, on every rank."""

import shutil
import subprocess
import sys
import types

import pytest

from minigrad.cli import main as command_line
from minigrad.errors import CommunicationError, UsageError

# A program that is the command line with one more command, `fake`, whose work is put in.
PROGRAM = """\
import sys, types
from minigrad.cli import main as command_line
fake = types.ModuleType("minigrad.cli.fake")
fake.add_parser = lambda subparsers: subparsers.add_parser("fake")
def work(args):
    WORK
    return 0
fake.main = work
sys.modules["minigrad.cli.fake"] = fake
command_line.COMMANDS = ("fake",)
sys.exit(command_line.main(["fake"]))
"""

FAIL_ON_RANK_1 = """\
from minigrad.errors import CommunicationError
    from minigrad import dist
    world = dist.world()
    if world.rank == 1:
        raise CommunicationError("rank 1 of 2: gone")
    world.barrier()
"""


@pytest.fixture
def fake_command(monkeypatch):
    """Add a command `fake` that does what the test puts into its `main`."""
    module = types.ModuleType("minigrad.cli.fake")
    module.add_parser = lambda subparsers: subparsers.add_parser("fake")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "minigrad.cli.fake", module)
    monkeypatch.setattr(command_line, "COMMANDS", ("fake",))
    return module


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("5 heads do not divide width 8"), 2, "minigrad fake: 5 heads do not divide width 8\n"),
        (CommunicationError("rank 2 of 4: gone"), 1, "minigrad fake: rank 2 of 4: gone\n"),
        (KeyboardInterrupt(), 130, "minigrad fake: interrupted\n"),
    ],
    ids=["usage", "failure", "interrupt"],
)
def test_an_error_is_one_line_and_a_code(fake_command, capsys, error, code, line):
    def fail(args):
        raise error

    fake_command.main = fail
    assert command_line.main(["fake"]) == code
    assert capsys.readouterr() == ("", line)


def test_an_unforeseen_error_keeps_its_traceback(fake_command):
    fake_command.main = lambda args: 1 // 0
    with pytest.raises(ZeroDivisionError):
        command_line.main(["fake"])


def test_the_code_of_the_command_is_that_of_the_process(fake_command):
    fake_command.main = lambda args: 7
    assert command_line.main(["fake"]) == 7


@pytest.mark.parametrize("words", [["fly"], [], ["doctor", "--fly"]], ids=["command", "nothing", "option"])
def test_words_that_mean_nothing_are_refused_in_one_line(words, capsys):
    with pytest.raises(SystemExit) as leaving:
        command_line.main(words)
    output, errors = capsys.readouterr()
    assert leaving.value.code == 2
    assert output == ""
    assert errors.count("\n") == 1
    assert errors.startswith("minigrad")
    assert "--help" in errors


@pytest.mark.parametrize(
    "words", [["--help"], *([name, "--help"] for name in command_line.COMMANDS)], ids=str
)
def test_every_help_teaches_by_example(words, capsys):
    with pytest.raises(SystemExit) as leaving:
        command_line.main(words)
    output = capsys.readouterr().out
    assert leaving.value.code == 0
    assert f"usage: minigrad {words[0] if len(words) == 2 else ''}" in output
    assert len(output.rstrip().split("\n\n")) >= 3  # more than usage and options


@pytest.mark.skipif(shutil.which("head") is None, reason="needs the program `head`")
def test_a_reader_that_leaves_early_is_no_error():
    program = PROGRAM.replace("WORK", "print('many words ' * 10_000_000)")
    with subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-1) as writer:
        subprocess.run(["head", "-c", "10"], stdin=writer.stdout, capture_output=True, check=True)
        assert writer.stdout is not None
        writer.stdout.close()
        assert writer.stderr is not None
        assert writer.stderr.read() == b""
    assert writer.returncode == 0


def test_an_error_on_one_rank_ends_all(mpirun):
    result = mpirun(["-c", PROGRAM.replace("WORK", FAIL_ON_RANK_1)], ranks=2)
    assert result.returncode == 1
    assert "minigrad fake: rank 1 of 2: gone" in result.stderr
