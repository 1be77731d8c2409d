"""An MLP runs small batches as one operation: the same as layer by layer, and only where nobody looks."""

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.errors import ShapeError
from minigrad.graph import Node
from minigrad.nn.models import MLP
from minigrad.nn.models.mlp import FEW


def operations(result: mg.Tensor) -> list[str]:
    """What made a result, from the input on, along the first inputs that an operation made."""
    found: list[str] = []
    node: Node | None = result.node
    while node is not None and node.operation is not None:
        found.append(node.operation.name)
        node = next((edge for edge in node.inputs if edge is not None and edge.operation is not None), None)
    return found[::-1]


def x(*shape: int) -> mg.Tensor:
    return mg.tensor(np.cos(np.arange(np.prod(shape))).reshape(shape))


def mlp(*sizes: int, **options: Any) -> MLP:
    return MLP(sizes, dtype="float64", **options)


SINGLE = ["linear", "relu", "linear"]


def test_when_it_is_one_operation():
    model = mlp(3, 4, 2)
    assert operations(model(x(5, 3))) == ["perceptron"]
    assert operations(model(x(FEW, 3))) == ["perceptron"]
    assert operations(model(x(FEW + 1, 3))) == SINGLE
    assert operations(mlp(6, 4)(mg.tensor(x(5, 2, 3), requires_grad=True))) == ["reshape", "perceptron"]
    assert operations(mlp(3, 4, 2, activation=nn.Tanh)(x(5, 3))) == ["linear", "tanh", "linear"]
    assert "perceptron" not in operations(mlp(3, 4, 2, dropout=0.5)(x(5, 3)))
    with mg.fused_operations(False):
        assert "perceptron" not in operations(model(x(5, 3)))


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=2, max_size=5),
    samples=st.integers(0, 6),
    tied=st.booleans(),
    walks=st.integers(1, 3),
)
def test_the_same_as_layer_by_layer(sizes, samples, tied, walks):
    model = mlp(*sizes)
    layers = [module for module in model if isinstance(module, nn.Linear)]
    layers[-1].bias = None
    if tied and len(layers) > 2 and layers[0].weight.shape == layers[1].weight.shape:
        layers[1].weight = layers[0].weight
    found = []
    for enabled in (True, False):
        model.zero_grad()
        own = mg.tensor(x(samples, sizes[0]), requires_grad=True)
        with mg.fused_operations(enabled):
            for _ in range(walks):
                mg.square(model(own)).sum().backward()
        found.append([own.grad, *(p.grad for p in model.parameters())])
    for fast, slow in zip(*found, strict=True):
        np.testing.assert_allclose(fast.data, slow.data, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("place", range(1, 4))
def test_hooks_see_their_module_run(place):
    model = mlp(3, 3, 3)
    expected = model(x(2, 3)).numpy()
    seen: list[Any] = []
    model[place].register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    np.testing.assert_allclose(model(x(2, 3)).numpy(), expected, rtol=1e-14)
    ((before, after),) = seen
    one_by_one = [*model]
    for stop, value in ((place, before), (place + 1, after)):
        np.testing.assert_allclose(
            nn.Sequential(*one_by_one[:stop])(x(2, 3)).numpy(), value.numpy(), rtol=1e-14
        )


def test_what_is_put_in_later_counts():
    class Doubled(nn.Linear):
        def forward(self, x: Any) -> Any:
            return super().forward(x) * 2.0

    model = mlp(3, 3, 3)
    twin = copy.deepcopy(model)
    before = model(x(2, 3)).numpy()
    model[1].weight = nn.Parameter(np.eye(3))
    model[1].bias = None
    model[3] = nn.Linear(3, 1, dtype="float64")
    expected = np.maximum(x(2, 3).numpy(), 0) @ model[3].weight.numpy().T + model[3].bias.numpy()
    np.testing.assert_allclose(model(x(2, 3)).numpy(), expected, rtol=1e-14)
    np.testing.assert_array_equal(twin(x(2, 3)).numpy(), before)
    model[2] = nn.Tanh()
    assert operations(model(x(2, 3))) == ["linear", "tanh", "linear"]
    model[2] = nn.ReLU()
    model[1] = Doubled(3, 3, dtype="float64")
    assert operations(model(x(2, 3))) == ["linear", "multiply", "relu", "linear"]
    twin[2].forward = lambda h: h * 3.0
    np.testing.assert_allclose(twin(x(2, 3)).numpy(), twin[3](twin[1](x(2, 3)) * 3.0).numpy())


def test_an_error_names_the_layer():
    model = nn.Sequential(mlp(3, 3, 2))
    model[0][3] = nn.Linear(4, 2, dtype="float64")
    with pytest.raises(ShapeError, match=r"^0\.3 \(Linear\): linear: x has shape \(2, 3\)"):
        model(x(2, 3))
