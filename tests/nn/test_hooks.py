"""Functions that run before and after a module's forward."""

import copy

import numpy as np
import pytest

from minigrad import nn
from minigrad.errors import UsageError
from minigrad.nn.module import Module
from minigrad.ops import tensor


class Scale(Module):
    def forward(self, x, *, by=2.0):
        return x * by


def test_a_hook_before_sees_and_changes_the_inputs():
    seen = []
    module = Scale()
    x = tensor([1.0, 2.0])

    def look(module_, inputs):
        seen.append((module_, inputs))

    module.register_forward_pre_hook(look)
    module.register_forward_pre_hook(lambda _, inputs: inputs[0] + 1.0)  # no tuple: it is made one
    module.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 10.0,))
    assert module(x, by=3.0).tolist() == [60.0, 90.0]
    assert seen == [(module, (x,))]


def test_a_hook_after_sees_what_hooks_before_left_and_changes_the_output():
    module = Scale()
    seen = []
    module.register_forward_pre_hook(lambda _, inputs: inputs[0] + 1.0)

    def look(_, inputs, output):
        seen.append((inputs[0].tolist(), output.tolist()))

    module.register_forward_hook(look)
    module.register_forward_hook(lambda *_: tensor([7.0]))
    module.register_forward_hook(lambda _m, _i, output: output + 1.0)
    assert module(tensor([1.0])).tolist() == [8.0]
    assert seen == [([2.0], [4.0])]


@pytest.mark.parametrize("kind", ["register_forward_pre_hook", "register_forward_hook"])
def test_a_handle_takes_away_its_own_hook_once(kind):
    module = Scale()
    calls = []
    handles = [getattr(module, kind)(lambda *_, n=n: calls.append(n)) for n in range(3)]
    handles[1].remove()
    handles[1].remove()
    module(tensor([1.0]))
    assert calls == [0, 2]


def test_a_hook_may_remove_itself_while_it_runs():
    module = Scale()
    calls = []

    def once(*_):
        calls.append(1)
        handle.remove()

    handle = module.register_forward_pre_hook(once)
    module.register_forward_pre_hook(lambda *_: calls.append(2))
    module(tensor([1.0]))
    module(tensor([1.0]))
    assert calls == [1, 2, 2]


def test_hooks_of_inner_modules_run_and_gradients_pass_through():
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    order = []
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: order.append(f"+{name}"))
        module.register_forward_hook(lambda *_, name=name: order.append(f"-{name}"))
    model(tensor(np.ones((1, 2), "float32"))).sum().backward()
    assert order == ["+", "+0", "-0", "+1", "-1", "-"]
    assert all(p.grad is not None for p in model.parameters())


def test_a_copy_calls_the_same_hooks_and_has_handles_of_its_own():
    module = Scale()
    calls = []
    handle = module.register_forward_hook(lambda m, *_: calls.append(m))
    twin = copy.deepcopy(module)
    handle.remove()
    module(tensor([1.0]))
    twin(tensor([1.0]))
    assert calls == [twin]


# ----- Assigning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [tensor(np.zeros((1, 2))), np.zeros((1, 2)), 0.0])
def test_a_value_over_a_parameter_is_refused_and_the_way_out_named(value):
    layer = nn.Linear(2, 1)
    with pytest.raises(UsageError, match=r"Linear\.weight is a Parameter.*module\.weight\.assign"):
        layer.weight = value
    layer.weight = nn.Parameter(np.zeros((1, 2)))
    layer.bias = None
    assert [name for name, _ in layer.named_parameters()] == ["weight"]


def test_a_tensor_over_a_buffer_is_refused():
    module = Module()
    module.register_buffer("count", np.zeros(2))
    with pytest.raises(UsageError, match="is a Buffer"):
        module.count = tensor([1.0, 2.0])
    assert [name for name, _ in module.named_buffers()] == ["count"]
