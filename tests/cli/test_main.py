"""The command line as a whole: errors become one line and an exit code, on every rank."""

import errno
import os
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
        (
            MemoryError("9 TiB"),
            1,
            "minigrad fake: out of memory: 9 TiB; `minigrad plan` shows ways to need less\n",
        ),
    ],
    ids=["usage", "failure", "interrupt", "memory"],
)
def test_an_error_is_one_line_and_a_code(fake_command, capsys, error, code, line):
    def fail(args):
        raise error

    fake_command.main = fail
    assert command_line.main(["fake"]) == code
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("reason", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG])
def test_a_path_that_the_system_refuses_is_named_in_one_line(fake_command, capsys, reason):
    def fail(args):
        raise OSError(reason, os.strerror(reason), "private/mine")

    fake_command.main = fail
    assert command_line.main(["fake"]) == 2
    said = f"minigrad fake: private/mine: {os.strerror(reason)}; check the name, and what you may do there\n"
    assert capsys.readouterr() == ("", said)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is full")
def test_output_that_goes_to_a_full_disk_is_told_in_one_line():
    words = [sys.executable, "-m", "minigrad", "plan", "--parameters", "1e9"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=-1, text=True, check=False, timeout=60)
    said = f"minigrad plan: {os.strerror(errno.ENOSPC)}; make room on the disk\n"
    assert (done.returncode, done.stderr) == (2, said)


def test_output_that_nobody_wants_is_no_error(fake_command, monkeypatch):
    fake_command.main = lambda args: print("words") or int(sys.stdout.isatty())
    monkeypatch.setattr(sys, "stdout", None)
    assert command_line.main(["fake"]) == 0


@pytest.mark.parametrize(
    "words", [["sample"], ["train", "--resume"], ["train", "--text"], ["train", "--out"]]
)
def test_a_name_that_is_too_long_for_the_system_is_refused(words, capsys):
    assert command_line.main([*words, "x" * 300]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unforeseen_error_keeps_its_traceback(fake_command):
    fake_command.main = lambda args: 1 // 0
    with pytest.raises(ZeroDivisionError):
        command_line.main(["fake"])
    fake_command.main = lambda args: os.stat("missing/file")
    with pytest.raises(FileNotFoundError):
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


@pytest.mark.parametrize(
    "words", [["train", "--help"], ["plan", "--model", "layers=2,width=8,heads=2", "--pipeline", "2"]]
)
def test_output_that_lacks_our_letters_shows_the_others(words):
    done = subprocess.run(
        [sys.executable, "-m", "minigrad", *words],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"ranks" in done.stdout


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
