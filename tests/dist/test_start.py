"""A model larger than a rank, built of shapes only: each rank fills what it keeps, as if built whole."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dist, nn, random
from minigrad.dist.memory import Meter
from minigrad.dist.mesh import Mesh
from minigrad.dist.mesh_gpt import MeshGPT
from minigrad.dist.partition import cut
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.pipeline_gpt import gpt_layers
from minigrad.dist.world import World
from minigrad.dist.zero import ZeRO
from minigrad.dist.zero_parameters import WholeParameters, standing
from minigrad.errors import CommunicationError, DeviceError, UsageError
from minigrad.nn import init
from minigrad.nn.gpt import GPT, GPTConfig
from tests.dist.held import SLACK, most_while
from tests.dist.mesh_training import assembled

WIDTH = 6
Arrays = dict[str, np.ndarray]


class Net(nn.Module):
    """Blocks of which two are one, a norm with statistics, a frozen layer, and a matrix beside them all."""

    def __init__(self, device: str | None, seed: int = 0) -> None:
        random.manual_seed(seed)
        where: dict[str, Any] = {"dtype": "float64", "device": device}
        self.enter = nn.Linear(3, WIDTH, **where)
        twice = nn.Linear(WIDTH, WIDTH, **where)
        self.blocks = nn.ModuleList(
            [twice, nn.BatchNorm1d(WIDTH, **where), nn.Linear(WIDTH, WIDTH, bias=False, **where), twice]
        )
        self.frozen = nn.Linear(WIDTH, WIDTH, **where).requires_grad_(False)
        self.scale = nn.Parameter(mg.ones((2, WIDTH), **where))

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        h = mg.tanh(self.enter(x))
        for block in self.blocks:
            h = mg.tanh(block(h))
        return mg.tanh(self.frozen(h)) @ mg.matrix_transpose(self.scale)


def values(model: nn.Module) -> Arrays:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.numpy().copy() for name, tensor in tensors}


def same(actual: Arrays, expected: Arrays) -> None:
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype, name
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


def trained(world: World, device: str, stage: int, other_seeds: bool, options: dict[str, Any]) -> list[Any]:
    """The start and what becomes of it in three steps."""
    model = Net(device, seed=world.rank if other_seeds else 0)
    optimizer = nn.optim.AdamW(model.parameters(), lr=0.1)  # before the model is wrapped
    zero = ZeRO(model, optimizer, world, stage=stage, max_norm=1.0, **options)
    with zero.gathered():
        found = [values(model)]
    for step in range(3):
        x = np.random.default_rng((world.rank, step)).normal(size=(4, 3))
        mg.sum(mg.square(zero(mg.tensor(x)))).backward()
        zero.step()
    with zero.gathered():
        return [*found, values(model)]


@settings(max_examples=25, deadline=None)
@given(
    ranks=st.sampled_from([1, 2, 3, 5]),
    stage=st.integers(0, 3),
    other_seeds=st.booleans(),
    options=st.sampled_from([{}, {"bucket_bytes": 50}, {"algorithm": "ordered"}, {"master": "float64"}]),
)
def test_zero_begins_and_trains_as_with_a_model_that_was_built_whole(
    ranks: int, stage: int, other_seeds: bool, options: dict[str, Any]
) -> None:
    run = [
        dist.spawn(trained, ranks=ranks, arguments=(device, stage, other_seeds, options))
        for device in ("cpu", "shapes")
    ]
    for whole, filled in zip(*run, strict=True):
        for expected, actual in zip(whole, filled, strict=True):
            same(actual, expected)
    for filled in run[1]:  # all ranks begin with what rank 0 drew
        same(filled[0], values(Net(None)))


def test_what_has_no_start_is_refused_on_every_rank_before_anything_is_sent() -> None:
    def main(world: World, wrap: Callable[[nn.Module, World], Any]) -> str:
        model = Net("shapes")
        model.blocks[2].weight = nn.Parameter(mg.empty((WIDTH, WIDTH), dtype="float64", device="shapes"))
        with pytest.raises(UsageError, match=r"cannot fill [\w.]*2\.weight: nobody said") as caught:
            wrap(model, world)
        assert not world.ledger.by_kind
        assert {x.device for x in model.parameters()} == {"shapes"}
        return str(caught.value)

    def zero(model: nn.Module, world: World) -> Any:
        return ZeRO(model, nn.optim.SGD(model.parameters(), lr=0.1), world, stage=3)

    def pipeline(model: Any, world: World) -> Any:
        return Pipeline(nn.Sequential(*model.blocks), world=world)

    for wrap in (zero, pipeline):
        assert len(set(dist.spawn(main, ranks=3, arguments=(wrap,)))) == 1


def test_a_model_that_was_refused_is_still_one_of_shapes(tmp_path: Any) -> None:
    def main(world: World) -> None:
        model = Net("shapes")
        wrap = partial(ZeRO, model, nn.optim.SGD(model.parameters(), lr=0.1), world)
        with pytest.raises(UsageError, match="is no folder"):
            wrap(offload=tmp_path / "missing")
        with pytest.raises(DeviceError, match="unknown device"):
            wrap(device="cup")
        assert {x.device for x in (*model.parameters(), *model.buffers())} == {"shapes"}
        with wrap(stage=2).gathered():
            same(values(model), values(Net(None)))

    dist.spawn(main, ranks=2)


# ----- What a rank holds -----

LAYERS, SIDE = 8, 128
UNIT = 4 * (SIDE * SIDE + SIDE)  # bytes


def tall(device: str) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(SIDE, SIDE, device=device) for _ in range(LAYERS)))


@pytest.mark.parametrize("ranks", [3, 5])
def test_no_more_is_filled_at_a_time_than_a_unit(ranks: int) -> None:
    def wrapped(world: World, device: str) -> Any:
        model, meter = tall(device), Meter()
        zero = ZeRO(model, nn.optim.SGD(model.parameters(), lr=0.1), world, stage=3, meter=meter)
        counts = sum(bucket.stop - bucket.start for bucket in zero.buckets)
        assert meter.peak["parameters"] == 4 * counts + 2 * UNIT  # shards, and the room of two units
        return zero

    kept, peak = most_while(partial(wrapped, device="shapes"), ranks)
    assert peak < kept + SLACK
    shards = 2 * LAYERS * UNIT  # of parameters, and of gradients
    assert kept < shards + ranks * 2 * UNIT + SLACK
    _, of_whole_models = most_while(partial(wrapped, device="cpu"), ranks)
    assert of_whole_models > ranks * LAYERS * UNIT  # what this measures, it does see


def test_whole_parameters_are_filled_in_their_places() -> None:
    def laid_out(world: World) -> Any:
        model = tall("shapes")
        with standing(model, "cpu") as starts:
            buckets = cut(list(model.parameters()), world, 1000)
            return WholeParameters(buckets, world, starts, track=Meter().track), model

    kept, most = most_while(laid_out, 1)
    assert most < kept + 8 * init.BLOCK + UNIT
    assert kept < LAYERS * UNIT + SLACK


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_a_rank_of_a_pipeline_fills_its_stages_only(ranks: int) -> None:
    def wrapped(world: World) -> Any:
        return Pipeline(tall("shapes"), world=world)

    kept, peak = most_while(wrapped, ranks)
    assert peak < LAYERS * UNIT + SLACK  # of all ranks together: one model
    assert kept > LAYERS * UNIT


# ----- Pipelines -----


def chain(device: str | None, learned: bool) -> nn.Sequential:
    random.manual_seed(2)
    where: dict[str, Any] = {"dtype": "float64", "device": device}
    layers = [nn.Linear(WIDTH, WIDTH, **where) for _ in range(5)]
    layers[3].weight = layers[0].weight  # far apart
    layers[1].requires_grad_(learned)
    return nn.Sequential(*layers, nn.BatchNorm1d(WIDTH, **where))


def mean_square(out: mg.Tensor, target: mg.Tensor) -> mg.Tensor:
    return mg.mean(mg.square(out - target))


def piped(world: World, device: str, learned: bool, schedule: str) -> list[Arrays]:
    model = chain(device, learned)
    pipeline = Pipeline(model, chunks=4, schedule=schedule, loss=mean_square, world=world)
    own = {id(x) for x in (*pipeline.parameters(), *pipeline.module.buffers())}
    if device == "shapes":
        assert all((id(x) in own) == (x.device == "cpu") for x in (*model.parameters(), *model.buffers()))
    optimizer = nn.optim.Adam(pipeline.parameters(), lr=0.1)
    found = [values(pipeline.module)]
    for step in range(2):
        x = np.random.default_rng(step).normal(size=(9, WIDTH))
        pipeline.step(mg.tensor(x), mg.tensor(x[::-1].copy()))
        if any(parameter.requires_grad for parameter in pipeline.parameters()):
            optimizer.step()
        optimizer.zero_grad()
    return [*found, values(pipeline.module)]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1"])
def test_a_pipeline_begins_and_trains_as_with_a_model_that_was_built_whole(ranks: int, schedule: str) -> None:
    for learned in (True, False):
        run = [
            dist.spawn(piped, ranks=ranks, arguments=(device, learned, schedule))
            for device in ("cpu", "shapes")
        ]
        whole = values(chain(None, learned))
        for expected, actual in zip(*run, strict=True):
            for one, other in zip(expected, actual, strict=True):
                same(other, one)
            tied = {"3.weight": whole["0.weight"]}
            same(actual[0], {name: {**whole, **tied}[name] for name in actual[0]})


def test_copies_on_two_stages_begin_as_the_first_even_where_ranks_draw_otherwise() -> None:
    def main(world: World) -> np.ndarray:
        random.manual_seed(world.rank)
        first, between = (nn.Linear(3, 3, device="shapes") for _ in range(2))
        last = nn.Linear(3, 3, device="shapes")
        last.weight = first.weight
        pipeline = Pipeline([first, between, last], world=world)
        return pipeline.state_dict()["0.weight" if world.rank == 0 else "2.weight"].numpy()

    first, last = dist.spawn(main, ranks=2)
    np.testing.assert_array_equal(first, last)


# ----- Meshes -----

GPTS = GPTConfig(vocabulary=7, context=6, layers=3, heads=3, width=6, dropout=0.2)


def on_mesh(world: World, device: str, sizes: dict[str, int], stage: int, recompute: bool) -> Any:
    mesh = Mesh(world, **sizes)
    model = GPT(GPTS, seed=4, dtype="float64", device=device)
    part = MeshGPT(model, mesh, microbatches=3, recompute=recompute)
    optimizer = nn.optim.AdamW(part.module.parameters(), lr=0.1)
    zero = part.share_out(optimizer, stage=stage, max_norm=0.5, bucket_bytes=300)
    start = [(piece, piece.array.copy()) for piece in zero.pieces()]
    losses = []
    for step in range(2):
        source = np.random.default_rng((mesh.coordinates["data"], step))
        tokens, targets = source.integers(0, 7, (2, 4, 6))
        with random.scope(seed=1, step=step, samples=range(4)):
            losses.append(part.learn(tokens, targets, count=48))
        losses.append(float(zero.step()))  # type: ignore[arg-type]  # there is a largest norm
    return start, losses, [piece.array.copy() for piece in zero.pieces()]


@settings(max_examples=12, deadline=None)
@given(
    data=st.integers(1, 3),
    pipeline=st.integers(1, 3),
    tensor=st.integers(1, 2),
    stage=st.integers(0, 3),
    recompute=st.booleans(),
)
def test_a_mesh_begins_and_trains_as_with_a_model_that_was_built_whole(
    data: int, pipeline: int, tensor: int, stage: int, recompute: bool
) -> None:
    sizes = {"data": data, "pipeline": pipeline, "tensor": tensor}
    ranks = data * pipeline * tensor
    run = [
        dist.spawn(on_mesh, ranks=ranks, arguments=(device, sizes, stage, recompute))
        for device in ("cpu", "shapes")
    ]
    for (start, losses, end), (other_start, other_losses, other_end) in zip(*run, strict=True):
        assert losses == other_losses
        for (piece, array), (other, other_array) in zip(start, other_start, strict=True):
            assert (piece.name, piece.start, piece.box) == (other.name, other.start, other.box)
            np.testing.assert_array_equal(array, other_array, err_msg=piece.name)
        for array, other_array in zip(end, other_end, strict=True):
            np.testing.assert_array_equal(array, other_array)


def test_a_mesh_begins_with_the_parts_of_the_whole_model() -> None:
    whole = values(GPT(GPTS, seed=4, dtype="float64"))

    def main(world: World) -> Any:
        part = MeshGPT(
            GPT(GPTS, seed=4, dtype="float64", device="shapes"), Mesh(world, data=2, pipeline=1, tensor=3)
        )
        return part.share_out(nn.optim.SGD(part.module.parameters(), lr=0.1), stage=3).pieces()

    arrays = assembled(dist.spawn(main, ranks=6))
    for name, value in whole.items():
        np.testing.assert_array_equal(arrays[f"model.{name}"], value, err_msg=name)


@pytest.mark.parametrize("sizes", [{"tensor": 2}, {"pipeline": 2}, {"data": 2}])
def test_ranks_that_would_begin_differently_are_refused(sizes: dict[str, int]) -> None:
    def main(world: World) -> None:
        mesh = Mesh(world, **{"data": 1, "pipeline": 1, "tensor": 1} | sizes)
        part = MeshGPT(GPT(GPTS, seed=world.rank, device="shapes"), mesh)
        with pytest.raises(CommunicationError, match="the model of rank 1 begins otherwise than that"):
            part.share_out(nn.optim.SGD(part.module.parameters(), lr=0.1))
        assert {p.device for p in part.module.parameters()} == {"shapes"}

    dist.spawn(main, ranks=2)


def test_layers_of_a_gpt_of_shapes_make_a_pipeline() -> None:
    def main(world: World, device: str) -> Arrays:
        pipeline = Pipeline(gpt_layers(GPT(GPTS, device=device)), world=world)
        return values(pipeline.module)

    for expected, actual in zip(
        *(dist.spawn(main, ranks=3, arguments=(device,)) for device in ("cpu", "shapes")), strict=True
    ):
        same(actual, expected)
