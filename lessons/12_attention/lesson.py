"""Attention and the Transformer.

Paper: Vaswani et al. 2017, Attention Is All You Need, sections 3.2 to 3.5 and table 1
Builds: scaled dot-product attention, heads, positional encodings, a block, and a test for leaks
Source: minigrad/ops/attention.py, nn/gpt.py
Ranks: 1
Minutes: 90
"""

# %% [markdown]
# # 12. Attention and the Transformer
#
# A recurrent net reads a sentence word by word and must carry everything it will ever need in one state. Attention does away with the
# carrying: each position looks at all the others and takes what it needs. This lesson takes one layer of it apart, puts a
# Transformer together, and lets it learn to copy.

# %%
import math

import numpy as np

import minigrad as mg
from minigrad import nn
from minigrad.draw import line_chart
from minigrad.draw_heat_map import heat_map
from minigrad.lessons import figure, quick, say

# %% [markdown]
# ## A soft dictionary
#
# A dictionary finds the one key that equals your query, and hands you its value. Attention compares the query $q$ with *every* key $k_j$ by
# their inner product, turns the scores into weights that add up to 1, and hands you the weighted mean of the values:
#
# $$\mathrm{Attention}(Q, K, V) = \mathrm{softmax}\!\left(\frac{Q K^{\top}}{\sqrt{d_k}}\right) V$$
#
# $Q$, $K$ and $V$ hold one row a position, and $d_k$ is the length of a query. Every step has a derivative, so the net can learn
# what to ask for and what to answer to.
#
# ## Why the square root
#
# Let the entries of $q$ and $k$ be independent with mean 0 and variance 1. Then $q \cdot k$ is a sum of $d_k$ products, and its variance is
# $d_k$. Large scores push softmax into its corners, where one weight is almost 1 and the derivative almost 0. Dividing by $\sqrt{d_k}$ brings the
# variance back to 1, whatever the width.

# %%
random = np.random.default_rng(0)
widths = [1, 4, 16, 64, 256]
variances, largest_plain, largest_scaled = [], [], []
for width in widths:
    queries, keys = (random.normal(size=(2000, width)) for _ in range(2))
    variances.append(float((queries * keys).sum(axis=1).var()))
    scores = random.normal(size=(200, width)) @ random.normal(size=(16, width)).T
    for scale, into in ((1.0, largest_plain), (1.0 / math.sqrt(width), largest_scaled)):
        weights = mg.softmax(mg.tensor(scores * scale), axis=-1).numpy()
        into.append(float(weights.max(axis=1).mean()))
say(
    "variance of q.k: "
    + ", ".join(f"{width}: {value:.1f}" for width, value in zip(widths, variances, strict=True))
)
assert all(abs(value / width - 1) < 0.15 for width, value in zip(widths, variances, strict=True))
chart = line_chart(
    {
        "without the square root": ([math.log2(w) for w in widths], largest_plain),
        "with it": ([math.log2(w) for w in widths], largest_scaled),
    },
    title="Mean largest weight over 16 random keys",
    x_label="log2 of the width of a query",
    y_label="largest softmax weight",
)
figure("square_root", chart, "Unscaled, softmax soon picks one key and stops learning.")

# %% [markdown]
# ## Not looking ahead
#
# A language model must predict the next symbol from the earlier ones. So position $i$ may only look at $j \le i$. The mask goes in *before*
# the softmax: hidden scores become $-\infty$ and their weights exactly 0. Whoever sets weights to zero *after* the softmax has let the hidden
# scores into the denominator, and the rest no longer adds up to 1.
#
# Whether a model looks ahead can be tested without reading it. Change the symbol at position $t$. No output before $t$ may
# change, not even in its last bit.
#
# ## Where am I?
#
# Attention treats its keys as a set: shuffle the positions, and the outputs are shuffled alike. So the order has to be written into the
# vectors. The paper adds waves of different lengths:
#
# $$PE_{(pos,\,2i)} = \sin\!\left(pos / 10000^{2i/d}\right) \qquad PE_{(pos,\,2i+1)} = \cos\!\left(pos / 10000^{2i/d}\right)$$
#
# Moving by $k$ positions turns each pair (sin, cos) by a fixed angle. So "three to the left" is the same linear map everywhere,
# and a head can learn it.

