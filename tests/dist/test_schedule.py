"""Schedules as data: text there and back, and what each published schedule looks like."""

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad.dist.schedule import COMPUTE, Action, B, F, I, Kind, Schedule, W, parse
from minigrad.dist.schedule_check import check
from minigrad.dist.schedule_passes import with_communication, with_shards
from minigrad.dist.schedules import SCHEDULES, make
from minigrad.dist.timing import peak_activations
from minigrad.errors import UsageError

ACTIONS = st.builds(
    Action, st.integers(0, 12), st.sampled_from(list(Kind)), st.integers(0, 120), st.integers(0, 3)
)
FLUSHED = ["naive", "gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "terapipe"]


@st.composite
def schedules(draw) -> Schedule:
    """Any schedule of the catalogue, small."""
    name = draw(st.sampled_from(list(SCHEDULES)))
    ranks, microbatches = draw(st.integers(1, 5)), draw(st.integers(1, 11))
    uses = SCHEDULES[name].uses
    if name == "interleaved":
        microbatches = ranks * draw(st.integers(1, 3))
    if name == "2bw":
        microbatches += ranks
    return make(name, ranks, microbatches, **{what: draw(st.integers(1, 3)) for what in uses})


@given(st.lists(st.lists(ACTIONS, max_size=8), min_size=1, max_size=5).filter(any))
def test_text_there_and_back(rows):
    schedule = Schedule(tuple(map(tuple, rows)))
    assert parse(str(schedule)) == schedule


@given(schedules())
def test_every_schedule_is_proved_and_complete(schedule):
    complete = check(schedule)
    assert parse(str(complete)) == complete
    assert check(complete) == complete  # with the messages that it brings itself, too
    assert complete.only((*COMPUTE, Kind.UPDATE)) == schedule
    check(with_shards(schedule))
    cells = schedule.stages * schedule.microbatches * schedule.slices
    assert sum(action.kind is F for action in schedule) == cells
    assert sum(action.kind in (B, W) for action in schedule) == cells


def test_a_table_by_hand():
    schedule = parse("""
        # two ranks that take turns
        rank 0:  F0  .   .   B0     # stage 0 is meant: the rank's own
        rank 1:  -   F0  B0
    """)
    assert schedule == make("gpipe", 2, 1)
    assert [str(action) for action in check(schedule).ranks[1]] == ["RF0@1", "F0@1", "B0@1", "SB0@1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0: F0\n1: F0 X1", "line 2 of the schedule, cell 2: 'X1' is no action"),
        ("0: F0\n2: F0", "line 2 of the schedule begins '2:', but it is that of rank 1"),
        ("0: F0@", "cell 1: 'F0@' is no action"),
        ("0: F" + "1" * 5000, "cell 1: 'F1{39}' is no action"),
        ("# nothing\n\n", "has no actions"),
        ("0: . .", "has no actions"),
    ],
)
def test_what_is_no_schedule(text, message):
    with pytest.raises(UsageError, match=message):
        parse(text)


# ------------------------------------------------------------------------------------- the catalogue


@pytest.mark.parametrize("name", FLUSHED)
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_no_number_of_microbatches_is_refused_without_a_reason(name, ranks):
    for microbatches in {1, ranks - 1, ranks, 2 * ranks + 1} - {0}:
        if name == "interleaved" and microbatches % ranks:
            with pytest.raises(UsageError, match=f"{microbatches} microbatches are no multiple of {ranks}"):
                make(name, ranks, microbatches)
        else:
            check(make(name, ranks, microbatches))


def compared(source: str) -> set[str]:
    """Names of schedules that some comparison of `source` mentions."""
    compares = (
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Compare | ast.match_case)
    )
    inside = (part for node in compares for part in ast.walk(node))
    return {str(part.value) for part in inside if isinstance(part, ast.Constant)} & set(SCHEDULES)


