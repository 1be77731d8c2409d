"""The planner: the papers' figures, brute force where a search is used, and the meter of real training."""

import itertools
import math
import tracemalloc

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.gpt_units import gpt_units
from minigrad.dist.memory import Meter
from minigrad.dist.planner import (
    PRECISIONS,
    STAGES,
    STATE_ARRAYS,
    Setup,
    largest_model,
    model_states,
    offloaded,
    published_activations,
    smallest_ranks,
    traffic,
)
from minigrad.dist.planner_ladder import ladder
from minigrad.dist.planner_model import count, rank_memory
from minigrad.dist.zero import ZeRO
from minigrad.errors import UsageError
from minigrad.nn.gpt import GPT, GPTConfig

GPT2_XL = GPTConfig(vocabulary=50257, context=1024, layers=48, heads=25, width=1600)
SMALL = GPTConfig(vocabulary=31, context=10, layers=3, heads=2, width=8)

BUCKET = 1000


def total(parameters: float, ranks: int, stage: int) -> float:
    """Gigabytes of a rank, of Adam in mixed precision."""
    return sum(model_states(Setup(int(parameters), ranks), stage).values()) / 1e9


# ---------------------------------------------------------------------------------- what papers print


@pytest.mark.parametrize(("stage", "printed"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_figure_1_of_zero(stage, printed) -> None:
    assert round(total(7.5e9, 64, stage), 1) == printed


TABLE_1 = """
1     120    120    120    2048  2048  2048  16000  16000  16000
4     52.5   41.3   30     896   704   512   7000   5500   4000
16    35.6   21.6   7.5    608   368   128   4750   2875   1000
64    31.4   16.6   1.88   536   284   32    4187   2218   250
256   30.4   15.4   0.47   518   263   8     4046   2054   62.5
1024  30.1   15.1   0.12   513   257   2     4011   2013   15.6
"""


@pytest.mark.parametrize("row", TABLE_1.strip().splitlines())
def test_table_1_of_zero(row) -> None:
    """Cells are rounded or cut off, whichever: an exact value lies less than one last digit away."""
    ranks, *cells = row.split()
    expected = iter(cells)
    for parameters in (7.5e9, 128e9, 1e12):
        for stage in (1, 2, 3):
            printed = next(expected)
            digit = 10.0 ** -len(printed.partition(".")[2])
            assert abs(total(parameters, int(ranks), stage) - float(printed)) < digit


def test_table_1_in_bold_is_the_smallest_number_of_ranks_of_its_rows_that_fits_a_v100() -> None:
    rows = [int(row.split()[0]) for row in TABLE_1.strip().splitlines()]
    for parameters, stage, bold in [
        (7.5e9, 1, 64),
        (7.5e9, 2, 16),
        (7.5e9, 3, 4),
        (128e9, 3, 64),
        (1e12, 3, 1024),
    ]:
        needed = smallest_ranks(Setup(int(parameters)), stage, 32e9)
        assert min(ranks for ranks in rows if ranks >= (needed or math.inf)) == bold
    for parameters, stage in [(128e9, 1), (128e9, 2), (1e12, 1), (1e12, 2), (7.5e9, 0)]:
        assert smallest_ranks(Setup(int(parameters)), stage, 32e9) is None


@pytest.mark.parametrize(("stage", "printed"), [(0, 2), (1, 7.6), (2, 14.4), (3, 128)])
def test_table_2_of_zero_first_row(stage, printed) -> None:
    billions = largest_model(Setup(1, ranks=64), stage, 32e9) / 1e9
    assert round(billions, 1) == printed


def test_table_2_of_zero_in_its_other_rows_multiplies_rounded_values() -> None:
    exact = largest_model(Setup(1, ranks=64), 1, 32e9) / 1e9
    assert 2 * round(exact, 1) == 15.2  # as printed for two model-parallel ranks
    assert round(2 * exact, 1) == 15.3


def test_gpt_2_of_1_5_billion_parameters_has_24_gb_of_states() -> None:
    assert total(1.5e9, 1, 0) == 24


def test_the_papers_activations_of_gpt_2() -> None:
    assert published_activations(layers=48, width=1600, context=1024, batch=32) / 1e9 == pytest.approx(
        60.4, abs=0.05
    )


@pytest.mark.parametrize(
    ("gradients", "update", "multiple", "times"),
    [
        (False, False, 16, "1.00"),
        (True, False, 14, "1.14"),
        (False, True, 4, "4.00"),
        (True, True, 2, "8.00"),
    ],
)
def test_table_1_of_zero_offload(gradients, update, multiple, times) -> None:
    parts = offloaded(Setup(1_000_003), gradients=gradients, update=update)
    device, host = (sum(parts[place].values()) for place in ("device", "host"))
    assert device == multiple * 1_000_003
    assert device + host == 16 * 1_000_003
    assert f"{16 / multiple:.2f}" == times


@pytest.mark.parametrize(("stage", "units"), [(0, 2), (1, 2), (2, 2), (3, 3)])
@pytest.mark.parametrize("ranks", [1, 2, 5, 64])
def test_communication_volume(stage, units, ranks) -> None:
    """ZeRO, section 7: 2Ψ for stages 0 to 2 and 3Ψ for stage 3, times (N − 1)/N; half precision here."""
    setup = Setup(1000, ranks)
    assert sum(traffic(setup, stage).values()) == pytest.approx(2 * units * 1000 * (ranks - 1) / ranks)
    four = sum(traffic(setup, stage, microbatches=4).values()) * ranks
    expected = {0: 2, 1: 2, 2: 4 + 1, 3: 3 * 4}[stage]
    assert four == pytest.approx(2 * expected * 1000 * (ranks - 1))


# --------------------------------------------------------------------------------------- brute force

setups = st.builds(
    Setup,
    st.integers(1, 60),
    st.integers(1, 9),
    st.sampled_from(sorted(STATE_ARRAYS)),
    st.sampled_from(sorted(PRECISIONS)),
)
stages = st.sampled_from(STAGES)


@given(setups, stages)
def test_a_rank_holds_what_an_even_split_gives_the_first_one(setup, stage) -> None:
    held = model_states(setup, stage)
    pieces = dist.balanced_counts(setup.parameters, setup.ranks)
    for name, first_shared in (("parameters", 3), ("gradients", 2), ("optimizer", 1)):
        entries = max(pieces) if stage >= first_shared else setup.parameters
        assert held[name] == setup.widths[name] * entries


@given(setups, stages, st.integers(0, 1500))
def test_smallest_ranks_by_trying_all(setup, stage, memory) -> None:
    fitting = [
        ranks
        for ranks in range(1, 70)
        if sum(model_states(Setup(setup.parameters, ranks, setup.optimizer, setup.precision), stage).values())
        <= memory
    ]
    assert smallest_ranks(setup, stage, memory) == min(fitting, default=None)


@given(setups, stages, st.integers(0, 600))
def test_largest_model_by_trying_all(setup, stage, memory) -> None:
    found = largest_model(setup, stage, memory)
    fitting = [
        parameters
        for parameters in range(1, 600 * 9)
        if sum(model_states(Setup(parameters, setup.ranks, setup.optimizer, setup.precision), stage).values())
        <= memory
    ]
    assert found == max(fitting, default=0)


@pytest.mark.parametrize(
    "arguments",
    [{"parameters": 0}, {"ranks": 0}, {"optimizer": "newton"}, {"precision": "float12"}],
)
def test_what_makes_no_sense_is_refused(arguments) -> None:
    with pytest.raises(UsageError, match=next(iter(arguments))):
        Setup(**{"parameters": 10, **arguments})
    with pytest.raises(UsageError, match="stage 4"):
        model_states(Setup(10), 4)


# ------------------------------------------------------------------------------------ real optimizers

OPTIMIZERS = {
    "sgd": lambda p: nn.optim.SGD(p, 0.1),
    "momentum": lambda p: nn.optim.SGD(p, 0.1, momentum=0.9),
    "nesterov": lambda p: nn.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "adagrad": lambda p: nn.optim.Adagrad(p),
    "rmsprop": lambda p: nn.optim.RMSprop(p),
    "lion": lambda p: nn.optim.Lion(p),
    "lars": lambda p: nn.optim.LARS(p, 0.1),
    "adam": lambda p: nn.optim.Adam(p),
    "adamw": lambda p: nn.optim.AdamW(p),
    "adamax": lambda p: nn.optim.Adamax(p),
    "nadam": lambda p: nn.optim.NAdam(p),
    "lamb": lambda p: nn.optim.LAMB(p),
}


@pytest.mark.parametrize("name", sorted(STATE_ARRAYS))
def test_the_planner_knows_what_each_optimizer_keeps(name) -> None:
    model = nn.Linear(5, 3)
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    (model(mg.ones((2, 5))).sum()).backward()
    optimizer.step()
    held = sum(array.nbytes for array in optimizer.flat_state.values())
    assert held == Setup(5 * 3 + 3, optimizer=name, precision="float32").widths["optimizer"] * (5 * 3 + 3)


# ---------------------------------------------------------------------------------- a model, counted


def kept_by_a_real_pass(config: GPTConfig, batch: int, *, checkpoint: bool) -> tuple[int, int]:
    """Parameters, and bytes of activations of a pass with numbers, in float32."""
    model, meter = GPT(config), Meter()
    for parameter in model.parameters():
        meter.track("parameters", parameter.data)
    model.checkpoint_activations = checkpoint
    tokens = numpy.zeros((batch, config.context), dtype="int64")
    return meter.current["parameters"] // 4, meter.activations(model.loss(tokens, tokens))


@settings(max_examples=12)
@given(
    st.builds(
        GPTConfig,
        vocabulary=st.integers(2, 40),
        context=st.integers(2, 12),
        layers=st.integers(1, 3),
        heads=st.integers(1, 2),
        width=st.sampled_from([4, 8]),
    ),
    st.integers(1, 3),
    st.booleans(),
)
def test_without_values_a_pass_keeps_what_it_keeps_with_them(config, batch, checkpoint) -> None:
    counted = count(config, batch=batch, precision="float32", checkpoint=checkpoint)
    assert (counted.parameters, counted.activations) == kept_by_a_real_pass(
        config, batch, checkpoint=checkpoint
    )
    assert sum(counted.units) == sum(counted.buckets) == counted.parameters


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize(
    ("config", "batch"),
    [
        (GPTConfig(vocabulary=50, context=256, layers=3, heads=8, width=64), 2),
        (GPTConfig(vocabulary=256, context=128, layers=4, heads=4, width=128), 4),
    ],
)
def test_what_is_counted_is_what_the_allocator_hands_out(config, batch, checkpoint) -> None:
    model = GPT(config)
    for parameter in model.parameters():
        parameter.grad_buffer = numpy.empty(parameter.shape, dtype="float32")
    model.checkpoint_activations = checkpoint
    tokens = numpy.zeros((batch, config.context), dtype="int64")
    model.loss(tokens, tokens).backward()  # what is kept for good, such as masks, is there
    model.zero_grad()  # gradients that are added to buffers need room of their own
    tracemalloc.start()
    try:
        loss = model.loss(tokens, tokens)
        kept, _ = tracemalloc.get_traced_memory()
        loss.backward()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    counted = count(config, batch=batch, precision="float32", checkpoint=checkpoint)
    assert kept == pytest.approx(counted.activations, rel=0.01, abs=60_000)  # Python's own objects
    # With numbers, kernels work in blocks that stay in a cache and need less room.
    assert 0.8 * (counted.activations + counted.working) < peak
    assert peak < 1.04 * (counted.activations + counted.working)


def test_checkpointing_keeps_the_inputs_of_blocks_and_costs_a_forward() -> None:
    plain = count(GPT2_XL, batch=32)
    again = count(GPT2_XL, batch=32, checkpoint=True)
    assert plain.parameters == again.parameters == 1_557_611_200
    inputs = 2 * 48 * 32 * 1024 * 1600  # of 48 blocks, in half precision
    logits = 4 * 32 * 1024 * 50257  # which the loss keeps, in float32
    assert inputs + logits < again.activations < 1.1 * (inputs + logits)
    assert again.flops / plain.flops == pytest.approx(4 / 3, abs=0.03)
    assert plain.activations > 60e9


def test_a_model_of_175_billion_parameters_is_counted_in_little_memory() -> None:
    tracemalloc.start()
    try:
        counted = count(GPTConfig(vocabulary=50257, context=2048, layers=96, heads=96, width=12288), batch=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert counted.parameters == pytest.approx(175e9, rel=0.01)
    assert peak < 30e6


def train(world, stage: int, precision: str) -> tuple[dict[str, int], dict[str, int]]:
    """Three steps of a small GPT; what the rank holds afterwards, and at most."""
    meter, mixed = Meter(), precision == "mixed"
    model = GPT(SMALL, dtype="float16" if mixed else precision)
    zero = ZeRO(
        model,
        nn.optim.AdamW(model.parameters()),
        world,
        stage=stage,
        meter=meter,
        bucket_bytes=BUCKET,
        units=gpt_units(model, recompute=False) if stage == 3 else None,
        master="float32" if mixed else None,
    )
    tokens = numpy.zeros((2, SMALL.context), dtype="int64")
    for _ in range(3):
        loss = model.loss(tokens, tokens) / world.size
        loss.backward()
        zero.step()
    return meter.current, meter.peak


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("ranks", "precision"), [(2, "mixed"), (3, "float32"), (7, "mixed"), (7, "float64")])
def test_the_plan_of_a_gpt_is_what_training_it_holds(stage, ranks, precision) -> None:
    counted = count(SMALL, batch=2, precision=precision, bucket_bytes=BUCKET)
    assert len(counted.buckets) > 3
    planned = rank_memory(counted, Setup(counted.parameters, ranks, precision=precision), stage)
    found = dist.spawn(train, ranks=ranks, arguments=(stage, precision))
    held = {name: max(peak[name] for _, peak in found) for name in ("parameters", "gradients", "optimizer")}
    assert held["optimizer"] == planned["optimizer"]
    passing = planned["buffers"] - counted.working
    if stage < 2:
        assert passing == 0
        assert held["gradients"] == planned["gradients"]
    if stage < 3:
        assert held["parameters"] == planned["parameters"]
        assert held["gradients"] <= planned["gradients"] + passing
    else:
        root, *blocks = counted.units
        arriving = held["parameters"] - planned["parameters"]
        neighbours = max(map(sum, itertools.pairwise(blocks)))
        assert arriving == PRECISIONS[precision].parameter * (root + neighbours)
        assert held["gradients"] <= planned["gradients"] + passing - arriving


# ------------------------------------------------------------------------------------------ the ladder


@pytest.mark.parametrize("memory", [None, 8e9])
def test_every_rung_of_one_device_needs_less_than_the_one_before(memory) -> None:
    rungs = ladder(Setup(1), config=GPT2_XL, batch=8, memory=memory)
    alone = [rung for rung in rungs if "ranks" not in rung.name]
    assert len(alone) == 6
    assert all(one.total >= other.total for one, other in itertools.pairwise(alone))
    assert alone[2].total > alone[3].total > 3 * alone[4].total > alone[5].total
    assert alone[3].memory["activations"] == count(GPT2_XL, batch=1, checkpoint=True).activations
    states = 16 * 1_557_611_200
    for rung in alone:
        held = sum(rung.memory[name] for name in ("parameters", "gradients", "optimizer"))
        assert held + rung.host == states


def test_sharding_takes_the_fewest_ranks_that_fit_or_those_that_were_given() -> None:
    rungs = [rung for rung in ladder(Setup(7_500_000_000), memory=32e9) if "ranks" in rung.name]
    assert [int(rung.name.split(" on ")[1].split()[0]) for rung in rungs] == [46, 7, 4]
    assert all(rung.total <= 32e9 for rung in rungs)
    rungs = [rung for rung in ladder(Setup(7_500_000_000, ranks=64), memory=32e9) if "ranks" in rung.name]
    assert [round(rung.total / 1e9, 1) for rung in rungs] == [31.4, 16.6, 1.9]
    assert math.isclose(rungs[2].total, total(7.5e9, 64, 3) * 1e9)
