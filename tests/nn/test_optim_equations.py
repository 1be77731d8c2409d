"""Every optimizer against its paper's equations, and what all of them share."""

import inspect
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import nn
from minigrad.backend import of_device
from minigrad.errors import UsageError
from minigrad.nn.lr_scheduler import LambdaLR
from minigrad.nn.optim import SGD, AdamW, Optimizer
from minigrad.ops import tensor
from minigrad.tensor import Tensor
from tests.nn.equations import EQUATIONS
from tests.nn.optimizers import SHAPES, cases, gradient, make, values, whole_step


@given(case=cases())
@settings(max_examples=300, deadline=None)
def test_every_step_is_that_of_the_paper(case):
    """Whatever the options, the groups, and the parameters that have a gradient in a step."""
    name, groups, present = case
    optimizer = make(name, groups)
    runs = []
    for index, value in enumerate(values()):
        group = optimizer.param_groups[int(index >= 2)]
        sign = -1.0 if group["maximize"] else 1.0
        given_gradients = [
            sign * gradient(step, index) if index in chosen else None for step, chosen in enumerate(present)
        ]
        runs.append(EQUATIONS[name](value, given_gradients, group))
    for step, chosen in enumerate(present):
        whole_step(optimizer, step, chosen)
        for p, run in zip(optimizer.parameters, runs, strict=True):
            np.testing.assert_allclose(p.numpy(), next(run), rtol=1e-9, atol=1e-11)


def test_all_optimizers_have_equations():
    classes = {
        name
        for name, kind in inspect.getmembers(nn.optim, inspect.isclass)
        if issubclass(kind, Optimizer) and kind is not Optimizer
    }
    assert classes == {*EQUATIONS, "LBFGS"}


DEFAULTS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 1e-3, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False},
    "Adam": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False},
    "AdamW": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2, "amsgrad": False},
    "Adamax": {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0},
    "NAdam": {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "momentum_decay": 4e-3},
    "RMSprop": {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "weight_decay": 0, "momentum": 0, "centered": False},
    "Adagrad": {"lr": 1e-2, "lr_decay": 0, "weight_decay": 0, "initial_accumulator_value": 0, "eps": 1e-10},
    "LBFGS": {
        "lr": 1,
        "max_iter": 20,
        "max_eval": 25,
        "tolerance_grad": 1e-7,
        "tolerance_change": 1e-9,
        "history_size": 100,
        "line_search_fn": None,
    },
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_and_the_order_of_arguments_are_torchs(name):
    kind = getattr(nn.optim, name)
    (group,) = kind([nn.Parameter([1.0])]).param_groups
    assert {key: group[key] for key in DEFAULTS[name]} == DEFAULTS[name]
    assert list(inspect.signature(kind).parameters)[1 : 1 + len(DEFAULTS[name])] == list(DEFAULTS[name])


STATE: dict[str, tuple[dict[str, Any], set[str]]] = {
    "SGD": ({"momentum": 0.9}, {"momentum_buffer"}),
    "Adam": ({"amsgrad": True}, {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}),
    "AdamW": ({}, {"exp_avg", "exp_avg_sq"}),
    "Adamax": ({}, {"exp_avg", "exp_inf"}),
    "NAdam": ({}, {"exp_avg", "exp_avg_sq", "mu_product"}),
    "RMSprop": ({"momentum": 0.9, "centered": True}, {"square_avg", "momentum_buffer", "grad_avg"}),
    "Adagrad": ({}, {"sum"}),
}


@pytest.mark.parametrize("name", STATE)
def test_state_has_torchs_names(name):
    extra, names = STATE[name]
    optimizer = make(name, [extra, extra])
    whole_step(optimizer, 0, {0})
    assert set(optimizer.state_dict()["state"][0]) == {"step", *names}


def test_without_momentum_nothing_is_kept():
    optimizer = make("SGD", [{}, {}])
    whole_step(optimizer, 0, {0, 1})
    assert optimizer.flat_state == {}


