"""Memory: shard.

Paper: Rajbhandari et al. 2020, ZeRO: Memory Optimizations Toward Training Trillion Parameter Models; Zhao et
    al. 2023, PyTorch FSDP
Builds: shards without padding, a sharded optimizer step, the norm of what nobody holds, a unit that comes and goes
Source: dist/zero.py, dist/partition.py, dist/zero_units.py, dist/planner.py
Ranks: 4
Minutes: 90
"""

# %% [markdown]
# # 20. Memory: shard
#
# In data parallelism every rank holds everything: the parameters, their gradients, and what the optimizer remembers. With $N$ ranks that
# is $N$ equal copies. ZeRO asks of each of them: *who needs this, and when?* Optimizer states are needed once a step, by whoever
# updates. Gradients are needed from the backward walk to the update. Parameters are needed while their layer runs. Whatever is not
# needed can live on one rank and be fetched.
#
# With `minigrad run -n 4 --device gpu 20` each rank computes on a GPU of its own, and its shards lie there. Losses agree with the CPU's to $10^{-9}$. Fingerprints of parameters
# show every bit, and bits differ between the two; but they must agree among the stages, on either.

# %%
import hashlib

import numpy as np

from minigrad import nn
from minigrad.dist.memory import Meter
from minigrad.dist.planner import Setup, model_states
from minigrad.dist.zero import ZeRO
from minigrad.draw_bars import bar_chart
from minigrad.lessons import figure, kit, on_ranks, say

# %% [markdown]
# ## Sixteen bytes a parameter
#
# Adam in mixed precision takes 2 bytes for a parameter, 2 for its gradient, and $K = 12$ for the optimizer: a copy in 32 bits and two
# moments. So $\Psi$ parameters take $16 \Psi$ bytes, and most of that is optimizer. With $N_d$ ranks:
#
# | | a rank holds | 7.5 billion parameters, 64 ranks |
# |---|---|---|
# | data parallel | $(2 + 2 + K) \Psi$ | 120 GB |
# | stage 1: optimizer states shared out | $4 \Psi + K \Psi / N_d$ | 31.4 GB |
# | stage 2: gradients too | $2 \Psi + (2 + K) \Psi / N_d$ | 16.6 GB |
# | stage 3: parameters too | $16 \Psi / N_d$ | 1.9 GB |
#
# This is Figure 1 of the paper. Step through it:

# %%
setup = Setup(7_500_000_000, ranks=64)
plans = [model_states(setup, stage) for stage in range(4)]
totals = [sum(plan.values()) / 1e9 for plan in plans]
say("Figure 1, in GB: " + ", ".join(f"{total:.1f}" for total in totals))
assert [round(total, 1) for total in totals] == [120.0, 31.4, 16.6, 1.9]
pictures = [
    bar_chart(
        {f"stage {s}": plans[s] for s in range(upto + 1)},
        title="7.5 billion parameters on 64 ranks: what each rank holds",
        levels={"a 32 GB device": 32e9},
    )
    for upto in range(4)
]
figure(
    "figure_1", pictures, "ZeRO's Figure 1, stage by stage.", labels=[f"stages 0 to {s}" for s in range(4)]
)

# %% [markdown]
# ## Measured, not promised
#
# Formulas can be printed without doing anything. So we train a small GPT on four ranks at each stage and let a meter count: every array
# that a rank makes is booked under its category, when it comes and when it dies. This is rank 0 at its worst moment.

# %%
CONFIG = nn.GPTConfig(vocabulary=64, context=16, layers=4, heads=4, width=48)


def train(world, stage, steps=3):
    """Train a GPT; a fingerprint of its parameters, the bytes held by category, and the elements moved a step."""
    meter, model = Meter(), nn.GPT(CONFIG, seed=0, dtype="float64", device=kit.device(world))
    optimizer = nn.optim.AdamW(model.parameters(), lr=1e-3)
    zero = ZeRO(model, optimizer, world, stage=stage, algorithm="ordered", bucket_bytes=1 << 17, meter=meter)
    random = np.random.default_rng(0)
    tokens = random.integers(0, 64, size=(steps, 8, 17))
    share = len(tokens[0]) // world.size
    mine = slice(world.rank * share, (world.rank + 1) * share)
    for step in range(steps):
        if step == 1:  # from here on everything exists
            meter.reset_peak()
            world.ledger.clear()
        batch = tokens[step][mine]
        zero.zero_grad()
        loss = model.loss(batch[:, :-1], batch[:, 1:], reduction="sum") / (len(tokens[0]) * 16)
        loss.backward()
        zero.step()
    moved = sum(
        entry.bytes_sent
        for (_, purpose), entry in world.ledger.by_kind.items()
        if purpose in ("gradients", "parameters")
    )
    held = {name: count for name, count in meter.at_peak.items() if name != "total" and count}
    with zero.gathered():  # whole on every rank: after the meter was read
        values = b"".join(parameter.numpy().tobytes() for parameter in model.parameters())
        size = sum(parameter.size for parameter in model.parameters())
    return hashlib.sha256(values).hexdigest()[:12], held, moved / 8 / (steps - 1), size


