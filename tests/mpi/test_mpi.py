"""Real ranks: every verb, and every way in which a rank or the launcher can come to its end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minigrad.dist.launch import mpirun_command, mpirun_environment
from tests.mpi.conftest import ROOT, SECONDS, Start, alive, wait_until

SECONDS_TO_END = 10.0
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="the system does not say what a process does"
)


@pytest.mark.parametrize(("ranks", "debug"), [(3, "1"), (4, "0")])
def test_every_verb(launcher: Start, ranks: int, debug: str):
    process = launcher(ranks, ["-m", "tests.mpi.ranks"], MINIGRAD_DEBUG=debug)
    output, errors = process.communicate(timeout=SECONDS)
    assert re.search(rf"^\d\d\d runs on {ranks} ranks$", output, re.MULTILINE), errors


@pytest.mark.parametrize(
    ("what", "code", "verdict"),
    [
        ("raise", 1, "rank 2 of 3 failed first: ValueError: boom"),
        ("misuse", 2, "rank 2 of 3 failed first: minigrad.errors.UsageError: no such file"),
        ("exit", 5, "rank 2 of 3 failed first: exit code 5"),
        ("quit", 4, "rank 2 of 3 failed first: exit code 4"),
        ("kill", None, r"rank 2 of 3 \(process \d+\) died without a word"),
        ("crash", None, r"rank 2 of 3 \(process \d+\) died without a word"),
    ],
)
def test_one_rank_dies_and_all_end(
    launcher: Start, tmp_path: Path, what: str, code: int | None, verdict: str
):
    process = launcher(3, ["tests/mpi/victim.py", what])
    everyone = ranks_of(process, tmp_path, 3)
    _, errors = process.communicate(timeout=SECONDS_TO_END)
    assert re.search(f"minigrad: {verdict}", errors), errors
    assert process.returncode == code if code is not None else process.returncode > 0
    assert not [rank for rank in everyone if alive(rank)]
    if what == "raise":
        assert re.search(
            r"^rank 2 of 3: Traceback.*victim\.py.*ValueError: boom$", errors, re.DOTALL | re.MULTILINE
        )
    if what == "misuse":
        assert "rank 2 of 3: no such file\n" in errors
        assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("what", "settings"),
    [
        ("leave others waiting", {}),
        ("system exit", {"MINIGRAD_TEST_CERTAIN": "0.5"}),
        ("return", {"MINIGRAD_TEST_CERTAIN": "0.5"}),
    ],
)
def test_a_rank_that_ends_while_others_wait_ends_all(
    launcher: Start, tmp_path: Path, what: str, settings: dict[str, str]
):
    process = launcher(3, ["tests/mpi/victim.py", what], **settings)
    everyone = ranks_of(process, tmp_path, 3)
    _, errors = process.communicate(timeout=SECONDS_TO_END)
    said = "rank 2 of 3 has finished, and others still wait: rank 0 in barrier, rank 1 in barrier"
    assert errors.count(said) == 1, errors
    assert process.returncode > 0
    assert not [rank for rank in everyone if alive(rank)]


def plain_mpirun(ranks: int, words: list[str], **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run ranks without minigrad's launcher."""
    return subprocess.run(
        mpirun_command(ranks, [sys.executable, *words]),
        cwd=ROOT,
        env=mpirun_environment() | {"PYTHONPATH": str(ROOT)} | settings,
        capture_output=True,
        text=True,
        timeout=SECONDS_TO_END,
        check=False,
    )


def test_so_it_does_under_a_plain_mpirun(tmp_path: Path):
    settings = {"MINIGRAD_TEST_FOLDER": str(tmp_path), "MINIGRAD_TEST_CERTAIN": "0.5"}
    result = plain_mpirun(3, ["tests/mpi/victim.py", "return"], **settings)
    assert "rank 2 of 3 has finished, and others still wait: rank 0 in barrier" in result.stderr
    assert result.returncode > 0


@pytest.mark.parametrize("started", [False, True])
def test_different_collectives_are_reported_with_both_sides(launcher: Start, started: bool):
    program = (
        "import numpy as np; from minigrad import dist\n"
        "world = dist.world(); world.barrier()\n"
        "array = np.zeros(4 if world.rank == 2 else 3, np.float32)\n"
        + ("world.start_all_reduce(array).wait()" if started else "world.all_reduce(array)")
    )
    _, errors = launcher(3, ["-c", program], MINIGRAD_DEBUG="1").communicate(timeout=SECONDS_TO_END)
    expected = (
        r"collective number 2 is all_reduce\(sum, float32, shape \(3,\)\) on rank 0, "
        r"but number 2 is all_reduce\(sum, float32, shape \(4,\)\) on rank 2"
    )
    assert re.search(rf"rank \d of 3: {expected}", errors), errors


