"""Memory: offload.

Paper: Ren et al. 2021, ZeRO-Offload: Democratizing Billion-Scale Model Training
Builds: the best cut of a data-flow graph, Adam on the host, a delayed update and its limit, a state on disk
Source: dist/offload.py, dist/zero.py, dist/planner.py
Ranks: 4
Minutes: 75
"""

# %% [markdown]
# # 21. Memory: offload
#
# A GPU of 32 GB sits in a host with 256 GB of memory, and a disk of terabytes. Sharding needs more GPUs. Offloading does not: what is needed only once a step can wait on the
# host. But the way to the host is slow, and so is its processor. Which things should go, what does it cost, and must the GPU wait?
#
# With `minigrad run -n 4 --device gpu 21` each rank trains on a GPU of its own: losses agree with the CPU's to $10^{-9}$. Plain NumPy, and the last section, stay on the host.

# %%
import hashlib
import itertools
import math
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.memory import Meter
from minigrad.dist.planner import Setup, largest_model, model_states, offloaded
from minigrad.draw import line_chart
from minigrad.draw_bars import bar_chart
from minigrad.lessons import figure, kit, on_ranks, quick, say

here = kit.device(dist.world())  # "cpu", or this rank's GPU

# %% [markdown]
# ## Where to cut
#
# The paper, section 3, draws a training step as a graph: nodes keep bytes or compute, and edges carry bytes from one to the other. With $M$ parameters in mixed precision there
# are parameters `p16` and gradients `g16` of $2M$ bytes each, and a master copy `p32` and Adam's moments `m` and `v` of $4M$ each. Two nodes compute: `passes`, forward and
# backward, which read `p16` twice and write `g16`, and Adam's `update`, which reads `g16`, reads and writes `p32`, `m` and `v`, and writes `p16`. The passes stay on the GPU, for
# their work grows with the batch. Each of the other six may go to the host. An edge between the two costs its bytes, whichever way they go. There are $2^6 - 1 = 63$ ways to move
# something; we try all.

# %%
# Both in units of M: the bytes that a node keeps, and those that pass along an edge in one step.
sizes = {"passes": 0, "p16": 2, "g16": 2, "update": 0, "p32": 4, "m": 4, "v": 4}
edges = {("p16", "passes"): 4, ("passes", "g16"): 2, ("g16", "update"): 2, ("update", "p16"): 2}
edges |= {pair: 4 for state in ("p32", "m", "v") for pair in ((state, "update"), ("update", state))}
placements = []
for there in itertools.product((False, True), repeat=6):
    host = {name for name, gone in zip(list(sizes)[1:], there, strict=True) if gone}
    moved = sum(size for (a, b), size in edges.items() if (a in host) != (b in host))
    placements.append((moved, sum(size for name, size in sizes.items() if name not in host), host))
least = min(moved for moved, _, host in placements if host)
best = [(left, sorted(host)) for moved, left, host in placements if host and moved == least]
say(f"{len(placements) - 1} ways to move something; the least traffic is {least}M bytes a step, by:")
for left, host in sorted(best, reverse=True):
    say(f"  {left:2}M left on the device; on the host: {', '.join(host)}")
assert (least, sorted(left for left, _ in best)) == (4, [2, 4, 14])

# %% [markdown]
# Three cuts move $4M$ bytes, and nothing moves less. They and the uncut graph, where $16M$ stay, are the paper's Table 1. Its last row prints $4M$ for $2M$, a slip: it claims a
# reduction of 8 times. ZeRO-Offload takes that cut: parameters stay on the GPU, gradients, states and update go to the host. Gradients go down and new parameters up, $2M$ bytes
# each. An older method, L2L, moves whole layers in and out: by the paper $28M$, seven times as much. Below, `offloaded` counts what each side then holds.

