"""Size and time: long chains, deep diamonds, no cycles, threads."""

import gc
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import minigrad as mg
from minigrad.graph import state
from minigrad.walk import gather, push

LONG = 100_000


def leaf(*shape: int) -> mg.Tensor:
    return mg.tensor(np.full(shape, 0.5), requires_grad=True)


def long_chain() -> None:
    x = leaf()
    y = x
    for _ in range(LONG):
        y = y + 1e-5
    assert x.node is not None
    assert y.node is not None
    (tangent,) = push([y.node], {x.node: np.asarray(1.0)})
    assert tangent == 1.0
    y.backward()
    assert x.grad is not None
    assert x.grad.item() == 1.0
    del y, x  # the release of a chain that long must not recurse


def test_a_chain_of_100_000_operations() -> None:
    long_chain()


def test_a_long_chain_in_a_thread_with_a_small_stack() -> None:
    # Since 3.12 CPython itself counts nested releases without looking at the size of a thread's stack.
    before = threading.stack_size((256 if sys.version_info < (3, 12) else 2048) * 1024)
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(long_chain).result(timeout=60)
    finally:
        threading.stack_size(before)


def test_releasing_a_long_chain_that_was_never_walked() -> None:
    y = leaf()
    for _ in range(LONG):
        y = y * 1.0
    del y


def test_diamonds_take_linear_time() -> None:
    x = leaf()
    y = x
    for _ in range(60):
        y = (mg.sin(y) + mg.cos(y)) * 0.9
    assert y.node is not None
    assert len(gather([y.node])) == 4 * 60 + 1  # there are 2^60 paths
    y.backward()
    assert x.grad is not None
    moved = mg.jvp(lambda x: diamonds(x), x.detach(), mg.ones((), dtype="float64"))[1]
    assert moved.item() == pytest.approx(x.grad.item(), rel=1e-12)
    assert mg.grad(mg.grad(diamonds))(x.detach()).shape == ()


def diamonds(x: mg.Tensor) -> mg.Tensor:
    for _ in range(60):
        x = (mg.sin(x) + mg.cos(x)) * 0.9
    return x


def everything(x: mg.Tensor, w: mg.Tensor) -> mg.Tensor:
    h = mg.linear(x, w, None)
    h = mg.layer_norm(mg.gelu(h, approximate="tanh"), None, None)
    h = mg.concat([h, mg.exp(-h * h)])[1:3]
    return mg.cross_entropy(h, np.array([0, 2])) + mg.max(h) + mg.softmax(h).sum()


def test_nothing_is_left_to_the_garbage_collector() -> None:
    x, w = leaf(2, 3), leaf(3, 3)
    w.register_post_accumulate_grad_hook(lambda w: None)
    gc.collect()
    gc.disable()
    try:
        found = []
        for _ in range(3):
            loss = everything(x, w)
            found += [weakref.ref(loss), weakref.ref(loss.data)]
            loss.backward()
            del loss
            value, g = mg.value_and_grad(everything)(x.detach(), w)
            _, moved = mg.jvp(lambda x: everything(x, w), x.detach(), x.detach())
            second = mg.hvp(lambda x: everything(x, w.detach()), x.detach(), x.detach())
            found += [weakref.ref(t) for t in (value, g, moved, second)]
            del value, g, moved, second
        assert [ref() for ref in found] == [None] * len(found)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_long_loop_keeps_no_memory() -> None:
    w = leaf(3)

    def step() -> None:
        w.zero_grad()
        (w * w).sum().backward()
        w.assign(w.data * 0.99)

    for _ in range(5000):  # fills the free lists of the interpreter
        step()
    gc.disable()
    try:
        before = sys.getallocatedblocks()
        for _ in range(3000):
            step()
        assert sys.getallocatedblocks() - before < 100
    finally:
        gc.enable()


# ----- Threads ------------------------------------------------------------------------------------


def test_grad_mode_belongs_to_a_thread() -> None:
    inside, done = threading.Event(), threading.Event()

    def other() -> bool:
        with mg.no_grad():
            inside.set()
            done.wait(10)
            return mg.is_grad_enabled()

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(other)
        assert inside.wait(10)
        assert mg.is_grad_enabled()
        assert state.ordinary
        done.set()
        assert result.result(10) is False


def test_a_forward_derivative_in_one_thread_is_none_of_another() -> None:
    started, done = threading.Event(), threading.Event()

    def slow(x: mg.Tensor) -> mg.Tensor:
        started.set()
        done.wait(10)
        return x * x

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(lambda: mg.jvp(slow, mg.tensor(3.0), mg.tensor(1.0))[1].item())
        assert started.wait(10)
        assert mg.grad(lambda x: x**3)(mg.tensor(2.0)).item() == 12.0
        assert mg.jvp(lambda x: x**3, mg.tensor(2.0), mg.tensor(1.0))[1].item() == 12.0
        done.set()
        assert result.result(10) == 6.0


def test_concurrent_walks_over_graphs_of_their_own_and_over_a_shared_one() -> None:
    shared_x = leaf(4)
    shared = (mg.exp(shared_x) * shared_x).sum()

    def work(seed: int) -> tuple[float, float]:
        value = 0.1 + seed / 10
        x = mg.tensor(value, dtype="float64", requires_grad=True)
        y = x
        for _ in range(300):
            y = mg.sin(y) + x * 0.5
        y.backward()
        (g,) = mg.gradients(shared, [shared_x], retain_graph=True)
        assert x.grad is not None
        return x.grad.item(), g.numpy()[0]

    alone = [work(seed) for seed in range(8)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(work, range(8), timeout=60))
    finally:
        sys.setswitchinterval(before)
    assert together == alone
