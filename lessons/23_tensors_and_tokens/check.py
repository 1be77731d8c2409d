"""What the answers of lesson 23 must do."""

import itertools
import time

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from minigrad import dist
from minigrad.lessons.checking import Wrong, count, exercise, few, require, require_close, wrong

LAYERS = [
    f"minigrad.dist.tensor_parallel_layers.{name}" for name in ("ColumnParallelLinear", "RowParallelLinear")
]


def several(found, number, what):
    """What a function returned, if it is so many values."""
    require(
        isinstance(found, tuple | list) and len(found) == number,
        f"{what} must return {number} values, and yours returns {found!r:.100}",
    )
    return found


def compare(found, expected, what, mistakes):
    """As `require_close`. If the answer is what a known mistake would give, by sentence, it says which."""
    try:
        require_close(found, expected, what)
    except Wrong as error:
        alike = (f"\n{why}" for why, value in mistakes.items() if close(found, value))
        wrong(str(error) + next(alike, ""))


def close(found, value):
    """Whether an answer is this, but for rounding."""
    return np.shape(found) == np.shape(value) and np.allclose(found, value, rtol=1e-9, atol=1e-9)


def calls(world):
    """How many collectives and messages a rank has used so far."""
    return sum(entry.messages for entry in world.ledger.by_kind.values())


WIDTHS = st.lists(st.integers(0, 3), min_size=2, max_size=4).filter(sum)


def spans(widths):
    """Where each rank's part begins and ends."""
    return list(itertools.pairwise(itertools.accumulate(widths, initial=0)))


@exercise("23.1", "columns and rows", points=2, rebuilds=LAYERS)
@few(0.5)
@given(widths=WIDTHS, seed=st.integers(0, 9))
def check_columns(answer, widths, seed):
    random = np.random.default_rng(seed)
    x, a, c = (
        random.normal(size=(2, 3)),
        random.normal(size=(3, sum(widths))),
        random.normal(size=(2, sum(widths))),
    )

    def main(world):
        own = slice(*spans(widths)[world.rank])
        y, pull = several(answer.column_parallel(world, x.copy(), a[:, own].copy()), 2, "column_parallel")
        forward = calls(world)
        of_x, of_a = several(pull(c[:, own].copy()), 2, "the pull of column_parallel")
        return y, of_x, of_a, forward, calls(world) - forward

    what = f"column_parallel, ranks with {widths} columns"
    for rank, (y, of_x, of_a, forward, backward) in enumerate(dist.spawn(main, ranks=len(widths))):
        own = slice(*spans(widths)[rank])
        require_close(y, x @ a[:, own], f"{what}: y on rank {rank}")
        part = {"This is the part of one rank's columns; x is used by those of all.": c[:, own] @ a[:, own].T}
        compare(of_x, c @ a.T, f"{what}: the cotangent of x on rank {rank}", part)
        require_close(of_a, x.T @ c[:, own], f"{what}: the gradient of a on rank {rank}")
        require(
            (forward, backward) == (0, 1),
            f"{what}: {forward} all-reduces forward and {backward} backward; 0 and 1 are enough",
        )


@exercise("23.1", "columns and rows", points=2, rebuilds=LAYERS)
@few(0.5)
@given(widths=WIDTHS, seed=st.integers(0, 9))
def check_rows(answer, widths, seed):
    random = np.random.default_rng(seed)
    y, b = random.normal(size=(2, sum(widths))), random.normal(size=(sum(widths), 3))
    bias, c = random.normal(size=3), random.normal(size=(2, 3))

    def main(world):
        own = slice(*spans(widths)[world.rank])
        found = answer.row_parallel(world, y[:, own].copy(), b[own].copy(), bias.copy())
        z, pull = several(found, 2, "row_parallel")
        forward = calls(world)
        return z, *several(pull(c.copy()), 3, "the pull of row_parallel"), forward, calls(world) - forward

    what = f"row_parallel, ranks with {widths} rows"
    for rank, (z, of_y, of_b, of_bias, forward, backward) in enumerate(dist.spawn(main, ranks=len(widths))):
        own = slice(*spans(widths)[rank])
        mistakes = {
            "The bias was summed over ranks; add it after the sum.": y @ b + len(widths) * bias,
            "This is the part of one rank's rows.": y[:, own] @ b[own] + bias,
        }
        compare(z, y @ b + bias, f"{what}: z on rank {rank}", mistakes)
        for name, gradient, expected in (
            ("cotangent of y", of_y, (c @ b.T)[:, own]),
            ("gradient of b", of_b, y[:, own].T @ c),
            ("gradient of the bias", of_bias, c.sum(axis=0)),
        ):
            why = f"This is {len(widths)} times too much: each rank has the whole cotangent of z already."
            compare(gradient, expected, f"{what}: the {name} on rank {rank}", {why: len(widths) * expected})
        require(
            (forward, backward) == (1, 0),
            f"{what}: {forward} all-reduces forward and {backward} backward; 1 and 0 are enough",
        )