# %%
setup = Setup(10_000_000_000)
choices = {"all on the GPU": (False, False), "gradients on the host": (True, False)}
choices |= {"optimizer on the host": (False, True), "both on the host": (True, True)}
bars = {name: offloaded(setup, gradients=g, update=u)["device"] for name, (g, u) in choices.items()}
held = [sum(bar.values()) / setup.parameters for bar in bars.values()]
say("Table 1, bytes a parameter on the GPU: " + ", ".join(f"{each:g}" for each in held))
assert held == [16, 14, 4, 2]
title, levels = "10 billion parameters: what stays on the GPU", {"a 32 GB device": 32e9}
frames = [bar_chart(dict(list(bars.items())[: k + 1]), title=title, levels=levels) for k in range(4)]
figure("table_1", frames, "ZeRO-Offload's Table 1, row by row.", labels=list(bars))
states = [sum(model_states(Setup(int(b * 1e9)), 0).values()) / 1e9 for b in (8, 11, 17.2)]
say("the paper's models of 8, 11 and 17.2 billion parameters: " + ", ".join(f"{s:g} GB" for s in states))
assert states == [128, 176, 275.2]  # the paper prints 284 for the last: 16 times 17.2 is 275.2
assert largest_model(setup, 0, 32e9) == 2_000_000_000

# %% [markdown]
# 16 bytes a parameter limit a 32 GB device to 2 billion parameters, and 2 bytes to 16 billion. Activations need room too: the paper reaches 1.4 and 13 billion.
#
# ## The same numbers
#
# Where a state lives must not change what is learned. `dist.ZeRO(..., offload="host")` keeps states on the host, and `offload=Path(...)` in a memory-mapped file: an array whose
# bytes lie on disk (`np.memmap` in NumPy), of which the system brings into memory what is touched. We train a GPT on four ranks, at lesson 20's stage 1: each keeps a share of
# the states. A `Meter` books every array with its place. (Without a GPU, device and host are both `cpu`, so you will see a difference only for the file.)

# %%
CONFIG = nn.GPTConfig(vocabulary=64, context=16, layers=2, heads=4, width=48)


