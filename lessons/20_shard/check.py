"""What the answers of lesson 20 must do."""

import itertools
import math
import weakref

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from minigrad import dist
from minigrad.lessons.checking import count, exercise, few, require, require_close


def elements_sent(world):
    """What the verbs of a rank have to move, in entries, over N - 1: an all-reduce moves its array twice."""
    moved = 0
    for (verb, _), entry in world.ledger.by_kind.items():
        size = max(entry.bytes_sent, entry.bytes_received) // 8
        moved += size * (2 if verb == "all_reduce" else 1)
    return moved


@exercise("20.1", "shards", points=2, rebuilds=["minigrad.dist.verbs.balanced_counts"])
@given(size=st.integers(0, 20), ranks=st.integers(1, 7))
def check_shard(answer, size, ranks):
    found = [answer.shard(size, ranks, rank) for rank in range(ranks)]
    for one in found:
        pair = isinstance(one, tuple | list) and len(one) == 2
        require(pair, f"shard must return two numbers, begin and end, and yours returns {one!r}")
    what = f"{count(size, 'entry')} on {count(ranks, 'rank')}: yours are {found}"
    require(found[0][0] == 0 and found[-1][1] == size, f"{what}; they must cover 0 to {size}")
    gaps = any(a[1] != b[0] for a, b in itertools.pairwise(found))
    require(not gaps, f"{what}; each must begin where the one before ends")
    lengths = [stop - start for start, stop in found]
    require(
        max(lengths) - min(lengths) <= 1 and lengths == sorted(lengths, reverse=True),
        f"{what}; lengths must differ by one at most, the longer ones first",
    )


def plain_adam(parameters, gradients, rate):
    """Adam on one rank over some steps."""
    m = v = np.zeros_like(parameters)
    for step, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        parameters = parameters - rate * m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return parameters


