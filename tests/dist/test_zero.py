"""All four stages give the parameters of the one-rank run, whatever the ranks, models, optimizers, parts."""

from dataclasses import replace
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import nn
from minigrad.dist.single import SingleWorld
from tests.dist.zero_training import Case, close, reference, run, same, train

RANKS = st.sampled_from([1, 2, 3, 4, 5, 7])
STAGES = st.integers(0, 3)
# Lion and Adagrad take steps of full size where the true gradient is zero and rounding says what is left of
# it; they are compared to the last bit, below.
SMOOTH = [
    partial(nn.optim.SGD, momentum=0.9, nesterov=True, weight_decay=0.1),
    nn.optim.AdamW,
    nn.optim.Adam,
    nn.optim.Adamax,
    nn.optim.NAdam,
    nn.optim.RMSprop,
    nn.optim.LARS,
    nn.optim.LAMB,
]
ENTRYWISE = [partial(nn.optim.SGD, momentum=0.9), nn.optim.AdamW, nn.optim.Lion, nn.optim.Adagrad]


@st.composite
def cases(draw, optimizers=SMOOTH, most_parts=3):
    """A model, an optimizer and batches: uneven ones, and some that leave ranks without samples."""
    blocks = draw(st.integers(0, 4))
    return Case(
        samples=draw(st.integers(1, 12)),
        steps=draw(st.integers(5, 6)),
        parts=draw(st.integers(1, most_parts)),
        seed=draw(st.integers(0, 1000)),
        width=draw(st.integers(1, 6)),
        blocks=blocks,
        tied=frozenset(draw(st.sets(st.integers(0, 3)))),
        cold=frozenset(draw(st.sets(st.integers(0, 3), max_size=2))),
        turned=draw(st.booleans()),
        seldom=draw(st.none() | st.integers(0, 3)),
        checkpointed=draw(st.booleans()),
        max_norm=draw(st.sampled_from([None, 0.5, 1e9])),
        optimizer=draw(st.sampled_from(optimizers)),
        zero={
            "bucket_bytes": draw(st.sampled_from([1, 200, 2**22])),
            "algorithm": draw(st.sampled_from(["library", "ring", "halving", "ordered"])),
        },
    )


@settings(deadline=None, max_examples=80)
@given(ranks=RANKS, stage=STAGES, case=cases())
def test_equal_to_one_rank(ranks: int, stage: int, case: Case):
    expected = reference(case)
    for actual in run(replace(case, zero={**case.zero, "stage": stage}), ranks):
        close(actual, expected)


@settings(deadline=None, max_examples=20)
@given(ranks=RANKS, case=cases(optimizers=ENTRYWISE, most_parts=1))
def test_ordered_stages_agree_to_the_last_bit(ranks: int, case: Case):
    expected = reference(case, ranks, ordered=True)
    for stage in range(4):
        ordered = {**case.zero, "stage": stage, "algorithm": "ordered"}
        for actual in run(replace(case, zero=ordered), ranks):
            same(actual, expected)


@settings(deadline=None, max_examples=10)
@given(stage=STAGES, case=cases())
def test_one_rank_alone(stage: int, case: Case):
    close(train(SingleWorld(), replace(case, zero={**case.zero, "stage": stage})), reference(case))
