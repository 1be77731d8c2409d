"""AdamW over flat arrays against its textbook form, parameter by parameter, however the gradients lie."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import nn
from minigrad.errors import GraphError, ShapeError, UsageError
from minigrad.nn.optim import BLOCK, AdamW
from minigrad.tensor import tensor

SHAPES = [(3, 4), (5,), (2, 2, 2), (), (0,), (4, 1)]


def parameters(shapes: list[tuple[int, ...]] = SHAPES, dtype: str = "float64") -> list[nn.Parameter]:
    generator = np.random.default_rng(0)
    return [nn.Parameter(np.asarray(generator.normal(size=shape)).astype(dtype)) for shape in shapes]


def give(parameter: nn.Parameter, gradient: np.ndarray) -> None:
    """Make `gradient` the gradient, the way training does: by a backward walk."""
    (parameter * tensor(gradient)).sum().backward()


def grad(parameter: nn.Parameter) -> Any:
    return None if parameter.grad is None else parameter.grad.tolist()


class Textbook:
    """One parameter's Adam with decoupled weight decay, as the papers write it."""

    def __init__(self, value: np.ndarray) -> None:
        self.value, self.steps = value.copy(), 0
        self.m, self.v = np.zeros_like(value), np.zeros_like(value)

    def step(self, gradient: np.ndarray, group: dict[str, Any]) -> None:
        self.steps += 1
        beta1, beta2 = group["betas"]
        self.m = beta1 * self.m + (1 - beta1) * gradient
        self.v = beta2 * self.v + (1 - beta2) * gradient**2
        corrected = self.m / (1 - beta1**self.steps), self.v / (1 - beta2**self.steps)
        self.value = self.value - group["lr"] * group["weight_decay"] * self.value
        self.value = self.value - group["lr"] * corrected[0] / (np.sqrt(corrected[1]) + group["eps"])


class Counting(AdamW):
    """Counts how many pieces a step worked through."""

    calls = 0

    def update(self, *arguments: Any) -> None:
        self.calls += 1
        super().update(*arguments)


def lay_out(kind: str, own: list[nn.Parameter], order: list[int]) -> None:
    """Give the parameters gradient buffers: parts of one flat array in some order, or arrays of their own."""
    flat = np.full(sum(p.size for p in own) + len(own), np.nan)
    if kind == "bytes":  # a view of memory of another type, with something before it
        flat = np.full(flat.nbytes + 24, 255, np.uint8).view(np.float64)[3:]
    start = 0
    for index in order:
        p = own[index]
        if kind == "apart":
            p.grad_buffer = np.full(p.shape, np.nan)
        else:
            p.grad_buffer = flat[start : start + p.size].reshape(p.shape)
            start += p.size + (kind == "gaps")


# ----- The step --------------------------------------------------------------------------------------