@exercise("23.2", "a rank's heads", points=1)
@given(own=st.integers(1, 3), ranks=st.integers(1, 3), width=st.integers(1, 2))
def check_own_heads(answer, own, ranks, width):
    heads = own * ranks
    names = [f"{kind}{head}" for kind in "qkv" for head in range(heads) for _ in range(width)]
    packed = np.array([range(len(names)), range(len(names))], dtype=float)
    for rank in range(ranks):
        found = answer.own_heads(packed, heads, ranks, rank)
        require(isinstance(found, np.ndarray), f"own_heads returns an array, and yours returns {found!r}")
        expected = [
            names.index(f"{kind}{head}") + column
            for kind in "qkv"
            for head in range(rank * own, (rank + 1) * own)
            for column in range(width)
        ]
        what = f"{count(heads, 'head')} of width {width} on {count(ranks, 'rank')}: rank {rank}"
        require(
            found.shape == (2, len(expected)), f"{what} has shape {found.shape}, not {(2, len(expected))}"
        )
        told = [names[int(column)] for column in found[0]]
        wanted = [names[column] for column in expected]
        require(told == wanted, f"{what} should have the columns of {wanted}, and has those of {told}")
        require_close(found, packed[:, expected], f"{what}: its columns")


@exercise(
    "23.3",
    "a loss without logits",
    points=3,
    rebuilds=["minigrad.dist.vocabulary_parallel.vocabulary_cross_entropy"],
)
@few(0.5)
@given(
    words=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    tokens=st.integers(1, 4),
    scale=st.sampled_from([1, 1000]),
    seed=st.integers(0, 9),
)
def check_vocabulary_loss(answer, words, tokens, scale, seed):
    random = np.random.default_rng(seed)
    logits = scale * random.normal(size=(tokens, sum(words)))
    targets = random.integers(0, sum(words), size=tokens)

    def main(world):
        start, stop = spans(words)[world.rank]
        found = answer.vocabulary_loss(world, logits[:, start:stop].copy(), start, targets.copy())
        losses, gradient = several(found, 2, "vocabulary_loss")
        return losses, gradient, sum(entry.bytes_sent for entry in world.ledger.by_kind.values()) // 8

    rows = np.arange(tokens)
    shifted = logits - logits.max(axis=1, keepdims=True)
    total = np.exp(shifted).sum(axis=1)
    expected = np.log(total) - shifted[rows, targets]
    probabilities = np.exp(shifted) / total[:, None]
    wanted = probabilities.copy()
    wanted[rows, targets] -= 1
    tops = np.concatenate([np.tile(logits[:, a:b].max(1, keepdims=True), b - a) for a, b in spans(words)], 1)
    mistakes = {
        "Each rank subtracted its own largest logit; take the largest of all ranks.": np.log(
            np.exp(logits - tops).sum(axis=1)
        )
        - (logits - tops)[rows, targets],
        "The largest logit was subtracted in the exponentials; subtract it from the target's logit, too.": (
            np.log(total) - logits[rows, targets]
        ),
        "This is the logarithm of the sum alone; subtract the target's logit, on the rank that has it.": (
            np.log(total)
        ),
    }
    big = ", logits in the thousands" if scale > 1 else ""
    small = f", logits {np.round(logits, 4).tolist()}" if logits.size <= 6 else ""
    what = f"ranks with {words} words, targets {targets.tolist()}{big or small}"
    for rank, (losses, gradient, moved) in enumerate(dist.spawn(main, ranks=len(words))):
        start, stop = spans(words)[rank]
        compare(losses, expected, f"{what}: the losses on rank {rank}", mistakes)
        own = probabilities[:, start:stop]
        slips = {
            "These are probabilities; 1 is to be taken off at the target.": own,
            "Divided by the number of tokens: the losses' sum is asked for.": wanted[:, start:stop] / tokens,
            "Divided by the sum of this rank's exponentials; take that of all ranks.": (
                own / own.sum(axis=1, keepdims=True) + wanted[:, start:stop] - own
            ),
        }
        compare(gradient, wanted[:, start:stop], f"{what}: the gradient on rank {rank}", slips)
        require(
            moved <= 3 * tokens,
            f"{what}: rank {rank} hands {moved} numbers to collectives; 3 a token are {3 * tokens}",
        )


def total(cost, slices, stages):
    """What the pipeline takes."""
    times, before = [], 0
    for length in slices:
        times.append(cost(length, before))
        before += length
    return sum(times) + (stages - 1) * max(times)


def cuts(length):
    """All ways to cut so many tokens."""
    for marks in itertools.product((False, True), repeat=length - 1):
        ends = [0, *(k + 1 for k, there in enumerate(marks) if there), length]
        yield [b - a for a, b in itertools.pairwise(ends)]


