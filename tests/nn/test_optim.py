"""AdamW over flat arrays against its textbook form, parameter by parameter, however the gradients lie."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import nn
from minigrad.errors import GraphError, UsageError
from minigrad.nn.optim import BLOCK, AdamW
from minigrad.ops import tensor
from tests.nn.adam import SHAPES, Counting, Textbook, give, grad, lay_out, parameters

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
        if not chosen and not any(optimizer.steps):
            continue  # refused: see test_checks.py
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
        "amsgrad": False,
        "maximize": False,
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
    with pytest.raises(UsageError, match="parameter 1 has 6 entries with strides"):
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
    first, second = AdamW(model.parameters()), AdamW(model.parameters())
    model(tensor(np.ones((1, 2), "float32"))).sum().backward()
    first.step()
    second.step()
    with pytest.raises(UsageError, match="parameter 0 left this optimizer's array"):
        first.step()
    model.to(dtype="float64")
    with pytest.raises(UsageError, match=r"\.to\("):
        second.step()


def test_parameters_may_be_moved_before_the_first_step():
    model = nn.Linear(2, 1)
    optimizer = AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
    model.to(dtype="float64")
    before = model.weight.numpy().copy()
    model(tensor(np.ones((1, 2)))).sum().backward()
    optimizer.step()
    np.testing.assert_allclose(model.weight.numpy(), before - 0.1, rtol=1e-6)
    assert {array.dtype for array in optimizer.flat_state.values()} == {np.dtype("float64")}


def test_parameters_that_no_longer_are_alike_are_noticed():
    own = parameters([(2,), (3,)])
    optimizer = AdamW(own)
    own[1].data = own[1].data.astype("float32")
    with pytest.raises(UsageError, match="share dtype"):
        optimizer.step()