@given(case=cases(), stop=st.integers(0, 6), dtype=st.sampled_from(["float32", "float64"]))
@settings(max_examples=80, deadline=None)
def test_what_is_taken_up_again_is_the_same_to_the_bit(case, stop, dtype):
    name, groups, present = case
    whole, first, second = (make(name, groups, dtype) for _ in range(3))
    for step, chosen in enumerate(present):
        whole_step(whole, step, chosen)
        if step < stop:
            whole_step(first, step, chosen)
    saved = first.state_dict()
    for p, other in zip(second.parameters, first.parameters, strict=True):
        p.assign(other.numpy())
    second.load_state_dict(saved)
    for step, chosen in list(enumerate(present))[stop:]:
        whole_step(second, step, chosen)
    for p, other in zip(second.parameters, whole.parameters, strict=True):
        np.testing.assert_array_equal(p.numpy(), other.numpy())


@pytest.mark.parametrize("name", sorted(EQUATIONS))
def test_a_step_is_counted_on_arrays_without_values(name):
    """Skipping is decided on the device: nobody looks at the flag."""
    shapes = of_device("shapes")
    groups = [{"momentum": 0.9, "dampening": 0.3} if name == "SGD" else {}] * 2
    optimizer = make(name, groups, device="shapes")
    for number in range(3):
        for p in optimizer.parameters:
            p.grad = Tensor.of(shapes.empty(p.shape, dtype=p.dtype))
        skip = shapes.empty((), dtype=bool) if number else None
        optimizer.step(gradient_scale=shapes.empty((), dtype="float32"), skip=skip)


def test_gradients_are_scaled_as_they_are_read():
    plain, scaled = make("AdamW", [{}, {}]), make("AdamW", [{}, {}])
    for step in range(4):
        whole_step(
            scaled, step, {0, 2}, gradient_scale=[0.25, np.asarray(0.25), np.float64(0.25), 0.25][step]
        )
        plain.zero_grad()
        for index in (0, 2):
            plain.parameters[index].grad = tensor(0.25 * gradient(step, index))
        plain.step()
    for p, other in zip(scaled.parameters, plain.parameters, strict=True):
        np.testing.assert_array_equal(p.numpy(), other.numpy())
    assert scaled.parameters[0].grad is not None
    np.testing.assert_array_equal(scaled.parameters[0].grad.numpy(), gradient(3, 0))


def test_a_scale_of_double_precision_leaves_single_precision_single():
    for scale in (np.float64(0.5), np.asarray(0.5), 0.5):
        optimizer = make("Adam", [{}, {}], "float32")
        whole_step(optimizer, 0, {0, 1, 2}, gradient_scale=scale)
        assert {p.dtype for p in optimizer.parameters} == {np.dtype("float32")}
        assert optimizer.flat_state["exp_avg"].dtype == np.float32


def test_a_closure_is_called_before_the_step():
    p = nn.Parameter(np.ones(2))
    optimizer = SGD([p], lr=0.5)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (p * 2.0).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    np.testing.assert_array_equal(p.numpy(), [0.0, 0.0])


def test_momentum_with_the_rate_inside_needs_a_correction():
    """Goyal et al. 2017, remark 2: eq. 10 with the factor lr/lr before is eq. 9; without it, it is not."""
    rates = [0.1, 0.3, 0.5, 0.5, 0.05, 0.005]
    generator = np.random.default_rng(0)
    gradients = generator.normal(size=(len(rates), 3))

    def run(**how: Any) -> np.ndarray:
        p = nn.Parameter(np.zeros(3))
        optimizer = SGD([p], lr=1.0, momentum=0.9, **how)
        schedule = LambdaLR(optimizer, lambda step: rates[min(step, len(rates) - 1)])
        for g in gradients:
            p.grad = tensor(g)
            optimizer.step()
            schedule.step()
        return p.numpy()

    def inside(*, corrected: bool) -> np.ndarray:
        value = velocity = np.zeros(3)
        for before, rate, g in zip([rates[0], *rates], rates, gradients, strict=False):
            velocity = 0.9 * (rate / before if corrected else 1.0) * velocity + rate * g
            value = value - velocity
        return value

    np.testing.assert_allclose(run(), inside(corrected=True), rtol=1e-12)
    np.testing.assert_allclose(run(momentum_correction=False), inside(corrected=False), rtol=1e-12)
    assert np.abs(run() - run(momentum_correction=False)).max() > 0.1