# %%
positions, width = np.arange(60)[:, None], 32
angles = positions / 10000.0 ** (2 * np.arange(width // 2) / width)
waves = {f"pair {i}": (positions[:, 0], np.sin(angles[:, i])) for i in (0, 2, 4, 6)}
chart = line_chart(
    waves, title="Sines of the positional encoding, d = 32", x_label="position", y_label="value"
)
figure("positions", chart, "Each pair of coordinates is a wave; the waves grow longer from pair to pair.")
first = [math.sin(1), math.cos(1), math.sin(10000 ** (-2 / 512)), math.cos(10000 ** (-2 / 512))]
say("PE(1, 0..3) for d = 512: " + " ".join(f"{value:.10f}" for value in first))
assert np.allclose(first, [0.8414709848, 0.5403023059, 0.8218561900, 0.5696950087], atol=5e-11)

# %% [markdown]
# ## The block
#
# A Transformer is a stack of equal blocks. Each adds two things to its input: what attention found, and what a small two-layer net makes of
# each position by itself. Layer norm keeps the sizes in hand:
#
# $$x \leftarrow x + \mathrm{Attention}(\mathrm{LN}(x)) \qquad x \leftarrow x + \mathrm{MLP}(\mathrm{LN}(x))$$
#
# The paper puts the norm after each sum. Most of today's models, and this one, put it before (*pre-norm*). The sums are the road that
# gradients take to the lowest layers unhindered.
#
# ## A net that copies
#
# The task: eight random symbols, a stop, then the same eight again. The second half can be known exactly, but only by looking eight
# places and one back, and taking what stands there.

# %%
LENGTH, SYMBOLS = 8, 10


def copies(seed, count):
    """Inputs and targets (count, 16): symbols, a stop (0), and the symbols again, shifted by one."""
    symbols = np.random.default_rng(seed).integers(1, SYMBOLS, size=(count, LENGTH))
    whole = np.concatenate([symbols, np.zeros((count, 1), dtype=int), symbols], axis=1)
    return whole[:, :-1], whole[:, 1:]


def share_right(model):
    """The share of 200 new sequences whose whole second half comes out right."""
    inputs, targets = copies(999_999, 200)
    with mg.no_grad():
        guesses = model(inputs).numpy()[:, LENGTH:].argmax(axis=-1)
    return float((guesses == targets[:, LENGTH:]).all(axis=1).mean())


model = nn.GPT(nn.GPTConfig(vocabulary=SYMBOLS, context=2 * LENGTH, layers=2, heads=4, width=32), seed=0)
optimizer = nn.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.98), weight_decay=0.0)
losses = []
for step in range(150 if quick() else 400):
    for group in optimizer.param_groups:
        group["lr"] = 1e-2 * min(1.0, (step + 1) / 100)  # a warm-up, as in section 5.3
    inputs, targets = copies(step, 64)
    optimizer.zero_grad()
    logits = mg.reshape(model(inputs)[:, LENGTH:], (-1, SYMBOLS))
    loss = mg.cross_entropy(logits, targets[:, LENGTH:].reshape(-1))
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    losses.append(loss.item())
chart = line_chart(
    {"loss": (range(len(losses)), losses)},
    title="Learning to copy eight symbols",
    x_label="steps of 64 sequences",
    y_label="loss (nats a symbol)",
    horizontal_lines={"guessing": math.log(SYMBOLS - 1)},
)
figure("copying", chart, "At first the net only guesses; then a head finds out where to look.")
say(f"{share_right(model):.0%} of new sequences copied without a mistake")
assert share_right(model) == 1.0

# %% [markdown]
# Where does it look? Take the queries and keys of each head, compute the weights, and draw the head that looks most
# at the symbol to be copied, or at the one behind it. The copying positions are the rows from the stop on. One diagonal there,
# eight or seven places back, is the whole trick.

