"""Memory: recompute.

Paper: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost; Griewank and Walther 2000, Algorithm
    799: Revolve; Gugger's ladder of what to try on one device
Builds: a gradient in segments, replayed randomness, the least work for a given memory, and a plan that uses it
Source: minigrad/checkpoint.py, minigrad/checkpoint_sequence.py, minigrad/checkpoint_schedule.py
Ranks: 1
Minutes: 75
"""

# %% [markdown]
# # 19. Memory: recompute
#
# The backward walk needs what the forward pass computed: the rule of $\tanh$ needs its output, the rule of a product needs both
# factors. So a net of $n$ layers holds $n$ activations until the walk comes by. For deep nets and long sequences they are the largest
# thing in memory, larger than the parameters. This lesson trades them for time.
#
# `minigrad run --device gpu 19` runs it on a GPU: losses agree with the CPU's to $10^{-5}$ in float32, and bytes differ where a kernel of the GPU keeps something else.
# What is counted on arrays without values is the same everywhere.

# %%
import math

import numpy as np

import minigrad as mg
from minigrad import dist, nn
from minigrad.checkpoint_schedule import fewest_steps
from minigrad.dist.memory import Meter
from minigrad.draw import line_chart
from minigrad.draw_bars import bar_chart
from minigrad.lessons import figure, kit, say

here = kit.device(dist.world())  # "cpu", or this rank's GPU

# %% [markdown]
# ## Forget, and compute again
#
# Cut the $n$ layers into $k$ segments. Going forward, keep only what enters each segment, $k$ states. When the walk arrives at a segment, run
# it forward once more from its kept state, which takes $n / k$ states for a while, and walk back through it. Held at one time:
#
# $$k + \frac{n}{k}, \qquad \text{least at } k = \sqrt{n}, \qquad \text{where it is } 2 \sqrt{n}$$
#
# A hundred layers need 20 states instead of 100. The price is one more forward pass: $F + F + 2F$ instead of $F + 2F$, a third more. We
# count both on arrays without values, over 64 equal layers.

# %%
LAYERS, WIDTH, BATCH = 64, 128, 64


