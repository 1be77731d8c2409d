"""Modules that hold others, and how a module is asked, frozen, printed and loaded."""

import copy

import numpy as np
import pytest

from minigrad.errors import ShapeError, UsageError
from minigrad.nn import layers as L
from minigrad.nn.containers import ModuleDict, ModuleList, ParameterList, Sequential
from minigrad.nn.module import Module, Parameter
from minigrad.ops import tensor
from minigrad.tensor import Tensor


def test_sequential_takes_names_and_is_sliced_and_changed_like_a_list():
    model = Sequential({"first": L.Linear(2, 3), "act": L.ReLU()})
    assert [name for name, _ in model.named_parameters()] == ["first.weight", "first.bias"]
    model.append(L.Linear(3, 1)).extend([L.Tanh(), L.Identity()])
    assert [name for name, _ in model.named_children()] == ["first", "act", "2", "3", "4"]
    assert isinstance(model[1:3], Sequential)
    assert list(model[1:3]) == [model[1], model[2]]
    model[1] = L.Tanh()
    assert [type(part).__name__ for part in model] == ["Linear", "Tanh", "Linear", "Tanh", "Identity"]
    with pytest.raises(UsageError, match=r"cannot be named 'forward'"):
        Sequential({"forward": L.ReLU()})


def test_a_dict_of_modules_is_found_under_its_keys():
    heads = ModuleDict({"a": L.Linear(2, 1)})
    heads["b"] = L.Linear(3, 1)
    heads.update([("c", L.ReLU())])
    assert list(heads) == list(heads.keys()) == ["a", "b", "c"]
    assert list(heads.values()) == [heads["a"], heads["b"], heads["c"]]
    assert dict(heads.items())["b"] is heads["b"]
    assert "b" in heads
    assert "weight" not in heads
    assert len(heads) == 3
    assert [name for name, _ in heads.named_parameters()] == ["a.weight", "a.bias", "b.weight", "b.bias"]
    del heads["a"]
    assert list(heads) == ["b", "c"]
    with pytest.raises(KeyError, match=r"no module 'a'; it has b, c"):
        heads["a"]
    for name in ("keys", "a.b", ""):
        with pytest.raises(UsageError, match="cannot be named"):
            heads[name] = L.ReLU()
    with pytest.raises(UsageError, match="expected a Module"):
        heads["d"] = np.tanh  # type: ignore[assignment]


def test_a_list_of_parameters_makes_them_of_arrays():
    shared = Parameter([5.0])
    values = ParameterList([np.zeros(2), shared, shared])
    assert len(values) == 3
    assert values[1] is values[2] is shared
    assert values[-3].requires_grad
    assert [name for name, _ in values.named_parameters()] == ["0", "1"]
    values[0] = Parameter([1.0])
    assert values[0].tolist() == [1.0]
    with pytest.raises(UsageError, match="is a Parameter"):
        values[0] = tensor([1.0])  # type: ignore[assignment]


def test_equal_neighbours_of_a_list_print_once():
    modules = ModuleList([L.ReLU(), L.ReLU(), L.Linear(1, 2), L.ReLU()])
    assert repr(modules) == (
        "ModuleList(\n  (0-1): 2 x ReLU()\n  (2): Linear(in_features=1, out_features=2, bias=True)\n"
        "  (3): ReLU()\n)"
    )
    assert repr(ModuleList()) == "ModuleList()"
    assert repr(Sequential(modules[:1])) == "Sequential(\n  (0): ModuleList(\n    (0): ReLU()\n  )\n)"


def test_modules_are_found_by_dotted_names():
    model = Sequential(L.Linear(1, 1), Sequential({"inner": L.ReLU()}))
    assert model.get_submodule("") is model
    assert model.get_submodule("1.inner") is model[1][0]
    with pytest.raises(UsageError, match=r"no module '1.outer' \(nothing at 'outer'\)"):
        model.get_submodule("1.outer")
    with pytest.raises(UsageError, match=r"no module '0.weight'"):
        model.get_submodule("0.weight")


