"""The ledger: what one rank handed to its communicator and what came out, by verb and by purpose."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Entry:
    """Traffic of one kind: bytes that this rank gave, bytes that it got, and the number of calls."""

    bytes_sent: int = 0
    bytes_received: int = 0
    messages: int = 0

    def add(self, bytes_sent: int, bytes_received: int) -> None:
        self.bytes_sent += bytes_sent
        self.bytes_received += bytes_received
        self.messages += 1


@dataclass
class Ledger:
    """Books every message of one rank.

    The bytes are *payload*: the size of the buffer that goes into a call and of the buffer that comes out of
    it. What the wires carried for a collective is known only to the library that carried it out. A rank alone
    sends nothing, and nothing is booked for it.
    """

    by_kind: dict[tuple[str, str], Entry] = field(default_factory=dict)
    by_peer: dict[int, Entry] = field(default_factory=dict)

    def book(
        self, verb: str, purpose: str, *, bytes_sent: int, bytes_received: int, peer: int | None = None
    ) -> None:
        """Add one message; `peer` is the other rank of a message between two, numbered in the whole world."""
        self.by_kind.setdefault((verb, purpose), Entry()).add(bytes_sent, bytes_received)
        if peer is not None:
            self.by_peer.setdefault(peer, Entry()).add(bytes_sent, bytes_received)

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

    def report(self) -> dict[str, Any]:
        """The books as plain numbers, ready for JSON: totals, `traffic[verb][purpose]` and `peers[rank]`."""
        traffic: dict[str, dict[str, dict[str, int]]] = {}
        for (verb, purpose), entry in sorted(self.by_kind.items()):
            traffic.setdefault(verb, {})[purpose] = dict(vars(entry))
        return {
            "counted": "payload",
            "bytes_sent": sum(entry.bytes_sent for entry in self.by_kind.values()),
            "bytes_received": sum(entry.bytes_received for entry in self.by_kind.values()),
            "messages": sum(entry.messages for entry in self.by_kind.values()),
            "traffic": traffic,
            "peers": {str(peer): dict(vars(entry)) for peer, entry in sorted(self.by_peer.items())},
        }
