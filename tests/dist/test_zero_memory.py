"""What a rank holds is bounded, from the first step on: whatever is frozen, unused, or used in another order
than it is declared; and the meter sees it all.
"""

import gc
import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist import debug_mode
from minigrad.dist.checkpoint import load, save
from minigrad.dist.memory import Meter
from minigrad.dist.request import Request
from minigrad.dist.single import SingleWorld
from minigrad.dist.units import Absent
from minigrad.dist.world import World
from minigrad.dist.zero import ZeRO

ITEM = 8  # bytes of a float64
WIDTH = 6
RANKS = st.sampled_from([1, 2, 3, 4, 5, 7])


class Layer(nn.Module):
    """tanh(h W) with a matrix of its own height, so that units differ in size."""

    def __init__(self, number: int) -> None:
        values = np.random.default_rng(number)
        inner = WIDTH + number % 3
        self.there = nn.Parameter(values.normal(size=(WIDTH, inner)))
        self.back = nn.Parameter(values.normal(size=(inner, WIDTH)))

    def forward(self, h: mg.Tensor) -> mg.Tensor:
        return mg.tanh(h @ self.there @ self.back)


class Shuffled(nn.Module):
    """Layers that are called in any order, some of them not at all, behind a matrix in the root."""

    def __init__(self, layers: int, order: list[int]) -> None:
        self.enter = nn.Parameter(np.eye(WIDTH))
        self.layers = nn.ModuleList(Layer(number) for number in range(layers))
        self.order = order

    def forward(self, h: mg.Tensor) -> mg.Tensor:
        h = h @ self.enter
        for number in self.order:
            h = self.layers[number](h)
        return h


def learn(model: Any, rank: int, step: int) -> None:
    x = np.random.default_rng((rank, step)).normal(size=(2, WIDTH))
    mg.sum(mg.square(model(mg.tensor(x, dtype="float64")))).backward()


