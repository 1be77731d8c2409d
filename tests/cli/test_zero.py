"""Options of memory and traffic: the same losses whatever ranks share out; figures that fit the papers."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigrad import dist, nn
from minigrad.cli import training_run
from minigrad.cli.main import build_parser, main
from minigrad.cli.run_folder import RunFolder
from minigrad.cli.sample import trained_model
from minigrad.cli.settings import Settings
from minigrad.cli.training_run import Plan
from minigrad.dist import World, checkpoint, checkpoint_saving, launch
from minigrad.nn import amp
from minigrad.nn.text import text_from_files
from tests.cli.common import STEPS, TOLERANCE, alone, losses, metrics, quiet, report, stopped, text, words

__all__ = ["alone", "quiet", "text"]  # fixtures


@pytest.mark.parametrize(
    ("stage", "ranks", "precision"),
    [
        *[(0, 3, "float64"), (1, 1, "float64"), (1, 5, "float64"), (2, 2, "float64")],
        *[(2, 7, "float64"), (3, 5, "float64"), (3, 7, "float64"), (3, 1, "float64")],
        *[(0, 4, "float32"), (1, 4, "float32"), (2, 4, "float32"), (3, 4, "float32")],
    ],
)
def test_every_stage_loses_as_much_as_one_rank(
    text: Path, alone: dict[str, Path], tmp_path: Path, stage: int, ranks: int, precision: str
) -> None:
    more = ["--zero", str(stage), "--ranks", str(ranks), "--threads"]
    assert main(words(text, tmp_path / "run", *more, precision=precision)) == 0
    assert losses(tmp_path / "run") == pytest.approx(losses(alone[precision]), rel=TOLERANCE[precision])


@pytest.mark.parametrize(
    ("stage", "more"),
    [
        ("0", ["--accumulate", "2", "--offload", "disk"]),
        ("1", ["--reduce", "ring", "--checkpoint-activations"]),
        ("2", ["--reduce", "halving", "--accumulate", "2"]),
        ("2", ["--offload", "disk", "--checkpoint-activations"]),
        ("3", ["--reduce", "ordered", "--accumulate", "2"]),
        ("3", ["--offload", "disk", "--accumulate", "2", "--checkpoint-activations"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_no_option_changes_the_losses(
    text: Path, alone: dict[str, Path], tmp_path: Path, stage: str, more: list[str]
) -> None:
    assert main(words(text, tmp_path / "run", "--zero", stage, "--ranks", "3", "--threads", *more)) == 0
    assert losses(tmp_path / "run") == pytest.approx(losses(alone["float64"]), rel=1e-10)
    assert {path.name for path in tmp_path.iterdir()} == {"run"}  # no offloaded file is left behind


def test_ordered_sums_are_the_same_to_the_bit_at_every_stage(text: Path, tmp_path: Path) -> None:
    found = []
    for stage in ("0", "1", "2", "3"):
        more = ["--zero", stage, "--ranks", "4", "--threads", "--reduce", "ordered"]
        assert main(words(text, tmp_path / stage, *more, precision="float32")) == 0
        found.append(losses(tmp_path / stage))
    assert found[1:] == found[:1] * 3


@pytest.mark.parametrize("stage", ["1", "3"])
def test_half_precision_learns_alike_at_every_stage(
    text: Path, alone: dict[str, Path], tmp_path: Path, stage: str
) -> None:
    """Half of float16's 11 bits are safe: its losses follow those of float32 to a few parts in a thousand."""
    more = ["--zero", stage, "--ranks", "3", "--threads"]
    assert main(words(text, tmp_path / "run", *more, precision="mixed-float16")) == 0
    assert losses(tmp_path / "run") == pytest.approx(losses(alone["mixed-float16"]), rel=2e-3)
    assert losses(tmp_path / "run") == pytest.approx(losses(alone["float32"]), rel=5e-3)
    settings = Settings(**json.loads((tmp_path / "run" / "config.json").read_text())["settings"])
    model, refused = trained_model(RunFolder.open(tmp_path / "run"), settings)
    assert (str(model.wte.weight.dtype), refused) == ("float32", ())  # in which samples are drawn faster


def test_gradients_beyond_float16_lower_the_loss_scale_and_training_goes_on(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        amp, "GradScaler", partial(amp.GradScaler, init_scale=2.0**40, backoff_factor=2.0**-12)
    )
    more = ["--zero", "2", "--ranks", "3", "--threads"]
    assert main(words(text, tmp_path / "run", *more, precision="mixed-float16")) == 0
    found = metrics(tmp_path / "run")
    skipped = [step["gradient_norm"] is None for step in found]
    assert skipped[0]  # the first is always
    assert skipped == sorted(skipped, reverse=True)
    assert not skipped[-1]
    last = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert set(last.metadata["parallel"]["steps"].values()) == {STEPS - sum(skipped)}
    assert last.metadata["parallel"]["scaler"]["scale"] == 2.0 ** (40 - 12 * sum(skipped))


