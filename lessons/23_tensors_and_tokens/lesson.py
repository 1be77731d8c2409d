"""Splitting tensors and tokens.

Paper: Shoeybi et al. 2019, Megatron-LM: Training Multi-Billion Parameter Language Models Using Model
    Parallelism; Li et al. 2021, TeraPipe: Token-Level Pipeline Parallelism
Builds: column and row parallel layers, a rank's heads, a loss without logits, best slices, sliced attention
Source: dist/tensor_parallel_layers.py, dist/vocabulary_parallel.py, dist/collectives.py,
    dist/token_parallel.py, dist/partitioning_tokens.py
Ranks: 4
Minutes: 90
"""

# %% [markdown]
# # 23. Splitting tensors and tokens
#
# Data parallelism splits the batch, a pipeline splits the depth. What is left? The width: each matrix can be split, so that all ranks work on every token at once. And the
# length: a sequence can be cut into slices that follow each other through a pipeline. In both, mind what flows back: the *cotangent* of an array, the loss's derivative for it.
# With `minigrad run -n 4 --device gpu 23` each rank computes on a GPU of its own, and losses agree with the CPU's to $10^{-9}$. The exercises are plain NumPy, on the host.

# %%
import math

import numpy as np

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.collectives import all_reduce, replicate
from minigrad.dist.partitioning_tokens import pipeline_seconds, slice_tokens, terapipe_flops
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.schedule import Kind
from minigrad.dist.schedule_grid import boxes
from minigrad.dist.schedules import make
from minigrad.dist.tensor_parallel import tensor_parallel
from minigrad.dist.timing import simulate
from minigrad.dist.token_parallel import token_layers, token_loss
from minigrad.draw import line_chart
from minigrad.draw_bars import bar_chart
from minigrad.draw_schedule import draw_schedule
from minigrad.lessons import figure, kit, on_ranks, say

# %% [markdown]
# ## First columns, then rows
#
# Take a Transformer's feed-forward layer (an MLP) with the two matrices $A$ and $B$: $Z = \mathrm{GeLU}(X A)\, B$. Split $A$ into columns and $B$ into rows:
#
# $$A = [A_1, A_2], \qquad B = \begin{bmatrix} B_1 \\ B_2 \end{bmatrix}, \qquad Z = \mathrm{GeLU}(X A_1)\, B_1 + \mathrm{GeLU}(X A_2)\, B_2$$
#
# GeLU works entry by entry, so each rank can apply it to its own columns. A single sum over ranks ends it. (Split $A$ into rows instead, and a sum would be due
# *before* GeLU, for $\mathrm{GeLU}(a + b)$ is no sum.) What flows back is the mirror image. Megatron names the two ends:
#
# | | forward | backward |
# |---|---|---|
# | $f$, where $X$ enters | nothing: all ranks have it | all-reduce: every rank used $X$ in its own way |
# | $g$, where $Z$ leaves | all-reduce | nothing: all ranks have the cotangent |
#
# In minigrad these are `replicate` and `all_reduce`, functions of Tensors that know their way back.

# %%
random = np.random.default_rng(0)
X, A, B = random.normal(size=(5, 8)), random.normal(size=(8, 24)), random.normal(size=(24, 8))


def layer(x, world):
    """Z, of this rank's columns and rows."""
    own = np.array_split(np.arange(24), world.size)[world.rank]
    a, b = (mg.tensor(part, device=x.device) for part in (A[:, own], B[own]))
    return all_reduce(mg.gelu(replicate(x, world) @ a) @ b, world)


def layer_and_gradient(world):
    """Z, and the gradient of the sum of its squares for X."""
    x = mg.tensor(X, device=kit.device(world))  # "cpu", or this rank's GPU
    gradient = mg.grad(lambda x: mg.sum(mg.square(layer(x, world))))(x)
    return [layer(x, world).numpy().tolist(), gradient.numpy().tolist()]


