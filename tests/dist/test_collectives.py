"""Collectives on Tensors: every one against its meaning, and its derivatives under the inner product of its
sides, ⟨v, J t⟩ = ⟨Jᵀ v, t⟩ over all ranks together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dist
from minigrad.dist import collectives as c
from minigrad.dist.algorithms import ALGORITHMS
from minigrad.dist.collective_rules import COLLECTIVES, How, Side
from minigrad.dist.world import World
from minigrad.errors import CommunicationError, ShapeError
from minigrad.tensor import Tensor

COLUMNS = 2
Arrays = list[np.ndarray]


@dataclass
class Setup:
    """What all ranks know: how many there are, how rows are cut, who is the root."""

    ranks: int
    seed: int
    rows: int

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        cuts = np.sort(random.integers(0, self.rows + 1, self.ranks - 1))
        self.counts: list[int] = np.diff([0, *cuts, self.rows]).tolist()
        self.matrix: np.ndarray = random.integers(0, 3, (self.ranks, self.ranks))  # rows from, to
        self.root = int(random.integers(self.ranks))

    def cut(self, x: np.ndarray) -> Arrays:
        return np.split(x, np.cumsum(self.counts)[:-1])

    def at_root(self, x: np.ndarray, other: np.ndarray) -> Arrays:
        return [x if rank == self.root else other for rank in range(self.ranks)]


@dataclass
class Case:
    """How to call one, how many rows this rank brings, and what all ranks get for what all bring."""

    call: Callable[[Tensor, World, Setup], Tensor]
    meaning: Callable[[Arrays, Setup], Arrays]
    rows: Callable[[int, Setup], int] = lambda rank, s: s.rows


def own(rank: int, s: Setup) -> int:
    return s.counts[rank]


def total(xs: Arrays) -> np.ndarray:
    return np.sum(np.stack(xs), axis=0)


def exchanged(xs: Arrays, s: Setup) -> Arrays:
    parts = [np.split(x, np.cumsum(s.matrix[rank])[:-1]) for rank, x in enumerate(xs)]
    return [np.concatenate([parts[source][rank] for source in range(s.ranks)]) for rank in range(s.ranks)]


def around(x: Tensor, world: World) -> Tensor:
    """To the right, from the left. The token leads walks from what was received to what was sent."""
    token = c.send(x, world, (world.rank + 1) % world.size, tag=4)
    return c.receive(x.shape, world, (world.rank - 1) % world.size, dtype=x.dtype, after=token, tag=4)


CASES = {
    "replicate": Case(lambda x, w, s: c.replicate(x, w), lambda xs, s: xs),
    "replicate_to_gather": Case(lambda x, w, s: c.replicate(x, w, gathered=True), lambda xs, s: xs),
    "all_gather_and_add": Case(
        lambda x, w, s: COLLECTIVES["all_gather_and_add"].on(x, How(w)), lambda xs, s: [total(xs)] * s.ranks
    ),
    "all_reduce": Case(lambda x, w, s: c.all_reduce(x, w), lambda xs, s: [total(xs)] * s.ranks),
    "all_reduce_to_each": Case(
        lambda x, w, s: c.all_reduce(x, w, replicated=False), lambda xs, s: [total(xs)] * s.ranks
    ),
    "all_gather": Case(
        lambda x, w, s: c.all_gather(x, w, counts=s.counts), lambda xs, s: [np.concatenate(xs)] * s.ranks, own
    ),
    "all_gather_replicated": Case(
        lambda x, w, s: c.all_gather(x, w, counts=s.counts, replicated=True),
        lambda xs, s: [np.concatenate(xs)] * s.ranks,
        own,
    ),
    "shard": Case(lambda x, w, s: c.shard(x, w, counts=s.counts), lambda xs, s: s.cut(xs[0])),
    "reduce_scatter": Case(
        lambda x, w, s: c.reduce_scatter(x, w, counts=s.counts), lambda xs, s: s.cut(total(xs))
    ),
    "all_to_all": Case(
        lambda x, w, s: c.all_to_all(
            x, w, counts=s.matrix[w.rank].tolist(), counts_received=s.matrix[:, w.rank].tolist()
        ),
        exchanged,
        lambda rank, s: int(s.matrix[rank].sum()),
    ),
    "broadcast": Case(lambda x, w, s: c.broadcast(x, w, root=s.root), lambda xs, s: [xs[s.root]] * s.ranks),
    "reduce": Case(
        lambda x, w, s: c.reduce(x, w, root=s.root), lambda xs, s: s.at_root(total(xs), 0 * xs[0])
    ),
    "gather": Case(
        lambda x, w, s: c.gather(x, w, root=s.root, counts=s.counts),
        lambda xs, s: s.at_root(np.concatenate(xs), xs[0][:0]),
        own,
    ),
    "scatter": Case(
        lambda x, w, s: c.scatter(x, w, root=s.root, counts=s.counts),
        lambda xs, s: s.cut(xs[s.root]),
        lambda rank, s: s.rows if rank == s.root else 0,
    ),
    "send and receive": Case(lambda x, w, s: around(x, w), lambda xs, s: xs[-1:] + xs[:-1]),
}


def sides(name: str) -> tuple[Side, Side]:
    if name == "send and receive":
        return "per rank", "per rank"
    return COLLECTIVES[name].given, COLLECTIVES[name].result


class Ranks:
    """One rank of a sweep: random values as a side demands, inner products, comparisons."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.seed = seed

    def values(self, side: Side, shape: tuple[int, ...]) -> Tensor:
        """Random, new each time: the same on all ranks where they are replicated."""
        self.seed += 1
        rank = 0 if side == "replicated" else self.world.rank
        return mg.tensor(np.random.default_rng([self.seed, rank]).normal(size=shape))

    def inner(self, side: Side, a: Tensor, b: Tensor) -> float:
        local = np.array([np.sum(a.numpy() * b.numpy())])
        if side == "replicated":
            everywhere = np.empty(self.world.size)
            self.world.all_gather(local, everywhere, counts=[1] * self.world.size)
            np.testing.assert_allclose(everywhere, local[0], rtol=1e-12, atol=1e-12)
        else:
            self.world.all_reduce(local)
        return float(local[0])

    def agree(self, f: Callable[[Tensor], Tensor], x: Tensor, t: Tensor, sides: tuple[Side, Side]) -> None:
        """Compare both walks with each other, and the forward one with central differences."""
        y, moved = mg.jvp(f, x, t)
        v = self.values(sides[1], y.shape)
        _, transposed = mg.vjp(f, x)
        pulled = transposed(v)
        pulled = pulled[0] if isinstance(pulled, tuple) else pulled
        left, right = self.inner(sides[1], v, moved), self.inner(sides[0], pulled, t)
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-9)
        step = 1e-5
        with mg.no_grad():
            difference = (f(x + step * t).numpy() - f(x - step * t).numpy()) / (2 * step)
        np.testing.assert_allclose(moved.numpy(), difference, rtol=1e-5, atol=1e-5)