def test_misuse_on_one_rank_before_mpi_starts(launcher: Start):
    program = (
        "from minigrad import dist, errors; from minigrad.dist.prepare import announced\n"
        "if announced().rank == 1: raise errors.UsageError('no such file')\n"
        "dist.world()"
    )
    process = launcher(3, ["-c", program])
    _, errors = process.communicate(timeout=SECONDS_TO_END)
    assert process.returncode == 2
    assert "rank 1 of 3: no such file\n" in errors
    assert "minigrad: rank 1 of 3 failed first" in errors


def test_leaving_early_is_no_failure(launcher: Start):
    process = launcher(3, ["tests/mpi/victim.py", "leave"])
    output, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (0, "")
    assert sorted(re.findall("rank . ends well", output)) == ["rank 0 ends well", "rank 1 ends well"]


def test_temporary_files_may_lie_in_a_folder_with_a_long_name(launcher: Start, tmp_path: Path):
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    program = "from minigrad import dist; dist.world().barrier(); print('done')"
    output, errors = launcher(2, ["-c", program], TMPDIR=str(folder)).communicate(timeout=SECONDS_TO_END)
    assert (output.count("done"), errors) == (2, "")


def test_a_program_may_end_mpi_itself(launcher: Start):
    program = (
        "from minigrad import dist; from mpi4py import MPI\n"
        "dist.world().barrier(); MPI.Finalize(); print('done')"
    )
    output, errors = launcher(2, ["-c", program]).communicate(timeout=SECONDS_TO_END)
    assert (output.count("done"), errors) == (2, "")


def test_a_long_message_is_waited_for_by_a_rank_that_has_finished(launcher: Start):
    program = (
        "import numpy as np; from minigrad import dist; from minigrad.dist import farewell\n"
        "farewell.SECONDS_UNTIL_CERTAIN = 0.0\n"
        "world = dist.world(); group = world.split(world.rank // 2)\n"
        "if world.rank < 2: group.all_reduce(np.ones(10**8, np.float16)); print('done')"
    )
    output, errors = launcher(3, ["-c", program]).communicate(timeout=SECONDS)
    assert (output.count("done"), errors) == (2, "")


def test_others_may_go_on_without_a_rank_for_as_long_as_they_like(launcher: Start):
    process = launcher(3, ["tests/mpi/victim.py", "leave others at work"], MINIGRAD_TEST_CERTAIN="0.5")
    _, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (0, "")


def test_messages_that_differ_only_in_dtype_are_reported_with_both_sides(launcher: Start):
    program = (
        "import numpy as np; from minigrad import dist\n"
        "world = dist.world(); world.barrier()\n"
        "if world.rank: world.send(np.ones(4), 0, tag=7)\n"
        "else: world.receive(np.ones(8, np.float32), 1, tag=7)\n"
        "world.barrier()"
    )
    _, errors = launcher(2, ["-c", program], MINIGRAD_DEBUG="1").communicate(timeout=SECONDS_TO_END)
    expected = (
        "rank 0 of 2: receive expected 8 elements of float32 with tag 7 from rank 1 of 2, "
        "which sends 4 elements of float64"
    )
    assert expected in errors, errors


