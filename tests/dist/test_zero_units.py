"""Stage 3: units are whole while they are used and at no other time, in whatever order they are used."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.request import Request
from minigrad.dist.single import SingleWorld
from minigrad.dist.units import find_units
from minigrad.dist.world import World
from minigrad.dist.zero import ZeRO
from minigrad.errors import GraphError, MinigradError, UsageError

WIDTH = 4


class Layer(nn.Module):
    def __init__(self, values: np.random.Generator) -> None:
        self.weight = nn.Parameter(values.normal(size=(WIDTH, WIDTH)))

    def forward(self, h: Any) -> Any:
        return mg.tanh(h @ self.weight)


class Stack(nn.Module):
    """Layers in the order that `path` says; by default one after the other."""

    def __init__(self, layers: int = 4, path: Callable[["Stack", Any], Any] | None = None) -> None:
        values = np.random.default_rng(3)
        self.enter = nn.Parameter(values.normal(size=(WIDTH, WIDTH)))
        self.layers = nn.ModuleList(Layer(values) for _ in range(layers))
        self.path = path

    def forward(self, x: Any) -> Any:
        h = x @ self.enter
        if self.path is not None:
            return self.path(self, h)
        for layer in self.layers:
            h = layer(h)
        return h


def inputs(rank: int, step: int = 0) -> mg.Tensor:
    return mg.tensor(np.random.default_rng((rank, step)).normal(size=(3, WIDTH)), dtype="float64")


def wrapped(world: World, model: nn.Module, **options: Any) -> ZeRO:
    return ZeRO(model, nn.optim.SGD(model.parameters(), lr=0.1), world, stage=3, **options)


def train(
    world: World, make: Callable[[], Stack], steps: int, loss: Callable[..., Any], units: Any = None
) -> dict[str, Any]:
    model = make()
    zero = wrapped(world, model, units=units and units(model))
    for step in range(steps):
        loss(zero, inputs(world.rank, step)).backward()
        zero.step()
    with zero.gathered():
        return {name: value.numpy().copy() for name, value in zero.module.state_dict().items()}


def total(model: Any, x: mg.Tensor) -> mg.Tensor:
    return mg.sum(model(x))


def compare(make: Callable[[], Stack], ranks: int = 3, loss: Any = total, units: Any = None) -> None:
    """Stage 3 on several ranks against one rank that has all their inputs."""
    model, steps = make(), 5
    optimizer = nn.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        for rank in range(ranks):
            loss(model, inputs(rank, step)).backward()
        optimizer.step()
    for values in dist.spawn(train, ranks=ranks, arguments=(make, steps, loss, units)):
        for name, value in model.state_dict().items():
            np.testing.assert_allclose(values[name], value.numpy(), rtol=1e-10, atol=1e-12, err_msg=name)


# ----- Which modules are units -----


def test_units_are_the_elements_of_lists_and_the_rest_is_the_root():
    class Model(nn.Module):
        def __init__(self) -> None:
            self.first = nn.Linear(2, 3)
            self.body = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Sequential(nn.Linear(3, 2)))
            self.last = nn.Linear(2, 2)
            self.tied = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
            self.tied[0].weight = self.last.weight
            self.tied[1].bias = self.tied[0].bias

    model = Model()
    units, root = find_units(model, None, SingleWorld())
    assert [unit.name for unit in units] == ["body.0", "body.2", "tied.1"]
    assert root is not None
    assert root.bucket is not None
    assert [id(p) for p in root.bucket.parameters] == [
        id(p)
        for p in (
            model.first.weight,
            model.first.bias,
            model.last.weight,
            model.last.bias,
            model.tied[0].bias,
        )
    ]
    chosen, root = find_units(model, [model.last, model.first], SingleWorld())
    assert [unit.name for unit in chosen] == ["last", "first"]
    assert root is not None


def test_units_that_are_refused():
    model = Stack()
    with pytest.raises(UsageError, match=r"the unit layers.1 lies inside the unit layers"):
        find_units(model, [model.layers, model.layers[1]], SingleWorld())
    with pytest.raises(UsageError, match=r"units got layers.1 twice"):
        find_units(model, [model.layers[1], [model.layers[0], model.layers[1]]], SingleWorld())
    with pytest.raises(UsageError, match="no module inside the model"):
        find_units(model, [nn.Linear(2, 2)], SingleWorld())


# ----- Orders of use -----


def backwards(model: Stack, h: Any) -> Any:
    for layer in list(model.layers)[::-1]:
        h = layer(h)
    return h


def again(model: Stack, h: Any) -> Any:
    for number in (0, 1, 2, 3, 0, 1, 3):
        h = model.layers[number](h)
    return h


def branches(model: Stack, h: Any) -> Any:
    return model.layers[0](h) + model.layers[3](model.layers[2](h)) * model.layers[1](h)


def some(model: Stack, h: Any) -> Any:
    return model.layers[2](model.layers[1](h))


def none(model: Stack, h: Any) -> Any:
    return h


def checkpoint_over_two(model: Stack, h: Any) -> Any:
    first, second, third, fourth = list(model.layers)[:4]
    h = mg.checkpoint(lambda h: second(first(h)), h)
    return mg.checkpoint(lambda h: fourth(third(h)), h)


def checkpoint_over_three(model: Stack, h: Any) -> Any:
    first, second, third, fourth = list(model.layers)[:4]
    return fourth(mg.checkpoint(lambda h: third(second(first(h))), h))


def checkpoint_inside(model: Stack, h: Any) -> Any:
    for layer in model.layers:
        h = mg.checkpoint(layer, mg.checkpoint(layer, h))
    return h


def checkpoint_over_all(model: Stack, h: Any) -> Any:
    def through(h: Any) -> Any:
        for layer in model.layers:
            h = layer(h)
        return h

    return mg.checkpoint(through, h)


PATHS = [backwards, again, branches, some, none]
PATHS += [checkpoint_over_two, checkpoint_over_three, checkpoint_inside, checkpoint_over_all]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("layers", [4, 5])
def test_orders_of_use(path: Callable[[Stack, Any], Any], layers: int):
    compare(lambda: Stack(layers, path))


GROUPINGS = [[[0, 1], [2, 3]], [[0], [1, 2], [3]], [[0, 1, 2, 3]], [[0, 3], [1, 2]], [[1], [3]]]


@pytest.mark.parametrize("path", [None, *PATHS])
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_units_of_several_modules(path: Callable[[Stack, Any], Any] | None, grouping: list[list[int]]):
    def units(model: Stack) -> list[list[nn.Module]]:
        return [[model.layers[number] for number in group] for group in grouping]

    compare(lambda: Stack(4, path), 2, units=units)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_checkpoint_over_few_units(layers: int):
    compare(lambda: Stack(layers, checkpoint_over_all))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_more_ranks_than_entries(ranks: int):
    compare(lambda: Stack(1), ranks)


def test_several_calls_for_one_walk():
    compare(Stack, loss=lambda model, x: mg.sum(model(x) * model(2.0 * x)))


def test_a_checkpoint_around_the_whole_model():
    compare(Stack, loss=lambda model, x: mg.sum(mg.checkpoint(model, x)))


def test_what_is_seen_on_the_way_can_be_part_of_the_loss():
    def loss(model: Any, x: Any) -> Any:
        seen: list[Any] = []

        def path(stack: Any, h: Any) -> Any:
            seen.append(stack.layers[1](stack.layers[0](h)))
            return seen[0]

        getattr(model, "module", model).path = path
        model(x)
        return mg.sum(seen[0] * seen[0])

    compare(Stack, loss=loss)


def test_a_unit_inside_the_call_of_another_is_refused():
    def nested(model: Stack, h: Any) -> Any:
        outer, inner = model.layers[0], model.layers[2]
        outer.forward = lambda h: mg.tanh(inner(h) @ outer.weight)
        return outer(h)

    with pytest.raises(UsageError, match=r"layers.0 is in use while layers.2 is called.*units=\[...\]"):
        dist.spawn(train, ranks=2, arguments=(lambda: Stack(4, nested), 1, lambda m, x: mg.sum(m(x))))


# ----- Between uses -----


def test_use_of_what_is_not_gathered_is_refused():
    def main(world: World) -> None:
        model = Stack()
        wrapped(world, model)
        weight = model.layers[1].weight
        assert (weight.shape, weight.dtype, weight.size, weight.device) == ((4, 4), np.float64, 16, "cpu")
        assert "shared out with layers.1" in repr(weight)
        x = inputs(0)
        uses = [
            lambda: x @ weight,
            lambda: weight @ x.T,
            lambda: weight + 1.0,
            lambda: mg.exp(weight),
            lambda: nn.functional.linear(x, weight),
            lambda: weight[0],
            lambda: weight.numpy(),
            lambda: np.add(weight.data, 1.0),
            lambda: weight.assign(np.zeros((4, 4))),
            lambda: mg.sum(weight),
        ]
        for use in uses:
            with pytest.raises(MinigradError, match=r"layers.1 is not gathered \(ZeRO stage 3\).*gathered"):
                use()

    dist.spawn(main, ranks=2)


def test_evaluation_and_whole_values():
    def main(world: World) -> None:
        model, plain = Stack(), Stack()
        zero = wrapped(world, model)
        expected = plain(inputs(0)).numpy()
        with mg.no_grad():
            np.testing.assert_array_equal(zero(inputs(0)).numpy(), expected)
        with zero.gathered():
            if world.rank == 0:  # no other rank has to take part
                np.testing.assert_array_equal(zero(inputs(0)).numpy(), expected)
            state = {name: value.numpy() for name, value in plain.state_dict().items()}
            model.load_state_dict({name: 2.0 * value for name, value in state.items()})
        with zero.gathered():
            for name, value in model.state_dict().items():
                np.testing.assert_array_equal(value.numpy(), 2.0 * state[name])

    dist.spawn(main, ranks=3)


def test_a_graph_from_before_the_step_is_refused():
    def main(world: World) -> None:
        zero = wrapped(world, Stack())
        old = mg.sum(zero(inputs(0)))
        mg.sum(zero(inputs(1))).backward()
        zero.step()
        old.backward()

    with pytest.raises(GraphError, match="changed in place"):
        dist.spawn(main, ranks=2)


def test_the_next_unit_comes_while_one_is_used():
    def main(world: World) -> list[str]:
        model = Stack(3)
        zero = wrapped(world, model)
        events: list[str] = []
        units = zero._parameters.units  # type: ignore[union-attr]
        start = zero._parameters._start  # type: ignore[union-attr]

        def watched(unit: Any) -> None:
            events.append(f"gather {unit.name}")
            start(unit)

        zero._parameters._start = watched  # type: ignore[union-attr]

        def used(unit: Any, *_: Any) -> None:
            events.append(f"use {unit.name}")

        for unit in units:
            unit.modules[0].register_forward_pre_hook(partial(used, unit))
        with mg.no_grad():
            zero(inputs(0))  # in the first pass rank 0 finds out what comes next
        events.clear()
        loss = mg.sum(zero(inputs(0)))
        events.append("backward")
        loss.backward()
        return events

    forward = [
        "gather the root unit",
        "gather layers.0",
        "gather layers.1",
        "use layers.0",
        "gather layers.2",
    ]
    forward += ["use layers.1", "use layers.2", "backward"]
    backward = ["gather the root unit", "gather layers.2", "gather layers.1", "gather layers.0"]
    for events in dist.spawn(main, ranks=2):
        assert events == forward + backward


@pytest.mark.parametrize("left_out", [0, 1, 3, 6])
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("segment", [0, 1, 2])  # layers in a checkpoint, if any
def test_ranks_that_leave_out_units_or_the_walk_keep_up(
    monkeypatch: pytest.MonkeyPatch, left_out: int, ranks: int, segment: int
):
    """Where gradients arrive only when they are waited for, nobody waits for a rank that waits for him."""
    monkeypatch.setattr(Request, "test", lambda request: False)

    def main(world: World, walks: bool) -> dict[str, Any]:
        def path(model: Stack, h: Any) -> Any:
            def through(h: Any, first: int, count: int) -> Any:
                for number in range(first, min(first + count, 7)):
                    if number != left_out or world.rank != 1:
                        h = model.layers[number](h)
                return h

            if not segment:
                return through(h, 0, 7)
            for first in range(0, 7, segment):
                h = mg.checkpoint(lambda h, first=first: through(h, first, segment), h)
            return h

        zero = wrapped(world, Stack(7, path))
        for step in range(3):
            if walks or world.rank:
                mg.sum(zero(inputs(world.rank, step))).backward()
            zero.step()
        with zero.gathered():
            return {name: value.numpy().copy() for name, value in zero.module.state_dict().items()}

    for walks in (True, False):
        first, *others = dist.spawn(main, ranks=ranks, arguments=(walks,))
        assert all(np.array_equal(first[name], other[name]) for other in others for name in first)


@pytest.mark.parametrize("path", [None, checkpoint_over_two, checkpoint_over_all])
def test_checkpoints_over_two_units_move_no_more(path: Callable[[Stack, Any], Any] | None):
    """3Ψ(N-1) elements: recomputing gathers what the walk would have gathered."""

    def main(world: World) -> tuple[int, int]:
        model = Stack(2 if path is checkpoint_over_all else 4, path)
        zero = wrapped(world, model, algorithm="ring")
        world.ledger.clear()
        mg.sum(zero(inputs(world.rank))).backward()
        zero.step()
        traffic = world.ledger.report()["traffic"]
        sent = traffic["all_gather"]["parameters"]["bytes_sent"]
        sent += traffic["reduce_scatter"]["gradients"]["bytes_sent"]
        return sent // 8, sum(bucket.size for bucket in zero.buckets)

    results = dist.spawn(main, ranks=3)
    assert sum(sent for sent, _ in results) == 3 * results[0][1] * 2