def sweep(world: World, name: str, rows: int, seed: int) -> None:
    case, setup, ranks = CASES[name], Setup(world.size, seed, rows), Ranks(world, seed)
    given, result = sides(name)
    shape = (case.rows(world.rank, setup), COLUMNS)
    x, t = ranks.values(given, shape), ranks.values(given, shape)

    # every rank works out what all others brought, from the same seeds
    others = [
        np.random.default_rng([seed + 1, 0 if given == "replicated" else rank]).normal(
            size=(case.rows(rank, setup), COLUMNS)
        )
        for rank in range(world.size)
    ]
    out = case.call(x, world, setup)
    np.testing.assert_allclose(out.numpy(), case.meaning(others, setup)[world.rank], rtol=1e-12)

    def curved(x: Tensor) -> Tensor:
        return case.call(x * x, world, setup)

    def gradient(x: Tensor) -> Tensor:
        y, transposed = mg.vjp(curved, x)
        pulled = transposed(mg.cos(y))
        return pulled[0] if isinstance(pulled, tuple) else pulled

    def derivative(x: Tensor) -> Tensor:
        return mg.jvp(curved, x, t)[1]

    ranks.agree(lambda x: case.call(x, world, setup), x, t, (given, result))
    ranks.agree(curved, x, t, (given, result))
    ranks.agree(gradient, x, t, (given, given))
    ranks.agree(derivative, x, t, (given, result))


