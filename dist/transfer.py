"""One message of a collective, from the point of view of one rank; a round is all that travel at once."""

from dataclasses import dataclass

from minigrad.dist.verbs import Array


@dataclass(frozen=True)
class Transfer:
    """A flat buffer that goes to a rank, or comes from it. One without elements does not travel."""

    buffer: Array
    peer: int
    sends: bool


Round = list[Transfer]
Tag = int | str
"""A number that the program chose, or the name of the collective that a message belongs to."""


def put(buffer: Array, peer: int) -> Transfer:
    """Send `buffer` to rank `peer`."""
    return Transfer(buffer, peer, True)


def take(buffer: Array, peer: int) -> Transfer:
    """Fill `buffer` with what rank `peer` puts there."""
    return Transfer(buffer, peer, False)
