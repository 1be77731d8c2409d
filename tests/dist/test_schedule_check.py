"""`check` refuses what cannot run and nothing else; what it says is compared with real ranks that block."""

import itertools
import random
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import dist, nn
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.schedule import RECEIVES, SENDS, Action, B, F, Kind, Schedule, parse
from minigrad.dist.schedule_check import check
from minigrad.dist.schedules import make
from minigrad.dist.world import World
from minigrad.errors import CommunicationError, UsageError
from tests.dist.test_schedule import schedules

GOOD = str(make("1f1b", 3, 4))
WITH_MESSAGES = str(check(make("1f1b", 3, 4)))


def broken(text: str, old: str, new: str) -> Schedule:
    assert text.count(old) == 1, text
    return parse(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message", "cell"),
    [
        ("F1@1", "", "F1@1 is missing", ">?<"),
        ("B2@2", "", "B2@2 is missing", ">F2@2<"),
        ("F1@1", "F1@1 F1@1", "F1@1 comes 2 times", ">F1@1<"),
        ("B1@0", "B1@0 W1@0", "W1@0 comes beside the whole backward B1@0", ">W1@0<"),
        ("B1@0", "I1@0", "W1@0 is missing", ">F1@0<"),
        ("F0@2 B0@2", "B0@2 F0@2", "B0@2 comes before F0@2", ">B0@2<"),
        ("B3@2", "B3@2 F0@1", "stage 1 is on rank 1 and on rank 2", ">F0@1<"),
        ("B3@2", "B3@2 F0@4 B0@4", "nothing is done on stage 3 of 5", ""),
        ("B3@2", "B3@2 U0@2", "no update takes the gradient of B0@0", ">B0@0<"),
        ("B3@2", "B3@2 G1@2", "G1@2 comes where G0@2 is next", ">G1@2<"),
    ],
)
def test_what_is_wrong_is_named_and_marked(old, new, message, cell):
    with pytest.raises(UsageError) as caught:
        check(broken(GOOD, old, new))
    assert message in str(caught.value)
    assert cell in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("SF0@0 ", "", "SF0@0 is missing: F0@1 needs what F0@0 made"),
        ("RB0@1 ", "", "RB0@1 is missing"),
        ("F0@0 SF0@0", "SF0@0 F0@0", "SF0@0 comes before F0@0, which makes it"),
        ("RF0@1 F0@1", "F0@1 RF0@1", "F0@1 comes before RF0@1, which it needs"),
        ("RB3@0 B3@0", "RB3@0 B3@0 SB3@0", "SB3@0: no rank needs this message"),
        ("RB3@0 B3@0", "RB3@0 B3@0 RF0@0", "RF0@0: no rank needs this message"),
    ],
)
def test_messages_of_its_own(old, new, message):
    with pytest.raises(UsageError) as caught:
        check(broken(WITH_MESSAGES, old, new))
    assert message in str(caught.value)


def test_computations_that_wait_in_a_circle():
    with pytest.raises(UsageError) as caught:
        check(parse("F0 B0 F1 B1\nF0 F1 B0 B1"))
    text = str(caught.value)
    assert "deadlock" in text
    assert "B0@0 on rank 0 waits for B0@1; F1@1 on rank 1 waits for F1@0" in text
    assert ">B0@0<" in text
    assert ">F1@1<" in text


def test_sends_that_lean_on_buffers():
    """Both ranks send first: with buffers this runs, and without it hangs."""
    text = """
        F0 SF0 F1 SF1 RB0 B0 RB1 B1
        RF0 F0 B0 SB0 RF1 F1 B1 SB1
    """
    with pytest.raises(UsageError) as caught:
        check(parse(text))
    assert "SF1@0 on rank 0 waits to be received by rank 1" in str(caught.value)
    check(parse(text.replace("SF1 RB0", "RB0 SF1")))


def test_memory_bound():
    schedule = make("1f1b", 4, 8)
    check(schedule, most_activations=[4, 3, 2, 1])
    with pytest.raises(
        UsageError, match="rank 2 holds the activations of 2 whole stages, more than the bound 1"
    ):
        check(schedule, most_activations=[4, 3, 1, 1])
    with pytest.raises(
        UsageError,
        match=r"(?s)rank 0 holds the activations of 8 whole stages, more than the bound 7.5.*>F7@0<",
    ):
        check(make("gpipe", 2, 8), most_activations=7.5)
    with pytest.raises(UsageError, match="1 bounds were given for the 2 ranks of gpipe"):
        check(make("gpipe", 2, 8), most_activations=[1])


def test_updates_that_differ_between_stages():
    with pytest.raises(UsageError, match=r"stage 1 take other microbatches.*: \{0\} \{1\} and \{0, 1\}"):
        check(parse("F0 F1 B0 B1 U0\nF0 B0 U0 F1 B1 U1"))
    with pytest.raises(UsageError, match="U2@0 comes where U1@0 is next"):
        check(parse("F0 B0 U0 F1 B1 U2"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("F0 U0 B0 U1", "U0@0 takes no gradient"),
        ("F0 B0 U0 U1", "U1@0 takes no gradient"),
        ("F0 I0 U0 W0 U1", "U0@0 takes no gradient"),
        ("F0 F0.1 B0.1 U0 B0 U1", "U0@0 comes between the backwards of the slices of microbatch 0"),
    ],
)
def test_updates_without_a_gradient(text, message):
    with pytest.raises(UsageError) as caught:
        check(parse(text))
    assert message in str(caught.value)
    assert f">{message.split()[0]}<" in str(caught.value)