def loss(weights, x, segments):
    """A chain of layers in `segments` checkpointed parts; 0 for no checkpoints, a name for a policy."""
    layers = [lambda x, w=w: mg.tanh(x @ w) for w in weights]
    if segments == 0:
        for layer in layers:
            x = layer(x)
        return mg.sum(x)
    if segments == "sqrt":
        return mg.sum(mg.checkpoint_sequence(layers, x, policy="sqrt"))
    size = -(-LAYERS // segments)
    for first in range(0, LAYERS, size):

        def segment(x, *weights):
            for w in weights:
                x = mg.tanh(x @ w)
            return x

        x = mg.checkpoint(segment, x, *weights[first : first + size])
    return mg.sum(x)


weights = [mg.zeros((WIDTH, WIDTH), device="shapes") for _ in range(LAYERS)]
x = mg.zeros((BATCH, WIDTH), device="shapes")


def measured(segments):
    """States held at the worst moment (of the size of x), and FLOPs, for one gradient."""
    cost = mg.cost(lambda w, x: mg.grad(lambda x, w: loss(w, x, segments), argnums=0)(x, w), weights, x)
    full = mg.cost(lambda w, x: mg.grad(lambda w, x: loss(w, x, segments))(w, x), weights, x)
    return cost.peak_bytes / x.data.nbytes, full.flops


states, flops = measured(0)
counts = [1, 2, 4, 8, 16, 32, 64]
found = [measured(k) for k in counts]
chart = line_chart(
    {
        "measured": ([math.log2(k) for k in counts], [held for held, _ in found]),
        "k + n / k": ([math.log2(k) for k in counts], [k + LAYERS / k for k in counts]),
    },
    title="States held at the worst moment, 64 layers",
    x_label="log2 of the number of segments",
    y_label="states",
    horizontal_lines={"no checkpoints": states},
)
figure("segments", chart, "Least where the number of segments is the root of the number of layers.")
say(
    f"no checkpoints: {states:g} states; 8 segments: {found[3][0]:g} states, {found[3][1] / flops:.3f} times the FLOPs"
)
assert min(found)[0] == found[3][0] <= 8 + 8 + 3
assert abs(found[3][1] / flops - 4 / 3) < 0.01

# %% [markdown]
# ## The same numbers again
#
# Recomputing is only right if it computes the same. A dropout mask drawn anew would give the gradient of another net. So minigrad's random
# numbers are functions of (seed, step, layer, sample, position), and a second run finds the same ones. Other state must not move twice
# either: the running averages of a batch norm are updated in the first run only. With that, gradients are equal to the last bit.

# %%
config = nn.GPTConfig(vocabulary=50, context=32, layers=3, heads=4, width=64, dropout=0.1)
model = nn.GPT(config, seed=0, device=here)
drawn = (np.random.default_rng(seed).integers(0, 50, size=(4, 32)) for seed in (1, 2))
tokens, targets = (mg.tensor(numbers, device=here) for numbers in drawn)


def gradients(wrapped):
    """All gradients of the model, with its blocks checkpointed or not, and what the graph held."""
    meter = Meter()
    for parameter in model.parameters():
        meter.track("parameters", parameter.data)
    model.zero_grad()
    with mg.random.scope(seed=0, step=1, samples=range(4)):
        x = model.wte(tokens) + model.wpe(mg.arange(32, device=here))
        for block in model.h:
            x = mg.checkpoint(block, x) if wrapped else block(x)
        logits = model.ln_f(x) @ mg.matrix_transpose(model.wte.weight)
        value = mg.cross_entropy(mg.reshape(logits, (-1, 50)), targets.reshape(-1))
    held = meter.activations(value)
    value.backward()
    return [parameter.grad.numpy().tobytes() for parameter in model.parameters()], held


plain, plain_bytes = gradients(False)
again, again_bytes = gradients(True)
say(f"gradients of a GPT with dropout, with and without checkpoints, equal to the bit: {plain == again}")
say(f"bytes held after the forward pass: {plain_bytes:,} without, {again_bytes:,} with")
assert plain == again
assert again_bytes < 0.5 * plain_bytes

# %% [markdown]
# ## The least work for a given memory
#
# What if even $2\sqrt{n}$ states are too many? With one state only, the input, every step back needs a run from the start: $n(n-1)/2$ steps more.
# Between these lies an optimum. Griewank and Walther prove that with $s$ states and every layer run at most $t$ times again, the longest chain is
# $\binom{s + t}{s}$ layers. The least number of extra forward steps for $l$ layers is
#
# $$p(l, s) = r\,l - \binom{s + r}{r - 1}, \qquad \text{where } \binom{s + r - 1}{s} < l \le \binom{s + r}{s}$$
#
# This *revolve* schedule is what `mg.checkpoint_sequence(..., policy="revolve", snapshots=s)` runs. We let it run on a chain of 100 functions that
# count their calls:

# %%
calls = 0


def counted(x):
    """One layer that counts."""
    global calls
    calls += 1
    return mg.sin(x)


snapshots, extra = [2, 3, 4, 5, 7, 10, 20, 50], []
for s in snapshots:
    calls = 0
    start = mg.tensor(0.7, device=here, requires_grad=True)
    mg.checkpoint_sequence([counted] * 100, start, policy="revolve", snapshots=s).backward()
    extra.append(calls - 100)
chart = line_chart(
    {"revolve": ([math.log2(s) for s in snapshots], [e / 100 for e in extra])},
    title="Extra forward passes for a chain of 100 layers",
    x_label="log2 of the number of kept states",
    y_label="extra forward passes",
    horizontal_lines={"√n segments": 1.0},
)
figure("revolve", chart, "Ten states cost about two extra passes; two states cost many.")
say("extra steps: " + ", ".join(f"{s} states {e}" for s, e in zip(snapshots, extra, strict=True)))
assert [fewest_steps(*sizes) for sizes in ((10, 2), (10, 3), (20, 4), (50, 5), (100, 10))] == [
    20,
    15,
    39,
    122,
    222,
]

# %% [markdown]
# ## The ladder
#
# A model does not fit. What now, on one device? Climb only as far as you must, because each rung costs more than the last:
#
# 1. a smaller batch (free, but noisier gradients),
# 2. *accumulation*: several small batches, one step (the same gradient, less parallel work),
# 3. checkpointing (a third more time),
# 4. offload (lesson 21), sharding (lesson 20), pipelines and split tensors (22, 23).
#
# Here are the first rungs, measured on our GPT: all arrays that the step makes, at its worst moment.


# %%
def peak(batch, wrapped):
    """Bytes of all arrays made in one step, at the worst moment, for a batch on shape-only arrays."""
    small = nn.GPT(nn.GPTConfig(vocabulary=256, context=256, layers=8, heads=8, width=256), device="shapes")
    sequence = mg.zeros((batch, 256), dtype="int64", device="shapes")
    places = mg.zeros((256,), dtype="int64", device="shapes")

    def step(sequence):
        x = small.wte(sequence) + small.wpe(places)
        for block in small.h:
            x = mg.checkpoint(block, x) if wrapped else block(x)
        logits = small.ln_f(x) @ mg.matrix_transpose(small.wte.weight)
        mg.cross_entropy(mg.reshape(logits, (-1, 256)), mg.reshape(sequence, (-1,))).backward()

    return mg.cost(step, sequence).peak_bytes


rungs = {
    "batch 32": peak(32, False),
    "batch 8": peak(8, False),
    "batch 4 x 8 accumulated": peak(4, False),
    "batch 32, checkpointed": peak(32, True),
    "4 x 8, checkpointed": peak(4, True),
}
picture = bar_chart(
    {name: {"arrays of one step": value} for name, value in rungs.items()},
    title="One step of a GPT (8 layers, width 256, 256 positions)",
    caption="Counted on arrays without values, gradients included, parameters not.",
)
figure("ladder", picture, "Each rung of the ladder, by the bytes it holds.")
assert rungs["batch 32, checkpointed"] < 0.4 * rungs["batch 32"]

# %% [markdown]
# ## Exercises
#
# 1. `gradient_in_segments`: keep $k$ states, compute the rest again.
# 2. `Segment`: replay the randomness.
# 3. `fewest_extra_steps`: the optimum, by a recursion of your own.
# 4. `gradient_with_snapshots`: reach that optimum.
#
# ## To remember
#
# - $\sqrt{n}$ segments: memory from $n$ to $2 \sqrt{n}$, time plus a third. It is almost always the first thing to try.
# - Recomputation must replay randomness and must not move state twice.
# - For any number of kept states there is a schedule with provably least work.
#
# | | the papers say | we measured |
# |---|---|---|
# | states, 64 layers in 8 segments | $8 + 8$ | the figure above: a few more, for the sum and the state in the making |
# | time | 4/3 of the FLOPs | 1.33 |
# | $p(100, 10)$ | 222 extra steps | the same, by counting calls |
# | "ten times larger models for 20 % more time" (a well-known README) | | not here: a third more is the ideal, and 20 % a figure of one GPU that was waiting for memory |
