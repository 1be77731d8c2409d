"""Checkpointing changes memory and time, and nothing else: gradients are the same to the bit."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given

import minigrad as mg
from minigrad import nn
from minigrad.errors import GraphError
from minigrad.nn import functional
from minigrad.testing import check_gradients, programs


@given(programs())
def test_any_graph_has_the_same_gradients_to_the_bit(program):
    values = [np.random.default_rng(i).normal(size=(3, 3)) for i in range(program.leaves)]
    plain, checkpointed = ([mg.tensor(v, requires_grad=True) for v in values] for _ in range(2))
    program(*plain).sum().backward()
    mg.checkpoint(program, *checkpointed).sum().backward()
    for a, b in zip(plain, checkpointed, strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            np.testing.assert_array_equal(gradient(a), gradient(b))


def note(finished, name, _):
    finished.append(name)


def gradient(x: mg.Tensor) -> np.ndarray:
    assert x.grad is not None
    return x.grad.numpy()


def losses_and_gradients(wrap):
    model = nn.GPT(
        nn.GPTConfig(vocabulary=16, context=8, layers=3, heads=2, width=8, dropout=0.2), dtype="float64"
    )
    if wrap:
        for block in model.h:
            setattr(block, "forward", partial(mg.checkpoint, block.forward))  # noqa: B010 - a method to mypy
    tokens = np.random.default_rng(0).integers(0, 16, (2, 9))
    mg.random.manual_seed(3)
    finished: list[str] = []
    for name, p in model.named_parameters():
        p.register_post_accumulate_grad_hook(partial(note, finished, name))
    model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    return {name: gradient(p) for name, p in model.named_parameters()}, finished


def test_a_transformer_with_dropout_replays_its_masks_and_finishes_each_gradient_once():
    (plain, order), (checkpointed, other) = (losses_and_gradients(wrap) for wrap in (False, True))
    for name, gradient in plain.items():
        np.testing.assert_array_equal(checkpointed[name], gradient)
    assert sorted(order) == sorted(other) == sorted(plain)
    assert other.index("h.2.mlp.c_fc.weight") < other.index("h.0.mlp.c_fc.weight")  # while the walk goes on


def test_unkeyed_draws_replay_and_then_go_on():
    def draw_after(run):
        mg.random.manual_seed(1)
        x = mg.ones((4, 5)).requires_grad_()
        y = run(lambda x: functional.dropout(x * x, 0.5), x)
        y.sum().backward()
        return gradient(x), functional.dropout(mg.ones((4, 5)), 0.5).numpy()

    for a, b in zip(draw_after(lambda f, x: f(x)), draw_after(mg.checkpoint), strict=True):
        np.testing.assert_array_equal(a, b)


def test_memory_falls_with_segments():
    weights = [mg.ones((256, 256), device="shapes").requires_grad_() for _ in range(16)]

    def deep(x, wrap):
        for start in range(0, 16, 4):

            def segment(x, start=start):
                for w in weights[start : start + 4]:
                    x = mg.tanh(x @ w)
                return x

            x = mg.checkpoint(segment, x) if wrap else segment(x)
        x.sum().backward()
        for w in weights:
            w.zero_grad()

    x = mg.ones((1024, 256), device="shapes").requires_grad_()
    plain, wrapped = (mg.cost(lambda x, wrap=wrap: deep(x, wrap), x) for wrap in (False, True))
    assert wrapped.peak_bytes < 0.6 * plain.peak_bytes
    assert wrapped.flops < 1.4 * plain.flops


def test_higher_orders_and_forward_mode():
    w = mg.tensor(np.array([[0.3, -0.4], [0.5, 0.2]]), requires_grad=True)

    def f(x):
        return mg.checkpoint(lambda x: mg.tanh(x @ w) * x, x)

    check_gradients(f, mg.tensor(np.array([[0.5, -1.0], [0.2, 0.7]])), order=2)


def test_nested_closed_over_and_handed_on():
    x, w = (mg.tensor(v, requires_grad=True) for v in (2.0, 3.0))
    between = w * x  # closed over, with a history of its own that leads back to an input

    def inner(y):
        return mg.sin(y) * between

    a, b = mg.checkpoint(lambda x: (mg.checkpoint(inner, x) + w, between), x)
    (a * b).backward()
    plain_x, plain_w = (mg.tensor(v, requires_grad=True) for v in (2.0, 3.0))
    product = plain_w * plain_x
    ((mg.sin(plain_x) * product + plain_w) * product).backward()
    for own, plain in ((x, plain_x), (w, plain_w)):
        np.testing.assert_allclose(gradient(own), gradient(plain), rtol=1e-6)


def test_a_second_walk_needs_retain_graph_and_works_with_it():
    x = mg.tensor(2.0, requires_grad=True)
    y = mg.checkpoint(lambda x: x * x * x, x)
    y.backward(retain_graph=True)
    y.backward()
    assert gradient(x) == 24.0
    with pytest.raises(GraphError, match="released"):
        y.backward()


def test_a_function_that_changes_its_mind_is_named():
    outputs = iter([lambda x: (x * x, x * 3.0), lambda x: (x * x, 3.0)])
    x = mg.tensor(2.0, requires_grad=True)
    a, _ = mg.checkpoint(lambda x: next(outputs)(x), x)
    with pytest.raises(GraphError, match="2 outputs with a gradient, and 1"):
        a.backward()
