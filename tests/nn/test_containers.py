"""Modules that hold others, and how a module is asked, frozen, printed and loaded."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import nn
from minigrad.errors import DTypeError, ShapeError, UsageError
from minigrad.nn import layers as L
from minigrad.nn.containers import ModuleDict, ModuleList, ParameterList, Sequential
from minigrad.nn.models import MLP
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


def test_parts_of_what_is_made_in_its_own_way_are_plain_containers():
    model = MLP([3, 4, 2])
    head, longer = model[:2], model + Sequential(L.Tanh())
    assert (type(head), type(longer)) == (Sequential, Sequential)
    assert (list(head), list(longer)[:-1]) == (list(model)[:2], list(model))


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
    values[0] = tensor([2.0])
    assert isinstance(values[0], Parameter)
    assert values[0].tolist() == [2.0]


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


@pytest.mark.parametrize("kind", [nn.Sequential, nn.ModuleList])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_list_of_modules_changes_as_a_list_does(kind, data):
    made = iter(nn.Identity() for _ in range(99))
    plain = [next(made) for _ in range(data.draw(st.integers(0, 4)))]
    own = kind().extend(plain)
    for _ in range(4):
        change = data.draw(st.sampled_from(["insert", "pop", "delete", "slice", "append", "+=", "+"]))
        index = data.draw(st.integers(-5, 5))
        if change == "insert":
            one = next(made)
            plain.insert(index, one)
            own.insert(index, one)
        elif change in ("pop", "delete") and -len(plain) <= index < len(plain):
            gone = plain.pop(index)
            if change == "pop":
                assert own.pop(index) is gone
            else:
                del own[index]
        elif change == "slice":
            del plain[index:], own[index:]
        else:
            more = [next(made) for _ in range(1 if change == "append" else 2)]
            plain += more
            if change == "append":
                own.append(more[0])
            elif change == "+=":
                own += more
            else:
                own = own + more
        assert list(own) == plain
        assert [name for name, _ in own.named_children()] == [str(n) for n in range(len(plain))]


def test_containers_of_nothing_and_what_is_taken_out():
    for kind in (nn.ModuleList, nn.ModuleDict, nn.ParameterList):
        assert len(kind(None)) == 0
    some = nn.ModuleDict({"a": nn.Linear(1, 2), "b": nn.Identity()})
    assert isinstance(some.pop("b"), nn.Identity)
    assert list(some) == ["a"]
    some.clear()
    assert len(some) == 0
    numbers = nn.ParameterList([np.ones(2)])
    numbers += [np.ones(3)]
    assert [p.shape for p in numbers.extend([np.ones(1)])] == [(2,), (3,), (1,)]
    assert [p.shape for p in numbers[1:]] == [(3,), (1,)]
    numbers[-1] = np.ones(4)
    assert [p.shape for p in numbers.parameters()] == [(2,), (3,), (4,)]


def test_tensors_are_found_by_dotted_names_and_tied_ones_under_each():
    one = L.BatchNorm1d(2)
    model = Sequential(one, Sequential(L.Linear(2, 2), one))
    assert model.get_parameter("1.0.weight") is model[1][0].weight
    assert model.get_buffer("1.1.running_mean") is one.running_mean
    for name in ("1.0.weigth", "0.running_mean", "", "0"):
        with pytest.raises(UsageError, match=f"Sequential has no parameter {name!r}"):
            model.get_parameter(name)
    assert len(list(model.named_parameters())) == 4
    every = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert every == ["0.weight", "0.bias", "1.0.weight", "1.0.bias", "1.1.weight", "1.1.bias"]
    assert len(list(model.named_buffers(remove_duplicate=False))) == 6
    assert set(model.state_dict(prefix="a.")) == {f"a.{name}" for name in model.state_dict()}
    assert not Parameter(np.ones(2), False).requires_grad


def test_gradients_are_forgotten_or_filled_with_zeros():
    model = nn.Linear(2, 3)
    for owner in (model, nn.optim.SGD(model.parameters(), lr=0.1)):
        model(tensor(np.ones((1, 2), "float32"))).sum().backward()
        owner.zero_grad(set_to_none=False)
        assert model.weight.grad is not None
        assert not model.weight.grad.numpy().any()
        model(tensor(np.ones((1, 2), "float32"))).sum().backward()
        assert model.weight.grad is not None
        np.testing.assert_array_equal(model.weight.grad.numpy(), np.ones((3, 2)))  # added to the zeros
        owner.zero_grad()
        assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("dtype", ["float64", np.float16, np.dtype("float32"), float])
def test_a_module_moves_to_a_dtype_alone(dtype):
    model = nn.BatchNorm1d(2)
    assert model.to(dtype) is model
    assert model.weight.dtype == model.running_mean.dtype == np.dtype(dtype)
    assert model.num_batches_tracked.dtype == np.int64
    assert model.cpu().half().weight.dtype == np.float16
    with pytest.raises(DTypeError, match="int32"):
        model.to("int32")
