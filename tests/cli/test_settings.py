"""Settings: what is refused, and what may change on a resume."""

from dataclasses import replace
from typing import Any

import pytest

from minigrad.cli.settings import Settings, resumed_settings, settings_from_json
from minigrad.errors import UsageError


def test_the_defaults_are_valid_and_survive_json() -> None:
    settings = Settings(text=("a", "b"))
    settings.check(ranks=4)
    assert settings_from_json(settings.as_json()) == settings
    assert settings_from_json(Settings().as_json()) == Settings()


@pytest.mark.parametrize(
    ("changes", "ranks", "message"),
    [
        ({"heads": 3}, 1, "3 heads do not divide a width of 128.*1, 2, 4, 8"),
        ({"steps": 0}, 1, "--steps is 0"),
        ({"save_every": 0}, 1, "--save-every is 0"),
        ({"batch": 3}, 4, "4 ranks cannot share a batch of 3"),
        ({}, 0, "--ranks is 0"),
        ({"dropout": 1.0}, 1, "--dropout is 1.0"),
        ({"learning_rate": float("nan")}, 1, "--learning-rate is nan"),
        ({"learning_rate": 0.0}, 1, "--learning-rate is 0.0"),
        ({"seed": -1}, 1, "--seed is -1"),
        (
            {"precision": "float16"},
            1,
            "--precision is 'float16'; expected float32, float64, mixed-float16 or mixed-bfloat16",
        ),
        ({"zero": 4}, 1, "--zero is 4; expected 0, 1, 2 or 3"),
        ({"reduce": "tree"}, 1, "--reduce is 'tree'; expected mpi, ring, halving or ordered"),
        ({"offload": "moon"}, 1, "--offload is 'moon'; expected none, host or disk"),
        ({"accumulate": 0}, 1, "--accumulate is 0"),
        (
            {"batch": 7, "accumulate": 3},
            3,
            "--accumulate is 3, but with a batch of 7.*has only 2; use at most 2",
        ),
        (
            {"offload": "host"},
            1,
            "with --device cpu it is there already; use --offload disk, or --device gpu",
        ),
    ],
)
def test_bad_values_are_named(changes: dict, ranks: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(Settings(), **changes).check(ranks=ranks)


@pytest.mark.parametrize("name", ["schedule", "virtual", "slices"])
def test_what_has_no_effect_without_a_pipeline_is_refused(name: str) -> None:
    given: dict[str, Any] = {name: "gpipe" if name == "schedule" else 1}
    Settings(pipeline=2, **given).check_effect(given)
    Settings(**given).check_effect({})  # recorded by a run that had a pipeline
    with pytest.raises(UsageError, match=f"--{name} {given[name]} has no effect without a pipeline"):
        Settings(**given).check_effect(given)


def test_threads_are_not_added_up_by_mpi() -> None:
    Settings(reduce="mpi").check(ranks=4)
    Settings(reduce="ring").check(ranks=4, threads=True)
    with pytest.raises(UsageError, match=r"--reduce mpi .*--threads .*--reduce ring, halving or ordered"):
        Settings(reduce="mpi").check(ranks=4, threads=True)


def test_a_resume_names_every_value_that_differs() -> None:
    recorded = Settings(steps=20, width=64)
    with pytest.raises(UsageError, match=r"--width 128 \(the run has 64\), --seed 1 \(the run has 0\)"):
        resumed_settings(recorded, {"width": 128, "seed": 1, "layers": recorded.layers}, step=10)


def test_a_resume_may_repeat_values_and_change_who_computes_and_for_how_long() -> None:
    recorded = Settings(steps=20, width=64)
    changes: dict[str, Any] = {
        "steps": 30,
        "save_every": 7,
        "zero": 3,
        "accumulate": 2,
        "checkpoint_activations": True,
    }
    resumed = resumed_settings(recorded, {"width": 64, **changes}, step=20)
    assert resumed == replace(recorded, **changes)


def test_what_a_resume_gives_takes_the_place_of_what_says_the_same() -> None:
    recorded = Settings(steps=20, pipeline=2, schedule="interleaved", virtual=4, microbatches=8)
    alone = resumed_settings(recorded, {"pipeline": 1, "accumulate": 2}, step=10)
    assert (alone.microbatches, alone.portions(1)) == (None, 2)
    again = resumed_settings(alone, {"pipeline": 2, "microbatches": 4}, step=10)
    assert (again.accumulate, again.portions(2)) == (1, 4)
    assert resumed_settings(recorded, {"schedule": "1f1b"}, step=10).division["virtual"] == 1
    assert resumed_settings(recorded, {}, step=10).division["virtual"] == 4


@pytest.mark.parametrize(
    ("batch", "ranks", "changes", "expected"),
    [
        (64, 1, {}, 1),
        (64, 1, {"accumulate": 3}, 3),
        (64, 4, {"pipeline": 4}, 16),  # four for each rank of the pipeline
        (9, 4, {"pipeline": 4}, 9),  # no more than there are
        (9, 4, {"pipeline": 4, "schedule": "interleaved"}, 8),  # in whole groups
        (9, 8, {"pipeline": 2, "tensor": 2}, 4),  # of a copy's part
        (9, 4, {"pipeline": 4, "microbatches": 2}, 2),
    ],
)
def test_how_many_portions(batch: int, ranks: int, changes: dict[str, Any], expected: int) -> None:
    found = Settings(batch=batch, **changes)
    found.check(ranks=ranks)
    assert found.portions(ranks) == expected


@pytest.mark.parametrize("steps", [10, 20])
def test_a_run_that_is_done_is_not_resumed(steps: int) -> None:
    with pytest.raises(UsageError, match=rf"at step 20 of {steps}"):
        resumed_settings(Settings(steps=20), {"steps": steps}, step=20)


def test_settings_of_another_version_are_refused() -> None:
    values = Settings().as_json()
    del values["dropout"]
    with pytest.raises(UsageError, match="differ in dropout"):
        settings_from_json(values)