def test_names_of_schedules_are_compared_nowhere():
    """What there is to know of a schedule is in its actions or its Entry: so a line adds one."""
    assert compared("if name in ('gpipe', 'x') or other == 'zb-h1':\n    pass") == {"gpipe", "zb-h1"}
    root = Path(__file__).resolve().parents[2]
    files = [*(root / "dist").glob("*.py"), *(root / "minigrad" / "cli").glob("*.py")]
    found = {str(path.relative_to(root)): compared(path.read_text(encoding="utf-8")) for path in files}
    assert len(found) > 80
    found["minigrad/cli/partition.py"].clear()  # names of planners
    assert {name: names for name, names in found.items() if names} == {}


def test_2bw_with_too_few_microbatches():
    with pytest.raises(UsageError, match="3 microbatches are fewer than 4 stages"):
        make("2bw", 4, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("pipe", 2, 2), {}, "no schedule 'pipe'; there are naive, gpipe"),
        (("gpipe", 0, 2), {}, "ranks 0; give at least 1"),
        (("gpipe", 2, 0), {}, "microbatches 0"),
        (("1f1b", 2, 2), {"virtual": 2}, r"1f1b has no use for virtual 2.*\(interleaved\)"),
        (("gpipe", 2, 2), {"slices": 3}, r"no use for slices 3.*\(terapipe\)"),
    ],
)
def test_misuse(arguments, options, message):
    with pytest.raises(UsageError, match=message):
        make(*arguments, **options)


@given(st.integers(1, 6), st.integers(1, 14))
def test_memory_is_that_of_the_papers(p, m):
    assert peak_activations(make("naive", p, m)) == [1] * p
    assert peak_activations(make("gpipe", p, m)) == [m] * p
    assert peak_activations(make("1f1b", p, m)) == [min(p - s, m) for s in range(p)]
    assert peak_activations(make("pipedream", p, m)) == [min(p - s, m) for s in range(p)]
    # Qi et al. 2023, table 2 and section 2.3: p and 2p-1 whole activations; (p-i+1) M_B + (i-1) M_W
    assert peak_activations(make("zb-h1", p, m)) == [min(p, m)] * p
    assert peak_activations(make("zb-h2", p, m)) == [min(2 * p - 1, m)] * p
    if m >= 2 * p:
        kept = peak_activations(make("zb-h1", p, m), kept=0.25)
        assert kept == [(p - s) + s * 0.25 for s in range(p)]
        kept = peak_activations(make("zb-h2", p, m), kept=0.25)
        assert kept == [2 * (p - s) - 1 + 2 * s * 0.25 for s in range(p)]


def test_peak_of_the_interleaved_schedule():
    # papers: chunks of size 1/v: [11, 9, 7, 5] for p = 4, v = 2
    peaks = peak_activations(make("interleaved", 4, 8, virtual=2))
    assert [peak * 2 for peak in peaks] == [11, 9, 7, 5]


def test_updates_take_what_came_since_the_last_one():
    schedule = make("2bw", 2, 3, batches=2)
    assert schedule.update_of == {(s, j): j // 3 for s in range(2) for j in range(6)}
    assert make("pipedream", 3, 4).update_of == {(s, j): j for s in range(3) for j in range(4)}
    assert make("gpipe", 2, 2).update_of == {}


def test_a_split_backward_and_a_whole_one_may_be_mixed():
    schedule = parse("F0 F1 I0 B1 W0\nF0 I0 F1 B1 W0")
    check(schedule)
    needed = schedule.dependencies(Action(0, I, 0))
    assert needed == [Action(0, F, 0), Action(1, I, 0)]
    assert schedule.dependencies(Action(0, B, 1)) == [Action(0, F, 1), Action(1, B, 1)]
    assert schedule.dependencies(Action(0, W, 0)) == [Action(0, I, 0)]


def test_neighbours_on_one_rank_need_no_message():
    v_shape = parse("F0@0 F0@3 B0@3 B0@0\nF0@1 F0@2 B0@2 B0@1")
    complete = with_communication(v_shape)
    kinds = [action.kind for action in complete if action.kind not in COMPUTE]
    assert len(kinds) == 8  # four messages, two sides each
    check(complete)
