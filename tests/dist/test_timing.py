"""The figures of the papers come out of the schedules by running them on a clock."""

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad.dist.schedule import Action, B, F, I, Kind, W, parse
from minigrad.dist.schedule_grid import boxes, draw, grid
from minigrad.dist.schedule_passes import with_shards
from minigrad.dist.schedules import make
from minigrad.dist.timing import Costs, measured, simulate
from minigrad.errors import UsageError
from tests.dist.test_schedule import schedules


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@pytest.mark.parametrize(
    ("p", "m", "makespan", "idle", "bubble"),
    [(4, 8, 33, 9, 3 / 11), (4, 4, 21, 9, 3 / 7), (8, 32, 117, 21, 7 / 39), (2, 6, 21, 3, 1 / 7)],
)
def test_gpipe_and_1f1b(name, p, m, makespan, idle, bubble):
    timeline = simulate(make(name, p, m), Costs(1, 2))
    assert timeline.makespan == makespan
    assert timeline.idle == [idle] * p
    assert timeline.bubble_fraction == bubble


@pytest.mark.parametrize(
    ("p", "m", "v", "makespan", "bubble_time"),
    [(4, 8, 2, 28.5, 4.5), (4, 8, 4, 26.25, 2.25), (8, 32, 2, 106.5, 10.5), (2, 4, 2, 13.5, 1.5)],
)
def test_interleaved(p, m, v, makespan, bubble_time):
    timeline = simulate(make("interleaved", p, m, virtual=v), Costs(1, 2))
    assert timeline.makespan == makespan
    assert timeline.idle == [bubble_time] * p


@pytest.mark.parametrize(("p", "m", "makespan"), [(4, 8, 27), (4, 12, 39), (8, 24, 79)])
def test_zero_bubble(p, m, makespan):
    timeline = simulate(make("zb-h1", p, m), Costs(1, 2, 1))
    assert timeline.makespan == makespan
    assert timeline.idle == [p - 1] * p
    assert simulate(make("1f1b", p, m)).idle == [3 * (p - 1)] * p
    second = simulate(make("zb-h2", p, m), Costs(1, 2, 1))
    assert second.gaps == [0] * p  # zero as the paper counts it: without the staggered ends
    assert max(simulate(make("zb-h1", p, m)).gaps) == p - 1


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 3), st.integers(0, 3))
def test_parameters_are_gathered_before_and_gradients_reduced_after(p, m, gather, reduce):
    """Stages gather at once, and reduce one after the other, the first stage last."""
    schedule = with_shards(make("gpipe", p, m))
    timeline = simulate(schedule, Costs(gather=gather, reduce=reduce))
    assert timeline.makespan == gather + 3 * (m + p - 1) + reduce
    assert [span.action for span in timeline.of(0)] == list(schedule.ranks[0])
    assert "G0" in grid(simulate(schedule, Costs(gather=1)))
    drawn = [box.text for row in boxes(timeline) for box in row]
    assert [text[0] for text in drawn].count("R") == p


EIGHTHS = st.fractions(0, 4, max_denominator=8)


@given(st.integers(1, 6), st.integers(1, 12), EIGHTHS, EIGHTHS)
def test_formulas_hold_for_any_costs(p, m, forward, backward):
    costs = Costs(float(forward), float(backward))
    expected = (m + p - 1) * (forward + backward)
    for name in ("gpipe", "1f1b"):
        assert simulate(make(name, p, m), costs).makespan == float(expected)
    assert simulate(make("naive", p, m), costs).makespan == float(p * m * (forward + backward))


@given(
    st.integers(1, 5), st.integers(2, 4), st.integers(0, 12), st.fractions(0, 1, max_denominator=6)
)  # fmt: skip
def test_idle_of_zb_h1(p, rounds, extra, postponed):
    """(p−1)(F + I − W) of Qi et al. 2023, table 2, where the three take about as long."""
    forward, inputs, weights = 1, 1, 1 - postponed / 4
    costs = Costs(forward, float(inputs + weights), float(weights))
    timeline = simulate(make("zb-h1", p, rounds * p + extra), costs)
    assert timeline.idle[0] >= float((p - 1) * (forward + inputs - weights)) - 1e-9
    if weights == 1:
        assert timeline.idle == [float((p - 1) * (forward + inputs - weights))] * p


