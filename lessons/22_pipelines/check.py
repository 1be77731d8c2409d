"""What the answers of lesson 22 must do."""

import itertools
import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.schedule import parse
from minigrad.dist.schedule_check import check
from minigrad.dist.schedule_grid import grid
from minigrad.dist.schedules import make
from minigrad.dist.timing import Costs, peak_activations, simulate
from minigrad.errors import UsageError
from minigrad.lessons.checking import count, exercise, few, require, require_close, wrong

CATALOGUE = ["minigrad.dist.schedules.make", "minigrad.dist.schedules.Shape"]
SHAPES = {"ranks": st.integers(1, 5), "microbatches": st.integers(1, 10)}


def text_of(rows):
    """Rows of words as the text of a schedule."""
    lists = isinstance(rows, list) and all(isinstance(row, list) for row in rows)
    if not lists or not all(str(word).split() == [word] for row in rows for word in row):
        wrong(f'a schedule is a list of lists of words, such as [["F0", "B0"]], and yours is {rows!r}')
    return "".join(f"{rank}: {' '.join(map(str, row))}\n" for rank, row in enumerate(rows))


def proved(rows, ranks, microbatches):
    """The schedule, if it can run."""
    text = text_of(rows)
    what = f"{count(ranks, 'rank')}, M = {microbatches}"
    require(len(rows) == ranks, f"{what}: your schedule has {len(rows)} rows\n{text}")
    try:
        schedule = parse(text, name="that you return")
        check(schedule)
    except UsageError as error:
        wrong(f"{what}: {error}")
    require(
        schedule.microbatches == microbatches,
        f"{what}: your schedule has {schedule.microbatches} microbatches\n{text}",
    )
    return schedule


def require_memory(what, schedule, allowed):
    """No rank holds more activations than `allowed`."""
    held = [round(h) for h in peak_activations(schedule)]
    require(
        all(h <= most for h, most in zip(held, allowed, strict=True)),
        f"{what}: your ranks hold {held} activations, and {allowed} are allowed\n{schedule}",
    )


def check_training(rows, ranks=3, microbatches=6):
    """A net in stages, trained by the schedule, against the same net on one rank."""
    schedule = proved(rows, ranks, microbatches)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(13, 4)), random.normal(size=(13, 4))

    def loss(output, target):
        return nn.functional.mse_loss(output, target)

    def main(world, schedule, balance):
        mg.random.manual_seed(0)
        net = nn.Sequential(*[nn.Linear(4, 4, dtype="float64") for _ in range(3)])
        pipeline = Pipeline(
            net, balance=balance, chunks=microbatches, schedule=schedule, loss=loss, world=world
        )
        found = float(pipeline.step(x, y))
        return found, {name: p.grad.numpy() for name, p in pipeline.named_parameters()}

    (expected, gradients), *_ = dist.spawn(main, ranks=1, arguments=("naive", [3]))
    for rank, (found, own) in enumerate(dist.spawn(main, ranks=ranks, arguments=(schedule, [1] * ranks))):
        require_close(found, expected, f"trained by your schedule on {ranks} ranks: the loss")
        for name, gradient in own.items():
            require_close(
                gradient, gradients[name], f"trained by your schedule: the gradient of {name} on rank {rank}"
            )


@exercise("22.1", "GPipe", points=1, rebuilds=CATALOGUE)
@few(0.5)
@given(**SHAPES)
def check_gpipe(answer, ranks, microbatches):
    rows = answer.gpipe(ranks, microbatches)
    proved(rows, ranks, microbatches)
    order = range(microbatches)
    expected = [f"F{j}" for j in order] + [f"B{j}" for j in reversed(order)]
    for rank, row in enumerate(rows):
        require(
            [str(word).partition("@")[0] for word in row] == expected,
            f"GPipe's rank {rank} goes {' '.join(expected)}, and yours goes {' '.join(row)}",
        )


@exercise("22.1", "GPipe", points=1, rebuilds=CATALOGUE)
def check_gpipe_training(answer):
    check_training(answer.gpipe(3, 6))


