"""Pipelines.

Paper: Huang et al. 2019, GPipe; Narayanan et al. 2019, PipeDream; Narayanan et al. 2021, Efficient Large-Scale
    Language Model Training on GPU Clusters (interleaving); Qi et al. 2023, Zero Bubble Pipeline Parallelism
Builds: GPipe's and 1F1B's schedules, a clock for any schedule, balanced stages, stashed weights, a zero bubble
Source: dist/schedules.py, dist/schedule_check.py, dist/timing.py, dist/executor.py, dist/weight_versions.py,
    dist/partitioning.py
Ranks: 4
Minutes: 90
"""

# %% [markdown]
# # 22. Pipelines
#
# Cut a deep net into $K$ *stages*, runs of layers, and give each rank one. Now no rank holds the whole net, and only what passes between stages travels. But stage 1 needs what
# stage 0 made, so with one batch a single rank works at a time. The cure is as old as factories: cut the batch into $M$ *microbatches*, and keep several under way. Who does what
# when is a *schedule*. In minigrad a schedule is text: `F2` is the forward of microbatch 2, `B2` its backward, one line a rank. From that text it is checked, timed, drawn and
# run: on threads, on processes, or by `minigrad run -n 4 --device gpu 22` on GPUs, where losses agree with the CPU's to $10^{-9}$. (Clocks and plans stay on the host.)

# %%
import numpy as np
from sklearn.datasets import load_digits

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.partitioning import Layer, Level, balance, pipedream
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.schedule import parse
from minigrad.dist.schedule_check import check
from minigrad.dist.schedule_grid import boxes, grid
from minigrad.dist.schedules import make
from minigrad.dist.timing import Costs, peak_activations, simulate
from minigrad.draw import line_chart
from minigrad.draw_schedule import Box, draw_schedule
from minigrad.errors import UsageError
from minigrad.lessons import figure, kit, on_ranks, say

say(grid(simulate(parse("F0 F1 F2 B2 B1 B0\nF0 F1 F2 B2 B1 B0"), Costs(forward=1, backward=2))))
try:
    check(parse("F0 B0 F1 B1\nF1 B1 F0 B0", name="of a mistake"))
except UsageError as error:
    say(error)

# %% [markdown]
# The first picture is a clock: a column is one unit of time, `--` an action that goes on, and a dot an idle rank. In the second, `B0@0` is `B0` on stage 0, counted from 0, and
# `> <` marks where each rank is stuck. Rank 0 wants microbatch 0 back before it goes on, rank 1 waits for microbatch 1: for ever. The check found out before anything ran.
#
# ## GPipe: the bubble
#
# GPipe runs all forwards, then all backwards, and then takes one step. Gradients are those of the whole batch, so nothing changes but the time. Let `F` take 1 and `B` take 2:


# %%
def until(timeline, stop):
    """The boxes of a timeline up to a moment; an empty box at the end keeps the time axis."""
    end, rows = timeline.makespan, [[b for b in row if b.start < stop] for row in boxes(timeline)]
    rows = [[Box(b.start, min(b.stop, stop), b.text, b.kind) for b in row] for row in rows]
    return [[*row, Box(end, end, "", "forward")] for row in rows]


gpipe = simulate(make("gpipe", 4, 8), Costs(1, 2))
ticks, title = range(3, 34, 3), "GPipe: 4 stages, 8 microbatches"
frames = [draw_schedule({"": until(gpipe, tick)}, title=title) for tick in ticks]
caption = "All forwards, all backwards. White is idle: the bubble."
figure("gpipe", frames, caption, labels=[f"time {tick}" for tick in ticks])

# %% [markdown]
# Every rank works for $M$ forwards and backwards and waits for $K - 1$. So the share of all time that is lost, the *bubble*, is $\frac{K - 1}{M + K - 1}$, small once $M \ge 4K$.
# Try it on a clock. ($v$ comes later. "Holds": of how many microbatches a rank keeps activations at most. Some papers divide by the time without bubble.)


