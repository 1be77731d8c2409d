"""Planners against brute force, and against the figures of their papers."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad import nn
from minigrad.dist.partitioning import Layer, Level, balance, pipedream
from minigrad.dist.partitioning_tokens import pipeline_seconds, slice_batch, slice_tokens, terapipe_flops
from minigrad.errors import UsageError
from minigrad.nn.gpt import Block, GPTConfig


def compositions(total: int, parts: int | None = None):
    """All ways to write `total` as an ordered sum of positive numbers."""
    for cuts in itertools.product([False, True], repeat=total - 1):
        found, run = [], 1
        for cut in cuts:
            if cut:
                found.append(run)
                run = 0
            run += 1
        found.append(run)
        if parts is None or len(found) == parts:
            yield found


# ------------------------------------------------------------------------------------------ balance


@given(st.lists(st.integers(0, 9), min_size=1, max_size=9), st.sampled_from([1, 3, 10, 1000]), st.data())
def test_balance_is_best(costs, unit, data):
    """In exact numbers, whatever rounding does to tenths or thirds."""
    stages = data.draw(st.integers(1, len(costs)))

    def key(counts):
        ends = list(itertools.accumulate(counts))
        sums = [sum(costs[end - n : end]) for n, end in zip(counts, ends, strict=True)]
        return max(sums), sum(x * x for x in sums)

    found = balance([cost / unit for cost in costs], stages)
    assert len(found) == stages
    assert key(found) == min(key(counts) for counts in compositions(len(costs), stages))


def test_maxima_that_differ_by_rounding_are_equal():
    assert balance([0.2, 0.3, 0.2, 0.1, 0.3], 3) == [2, 2, 1]  # 0.5 0.3 0.3, and not 0.2 0.5 0.4


def test_more_stages_than_layers():
    with pytest.raises(UsageError, match="3 layers cannot be cut into 4 stages"):
        balance([1, 1, 1], 4)


# ---------------------------------------------------------------------------------------- PipeDream

SECONDS = [30, 40, 40, 40, 30, 5, 2, 1]
OUTPUTS = [32, 16, 8, 4, 1, 0.2, 0.2, 0.1]
WEIGHTS = [0.1, 0.3, 1, 5, 10, 410, 67, 16]
VGG = [Layer(*row) for row in zip(SECONDS, OUTPUTS, WEIGHTS, strict=True)]


@pytest.mark.parametrize(
    ("machines", "seconds", "stages"),
    [
        (2, 110, "(0-2)x1 (3-7)x1"),
        (4, 50, "(0-3)x3 (4-7)x1"),
        (8, 180 / 7, "(0-4)x7 (5-7)x1"),  # 7-1: convolutions replicated, the dense layers alone
    ],
)
def test_pipedream_2018_on_something_like_vgg(machines, seconds, stages):
    plan = pipedream(VGG, [Level(machines, 4)])
    assert plan.seconds == pytest.approx(seconds, abs=1e-12)
    assert " ".join(map(str, plan.stages)) == stages
    assert plan.in_flight == 2


def exchanged(layers, m, bandwidth):
    return 4 * (m - 1) * sum(layer.weight_bytes for layer in layers) / (m * bandwidth)


@pytest.mark.parametrize(("machines", "seconds"), [(2, 127.35), (4, 95.5125), (8, 55.715625)])
def test_data_parallelism_alone(machines, seconds):
    assert max(sum(SECONDS), exchanged(VGG, machines, 4)) / machines == pytest.approx(seconds)


def paper(runs, shares, alone, bandwidth, inside, rest, compression):
    """The slowest of a pipeline's stages and of the messages between them (Harlap et al. 2018)."""
    times = [max(t, exchanged(run, m, bandwidth)) / m for run, m, t in zip(runs, shares, alone, strict=True)]
    return max([*times, *(2 * run[-1].output_bytes / bandwidth for run in runs[:-1])])


def code(runs, shares, alone, bandwidth, inside, rest, compression):
    """The same by the optimizer published with Narayanan et al. 2019. `rest` is whether layers follow."""
    times = []
    for place, (run, m, t) in enumerate(zip(runs, shares, alone, strict=True)):
        exchange = exchanged(run, m, bandwidth)
        times.append((t + (exchange if place else exchange / inside)) / m)
        if place and compression is not None:
            handed = [runs[place - 1][-1].output_bytes]
            if place + 1 < len(runs) or rest:
                handed.append(run[-1].output_bytes)
            times += [2 * size / (bandwidth * m) / compression for size in handed]
    return max(times)


