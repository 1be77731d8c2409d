"""Debug mode: arrays that change under a request, and what ranks show each other before a collective."""

from collections.abc import Callable

import numpy as np
import pytest

from minigrad import dist
from minigrad.dist import debug_mode
from minigrad.dist.debug_mode import CARD_BYTES, card, odd_one_out, text_of
from minigrad.dist.request import Request
from minigrad.dist.verbs import Call
from minigrad.dist.world import World
from minigrad.errors import CommunicationError

START: dict[str, Callable[[World, np.ndarray], Request]] = {
    "send": lambda world, array: world.start_send(array, 1 - world.rank),
    "receive": lambda world, array: world.start_receive(array, 1 - world.rank),
    "all_reduce": lambda world, array: world.start_all_reduce(array),
    "all_reduce by ring": lambda world, array: world.start_all_reduce(array, algorithm="ring"),
    "broadcast": lambda world, array: world.start_broadcast(array, root=1),
    "reduce_scatter": lambda world, array: world.start_reduce_scatter(array, np.zeros(2, array.dtype)),
    "all_gather": lambda world, array: world.start_all_gather(array, np.zeros(8, array.dtype)),
    "all_gather's result": lambda world, array: world.start_all_gather(array[:2].copy(), array),
}


@pytest.mark.parametrize("dtype", ["float64", "float16"])
@pytest.mark.parametrize("what", START)
def test_touching_an_array_under_a_request_is_found(what: str, dtype: str):
    def main(world: World) -> None:
        array = np.ones(4, dtype)
        partner = {"send": "receive", "receive": "send"}.get(what, what)
        request = START[what if world.rank == 0 else partner](world, array)
        if world.rank == 0:
            array[1] += 1
        request.wait()

    verb = what.split()[0].removesuffix("'s")
    with pytest.raises(CommunicationError, match=rf"rank 0 of 2: {verb} got an array that changed before"):
        dist.spawn(main, ranks=2)


@pytest.mark.parametrize("what", START)
def test_leaving_it_alone_is_fine_and_the_result_is_the_same(what: str, monkeypatch: pytest.MonkeyPatch):
    def main(world: World) -> np.ndarray:
        array = np.arange(4.0) + world.rank
        partner = {"send": "receive", "receive": "send"}.get(what, what)
        START[what if world.rank == 0 else partner](world, array).wait()
        return array

    watched = dist.spawn(main, ranks=2)
    monkeypatch.setattr(debug_mode, "_blocks", 0)
    for one, other in zip(watched, dist.spawn(main, ranks=2), strict=True):
        np.testing.assert_array_equal(one, other)


def test_reading_again_without_debug_mode_costs_nothing_and_finds_nothing(monkeypatch: pytest.MonkeyPatch):
    def main(world: World) -> None:
        array = np.ones(4)
        request = world.start_all_gather(array, np.zeros(8))
        array[0] += 1
        request.wait()

    monkeypatch.setattr(debug_mode, "_blocks", 0)
    dist.spawn(main, ranks=2)


def test_cards_differ_where_calls_do_and_say_what_they_are():
    base = Call("all_reduce", np.dtype("float32"), (3,), "sum")
    others = [
        Call("reduce", np.dtype("float32"), (3,), "sum", 0),
        Call("all_reduce", np.dtype("float64"), (3,), "sum"),
        Call("all_reduce", np.dtype("float32"), (4,), "sum"),
        Call("all_reduce", np.dtype("float32"), (3,), "max"),
        Call("all_reduce", np.dtype("float32"), (3,), "sum", algorithm="ring"),
    ]
    cards = np.stack([card(1, base), card(1, base)])
    assert odd_one_out(cards) is None
    for other in [card(1, call) for call in others] + [card(2, base)]:
        assert other.shape == (CARD_BYTES,)
        assert odd_one_out(np.stack([cards[0], cards[0], other])) == (0, 2)
    assert text_of(cards[0]) == "number 1 is all_reduce(sum, float32, shape (3,))"
    long = Call("all_gather", np.dtype("float32"), counts=tuple(range(500)))
    assert text_of(card(3, long)).startswith("number 3 is all_gather(float32, counts (0, 1, 2")


def test_ranks_count_for_themselves_where_only_the_root_knows_the_counts():
    at_root = Call("gather", np.dtype("float32"), None, root=0, counts=(1, 2))
    elsewhere = Call("gather", np.dtype("float32"), None, root=0)
    assert odd_one_out(np.stack([card(1, at_root), card(1, elsewhere)])) is None
