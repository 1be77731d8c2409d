"""The executor does what the list says: in its order, with what it needs, holding no more than it must."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist import executor as executor_module
from minigrad.dist.executor import early_receives
from minigrad.dist.memory import Meter
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.schedule import COMPUTE, RECEIVES, F, Kind
from minigrad.dist.schedule_check import check
from minigrad.dist.schedules import SCHEDULES, make
from minigrad.dist.timing import Costs, peak_activations, simulate
from minigrad.dist.world import World
from tests.dist.pipelines import WIDTH, Dense, layers, mean_square, walk_alone
from tests.dist.test_schedule import schedules

SAMPLES = 12


def pipeline_of(
    world: World, schedule: str, chunks: int = 6, stages: int | None = None, **options
) -> Pipeline:
    stages = stages or world.size
    return Pipeline(
        nn.Sequential(*layers(["dense"] * stages, 0)),
        balance=[1] * stages,
        chunks=chunks,
        schedule=schedule,
        loss=mean_square,
        world=world,
        **options,
    )


def batch(samples: int = SAMPLES) -> tuple[np.ndarray, np.ndarray]:
    values = np.random.default_rng(0)
    return values.normal(size=(samples, WIDTH)), values.normal(size=(samples, WIDTH))


def grad_of(parameter: mg.Tensor) -> np.ndarray:
    assert parameter.grad is not None
    return parameter.grad.data.copy()


def test_it_knows_no_schedule_by_name():
    source = Path(executor_module.__file__).read_text()
    assert not [name for name in SCHEDULES if f'"{name}"' in source]
    assert "schedules" not in {
        line.split()[1].rpartition(".")[2] for line in source.splitlines() if "from " in line[:5]
    }


def computed_before(row) -> dict:
    """How many computations come before each receive."""
    return {
        action: sum(other.kind in COMPUTE for other in row[:place])
        for place, action in enumerate(row)
        if action.kind in RECEIVES
    }


@given(schedules())
def test_receives_are_posted_while_the_computation_before_runs(schedule):
    for row in check(schedule).ranks:
        early = early_receives(row)
        assert sorted(map(str, early)) == sorted(map(str, row))
        for keep in (RECEIVES, {kind for kind in Kind if kind not in RECEIVES}):
            assert [a for a in early if a.kind in keep] == [a for a in row if a.kind in keep]
        was, now = computed_before(row), computed_before(early)
        assert now == {receive: max(0, count - 1) for receive, count in was.items()}


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zb-h1", "zb-h2", "interleaved"])
@pytest.mark.parametrize("recompute", [False, True])
def test_it_holds_what_the_schedule_says(schedule, recompute):
    """The runs whose backward is not done, at the end of each action, are what `peak_activations` counts."""

    def main(world: World) -> tuple[int, int, list[float]]:
        stages = 4 if schedule == "interleaved" else 2
        pipeline = pipeline_of(world, schedule, stages=stages, recompute=recompute)
        runner = pipeline.executor
        held, forwards = [], []
        compute = runner._compute
        for stage in pipeline.stages.values():
            stage.register_forward_hook(lambda *_: forwards.append(1))

        def watched(action) -> None:
            compute(action)
            held.append(len(runner._cells))

        runner._compute = watched  # type: ignore[method-assign]
        pipeline.step(*batch())
        assert not runner._cells
        assert not runner._arrived
        assert not runner._made
        return max(held), len(forwards), peak_activations(pipeline.schedule)

    for rank, (most, forwards, peaks) in enumerate(dist.spawn(main, ranks=2)):
        chunks = 2 if schedule == "interleaved" else 1
        assert most == peaks[rank] * chunks
        shapes_only, cells = chunks, 6 * chunks
        row = [a for a in make(schedule, 2, 6, virtual=chunks).ranks[rank] if a.kind in COMPUTE]
        at_once = sum(
            a.kind is F and (b.stage, b.microbatch) == (a.stage, a.microbatch) for a, b in pairwise(row)
        )
        assert forwards == shapes_only + cells + (cells - at_once if recompute else 0)


ROWS, WIDE = 16, 32  # of one microbatch


def peak_bytes(world: World, schedule: str, chunks: int, recompute: bool) -> int:
    """The most bytes of activations that this rank held in a step, counted from the arrays."""
    net = [layer for _ in range(4) for layer in (nn.Linear(WIDE, WIDE, dtype="float64"), nn.Tanh())]
    meter = Meter()
    pipeline = Pipeline(
        net, balance=[2] * 4, chunks=chunks, schedule=schedule, loss=mean_square, world=world, meter=meter,
        recompute=recompute,
    )  # fmt: skip
    batch = mg.tensor(meter.track("buffers", np.ones((chunks * ROWS, WIDE))))
    for _ in range(2):
        meter.reset_peak()
        pipeline.step(batch, batch)
    assert meter.current["activations"] == 0
    return meter.peak["activations"]


def test_the_bytes_of_activations_are_those_of_the_papers():
    """Of GPipe m, of 1F1B p-s times those of one microbatch; of ZB-H1 (p-s) M_B + s M_W."""
    p, m = 4, 8
    measured = {
        (name, chunks): dist.spawn(peak_bytes, ranks=p, arguments=(name, chunks, False))
        for name, chunks in (("gpipe", 1), ("gpipe", m), ("1f1b", m), ("zb-h1", m), ("zb-h2", m))
    }
    one = measured["gpipe", 1]
    tensor = ROWS * WIDE * 8
    assert one == [tensor, 2 * tensor, 2 * tensor, 3 * tensor]  # inputs, results, the difference in the loss
    assert measured["gpipe", m] == [m * size for size in one]
    assert measured["1f1b", m] == [(p - s) * size for s, size in enumerate(one)]
    kept = 2 * tensor  # for the weights: the input of the product, and the gradient of its result
    for s in range(1, p):
        assert measured["zb-h1", m][s] == (p - s) * one[s] + s * kept
        assert measured["zb-h2", m][s] == (2 * (p - s) - 1) * one[s] + 2 * s * kept


def test_recomputation_keeps_what_arrived_and_one_whole_run():
    """GPipe §2.3: m boundaries, and the activations of the one microbatch that is computed again."""
    [_, *found] = dist.spawn(peak_bytes, ranks=4, arguments=("gpipe", 8, True))
    tensor = ROWS * WIDE * 8
    assert found == [8 * tensor + tensor, 8 * tensor + tensor, 8 * tensor + 2 * tensor]


def test_weight_gradients_wait_for_their_turn():
    def main(world: World) -> list[object]:
        pipeline = pipeline_of(world, "zb-h1", chunks=4)
        runner = pipeline.executor
        order: list[object] = []
        for parameter in pipeline.parameters():
            parameter.register_post_accumulate_grad_hook(lambda _: order.append("weights"))

        def noted(do):
            def run(action) -> None:
                order.append(action.kind)
                do(action)

            return run

        runner._do = {kind: noted(do) for kind, do in runner._do.items()}
        runner._send = noted(runner._send)  # type: ignore[method-assign]
        pipeline.step(*batch())
        return order

    for rank, order in enumerate(dist.spawn(main, ranks=2)):
        assert order.count("weights") == 8
        for place, event in enumerate(order):
            if event == "weights":
                last = next(e for e in reversed(order[:place]) if e != "weights")
                assert last is Kind.BACKWARD_WEIGHTS
        if rank == 1:  # what the stage before waits for is sent before the weights' part is computed
            first = order.index(Kind.BACKWARD_INPUTS)
            assert order[first + 1] is Kind.SEND_GRADIENT


def test_messages_are_what_the_boundaries_are():
    """Per microbatch one tensor (samples, width) each way across each boundary, booked as activations."""

    def main(world: World) -> dict[str, dict[str, dict[str, int]]]:
        pipeline = pipeline_of(world, "1f1b")
        pipeline.step(*batch())  # what passes between stages is found in the first step
        world.ledger.clear()
        pipeline.step(*batch())
        traffic: dict = world.ledger.report()["traffic"]
        return traffic

    for rank, traffic in enumerate(dist.spawn(main, ranks=3)):
        neighbours = 2 if rank == 1 else 1
        sent = traffic["send"]["activations"]
        assert sent["bytes_sent"] == neighbours * SAMPLES * WIDTH * 8
        assert sent["messages"] == neighbours * 6
        assert traffic["receive"]["activations"]["bytes_received"] == sent["bytes_sent"]
        assert set(traffic) == {"send", "receive", "broadcast"}
        assert traffic["broadcast"]["control"]["messages"] == 1  # the loss, to all ranks


def test_time_comes_from_the_clock_and_the_trace_fits_the_schedule():
    """A clock that every computation moves by its cost: the trace is the model's, but for waiting."""

    def main(world: World):
        ticks = [0.0]

        def clock() -> float:
            ticks[0] += 0.5
            return ticks[0]

        pipeline = pipeline_of(world, "1f1b", clock=clock)
        pipeline.step(*batch())
        return pipeline.timeline()

    first, second = dist.spawn(main, ranks=2)
    assert first == second
    assert [span.action for span in first.of(0)] == list(make("1f1b", 2, 6).ranks[0])
    assert [span.stop - span.start for span in first.spans] == [0.5] * 24
    model = simulate(make("1f1b", 2, 6), Costs(0.5, 0.5))
    assert [span.action for span in model.of(1)] == [span.action for span in first.of(1)]