# ----- Parameters that come and go -------------------------------------------------------------------


def test_frozen_parameters_are_kept_and_left_alone():
    own = [nn.Parameter(np.ones(3)), nn.Parameter(np.ones(2), requires_grad=False)]
    optimizer = AdamW(own, lr=0.1)
    own[0].grad = tensor(np.ones(3))
    optimizer.step()
    np.testing.assert_array_equal(own[1].numpy(), [1.0, 1.0])
    assert optimizer.steps == [1, 0]
    own[1].requires_grad_()
    own[1].grad = tensor(np.ones(2))
    optimizer.step()
    assert optimizer.steps == [2, 1]
    np.testing.assert_allclose(own[1].numpy(), np.full(2, 1 - 0.1 - 0.001), rtol=1e-6)
    own[0].requires_grad_(False)
    optimizer.zero_grad()
    optimizer.step()
    assert optimizer.steps == [2, 1]


def test_parameters_that_are_added_later_begin_anew():
    own = [nn.Parameter(value) for value in values()]
    optimizer = AdamW(own[:3], lr=0.1, amsgrad=False)
    alone = AdamW([nn.Parameter(value) for value in values()[3:]], lr=0.2, amsgrad=True)
    for step in range(4):
        if step == 2:
            before = [p.numpy().copy() for p in own[:3]]
            optimizer.add_param_group({"params": own[3:], "lr": 0.2, "amsgrad": True})
            assert all(np.array_equal(p.numpy(), old) for p, old in zip(own, before, strict=False))
        for index, p in enumerate(optimizer.parameters):
            p.grad = tensor(gradient(step, index))
        optimizer.step()
        if step >= 2:
            for index, p in enumerate(alone.parameters):
                p.grad = tensor(gradient(step, index + 3))
            alone.step()
    assert optimizer.steps == [4, 4, 4, 2, 2, 2]
    for p, other in zip(own[3:], alone.parameters, strict=True):
        np.testing.assert_array_equal(p.numpy(), other.numpy())
    state, expected = optimizer.state_dict()["state"], alone.state_dict()["state"]
    for index in range(3):
        np.testing.assert_array_equal(state[index + 3]["max_exp_avg_sq"], expected[index]["max_exp_avg_sq"])


def test_a_parameter_that_is_there_already_cannot_be_added():
    own = [nn.Parameter(np.ones(2))]
    optimizer = SGD(own)
    with pytest.raises(UsageError, match="twice"):
        optimizer.add_param_group({"params": own})
    with pytest.raises(UsageError, match="unknown settings"):
        optimizer.add_param_group({"params": [nn.Parameter(np.ones(2))], "beta": 1})
    assert len(optimizer.param_groups) == 1


def test_momentum_that_is_switched_on_later_begins_at_zero():
    p = nn.Parameter(np.zeros(1))
    optimizer = SGD([p], lr=1.0)
    for momentum in (0.0, 0.5, 0.5):
        optimizer.param_groups[0]["momentum"] = momentum
        p.grad = tensor(np.ones(1))
        optimizer.step()
    np.testing.assert_array_equal(p.numpy(), [-(1.0 + 1.0 + 1.5)])


MISTAKES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": -1.0}),
    ("SGD", {"momentum": -0.1}),
    ("SGD", {"weight_decay": -0.1}),
    ("SGD", {"nesterov": True}),
    ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}),
    ("Adam", {"betas": (0.9, 1.0)}),
    ("Adamax", {"eps": -1.0}),
    ("NAdam", {"momentum_decay": -1.0}),
    ("RMSprop", {"alpha": -0.1}),
    ("Adagrad", {"initial_accumulator_value": -0.1}),
    ("Adagrad", {"lr": float("nan")}),
    ("Lion", {"betas": (0.9,)}),
    ("LARS", {"trust_coefficient": -1.0}),
    ("LAMB", {"weight_decay": -1.0}),
]


@pytest.mark.parametrize(("name", "mistake"), MISTAKES)
def test_settings_that_make_no_sense_are_refused_by_name(name, mistake):
    own = [nn.Parameter(np.ones(shape)) for shape in SHAPES]
    with pytest.raises(UsageError, match=rf"{name}: .*"):
        getattr(nn.optim, name)(own, **mistake)