@exercise("22.2", "one forward, one backward", points=2, rebuilds=CATALOGUE)
@few(0.5)
@given(**SHAPES)
def check_1f1b(answer, ranks, microbatches):
    rows = answer.one_forward_one_backward(ranks, microbatches)
    schedule = proved(rows, ranks, microbatches)
    what = f"{count(ranks, 'rank')}, M = {microbatches}"
    for forward, backward in ((1, 2), (2, 1), (1, 1)):
        run = simulate(schedule, Costs(forward, backward))
        least = (microbatches + ranks - 1) * (forward + backward)
        require(
            run.makespan == least,
            f"{what}: where F takes {forward} and B {backward}, all takes (M + K - 1) (F + B) = {least}, "
            f"and yours takes {run.makespan:g} (a dot is an idle rank)\n{grid(run)}",
        )
    require_memory(what, schedule, [min(ranks - s, microbatches) for s in range(ranks)])


@exercise("22.2", "one forward, one backward", points=1, rebuilds=CATALOGUE)
def check_1f1b_training(answer):
    check_training(answer.one_forward_one_backward(3, 6))


@st.composite
def any_rows(draw):
    """Rows in which every B comes after its F; not all of them can run."""
    ranks, microbatches = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    if draw(st.booleans()):
        several = draw(st.sampled_from([microbatches, 11]))  # F1 and F10 are two
        schedule = make(draw(st.sampled_from(["naive", "gpipe", "1f1b"])), ranks, several)
        return [[str(action).partition("@")[0] for action in row] for row in schedule.ranks]
    rows = []
    for _ in range(ranks):
        order = draw(st.permutations([j for j in range(microbatches) for _ in "FB"]))
        seen: set[int] = set()
        row = []
        for j in order:
            row.append(f"{'B' if j in seen else 'F'}{j}")
            seen.add(j)
        rows.append(row)
    return rows


@exercise("22.3", "a clock", points=3, rebuilds=["minigrad.dist.timing.simulate"])
@given(rows=any_rows(), forward=st.sampled_from([1, 2, 0.5]), backward=st.sampled_from([1, 2, 3]))
def check_finish(answer, rows, forward, backward):
    try:
        expected = simulate(parse(text_of(rows)), Costs(forward, backward)).makespan
    except UsageError:
        expected = None
    found = answer.finish([list(row) for row in rows], forward, backward)
    what = f"F takes {forward}, B {backward}:\n{text_of(rows)}"
    if expected is None or found is None:
        said = {True: "they wait in a circle (None)", False: "they come to an end"}
        require(
            expected is found,
            f"{what}here {said[expected is None]}, and yours says {said[found is None]}",
        )
        return
    require_close(found, expected, f"{what}the end")


@st.composite
def chains(draw):
    """Costs of layers, and a number of stages."""
    costs = draw(st.lists(st.integers(0, 9), min_size=1, max_size=7))
    return costs, draw(st.integers(1, len(costs)))


@exercise("22.4", "balanced stages", points=2, rebuilds=["minigrad.dist.partitioning.balance"])
@given(chain=chains())
def check_cut(answer, chain):
    costs, stages = chain
    found = answer.cut(list(costs), stages)
    require(isinstance(found, list | tuple), f"cut returns a list of numbers, and yours returns {found!r}")

    def dearest(lengths):
        ends = list(itertools.accumulate(lengths, initial=0))
        return max(sum(costs[a:b]) for a, b in itertools.pairwise(ends))

    what = f"layers that cost {costs} in {stages} stages: yours has {list(found)} layers"
    require(
        len(found) == stages and sum(found) == len(costs) and min(found) >= 1,
        f"{what}; give {stages} numbers of at least 1 that add up to {len(costs)}",
    )
    places = itertools.combinations(range(1, len(costs)), stages - 1)
    ways = [[b - a for a, b in itertools.pairwise([0, *at, len(costs)])] for at in places]
    best = min(ways, key=dearest)
    require(
        dearest(found) == dearest(best),
        f"{what}, and the dearest stage costs {dearest(found)}; with {best} it is {dearest(best)}",
    )


