"""A schedule of one's own: one function and one line of the catalogue, and every command knows it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from minigrad.cli.main import main
from minigrad.cli.settings import Settings
from minigrad.dist import schedules
from minigrad.dist.schedule import Action, B, F
from tests.cli.common import TOLERANCE, alone, losses, quiet, report, text, words

__all__ = ["alone", "quiet", "text"]  # fixtures


def first_in_first_out(shape: schedules.Shape) -> schedules.Lists:
    """All forwards, then all backwards in the same order; v stages per rank, one after the other."""
    stages = [[c * shape.ranks + s for c in range(shape.virtual)] for s in range(shape.ranks)]
    batch = range(shape.microbatches)
    return [
        [
            *(Action(stage, F, j) for stage in own for j in batch),
            *(Action(stage, B, j) for stage in reversed(own) for j in batch),
        ]
        for own in stages
    ]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(schedules.SCHEDULES, "mine", schedules.Entry(first_in_first_out))
        many = schedules.Entry(first_in_first_out, ("virtual",), grouped=True)
        patch.setitem(schedules.SCHEDULES, "mine-too", many)
        yield


@pytest.mark.parametrize(("name", "virtual", "microbatches"), [("mine", 1, 7), ("mine-too", 2, 6)])
def test_it_trains(
    text: Path, alone: dict[str, Path], tmp_path: Path, name: str, virtual: int, microbatches: int
) -> None:
    more = ["--pipeline", "2", "--threads", "--schedule", name]
    assert main(words(text, tmp_path / "run", *more)) == 0
    assert losses(tmp_path / "run") == pytest.approx(losses(alone["float64"]), rel=TOLERANCE["float64"])
    found = report(tmp_path / "run")["pipeline"]
    assert (found["schedule"], found["virtual"], found["microbatches"]) == (name, virtual, microbatches)


def test_the_other_commands_know_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schedule", "mine", "--stages", "2", "--microbatches", "2", "--text"]) == 0
    assert capsys.readouterr().out == "0: F0@0 F1@0 B0@0 B1@0\n1: F0@1 F1@1 B0@1 B1@1\n"
    model = ["--model", "layers=2,width=8,heads=2,context=8,vocabulary=16,batch=2"]
    assert main(["plan", *model, "--pipeline", "2", "--schedule", "mine-too", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["mesh"]
    assert (found["schedule"], len(found["places"])) == ("mine-too", 2)
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "mine-too" in capsys.readouterr().out


def test_what_it_can_use_is_asked_of_its_entry() -> None:
    assert Settings(pipeline=2, schedule="mine").division == {"schedule": "mine", "virtual": 1, "slices": 1}
    assert Settings(pipeline=2, schedule="mine-too").division["virtual"] == 2
    assert Settings(pipeline=2, schedule="mine-too", virtual=3).division["virtual"] == 3
    assert Settings(pipeline=2, schedule="mine", batch=7).portions(2) == 7
    assert Settings(pipeline=2, schedule="mine-too", batch=7).portions(2) == 6