alone = np.array(layer_and_gradient(dist.SingleWorld()))
error = max(np.abs(np.array(found) / alone - 1).max() for found in on_ranks(layer_and_gradient))
say(f"an MLP on four ranks: Z and the gradient of X are right to 1e-12: {error < 1e-12}")
assert error < 1e-12

# %% [markdown]
# Attention splits as easily: each rank takes some of the heads, and the output matrix by rows. So a block needs two all-reduces forward and two backward, each of $b s h$
# numbers of $q$ bytes (batch, sequence, hidden). On a ring of $p$ ranks each one sends $2\,\frac{p-1}{p}$ times the array, so in all $8 \,\frac{p-1}{p}\, b\, s\, h\, q$ bytes.
# No layer can go on without them: tensor parallelism stays inside a machine. What do two blocks send more than one? The world calls an observer for every message:

# %%
BATCH, TIME, WIDTH, WORDS = 2, 12, 24, 96


def gpt(world, layers):
    """A whole GPT where this rank computes."""
    config = nn.GPTConfig(WORDS, TIME, layers=layers, heads=12, width=WIDTH)
    return nn.GPT(config, seed=0, dtype="float64", device=kit.device(world))


def messages(world, layers, algorithm="ring"):
    """What a rank moves in one step of a GPT, as [verb, bytes]; bytes of its parameters, by kind."""
    model, found = tensor_parallel(gpt(world, layers), world, algorithm=algorithm), []
    world.observer = lambda message: found.append([message.verb, message.bytes_sent])
    tokens = np.random.default_rng(0).integers(0, WORDS, size=(BATCH, TIME))
    model.loss(tokens, tokens).backward()
    kinds = {"wte": "words", "wpe": "places", "attn": "attention", "mlp": "feed-forward", "ln": "norms"}
    sizes = [(name, p.size) for name, p in model.named_parameters()]
    return found, {kinds[key]: 8 * sum(n for name, n in sizes if key in name) for key in kinds}