@exercise(
    "23.4",
    "slices",
    points=3,
    rebuilds=[
        "minigrad.dist.partitioning_tokens.slice_tokens",
        "minigrad.dist.partitioning_tokens.slice_batch",
    ],
)
@few(0.5)
@given(
    length=st.integers(1, 7),
    stages=st.integers(1, 8),
    least=st.integers(0, 4),
    fixed=st.integers(0, 2),
    sixteenths=st.integers(0, 4),
)
@example(length=12, stages=4, least=4, fixed=0, sixteenths=1)
def check_best_slices(answer, length, stages, least, fixed, sixteenths):
    def cost(n, c):
        return fixed + max(least, n) + sixteenths / 16 * n * (c + (n + 1) / 2)

    found = answer.best_slices(cost, length, stages)
    whole = isinstance(found, list | tuple | np.ndarray) and all(
        isinstance(n, int | np.integer) for n in found
    )
    require(whole, f"best_slices returns a list of whole lengths, and yours returns {found!r}")
    found = [int(n) for n in found]
    what = (
        f"{count(length, 'token')}, {count(stages, 'stage')}, t(l, c) = {fixed} + max({least}, l) + "
        f"{sixteenths}/16 l (c + (l + 1) / 2): your slices {found}"
    )
    require(found and min(found) >= 1 and sum(found) == length, f"{what} do not add up to {length}")
    best = min(cuts(length), key=lambda slices: total(cost, slices, stages))
    least_total, yours = total(cost, best, stages), total(cost, found, stages)
    require(yours <= least_total + 1e-9, f"{what} take {yours:g}; {best} take {least_total:g}")


@exercise("23.4", "slices", points=0)
def check_that_it_is_fast(answer):
    for length in (14, 18, 20, 22, 30):  # all ways to cut are four times as many with two tokens more
        started = time.process_time()
        answer.best_slices(lambda n, c: max(4, n) + 0.0625 * n * (c + (n + 1) / 2), length, 8)
        seconds = time.process_time() - started
        require(
            seconds < 2,
            f"{length} tokens took {seconds:.1f} seconds. Do not try all ways to cut: keep the least sum "
            "up to each token",
        )


@exercise(
    "23.5", "attention in slices", points=4, rebuilds=["minigrad.nn.functional.scaled_dot_product_attention"]
)
@few(0.5)
@given(
    slices=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    scale=st.sampled_from([1, 1000]),
    seed=st.integers(0, 9),
)
def check_sliced_attention(answer, slices, scale, seed):
    random = np.random.default_rng(seed)
    q, k, v, c = random.normal(size=(4, sum(slices), 2))
    q *= scale
    scores = q @ k.T / np.sqrt(2)
    weights = softmax(scores, np.tri(len(scores), dtype=bool))
    of_weights = c @ v.T
    of_scores = weights * (of_weights - (weights * of_weights).sum(axis=1, keepdims=True)) / np.sqrt(2)
    attention = answer.SlicedAttention()
    what = f"slices of {slices}" + (", queries in the thousands" if scale > 1 else "")
    for number, (a, b) in enumerate(spans(slices)):
        found = attention.forward(q[a:b].copy(), k[a:b].copy(), v[a:b].copy())
        token, other = np.arange(a, b)[:, None], np.arange(len(v))
        seen = {
            "Tokens looked at their own slice only.": (other >= a) & (other <= token),
            "Tokens looked at tokens after them.": other < b + 0 * token,
            "The first token of a slice looked at token 0 only: count from the start of all.": (
                other <= token - a
            ),
        }
        mistakes = {why: softmax(scores[a:b], mask) @ v for why, mask in seen.items()}
        mistakes["Scores are to be divided by sqrt(d)."] = softmax(q[a:b] @ k.T, other <= token) @ v
        compare(found, (weights @ v)[a:b], f"{what}: the output of slice {number}", mistakes)
    of_q, of_k, of_v = of_scores @ k, of_scores.T @ q, weights.T @ c
    for number, (a, b) in reversed(list(enumerate(spans(slices)))):
        found = several(attention.backward(c[a:b].copy()), 3, "backward")
        own = of_scores[a:b, a:b].T @ q[a:b], weights[a:b, a:b].T @ c[a:b]
        missing = "What later slices send is missing: their tokens looked at these, too."
        for name, mine, whole, part in zip("qkv", found, (of_q, of_k, of_v), (of_q[a:b], *own), strict=True):
            told = f"{what}: the cotangent of {name} of slice {number}"
            scaled = "Forward divides scores by sqrt(d); so does the way back."
            compare(mine, whole[a:b], told, {missing: part, scaled: whole[a:b] * np.sqrt(2)})


def softmax(scores, looked_at):
    """By row, of the entries that are looked at."""
    inside = np.where(looked_at, scores, -np.inf)
    weights = np.exp(inside - inside.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