def test_a_stage_that_raises_ends_all_ranks():
    class Broken(Dense):
        def forward(self, x: mg.Tensor, *others: mg.Tensor):
            if hasattr(x.data, "sum") and x.device == "cpu" and abs(float(mg.sum(x))) < 1e-300:
                raise ZeroDivisionError("nothing left")
            return super().forward(x, *others)

    def main(world: World) -> None:
        pipeline = Pipeline(
            [layers(["dense"], 0)[0], Broken(np.random.default_rng(0)), layers(["dense"], 1)[0]],
            chunks=3,
            loss=mean_square,
            world=world,
        )
        for parameter in pipeline.stages.get(0, nn.Module()).parameters():
            parameter.assign(0.0)
        pipeline.step(*batch())

    with pytest.raises(ZeroDivisionError, match="nothing left") as caught:
        dist.spawn(main, ranks=3)
    assert "rank 1 of 3" in "".join([*getattr(caught.value, "__notes__", []), *map(str, caught.value.args)])


def test_gradients_are_scaled_once_and_the_loss_is_not():
    def main(world: World, scale: float) -> tuple[float, list[np.ndarray]]:
        pipeline = pipeline_of(world, "1f1b")
        loss = float(pipeline.step(*batch(), scale=scale))
        return loss, [grad_of(p) for p in pipeline.parameters()]

    plain, scaled = (
        dist.spawn(main, ranks=2, arguments=(1.0,)),
        dist.spawn(main, ranks=2, arguments=(1024.0,)),
    )
    for (loss, gradients), (other, larger) in zip(plain, scaled, strict=True):
        assert loss == other
        for a, b in zip(gradients, larger, strict=True):
            np.testing.assert_array_equal(a * 1024.0, b)