def takes(row) -> list[set[int]] | None:
    """What each update of a one-stage row takes, by the letter; None where that makes no sense."""
    found: list[set[int]] = []
    waiting: set[int] = set()
    for action in row:
        if action.kind is B:
            waiting.add(action.microbatch)
        elif action.kind is Kind.UPDATE:
            if not waiting or action.microbatch != len(found):
                return None
            found.append(waiting)
            waiting = set()
    return None if waiting else found


@settings(max_examples=60)
@given(
    base=st.one_of(
        st.builds(partial(make, "pipedream"), st.integers(1, 3), st.integers(1, 5)),
        st.builds(
            lambda n, m, b: make("2bw", n, n + m, batches=b), st.integers(1, 3), *[st.integers(1, 2)] * 2
        ),
    ),
    choice=st.randoms(use_true_random=False),
)
def test_updates_that_were_moved_about(base: Schedule, choice: random.Random):
    """`check` refuses exactly those that make no sense; what it lets pass runs to its end."""
    rows = [list(row) for row in base.ranks]
    alike = choice.random() < 0.5  # the same change on all ranks, counted from the end, often makes sense
    way, back = choice.choice(["move", "add", "drop"]), choice.randint(1, 8)
    for row in rows if alike else [choice.choice(rows)]:
        places = [place for place, action in enumerate(row) if action.kind is Kind.UPDATE]
        if way != "add":
            row.pop(places[choice.randrange(len(places)) if not alike else 0])
        if way != "drop":
            row.insert(max(0, len(row) - back), Action(row[0].stage, Kind.UPDATE, 0))
        if choice.random() < 0.8:  # numbers in order
            numbers = itertools.count()
            row[:] = [a._replace(microbatch=next(numbers)) if a.kind is Kind.UPDATE else a for a in row]
    changed = Schedule(tuple(map(tuple, rows)))
    taken = [takes(row) for row in rows]
    updates = any(action.kind is Kind.UPDATE for action in changed)
    if updates and (None in taken or any(other != taken[0] for other in taken)):
        with pytest.raises(UsageError, match="cannot run"):
            check(changed)
        return
    check(changed)

    def main(world: World) -> float:
        return float(
            Pipeline(
                [nn.Linear(2, 2, dtype="float64") for _ in rows],
                schedule=changed,
                versions="stashing" if updates else None,
                loss=nn.functional.mse_loss,
                optimizer=partial(nn.optim.SGD, lr=0.1) if updates else None,
                world=world,
            ).step(*np.ones((2, changed.microbatches, 2)))
        )

    assert all(np.isfinite(loss) for loss in dist.spawn(main, ranks=len(rows)))


def test_forward_only():
    schedule = make("1f1b", 3, 4).only((F,))
    check(schedule, forward_only=True)
    with pytest.raises(UsageError, match="B0@0 is missing"):
        check(schedule)
    with pytest.raises(UsageError, match="B1@0 is missing"):  # all or none
        check(parse("F0 F1 B0\nF0 F1 B0"), forward_only=True)


def runs(schedule: Schedule) -> bool:
    """Whether real ranks get through the messages, with sends that return only when they were received."""

    def main(world: World) -> None:
        for action in schedule.ranks[world.rank]:
            if action.kind in SENDS or action.kind in RECEIVES:
                gradient = action.kind in (Kind.SEND_GRADIENT, Kind.RECEIVE_GRADIENT)
                tag = action.microbatch * 100 + action.slice * 10 + gradient
                verb = world.send if action.kind in SENDS else world.receive
                verb(np.zeros(1), schedule.rank_of[action.peer_stage], tag=tag)

    try:
        dist.spawn(main, ranks=len(schedule.ranks))
    except CommunicationError as error:
        return "deadlock" not in str(error)
    return True


@given(schedules().filter(lambda s: s.stages == len(s.ranks)), st.randoms(use_true_random=False))
def test_the_verdict_is_that_of_real_ranks(schedule, choice: random.Random):
    """Move messages about within what order allows: `check` refuses exactly the lists on which ranks hang."""
    rows = [list(row) for row in check(schedule).ranks]
    for _ in range(choice.randint(0, 6)):
        row = choice.choice(rows)
        place = choice.randrange(len(row))
        if row[place].kind in SENDS:  # later is always in order
            row.insert(choice.randint(place, len(row) - 1), row.pop(place))
        elif row[place].kind in RECEIVES:  # earlier, too
            row.insert(choice.randint(0, place), row.pop(place))
    changed = Schedule(tuple(map(tuple, rows)))
    expected = runs(changed)
    if expected:
        check(changed)
    else:
        with pytest.raises(UsageError, match="deadlock"):
            check(changed)


def test_the_grid_shows_the_neighbourhood_of_a_cell():
    rows = [list(row) for row in make("gpipe", 2, 30).ranks]
    rows[1][40] = Action(1, B, 29)
    with pytest.raises(UsageError) as caught:
        check(Schedule(tuple(map(tuple, rows))))
    lines = str(caught.value).splitlines()
    assert lines[1].startswith("0: … ")
    assert lines[2].endswith(" …")
    assert ">B29@1<" in lines[2]
    assert max(map(len, lines[1:])) < 200
