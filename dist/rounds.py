"""Carrying out minigrad's own algorithms: start a round, see it arrive, go on."""

import time
from collections.abc import Callable, Iterator

from minigrad.dist.request import Poll
from minigrad.dist.staging import settle
from minigrad.dist.transfer import Round, Transfer


def moving(rounds: Iterator[Round], book: Callable[[Round], None]) -> Iterator[Round]:
    """The rounds in which something moves, without the messages that have no elements; each is booked."""
    for transfers in rounds:
        full = [transfer for transfer in transfers if transfer.buffer.size]
        if full:
            settle(full[0].buffer)
            book(full)
            yield full


class Rounds:
    """The poll of an algorithm: one step further each time it is called, if the messages came.

    start   begins one message
    busy    whether it is being asked just now
    done    whether nothing is left to do
    """

    def __init__(self, rounds: Iterator[Round], start: Callable[[Transfer], Poll]) -> None:
        self.busy = self.done = False
        self._rounds = rounds
        self._start = start
        self._under_way: list[Poll] = []
        self._begin_next()

    def __call__(self, block: bool) -> bool:
        self.busy = True
        try:
            while not self.done:
                while self._under_way:
                    if not self._under_way[0](block):
                        return False
                    self._under_way.pop(0)
                self._begin_next()
        finally:
            self.busy = False
        return True

    def _begin_next(self) -> None:
        transfers = next(self._rounds, None)
        if transfers is None:
            self.done = True
        else:
            self._under_way = [self._start(transfer) for transfer in transfers]


class Progress:
    """What a rank has under way. Whatever it waits for, all of it goes on: others may wait for that first."""

    def __init__(self) -> None:
        self._under_way: list[Rounds] = []

    def add(self, rounds: Rounds) -> None:
        """From now on, move these on."""
        self._under_way.append(rounds)

    def needed(self) -> bool:
        """Whether anything but what is being waited for is under way."""
        self._under_way = [rounds for rounds in self._under_way if not rounds.done]
        return any(not rounds.busy for rounds in self._under_way)

    def step(self) -> None:
        """Move everything on that can move, and let other processes run."""
        for rounds in list(self._under_way):
            if not rounds.busy:
                rounds(False)
        time.sleep(0)