@given(
    groups=st.lists(st.integers(0, 2), min_size=len(SHAPES), max_size=len(SHAPES)),
    kinds=st.lists(st.sampled_from(["own", "flat", "bytes", "gaps", "apart"]), min_size=1, max_size=3),
    orders=st.lists(st.permutations(range(len(SHAPES))), min_size=3, max_size=3),
    present=st.lists(st.sets(st.integers(0, len(SHAPES) - 1)), min_size=1, max_size=8),
    seed=st.integers(0, 99),
)
@settings(max_examples=150)
def test_every_parameter_takes_the_textbook_step(groups, kinds, orders, present, seed):
    """Whatever the groups, wherever gradients lie (and move to), whichever parameters have one in a step."""
    generator = np.random.default_rng(seed)
    own = parameters()
    each: list[dict[str, Any]] = [
        {"lr": 0.1, "weight_decay": 0.2},
        {"betas": (0.5, 0.9), "eps": 1e-3},
        {"lr": 0.003, "weight_decay": 0.0},
    ]
    for group, settings_of_group in enumerate(each):
        settings_of_group["params"] = [p for p, chosen in zip(own, groups, strict=True) if chosen == group]
    optimizer = AdamW(each, lr=0.01, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.05)
    expected = [Textbook(p.numpy()) for p in own]
    for number, chosen in enumerate(present * 2):
        if number % 3 == 0 and kinds[number // 3 % len(kinds)] != "own":
            lay_out(kinds[number // 3 % len(kinds)], own, orders[number // 3 % 3])
        optimizer.zero_grad()
        for index in chosen:
            gradient = generator.normal(size=own[index].shape) * 10.0 ** generator.integers(-3, 3)
            give(own[index], gradient)
            expected[index].step(gradient, optimizer.param_groups[groups[index]])
        optimizer.step()
        for p, book in zip(own, expected, strict=True):
            np.testing.assert_allclose(p.numpy(), book.value, rtol=1e-11, atol=1e-13)
    state = optimizer.state_dict()["state"]
    numbers = {id(p): number for number, p in enumerate(optimizer.parameters)}
    for p, book in zip(own, expected, strict=True):
        entry = state[numbers[id(p)]]
        assert entry["step"] == book.steps
        np.testing.assert_allclose(entry["exp_avg"], book.m, rtol=1e-11, atol=1e-300)
        np.testing.assert_allclose(entry["exp_avg_sq"], book.v, rtol=1e-11, atol=1e-300)


def test_defaults_are_torchs():
    (group,) = AdamW([nn.Parameter([1.0])]).param_groups
    assert {name: value for name, value in group.items() if name != "params"} == {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 1e-2,
    }


def test_a_parameter_longer_than_a_block():
    generator = np.random.default_rng(1)
    own = parameters([(2 * BLOCK + 17,), (3, 5)])
    optimizer, expected = Counting(own, lr=0.1), [Textbook(p.numpy()) for p in own]
    for _ in range(3):
        optimizer.zero_grad()
        for p, book in zip(own, expected, strict=True):
            gradient = generator.normal(size=p.shape)
            give(p, gradient)
            book.step(gradient, optimizer.param_groups[0])
        optimizer.step()
    assert optimizer.calls == 3 * 3
    for p, book in zip(own, expected, strict=True):
        np.testing.assert_allclose(p.numpy(), book.value, rtol=1e-12, atol=1e-15)


def test_single_precision_stays_single_and_follows_the_textbook():
    own = parameters(dtype="float32")
    optimizer, expected = AdamW(own, lr=0.01), [Textbook(p.numpy().astype("float64")) for p in own]
    generator = np.random.default_rng(1)
    for _ in range(20):
        optimizer.zero_grad()
        for p, book in zip(own, expected, strict=True):
            gradient = generator.normal(size=p.shape).astype("float32")
            give(p, gradient)
            book.step(gradient.astype("float64"), optimizer.param_groups[0])
        optimizer.step()
    for p, book in zip(own, expected, strict=True):
        assert p.dtype == np.float32
        np.testing.assert_allclose(p.numpy(), book.value, rtol=1e-5, atol=1e-6)
    assert all(entry["exp_avg"].dtype == np.float32 for entry in optimizer.state_dict()["state"].values())


def test_the_first_step_is_the_rate_against_the_sign():
    p = nn.Parameter(np.array([1.0, -2.0, 3.0]))
    optimizer = AdamW([p], lr=0.5, weight_decay=0.0)
    give(p, np.array([1e-3, -1e3, 7.0]))
    optimizer.step()
    np.testing.assert_allclose(p.numpy(), [0.5, -1.5, 2.5], rtol=1e-4)


def test_settings_may_change_between_steps():
    p = nn.Parameter(np.ones(2))
    optimizer, book = AdamW([p], lr=0.5), Textbook(np.ones(2))
    for rate in (0.5, 0.1, 0.0):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        give(p, np.array([1.0, -2.0]))
        book.step(np.array([1.0, -2.0]), optimizer.param_groups[0])
        optimizer.step()
        np.testing.assert_allclose(p.numpy(), book.value, rtol=1e-12)


# ----- How gradients lie -----------------------------------------------------------------------------


def steps_in_pieces(own: list[nn.Parameter], optimizer: Counting) -> int:
    optimizer.calls = 0
    for p in own:
        p.zero_grad()
        give(p, np.ones(p.shape))
    optimizer.step()
    return optimizer.calls


def test_pieces_are_as_long_as_memory_allows():
    own = parameters([(2, 3), (4,), (5, 1)])
    optimizer = Counting(own)
    assert steps_in_pieces(own, optimizer) == 1
    lay_out("flat", own, [0, 1, 2])
    assert steps_in_pieces(own, optimizer) == 1
    lay_out("flat", own, [2, 0, 1])
    assert steps_in_pieces(own, optimizer) == 2
    lay_out("flat", own, [2, 1, 0])
    assert steps_in_pieces(own, optimizer) == 3
    lay_out("gaps", own, [0, 1, 2])
    assert steps_in_pieces(own, optimizer) == 3


def test_pieces_end_at_groups_and_where_parameters_were_stepped_less_often():
    own = parameters([(2,), (3,), (4,), (5,)])
    optimizer = Counting([{"params": own[:2]}, {"params": own[2:]}])
    assert steps_in_pieces(own, optimizer) == 2
    optimizer.zero_grad()
    give(own[0], np.ones(2))
    optimizer.step()
    assert steps_in_pieces(own, optimizer) == 3


def test_groups_that_cut_across_a_flat_array_of_somebody_else():
    """Matrices decay and vectors do not, while the gradients lie in order of declaration, as in a bucket."""
    model = nn.Sequential(nn.Linear(3, 4, dtype="float64"), nn.Linear(4, 2, dtype="float64"))
    own = list(model.parameters())
    lay_out("flat", own, [0, 1, 2, 3])
    books = [Textbook(p.numpy()) for p in own]
    matrices, vectors = [own[0], own[2]], [own[1], own[3]]
    optimizer = AdamW(
        [{"params": matrices, "weight_decay": 0.5}, {"params": vectors, "weight_decay": 0.0}], lr=0.1
    )
    for seed in range(4):
        optimizer.zero_grad()
        model(tensor(np.random.default_rng(seed).normal(size=(5, 3)))).sum().backward()
        for p, book in zip(own, books, strict=True):
            assert p.grad is not None
            book.step(p.grad.numpy(), optimizer.param_groups[p.ndim == 1])
        optimizer.step()
    for p, book in zip(own, books, strict=True):
        np.testing.assert_allclose(p.numpy(), book.value, rtol=1e-12)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_buffer_that_takes_the_place_of_another_is_seen(index):
    """The first is freed, so that the second may get its identity."""
    own = parameters([(2,), (2,), (2,)])
    optimizer = AdamW(own, lr=0.1, weight_decay=0.0)
    lay_out("flat", own, [0, 1, 2])
    steps_taken = []
    for sign in (1.0, -1.0):
        optimizer.zero_grad()
        before = own[index].numpy().copy()
        for p in own:
            give(p, np.full(2, 1.0 if p is not own[index] else sign * 10.0 ** (1 - sign)))
        optimizer.step()
        steps_taken.append(own[index].numpy() - before)
        optimizer.zero_grad()
        own[index].grad_buffer = None
        own[index].grad_buffer = np.zeros(2)
    np.testing.assert_allclose(steps_taken[0], [-0.1, -0.1], rtol=1e-6)
    assert (steps_taken[1] > 0).all()


def test_views_of_a_matrix_in_fortran_order():
    own = parameters([(4,), (4,)])
    optimizer = AdamW(own, lr=0.1, weight_decay=0.0)
    columns = np.zeros((4, 2), order="F")
    before = [p.numpy().copy() for p in own]
    for place, p in enumerate(own):
        p.grad_buffer = columns[:, place]
        give(p, np.full(4, 1.0 - 2.0 * place))
    optimizer.step()
    np.testing.assert_allclose(own[0].numpy() - before[0], np.full(4, -0.1), rtol=1e-6)
    np.testing.assert_allclose(own[1].numpy() - before[1], np.full(4, 0.1), rtol=1e-6)


def test_a_buffer_that_is_not_contiguous_is_refused_before_anything_changes():
    own = parameters([(2,), (2, 3)])
    optimizer = AdamW(own)
    own[1].grad_buffer = np.zeros((3, 2)).T
    for p in own:
        give(p, np.ones(p.shape))
    before = [p.numpy().copy() for p in own]
    with pytest.raises(UsageError, match="parameter 1 has strides"):
        optimizer.step()
    assert all(np.array_equal(p.numpy(), old) for p, old in zip(own, before, strict=True))


def test_gradients_accumulate_until_they_are_forgotten():
    p = nn.Parameter(np.zeros(2))
    optimizer = AdamW([p])
    give(p, np.ones(2))
    optimizer.step()
    give(p, np.ones(2))
    assert grad(p) == [2.0, 2.0]
    optimizer.zero_grad()
    assert grad(p) is None
    give(p, np.ones(2))
    assert grad(p) == [1.0, 1.0]


# ----- The flat array --------------------------------------------------------------------------------


def test_making_an_optimizer_changes_no_value_and_leaves_loading_to_the_model():
    model = nn.Linear(3, 2, dtype="float64")
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    optimizer = AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
    assert all(np.array_equal(value.numpy(), before[name]) for name, value in model.state_dict().items())
    model.load_state_dict({"weight": np.zeros((2, 3)), "bias": np.ones(2)})
    model(tensor(np.ones((1, 3)))).sum().backward()
    optimizer.step()
    np.testing.assert_allclose(model.weight.numpy(), np.full((2, 3), -0.1), rtol=1e-6)


def test_a_walk_through_values_that_a_step_overwrote_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    optimizer = AdamW(model.parameters())
    x = tensor(np.ones((1, 2), "float32"))
    late = model(x).sum()
    model(x).sum().backward()
    optimizer.step()
    with pytest.raises(GraphError, match="changed in place"):
        late.backward()


def test_parameters_that_left_the_flat_array_are_noticed():
    """Otherwise a step would go on changing an array that the model no longer reads."""
    model = nn.Linear(2, 1)
    first = AdamW(model.parameters())
    AdamW(model.parameters())
    model(tensor(np.ones((1, 2), "float32"))).sum().backward()
    with pytest.raises(UsageError, match="parameter 0 left this optimizer's array"):
        first.step()
    moved = AdamW(model.parameters())
    model.to(dtype="float64")
    with pytest.raises(UsageError, match=r"\.to\("):
        moved.step()


# ----- State -----------------------------------------------------------------------------------------


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    """Numbers and settings as JSON gives them back, arrays copied: what a checkpoint does."""
    groups = json.loads(json.dumps(state["param_groups"]))
    entries = {
        number: {name: value if name == "step" else value.copy() for name, value in entry.items()}
        for number, entry in state["state"].items()
    }
    return {"state": entries, "param_groups": groups}


@given(stop=st.integers(0, 6), skip=st.sets(st.integers(0, len(SHAPES) - 1)), dtype=st.sampled_from("fd"))
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


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda state: state["param_groups"].pop(), UsageError, r"groups of \[2\].*\[2, 1\]"),
        (lambda state: state["param_groups"][0]["params"].pop(), UsageError, r"groups of \[1, 1\]"),
        (lambda state: state["state"].pop(1), UsageError, "parameter 1 lacks"),
        (lambda state: state["state"][2].pop("exp_avg"), UsageError, r"parameter 2 lacks \['exp_avg'\]"),
        (lambda state: state["state"][2].update(exp_avg=np.ones(3)), ShapeError, r"\(3,\), expected \(4,\)"),
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


def frozen() -> nn.Parameter:
    return nn.Parameter(np.ones(2), requires_grad=False)


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
        (lambda: [nn.Parameter(np.ones(2)), frozen()], "parameter 1 .*requires no gradient"),
        (lambda: [tensor([1.0])], "requires no gradient"),
        (lambda: [nn.Parameter(np.ones(2)) * 2.0], "requires no gradient"),
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


def test_a_parameter_that_was_frozen_later_is_noticed():
    own = parameters([(2,), (3,)])
    optimizer = AdamW(own)
    own[1].requires_grad_(False)
    with pytest.raises(UsageError, match=r"parameter 1 .*no longer requires a gradient"):
        optimizer.step()