@exercise("20.2", "a sharded step", points=3, rebuilds=["minigrad.dist.zero.ZeRO", "minigrad.nn.optim.Adam"])
@few(0.5)
@given(size=st.integers(1, 9), ranks=st.integers(1, 5), steps=st.integers(1, 3), seed=st.integers(0, 9))
def check_sharded_step(answer, size, ranks, steps, seed):
    random = np.random.default_rng(seed)
    start = random.normal(size=size)
    parts = random.normal(size=(steps, ranks, size))

    def main(world):
        parameters = start.copy()
        adam = answer.ShardedAdam(world, size, 0.05)
        for step in range(steps):
            adam.step(parameters, parts[step, world.rank].copy())
        held = sum(value.size for value in vars(adam).values() if isinstance(value, np.ndarray))
        return parameters, held, elements_sent(world)

    results = dist.spawn(main, ranks=ranks)
    what = f"{count(size, 'parameter')} on {count(ranks, 'rank')}, {count(steps, 'step')}"
    for rank, (parameters, held, _) in enumerate(results):
        require_close(
            parameters, plain_adam(start, parts.sum(axis=1), 0.05), f"{what}: the parameters of rank {rank}"
        )
        most = 2 * -(-size // ranks)
        require(held <= most, f"{what}: rank {rank} keeps {held} entries of state; two shards are {most}")
    moved = max(result[2] for result in results) / steps
    most = 2 * size
    require(
        ranks == 1 or moved <= most,
        f"{what}: a step moves {moved:g} (N - 1) entries; 2 a parameter are {most}",
    )


@exercise("20.3", "the joint norm", points=2, rebuilds=["minigrad.nn.utils.joint_norm"])
@few(0.5)
@given(shards=st.lists(st.lists(st.integers(-4, 4), max_size=3), min_size=1, max_size=5))
def check_joint_norm(answer, shards):
    def main(world):
        own = np.array(shards[world.rank], dtype=float)
        found = answer.joint_norm(world, own)
        require(own.tolist() == shards[world.rank], "joint_norm changed the shard; work on a copy")
        return found

    expected = math.sqrt(sum(value**2 for own in shards for value in own))
    for rank, found in enumerate(dist.spawn(main, ranks=len(shards))):
        require_close(found, expected, f"shards {shards}: the norm on rank {rank}")


@exercise("20.4", "a unit that comes and goes", points=4, rebuilds=["minigrad.dist.zero.ZeRO"])
@few(0.5)
@given(rows=st.integers(1, 3), columns=st.integers(1, 3), ranks=st.integers(1, 4), seed=st.integers(0, 9))
def check_unit(answer, rows, columns, ranks, seed):
    random = np.random.default_rng(seed)
    weights = random.normal(size=(rows, columns))
    inputs = random.normal(size=(ranks, 2, rows))
    cotangents = random.normal(size=(ranks, 2, columns))
    what = f"weights {weights.shape} on {count(ranks, 'rank')}"

    def main(world):
        seen = []

        def layer(whole, x):
            require(whole.shape == weights.shape, f"{what}: the layer got weights of shape {whole.shape}")
            require_close(whole, weights, f"{what}: the gathered weights")
            seen.append(weakref.ref(whole if whole.base is None else whole.base))
            return x @ whole

        def pull(whole, x, cotangent):
            require_close(whole, weights, f"{what}: the weights gathered again")
            seen.append(weakref.ref(whole if whole.base is None else whole.base))
            return cotangent @ whole.T, x.T @ cotangent

        share, rest = divmod(weights.size, ranks)
        start = world.rank * share + min(world.rank, rest)
        own = weights.reshape(-1)[start : start + share + (world.rank < rest)].copy()
        unit = answer.Unit(world, own, weights.shape, layer, pull)
        output = unit.forward(inputs[world.rank])
        gone = len(seen) == 1 and seen[0]() is None
        back = unit.backward(cotangents[world.rank])
        return output, back, unit.gradient, own, gone, len(seen), elements_sent(world)

    gradient = sum(x.T @ c for x, c in zip(inputs, cotangents, strict=True)).reshape(-1)
    results = dist.spawn(main, ranks=ranks)
    require_close(
        np.concatenate([r[2] for r in results]), gradient, f"{what}: the gradients of all shards in turn"
    )
    for rank, (output, back, _, _, gone, times, moved) in enumerate(results):
        require_close(output, inputs[rank] @ weights, f"{what}: the output on rank {rank}")
        require_close(back, cotangents[rank] @ weights.T, f"{what}: the cotangent of x on rank {rank}")
        require(
            gone or ranks == 1, f"{what}: after forward something still holds the whole weights; let them go"
        )
        require(times == 2, f"{what}: layer and pull must run once each")
        require(
            ranks == 1 or moved <= 3 * weights.size,
            f"{what}: {moved} entries move; 3 for each weight are enough",
        )


@exercise("20.5", "memory by formula", points=2, rebuilds=["minigrad.dist.planner.model_states"])
@given(
    billions=st.integers(1, 2000),
    ranks=st.sampled_from([1, 4, 16, 64, 256, 1024]),
    stage=st.integers(0, 3),
    k=st.sampled_from([4, 8, 12]),
)
def check_memory(answer, billions, ranks, stage, k):
    psi = billions * 1e9 / 2
    expected = {
        0: (4 + k) * psi,
        1: 4 * psi + k * psi / ranks,
        2: 2 * psi + (2 + k) * psi / ranks,
        3: (4 + k) * psi / ranks,
    }[stage]
    found = answer.memory(psi, ranks, stage, k)
    require_close(
        found / 1e9,
        expected / 1e9,
        f"{psi / 1e9:g} billion parameters, {ranks} ranks, stage {stage}, k = {k}: the GB of a rank",
    )


@exercise("20.5", "memory by formula", points=1, rebuilds=["minigrad.dist.planner.smallest_ranks"])
@given(
    hundredths=st.integers(1, 49) | st.integers(1, 400),  # of the limit; above 50 only stage 3 fits
    limit=st.sampled_from([16, 32, 80]),
    k=st.sampled_from([12, 4, 8]),
)
def check_fewest_ranks(answer, hundredths, limit, k):
    room = limit * 1e9
    psi = room * hundredths / 100
    for stage, whole in enumerate((4 + k, 4, 2, 0)):

        def fits(ranks, room=room, whole=whole):
            return psi * (whole + (4 + k - whole) / ranks) <= room

        found = answer.fewest_ranks(psi, stage, room, k)
        what = f"{psi / 1e9:g} billion parameters, stage {stage}, {limit} GB, k = {k}"
        if found is None:
            require(
                not fits(10**9, room * (1 - 1e-9)),
                f"{what}: there is a number of ranks that fits, and yours is None",
            )
            continue
        require(
            isinstance(found, int) and found >= 1,
            f"{what}: expected a whole number of ranks, and yours is {found!r}",
        )
        require(fits(found, room * (1 + 1e-9)), f"{what}: with {found} ranks it does not fit")
        require(
            found == 1 or not fits(found - 1, room * (1 - 1e-9)),
            f"{what}: {found - 1} ranks are enough, and yours is {found}",
        )