def train(world, where):
    """Train a GPT for three steps: its last loss, a fingerprint of it, and the bytes held by kind and place."""
    meter, model = Meter(), nn.GPT(CONFIG, seed=0, dtype="float64", device=kit.device(world))
    optimizer = nn.optim.AdamW(model.parameters(), lr=1e-3)
    offload = Path(tempfile.gettempdir()) if where == "file" else where
    # "ordered" adds up in the order of the ranks, so that sums have the same bits every time.
    zero = dist.ZeRO(model, optimizer, world, stage=1, algorithm="ordered", offload=offload, meter=meter)
    tokens = np.random.default_rng(0).integers(0, 64, size=(3, 8, 17))
    mine = slice(world.rank * 8 // world.size, (world.rank + 1) * 8 // world.size)
    for batch in tokens:
        loss = model.loss(batch[mine, :-1], batch[mine, 1:], reduction="sum") / (8 * 16)
        loss.backward()
        zero.step()
    values = b"".join(parameter.numpy().tobytes() for parameter in model.parameters())
    books = {place: own["current"] for place, own in meter.report()["places"].items()}
    kinds = ("parameters", "gradients", "optimizer")
    held = {f"{kind} ({place})": own[kind] for place, own in books.items() for kind in kinds if own.get(kind)}
    return loss.item(), hashlib.sha256(values).hexdigest()[:12], held


runs = {str(where): on_ranks(train, where) for where in (None, "host", "file")}
losses = {where: sum(loss for loss, _, _ in ranks) for where, ranks in runs.items()}
for where, ranks in runs.items():
    states = [f"{name} {size:,} bytes" for name, size in ranks[0][2].items() if "optimizer" in name]
    say(f"offload {where:4}: loss {losses[where]:.9f}, fingerprint {ranks[0][1]}, {states[0]}")
assert max(losses.values()) - min(losses.values()) < 1e-9
alike = runs if here == "cpu" else ("host", "file")  # a step on a GPU may differ in the last bit
assert len({of_model for where in alike for _, of_model, _ in runs[where]}) == 1
assert all("optimizer (disk)" in held and "optimizer (cpu)" not in held for _, _, held in runs["file"])
bars = {f"offload={where}": ranks[0][2] for where, ranks in runs.items()}
picture = bar_chart(bars, title=f"Measured: what rank 0 of {len(runs['file'])} holds at stage 1, and where")
figure("measured", picture, "Counted from the arrays: with a file, no state fills memory.")

# %% [markdown]
# ## Not waiting: the delayed update
#
# Down, update, up: all the while the GPU idles. *Delayed parameter update* lets the host work on step $t$ while the GPU computes step $t + 1$, with the parameters from before.
# So each gradient is applied one step late, to parameters that have moved on. The paper begins with undelayed steps, while gradients change fast, and sees no loss of accuracy.
#
# How late is too late? Take $f(x) = x^2 / 2$, whose gradient is $x$, with rate $a$ and delay $\tau$: $x_{t+1} = x_t - a\,x_{t-\tau}$. Sequences $x_t = z^t$ solve it if
# $z^{\tau+1} = z^\tau - a$. They die out while every such $z$ is inside the unit circle. With growing $a$ a pair of them comes to its edge, $z = e^{\pm i\theta}$. There
# $a = z^\tau (1 - z)$: its length is $2 \sin \frac{\theta}{2}$, and it is a positive number when $\theta = \frac{\pi}{2\tau + 1}$. So $x$ shrinks if and only if
#
# $$0 < a < 2 \sin \frac{\pi}{2 (2\tau + 1)}$$
#
# That is 2 without delay, and 1 with a delay of one: *half*. (The paper has no such limit.) We search for it by simulation.


# %%
def limit(delay, steps):
    """The largest rate at which |x| does not grow from 1 over so many steps, found by halving."""
    low, high = 0.0, 2.5
    for _ in range(14):
        x, middle = [1.0] * (delay + 1), (low + high) / 2
        while len(x) < steps and abs(x[-1]) < 1e9:
            x.append(x[-1] - middle * x[-1 - delay])
        grows = max(map(abs, x[-delay - 2 :])) > 1.2  # with room for a swing that does neither
        low, high = (low, middle) if grows else (middle, high)
    return low


tenths = [k / 10 for k in range(51)]
curve = [2 * math.sin(math.pi / (2 * (2 * delay + 1))) for delay in tenths]
found, exact = [limit(delay, 1000 if quick() else 5000) for delay in range(6)], curve[::10]
for how, rates in (("by simulation: ", found), ("by the formula:", exact)):
    say(f"largest rate {how} " + ", ".join(f"{rate:.3f}" for rate in rates))
assert all(abs(a - b) < 5e-3 for a, b in zip(found, exact, strict=True))
lines = {"2 sin(π / 2(2τ+1))": (tenths, curve), "simulated at whole τ": (list(range(6)), found)}
chart = line_chart(lines, title="The largest stable rate", x_label="delay τ (steps)", y_label="rate a")
figure("limits", chart, "They meet at whole delays. The first step of delay costs half of the rate.")


def train_delayed(rate, delayed, steps=60):
    """x after each step, by the library: f(x) = x² / 2 on one rank, late from step `delayed` on (0: never)."""
    model = nn.Linear(1, 1, bias=False, dtype="float64")
    model.weight.assign(np.ones((1, 1)))
    model.to(here)
    optimizer, path = nn.optim.SGD(model.parameters(), lr=rate), []
    zero = dist.ZeRO(model, optimizer, dist.SingleWorld(), offload="host", delayed=delayed)
    for _ in range(steps):
        path.append(float(model.weight.numpy()[0, 0]))
        (mg.sum(mg.square(zero(mg.tensor([[1.0]], dtype="float64", device=here)))) / 2).backward()
        zero.step()
    return path


paths = {f"a = {rate}": train_delayed(rate, 1) for rate in (0.25, 0.95, 1.05)}
assert [max(map(abs, path[-12:])) < 1 for path in paths.values()] == [True, True, False]
assert max(map(abs, train_delayed(1.05, 0)[-12:])) < 1e-9
lines = {name: (list(range(60)), path) for name, path in paths.items()}
chart = line_chart(lines, title="x by the library, its update one step late", x_label="step", y_label="x")
figure("paths", chart, "At 0.95 it swings and shrinks, at 1.05 it swings and grows; undelayed it would not.")

# %% [markdown]
# The same limit rules larger problems: for each direction $a$ is the rate times its curvature, and the steepest decides. Fit the digits by least squares: $X$ has $n$ images as
# rows, and the largest curvature is the largest eigenvalue $\lambda$ of $X^T X / n$. So the limit is $2 / \lambda$ without delay, and $1 / \lambda$ with it.

# %%
images, labels = load_digits(return_X_y=True)
images, targets = images / 16.0, np.eye(10)[labels]
curvature = float(np.linalg.eigvalsh(images.T @ images / len(images)).max())


def fit(share, delay, steps=200):
    """The mean squared error after descent with rate `share` / curvature."""
    weights = [np.zeros((64, 10))] * (delay + 1)
    for _ in range(steps):
        error = images @ weights[-1 - delay] - targets
        weights.append(weights[-1] - share / curvature * (images.T @ error) / len(images))
    return float(np.mean((images @ weights[-1] - targets) ** 2))


for share in (0.5, 0.9, 1.5):
    errors = ["diverged" if (error := fit(share, delay)) > 1e3 else f"{error:.4f}" for delay in (0, 1)]
    say(f"rate {share} / λ: error {errors[0]} without delay, {errors[1]} with")
assert fit(1.5, 0) < 0.1 < 1e3 < fit(1.5, 1)

# %% [markdown]
# ## A fast step on the host
#
# Adam does little with much data, so it runs as fast as memory delivers. Written as NumPy formulas it makes a temporary array for each operation, and each travels to memory and
# back. Working in place, on blocks that fit the cache, saves that; minigrad's Adam does so. The paper's CPU-Adam, with vector instructions, is 5 to 7 times faster than PyTorch's
# was: 0.22 s against 1.39 s for a billion parameters.

# %%
size = 1_000_000 if quick() else 8_000_000
p, g, m, v = (np.full(size, 0.1, dtype=np.float32) for _ in range(4))
parameter = nn.Parameter(mg.tensor(p.copy()))
optimizer, seconds = nn.optim.Adam([parameter], lr=1e-3), []
for _ in range(2):  # the first time memory is new
    parameter.grad = mg.tensor(g)
    began = time.perf_counter()
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    p = p - 0.001 * (m / 0.1) / (np.sqrt(v / 0.001) + 1e-8)
    middle = time.perf_counter()
    optimizer.step()
    seconds = [middle - began, time.perf_counter() - middle]
by_formulas, in_blocks = (f"{1e9 * taken / size:.2f} s" for taken in seconds)
say(f"Adam for a billion parameters: {by_formulas} by formulas, {in_blocks} in blocks")

# %% [markdown]
# ## Exercises
#
# 1. `best_placement`: what goes to the host.
# 2. `OffloadedAdam`: gradients down, update, parameters up.
# 3. `Delayed`: an update that comes one step late, and is not lost at the end.
# 4. `growth` and `largest_rate`: how much delay a rate allows.
# 5. `DiskMomentum`: a state in a file, block by block.
#
# ## To remember
#
# - Cut where little flows: $4M$ bytes a step is the least, and $2M$ bytes stay on the GPU.
# - A delay of one step halves the largest stable rate; small rates do not notice.
#
# | | the paper says | we measured |
# |---|---|---|
# | least traffic | $4M$ | the same, over all 63 placements |
# | Table 1 | $16M$, $14M$, $4M$, $4M$ with a reduction of 8 | $16M$, $14M$, $4M$, $2M$: the last row is a misprint |
# | states of 17.2 billion parameters | 284 GB | 275.2 GB: 16 bytes each |
# | delayed update | no loss of accuracy | none below $1 / \lambda$; between $1 / \lambda$ and $2 / \lambda$ only the delayed one diverges |
# | CPU-Adam | 5 to 7 times faster | see above: what blocks alone bring in NumPy |
# | 13 billion parameters on one 32 GB GPU, 40 instead of 30 TFLOPS | | not here: no GPU is asked for |
