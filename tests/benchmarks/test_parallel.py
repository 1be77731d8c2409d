"""Contenders on two ranks learn the same, at sizes not worth timing. No test asserts a time."""

import json
import math
from collections.abc import Callable

import pytest

from benchmarks.parallel import __main__ as command
from benchmarks.parallel import comparison, minigrad_ranks
from benchmarks.parallel.comparison import CONTENDERS, Row
from benchmarks.parallel.jobs import Contender
from benchmarks.parallel.program import TINY, Program
from benchmarks.rounds import UNSET, BenchmarkError
from minigrad import dist
from minigrad.dist.launch import find_mpirun
from minigrad.dist.world import World
from minigrad.errors import UsageError

KNOWN = {contender.name: contender for contender in CONTENDERS}


def losses(program: Callable[..., Program], workload: str, ranks: int) -> list[float]:
    """The losses of five steps on ranks that are threads."""

    def main(world: World) -> list[float]:
        built = program(TINY[workload], world)
        return [built.run() for _ in range(5)]

    return [math.fsum(parts) for parts in zip(*dist.spawn(main, ranks=ranks), strict=True)]


@pytest.mark.parametrize("contender", [one for one in CONTENDERS if one.module.endswith("minigrad_ranks")])
@pytest.mark.parametrize("ranks", [1, 2])
def test_every_program_of_minigrad_learns_what_one_rank_learns(contender, ranks):
    program = getattr(minigrad_ranks, contender.function)
    plain = minigrad_ranks.mlp if contender.workload == "mlp" else minigrad_ranks.data_parallel
    expected = losses(plain, contender.workload, 1)
    assert expected[0] != expected[-1]
    assert losses(program, contender.workload, ranks) == pytest.approx(expected, rel=1e-6)


def test_processes_learn_what_one_rank_learns():
    try:
        find_mpirun()
    except UsageError as error:
        pytest.skip(str(error))
    names = ("mlp by hand, one rank", "mlp, one rank", "mlp by hand", "mlp")
    said: list[str] = []
    rows = comparison.compare(
        [KNOWN[name] for name in names], [UNSET], rounds=1, seconds=0.001, say=said.append, size="tiny"
    )
    assert [row.contender.name for row in rows] == list(names)
    assert all(row.loss_difference <= 1e-6 for row in rows)
    assert all(row.seconds > 0 for row in rows)
    assert said == ["round 1 of 1 done"]


def test_torch_learns_what_one_rank_learns():
    pytest.importorskip("torch", reason="the benchmarks extra is not installed")
    names = [one.name for one in CONTENDERS if one.module.endswith("torch_ranks")]
    rows = comparison.compare(
        [KNOWN[name] for name in ("one rank", *names)], [UNSET], rounds=0, seconds=1.0, say=print, size="tiny"
    )
    assert [row.contender.name for row in rows[1:]] == names
    assert max(row.loss_difference for row in rows) <= 1e-6


def test_a_gradient_that_is_wrong_by_a_factor_is_seen(monkeypatch):
    expected = losses(minigrad_ranks.data_parallel, "gpt", 1)
    monkeypatch.setattr(minigrad_ranks, "share", lambda array, rank, ranks: array)  # sums where it should not
    wrong = losses(minigrad_ranks.data_parallel, "gpt", 2)
    assert wrong[0] / 2 == pytest.approx(expected[0], rel=1e-6)
    assert abs(wrong[-1] / 2 - expected[-1]) > 1e-5 * expected[-1]


def row(name: str, seconds: list[float], **changes) -> Row:
    made = Row(KNOWN[name], UNSET if KNOWN[name].numpy else None, name, "Haswell", [5.5, 5.4], seconds)
    for key, value in changes.items():
        setattr(made, key, value)
    return made


@pytest.mark.parametrize("wrong", [5.41, float("nan")])
def test_other_losses_are_refused(wrong):
    comparison.check_losses([row("one rank", [1.0]), row("torch DDP", [1.0])])
    with pytest.raises(BenchmarkError, match="losses of torch DDP"):
        comparison.check_losses([row("one rank", [1.0]), row("torch DDP", [1.0], losses=[5.5, wrong])])


def test_a_contender_that_is_not_installed_is_left_out_and_one_of_ours_that_breaks_is_an_error():
    absent = Contender("absent", "gpt", "no_such_library", "gpt", 1, "plain", False)
    said: list[str] = []
    assert comparison.compare([absent], [UNSET], rounds=0, seconds=1.0, say=said.append, size="tiny") == []
    assert said == ["absent left out: No module named 'no_such_library'"]
    broken = Contender("broken", "gpt", "benchmarks.parallel.no_such", "gpt", 1, "plain", False)
    with pytest.raises(BenchmarkError, match="broken"):
        comparison.compare([broken], [UNSET], rounds=0, seconds=1.0, say=print, size="tiny")


def test_verdicts_are_medians_of_the_ratios_of_rounds_and_peers_that_are_not_there_judge_nothing():
    ours = [1.0, 4.0, 2.0]
    rows = [row("one rank", [2.0, 4.1, 4.0]), row("data parallel", ours), row("ZeRO 1", [1.2, 4.4, 2.0])]
    judged = {text.split(":")[0]: passed for passed, text in comparison.verdicts(rows)}
    assert judged["data parallel ≤ 0.588 × one rank"] is True  # ratios 0.5, 0.98, 0.5
    assert judged["ZeRO 1 ≤ 1.100 × data parallel"] is True  # 1.2, 1.1, 1.0
    assert judged["data parallel ≤ 1.000 × torch DDP"] is None
    assert judged["mlp ≤ 1.176 × mlp by hand"] is False  # nobody measured it
    rows[1].rounds = [1.3, 2.7, 2.6]
    judged = {text.split(":")[0]: passed for passed, text in comparison.verdicts(rows)}
    assert judged["data parallel ≤ 0.588 × one rank"] is False


def test_every_target_names_contenders():
    for target in comparison.TARGETS:
        assert {target.name, target.over} <= KNOWN.keys()


def test_the_command_prints_what_it_measured(monkeypatch, capsys):
    found = [row("one rank", [2.0, 2.2]), row("data parallel", [1.0, 1.1])]
    monkeypatch.setattr(command, "compare", lambda some, *_, **__: found if some[0].workload == "gpt" else [])
    assert command.main(["--check"]) == 1  # most were not measured
    printed = capsys.readouterr().out
    assert "| data parallel | 2     | unset (Haswell)" in printed
    assert "PASS  data parallel ≤ 0.588 × one rank: 0.500 with OPENBLAS_CORETYPE unset (Haswell)" in printed
    assert command.main(["--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [entry["seconds"] for entry in data["results"]] == [2.1, 1.05]
    assert "OPENBLAS_CORETYPE as found" in data["machine"]


@pytest.mark.parametrize("words", [["--only", "ZeRO 4"], ["--rounds", "0"], ["--seconds", "0"]])
def test_misuse_is_refused_before_anything_runs(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(words)
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err
