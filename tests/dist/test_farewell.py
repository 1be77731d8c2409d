"""The normal end of a rank: who stays, who speaks, and when."""

import threading
import time

import pytest

from minigrad.dist import farewell
from minigrad.dist.farewell import FINISHED, Board, Stillness
from minigrad.dist.sight import Sight

SECONDS = 0.3


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farewell, "SECONDS_UNTIL_CERTAIN", SECONDS)


def boards(ranks: int) -> tuple["memoryview", list[Board]]:
    lines = memoryview(bytearray(8 * ranks)).cast("q")
    return lines, [Board(lines, rank, lambda: None) for rank in range(ranks)]


class Ending:
    """A rank that finishes, in a thread."""

    def __init__(self, board: Board) -> None:
        self._found: list[dict[int, str]] = []
        self._thread = threading.Thread(target=lambda: self._found.append(board.finish()), daemon=True)
        self._thread.start()

    def after(self, seconds: float) -> dict[int, str] | None:
        """What it found, or None if it still stays then."""
        self._thread.join(seconds)
        return self._found[0] if self._found else None


def test_alone_nobody_stays() -> None:
    assert farewell.Board(memoryview(bytearray(8)).cast("q"), 0, lambda: None).finish() == {}


def test_a_rank_stays_until_all_have_finished() -> None:
    lines, (_, second, third) = boards(3)
    end, other = Ending(second), Ending(third)
    assert end.after(3 * SECONDS) is None  # nobody else has finished, and nobody waits
    assert other.after(0.0) is None
    lines[0] = FINISHED
    assert (end.after(5.0), other.after(5.0)) == ({}, {})


def test_the_lowest_that_has_finished_says_who_waits_in_what() -> None:
    _, (first, second, third, fourth) = boards(4)
    ends = Ending(fourth), Ending(second)
    first.enter("allreduce")
    assert ends[1].after(3 * SECONDS) is None  # the third might still bring what the first waits for
    third.enter("receive")
    assert ends[1].after(5.0) == {0: "allreduce", 2: "receive"}
    assert ends[0].after(0.0) is None


def test_who_waits_now_and_then_goes_on() -> None:
    lines, (first, second) = boards(2)
    end = Ending(second)
    assert end.after(0.0) is None
    deadline = time.monotonic() + 3 * SECONDS
    while time.monotonic() < deadline:  # always waiting, for one message after the other
        first.enter("send")
        time.sleep(SECONDS / 20)
        first.leave()
        first.enter("send")
    assert end.after(0.0) is None
    lines[0] = FINISHED
    assert end.after(5.0) == {}


def test_messages_that_were_left_under_way_are_moved_on() -> None:
    lines = memoryview(bytearray(16)).cast("q")
    pokes = [0]

    def poke() -> None:
        pokes[0] += 1
        if pokes[0] == 20:
            lines[0] = FINISHED  # the other got what it waited for

    lines[0] = farewell.CODES["receive"]
    assert Board(lines, 1, poke).finish() == {}
    assert pokes[0] == 20


def test_who_waits_counts_while_nobody_goes_on_or_has_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    lines, (first, second) = boards(2)
    now, still = 0.0, Stillness()
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def after(seconds: float) -> float:
        nonlocal now
        now += seconds
        first.look(still)
        return still.seconds

    first.enter("receive")
    assert after(0.25) == after(0.25) == 0.0  # the second computes
    second.enter("barrier")
    assert [after(0.25), after(0.25), after(0.25)] == [0.0, 0.25, 0.5]
    assert after(100.0) == 0.5 + farewell.LONGEST_COUNTED  # this process was stopped
    second.leave()
    second.enter("barrier")  # another one
    assert [after(0.25), after(0.25)] == [0.0, 0.25]
    lines[1] = FINISHED
    assert after(0.25) == after(0.25) == 0.0  # it sees to that itself


@pytest.mark.parametrize("message", [1e9, 10e9])
def test_the_longest_message_has_its_time(monkeypatch: pytest.MonkeyPatch, message: float) -> None:
    held = {71: int(message), 72: 10**6, 73: 10**12}
    monkeypatch.setattr(farewell, "sight_of", lambda process: Sight("R", 0.0, held[process]))
    board, still = Board(memoryview(bytearray(24)).cast("q"), 0, lambda: None, [71, 72, 73]), Stillness()
    needed = 5.0 + message / farewell.SLOWEST_MESSAGE
    for still.seconds, certain in ((4.9, False), (needed - 0.1, False), (needed + 0.1, True)):
        assert board.certain(still, [0, 1], 5.0) is certain  # whoever has finished holds none


def test_where_the_system_tells_nothing_all_have_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farewell, "sight_of", lambda process: None)
    board, still = Board(memoryview(bytearray(16)).cast("q"), 0, lambda: None, [71, 72]), Stillness()
    for still.seconds, certain in ((4.9, False), (5.1, True)):
        assert board.certain(still, [0, 1], 5.0) is certain


def test_a_deadlock_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farewell, "LONGEST_COUNTED", 0.05)
    _, (first, second) = boards(2)
    monkeypatch.setattr(farewell, "board", first)
    first.enter("send")
    second.enter("allgather")
    assert farewell.deadlock(0.1, str) == "0 in send, 1 in allgather"