# %%
def timed(name, ranks, microbatches, virtual=1):
    """Run a schedule on a clock: a forward takes 1, a backward 2, of which 1 is for the weights."""
    run = simulate(make(name, ranks, microbatches, virtual=virtual), Costs(1, 2, 1))
    shape, held = f"K = {ranks}, M = {microbatches:2}, v = {virtual}", peak_activations(run.schedule)[0]
    taken = f"time {run.makespan:6g}, idle {run.idle[0]:4g}, bubble {run.bubble_fraction:.4f}"
    say(f"{name:11} {shape}: {taken}, rank 0 holds {held:g}")
    return run


for (stages, microbatches), makespan in {(4, 8): 33, (4, 4): 21, (8, 32): 117, (2, 6): 21}.items():
    for name in ("gpipe", "1f1b"):
        run = timed(name, stages, microbatches)
        assert run.makespan == makespan
        assert run.bubble_fraction == (stages - 1) / (microbatches + stages - 1)

# %% [markdown]
# ## 1F1B: the memory
#
# A microbatch's activations are kept from its forward to its backward. In GPipe all $M$ wait at once. *One forward, one backward* starts each backward as soon as it can: stage
# $s$, counted from 0, is then at most $K - s$ microbatches ahead. The time is the same.

# %%
runs = [simulate(make(name, 4, 8), Costs(1, 2)) for name in ("naive", "gpipe", "1f1b")]
frames = {run.schedule.name: draw_schedule({"": boxes(run)}, title=run.schedule.name) for run in runs}
figure("schedules", list(frames.values()), "One microbatch at a time, GPipe, 1F1B.", labels=list(frames))
for run, expected in zip(runs, ([1] * 4, [8] * 4, [4, 3, 2, 1]), strict=True):
    held = [int(count) for count in peak_activations(run.schedule)]
    say(f"activations held by the ranks, {run.schedule.name}: {held}")
    assert held == expected

# %% [markdown]
# GPipe's own cure for memory is lesson 19's: keep only what enters a stage, and compute the rest again. For a batch of $N = 128$ samples, $L = 100$ layers, $K = 4$ and $M = 32$
# that is $N + \frac{L}{K} \frac{N}{M} = 228$ activations instead of $N L = 12800$.
#
# ## The same numbers
#
# Now we run them. Eight layers learn the digits for three steps, in stages on four ranks, by each schedule. One rank with the whole net is the measure. (`chunks` is the number
# of microbatches. Each step sees other images, so three of them need not lower the loss.) The next two sections explain the last two schedules.

# %%
images, labels = load_digits(return_X_y=True)
RANKS = kit.rank_count(4)


def train(world, schedule, virtual=1, steps=3):
    """Train a net in stages by a schedule: the losses, and sums of squares of its weights."""
    mg.random.manual_seed(0)
    layers = [nn.Linear(n, m, dtype="float64") for n, m in ((64, 32), *[(32, 32)] * 6, (32, 10))]
    net = nn.Sequential(*(nn.Sequential(layer, nn.Tanh()) for layer in layers[:-1]), layers[-1])
    place = kit.device(dist.world())  # "cpu", or this rank's GPU, also where it trains alone
    how = {"chunks": 2 * RANKS, "schedule": schedule, "loss": nn.functional.cross_entropy, "world": world}
    pipeline = Pipeline(net.to(place), balance=balance([1] * 8, world.size * virtual), **how)
    optimizer, losses = nn.optim.AdamW(pipeline.parameters(), lr=1e-2), []
    for step in range(steps):
        rows = slice(60 * step, 60 * step + 60)
        x, y = mg.tensor(images[rows] / 16, device=place), mg.tensor(labels[rows], device=place)
        losses.append(float(pipeline.step(x, y)))
        optimizer.step()
        optimizer.zero_grad()
    return losses, {name: float((p.numpy() ** 2).sum()) for name, p in pipeline.named_parameters()}


