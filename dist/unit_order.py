"""In which order units are used: found out in the first pass of stage 3, in which one rank leads.

All ranks gather the same units in the same order, and before a model was called once nobody knows which one
that is. So one rank leads, beginning with rank 0: whatever it gathers in its first pass it tells the others,
who follow. At the end of its pass the next rank leads, which gathers what it needs beside that, and so on.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from minigrad.dist.partition import agreed_order
from minigrad.dist.units import Unit
from minigrad.dist.world import World

END = -1  # told by who leads: it has gathered all that it needs, and hands over


class FirstPass:
    """The first pass over units in the order of declaration, as one rank sees it.

    gather   gathers a unit here, together with all ranks that follow
    uses     the units in the order of this rank's uses
    """

    def __init__(self, world: World, units: Sequence[Unit], gather: Callable[[Unit], None]) -> None:
        self.world, self.units, self.gather = world, units, gather
        self.uses: list[Unit] = []
        self._leader = 0
        self._opener: int | None = None  # who gathered the first unit

    @property
    def leads(self) -> bool:
        """Whether this rank leads now."""
        return self.world.rank == self._leader

    @property
    def opens(self) -> bool:
        """Whether this rank leads, and is the first to gather anything."""
        return self.leads and self._opener in (None, self.world.rank)

    def use(self, unit: Unit) -> None:
        """Note that a unit is used; again and again counts once."""
        if unit not in self.uses[-1:]:
            self.uses.append(unit)

    def tell(self, number: int) -> int:
        """The number of the unit that is gathered now, as who leads says."""
        told = np.array([number], dtype=np.int64)
        self.world.broadcast(told, root=self._leader, purpose="control")
        if told[0] == END:
            self._leader += 1
        elif self._opener is None:
            self._opener = self._leader
        return int(told[0])

    def follow(self, unit: Unit | None = None) -> None:
        """Gather what leaders gather, until this unit is whole, or this rank leads, or all have led."""
        while not (self.leads or self._leader == self.world.size or (unit and unit.whole)):
            number = self.tell(END)
            if number != END:
                self.gather(self.units[number])

    def end(self) -> list[Unit]:
        """End the pass. Returns the units in the order in which passes go from now on, the same on all ranks:
        that of one rank's uses. What it left out comes next to a unit that it is declared next to.
        """
        self.follow()
        self.tell(END)
        self.follow()
        turns = {unit: float(index) for index, unit in reversed(list(enumerate(self.uses)))}
        order = agreed_order([turns.get(unit) for unit in self.units], self.world)
        return [self.units[number] for number in order]

    @property
    def regular(self) -> bool:
        """Whether this rank used no unit behind one that comes later."""
        return all(a.number < b.number for a, b in pairwise(self.uses))

    @property
    def complete(self) -> bool:
        """Whether this rank used all units."""
        return len(set(self.uses)) == len(self.units)
