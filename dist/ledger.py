"""The ledger: what one rank handed to its communicator and what came out, by verb, by purpose and by peer."""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Counted = Literal["payload", "wire", "mixed"]
Share = tuple[int, int, int]
"""A rank, numbered in the whole world; bytes sent to it; bytes received from it."""


@dataclass(frozen=True)
class Message:
    """One verb that is done, as the rank that called it saw it; or a message of one, see Ledger.

    bytes_sent, bytes_received   as the ledger books them
    peer, rank                   numbers in the whole world; no peer where all ranks took part
    tag                          of a message between two ranks
    start_seconds, stop_seconds  on the clock of time.perf_counter
    part_of                      the collective to which a message belongs
    """

    verb: str
    purpose: str
    algorithm: str
    bytes_sent: int
    bytes_received: int
    peer: int | None
    start_seconds: float
    stop_seconds: float
    rank: int
    tag: int | None = None
    part_of: str | None = None


@dataclass
class Entry:
    """Traffic of one kind.

    messages   calls of the library; of minigrad's own algorithms, the messages that this rank sent
    rounds     of minigrad's own algorithms, how often this rank had to wait for messages
    counted    what the bytes are: see Ledger
    """

    bytes_sent: int = 0
    bytes_received: int = 0
    messages: int = 0
    rounds: int = 0
    counted: Counted = "wire"

    def add(
        self,
        bytes_sent: int,
        bytes_received: int,
        *,
        messages: int = 1,
        rounds: int = 0,
        counted: Counted = "wire",
    ) -> None:
        if counted != self.counted:
            self.counted = "mixed"
        self.bytes_sent += bytes_sent
        self.bytes_received += bytes_received
        self.messages += messages
        self.rounds += rounds


@dataclass
class Ledger:
    """Books every message of one rank.

    Bytes between two ranks, and those of minigrad's own algorithms, are what went over the *wire*. Those of a
    collective of the library are *payload*: the size of the buffer that goes into a call and of the one that
    comes out of it; what it moves for them, only the library knows. A rank alone sends nothing, and nothing
    is booked for it.

    observer   called with a Message as often as a verb is done
    witness    called with one for each message that minigrad's own algorithms send or receive, once its round
               is over
    track      called with each array in which a verb keeps something for itself until it is done: arriving
               pieces of minigrad's own algorithms, half precision in float32, what is staged. What a library
               keeps, nobody knows
    """

    by_kind: dict[tuple[str, str], Entry] = field(default_factory=dict)
    by_peer: dict[int, Entry] = field(default_factory=dict)
    observer: Callable[[Message], None] | None = None
    witness: Callable[[Message], None] | None = None
    track: Callable[[Any], Any] = lambda array: array

    def book(
        self,
        verb: str,
        purpose: str,
        *,
        bytes_sent: int,
        bytes_received: int,
        peers: Iterable[Share] = (),
        messages: int = 1,
        rounds: int = 0,
        counted: Counted = "wire",
    ) -> None:
        """Add traffic; `peers` says which part of it went to and came from single ranks."""
        entry = self.by_kind.get((verb, purpose))
        if entry is None:
            entry = self.by_kind[verb, purpose] = Entry(counted=counted)
        entry.add(bytes_sent, bytes_received, messages=messages, rounds=rounds, counted=counted)
        for peer, sent, received in peers:
            self.by_peer.setdefault(peer, Entry()).add(sent, received)

    def clear(self) -> None:
        """Start from zero, as at the beginning of a step that is to be measured."""
        self.by_kind.clear()
        self.by_peer.clear()

    def bytes_by_verb(self) -> dict[str, int]:
        """Bytes that this rank sent, by verb."""
        totals: dict[str, int] = {}
        for (verb, _), entry in sorted(self.by_kind.items()):
            totals[verb] = totals.get(verb, 0) + entry.bytes_sent
        return totals

    def bytes_by_purpose(self) -> dict[str, int]:
        """Bytes that this rank sent, by purpose."""
        totals: dict[str, int] = {}
        for (_, purpose), entry in sorted(self.by_kind.items()):
            totals[purpose] = totals.get(purpose, 0) + entry.bytes_sent
        return totals

    def report(self) -> dict[str, Any]:
        """The books as plain numbers, ready for JSON: totals, `traffic[verb][purpose]` and `peers[rank]`.

        `counted` says what the bytes are, in all and of each entry: "wire", "payload", or "mixed".
        """
        traffic: dict[str, dict[str, dict[str, Any]]] = {}
        for (verb, purpose), entry in sorted(self.by_kind.items()):
            traffic.setdefault(verb, {})[purpose] = asdict(entry)
        kinds = {entry.counted for entry in self.by_kind.values() if entry.bytes_sent or entry.bytes_received}
        return {
            "counted": kinds.pop() if len(kinds) == 1 else "mixed" if kinds else "wire",
            "bytes_sent": sum(entry.bytes_sent for entry in self.by_kind.values()),
            "bytes_received": sum(entry.bytes_received for entry in self.by_kind.values()),
            "messages": sum(entry.messages for entry in self.by_kind.values()),
            "traffic": traffic,
            "peers": {
                str(peer): {
                    "bytes_sent": entry.bytes_sent,
                    "bytes_received": entry.bytes_received,
                    "messages": entry.messages,
                }
                for peer, entry in sorted(self.by_peer.items())
            },
        }