runs = {p: [dist.spawn(messages, ranks=p, arguments=(n,))[0] for n in (1, 2)] for p in (2, 3, 4)}
for p, ((one, _), (two, _)) in runs.items():
    moved = sum(size for _, size in two) - sum(size for _, size in one)
    say(f"{p} ranks: one more block takes {len(two) - len(one)} all-reduces, a rank sends {moved:,} bytes")
    assert (len(two) - len(one), moved) == (4, 8 * (p - 1) * BATCH * TIME * WIDTH * 8 // p)
bars = {"1 rank": messages(dist.SingleWorld(), 2)[1], **{f"{p} ranks": run[1][1] for p, run in runs.items()}}
picture = bar_chart(bars, title="Parameters that rank 0 holds, by kind")
figure("parameters", picture, "Counted from the arrays. Norms and places (positions) are whole everywhere.")

# %% [markdown]
# ## A loss without logits
#
# The embedding is split by words: rank $r$ looks up its own words, gives zeros for the others, and $g$ adds up. The output layer gives each rank the logits of its words.
# Gathering them would move $b s V$ numbers for a vocabulary of $V$ words. But cross-entropy needs three numbers a token: the largest logit $m$, the sum of exponentials, and
# the logit $x_t$ of the target, each combined over ranks. And backward nothing moves at all ($[j = t]$ is 1 for the target, and else 0):
#
# $$\ell = \log \sum_r \sum_{j \in r} e^{x_j - m} - (x_t - m), \qquad \frac{\partial \ell}{\partial x_j} = \frac{e^{x_j - m}}{\sum e^{x - m}} - [j = t]$$


# %%
# With "library" the observer sees each array once, as it is handed over, and not what a ring makes of it.
found, _ = dist.spawn(messages, ranks=4, arguments=(1, "library"))[0]
piece = 8 * BATCH * TIME
small = [size for _, size in found if size < piece * WIDTH]
say(f"{BATCH * TIME} tokens: the loss hands over {sum(small)} bytes; whole logits are {piece * WORDS}")
assert small == [piece, 2 * piece]


def train(world, parallel, steps=3):
    """Losses of a GPT over some steps, split by heads, columns and words, or whole."""
    model = tensor_parallel(gpt(world, 2), world) if parallel else gpt(world, 2)
    optimizer, losses = nn.optim.AdamW(model.parameters(), lr=1e-2), []
    for batch in np.random.default_rng(1).integers(0, WORDS, size=(steps, BATCH, TIME + 1)):
        optimizer.zero_grad()
        losses.append(model.loss(batch[:, :-1], batch[:, 1:]))
        losses[-1].backward()
        optimizer.step()
    return [loss.item() for loss in losses]


alone, found = train(dist.SingleWorld(), False), on_ranks(train, True)
error = max(abs(a - b) for losses in found for a, b in zip(losses, alone, strict=True))
say(", ".join(f"{x:.6f}" for x in alone), f"are the losses; on four ranks the same to 1e-10: {error < 1e-10}")
assert error < 1e-10

# %% [markdown]
# ## Slices of tokens
#
# In a causal model token 5 never looks at token 6. So the first slice of a sequence can enter stage 2 while the next is still in stage 1: a pipeline *within* one sequence, for
# when the batch is too small to make microbatches. Later slices need the keys and values of earlier ones, and backward, gradients flow from later slices into earlier keys
# and values. Forget those, and the loss still falls, on the wrong gradient.
#
# How long should slices be? If slice $i$ takes $t_i$ on each of $K$ stages, then forward the pipeline takes $T = \sum_i t_i + (K - 1) \max_i t_i$. Short slices make the maximum
# small, but waste what a device can do at once. And equal slices take longer and longer, as each token looks at all before it. So the best slices get *shorter* towards the end.
# TeraPipe finds them. Guess the maximum $m$; it is the time of some slice. Let $t(l, c)$ be the time of $l$ tokens after $c$ others, and $S_m(n)$ the least sum for the first
# $n$ of $L$ tokens, in slices that take at most $m$ each. The last slice has some length $l$:
#
# $$S_m(0) = 0, \qquad S_m(n) = \min_{l:\; t(l,\, n - l) \le m} \left( S_m(n - l) + t(l, n - l) \right), \qquad T = \min_m \left( S_m(L) + (K - 1)\, m \right)$$


# %%
def cost(length, before):
    """t(l, c): a token takes 1, a slice 4 at least, and each pair of tokens in attention a sixteenth more."""
    return max(4, length) + 0.0625 * length * (before + (length + 1) / 2)


def times(slices):
    """What the slices take, one after the other."""
    return [cost(n, sum(slices[:i])) for i, n in enumerate(slices)]


ways = {"one slice": [12], "uniform": [4, 4, 4], "best": slice_tokens(cost, 12, 4).slices}
charts = {}
for name, slices in ways.items():
    taken = times(slices)
    schedule = make("terapipe", 4, 1, slices=len(slices)).only((Kind.FORWARD,))
    run = simulate(schedule, lambda action, taken=taken: taken[action.slice])
    charts[f"{name}, lengths {slices}: {run.makespan:g}"] = boxes(run)
    assert run.makespan == pipeline_seconds(taken, 4)
picture = draw_schedule(charts, title="12 tokens through 4 stages, forward")
figure("slices", picture, "One sequence on each stage's rank: F0 is its first slice, F0.1 the next.")


def equal_slices(length, stages):
    """The time with equal slices, by their number."""
    counts = [n for n in range(1, length + 1) if length % n == 0]
    return {n: pipeline_seconds(times([length // n] * n), stages) for n in counts}


for length, stages, *expected in ((12, 4, 36.0625, 36.75), (12, 8, 60.25, 63.25), (14, 16, 111.875, 119.875)):
    best, equal = slice_tokens(cost, length, stages), min(equal_slices(length, stages).values())
    say(f"{length} tokens, {stages:2} stages: {best.slices} take {best.seconds:g}; best equal ones {equal:g}")
    assert [best.seconds, equal] == expected
lines = {}
for K in (2, 8, 32):
    found, best = equal_slices(48, K), slice_tokens(cost, 48, K).seconds
    lines[f"K = {K}"] = [math.log2(n) for n in found], [math.log2(t / best) for t in found.values()]
labels = {"x_label": "log2 of their number", "y_label": "log2 of (time / best unequal)"}
chart = line_chart(lines, title="48 tokens in equal slices", horizontal_lines={"best unequal": 0}, **labels)
figure("how_many", chart, "Up 1 is twice as long. Too few slices leave ranks idle, too many waste them.")


# %%
def gradients(world, slices):
    """A GPT in a pipeline, in slices: loss, sums of squares of gradients (lm_head and wte are one matrix)."""
    model = tensor_parallel(gpt(world, 4), dist.SingleWorld())  # matrices stay whole
    layers, loss = token_layers(model, length=TIME), token_loss(model)
    balance = [len(part) for part in np.array_split(range(len(layers)), world.size)]
    pipeline = Pipeline(layers, balance=balance, schedule="terapipe", slices=slices, world=world, loss=loss)
    tokens = mg.tensor(np.random.default_rng(2).integers(0, WORDS, size=(2, 13)), device=kit.device(world))
    loss = float(pipeline.step(tokens[:, :-1], tokens[:, 1:]))
    return loss, {name: float((p.grad.numpy() ** 2).sum()) for name, p in pipeline.named_parameters()}


(loss, expected), found = gradients(dist.SingleWorld(), [12]), on_ranks(gradients, [5, 4, 3])
parts = [(name.replace("lm_head", "wte"), value) for _, own in found for name, value in own.items()]
assert {name for name, _ in parts} == set(expected)
errors = [abs(own - loss) for own, _ in found] + [abs(value - expected[name]) for name, value in parts]
say(f"loss {loss:.6f}; in slices, loss and gradients differ by less than 1e-10: {max(errors) < 1e-10}")
assert max(errors) < 1e-10

# %% [markdown]
# ## What it brought
#
# With 175 billion parameters on 384 GPUs, in 96 stages of 4 tensor ranks, a step took 9.990 s without slices and 1.481 s with them, 6.75 times less. In 48 stages of 8, which
# is better both ways, 5.822 s and 1.160 s, 5.02 times: the 5.0 of the abstract. The paper's count of operations also gives the TFLOPS of each GPU that it prints:

# %%
work = terapipe_flops(layers=96, width=12288, heads=96, length=2048, batch=2) / 1e12
rates = [work / seconds / 384 for seconds in (9.990, 1.481)]
say(f"175 billion parameters: {rates[0]:.4f} and {rates[1]:.4f} TFLOPS for each GPU")
assert np.allclose(rates, [1.1300, 7.6225], atol=1e-4, rtol=0)

# %% [markdown]
# ## Exercises
#
# 1. `column_parallel` and `row_parallel`: $f$ and $g$, with their way back.
# 2. `own_heads`: which columns are a rank's.
# 3. `vocabulary_loss`: cross-entropy, three numbers a token.
# 4. `best_slices`: TeraPipe's dynamic programme.
# 5. `SlicedAttention`: what later slices send back.
#
# ## To remember
#
# - Columns, then rows: one sum forward, one backward. The derivative of a collective is a collective. And never gather logits.
# - Slices get shorter, for later tokens look at more.
#
# | | the papers say | we measured |
# |---|---|---|
# | all-reduces of a block | 2 forward, 2 backward | 4, counted |
# | bytes of a layer on a ring | $8 \frac{p-1}{p} b s h q$ | the same to the byte, on 2, 3 and 4 ranks |
# | the loss | moves $b s$ numbers, not $b s V$ | $3 b s$ |
# | slices | unequal ones beat equal ones, 1.04 to 1.12 times | 1.02 to 1.07 times in three small cases |
# | step of 175 billion parameters | 9.990 to 1.481 s | not here; the paper's TFLOPS agree with its times |
