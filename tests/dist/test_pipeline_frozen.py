"""Ranks whose stage trains nothing: all of it is frozen, or there are no parameters in it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.checkpoint import load, save
from minigrad.dist.mesh import Mesh
from minigrad.dist.mesh_zero import MeshZeRO
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.single import SingleWorld
from minigrad.dist.world import World
from minigrad.dist.zero import ZeRO
from minigrad.errors import UsageError
from minigrad.nn.amp import GradScaler
from tests.dist.pipelines import WIDTH, mean_square

Arrays = dict[str, np.ndarray]
SAMPLES, STEPS = 8, 3
KINDS = ("frozen", "tanh", "dense")
OPTIMIZERS: dict[str, Callable[[Any], nn.optim.Optimizer]] = {
    "sgd": lambda p: nn.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: nn.optim.AdamW(p, lr=0.01),
    "lamb": lambda p: nn.optim.LAMB(p, lr=0.01, weight_decay=0.1),
    "groups": lambda p: nn.optim.SGD([{"params": p, "lr": 0.2}], lr=0.1),
}


def chain(kinds: tuple[str, ...]) -> nn.Sequential:
    mg.random.manual_seed(4)
    layers: list[nn.Module] = []
    for kind in kinds:
        layer = nn.Tanh() if kind == "tanh" else nn.Linear(WIDTH, WIDTH, dtype="float64")
        layers.append(layer.requires_grad_(kind == "dense"))
    return nn.Sequential(*layers)


def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.random.default_rng((2, step))
    return values.normal(size=(SAMPLES, WIDTH)), values.normal(size=(SAMPLES, WIDTH))


def alone(
    kinds: tuple[str, ...], optimizer: str, max_norm: float | None = None
) -> tuple[Arrays, list[float]]:
    model = chain(kinds)
    learner = OPTIMIZERS[optimizer](model.parameters())
    schedule = nn.lr_scheduler.StepLR(learner, 1, gamma=0.5)
    losses = []
    for step in range(STEPS):
        x, y = (mg.tensor(array, dtype="float64") for array in batch(step))
        loss = mean_square(model(x), y)
        loss.backward()
        losses.append(loss.item())
        if max_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        learner.step()
        learner.zero_grad()
        schedule.step()
    return {name: x.data.copy() for name, x in model.state_dict().items()}, losses


def compare(found: Any, expected: tuple[Arrays, list[float]]) -> None:
    state, losses = expected
    assert {name for part, _ in found for name in part} == set(state)
    for part, own in found:
        np.testing.assert_allclose(own, losses, rtol=1e-10)
        for name, value in part.items():
            np.testing.assert_allclose(value, state[name], rtol=1e-10, atol=1e-12, err_msg=name)


def three_lines(world: World, kinds: tuple[str, ...], optimizer: str, options: dict[str, Any]) -> Any:
    pipeline = Pipeline(chain(kinds), chunks=4, loss=mean_square, world=world, **options)
    learner = OPTIMIZERS[optimizer](pipeline.parameters())
    schedule = nn.lr_scheduler.StepLR(learner, 1, gamma=0.5)
    losses = []
    for step in range(STEPS):
        losses.append(float(pipeline.step(*batch(step))))
        learner.step()
        learner.zero_grad()
        schedule.step()
    learner.load_state_dict(learner.state_dict())
    return {name: x.data.copy() for name, x in pipeline.state_dict().items()}, losses


@settings(max_examples=40)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=3, max_size=5).filter(lambda kinds: "dense" in kinds),
    ranks=st.integers(1, 3),
    optimizer=st.sampled_from(list(OPTIMIZERS)),
    schedule=st.sampled_from(["1f1b", "zb-h1"]),
    recompute=st.booleans(),
)
def test_the_three_lines_run_on_every_rank(
    kinds: list[str], ranks: int, optimizer: str, schedule: str, recompute: bool
) -> None:
    options = {"schedule": schedule, "recompute": recompute}
    arguments = (tuple(kinds), optimizer, options)
    compare(dist.spawn(three_lines, ranks=ranks, arguments=arguments), alone(tuple(kinds), optimizer))


CHAINS = [("frozen", "dense"), ("dense", "tanh"), ("tanh", "dense"), ("dense", "frozen")]


def with_units(pipeline: Pipeline, options: dict[str, Any]) -> dict[str, Any]:
    """At stage 3 each layer with parameters is a unit."""
    layers = [layer for layer in pipeline.module.children() if any(True for _ in layer.parameters())]
    return {**options, "units": layers} if options["stage"] == 3 else options


def with_zero(world: World, kinds: tuple[str, ...], optimizer: str, options: dict[str, Any]) -> Any:
    """Two copies of a pipeline, each with half of the samples."""
    mesh = Mesh(world, data=2, pipeline=2)
    pipeline = Pipeline(chain(kinds), chunks=2, loss=mean_square, world=mesh.axis("pipeline"))
    learner = OPTIMIZERS[optimizer](pipeline.parameters())
    options = with_units(pipeline, options)
    if options.get("max_norm"):
        mesh = Mesh(world, data=2, pipeline=2, tensor=1)
        zero: ZeRO = MeshZeRO(pipeline.module, learner, mesh, pipeline=pipeline, **options)
    else:
        zero = ZeRO(pipeline.module, learner, mesh.axis("data"), **options)
    schedule = nn.lr_scheduler.StepLR(learner, 1, gamma=0.5)
    pipeline.executor.quiet = zero.no_sync
    losses = []
    for step in range(STEPS):
        rows = slice(mesh.coordinates["data"], None, 2)
        x, y = batch(step)
        loss = np.array([float(pipeline.step(x[rows], y[rows], scale=0.5))])
        mesh.axis("data").all_reduce(loss)
        losses.append(float(loss[0]) / 2)
        zero.step()
        schedule.step()
    pieces = {piece.name for piece in zero.pieces()}
    names = {f"model.{name}" for name, _ in pipeline.module.named_parameters()}
    assert {name for name in pieces if name.startswith("model.")} == names
    zero.loaded(zero.state())
    with zero.gathered():
        return {name: x.data.copy() for name, x in pipeline.state_dict().items()}, losses


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("kinds", CHAINS)
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("adamw", {}),
        ("lamb", {"algorithm": "ordered"}),
        ("sgd", {"max_norm": 0.1}),
        ("lamb", {"max_norm": 0.1, "algorithm": "ordered"}),
        ("adamw", {"offload": "host"}),
        ("sgd", {"offload": "host", "master": "float64"}),
    ],
)
def test_beside_copies_at_every_stage_of_zero(
    stage: int, kinds: tuple[str, ...], optimizer: str, options: dict[str, Any]
) -> None:
    arguments = (kinds, optimizer, {"stage": stage, **options})
    compare(
        dist.spawn(with_zero, ranks=4, arguments=arguments), alone(kinds, optimizer, options.get("max_norm"))
    )


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_step_that_overflows_is_left_out_on_all_ranks(stage: int) -> None:
    def main(world: World) -> Arrays:
        mesh = Mesh(world, data=1, pipeline=2, tensor=1)
        pipeline = Pipeline(chain(("frozen", "dense")), loss=mean_square, world=mesh.axis("pipeline"))
        scaler = GradScaler(init_scale=2.0)
        learner = OPTIMIZERS["sgd"](pipeline.parameters())
        options = with_units(pipeline, {"stage": stage, "scaler": scaler})
        zero = MeshZeRO(pipeline.module, learner, mesh, pipeline=pipeline, **options)
        pipeline.executor.quiet = zero.no_sync
        one = pipeline.module.computes_with.asarray(1.0, dtype="float32")
        for factor in (np.inf, 1.0):
            x, y = batch(0)
            with np.errstate(invalid="ignore"):
                pipeline.step(x, y, scale=scaler.scale(mg.Tensor.of(one)).data * factor)
            zero.step()
        assert scaler.get_scale() == 1.0  # halved once, on the rank that trains nothing, too
        with zero.gathered():
            return {name: x.data.copy() for name, x in pipeline.state_dict().items()}

    def once(world: World) -> Arrays:
        model = chain(("frozen", "dense"))
        learner = OPTIMIZERS["sgd"](model.parameters())
        x, y = (mg.tensor(array, dtype="float64") for array in batch(0))
        mean_square(model(x), y).backward()
        learner.step()
        return {name: x.data.copy() for name, x in model.state_dict().items()}

    expected = once(SingleWorld())
    for part in dist.spawn(main, ranks=2):
        for name, value in part.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-12, err_msg=name)


def test_a_checkpoint_of_a_rank_that_trains_nothing(tmp_path: Any) -> None:
    kinds = ("tanh", "frozen", "dense", "tanh")

    def state(pipeline: Pipeline) -> Arrays:
        return {name: x.data.copy() for name, x in pipeline.state_dict().items()}

    def write(world: World) -> Arrays:
        pipeline = Pipeline(chain(kinds), loss=mean_square, world=world)
        save(tmp_path / "step-1", world, pipeline.pieces(), {})
        return state(pipeline)

    def read(world: World) -> Arrays:
        model = chain(kinds)
        for parameter in model.parameters():
            parameter.assign(np.zeros(parameter.shape))
        pipeline = Pipeline(model, loss=mean_square, world=world)
        load(tmp_path / "step-1", world, pipeline.pieces())
        return state(pipeline)

    written: Arrays = {}
    for part in dist.spawn(write, ranks=4):
        written.update(part)
    for part in dist.spawn(read, ranks=3):
        for name, value in part.items():
            np.testing.assert_array_equal(value, written[name])


# ----- What stays an error -----


def test_a_model_that_nobody_trains_is_still_refused_on_one_rank() -> None:
    pipeline = Pipeline(chain(("frozen",)), loss=mean_square, world=SingleWorld())
    learner = OPTIMIZERS["sgd"](pipeline.parameters())
    pipeline.step(*batch(0))
    with pytest.raises(UsageError, match="none of 2 parameters"):
        learner.step()
    pipeline = Pipeline(chain(("tanh",)), loss=mean_square, world=SingleWorld())
    with pytest.raises(UsageError, match=r"at least one parameter.*give pipeline.parameters\(\) as it is"):
        OPTIMIZERS["sgd"](pipeline.parameters())


def test_a_step_before_any_walk_is_still_refused() -> None:
    def main(world: World) -> None:
        pipeline = Pipeline(chain(("dense", "frozen", "tanh")), loss=mean_square, world=world)
        learner = OPTIMIZERS["adamw"](pipeline.parameters())
        with pytest.raises(UsageError, match=r"none of \d parameters .* call backward"):
            learner.step()

    dist.spawn(main, ranks=3)


def test_a_list_of_no_parameters_is_still_refused() -> None:
    def main(world: World) -> None:
        pipeline = Pipeline(chain(("dense", "tanh")), loss=mean_square, world=world)
        if world.rank:
            with pytest.raises(UsageError, match="at least one parameter"):
                OPTIMIZERS["adamw"](list(pipeline.parameters()))
        frozen = chain(("frozen",))
        learner = OPTIMIZERS["sgd"](frozen.parameters())
        with pytest.raises(UsageError, match="the optimizer lacks 0 of the module's 0 trained parameters"):
            ZeRO(frozen, learner, world)

    dist.spawn(main, ranks=2)