results = {stage: on_ranks(train, stage) for stage in range(4)}
ranks, size = len(results[0]), results[0][0][3]
picture = bar_chart(
    {f"stage {stage}": found[0][1] for stage, found in results.items()},
    title=f"Measured: rank 0 of {ranks}, a GPT of {size:,} parameters in float64",
    caption="Counted from the arrays during two steps: what was there when their sum was largest.",
)
figure("measured", picture, "What one rank really held, by category.")
optimizer = [found[0][1]["optimizer"] for found in results.values()]
say(f"optimizer states of rank 0: {optimizer[0]:,} bytes at stage 0, {optimizer[1]:,} at stages 1 to 3")
assert optimizer[0] == 2 * 8 * size
assert sum(rank[1]["optimizer"] for rank in results[1]) == 2 * 8 * size
assert results[3][0][1]["parameters"] < 8 * (size / ranks + size)  # a shard, and less than all units

# %% [markdown]
# ## The same numbers
#
# Sharding must not change what is learned. Adding in another order changes the last bits, so we let all sums go in the order of
# ranks (`algorithm="ordered"`). Then all four stages must end with the same parameters, to the last bit:

# %%
prints = {stage: found[0][0] for stage, found in results.items()}
say("fingerprints of the parameters: " + ", ".join(f"stage {s} {p}" for s, p in prints.items()))
assert len(set(prints.values())) == 1

# %% [markdown]
# ## What it costs in traffic
#
# An all-reduce *is* a reduce-scatter followed by an all-gather, $\Psi (N-1) / N$ elements each way and rank. Stage 1 and 2 do the first with
# gradients and the second with updated parameters. That is the same volume. Stage 3 has no whole parameters, so it gathers
# them before the forward pass and again before the backward pass: $3 \Psi$ instead of $2 \Psi$. We add up over all ranks:

# %%
moved = {stage: sum(rank[2] for rank in found) / size / (ranks - 1) for stage, found in results.items()}
say("elements moved a step, over Ψ (N - 1): " + ", ".join(f"stage {s} {m:.3f}" for s, m in moved.items()))
assert list(moved.values()) == [2.0, 2.0, 2.0, 3.0]
picture = bar_chart(
    {
        f"stage {stage}": {"moved by a rank, a step": 8 * sum(rank[2] for rank in found) / ranks}
        for stage, found in results.items()
    },
    title="Gradients and parameters that a rank sends in a step",
    caption="Counted from the messages. Stage 3 gathers what it has let go.",
)
figure("traffic", picture, "Traffic by stage, counted.")

# %% [markdown]
# ## Units: how stage 3 stays small
#
# Gathering all parameters at once would give everything back. So parameters are gathered by *units*, a Transformer block each: just before the
# block runs, with the next one already on its way. On the way back each unit is gathered again, and its gradient is scattered as
# soon as it is complete. At any time a rank holds its shard, two units, and what lies
# outside all blocks.
#
# The traps, each of which the library's tests know:
#
# - calling it stage 2 but keeping a whole gradient until the end (measure the *peak*),
# - $\Psi$ that $N$ does not divide: padding that leaks into norms, weight decay or checkpoints (uneven shards need none),
# - the norm for clipping: each rank sees a part, and the sum of squares must go over all ranks,
# - parameters that two layers share, which must be counted and updated once.
#
# ## The rest of the paper
#
# ZeRO-R shares out activations, too: with tensor parallelism every rank of a group would keep the same checkpoint, so each keeps $1/N$ of it and gathers
# before recomputing. It adds less than a tenth to the traffic. And it uses buffers of constant size, allocated once, so that memory does not fall to pieces.
#
# ## Exercises
#
# 1. `shard`: who owns what, without padding.
# 2. `ShardedAdam`: stage 1 with Adam.
# 3. `joint_norm`: the norm of a gradient that nobody holds.
# 4. `Unit`: stage 3 for one layer.
# 5. `memory` and `fewest_ranks`: the formulas, and Table 1.
#
# ## To remember
#
# - ZeRO's stages differ in how long a rank keeps what, and in nothing else.
# - Stages 1 and 2 cost no more traffic than data parallelism; stage 3 costs half as much again.
# - Memory is a peak. Measure it as one.
#
# | | the paper says | we measured |
# |---|---|---|
# | Figure 1 | 120, 31.4, 16.6, 1.9 GB | the same from the planner; optimizer states exactly $1/N$ from the arrays |
# | traffic of stages 1 and 2 | $2 \Psi$ | exactly $2 \Psi (N-1)$ elements over all ranks |
# | traffic of stage 3 | $3 \Psi$ | exactly $3 \Psi (N-1)$ |
# | speed: 100 billion parameters on 400 GPUs, 15 PFLOPS | | not here: threads on a laptop show memory and traffic, not speed |
