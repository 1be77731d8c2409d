"""Modules: what they find inside themselves, modes, moves, and loading that is whole or refused."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad import nn
from minigrad.errors import DTypeError, ShapeError, UsageError
from minigrad.ops import tensor
from minigrad.tensor import Tensor


class Counter(nn.Module):
    """A parameter, a buffer of each kind, and a number that is no part of the state."""

    def __init__(self) -> None:
        self.scale = nn.Parameter(np.full(2, 3.0))
        self.count = nn.Buffer(np.zeros(2, dtype=np.int64))
        self.scratch = nn.Buffer(np.zeros(3), persistent=False)
        self.inner = nn.Linear(2, 2)
        self.number = 7

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.scale


class Tied(nn.Module):
    """The same parameter under two names, and the same module under two others."""

    def __init__(self) -> None:
        self.embedding = nn.Embedding(5, 3)
        self.first = nn.Linear(3, 3)
        self.again = self.first
        self.output = nn.Linear(3, 5, bias=False)
        self.output.weight = self.embedding.weight


def names(pairs: object) -> list[str]:
    return [name for name, _ in pairs]  # type: ignore[attr-defined]


def values(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in module.state_dict().items()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


# ----- What is inside --------------------------------------------------------------------------------


def test_names_follow_attributes_own_ones_before_those_of_children():
    module = Counter()
    assert names(module.named_parameters()) == ["scale", "inner.weight", "inner.bias"]
    assert names(module.named_buffers()) == ["count", "scratch"]
    assert names(module.named_modules()) == ["", "inner"]
    assert names(module.named_children()) == ["inner"]
    assert list(module.parameters()) == [module.scale, module.inner.weight, module.inner.bias]
    assert list(module.buffers()) == [module.count, module.scratch]


def test_own_parameters_come_first_even_when_declared_after_a_child():
    module = nn.Module()
    module.child = nn.Linear(1, 1)
    module.own = nn.Parameter([1.0])
    assert names(module.named_parameters()) == ["own", "child.weight", "child.bias"]


def test_shared_parameters_and_modules_are_counted_once():
    module = Tied()
    assert names(module.named_parameters()) == ["embedding.weight", "first.weight", "first.bias"]
    assert names(module.named_modules()) == ["", "embedding", "first", "output"]
    assert len(list(module.children())) == 4


def test_a_tied_parameter_gets_the_gradient_of_both_uses():
    module = Tied()
    hidden = module.embedding(tensor([1, 1, 4]))
    module.output(hidden).sum().backward()
    # Of Σ_i Σ_j w[t_i]·w[j] every row gets the sum of the hidden states, and each use the sum of all rows.
    weight = module.embedding.weight.numpy()
    expected = np.tile(weight[[1, 1, 4]].sum(0), (5, 1))
    np.add.at(expected, [1, 1, 4], weight.sum(0))
    assert module.embedding.weight.grad is not None
    np.testing.assert_allclose(module.embedding.weight.grad.numpy(), expected, rtol=1e-5)


def test_a_list_numbers_its_modules():
    modules = nn.ModuleList(nn.Linear(n, 1, bias=False) for n in (1, 2))
    modules.append(nn.Linear(3, 1, bias=False))
    assert len(modules) == 3
    assert [module.in_features for module in modules] == [1, 2, 3]  # type: ignore[attr-defined]
    assert modules[-1] is modules[2]
    assert modules[-3] is modules[0]
    assert names(modules.named_parameters()) == ["0.weight", "1.weight", "2.weight"]
    for outside in (3, -4):
        with pytest.raises(IndexError):
            modules[outside]


def test_sequential_applies_its_modules_in_order():
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    x = tensor(np.ones((4, 2), "float32"))
    assert len(module) == 3
    assert [type(part) for part in module] == [nn.Linear, nn.Tanh, nn.Linear]
    np.testing.assert_array_equal(module(x).numpy(), module[2](module[1](module[0](x))).numpy())
    assert nn.Sequential()(x) is x


@pytest.mark.parametrize("make", [nn.Sequential, lambda part: nn.ModuleList([part])])
def test_what_is_no_module_is_refused_and_not_skipped(make):
    with pytest.raises(UsageError, match="expected a Module"):
        make(np.tanh)


def test_a_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match="Module has no forward"):
        nn.Module()(1)


# ----- Modes -----------------------------------------------------------------------------------------


def test_modes_reach_every_module_below():
    module = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))
    assert all(part.training for part in module.modules())
    assert module.eval() is module
    assert not any(part.training for part in module.modules())
    assert module.train() is module
    assert all(part.training for part in module.modules())


def test_apply_visits_children_before_parents():
    seen: list[nn.Module] = []
    module = nn.Sequential(nn.Sequential(nn.ReLU()), nn.Tanh())
    assert module.apply(seen.append) is module
    assert [type(part).__name__ for part in seen] == ["ReLU", "Sequential", "Tanh", "Sequential"]


def test_zero_grad_forgets_gradients_and_passes_over_frozen_parameters():
    module = nn.Linear(2, 1)
    module.weight.requires_grad_(False)
    module(tensor(np.ones((1, 2), "float32"))).sum().backward()
    assert [p.grad is None for p in module.parameters()] == [True, False]
    module.zero_grad()
    assert [p.grad is None for p in module.parameters()] == [True, True]


# ----- Moves -----------------------------------------------------------------------------------------


def test_to_changes_floating_point_tensors_and_keeps_what_they_are():
    module = Counter().to(dtype="float64")
    before = values(module)
    module.to(dtype="float32")
    assert {str(p.dtype) for p in module.parameters()} == {"float32"}
    assert module.count.dtype == np.int64
    assert all(p.requires_grad and p.is_leaf for p in module.parameters())
    after = values(module)
    assert all(np.array_equal(after[name], before[name].astype(after[name].dtype)) for name in before)


def test_to_where_it_is_already_changes_nothing():
    module = nn.Linear(2, 1)
    module(tensor(np.ones((1, 2), "float32"))).sum().backward()
    array = module.weight.data
    calls: list[Tensor] = []
    module.weight.register_post_accumulate_grad_hook(calls.append)
    module.to("cpu", "float32")
    assert module.weight.data is array
    assert module.weight.grad is not None
    module(tensor(np.ones((1, 2), "float32"))).sum().backward()
    assert len(calls) == 1


def test_to_another_kind_of_number_is_refused_before_anything_moves():
    module = nn.Linear(2, 1)
    with pytest.raises(DTypeError, match="int32"):
        module.to(dtype="int32")
    assert {str(p.dtype) for p in module.parameters()} == {"float32"}


def test_a_deep_copy_is_whole_and_apart():
    module = Counter()
    module.scale.requires_grad_(False)
    twin = copy.deepcopy(module)
    assert same(values(twin), values(module))
    assert names(twin.named_buffers()) == ["count", "scratch"]
    assert "scratch" not in twin.state_dict()
    assert [p.requires_grad for p in twin.parameters()] == [False, True, True]
    twin.scale.assign(0.0)
    assert module.scale.numpy().tolist() == [3.0, 3.0]


def test_a_deep_copy_keeps_ties():
    twin = copy.deepcopy(Tied())
    assert twin.output.weight is twin.embedding.weight
    assert twin.again is twin.first


# ----- State -----------------------------------------------------------------------------------------


def test_state_has_persistent_buffers_and_every_name_of_what_is_tied():
    assert list(Counter().state_dict()) == ["scale", "count", "inner.weight", "inner.bias"]
    expected = ["embedding", "first", "first", "again", "again", "output"]
    assert [name.partition(".")[0] for name in Tied().state_dict()] == expected


def test_state_shares_memory_and_has_no_history():
    module = nn.Linear(2, 1)
    state = module.state_dict()
    assert not any(value.requires_grad for value in state.values())
    module.weight.assign(5.0)
    assert state["weight"].tolist() == [[5.0, 5.0]]


@pytest.mark.parametrize("make", [Counter, Tied, lambda: nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))])
@pytest.mark.parametrize("as_arrays", [True, False])
def test_state_goes_round(make, as_arrays):
    source, target = make(), make()
    for name, value in source.state_dict().items():
        value.assign(tensor(np.arange(value.size).reshape(value.shape) + len(name)).astype(value.dtype))
    arrays = [target_value.data for target_value in target.state_dict().values()]
    target.load_state_dict(values(source) if as_arrays else source.state_dict())
    assert same(values(target), values(source))
    # in place: whoever holds the arrays (an optimizer) sees the new values
    assert all(new.data is old for new, old in zip(target.state_dict().values(), arrays, strict=True))


def test_loading_converts_dtypes_and_takes_lists():
    module = nn.Linear(1, 2)
    module.load_state_dict({"weight": np.array([[1.5], [2.5]]), "bias": [3, 4]})
    assert module.weight.dtype == np.float32
    assert module.weight.tolist() == [[1.5], [2.5]]
    assert module.bias is not None
    assert module.bias.tolist() == [3.0, 4.0]


def test_a_misfit_lists_every_key_and_changes_nothing():
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = values(module)
    wrong = {
        "0.weight": np.zeros((3, 2)),
        "0.bias": np.zeros(4),
        "1.weight": np.zeros((3, 1)),
        "extra.one": np.zeros(1),
        "extra.two": np.zeros(1),
    }
    with pytest.raises(ShapeError) as caught:
        module.load_state_dict(wrong)
    message = str(caught.value)
    for part in (
        "Sequential",
        "missing: 1.bias",
        "unexpected: extra.one, extra.two",
        "0.bias is (4,), expected (3,)",
        "1.weight is (3, 1), expected (1, 3)",
    ):
        assert part in message
    assert "0.weight" not in message
    assert same(values(module), before)


def test_loading_that_is_not_strict_forgives_names_but_not_shapes():
    module = nn.Linear(2, 1)
    bias = module.bias.numpy().copy()  # type: ignore[union-attr]
    module.load_state_dict({"weight": np.ones((1, 2)), "other": np.ones(9)}, strict=False)
    assert module.weight.tolist() == [[1.0, 1.0]]
    np.testing.assert_array_equal(module.bias.numpy(), bias)  # type: ignore[union-attr]
    with pytest.raises(ShapeError, match=r"weight is \(2, 1\), expected \(1, 2\)"):
        module.load_state_dict({"weight": np.zeros((2, 1)), "bias": np.zeros(1)}, strict=False)
    assert module.weight.tolist() == [[1.0, 1.0]]


def test_a_value_that_is_no_number_is_refused_before_anything_changes():
    module = nn.Linear(2, 1)
    before = values(module)
    with pytest.raises((DTypeError, ValueError)):
        module.load_state_dict({"weight": np.ones((1, 2)), "bias": np.array(["x"])})
    assert same(values(module), before)


@given(data=st.data())
def test_any_misfit_changes_nothing(data):
    """Whatever is dropped, added or reshaped, a strict load either fits wholly or leaves no trace."""
    module = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1, bias=False))
    before = values(module)
    state = {name: np.ones_like(value) for name, value in before.items()}
    dropped = data.draw(st.sets(st.sampled_from(sorted(state))))
    added = data.draw(st.sets(st.sampled_from(["2.bias", "3.weight", "weight"])))
    reshaped = data.draw(st.sets(st.sampled_from(sorted(state)))) - dropped
    for name in reshaped:
        state[name] = np.ones((*state[name].shape, 2))
    state = {name: value for name, value in state.items() if name not in dropped}
    state |= {name: np.ones(1) for name in added}
    if not (dropped or added or reshaped):
        module.load_state_dict(state)
        assert all(np.all(value == 1) for value in values(module).values())
        return
    with pytest.raises(UsageError if not reshaped else ShapeError) as caught:
        module.load_state_dict(state)
    assert all(name in str(caught.value) for name in dropped | added | reshaped)
    assert same(values(module), before)
