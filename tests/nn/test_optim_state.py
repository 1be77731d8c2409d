"""What an optimizer saves and takes up again, and what it refuses."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import nn
from minigrad.errors import ShapeError, UsageError
from minigrad.nn.optim import AdamW
from minigrad.ops import tensor
from tests.nn.adam import SHAPES, Textbook, give, parameters

# ----- State -----------------------------------------------------------------------------------------


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    """Numbers and settings as JSON gives them back, arrays copied: what a checkpoint does."""
    groups = json.loads(json.dumps(state["param_groups"]))
    entries = {
        number: {name: value if name == "step" else value.copy() for name, value in entry.items()}
        for number, entry in state["state"].items()
    }
    return {"state": entries, "param_groups": groups}


@given(stop=st.integers(0, 6), skip=st.sets(st.integers(1, len(SHAPES) - 1)), dtype=st.sampled_from("fd"))
@settings(max_examples=25)
def test_a_run_that_is_taken_up_again_is_the_same_to_the_bit(stop, skip, dtype):
    def run(optimizer: AdamW, start: int, end: int) -> None:
        for step in range(start, end):
            generator = np.random.default_rng(step)
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] *= 0.9
            for index, p in enumerate(optimizer.parameters):
                gradient = generator.normal(size=p.shape).astype(dtype)
                if index not in skip or step % 2:
                    give(p, gradient)
            optimizer.step()

    def make() -> AdamW:
        own = parameters(dtype=dtype)
        groups: list[dict[str, Any]] = [
            {"params": own[:4], "lr": 0.1},
            {"params": own[4:], "weight_decay": 0.3},
        ]
        return AdamW(groups)

    whole, first, second = make(), make(), make()
    run(whole, 0, 6)
    run(first, 0, stop)
    saved = through_json(first.state_dict())
    for p, value in zip(second.parameters, first.parameters, strict=True):
        p.assign(value.numpy())
    second.load_state_dict(saved)
    run(second, stop, 6)
    for p, other in zip(whole.parameters, second.parameters, strict=True):
        np.testing.assert_array_equal(p.numpy(), other.numpy())
    assert json.dumps(whole.state_dict()["param_groups"]) == json.dumps(second.state_dict()["param_groups"])


def test_loading_counts_steps_anew_for_each_parameter():
    own = parameters([(2,), (3,)])
    optimizer, books = AdamW(own, lr=0.1), [Textbook(p.numpy()) for p in own]

    def step() -> None:
        optimizer.zero_grad()
        for p, book in zip(own, books, strict=True):
            give(p, np.ones(p.shape))
            book.step(np.ones(p.shape), optimizer.param_groups[0])
        optimizer.step()

    step()
    saved = through_json(optimizer.state_dict())
    saved["state"][1]["step"] = books[1].steps = 40
    optimizer.load_state_dict(saved)
    step()
    for p, book in zip(own, books, strict=True):
        np.testing.assert_allclose(p.numpy(), book.value, rtol=1e-12)


def test_state_is_laid_out_as_torch_does():
    own = parameters()
    groups: list[dict[str, Any]] = [{"params": own[:2], "lr": 0.5}, {"params": own[2:]}]
    state = AdamW(groups).state_dict()
    assert [group["params"] for group in state["param_groups"]] == [[0, 1], [2, 3, 4, 5]]
    assert [group["lr"] for group in state["param_groups"]] == [0.5, 1e-3]
    assert [entry["exp_avg"].shape for entry in state["state"].values()] == SHAPES
    assert all(set(entry) == {"step", "exp_avg", "exp_avg_sq"} for entry in state["state"].values())


def test_a_parameter_without_an_entry_took_no_step():
    """As torch saves it, where a parameter never had a gradient."""
    own = parameters([(2,), (3,)])
    source, target = AdamW(own, lr=0.1), AdamW(parameters([(2,), (3,)]), lr=0.1)
    for p in [*own, *target.parameters]:
        give(p, np.ones(p.shape))
    target.step()
    source.step()
    saved = through_json(source.state_dict())
    del saved["state"][1]
    target.load_state_dict(saved)
    assert target.steps == [1, 0]
    assert target.flat_state["exp_avg"].tolist() == [
        *source.flat_state["exp_avg"][:2].tolist(),
        0.0,
        0.0,
        0.0,
    ]


def test_torchs_sgd_counts_no_steps_and_may_have_no_velocity():
    own = parameters([(2,), (3,)])
    optimizer = nn.optim.SGD(own, lr=1.0, momentum=0.5, dampening=0.25)
    groups = [{**optimizer.state_dict()["param_groups"][0]}]
    velocity = np.array([4.0, 8.0])
    optimizer.load_state_dict(
        {"state": {0: {"momentum_buffer": velocity}, 1: {"momentum_buffer": None}}, "param_groups": groups}
    )
    before = [p.numpy().copy() for p in own]
    for p in own:
        give(p, np.ones(p.shape))
    optimizer.step()
    np.testing.assert_allclose(before[0] - own[0].numpy(), velocity * 0.5 + 0.75)
    np.testing.assert_allclose(before[1] - own[1].numpy(), np.ones(3))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda state: state["param_groups"].pop(), UsageError, r"groups of \[2\].*\[2, 1\]"),
        (lambda state: state["param_groups"][0]["params"].pop(), UsageError, r"groups of \[1, 1\]"),
        (lambda state: state["state"][2].pop("exp_avg"), UsageError, r"parameter 2 lacks \['exp_avg'\]"),
        (lambda state: state["state"][2].update(exp_avg=np.ones(3)), ShapeError, r"\(3,\), expected \(4,\)"),
        (lambda state: state["state"][2].update(other=np.ones(3)), ShapeError, r"other of .*\(3,\)"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(damage, error, message):
    def make() -> AdamW:
        own = parameters([(2,), (3,), (4,)])
        return AdamW([{"params": own[:2]}, {"params": own[2:]}], lr=0.1)

    source, target = make(), make()
    for p in source.parameters:
        give(p, np.ones(p.shape))
    source.step()
    saved = through_json(source.state_dict())
    saved["param_groups"][0]["lr"] = 99.0
    damage(saved)
    with pytest.raises(error, match=message):
        target.load_state_dict(saved)
    after = target.state_dict()
    assert after["param_groups"][0]["lr"] == 0.1
    assert all(entry["step"] == 0 and not entry["exp_avg"].any() for entry in after["state"].values())


# ----- Misuse ----------------------------------------------------------------------------------------


def twice() -> list[Any]:
    p = nn.Parameter(np.ones(2))
    return [p, p]


def in_two_groups() -> list[Any]:
    p = nn.Parameter(np.ones(2))
    return [{"params": [p]}, {"params": [p]}]


@pytest.mark.parametrize(
    ("given_parameters", "message"),
    [
        (list, "needs at least one parameter"),
        (lambda: [{"params": []}], "needs at least one parameter"),
        (twice, "twice"),
        (in_two_groups, "twice"),
        (lambda: [nn.Parameter(np.ones(2)), tensor([1.0])], "parameter 1 .*is no parameter"),
        (lambda: [nn.Parameter(np.ones(2)) * 2.0], "is no parameter"),
        (lambda: [np.ones(2)], "ndarray"),
        (lambda: [{"lr": 0.1}], "params"),
        (lambda: [{"params": parameters()}, nn.Parameter(np.ones(2))], "groups"),
        (lambda: [{"params": parameters(), "momentum": 0.9}], "momentum"),
        (lambda: [{"params": parameters(), "lr": -0.1}], r"lr -0\.1"),
        (lambda: [*parameters(), nn.Parameter(np.ones(2, "float32"))], "share dtype"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(given_parameters, message):
    with pytest.raises(UsageError, match=message):
        AdamW(given_parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -1.0},
        {"lr": float("nan")},
        {"eps": -1e-8},
        {"weight_decay": -0.1},
        {"betas": (0.9, 1.0)},
        {"betas": (-0.1, 0.9)},
        {"betas": (0.9,)},
    ],
)
def test_settings_that_make_no_sense_are_refused(options):
    own = parameters()
    arrays = [p.data for p in own]
    with pytest.raises(UsageError, match=next(iter(options))):
        AdamW(own, **options)
    assert all(p.data is array for p, array in zip(own, arrays, strict=True))


def test_one_parameter_alone_is_a_list_of_one():
    p = nn.Parameter(np.ones((2, 3)))
    assert AdamW(p).parameters == [p]  # type: ignore[arg-type]
    q = nn.Parameter(np.ones((2, 3)))
    assert AdamW([{"params": q}]).parameters == [q]