def brute_force(layers, levels, rule, compression, *, rest=False):
    """All cuts of the chain and all numbers of replicas; inner levels by recursion."""
    if not levels:
        return sum(layer.seconds for layer in layers)
    *inner, level = levels
    inside = inner[-1].machines if inner else 1
    best = math.inf
    for counts in compositions(len(layers)):
        ends = list(itertools.accumulate(counts))
        runs = [layers[end - n : end] for n, end in zip(counts, ends, strict=True)]
        alone = [
            brute_force(run, inner, rule, compression, rest=rest or end < len(layers))
            for run, end in zip(runs, ends, strict=True)
        ]
        for shares in compositions(level.machines, len(runs)):
            taken = rule(runs, shares, alone, level.bytes_per_second, inside, rest, compression)
            best = min(best, taken)
    return best


LAYERS = st.lists(
    st.builds(Layer, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=5
)
LEVELS = st.lists(st.builds(Level, st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=2)


@given(LAYERS, LEVELS, st.sampled_from([("2018", None), ("2019", None), ("2019", 1.0), ("2019", 2.5)]))
def test_pipedream_is_best(layers, levels, variant):
    name, compression = variant
    plan = pipedream(layers, levels, variant=name, compression=compression)
    rule = paper if name == "2018" else code
    assert plan.seconds == pytest.approx(brute_force(layers, levels, rule, compression), abs=1e-12)
    for stages, level in ((plan.stages, levels[-1]), (plan.stages[0].inner, levels[0])):
        if stages:
            assert sum(stage.replicas for stage in stages) == level.machines
            assert all(a.stop == b.start for a, b in itertools.pairwise(stages))
    assert (plan.stages[0].start, plan.stages[-1].stop) == (0, len(layers))


@pytest.mark.parametrize(("machines", "seconds", "compressed"), [(2, 10.0, 12.0), (4, 6.0, 6.5)])
def test_pipedream_2019_by_hand(machines, seconds, compressed):
    """A cut costs nothing there by default: (10 + 4/2) / 2 on two machines each, whatever is handed on.

    Uncompressed, the message of 2 · 50 / 2 is dearer than (20 + 4 · 2 (m-1)/m) / m without a cut.
    """
    layers = [Layer(10, 50, 1), Layer(10, 0, 1)]
    assert pipedream(layers, [Level(machines, 1)], variant="2019").seconds == seconds
    assert pipedream(layers, [Level(machines, 1)], variant="2019", compression=1).seconds == compressed


@pytest.mark.parametrize(
    ("layers", "levels", "variant", "message"),
    [
        ([], [Level(1, 1)], "2018", "got 0 and 1"),
        (VGG, [Level(0, 1)], "2018", "0 machines"),
        (VGG, [Level(2, 0)], "2018", "bandwidth of 0"),
        (VGG, [Level(2, 1)], "2020", "no variant '2020'"),
        (VGG, [Level(2, math.inf)], "2018", "bandwidth of inf"),
        ([Layer(1, -1, 1)], [Level(2, 1)], "2018", "layer 0 has a number that is not finite or negative"),
        ([Layer(math.nan, 1, 1)], [Level(2, 1)], "2019", "layer 0 has a number that is not finite"),
    ],
)
def test_profiles_that_make_no_sense(layers, levels, variant, message):
    with pytest.raises(UsageError, match=message):
        pipedream(layers, levels, variant=variant)


# ----------------------------------------------------------------------------------------- TeraPipe


def bounded_below(tokens: int, before: int) -> float:
    return max(4, tokens) + 0.0625 * tokens * (before + (tokens + 1) / 2)


def attending(tokens: int, before: int) -> float:
    return 1 + tokens + 0.1 * tokens * before


@pytest.mark.parametrize(
    ("cost", "length", "stages", "seconds", "slices"),
    [
        (bounded_below, 12, 4, 36.0625, [5, 4, 3]),
        (bounded_below, 12, 8, 60.25, [4, 4, 2, 2]),
        (bounded_below, 14, 16, 111.875, None),
        (attending, 12, 1, 13.0, [12]),
        (attending, 12, 4, 37.6, [4, 2, 2, 2, 2]),
        (attending, 12, 8, 51.2, None),
    ],
)
def test_terapipe_figures(cost, length, stages, seconds, slices):
    found = slice_tokens(cost, length, stages)
    assert found.seconds == pytest.approx(seconds, abs=1e-12)
    if slices:
        assert found.slices == slices


def times_of(cost, lengths):
    return [cost(n, sum(lengths[:i])) for i, n in enumerate(lengths)]


@pytest.mark.parametrize(
    ("cost", "length", "stages", "seconds"),
    [
        (bounded_below, 12, 4, 36.75),
        (bounded_below, 12, 8, 63.25),
        (bounded_below, 14, 16, 119.875),
        (attending, 12, 4, 39.0),
    ],
)
def test_the_best_equal_slices_are_worse(cost, length, stages, seconds):
    sizes = [n for n in range(1, length + 1) if length % n == 0]
    uniform = min(pipeline_seconds(times_of(cost, [n] * (length // n)), stages) for n in sizes)
    assert uniform == pytest.approx(seconds, abs=1e-12)
    assert slice_tokens(cost, length, stages).seconds < uniform


@given(st.integers(1, 9), st.integers(1, 6), st.randoms(use_true_random=False))
def test_slices_are_best(length, stages, choice):
    table = {(n, c): choice.randint(0, 12) for n in range(1, length + 1) for c in range(length)}

    def cost(tokens, before):
        return table[tokens, before]

    best = min(pipeline_seconds(times_of(cost, lengths), stages) for lengths in compositions(length))
    found = slice_tokens(cost, length, stages)
    assert sum(found.slices) == length
    assert found.seconds == best
    tolerance = choice.choice([0.5, 1, 3])
    rough = slice_tokens(cost, length, stages, tolerance=tolerance)
    assert best <= rough.seconds <= best + (stages - 1) * tolerance


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.randoms(use_true_random=False))
def test_parts_of_the_batch_and_slices_together_are_best(length, sequences, stages, choice):
    table = {
        (n, c, b): choice.randint(0, 12)
        for n in range(1, length + 1)
        for c in range(length)
        for b in range(1, sequences + 1)
    }

    def of_part(b):
        return [times_of(lambda n, c: table[n, c, b], lengths) for lengths in compositions(length)]

    best = min(
        pipeline_seconds(list(itertools.chain(*chosen)), stages)
        for parts in compositions(sequences)
        for chosen in itertools.product(*(of_part(b) for b in parts))
    )
    found = slice_batch(lambda n, c, b: table[n, c, b], length, sequences, stages)
    assert found.seconds == best
    assert sum(b for b, _ in found.parts) == sequences


def test_granularity():
    found = slice_tokens(attending, 12, 4, granularity=3)
    assert all(n % 3 == 0 for n in found.slices)
    with pytest.raises(UsageError, match="12 tokens are no multiple of the granularity 5"):
        slice_tokens(attending, 12, 4, granularity=5)
    with pytest.raises(UsageError, match="finite"):
        slice_tokens(lambda tokens, before: math.inf, 4, 2)


# -------------------------------------------------------------------------------- published tables

SETTINGS = {
    "175B": {"layers": 96, "width": 12288, "heads": 96, "length": 2048, "batch": 2},
    "44B": {"layers": 96, "width": 6144, "heads": 48, "length": 2048, "batch": 8},
    "13B": {"layers": 40, "width": 5120, "heads": 40, "length": 2048, "batch": 32},
}


@pytest.mark.parametrize(
    ("setting", "gpus", "seconds", "teraflops"),
    [
        ("175B", 384, 9.990, 1.1300),
        ("175B", 384, 1.481, 7.6225),
        ("175B", 384, 1.547, 7.2973),
        ("175B", 384, 3.252, 3.4714),
        ("175B", 384, 2.902, 3.8900),
        ("44B", 384, 2.662, 4.2995),
        ("44B", 384, 1.111, 10.3018),
        ("13B", 320, 1.863, 8.5792),
        ("13B", 320, 1.328, 12.0354),
    ],
)
def test_flops_of_terapipe(setting, gpus, seconds, teraflops):
    per_gpu = terapipe_flops(**SETTINGS[setting]) / gpus / seconds / 1e12
    assert per_gpu == pytest.approx(teraflops, abs=5e-5)


@pytest.mark.parametrize(
    ("layers", "parameters", "digits", "gibibytes", "places"),
    [
        (3, 282.2e6, 0.1e6, 3.15, 0.01),
        (13, 785.8e6, 0.1e6, 8.8, 0.1),
        (103, 5.3e9, 0.1e9, 59.5, 0.1),
        (415, 21.0e9, 0.1e9, 235.1, 0.1),
        (1663, 83.9e9, 0.1e9, 937.9, 0.6),
    ],
)
def test_table_1_of_gpipe(layers, parameters, digits, gibibytes, places):
    """The Transformer row, counted from layers without data, and its parameter memory (12 bytes each)."""
    width = 2048
    config = GPTConfig(vocabulary=32000, layers=1, heads=16, width=width, context=1024)
    block = Block(config, name="0", device="shapes")
    table = nn.Embedding(32000, width, device="shapes")
    head = nn.Linear(width, 32000, bias=False, device="shapes")
    count = layers * sum(p.size for p in block.parameters())
    count += sum(p.size for module in (table, head) for p in module.parameters())
    assert abs(count - parameters) < digits
    assert abs(12 * count / 2**30 - gibibytes) < places
