"""Parameters as shards (stage 3): a unit is whole only while it is used, forward and again backward.

All ranks gather the same units in the same order, whatever of them they use: forward in the order in which
they were used in the first pass (`unit_order.py`), backward the other way round, each one ahead of its use. A
rank that leaves a unit out, or has no walk at all in a step, takes part nevertheless. A unit used out of that
order (again, by a checkpoint that spans three, or by one of two where a rank leaves out what lies between) is
gathered once more. That has to happen on all ranks alike: they compare what they gather, and a rank that does
so alone waits for the others until all are ended (`farewell.py`). Frozen parameters are gathered with the
unit that they are in.

The units share one memory, in which each has its place: even ones at its beginning, odd ones at its end. It
holds any two neighbours, so the next can come while one is used. Nodes of the graph keep views of weights;
they become right again when their unit is gathered again. The root unit has memory of its own and stays from
the beginning of a pass to its end, so that what is used first and last (a tied embedding) moves once. In all
a rank holds no more than its shard, the root, and the two largest neighbours.

Rajbhandari et al. 2020, ZeRO, §5.3 and §7.2.2 (3Ψ per step); Zhao et al. 2023, PyTorch FSDP, §3.3 and §3.4.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from minigrad.dist.agreement import alike
from minigrad.dist.partition import Bucket
from minigrad.dist.pipeline_stages import Stage
from minigrad.dist.request import Request, done
from minigrad.dist.unit_order import FirstPass
from minigrad.dist.units import Unit, once, when_walked
from minigrad.dist.world import World
from minigrad.dist.zero_shards import ShardedParameters
from minigrad.errors import UsageError
from minigrad.graph import is_grad_enabled
from minigrad.mutation import mutated
from minigrad.nn.module import Module


class UnitParameters(ShardedParameters):
    """Keeps this rank's pieces of all parameters, and gathers units around their use.

    passed     called with the number of gradients' buckets that are left behind, and whether by a walk
    reordered  called with these buckets in the order of a walk
    """

    def __init__(
        self, module: Module, units: Sequence[Unit], root: Unit | None, world: World, **how: Any
    ) -> None:
        # Gradients travel meanwhile, and need not come in step with these.
        super().__init__(units, root, world.split(0), **how)
        self._out_of_order = self.world.split(0)  # so that these do not meet those in order
        self.passed: Callable[[int, bool], None] = lambda count, walks: None
        self.reordered: Callable[[Sequence[Bucket]], None] = lambda buckets: None
        # A pipeline calls its layers one by one, on all ranks alike, and nothing tells where a pass begins.
        self._called = not isinstance(module, Stage)
        self._first = FirstPass(self.world, self.units, self._fetch) if self._called else None
        self._resident: list[Unit] = []
        self._direction = ""  # "forward" and "backward" while such a pass is under way
        self._order: list[Unit] = []
        self._next = 0  # in that order
        self._behind = self._entered = 0  # units that a walk has left for good, and that it has entered
        self.forget()
        for part in self.root.parts if self.root else []:
            part.lie(self.memory(part))
        self._make_places()
        module.register_forward_pre_hook(self._before_model)
        module.register_forward_hook(self._after_model)
        for unit, one in [(each, one) for each in self.units for one in each.modules]:
            one.register_forward_pre_hook(partial(self._before_unit, unit))
            one.register_forward_hook(partial(self._after_unit, unit))

    def forget(self) -> None:
        self._calls: list[Unit] = []  # that are under way; a broken off one is not
        self._end()
        self._drop_all()
        self._recorded = self._walked = 0  # passes of this round
        # Whether all units came in order so far, and each by itself; and whether none was left out.
        self._regular = self._complete = True
        self._recomputed: Unit | None = None  # by a checkpoint, and not walked through yet

    def _make_places(self) -> None:
        """Give units their places, of each dtype: any two neighbours fit beside each other."""
        self._moving = False  # whether they take others when values change, and no graph is walked any more
        namespaces = {}
        for part in (part for unit in self.units for part in unit.parts):
            namespaces[part.bucket.dtype] = part.bucket.namespace
            part.lie(None)  # what was there before goes first
        self._arenas = []
        for dtype, xp in namespaces.items():
            sizes = [unit.size(dtype) for unit in self.units]
            total = max(a + b for a, b in zip(sizes, [*sizes, 0][1:], strict=True))
            arena = self.track("parameters", xp.empty(total, dtype=dtype))
            for number, unit in enumerate(self.units):
                unit.number = number
                unit.lie(arena, 0 if number % 2 == 0 else total - sizes[number])
            self._arenas.append(arena)

    # ----- Gathering -----

    @property
    def _learning(self) -> FirstPass | None:
        """The first pass, while it is under way."""
        return self._first if self._direction == "forward" else None

    def _start(self, unit: Unit, world: World | None = None) -> None:
        """Start to gather a unit, in place of what lies there."""
        world = world or self.world
        if self._learning and self._learning.leads and unit is not self.root:
            self._learning.tell(unit.number)
        for other in [r for r in self._resident if r.overlaps(unit)]:
            if other in self._calls:
                raise UsageError(
                    f"{self.world.name}: {other.name} is in use while {unit.name} is called, and both have "
                    "one place (ZeRO stage 3); make one unit of them: ZeRO(units=[...])"
                )
            self._drop(other)
        start = time.perf_counter()
        for part in unit.parts:
            counts = part.bucket.counts
            if world.size > 1:
                request = world.start_all_gather(part.shard, part.flat, counts=counts, **self.how)
            else:
                part.flat[...] = part.shard
                request = Request(done)
            unit.requests.append(request)
        self._resident.append(unit)
        self.seconds += time.perf_counter() - start

    def _gather(self, unit: Unit) -> None:
        """See to it that a unit is whole."""
        if self._learning and unit is not self.root:
            self._learning.follow(unit)
        if not unit.whole:
            if not unit.requests:
                self._start(unit)
            self._receive(unit)

    def _fetch(self, unit: Unit) -> None:
        """Gather a unit that another rank needs now."""
        self._start(unit)
        self._receive(unit)

    def _receive(self, unit: Unit) -> None:
        """Wait for a unit that is on its way."""
        start = time.perf_counter()
        for request in unit.requests:
            request.wait()
        self.seconds += time.perf_counter() - start
        unit.requests.clear()
        unit.whole = True

    def _drop(self, unit: Unit) -> None:
        """Let the memory of a unit be used by another."""
        self._receive(unit)
        unit.whole = False
        unit.detach()
        self._resident.remove(unit)

    def _drop_all(self) -> None:
        while self._resident:
            self._drop(self._resident[-1])

    def _prefetch(self) -> None:
        """Start the next unit in order, if its place is not in use."""
        unit = self._order[self._next] if self._next < len(self._order) else None
        if unit is None or unit.whole or unit.requests or self._learning:
            return
        needed = self._behind if self._direction == "backward" else self._next - 1  # from that place on
        there = (other for other in self._resident if other.overlaps(unit))
        if not any(other in self._calls or self._place(other) >= needed for other in there):
            self._start(unit)

    def _place(self, unit: Unit) -> int:
        """Where a unit comes in the order of the pass."""
        return unit.number if self._direction == "forward" else len(self.units) - 1 - unit.number

    def _begin(self, direction: str) -> None:
        """Begin a pass over all units, with the root."""
        self._end()
        self._direction, self._next, self._behind, self._entered = direction, 0, 0, 0
        self._order = self.units if direction == "forward" else self.units[::-1]
        if self.root:
            self._gather(self.root)
            self.root.attach()
        self._prefetch()

    def _advance(self, stop: int, *, walking: bool = False) -> None:
        """Gather the units in order, up to `stop` of them. A walk that gets to one has left those before."""
        if self._learning and not self._learning.opens:
            return
        while self._next < stop:
            if walking:
                self._leave(self._next)
            self._gather(self._order[self._next])
            self._next += 1
            self._prefetch()

    def _reach(self, unit: Unit, *, walking: bool = False) -> None:
        """Gather a unit that is needed now."""
        if self._direction:
            place = self._place(unit)
            if place < self._next - 1 and not (self._direction == "backward" and unit.whole):
                self._regular = False
            if place > self._next:
                self._complete = False
            self._advance(place + 1, walking=walking)
            if walking:
                self._leave(place)
                self._entered = place + 1
                self._prefetch()
        if not (unit.whole or unit.requests or self._learning):
            advice = "use units again, and checkpoint several in one, on all ranks alike (ZeRO stage 3)"
            alike(self._out_of_order, f"gathers {unit.name} out of order", advice)
            self._start(unit, self._out_of_order)
        self._gather(unit)
        unit.attach()

    def _leave(self, count: int) -> None:
        """A walk has left the first `count` units behind."""
        self._behind = max(self._behind, count)
        if self.in_order():
            self.passed(sum(unit.bucket is not None for unit in self._order[:count]), self._walked > 0)

    def _end(self) -> None:
        """End the pass under way: take part in gathering what this rank left out."""
        if self._direction:
            self._complete = self._complete and self._next == len(self.units)
            self._advance(len(self.units), walking=self._direction == "backward")
            if self._learning:
                self._take_order(self._learning)
            self._direction = ""

    def _take_order(self, first: FirstPass) -> None:
        """Go through units in the order found out. They move later: a graph knows their places."""
        before, self.units, self._first = self.units, first.end(), None
        self._moving = self.units != before
        for number, unit in enumerate(self.units):
            unit.number = number
        self._regular, self._complete = first.regular, first.complete
        self.reordered([unit.bucket for unit in reversed(self.units) if unit.bucket])

    # ----- Forward -----

    def _before_model(self, _: Module, __: Any) -> None:
        if not self._open:
            self._calls.clear()
            self._begin("forward")

    def _after_model(self, _: Module, __: Any, output: Any) -> Any:
        if self._open:
            return None
        self._end()
        self._drop_all()
        watched = when_walked(output, once(self._begin_backward)) if is_grad_enabled() else output
        self._recorded += watched is not output
        return watched

    def _before_unit(self, unit: Unit, _: Module, __: Any) -> None:
        if not self._open:
            if self._direction == "backward":
                # Gradients of what one checkpoint computes again become final together, after all of it.
                self._regular = self._regular and self._recomputed in (None, unit)
                if self._recomputed is None:
                    self._behind = max(self._behind, self._entered)
                self._recomputed = unit
            elif self._first:
                self._first.use(unit)
            self._reach(unit)
            self._calls.append(unit)

    def _after_unit(self, unit: Unit, _: Module, __: Any, output: Any) -> Any:
        if self._open:
            return None
        self._calls.remove(unit)
        if unit not in self._calls and self._direction != "backward":
            unit.detach()
        return when_walked(output, partial(self._walk_into, unit))

    # ----- Backward -----

    def _begin_backward(self) -> None:
        self._walked += 1
        self._begin("backward")

    def _walk_into(self, unit: Unit) -> Callable[[], None] | None:
        """A pull walk has come to a unit: those after it are behind. Returns what another walk is to call
        that goes through this one, if by then other units may lie in the place of its weights.
        """
        if self._direction != "backward":
            self._begin_backward()
        if unit is self._recomputed:
            self._recomputed = None
        self._reach(unit, walking=True)
        return self._refuse_second if len(self.units) > 2 else None

    def _refuse_second(self) -> None:
        raise UsageError(
            f"{self.world.name}: a walk goes through a derivative that was itself taken by a walk (as in a "
            "gradient penalty), whose weights are not gathered any more (ZeRO stage 3); use stage 0, 1 or 2"
        )

    def in_order(self) -> bool:
        """Whether this round's walk goes through all units once, in the order in which they are declared."""
        return self._recorded == 1 and self._regular

    def busy(self) -> bool:
        return bool(self._direction)

    def may_wait(self) -> bool:
        """Whether waiting for gradients to arrive cannot keep another rank from sending its own."""
        return self._direction != "backward" or (self.in_order() and self._complete)

    # ----- After it -----

    def end_round(self) -> None:
        if self._called and not self._recorded and self.world.size > 1:
            self._calls.clear()
            self._begin("forward")
            self._end()
            self._drop_all()
            self._recorded = 1
        if not self._walked and self.world.size > 1:
            self._begin("backward")
        self.forget()

    def publish(self) -> None:
        """The values changed: what a graph from before saved is no longer right, nor what was gathered."""
        self._drop_all()
        for flat in (*self._arenas, *(part.flat for part in (self.root.parts if self.root else []))):
            mutated(flat)
        if self._moving:
            self._make_places()