def values_of(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


@settings(deadline=None, max_examples=50)
@given(
    ranks=RANKS,
    stage=st.sampled_from([2, 3]),
    order=st.permutations(range(7)),
    used=st.integers(1, 7),
    data=st.data(),
)
def test_bounds_hold_in_any_order_of_use(
    ranks: int, stage: int, order: list[int], used: int, data: st.DataObject
):
    """Gradients: shard and two buckets. Parameters at stage 3: shard, root, two largest neighbours in either
    order. Numbers are those of one rank, to the last bit.
    """
    idle = data.draw(st.sets(st.integers(0, ranks - 1), max_size=ranks - 1))  # ranks that have no samples

    def main(world: World) -> dict[str, np.ndarray]:
        model = Shuffled(7, order[:used])
        sizes = [sum(p.size for p in layer.parameters()) for layer in model.layers]
        zero = ZeRO(
            model,
            nn.optim.SGD(model.parameters(), lr=0.1),
            world,
            stage=stage,
            algorithm="ordered",
            bucket_bytes=2 * WIDTH**2 * ITEM,  # a layer
        )
        for step in range(3):
            if world.rank not in idle:
                learn(zero, world.rank, step)
            zero.step()
        shard = sum(bucket.stop - bucket.start for bucket in zero.buckets)
        root = WIDTH**2
        if stage == 2:
            largest = max(bucket.size for bucket in zero.buckets)
            assert zero.meter.peak["gradients"] <= (shard + 2 * largest) * ITEM
        else:
            turned = order[:used] + [number for number in range(7) if number not in order[:used]]
            pairs = [sizes[a] + sizes[b] for way in (range(7), turned) for a, b in pairwise(way)]
            pairs += [sizes[a] + sizes[b] for a, b in pairwise(_settled(order[:used]))]
            assert zero.meter.peak["parameters"] <= (shard + root + max(pairs)) * ITEM
            if not idle and used == 7:  # else nobody waits: buffers are as many as are on their way
                assert zero.meter.peak["gradients"] <= (shard + root + 2 * max(sizes)) * ITEM
        with zero.gathered():
            return values_of(model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Request, "test", lambda request: False)  # nothing arrives before it is waited for
        everyone = dist.spawn(main, ranks=ranks)
    alone = Shuffled(7, order[:used])
    optimizer = nn.optim.SGD(alone.parameters(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        for rank in range(ranks):
            if rank not in idle:
                learn(alone, rank, step)
        optimizer.step()
    for values in everyone:
        assert all(np.array_equal(values[name], value) for name, value in values_of(alone).items())


def _settled(uses: list[int]) -> list[int]:
    """Units in the order of use, those left out behind the one that they are declared behind."""
    turns, last = [], -1
    for number in range(7):
        last = uses.index(number) if number in uses else last
        turns.append(last)
    return sorted(range(7), key=turns.__getitem__)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_another_order_of_use_costs_no_traffic_from_the_second_step_on(ranks: int):
    """3Ψ(N-1) elements a step at stage 3."""

    def main(world: World) -> list[int]:
        model = Shuffled(7, [6, 5, 4, 3, 2, 1, 0])
        zero = ZeRO(model, nn.optim.SGD(model.parameters()), world, stage=3, algorithm="ring")
        sent = []
        for step in range(3):
            world.ledger.clear()
            learn(zero, world.rank, step)
            zero.step()
            traffic = world.ledger.bytes_by_purpose()
            sent.append((traffic["gradients"] + traffic["parameters"]) // ITEM)
        return sent

    total = sum(p.size for p in Shuffled(7, []).parameters())
    first, *later = np.sum(dist.spawn(main, ranks=ranks), axis=0)
    assert first > 3 * total * (ranks - 1)
    assert later == [3 * total * (ranks - 1)] * 2


def test_the_order_of_use_decides_what_is_sent_first():
    """The first walk of rank 0 says so; a rank without a walk goes along."""

    def main(world: World) -> list[int]:
        model = Shuffled(5, [3, 0, 4])
        parallel = dist.DataParallel(model, world, bucket_bytes=1)
        for step in range(2):
            if world.rank != 2:
                learn(parallel, world.rank, step)
            parallel.synchronize()
        gradients: Any = parallel._gradients
        return [gradients.fillings.index(filling) for filling in gradients._order]

    # Buckets, one a parameter: 0 and 1 are layer 4's `back` and `there`, …, 10 is `enter`. Layers 1 and 2 are
    # not used, and follow the bucket that they are declared after: layer 3's.
    for order in dist.spawn(main, ranks=3):
        assert order == [0, 1, 8, 9, 2, 3, 4, 5, 6, 7, 10]


def test_walks_of_another_model_mean_nothing():
    def main(world: World) -> None:
        model, other = Shuffled(3, [0, 1, 2]), Shuffled(3, [0, 1, 2])
        parallel = dist.DataParallel(model, world, bucket_bytes=1)
        learn(other, world.rank, 0)
        gradients: Any = parallel._gradients
        assert gradients._sent == 0
        assert all(filling.waits_for for filling in gradients.fillings)
        learn(parallel, world.rank, 0)
        assert gradients._sent == len(gradients.fillings)
        parallel.synchronize()

    dist.spawn(main, ranks=2)


# ----- What is frozen -----


class Adapted(nn.Module):
    """A large part that is frozen, in another precision, with small trained matrices beside it."""

    def __init__(self) -> None:
        values = np.random.default_rng(5)
        self.body = nn.Sequential(*(self._layer(values) for _ in range(6)))
        self.norm = nn.BatchNorm1d(WIDTH, dtype="float64")

    @staticmethod
    def _layer(values: np.random.Generator) -> nn.Module:
        layer: Any = nn.Linear(WIDTH, WIDTH, dtype="float64")
        layer.weight.assign(values.normal(size=(WIDTH, WIDTH)))
        layer.bias.assign(values.normal(size=WIDTH))
        layer.weight.requires_grad_(False)
        layer.cold = nn.Parameter(values.normal(size=(WIDTH, WIDTH)), dtype="float32", requires_grad=False)
        layer.register_forward_hook(lambda self, _, out: out + mg.sum(self.cold) * 0.1)
        return layer

    def forward(self, h: mg.Tensor) -> mg.Tensor:
        return self.norm(self.body(h))


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 7])
def test_frozen_parameters_are_shared_out_too(ranks: int, tmp_path):
    """Shards and two units, in each precision; no gradients of them; and they are saved whole and loaded."""

    def main(world: World, loading: bool) -> dict[str, np.ndarray]:
        model = Adapted()
        trained = [p for p in model.parameters() if p.requires_grad]
        if loading:
            for parameter in model.parameters():
                parameter.assign(np.zeros(parameter.shape))
        zero = ZeRO(model, nn.optim.SGD(trained, lr=0.1), world, stage=3, algorithm="ring")
        assert all(isinstance(p.data, Absent) for p in model.parameters())
        if loading:
            load(tmp_path / "step_000002", world, zero.pieces())
        world.ledger.clear()
        for step in range(0 if loading else 2):
            learn(zero, 0, step)
            zero.step()
        bias, cold = WIDTH, WIDTH**2
        own = -(-(6 * (ITEM * (cold + bias) + 4 * cold) + 2 * ITEM * WIDTH) // ranks) + 16 * ITEM
        pair, root = 2 * (ITEM * (cold + bias) + 4 * cold), 2 * ITEM * WIDTH
        whole = 6 * (ITEM * (cold + bias) + 4 * cold) + root
        assert zero.meter.current["parameters"] <= own + pair + root
        assert ranks == 1 or zero.meter.current["parameters"] < whole
        assert zero.meter.current["buffers"] == sum(b.data.nbytes for b in model.buffers()) > 0
        if not loading:
            moved = world.ledger.bytes_by_purpose().get("gradients", 0)
            total = sum(p.size for p in trained)
            assert abs(moved - 2 * ITEM * total * (ranks - 1) / ranks) <= 2 * ITEM * ranks * 8
            save(tmp_path / "step_000002", world, zero.pieces(), zero.state())
        with zero.gathered():
            return values_of(model)

    alone = Adapted()
    optimizer = nn.optim.SGD([p for p in alone.parameters() if p.requires_grad], lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        for _ in range(ranks):
            learn(alone, 0, step)
        optimizer.step()
    for loading in (False, True):
        for values in dist.spawn(main, ranks=ranks, arguments=(loading,)):
            for name, value in values_of(alone).items():
                if "running" not in name and "num_batches" not in name:
                    np.testing.assert_allclose(values[name], value, rtol=1e-10, atol=1e-10, err_msg=name)


# ----- What the meter sees -----


def test_buffers_and_frozen_parameters_are_booked_at_all_stages():
    for stage in range(4):
        model, meter = Adapted(), Meter()
        trained = [p for p in model.parameters() if p.requires_grad]
        everything = sum(p.data.nbytes for p in model.parameters())
        ZeRO(model, nn.optim.SGD(trained), SingleWorld(), stage=stage, meter=meter)
        assert meter.current["buffers"] == sum(buffer.data.nbytes for buffer in model.buffers())
        assert meter.current["parameters"] >= everything


def test_what_a_sum_needs_for_itself_is_booked_while_it_lasts():
    def main(world: World, dtype: str, algorithm: str) -> int:
        model = nn.Linear(40, 50, bias=False, dtype=dtype)
        meter = Meter()
        zero = ZeRO(model, nn.optim.SGD(model.parameters()), world, stage=0, meter=meter, algorithm=algorithm)
        meter.reset_peak()
        mg.sum(zero(mg.tensor(np.ones((2, 40)), dtype=dtype))).backward()
        zero.step()
        gc.collect()
        assert meter.current["buffers"] == 0
        return meter.peak["buffers"]

    for dtype, algorithm, expected in [
        ("float32", "library", 0),  # what the library takes, only the library knows
        ("float16", "library", 2000 * 4),  # half precision is summed in float32
        ("float32", "ring", 2 * 500 * 4),  # two arriving pieces
        ("float32", "halving", 1000 * 4),
        ("float32", "ordered", 3 * 500 * 4),  # the others' pieces
        ("float16", "ordered", 2000 * 4 + 3 * 500 * 4),
    ]:
        for found in dist.spawn(main, ranks=4, arguments=(dtype, algorithm)):
            assert found == expected, (dtype, algorithm)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("algorithm", ["ring", "ordered"])
def test_the_meters_see_what_the_process_allocates(stage: int, algorithm: str, monkeypatch):
    """In mixed precision with float16, where sums need float32 copies; within a tenth and 400 kB a rank, and
    of what is held between steps, within 400 kB a rank. Of four ranks as threads, so the sum of their meters.
    """
    monkeypatch.setattr(debug_mode, "_blocks", 0)  # whose copies nobody books
    ranks, width = 4, 160

    def main(world: World) -> tuple[tuple[int, int], dict[str, int], dict[str, int]]:
        world.barrier()
        if world.rank == 0:
            tracemalloc.start()
        world.barrier()
        model = nn.Sequential(*(nn.Linear(width, width, dtype="float16") for _ in range(10)))
        zero = ZeRO(
            model,
            nn.optim.AdamW(model.parameters()),
            world,
            stage=stage,
            algorithm=algorithm,
            master="float32",
            bucket_bytes=2**17,
        )
        for _ in range(2):
            gc.collect()
            world.barrier()
            if world.rank == 0:
                tracemalloc.reset_peak()
            zero.meter.reset_peak()
            world.barrier()
            mg.sum(zero(mg.tensor(np.ones((1, width)), dtype="float16"))).backward()
            zero.step()
        gc.collect()
        world.barrier()
        seen = tracemalloc.get_traced_memory()
        world.barrier()  # nobody lets go of anything before all have looked
        return seen, zero.meter.current, zero.meter.peak

    try:
        everyone = dist.spawn(main, ranks=ranks)
    finally:
        tracemalloc.stop()
    held, most = everyone[0][0]
    booked = sum(current["total"] for _, current, _ in everyone)
    booked_most = sum(peak["total"] for *_, peak in everyone)
    assert booked <= held <= booked + ranks * 400_000
    assert 0.9 * booked_most <= most <= 1.1 * booked_most + ranks * 400_000
    assert sum(peak["buffers"] for *_, peak in everyone) > 0
