"""`minigrad train` on data × pipeline × tensor: the losses of one rank; its report; what is refused."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigrad import dist
from minigrad.cli.main import build_parser, main
from minigrad.cli.settings import Settings
from minigrad.cli.trainer import Trainer
from minigrad.dist import World, checkpoint, launch
from minigrad.nn import amp
from minigrad.nn.text import text_from_files
from tests.cli.common import STEPS, TOLERANCE, alone, losses, metrics, quiet, report, stopped, text, words

__all__ = ["alone", "quiet", "text"]  # fixtures


def mesh(data: int, pipeline: int, tensor: int, *more: str) -> list[str]:
    axes = {"--data": data, "--pipeline": pipeline, "--tensor": tensor}
    return [word for name, size in axes.items() for word in (name, str(size))] + ["--threads", *more]


MESHES = [
    ("float64", mesh(2, 2, 1, "--schedule", "zb-h1", "--microbatches", "3", "--zero", "1")),
    ("float64", mesh(1, 4, 1, "--schedule", "zb-h2", "--microbatches", "7", "--zero", "0")),
    ("float64", mesh(1, 2, 2, "--schedule", "interleaved", "--microbatches", "4", "--zero", "2")),
    ("float64", mesh(2, 1, 2, "--microbatches", "3", "--zero", "3", "--checkpoint-activations")),
    ("float64", mesh(2, 2, 2, "--schedule", "gpipe", "--zero", "3", "--checkpoint-activations")),
    ("float64", mesh(2, 2, 1, "--schedule", "terapipe", "--slices", "5", "--microbatches", "2")),
    ("float64", mesh(1, 1, 3, "--offload", "disk", "--reduce", "ring")),
    ("float64", mesh(1, 2, 2, "--offload", "disk", "--reduce", "ordered", "--zero", "1")),
    ("float32", mesh(2, 2, 1, "--schedule", "zb-h1", "--microbatches", "3", "--zero", "1")),
    ("float32", mesh(1, 3, 2, "--zero", "2")),
    ("mixed-float16", mesh(2, 2, 2, "--microbatches", "2", "--zero", "1")),
]


@pytest.mark.parametrize(
    ("precision", "more"), MESHES, ids=lambda value: value if isinstance(value, str) else " ".join(value[1:])
)
def test_every_mesh_loses_as_much_as_one_rank(
    text: Path, alone: dict[str, Path], tmp_path: Path, precision: str, more: list[str]
) -> None:
    assert main(words(text, tmp_path / "run", *more, precision=precision)) == 0
    assert losses(tmp_path / "run") == pytest.approx(losses(alone[precision]), rel=TOLERANCE[precision])
    for name in ("validation_loss", "gradient_norm"):
        found, expected = (
            [s[name] for s in metrics(f) if name in s] for f in (tmp_path / "run", alone[precision])
        )
        assert found == pytest.approx(expected, rel=10 * TOLERANCE[precision])
    loss = report(alone[precision])["validation_loss"]
    assert report(tmp_path / "run")["validation_loss"] == pytest.approx(loss, rel=TOLERANCE[precision])
    assert {path.name for path in tmp_path.iterdir()} == {"run"}  # no offloaded file is left behind


def test_a_run_goes_on_on_every_other_mesh(text: Path, alone: dict[str, Path], tmp_path: Path) -> None:
    """From one rank to one mesh after the other; each goes on from the middle of the run before it."""
    before = alone["float64"]
    for number, more in enumerate(
        (
            mesh(2, 2, 1, "--zero", "1", "--schedule", "zb-h1", "--microbatches", "3"),
            mesh(1, 4, 1),  # its own schedule and microbatches
            mesh(1, 2, 2, "--zero", "3", "--schedule", "interleaved", "--microbatches", "2"),
            mesh(3, 1, 1, "--accumulate", "2"),
            mesh(1, 1, 2, "--zero", "0"),
        )
    ):
        copy = stopped(before, tmp_path / str(number))
        assert main(["train", "--resume", str(copy), *more]) == 0
        assert losses(copy) == pytest.approx(losses(alone["float64"]), rel=1e-10)
        before = copy


def test_a_run_resumed_on_its_own_mesh_repeats_itself_to_the_bit(text: Path, tmp_path: Path) -> None:
    more = mesh(2, 2, 1, "--schedule", "zb-h1", "--microbatches", "3", "--zero", "1")
    assert main(words(text, tmp_path / "whole", *more, precision="float32")) == 0
    copy = stopped(tmp_path / "whole", tmp_path / "copy")
    assert main(["train", "--resume", str(copy), "--ranks", "4", "--threads"]) == 0
    assert losses(copy) == losses(tmp_path / "whole")


def test_what_is_saved_does_not_depend_on_the_mesh(
    text: Path, alone: dict[str, Path], tmp_path: Path
) -> None:
    more = mesh(1, 2, 2, "--zero", "1", "--microbatches", "2")
    assert main(words(text, tmp_path / "run", *more)) == 0
    last = Path("checkpoints", f"step_{STEPS:06d}")
    found, expected = (checkpoint.read(folder / last) for folder in (tmp_path / "run", alone["float64"]))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-9, atol=1e-12, err_msg=name)
    states = (checkpoint.newest(folder / "checkpoints") for folder in (tmp_path / "run", alone["float64"]))
    assert len({json.dumps(state.metadata, sort_keys=True) for state in states}) == 1


def test_the_report_tells_of_the_mesh(text: Path, tmp_path: Path) -> None:
    more = mesh(2, 2, 1, "--schedule", "gpipe", "--microbatches", "3", "--reduce", "ring")
    assert main(words(text, tmp_path / "run", *more)) == 0
    found = report(tmp_path / "run")
    assert found["mesh"] == {"data": 2, "pipeline": 2, "tensor": 1}
    assert [one["pipeline"] for one in found["coordinates"]] == [0, 1, 0, 1]
    pipeline = found["pipeline"]
    assert (pipeline["schedule"], pipeline["microbatches"]) == ("gpipe", 3)
    assert 0 < pipeline["bubble"] < 1
    assert len(set(found["parameters"])) == 2
    for rank, traffic in enumerate(found["traffic"]):
        own, formula = found["parameters"][rank], found["formula"][rank]
        assert formula["bubble"] == pytest.approx(1 / 4)  # (p − 1) / (m + p − 1)
        assert formula["memory"] == {"parameters": 8 * own, "gradients": 8 * own, "optimizer": 16 * own}
        assert formula["traffic"] == {"gradients": 8 * own, "parameters": 0}
        assert found["memory"][rank]["current"]["parameters"] == 8 * own
        assert found["memory"][rank]["current"]["optimizer"] == 16 * own
        assert found["memory"][rank]["peak"]["activations"] > 0
        # To the other copy, which has the same: half of all to be reduced, half to be gathered; and to the
        # other stage the gradient of the words, which are the output layer as well.
        assert traffic["all_reduce"]["gradients"]["bytes_sent"] == 8 * own + 8 * 256 * 16
        # 7 sequences are 4 and 3, of 16 tokens of 16 numbers: activations go one way, and gradients back.
        samples = 4 if rank < 2 else 3
        assert sum(e.get("activations", {}).get("bytes_sent", 0) for e in traffic.values()) == samples * 2048


def test_a_pipeline_keeps_fewer_activations_with_1f1b_than_with_gpipe(text: Path, tmp_path: Path) -> None:
    peaks = []
    for schedule in ("gpipe", "1f1b"):
        more = mesh(1, 2, 1, "--schedule", schedule, "--microbatches", "7")
        assert main(words(text, tmp_path / schedule, *more)) == 0
        peaks.append(report(tmp_path / schedule)["memory"][1]["peak"]["activations"])
    assert peaks[1] < 0.3 * peaks[0]  # one microbatch on the last rank, beside seven


@pytest.mark.parametrize("axes", [{}, {"pipeline": 2}, {"tensor": 2}], ids=["data", "pipeline", "tensor"])
def test_what_is_not_finite_leaves_the_parameters_alone(text: Path, axes: dict[str, int]) -> None:
    read = text_from_files([text])
    settings = Settings(layers=1, width=16, heads=2, context=16, batch=4, **axes)  # type: ignore[arg-type]

    def run(world: World) -> tuple[bool, bool, list[bool]]:
        trainer = Trainer(world, settings, read)
        first = trainer.step()
        before = [piece.array.copy() for piece in trainer.pieces()]
        state = trainer.metadata()
        learn = trainer.part.learn
        if trainer.mesh.coordinates["data"] == trainer.mesh.shape["data"] - 1:
            trainer.part.learn = partial(_spoilt, learn)  # type: ignore[method-assign]
        second = trainer.step()
        same = [bool((a == p.array).all()) for a, p in zip(before, trainer.pieces(), strict=True)]
        return first.finite, second.finite, [*same, trainer.metadata()["step"] == state["step"]]

    for first, second, same in dist.spawn(run, ranks=2):
        assert first
        assert not second
        assert all(same)


def _spoilt(learn: Callable[..., float], *inputs: Any, count: int, **keywords: Any) -> float:
    """Gradients that are infinite, or no numbers."""
    with np.errstate(all="ignore"):
        return learn(*inputs, count=1e-320, **keywords)


def test_gradients_beyond_float16_in_one_stage_are_left_out_by_all(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        amp, "GradScaler", partial(amp.GradScaler, init_scale=2.0**40, backoff_factor=2.0**-12)
    )
    more = mesh(1, 2, 2, "--zero", "1", "--microbatches", "2")
    assert main(words(text, tmp_path / "run", *more, precision="mixed-float16")) == 0
    skipped = [step["gradient_norm"] is None for step in metrics(tmp_path / "run")]
    assert skipped[0]
    assert skipped == sorted(skipped, reverse=True)
    assert not skipped[-1]
    last = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert set(last.metadata["parallel"]["steps"].values()) == {STEPS - sum(skipped)}
    assert last.metadata["parallel"]["scaler"]["scale"] == 2.0 ** (40 - 12 * sum(skipped))


def test_the_launcher_starts_as_many_ranks_as_the_mesh_has(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def note(command: list[str], ranks: int) -> int:
        given.extend([ranks, *command])
        return 0

    monkeypatch.setattr(launch, "mpirun_command", lambda ranks, command: command)
    monkeypatch.setattr(launch, "run_under_mpirun", note)
    more = ["--pipeline", "2", "--tensor", "2", "--schedule", "interleaved", "--virtual", "2"]
    more += ["--microbatches", "2", "--slices", "1"]
    assert main(words(text, tmp_path / "run", *more, "--data", "3", "--batch", "9")) == 0
    assert given[0] == 12
    parsed = build_parser(["train"]).parse_args(given[4:])
    assert vars(parsed) == vars(
        build_parser(["train"]).parse_args(words(text, tmp_path / "run", *more, "--batch", "9"))
    )


def test_processes_under_mpirun(
    text: Path, alone: dict[str, Path], tmp_path: Path, mpirun: Callable[..., Any]
) -> None:
    more = ["--data", "2", "--pipeline", "2", "--schedule", "zb-h1", "--microbatches", "3", "--zero", "1"]
    result = mpirun(["-m", "minigrad", *words(text, tmp_path / "run", *more)], ranks=4, seconds=120)
    assert result.returncode == 0, result.stdout + result.stderr
    assert losses(tmp_path / "run") == pytest.approx(losses(alone["float64"]), rel=1e-10)
    assert "ranks   4 (mpi): data 2, pipeline 2, tensor 1, zb-h1 of 3 microbatches" in result.stdout
    result = mpirun(["-m", "minigrad", *words(text, tmp_path / "other", *more)], ranks=2, seconds=60)
    assert result.returncode == 2
    assert "--data 2 × --pipeline 2 × --tensor 1 are 4 ranks, and there are 2" in result.stderr