def test_every_collective_has_a_case():
    assert CASES.keys() - {"send and receive"} == COLLECTIVES.keys()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5])
@settings(max_examples=5)
@given(rows=st.integers(0, 6), seed=st.integers(0, 2**31))
def test_derivatives_of_all_orders_and_in_both_directions(name: str, ranks: int, rows: int, seed: int):
    dist.spawn(sweep, ranks=ranks, arguments=(name, rows, seed))


# ------------------------------------------------------------------------------------- in use


def gradient_of(x: Tensor) -> np.ndarray:
    assert x.grad is not None
    return x.grad.numpy()


def data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("algorithm", ["library", *ALGORITHMS["all_reduce"]])
def test_replicated_weights_get_the_gradient_of_the_whole_batch(algorithm: str):
    x, w = data(7, 3), data(3, 2, seed=1)
    weights = mg.tensor(w, requires_grad=True)
    whole = mg.tanh(mg.tensor(x) @ weights).sum()
    whole.backward()

    def main(world: World) -> None:
        own = mg.tensor(w, requires_grad=True)
        part = np.array_split(x, world.size)[world.rank]
        with_all = c.replicate(own, world, purpose="parameters", algorithm=algorithm)
        loss = c.all_reduce(mg.tanh(mg.tensor(part) @ with_all).sum(), world, algorithm=algorithm)
        loss.backward()
        np.testing.assert_allclose(loss.numpy(), whole.numpy())
        np.testing.assert_allclose(gradient_of(own), gradient_of(weights), rtol=1e-12)
        booked = world.ledger.report()["traffic"]["all_reduce"]
        assert set(booked) == {"activations", "gradients"}  # of the loss, and of what it came from

    dist.spawn(main, ranks=3)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_columns_then_rows_of_two_weights_on_each_rank(ranks: int):
    x, a, b = data(4, 3), data(3, 5, seed=1), data(5, 2, seed=2)
    tensors = [mg.tensor(values, requires_grad=True) for values in (x, a, b)]
    (mg.tanh(tensors[0] @ tensors[1]) @ tensors[2] * mg.tensor(data(4, 2, seed=3))).sum().backward()

    def main(world: World) -> None:
        columns = np.array_split(np.arange(5), world.size)[world.rank]
        own = [mg.tensor(values, requires_grad=True) for values in (x, a[:, columns], b[columns])]
        hidden = mg.tanh(c.replicate(own[0], world) @ own[1])
        y = c.all_reduce(hidden @ own[2], world)
        (y * mg.tensor(data(4, 2, seed=3))).sum().backward()
        gradients = [gradient_of(t) for t in tensors]
        expected = gradients[0], gradients[1][:, columns], gradients[2][columns]
        for tensor, gradient in zip(own, expected, strict=True):
            np.testing.assert_allclose(gradient_of(tensor), gradient, rtol=1e-12, atol=1e-12)

    dist.spawn(main, ranks=ranks)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_stages_that_send_to_each_other_and_microbatches(ranks: int):
    """A pipeline without a schedule: gradients come back through the tokens, in the order of walks."""
    x, weights = data(4, 3), [data(3, 3, seed=k) for k in range(1, ranks + 1)]
    every = [mg.tensor(w, requires_grad=True) for w in weights]
    h = mg.tensor(x)
    for w in every:
        h = mg.tanh(h @ w)
    h.sum().backward()

    def main(world: World) -> None:
        own = mg.tensor(weights[world.rank], requires_grad=True)
        first, last = world.rank == 0, world.rank == world.size - 1
        loss = mg.tensor(0.0)
        for micro in np.array_split(x, 2):
            h = mg.tensor(micro) if first else c.receive((2, 3), world, world.rank - 1, dtype="float64")
            h = mg.tanh(h @ own)
            loss = loss + (h.sum() if last else c.send(h, world, world.rank + 1))
        loss.backward()
        np.testing.assert_allclose(gradient_of(own), gradient_of(every[world.rank]), rtol=1e-12)

    dist.spawn(main, ranks=ranks)


