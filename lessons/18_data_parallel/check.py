"""What the answers of lesson 18 must do."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from minigrad import dist
from minigrad.lessons.checking import count, exercise, few, require, require_close

OWN = [
    f"minigrad.dist.world.World.{verb}" for verb in ("all_reduce", "reduce_scatter", "all_gather", "reduce")
]
OWN += ["minigrad.dist.world.World.start_all_reduce", "minigrad.dist.world.World.all_to_all"]


def arrays(seed, ranks, elements):
    """One array of small whole numbers for each rank: their sums are exact in any order."""
    random = np.random.default_rng(seed)
    return [random.integers(-9, 10, size=elements).astype(float) for _ in range(ranks)]


def check_all_reduce(algorithm, ranks, elements, seed, messages):
    """The sum on every rank, with as many bytes and messages as the paper says."""
    given = arrays(seed, ranks, elements)

    def main(world):
        array = given[world.rank].copy()
        algorithm(world, array)
        sent = [entry for (verb, _), entry in world.ledger.by_kind.items() if verb == "send"]
        return array, sum(e.bytes_sent for e in sent), sum(e.messages for e in sent)

    results = dist.spawn(main, ranks=ranks)
    what = f"{count(ranks, 'rank')}, {count(elements, 'element')}"
    for rank, (array, _, _) in enumerate(results):
        require_close(array, sum(given), f"{what}: the sum on rank {rank}", tolerance=0)
    total = sum(sent for _, sent, _ in results) // 8
    require(
        total == 2 * (ranks - 1) * elements,
        f"{what}: all ranks together must send 2 (p - 1) n = "
        f"{2 * (ranks - 1) * elements} elements, and yours send {total}",
    )
    most = 2 * (ranks - 1) * -(-elements // ranks)  # of pieces as long as they need be
    for rank, (_, bytes_sent, sent) in enumerate(results):
        require(
            sent == messages,
            f"{what}: each rank must send {count(messages, 'message')}, and your rank {rank} sends {sent}",
        )
        require(
            bytes_sent // 8 <= most,
            f"{what}: your rank {rank} sends {bytes_sent // 8} elements; with even pieces none sends more "
            f"than {most}",
        )


@exercise("18.1", "a ring all-reduce", points=3, rebuilds=OWN)
@few(0.5)
@given(ranks=st.integers(1, 6), elements=st.sampled_from([2, 1, *range(3, 14), 0]), seed=st.integers(0, 9))
def check_ring(answer, ranks, elements, seed):
    check_all_reduce(answer.ring_all_reduce, ranks, elements, seed, 2 * (ranks - 1))


@exercise("18.2", "halving and doubling", points=3, rebuilds=OWN)
@few(0.5)
@given(power=st.integers(0, 3), share=st.integers(1, 3), seed=st.integers(0, 9))
def check_halving(answer, power, share, seed):
    ranks = 2**power
    check_all_reduce(answer.halving_doubling_all_reduce, ranks, ranks * share, seed, 2 * power)


def gradient_of_sum(x, y):
    """Of the summed squared error of a linear model at some fixed weights."""
    require(len(x), "gradient_of_sum was called without samples; a rank without any has a gradient of zeros")
    return 2 * x.T @ (x @ np.arange(1.0, x.shape[1] + 1) - y)


def samples(seed, counts):
    """Samples (x, y) for each rank."""
    random = np.random.default_rng(seed)
    return [(random.normal(size=(n, 3)), random.normal(size=n)) for n in counts]


def of_all(parts):
    """The gradient of the mean over all samples at once."""
    x, y = (np.concatenate(one) for one in zip(*parts, strict=True))
    return gradient_of_sum(x, y) / len(x)


@exercise("18.3", "gradients of uneven parts", points=2)
@few(0.5)
@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=5).filter(sum), seed=st.integers(0, 9))
def check_gradient_of_all(answer, counts, seed):
    parts = samples(seed, counts)
    before = [x.copy() for x, _ in parts]

    def main(world):
        return answer.gradient_of_all(world, gradient_of_sum, *parts[world.rank], (3,))

    for rank, found in enumerate(dist.spawn(main, ranks=len(counts))):
        require_close(found, of_all(parts), f"ranks with {counts} samples: the gradient on rank {rank}")
    same = all((x == old).all() for (x, _), old in zip(parts, before, strict=True))
    require(same, "your function changed the samples")


@exercise("18.4", "accumulation", points=2)
@few(0.5)
@given(
    counts=st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=3), min_size=1, max_size=4),
    seed=st.integers(0, 9),
)
def check_accumulate(answer, counts, seed):
    parts = [samples(seed + 100 * rank, own) for rank, own in enumerate(counts)]

    def main(world):
        gradient = answer.accumulate(world, gradient_of_sum, parts[world.rank])
        return gradient, sum(entry.messages for entry in world.ledger.by_kind.values())

    expected = of_all([one for own in parts for one in own])
    for rank, (found, calls) in enumerate(dist.spawn(main, ranks=len(counts))):
        require_close(found, expected, f"microbatches of {counts} samples: the gradient on rank {rank}")
        require(
            calls <= 2,
            f"rank {rank} used {calls} collectives for microbatches of {counts[rank]} samples; 2 are enough",
        )


@exercise(
    "18.5", "the large-batch schedule", points=2, rebuilds=["minigrad.nn.lr_scheduler.papers.LargeBatch"]
)
@given(batch=st.sampled_from([64, 256, 1024, 8192]), tenths=st.integers(0, 899))
def check_learning_rate(answer, batch, tenths):
    epoch = tenths / 10
    reference = 0.1 * batch / 256
    knots = [(0, 0.1), (5, reference)]
    steps = sum(epoch >= step for step in (30, 60, 80))
    expected = float(np.interp(epoch, *zip(*knots, strict=True))) / 10**steps
    found = answer.learning_rate(epoch, batch)
    require(
        isinstance(found, float) and math.isclose(found, expected, rel_tol=1e-9),
        f"batch {batch}, epoch {epoch}: expected {expected:.6g}, and yours is {found!r}",
    )


@exercise("18.5", "the large-batch schedule", points=0)
def check_the_papers_values(answer):
    values = {0: 0.1, 2.5: 1.65, 4.9: 3.138, 5: 3.2, 5.1: 3.2, 29.9: 3.2, 30: 0.32, 59.9: 0.32, 60: 0.032}
    for epoch, expected in {**values, 79.9: 0.032, 80: 0.0032, 89.9: 0.0032}.items():
        found = answer.learning_rate(epoch, 8192)
        require_close(found, expected, f"the rate for 8,192 images at epoch {epoch}")