def test_the_loss_of_a_large_batch_is_no_number_of_float16() -> None:
    model = nn.GPT(nn.GPTConfig(context=16, layers=1, heads=1, width=2), dtype="float16")
    tokens = np.zeros((1000, 16), dtype=int)
    assert 65504 < model.loss(tokens, tokens, reduction="sum").item() < float("inf")


@pytest.mark.parametrize(
    ("before", "after"),
    [(["1", "2"], ["3", "5"]), (["3", "3"], ["0", "1"]), (["2", "7"], ["1", "2"])],
    ids=lambda case: f"stage {case[0]} on {case[1]}",
)
def test_a_run_goes_on_at_another_stage_on_another_number_of_ranks(
    text: Path, alone: dict[str, Path], tmp_path: Path, before: list[str], after: list[str]
) -> None:
    stage, ranks = before
    assert main(words(text, tmp_path / "whole", "--zero", stage, "--ranks", ranks, "--threads")) == 0
    copy = stopped(tmp_path / "whole", tmp_path / "copy")
    stage, ranks = after
    assert main(["train", "--resume", str(copy), "--zero", stage, "--ranks", ranks, "--threads"]) == 0
    assert losses(copy) == pytest.approx(losses(alone["float64"]), rel=1e-10)


@pytest.mark.parametrize(
    ("stage", "precision"),
    [("0", "mixed-float16"), ("1", "float32"), ("2", "float32"), ("3", "mixed-float16")],
)
def test_a_run_resumed_as_it_was_repeats_itself_to_the_bit(
    text: Path, tmp_path: Path, stage: str, precision: str
) -> None:
    more = ["--zero", stage, "--ranks", "3", "--threads"]
    assert main(words(text, tmp_path / "whole", *more, precision=precision)) == 0
    copy = stopped(tmp_path / "whole", tmp_path / "copy")
    assert main(["train", "--resume", str(copy), "--ranks", "3", "--threads"]) == 0
    assert losses(copy) == losses(tmp_path / "whole")
    last = Path("checkpoints", f"step_{STEPS:06d}")
    for file in (copy / last).glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "whole" / last / file.name).read_bytes()