@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1", "interleaved"])
def test_copies_of_a_pipeline_over_a_data_parallel_axis(schedule):
    """Two copies of two stages, each on half of the batch: gradients of the whole, summed once per step."""
    x, y = batch(12)

    def main(world: World) -> tuple[dict[str, np.ndarray], int]:
        rows = world.split(world.rank // 2)  # the stages of one copy
        copies = world.split(world.rank % 2)  # the copies of one stage
        stages = 4 if schedule == "interleaved" else 2
        pipeline = pipeline_of(rows, schedule, chunks=2, stages=stages)
        parallel = dist.DataParallel(pipeline.module, copies, bucket_bytes=1)
        pipeline.executor.quiet = parallel.no_sync
        share = slice(6 * copies.rank, 6 * copies.rank + 6)
        pipeline.step(x[share], y[share], scale=0.5)
        parallel.synchronize()
        sums = copies.ledger.report()["traffic"]["all_reduce"]["gradients"]["messages"]
        return {name: grad_of(p) for name, p in pipeline.named_parameters()}, sums

    model = nn.Sequential(*layers(["dense"] * (4 if schedule == "interleaved" else 2), 0))
    walk_alone(model, x, y)
    expected = {name: grad_of(p) for name, p in model.named_parameters()}
    for gradients, sums in dist.spawn(main, ranks=4):
        assert sums == len(gradients)
        for name, gradient in gradients.items():
            np.testing.assert_allclose(gradient, expected[name], rtol=1e-10, atol=1e-13)


def test_backward_of_a_stage_without_anything_to_learn():
    """The last stage only passes on: its backward is a walk without weights, split or not."""

    class Twice(nn.Module):
        def forward(self, x: mg.Tensor) -> mg.Tensor:
            return x * 2.0

    for schedule in ("1f1b", "zb-h1"):

        def main(world: World, schedule: str = schedule) -> bool:
            [first] = layers(["dense"], 0)
            pipeline = Pipeline([first, Twice()], chunks=2, loss=mean_square, schedule=schedule, world=world)
            pipeline.step(*batch())
            return all(p.grad is not None for p in pipeline.parameters())

        assert dist.spawn(main, ranks=2) == [True, True]