@pytest.mark.parametrize("what", ["sleep", "wait"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stopped_launcher_takes_all_ranks_along(launcher: Start, tmp_path: Path, what: str, name: str):
    process = launcher(3, ["tests/mpi/victim.py", what])
    everyone = ranks_of(process, tmp_path, 3)
    process.send_signal(signal.Signals[name])
    _, errors = process.communicate(timeout=SECONDS_TO_END)
    assert process.returncode == 128 + signal.Signals[name]
    assert f"minigrad: ended by {name}" in errors
    assert not [rank for rank in everyone if alive(rank)]


def test_a_stopped_rank_is_found_by_its_silence(launcher: Start, tmp_path: Path):
    process = launcher(3, ["tests/mpi/victim.py", "stop"], MINIGRAD_SECONDS_OF_SILENCE="3")
    everyone = ranks_of(process, tmp_path, 3)
    _, errors = process.communicate(timeout=3 + SECONDS_TO_END)
    assert re.search(
        r"minigrad: rank 2 of 3 \(process \d+\) stopped answering: no sign of life for 3\.?\d* s; it "
        r"was stopped",
        errors,
    ), errors
    assert process.returncode > 0
    assert not [rank for rank in everyone if alive(rank)]


@pytest.mark.parametrize("what", ["compute", pytest.param("hold", marks=needs_proc)])
def test_a_long_honest_step_is_no_silence(launcher: Start, what: str):
    process = launcher(3, ["tests/mpi/victim.py", what], MINIGRAD_SECONDS_OF_SILENCE="1.5")
    _, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (0, "")


def test_ranks_that_wait_for_each_other_say_where_and_end(launcher: Start, tmp_path: Path):
    process = launcher(3, ["tests/mpi/victim.py", "wait"], MINIGRAD_SECONDS_OF_SILENCE="2")
    everyone = ranks_of(process, tmp_path, 3)
    _, errors = process.communicate(timeout=SECONDS_TO_END)
    waiting = "rank 0 in receive, rank 1 in receive, rank 2 in receive"
    assert f"rank 0 of 3: deadlock: all wait for each other: {waiting}; send what " in errors, errors
    for rank in range(3):
        assert re.search(rf'^rank {rank} of 3 waits here:\n  File ".*victim\.py"', errors, re.MULTILINE), (
            errors
        )
    assert process.returncode == 1
    assert not [rank for rank in everyone if alive(rank)]


def test_ranks_that_wait_again_and_again_are_left_alone(launcher: Start):
    process = launcher(2, ["tests/mpi/victim.py", "wait in turn"], MINIGRAD_SECONDS_OF_SILENCE="1.5")
    _, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (0, "")


def test_a_launcher_that_was_stopped_itself_blames_nobody(launcher: Start, tmp_path: Path):
    process = launcher(2, ["-c", LAST_FOR_SECONDS], MINIGRAD_SECONDS_OF_SILENCE="2")
    ranks_of(process, tmp_path, 2)
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (0, "")


LAST_FOR_SECONDS = (
    "import os, time, pathlib; from minigrad import dist\n"
    "world = dist.world()\n"
    "folder = pathlib.Path(os.environ['MINIGRAD_TEST_FOLDER'])\n"
    "(folder / f'{world.rank}.pid').write_text(str(os.getpid()))\n"
    "time.sleep(5)\n"
    "world.barrier()\n"
)


@pytest.mark.parametrize("seconds", ["-1", "inf", "long"])
def test_a_limit_that_is_none_is_refused(launcher: Start, seconds: str):
    _, errors = launcher(2, ["-c", ""], MINIGRAD_SECONDS_OF_SILENCE=seconds).communicate(timeout=SECONDS)
    assert f"MINIGRAD_SECONDS_OF_SILENCE is '{seconds}'; give a number of seconds" in errors


def test_such_a_limit_is_refused_in_one_line_under_a_plain_mpirun():
    result = plain_mpirun(2, ["-c", "from minigrad import dist"], MINIGRAD_SECONDS_OF_SILENCE="long")
    assert re.search("^rank . of 2: MINIGRAD_SECONDS_OF_SILENCE is 'long'; give", result.stderr, re.MULTILINE)
    assert "Traceback" not in result.stderr
    assert result.returncode == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends mpirun when its launcher is killed")
def test_a_killed_launcher_leaves_no_ranks(launcher: Start, tmp_path: Path):
    process = launcher(3, ["tests/mpi/victim.py", "wait"])
    everyone = ranks_of(process, tmp_path, 3)
    process.kill()
    assert wait_until(lambda: not any(map(alive, everyone)), SECONDS_TO_END)


def ranks_of(process: "subprocess.Popen[str]", folder: Path, ranks: int) -> list[int]:
    """Process ids of all ranks, as soon as they are there."""
    assert wait_until(lambda: len(list(folder.glob("*.pid"))) == ranks, SECONDS), process.communicate()[1]
    return [int(file.read_text()) for file in folder.glob("*.pid")]


# ------------------------------------------------------------------------------------ starting


def test_ranks_that_mpi_does_not_connect_are_refused(launcher: Start):
    program = "from minigrad import dist; dist.world()"
    environment = os.environ | {"PMI_SIZE": "4", "PMI_RANK": "1"}  # what a launcher of another MPI leaves
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert result.returncode == 1
    assert "rank 1 of 4: Traceback" in result.stderr
    assert "4 ranks were started, but MPI connects 1" in result.stderr
    assert time.monotonic() - start < SECONDS_TO_END


def test_ranks_get_what_they_need_before_mpi_starts(launcher: Start):
    program = (
        "import json, os; from minigrad import dist; from threadpoolctl import threadpool_info; import numpy;"
        "world = dist.world();"
        "blas = [pool['num_threads'] for pool in threadpool_info() if pool['user_api'] == 'blas'];"
        "names = ['MPIR_CVAR_ENABLE_HEAVY_YIELD', 'OPENBLAS_NUM_THREADS'];"
        "print(json.dumps([blas, [os.environ.get(name) for name in names]])) if world.rank == 0 else None"
    )
    ranks = 2 * max(1, os.cpu_count() or 1)
    if ranks > 8:
        pytest.skip("starting more ranks than this machine has cores would take very many")
    output, _ = launcher(ranks, ["-c", program]).communicate(timeout=SECONDS)
    blas, settings = json.loads(output)
    assert set(blas) == {1}
    assert settings == ["1", "1"]
