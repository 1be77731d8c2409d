"""`minigrad doctor` finds what is broken, and only that."""

import sys
from argparse import Namespace

import pytest

from minigrad.cli import doctor
from minigrad.cli.main import main
from minigrad.dist import launch
from minigrad.errors import UsageError


@pytest.fixture
def trial(monkeypatch):
    """Replace the command that starts two ranks by a Python program."""
    pytest.importorskip("mpi4py")

    def use(program):
        monkeypatch.setattr(launch, "mpirun_command", lambda ranks, command: [sys.executable, "-c", program])

    return use


def test_this_machine_is_well(capsys):
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    assert all(part in output for part in doctor.CHECKS)
    assert "broken" not in output


def test_what_is_broken_decides_the_exit_code(monkeypatch, capsys):
    def unforeseen():
        raise OSError("the disk is gone")

    works, missing = ("works", "here", ""), ("missing", "not here", "pip install it")
    monkeypatch.setattr(doctor, "CHECKS", {"one": lambda: works, "two": lambda: missing})
    assert main(["doctor"]) == 0
    assert "two: pip install it\n" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "CHECKS", {"one": lambda: works, "two": unforeseen})
    assert main(["doctor"]) == 1
    assert "the disk is gone" in capsys.readouterr().out


def test_two_ranks_that_find_each_other(mpirun):
    state, found, mend = doctor.check_mpi()
    assert (state, mend) == ("works", "")
    assert "two ranks added up" in found


def test_ranks_that_talk_at_the_same_time_are_told_apart(trial):
    trial('print(\'{"size": 2, "total": 3, "library": "MPI"}\' * 2)')
    assert doctor.check_mpi()[0] == "works"


ALONE = 'print(\'{"size": 1, "total": 1, "library": "another MPI"}\\n\' * 2)'
LOST = "import sys; sys.exit('no slots')"


@pytest.mark.parametrize(
    ("program", "expected"),
    [(ALONE, "alone"), (ALONE.replace("1", "2"), "summed"), (LOST, "no slots"), ("print('hello')", "code 0")],
    ids=["mixed", "sum", "error", "silent"],
)
def test_ranks_that_do_not_work_together_are_seen(trial, program, expected):
    trial(program)
    state, found, mend = doctor.check_mpi()
    assert state == "broken"
    assert expected in found
    assert doctor.INSTALL_MPI in mend


def test_a_trial_that_hangs_is_ended(trial, monkeypatch):
    monkeypatch.setattr(doctor, "SECONDS_FOR_MPIRUN", 0.5)
    trial("import time; time.sleep(60)")
    assert doctor.check_mpi()[0] == "broken"


def test_no_launcher_is_not_a_failure(trial, monkeypatch):
    def refuse(ranks, command):
        raise UsageError("there is no mpirun")

    trial("")
    monkeypatch.setattr(launch, "mpirun_command", refuse)
    assert doctor.check_mpi()[0] == "missing"


def test_a_forced_kernel_is_noted(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    assert doctor.check_numpy()[0] == "note"
    monkeypatch.delenv("OPENBLAS_CORETYPE")
    assert doctor.check_numpy()[0] == "works"


def test_it_does_not_run_under_mpirun(monkeypatch):
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(UsageError, match="mpirun"):
        doctor.main(Namespace())