class Account:
    """The books of one verb, from its start until it is done; without a ledger, of nothing."""

    def __init__(
        self,
        ledger: Ledger | None,
        verb: str,
        purpose: str,
        algorithm: str,
        peer: int | None,
        rank: int,
        tag: int | None = None,
    ) -> None:
        self._ledger = ledger
        self.verb, self.purpose, self.algorithm = verb, purpose, algorithm
        self.peer, self.rank, self.tag = peer, rank, tag
        self.bytes_sent = self.bytes_received = 0
        self.start_seconds = self._round_start = time.perf_counter()
        self._round: tuple[Share, ...] = ()

    def book(
        self,
        *,
        sent: int = 0,
        received: int = 0,
        peers: Iterable[Share] = (),
        messages: int = 1,
        rounds: int = 0,
        counted: Counted = "wire",
    ) -> None:
        """Add a part of the traffic, which is about to move. A round begins where the one before is over."""
        self.bytes_sent += sent
        self.bytes_received += received
        if self._ledger is not None:
            if rounds and self._ledger.witness is not None:
                self._tell_of_round()
                self._round = tuple(peers)
            self._ledger.book(
                self.verb,
                self.purpose,
                bytes_sent=sent,
                bytes_received=received,
                peers=peers,
                messages=messages,
                rounds=rounds,
                counted=counted,
            )

    def close(self) -> None:
        """Tell who observes that it is done."""
        if self._round:
            self._tell_of_round()
        if self._ledger is None or self._ledger.observer is None:
            return
        self._ledger.observer(
            Message(
                self.verb,
                self.purpose,
                self.algorithm,
                self.bytes_sent,
                self.bytes_received,
                self.peer,
                self.start_seconds,
                time.perf_counter(),
                self.rank,
                self.tag,
            )
        )

    def _tell_of_round(self) -> None:
        """Tell the witness of the messages of the round that is over, if there was one."""
        start, self._round_start = self._round_start, time.perf_counter()
        shares, self._round = self._round, ()
        for peer, sent, received in shares:
            if self._ledger is not None and self._ledger.witness is not None:
                self._ledger.witness(
                    Message(
                        "send" if sent else "receive",
                        self.purpose,
                        self.algorithm,
                        sent,
                        received,
                        peer,
                        start,
                        self._round_start,
                        self.rank,
                        part_of=self.verb,
                    )
                )