alone, weights = train(dist.SingleWorld(), "naive")
say("losses on one rank: " + ", ".join(f"{loss:.6f}" for loss in alone))
for schedule, virtual in (("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("zb-h1", 1)):
    found = on_ranks(train, schedule, virtual, ranks=4)
    errors = [abs(a - b) for losses, _ in found for a, b in zip(losses, alone, strict=True)]
    errors += [abs(value - weights[name]) for _, own in found for name, value in own.items()]
    say(f"{schedule:11} in stages: losses and weights differ by less than 1e-10: {max(errors) < 1e-10}")
    assert max(errors) < 1e-10

# %% [markdown]
# ## Interleaving: smaller stages
#
# Give each rank $v$ smaller stages instead of one: rank $s$ has the stages $s$, $K + s$, $2K + s$, … A microbatch then passes every rank $v$ times, and the pipeline fills in a
# $v$-th of the time. With $t_F$ and $t_B$ for the forward and backward of all that a rank has, a rank waits for $(K - 1)(t_F + t_B) / v$ instead of $(K - 1)(t_F + t_B)$. The
# price: $v$ times the messages, and more activations. (Those of one small stage count $1/v$.)

# %%
for (k, m, v), makespan in {(4, 8, 2): 28.5, (4, 8, 4): 26.25, (8, 32, 2): 106.5, (2, 4, 2): 13.5}.items():
    run = timed("interleaved", k, m, v)
    assert (run.makespan, run.idle[0]) == (makespan, 3 * (k - 1) / v)
assert peak_activations(make("interleaved", 4, 8, virtual=2)) == [5.5, 4.5, 3.5, 2.5]

# %% [markdown]
# ## Zero bubble: split the backward
#
# A backward does two things: it finds the gradient of its input, which the stage before waits for, and that of its weights, for which nobody waits. Call them `I` and `W`.
# Whoever is idle can do a `W`. With $F$, $I$ and $W$ of length 1, ZB-H1 leaves $K - 1$ idle where 1F1B leaves $3(K - 1)$, with the same memory. ZB-H2 holds nearly twice as much,
# and no rank waits between its first and last action: what the clock still calls idle lies before and after, where other batches can be.

# %%
for (k, m), makespan in {(4, 8): 27, (4, 12): 39, (8, 24): 79}.items():
    run = timed("zb-h1", k, m)
    assert (run.makespan, run.idle[0], max(peak_activations(run.schedule))) == (makespan, k - 1, k)
assert max(timed("zb-h2", 4, 8).gaps) == 0  # between the first and the last action of a rank
ways = {"1f1b": 1, "interleaved": 2, "zb-h1": 1, "zb-h2": 1}
runs = {name: simulate(make(name, 4, 8, virtual=v), Costs(1, 2, 1)) for name, v in ways.items()}
picture = draw_schedule({name: boxes(run) for name, run in runs.items()}, title="Four ways through one batch")
figure("bubbles", picture, "Less white inside. Pale: a rank's second stage.")

# %% [markdown]
# ## PipeDream: no flush
#
# All these wait for the last backward before they take a step: a *flush*. PipeDream never waits. Every backward is followed by an update, so a microbatch may meet newer weights
# on its way back than it met on its way out, and its gradient would belong to no function at all. *Weight stashing* keeps the old weights until the microbatch is through. With
# $n$ stages, $w_i$ the weights of the $i$-th counted from 1, $\eta$ the rate (the paper's $\nu$) and $t$ counting updates:
#
# $$w^{(t+1)} = w^{(t)} - \eta \nabla f(w_1^{(t-n+1)}, w_2^{(t-n+2)}, \ldots, w_n^{(t)})$$
#
# It is not SGD: the first stage's weights are $n - 1$ updates old. But it is a rule, and we can hold the library to it.

# %%
inputs, targets = np.random.default_rng(0).normal(size=(2, 12, 1))


def stashed(world, rate=0.05):
    """Train x to w_n ... w_1 x by PipeDream: each rank's weight in the end, and versions that it kept."""
    net = nn.Sequential(*(nn.Linear(1, 1, bias=False, dtype="float64") for _ in range(world.size)))
    for weight in net.parameters():
        weight.assign([[1.25]])
    place = kit.device(world)
    how = {"loss": nn.functional.mse_loss, "optimizer": lambda own: nn.optim.SGD(own, lr=rate)}
    pipeline = Pipeline(net.to(place), chunks=12, schedule="pipedream", world=world, **how)
    pipeline.step(mg.tensor(inputs, device=place), mg.tensor(targets, device=place))
    (versions,) = pipeline.weight_versions.values()
    return next(pipeline.parameters()).item(), versions.most_held


def by_rule(delays, rate=0.05):
    """The same by hand, where stage s uses weights that are delays[s] updates old: all its weights."""
    versions = [[1.25] for _ in delays]
    for j, (x, target) in enumerate(zip(inputs.flat, targets.flat, strict=True)):
        used = [own[max(0, j - delay)] for own, delay in zip(versions, delays, strict=True)]
        for s, own in enumerate(versions):
            gradient = 2 * (np.prod(used) * x - target) * np.prod(used) / used[s] * x
            own.append(own[-1] - rate * gradient)
    return versions


found = on_ranks(stashed, ranks=4)
rule, sgd = by_rule(range(RANKS - 1, -1, -1)), by_rule([0] * RANKS)
for name, ends in (("PipeDream", [end for end, _ in found]), ("the rule", rule), ("plain SGD", sgd)):
    say(f"weights by {name:10}", ", ".join(f"{np.ravel(end)[-1]:.8f}" for end in ends))
say(f"versions kept by the ranks: {[kept for _, kept in found]}")
assert max(abs(end - own[-1]) for (end, _), own in zip(found, rule, strict=True)) < 1e-12
assert [kept for _, kept in found] == [RANKS - s for s in range(RANKS)]
lines = {"stashing": (list(range(13)), rule[0]), "plain SGD": (list(range(13)), sgd[0])}
chart = line_chart(lines, title="The first stage's weight", x_label="updates", y_label="weight")
figure("stashing", chart, "Old gradients take another way.")

# %% [markdown]
# ## Where to cut
#
# A pipeline is as fast as its slowest stage, so cut where the dearest stage is as cheap as can be. To try all cuts takes too long. But the best cut of the first $n$ layers into
# $k$ stages ends with some last stage, and what is before it is the best cut of fewer layers into $k - 1$: so `balance` works, and your exercise 4.
#
# PipeDream's planner also chooses how many ranks share a stage as copies. $m$ copies divide its seconds by $m$, but exchange gradients of its weights' size; a cut costs the time
# to send what crosses it. Here is a net like VGG, on links that move 4 units of size a second: convolutions that compute much, then layers with many weights. Eight machines find
# "7-1": convolutions on seven copies, the rest alone, so that large weights never travel. (`(0-4)x7` is layers 0 to 4 on seven copies.)

# %%
seconds, outputs = [30, 40, 40, 40, 30, 5, 2, 1], [32, 16, 8, 4, 1, 0.2, 0.2, 0.1]
layers = [Layer(*row) for row in zip(seconds, outputs, [0.1, 0.3, 1, 5, 10, 410, 67, 16], strict=True)]
for machines, expected in ((2, 110), (4, 50), (8, 180 / 7)):
    plan = pipedream(layers, [Level(machines, 4)])
    say(f"{machines} machines: {' '.join(map(str, plan.stages))}, {plan.seconds:.4f} seconds a minibatch")
    assert abs(plan.seconds - expected) < 1e-9

# %% [markdown]
# ## Exercises
#
# 1. `gpipe` and 2. `one_forward_one_backward`: schedules of your own, checked, timed, and run.
# 3. `finish`: a clock for any schedule, which notices a deadlock.
# 4. `cut`: balanced stages.
# 5. `Stage`: weight stashing, and 6. `zero_bubble`: split backwards.
#
# ## To remember
#
# - The bubble is $(K-1)/(M+K-1)$: use many microbatches, or shorter stages, or split backwards. GPipe and 1F1B have the same; they differ in what they hold.
# - Without a flush the gradients are old: a different algorithm, not a faster one.
#
# | | the papers say | we measured |
# |---|---|---|
# | bubble of GPipe and 1F1B | $(K-1)/(M+K-1)$, idle time divided by $v$ if interleaved | the same, on a clock; training equal to one rank |
# | zero bubble | a third of 1F1B's; none with ZB-H2 | the same, if F, I and W take equally long; ZB-H2's between first and last action |
# | stashing | $n - s$ versions on stage $s$, counted from 0 | the same, counted; the rule to $10^{-12}$ |
# | GPipe's throughput on 8 TPUs, $M = 32$ | 6.3 times that of two with one microbatch | no speed here; the ideal is 6.56 |