def test_what_is_saved_does_not_depend_on_who_saved_it(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first step: the same arrays, in one file or in many."""
    monkeypatch.setattr(checkpoint_saving, "remove_folder", lambda path: None)  # keep the oldest, too
    arrays = {}
    for stage, ranks in (("0", "1"), ("3", "3")):
        out = tmp_path / stage
        assert main(words(text, out, "--zero", stage, "--ranks", ranks, "--threads")) == 0
        first = out / "checkpoints" / "step_000000"
        arrays[stage] = checkpoint.read(first)
        assert len(list(first.glob("*.safetensors"))) == int(ranks)
    assert arrays["0"].keys() == arrays["3"].keys()
    assert all((arrays["0"][name] == arrays["3"][name]).all() for name in arrays["0"])


def test_a_damaged_checkpoint_is_passed_over_with_a_word(
    text: Path, alone: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(alone["float64"], tmp_path / "run")
    (shard,) = (tmp_path / "run" / "checkpoints" / f"step_{STEPS:06d}").glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1])
    capsys.readouterr()
    assert main(["sample", str(tmp_path / "run"), "--tokens", "5"]) == 0
    assert f"refused the checkpoint {shard.parent} is damaged" in capsys.readouterr().err
    assert main(["train", "--resume", str(tmp_path / "run"), "--zero", "2", "--ranks", "2", "--threads"]) == 0
    printed = capsys.readouterr().out
    assert f"refused the checkpoint {shard.parent} is damaged: {shard.name}" in printed
    assert "resumed after step 3" in printed
    assert losses(tmp_path / "run") == pytest.approx(losses(alone["float64"]), rel=1e-10)
    assert checkpoint.newest(tmp_path / "run" / "checkpoints").refused == ()  # it was replaced


def sent(found: dict[str, Any], purpose: str) -> int:
    """Bytes that all ranks sent in a step."""
    return sum(
        verb.get(purpose, {}).get("bytes_sent", 0) for rank in found["traffic"] for verb in rank.values()
    )


@pytest.mark.parametrize(("stage", "accumulate"), [(0, 1), (1, 2), (2, 2), (3, 1), (3, 2)])
def test_the_report_counts_what_the_papers_calculate(
    text: Path, tmp_path: Path, stage: int, accumulate: int
) -> None:
    ranks = 3
    more = ["--zero", str(stage), "--accumulate", str(accumulate), "--ranks", str(ranks), "--threads"]
    assert main(words(text, tmp_path / "library", *more)) == 0
    assert main(words(text, tmp_path / "run", *more, "--reduce", "ring")) == 0
    found, payload = report(tmp_path / "run"), report(tmp_path / "library")
    formula, memory = found["formula"][0], found["memory"]
    assert found["formula"] == payload["formula"] == [formula] * ranks
    for purpose in ("gradients", "parameters"):
        assert sent(found, purpose) == pytest.approx(ranks * formula["traffic"][purpose], rel=1e-12)
        assert sent(payload, purpose) == pytest.approx(ranks * formula["payload"][purpose], rel=1e-12)
    shared = {"optimizer": stage >= 1, "gradients": stage >= 2, "parameters": stage >= 3}
    for name, expected in formula["memory"].items():
        held = [rank["current"][name] for rank in memory]
        if not shared[name]:  # every rank holds all
            assert held == [expected] * ranks
        elif name == "optimizer":  # every entry is on one rank
            assert sum(held) == ranks * expected
        else:  # its shard, and buffers that go round: here so large that everything fits
            assert sum(held) >= ranks * expected
            assert all(one <= expected * (1 + ranks) + 24 for one in held)
    for rank in memory:
        assert rank["peak"]["activations"] > 0
        assert rank["peak"]["total"] >= rank["current"]["total"]


def test_checkpointed_activations_take_less(text: Path, tmp_path: Path) -> None:
    peaks = []
    for more in (["--layers", "4"], ["--layers", "4", "--checkpoint-activations"]):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        assert main(words(text, tmp_path / "run", *more)) == 0
        peaks.append(report(tmp_path / "run")["memory"][0]["peak"]["activations"])
    assert peaks[1] < 0.5 * peaks[0]


def test_offloaded_state_is_no_memory(text: Path, tmp_path: Path) -> None:
    assert main(words(text, tmp_path / "run", "--offload", "disk", "--zero", "1")) == 0
    found = report(tmp_path / "run")
    (memory,), expected = found["memory"], found["formula"][0]["memory"]["optimizer"]
    assert memory["peak"]["optimizer"] == 0
    assert memory["places"]["disk"]["current"]["optimizer"] >= expected


def test_the_launcher_hands_every_option_on(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []

    def note(command: list[str], ranks: int) -> int:
        given.extend(command)
        return 0

    monkeypatch.setattr(launch, "mpirun_command", lambda ranks, command: command)
    monkeypatch.setattr(launch, "run_under_mpirun", note)
    more = ["--zero", "2", "--offload", "disk", "--checkpoint-activations", "--accumulate", "2"]
    more += ["--reduce", "ring", "--no-checkpoint-activations"]
    assert main(words(text, tmp_path / "run", "--ranks", "2", *more)) == 0
    parsed = build_parser(["train"]).parse_args(given[3:])
    expected = build_parser(["train"]).parse_args(words(text, tmp_path / "run", *more))
    assert vars(parsed) == vars(expected)


def test_all_ranks_write_where_rank_0_does(text: Path, tmp_path: Path) -> None:
    """Folders named by the time may differ from rank to rank."""
    settings = Settings(steps=1, layers=1, width=16, heads=2, context=16, batch=4, zero=3)

    def run(world: World) -> int:
        plan = Plan(settings, text_from_files([text]), tmp_path / f"run_{world.rank}")
        return training_run.train_on_rank(world, plan)

    assert dist.spawn(run, ranks=3) == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["run_0"]


def test_processes_under_mpirun_share_out_everything(
    text: Path, alone: dict[str, Path], tmp_path: Path, mpirun: Callable[..., Any]
) -> None:
    more = ["--zero", "3", "--reduce", "ring", "--checkpoint-activations"]
    result = mpirun(["-m", "minigrad", *words(text, tmp_path / "run", *more)], ranks=3, seconds=120)
    assert result.returncode == 0, result.stdout + result.stderr
    assert losses(tmp_path / "run") == pytest.approx(losses(alone["float64"]), rel=1e-10)
    copy = stopped(tmp_path / "run", tmp_path / "copy")
    result = mpirun(["-m", "minigrad", "train", "--resume", str(copy), "--zero", "2"], ranks=2, seconds=120)
    assert result.returncode == 0, result.stdout + result.stderr
    assert losses(copy) == pytest.approx(losses(alone["float64"]), rel=1e-10)