@pytest.mark.parametrize(("slices", "stages"), [([5, 4, 3], 4), ([2, 2, 2, 2, 2, 2], 3), ([12], 5)])
def test_terapipe_is_the_cost_model_of_its_planner(slices, stages):
    """Forward time of uneven slices, each by its own cost: Σ t + (K−1) max t."""
    times = [max(4, n) + 0.0625 * n * (sum(slices[:i]) + (n + 1) / 2) for i, n in enumerate(slices)]
    schedule = make("terapipe", stages, 1, slices=len(slices)).only((F,))
    timeline = simulate(schedule, lambda action: Fraction(times[action.slice]))
    assert timeline.makespan == sum(times) + (stages - 1) * max(times)
    if slices == [5, 4, 3]:
        assert timeline.makespan == 36.0625


def test_a_message_takes_its_time_and_a_link_carries_one_at_a_time():
    one = make("gpipe", 2, 1)
    assert simulate(one, Costs(1, 2, link=0.5)).makespan == 3 + 3 + 2 * 0.5
    assert (
        simulate(one, Costs(1, 2), link=lambda send: 3 if send.kind is Kind.SEND_GRADIENT else 0).makespan
        == 9
    )
    # Forwards of 1 behind a link of 3: microbatch j arrives at 1 + 3(j+1).
    timeline = simulate(make("gpipe", 2, 3), Costs(1, 0, link=3))
    assert [span.start for span in timeline.of(1) if span.action.kind is F] == [4, 7, 10]


def test_a_pause_after_each_computation():
    """F0 F1 B0 B1 on two stages: what rank 0 hands on leaves a pause late, and so does what comes back."""
    timeline = simulate(make("gpipe", 2, 2), Costs(1, 2, link=0.5), between=0.25)
    assert [span.start for span in timeline.of(0)] == [0, 1.25, 7, 9.25]
    assert [span.start for span in timeline.of(1)] == [1.75, 3, 4.25, 6.5]
    assert timeline.makespan == 11.25
    assert timeline.idle == [11.25 - 6] * 2


def test_measured_costs():
    seconds = {(0, F): 1.0, (0, B): 2.0, (1, F): 3.0, (1, I): 1.0, (1, W): 1.5}
    timeline = simulate(make("gpipe", 2, 1), measured(seconds))
    assert timeline.makespan == 1 + 3 + 2.5 + 2
    split = simulate(parse("F0 B0\nF0 I0 W0"), measured(seconds))
    assert split.makespan == 1 + 3 + 1 + 2  # the weights of stage 1 meanwhile
    with pytest.raises(UsageError, match="does not say how long I0@0 takes"):
        simulate(make("zb-h1", 1, 1), measured({(0, F): 1.0}))


@given(schedules(), st.integers(0, 3))
def test_what_every_timeline_is(schedule, link):
    timeline = simulate(schedule, Costs(1, 3, 1, link=link))
    stop = {span.action: span.stop for span in timeline.spans}
    for rank in range(len(schedule.ranks)):
        row = timeline.of(rank)
        assert all(a.stop <= b.start for a, b in itertools.pairwise(row))
    for span in timeline.spans:
        if span.action.kind is Kind.UPDATE:
            continue
        for needed in schedule.dependencies(span.action):
            away = schedule.rank_of[needed.stage] != span.rank
            assert span.start >= stop[needed] + (link if away else 0)
    busy = 4 * schedule.microbatches
    assert timeline.idle == pytest.approx([timeline.makespan - busy] * len(schedule.ranks))
    assert timeline.bubble_fraction == pytest.approx(1 - busy / timeline.makespan)


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        ({"forward": -1}, "forward takes -1"),
        ({"link": float("nan")}, "link takes nan"),
        ({"backward": 1, "weight": 2}, "longer than the whole of 1"),
    ],
)
def test_costs_that_make_no_sense(costs, message):
    with pytest.raises(UsageError, match=message):
        Costs(**costs)


def test_a_circle():
    with pytest.raises(UsageError, match="no rank can go on"):
        simulate(parse("F0 B0 F1 B1\nF0 F1 B0 B1"))


# -------------------------------------------------------------------------------------- to look at


def test_grid_of_fractions_and_of_many_columns():
    text = grid(simulate(make("interleaved", 2, 2, virtual=3)))
    lines = text.splitlines()
    assert lines[0].startswith("0: F0@0 F1@0 F0@2")
    assert "B0@5------" in lines[1]
    long = make("gpipe", 2, 200)
    assert grid(simulate(long)) == str(long)


def test_boxes_and_drawing():
    timeline = simulate(make("interleaved", 2, 2, virtual=2))
    rows = boxes(timeline)
    assert [len(row) for row in rows] == [8, 8]
    assert {(box.text[-1], box.pale) for row in rows for box in row} == {
        ("0", False), ("1", False), ("2", True), ("3", True),
    }  # fmt: skip
    picture = draw(timeline, title="interleaved", measured=timeline)
    assert picture.count('height="26.00"') == 32
    assert ">measured<" in picture
    assert Action(0, F, 0) in timeline.schedule.places
