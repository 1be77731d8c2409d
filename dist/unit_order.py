"""In which order units are used: found out in the first pass of stage 3, in which one rank leads.

All ranks gather the same units in the same order, and before a model was called once nobody knows which one
that is. So whatever rank 0 gathers in its first pass it tells the others, who follow, until they have what
they need themselves. If it has no walk in that pass, the next rank leads.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from minigrad.dist.partition import agreed_order
from minigrad.dist.units import Unit
from minigrad.dist.world import World

# Told by who leads: it has gathered all that it needs; or it has no walk, and hands over.
END, NOTHING = -1, -2


class FirstPass:
    """The first pass over units in the order of declaration, as one rank sees it.

    gather   gathers a unit here, together with all ranks that follow
    uses     the units in the order of this rank's uses
    """

    def __init__(self, world: World, units: Sequence[Unit], gather: Callable[[Unit], None]) -> None:
        self.world, self.units, self.gather = world, units, gather
        self.uses: list[Unit] = []
        self._leader, self._ended = 0, False

    @property
    def leads(self) -> bool:
        """Whether this rank leads now."""
        return self.world.rank == self._leader

    def use(self, unit: Unit) -> None:
        """Note that a unit is used; again and again counts once."""
        if unit not in self.uses[-1:]:
            self.uses.append(unit)

    def tell(self, number: int) -> int:
        """The number of the unit that is gathered now, as who leads says."""
        told = np.array([number], dtype=np.int64)
        self.world.broadcast(told, root=self._leader, purpose="control")
        self._leader += int(told[0] == NOTHING)
        return int(told[0])

    def follow(self, unit: Unit | None = None) -> None:
        """Gather what the leader gathers, until this unit is whole, or the leader's pass is over."""
        while not (self.leads or self._ended or (unit and unit.whole)):
            number = self.tell(END)
            self._ended = number == END
            if number >= 0:
                self.gather(self.units[number])

    def end(self) -> list[Unit]:
        """End the pass. Returns the units in the order in which passes go from now on, the same on all ranks:
        that of the leader's uses. What it left out comes next to a unit that it is declared next to.
        """
        self.follow()
        if self.leads:
            self.tell(END if self.uses or self._leader + 1 == self.world.size else NOTHING)
            self.follow()
        turns = {unit: float(index) for index, unit in reversed(list(enumerate(self.uses)))}
        order = agreed_order(with_guesses([turns.get(unit) for unit in self.units]), self.world)
        return [self.units[number] for number in order]

    @property
    def regular(self) -> bool:
        """Whether this rank used no unit behind one that comes later."""
        return all(a.number < b.number for a, b in pairwise(self.uses))

    @property
    def complete(self) -> bool:
        """Whether this rank used all units."""
        return len(set(self.uses)) == len(self.units)


def with_guesses(turns: Sequence[float | None]) -> list[float | None]:
    """Turns also for units that were not used, if any was: next after that of the unit declared before, or of
    the one declared after where units are mostly used in the reverse order of declaration.
    """
    known = [turn for turn in turns if turn is not None]
    if not known:
        return list(turns)
    falls = sum(b < a for a, b in pairwise(known)) > (len(known) - 1) / 2
    found: list[float | None] = []
    latest, step = -1.0, 1 / (len(turns) + 1)  # less than 1 in all
    for turn in reversed(turns) if falls else turns:
        latest = latest + step if turn is None else turn
        found.append(latest)
    return found[::-1] if falls else found