@exercise("22.4", "balanced stages", points=0)
def check_that_it_is_fast(answer):
    costs = [(7 * k) % 11 for k in range(24)]
    started = time.process_time()
    answer.cut(costs, 12)
    seconds = time.process_time() - started
    require(
        seconds < 1,
        f"24 layers in 12 stages took {seconds:.1f} seconds; do not try all 1,352,078 ways: find the best "
        "cut of the same layers into as many stages only once",
    )


@exercise("22.5", "stashed weights", points=3, rebuilds=["minigrad.dist.weight_versions.WeightVersions"])
@few(0.5)
@given(ranks=st.integers(1, 4), microbatches=st.integers(1, 8), seed=st.integers(0, 9))
def check_stash(answer, ranks, microbatches, seed):
    random = np.random.default_rng(seed)
    inputs, targets = random.normal(size=(2, microbatches)).round(2).tolist()
    weights, rate = random.uniform(0.5, 1.5, size=ranks).round(2).tolist(), 0.1
    stages = [answer.Stage(weight, rate) for weight in weights]
    made, seen = {}, {}
    for span in sorted(simulate(make("1f1b", ranks, microbatches)).spans, key=lambda span: span.stop):
        s, j, kind = span.action.stage, span.action.microbatch, span.action.kind.value
        what, stage = f"stage {s} of {ranks}, microbatch {j} of {microbatches}", stages[s]
        newest = stage.weight
        if kind == "F":
            x = inputs[j] if s == 0 else made[s - 1, "F", j]
            made[s, "F", j], seen[s, j] = stage.forward(j, x), (newest, x)
            require_close(made[s, "F", j], newest * x, f"{what}: forward of {x:.6g} with weight {newest:.6g}")
        else:
            last = s == ranks - 1
            cotangent = made[s, "F", j] - targets[j] if last else made[s + 1, "B", j]
            made[s, "B", j], (weight, x) = stage.backward(j, cotangent), seen[s, j]
            what += (
                f": its forward took x = {x:.6g} with weight {weight:.6g}; now the weight is {newest:.6g}, "
            )
            what += f"and backward gets {cotangent:.6g}"
            require_close(made[s, "B", j], weight * cotangent, f"{what}: what it returns, the cotangent of x")
            require_close(stage.weight, newest - rate * cotangent * x, f"{what}: the weight after it")
        held = stage.stash
        require(isinstance(held, dict), f"self.stash is a dict by microbatch; yours is {held!r}")
        under_way = {number for at, number in seen if at == s and (s, "B", number) not in made}
        require(
            set(held) == under_way,
            f"after {kind}{j} on stage {s}, self.stash holds {list(held)}; the microbatches between their "
            f"forward and their backward are {sorted(under_way)}",
        )


def enough_for(ranks):
    """Numbers of microbatches with which a zero-bubble schedule fills its pipeline."""
    return st.integers(2 * ranks, 2 * ranks + 5)


@exercise("22.6", "zero bubble", points=3, rebuilds=CATALOGUE)
@few(0.5)
@given(shape=st.integers(1, 5).flatmap(lambda ranks: st.tuples(st.just(ranks), enough_for(ranks))))
def check_zero_bubble(answer, shape):
    ranks, microbatches = shape
    rows = answer.zero_bubble(ranks, microbatches)
    schedule = proved(rows, ranks, microbatches)
    what = f"{count(ranks, 'rank')}, M = {microbatches}"
    whole = sorted({word for row in rows for word in row if word.startswith("B")})
    require(not whole, f"{what}: {', '.join(whole[:3])} are whole backwards; split them into I and W")
    require_memory(what, schedule, [ranks] * ranks)
    run = simulate(schedule, Costs(1, 2, 1))
    require(
        max(run.idle) <= ranks - 1,
        f"{what}: your ranks are idle for {[round(i) for i in run.idle]}, and {ranks - 1} is possible "
        f"(a dot is an idle rank)\n{grid(run)}",
    )