# %%
seen = {}
inputs, _ = copies(7, 1)
with mg.no_grad():
    x = model.wte(inputs) + model.wpe(np.arange(2 * LENGTH))
    for number, block in enumerate(model.h):
        packed = block.attn.c_attn(block.ln_1(x)).numpy()[0].reshape(2 * LENGTH, 3, 4, 8)
        scores = np.einsum("ihd,jhd->hij", packed[:, 0], packed[:, 1]) / math.sqrt(8)
        scores[:, np.triu(np.ones((2 * LENGTH, 2 * LENGTH), dtype=bool), 1)] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        seen |= {(number, head): w / w.sum(axis=-1, keepdims=True) for head, w in enumerate(weights)}
        x = block(x)
wanted = [(LENGTH + k, k) for k in range(LENGTH)] + [(LENGTH + k, k + 1) for k in range(LENGTH)]
best = max(seen, key=lambda key: sum(seen[key][i, j] for i, j in wanted))
names = [str(symbol) if symbol else "|" for symbol in inputs[0]]
picture = heat_map(
    seen[best],
    title=f"Where head {best[1]} of block {best[0]} looks",
    rows=names,
    columns=names,
    row_label="from",
    column_label="to",
    caption="Each row is a position and adds up to 1; the upper triangle is hidden by the mask.",
)
figure("weights", picture, "The weights of one head while it copies.")
say(
    f"head {best[1]} of block {best[0]} has {sum(seen[best][i, j] for i, j in wanted) / LENGTH:.2f} of its weight there"
)

# %% [markdown]
# ## What it costs
#
# For $n$ positions of width $d$, attention compares all pairs: $O(n^2 d)$ operations, but all at once, and any two positions are one
# step apart. A recurrent net takes $O(n d^2)$, in $n$ steps one after the other. So for short sequences attention is even the
# cheaper one. The two products of attention pass those of the four projections where $n$ is about $2d$:

# %%
times, shares = [64, 128, 256, 512, 1024, 2048], []
for time in times:
    query = mg.zeros((1, 4, time, 64), device="shapes")
    pairs = mg.cost(lambda q: nn.functional.scaled_dot_product_attention(q, q, q), query).flops
    rows, square = mg.zeros((time, 256), device="shapes"), mg.zeros((256, 256), device="shapes")
    shares.append(pairs / (4 * mg.cost(lambda x, w: x @ w, rows, square).flops))
chart = line_chart(
    {"attention / projections": ([math.log2(time) for time in times], shares)},
    title="FLOPs of attention over those of its four projections, d = 256",
    x_label="log2 of the number of positions",
    y_label="ratio",
    horizontal_lines={"equal": 1.0},
)
figure("cost", chart, "The share of the pairs grows with the sequence; both are equal near n = 2d.")
say("attention / projections: " + ", ".join(f"{t}: {s:.2f}" for t, s in zip(times, shares, strict=True)))
assert shares[2] < 1.0 < shares[4]

# %% [markdown]
# ## Exercises
#
# 1. `attention`: one head, with a mask.
# 2. `split_heads` and `merge_heads`: many heads are one reshape and one transpose away.
# 3. `positional_encoding`: the waves.
# 4. `block`: attention and MLP, pre-norm, around the sums.
# 5. `leaks`: find out whether a model looks ahead.
#
# ## To remember
#
# - Attention is a dictionary with soft keys; $\sqrt{d_k}$ keeps the softmax where it can learn; masks go in before it.
# - Positions have to be added, because attention itself sees a set.
# - Causality can be tested to the bit. Test it: a leak gives wonderful losses.
#
# | | the paper says | we measured |
# |---|---|---|
# | variance of $q \cdot k$ | $d_k$ | within a few per cent of it |
# | $PE$ at position 1, $d = 512$ | .8414709848, .5403023059, .8218561900, .5696950087 | the same |
# | self-attention a layer | $O(n^2 d)$, one step between any two positions | the ratio above, doubling with $n$ |
# | translation quality | 28.4 BLEU, 3.5 days on 8 GPUs | not tried: ours copies eight symbols, in seconds |