def test_what_starts_at_the_root_is_recorded_everywhere():
    def main(world: World) -> None:
        weight = mg.tensor(data(2, 2), requires_grad=True)
        start = mg.ones((3, 2), dtype="float64") if world.rank == 1 else mg.zeros((3, 2), dtype="float64")
        h = c.broadcast(start, world, root=1) @ weight  # the start itself wants no gradient
        rows = c.scatter(mg.zeros((4 if world.rank == 0 else 0, 2), dtype="float64"), world, counts=[1, 3])
        (h.sum() + (rows @ weight).sum()).backward()
        np.testing.assert_allclose(gradient_of(weight), 3 * np.ones((2, 2)))

    dist.spawn(main, ranks=2)


def test_checkpointed_collectives_run_again():
    def main(world: World) -> None:
        x = mg.tensor(data(3, 2, seed=world.rank), requires_grad=True)
        y = mg.checkpoint(lambda x: mg.tanh(c.all_gather(x, world)), x)
        (y * y).sum().backward()
        again = mg.tensor(x.numpy(), requires_grad=True)
        z = mg.tanh(c.all_gather(again, world))
        (z * z).sum().backward()
        np.testing.assert_array_equal(gradient_of(x), gradient_of(again))
        assert world.ledger.by_kind["all_gather", "activations"].messages == 3

    dist.spawn(main, ranks=3)


@pytest.mark.parametrize("name", ["replicate", "all_reduce", "all_reduce_to_each", "broadcast", "reduce"])
def test_single_numbers(name: str):
    def main(world: World) -> None:
        setup, x = Setup(world.size, 0, 1), mg.tensor(2.0 + world.rank, requires_grad=True)
        y = around(CASES[name].call(x * x, world, setup), world)
        (y * 3.0).backward()
        at_root = world.rank == setup.root
        factors = {"all_reduce_to_each": 3, "replicate": 3, "broadcast": 3 * at_root}
        np.testing.assert_allclose(gradient_of(x), 3 * factors.get(name, 1) * 2 * x.numpy())

    dist.spawn(main, ranks=3)


def test_parameters_come_back_as_gradients():
    def main(world: World) -> dict[str, set[str]]:
        x = mg.tensor(data(2, 2), requires_grad=True)
        c.all_gather(x, world, purpose="parameters", algorithm="ring").sum().backward()
        return {verb: set(kinds) for verb, kinds in world.ledger.report()["traffic"].items()}

    assert dist.spawn(main, ranks=2)[0] == {"all_gather": {"parameters"}, "reduce_scatter": {"gradients"}}


def test_nothing_is_recorded_without_grad_mode():
    def main(world: World) -> None:
        with mg.no_grad():
            x = mg.tensor(data(2, 2), requires_grad=True)
            assert c.broadcast(x, world).node is None
            assert around(x, world).node is None

    dist.spawn(main, ranks=2)


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda w: c.all_gather(mg.ones((2, 1)), w, counts=[1, 1]), r"shape \(2, 1\) and counts \(1, 1\)"),
        (lambda w: c.gather(mg.ones(()), w), r"shape \(\) and counts \(-1, -1\)"),
        (lambda w: c.reduce_scatter(mg.ones((3, 1)), w, counts=[1, 1]), "add up to the number of rows"),
        (lambda w: c.shard(mg.ones((3, 1)), w, counts=[3]), "give 2 counts"),
        (lambda w: c.scatter(mg.ones((3, 1)), w, counts=[1, 1]), "2 rows here"),
        (lambda w: c.all_to_all(mg.ones((2,)), w, counts=[1, 1]), "counts_received None; give 2"),
    ],
)
def test_misuse_is_refused(misuse: Callable[[World], Any], message: str):
    def main(world: World) -> None:
        if world.rank == 0:
            misuse(world)

    with pytest.raises(ShapeError, match=f"^rank 0 of 2: .*{message}"):
        dist.spawn(main, ranks=2)


def test_different_row_counts_are_reported_with_both_sides():
    with pytest.raises(CommunicationError, match=r"counts \(\d, \d\)\) here, but .* on rank 0"):
        dist.spawn(lambda world: c.all_gather(mg.ones((1 + world.rank, 1)), world), ranks=2)