def test_parameters_of_a_module_alone():
    model = Sequential(L.Linear(1, 1))
    model.register_parameter("own", Parameter([1.0]))
    model.register_buffer("seen", np.zeros(1), persistent=False)
    model.add_module("more", L.Linear(1, 1, bias=False))
    assert [name for name, _ in model.named_parameters(recurse=False)] == ["own"]
    assert [name for name, _ in model.named_parameters(prefix="m")] == [
        "m.own",
        "m.0.weight",
        "m.0.bias",
        "m.more.weight",
    ]
    assert [name for name, _ in model.named_buffers()] == ["seen"]
    assert "seen" not in model.state_dict()


def test_freezing_stops_gradients_and_thawing_starts_them():
    model = Sequential(L.Linear(2, 2), L.Linear(2, 1))
    assert model[0].requires_grad_(False) is model[0]
    twin = copy.deepcopy(model)
    for each in (model, twin):
        each(tensor(np.ones((3, 2), "float32"))).sum().backward()
        assert [p.grad is None for p in each.parameters()] == [True, True, False, False]
    model.double()
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    model.requires_grad_()
    model(tensor(np.ones((3, 2)))).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert {str(p.dtype) for p in model.float().parameters()} == {"float32"}


def test_loading_returns_what_it_left_out():
    model = L.Linear(2, 1)
    found = model.load_state_dict({"weight": np.ones((1, 2)), "other": np.ones(9)}, strict=False)
    assert found == (["bias"], ["other"])
    assert found.missing_keys == ["bias"]
    assert found.unexpected_keys == ["other"]
    assert model.load_state_dict(model.state_dict()) == ([], [])


def test_loading_fills_every_name_of_what_is_shared():
    class Tied(Module):
        def __init__(self) -> None:
            self.one = L.Linear(2, 2)
            self.two = self.one

    model = Tied()
    state = {name: value.numpy() + 1.0 for name, value in model.state_dict().items()}
    assert sorted(state) == ["one.bias", "one.weight", "two.bias", "two.weight"]
    model.load_state_dict(state)
    np.testing.assert_array_equal(model.two.weight.numpy(), state["one.weight"])


# ----- Where an error arose ---------------------------------------------------------------------------


def test_an_error_names_the_path_of_the_layer_and_its_class():
    model = Sequential(L.Linear(4, 4), Sequential({"inner": ModuleList([L.Linear(4, 4), L.Linear(3, 4)])}))

    class Whole(Module):
        def __init__(self) -> None:
            self.body = model

        def forward(self, x: Tensor) -> Tensor:
            return self.body[1][0][1](self.body[0](x))

    with pytest.raises(ShapeError) as caught:
        Whole()(tensor(np.ones((2, 4), "float32")))
    assert str(caught.value).startswith("body.1.inner.1 (Linear): linear: x has shape (2, 4)")
    with pytest.raises(ShapeError) as caught:
        Sequential(L.ReLU(), model)(tensor(np.ones((2, 5), "float32")))
    assert str(caught.value).startswith("1.0 (Linear): linear: x has shape (2, 5)")
    with pytest.raises(ShapeError) as caught:
        L.Linear(3, 1)(tensor(np.ones((2, 4), "float32")))
    assert str(caught.value).startswith("linear: x has shape (2, 4)")


def test_a_layer_that_is_no_part_of_the_model_is_named_by_its_class():
    hidden = [L.Linear(3, 1)]

    class Whole(Module):
        def forward(self, x: Tensor) -> Tensor:
            return hidden[0](x)

    with pytest.raises(ShapeError, match=r"^a.Linear \(Linear\): linear: x has"):
        Sequential({"a": Whole()})(tensor(np.ones((2, 4), "float32")))


def test_messages_of_ranks_still_begin_with_the_rank():
    class Broken(Module):
        def forward(self, x: Tensor) -> Tensor:
            raise UsageError("rank 1 of 2: counts differ")

    with pytest.raises(UsageError, match=r"^rank 1 of 2: counts differ$"):
        Sequential(Sequential(Broken()))(1)
