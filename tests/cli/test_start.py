"""Training begins with a model of which no rank holds more than its part, and loses what it lost before."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from minigrad.cli import trainer
from minigrad.cli.main import main
from minigrad.cli.settings import Settings
from minigrad.cli.trainer import Trainer
from minigrad.dist import World
from minigrad.nn.text import text_from_files
from tests.cli.common import metrics, quiet, stopped, text, words
from tests.dist.held import SLACK, most_while

__all__ = ["quiet", "text"]  # fixtures

build = trainer.build_model


def built_whole(*arguments: Any, device: str = "cpu", **options: Any) -> Any:
    """What every rank did once: draw the whole model."""
    return build(*arguments, device="cpu" if device == "shapes" else device, **options)


def results(folder: Path) -> list[Any]:
    """Losses and norms of a run, to the bit."""
    return [[step[name] for name in ("loss", "gradient_norm")] for step in metrics(folder)]


@pytest.mark.parametrize(
    ("more", "precision"),
    [
        ("--zero 0", "float32"),
        ("--zero 3 --ranks 5 --threads", "float64"),
        ("--zero 3 --ranks 3 --threads --offload disk", "mixed-float16"),
        ("--zero 1 --data 2 --pipeline 2 --tensor 2 --threads", "float32"),
        (
            "--zero 3 --pipeline 2 --tensor 2 --schedule terapipe --slices 2 --microbatches 2 --threads",
            "float32",
        ),
    ],
)
def test_losses_are_those_of_ranks_that_build_the_whole_model(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, precision: str
) -> None:
    now, before = tmp_path / "now", tmp_path / "before"
    assert main(words(text, now, *more.split(), precision=precision)) == 0
    monkeypatch.setattr(trainer, "build_model", built_whole)
    assert main(words(text, before, *more.split(), precision=precision)) == 0
    assert results(now) == results(before)
    monkeypatch.undo()
    copy = stopped(before, tmp_path / "copy")  # what was begun then goes on now
    assert main(["train", "--resume", str(copy), *more.split()]) == 0
    assert results(copy) == results(before)


@pytest.mark.parametrize(
    ("ranks", "parts", "kept_models"),
    [
        (5, {"zero": 3}, 1 + 1 + 5 * 2.3 / 8),  # shards, as many gradients, and the room of two blocks each
        (3, {"pipeline": 3}, 2 * 1.1),  # every parameter once, and its gradient; the tied words twice
        (4, {"pipeline": 2, "zero": 3}, 1.1 + 1.1 + 4 * 2.3 / 8),
    ],
)
def test_no_rank_ever_holds_the_whole_model(
    text: Path, monkeypatch: pytest.MonkeyPatch, ranks: int, parts: dict[str, int], kept_models: float
) -> None:
    settings = Settings(layers=8, width=128, heads=2, context=16, batch=8, **parts)  # type: ignore[arg-type]
    corpus = text_from_files([text])

    def begin(world: World) -> Trainer:
        return Trainer(world, settings, corpus)

    whole = 4 * sum(parameter.size for parameter in build(settings, device="shapes").parameters())
    kept, most = most_while(begin, ranks)
    slack = SLACK + ranks * 400_000  # modules and hooks
    assert kept < kept_models * whole + slack
    assert most < kept + slack
    monkeypatch.setattr(trainer, "build_model", partial(built_whole))
    assert most_while(begin, ranks)[1] > ranks * whole
