"""One executor for every schedule: it does what its rank's list says, and knows no schedule by name.

Each cell (stage, microbatch, slice) of a schedule is one run of a stage: a graph that begins at what arrived
and ends at what is handed on. Its backward is one walk over that graph, or two where the schedule splits it:
to the inputs first, and to the weights when there is time.

Receives are posted one computation before they are needed at the latest, sends wait for nobody, and arrays
stay alive until they were sent. Messages between two ranks are posted in one order on both sides (`check` has
proved it), so tags only have to tell apart what is under way at the same time.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from minigrad import backend, random
from minigrad.dist.memory import Meter
from minigrad.dist.pipeline_stages import Boundaries, Drawn, Stage, Values, entry
from minigrad.dist.request import Request
from minigrad.dist.schedule import COMPUTE, RECEIVES, SENDS, Action, B, F, I, Kind, Schedule, W
from minigrad.dist.timing import Span
from minigrad.dist.verbs import Array
from minigrad.dist.world import World
from minigrad.errors import UsageError
from minigrad.graph import Node, mode, no_grad
from minigrad.tensor import Tensor
from minigrad.tree import flatten
from minigrad.walk import Postponed, pull

Place = tuple[int, int, int]  # stage, microbatch, slice


@dataclass
class Part:
    """One slice of one microbatch, as the first and the last stage need it.

    inputs    what the first stage takes
    loss      from what the last stage returned to one number
    weight    its share of the batch, by which its loss counts: a number, or a 0-d array
    samples   the numbers of its rows in the whole batch
    start     the place of its first token in the sequence
    drawn     how often stages before drew from which stream of random numbers, by (stage, slice)
    """

    inputs: Values
    loss: Callable[[Values], Tensor] | None
    weight: Any
    samples: Sequence[int]
    boundaries: Boundaries
    start: int = 0
    drawn: Drawn = field(default_factory=dict)


@dataclass
class Cell:
    """One run of a stage, from its forward to the end of its backward."""

    arrays: list[Array]  # what arrived
    past: list[Array]  # what the slice before kept
    moment: tuple[Any, ...] | None = None  # of random numbers, if the forward will run again
    entries: list[Tensor] = field(default_factory=list)
    roots: list[Node | None] = field(default_factory=list)  # of what was handed on, and then of what was kept
    later: Postponed | None = None


def nobody_else(stage: int, microbatch: int) -> AbstractContextManager[None]:
    """The weights as they are."""
    return nullcontext()


class Executor:
    """Runs the list of one rank.

    schedule      complete, with messages, and proved
    stages        those of this rank
    recompute     keep only what arrives at a stage, and run its forward again in the backward (GPipe §2.3)
    weights       weights(stage, microbatch): a context in which that stage has the weights meant for it
    handlers      handler(stage, number) for updates, gathers and reduces
    quiet         a context for all walks of a run but the last (`no_sync` of data parallelism)
    clock         seconds; by default that of the world, if it has one, or of the machine
    meter         books what runs keep for their backward as activations

    `spans` says afterwards what the latest run did when.
    """

    def __init__(
        self,
        world: World,
        schedule: Schedule,
        stages: Mapping[int, Stage],
        *,
        recompute: bool = False,
        weights: Callable[[int, int], AbstractContextManager[None]] = nobody_else,
        handlers: Mapping[Kind, Callable[[int, int], None]] | None = None,
        quiet: Callable[[], AbstractContextManager[None]] = nullcontext,
        clock: Callable[[], float] | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.world, self.schedule, self.stages, self.recompute = world, schedule, stages, recompute
        self.weights, self.quiet, self.handlers = weights, quiet, dict(handlers or {})
        self.clock: Callable[[], float] = clock or getattr(world, "clock", None) or time.perf_counter
        self.meter = meter
        self.program = early_receives(schedule.ranks[world.rank])
        for action in self.program:
            if action.kind not in (*COMPUTE, *SENDS, *RECEIVES, *self.handlers):
                raise UsageError(f"{world.name}: the schedule has {action}, and nobody gave a handler for it")
        self.spans: list[Span] = []
        row = [action for action in self.program if action.kind in COMPUTE]
        following = dict(pairwise(row))
        # A forward whose backward comes next: forgetting would save nothing.
        self._kept = {a for a, b in following.items() if a.kind is F and _place(a) == _place(b)}
        self._last_walk = next((action for action in reversed(row) if action.kind in (B, W)), None)
        self._do = {F: self._forward, B: self._backward, I: self._backward_inputs, W: self._backward_weights}

    def run(
        self, parts: Mapping[tuple[int, int], Part], *, scale: Any = 1.0, learn: bool = True
    ) -> dict[tuple[int, int], Any]:
        """Do everything once, for parts by (microbatch, slice).

        Returns what the last stage made of each part: its loss, times its weight (a 0-d array), or without a
        loss the arrays that it returned; nothing on other ranks. Gradients, times `scale`, are added to those
        that are there.
        """
        self._parts, self._scale, self._learn = parts, scale, learn
        self._cells: dict[Place, Cell] = {}
        self._arrived: dict[tuple[Kind, Place], tuple[list[Array | None], list[Request]]] = {}
        self._made: dict[tuple[Kind, Place], list[Array | None]] = {}
        self._kept_gradients: dict[Place, list[Array | None]] = {}
        self._kept_arrays: dict[Place, list[Array]] = {}
        self._sent: list[Request] = []
        self._results: dict[tuple[int, int], Any] = {}
        self.spans = []
        for action in self.program:
            if action.kind in COMPUTE:
                self._compute(action)
            elif action.kind in SENDS:
                self._send(action)
            elif action.kind in RECEIVES:
                self._receive(action)
            else:
                start = self.clock()
                self.handlers[action.kind](action.stage, action.microbatch)
                self.spans.append(Span(self.world.rank, action, start, self.clock()))
        for request in self._sent:
            request.wait()
        self._sent = []
        return self._results

    def recomputes(self, forward: Action) -> bool:
        """Whether what a forward computes is forgotten, and computed again in the backward."""
        return self.recompute and forward not in self._kept

    def recorded(self, rank: int) -> list[Action]:
        """What a rank's spans are of, in their order."""
        kinds = (*COMPUTE, *self.handlers)
        return [action for action in early_receives(self.schedule.ranks[rank]) if action.kind in kinds]

    # ----- Computing -----

    def _compute(self, action: Action) -> None:
        """Wait for what the action needs, do it, and move messages on."""
        needs = Kind.RECEIVE_ACTIVATION if action.kind is F else Kind.RECEIVE_GRADIENT
        if action.kind is not W:
            for request in self._arrived.get((needs, _place(action)), ([], []))[1]:
                request.wait()
        start = self.clock()
        early = action.kind in (B, I, W) and action != self._last_walk
        with self.quiet() if early else nullcontext():
            self._do[action.kind](action)
        self.spans.append(Span(self.world.rank, action, start, self.clock()))
        self._sent = [request for request in self._sent if not request.test()]

    def _forward(self, action: Action) -> None:
        place = _place(action)
        stage, number, part = place
        arrays = self._take(Kind.RECEIVE_ACTIVATION, place)
        past = self._kept_arrays.pop((stage, number, part - 1), [])
        cell = Cell(arrays, past)
        forget = self._learn and self.recomputes(action)
        with self._scope(place), self.weights(stage, number):
            if forget:
                cell.moment = random.snapshot()
            with nullcontext() if self._learn and not forget else no_grad():
                outputs, present, result = self._run_stage(place, cell)
        if self._learn:
            self._cells[place] = cell
            if self.meter is not None:
                for array in (*cell.arrays, *cell.past):
                    self.meter.track("activations", array)
                self.meter.activations(*(x for x in (*outputs, *present) if x.node is not None))
        if present:
            self._kept_arrays[place] = [x.data for x in present]
        if result is not None:
            self._results[number, part] = result
        self._hand_on(Kind.SEND_ACTIVATION, place, [x.data for x in outputs])

    def _run_stage(self, place: Place, cell: Cell) -> tuple[Values, list[Tensor], Any]:
        """Run a stage on what arrived; the cell then knows where its graph begins and ends."""
        stage, number, part = place
        here = self._parts[number, part]
        if stage == 0:
            values = here.inputs
            cell.entries = []
        else:
            passed = here.boundaries[stage - 1, part]
            values = tuple(entry(a, p.has_gradient) for a, p in zip(cell.arrays, passed, strict=True))
            cell.entries = [x for x in values if x.node is not None]
        module, past = self.stages[stage], [entry(array, True) for array in cell.past]
        cell.entries += past
        present: list[Tensor] = []
        if self.schedule.slices > 1:
            outputs, present = module.forward_slice(values, here.start, past)
        else:
            outputs = module(*values)
        result = None
        if stage + 1 == self.schedule.stages:
            if here.loss is None:
                result = [x.data for x in outputs]
            else:
                loss = here.loss(outputs)
                outputs, result = (loss,), loss.data * here.weight
        cell.roots = [x.node for x in (*outputs, *present)]
        return outputs, present, result

    def _backward(self, action: Action) -> None:
        self._walk(action, split=False)
        del self._cells[_place(action)]

    def _backward_inputs(self, action: Action) -> None:
        self._walk(action, split=True)

    def _backward_weights(self, action: Action) -> None:
        cell = self._cells.pop(_place(action))
        if cell.later is not None:
            cell.later.run()

    def _walk(self, action: Action, *, split: bool) -> None:
        """From the gradients of what a cell handed on and kept to those of what it got."""
        place = _place(action)
        stage, number, part = place
        cell = self._cells[place]
        if cell.moment is not None:
            # The moment belongs to the scope of the forward, which `restored` brings back too.
            with random.restored(cell.moment), self.weights(stage, number), mode(recording=True):
                self._run_stage(place, cell)
            cell.moment = None
        cotangents = self._cotangents(place, cell)
        pairs = [
            (r, c) for r, c in zip(cell.roots, cotangents, strict=True) if r is not None and c is not None
        ]
        roots, starts = [root for root, _ in pairs], [start for _, start in pairs]
        nodes = [x.node for x in cell.entries]
        if split:
            found, cell.later = pull(roots, starts, targets=nodes, postpone=True)  # type: ignore[arg-type]
            gradients = [found[node] for node in nodes]  # type: ignore[index]
            if self.meter is not None and cell.later is not None:
                for array in flatten(list(cell.later.waiting.values())):
                    self.meter.track("activations", array)
        else:
            pull(roots, starts)
            gradients = [None if x.grad is None else x.grad.data for x in cell.entries]
        count = len(cell.entries) - len(cell.past)
        filled = [
            backend.namespace(x.data).zeros_like(x.data) if g is None else g
            for x, g in zip(cell.entries, gradients, strict=True)
        ]
        if cell.past:
            self._kept_gradients[stage, number, part - 1] = filled[count:]
        cell.entries, cell.roots, cell.arrays, cell.past = [], [], [], []
        if stage:
            self._hand_on(Kind.SEND_GRADIENT, place, filled[:count])

    def _cotangents(self, place: Place, cell: Cell) -> list[Array | None]:
        """The gradients that a cell's walk begins with, in the order of its roots."""
        stage, number, part = place
        here = self._parts[number, part]
        kept = self._kept_gradients.pop(place, None)
        if stage + 1 == self.schedule.stages:
            root, result = cell.roots[0], self._results[number, part]
            outer: list[Array | None] = [None]
            if root is not None:  # the one place where gradients are scaled
                start = backend.namespace(result).asarray(here.weight * self._scale, dtype=root.dtype)
                outer = [start.reshape(root.shape)]
        else:
            arrived = iter(self._take(Kind.RECEIVE_GRADIENT, place))
            outer = [next(arrived) if p.has_gradient else None for p in here.boundaries[stage, part]]
        return outer + (kept if kept is not None else [None] * (len(cell.roots) - len(outer)))

    def _scope(self, place: Place) -> AbstractContextManager[None]:
        """Random numbers that belong to the samples of this microbatch."""
        seed, _, step, *_ = random.snapshot()
        if step is None:
            return nullcontext()
        here = self._parts[place[1:]]
        calls = here.drawn.get((place[0], place[2]))
        return random.scope(seed=seed, step=step, samples=here.samples, calls=calls)

    # ----- Messages -----

    def _hand_on(self, kind: Kind, place: Place, arrays: Sequence[Array]) -> None:
        """Give what a cell made to its neighbour on this rank, or keep it for the send that follows."""
        send = Action(place[0], kind, place[1], place[2])
        other = send.peer_stage
        if not 0 <= other < self.schedule.stages:
            return
        if self.schedule.rank_of[other] == self.world.rank:
            self._arrived[send.mirrored().kind, (other, *place[1:])] = (list(arrays), [])
        else:
            self._made[kind, place] = list(arrays)

    def _take(self, kind: Kind, place: Place) -> list[Array]:
        return self._arrived.pop((kind, place), ([], []))[0]

    def _send(self, action: Action) -> None:
        arrays = self._made.pop((action.kind, _place(action)))
        peer = self.schedule.rank_of[action.peer_stage]
        for index, array in enumerate(arrays):
            whole = array if array.flags.c_contiguous else array.copy()  # type: ignore[union-attr]
            tag = self._tag(action.mirrored(), index)
            self._sent.append(self.world.start_send(whole, peer, tag=tag, purpose="activations"))

    def _receive(self, action: Action) -> None:
        stage, number, part = place = _place(action)
        boundaries = self._parts[number, part].boundaries
        if action.kind is Kind.RECEIVE_ACTIVATION:
            passed = boundaries[stage - 1, part]
        else:
            passed = tuple(p for p in boundaries[stage, part] if p.has_gradient)
        xp = self.stages[stage].computes_with
        arrays = [p.empty(xp) for p in passed]
        peer = self.schedule.rank_of[action.peer_stage]
        requests = [
            self.world.start_receive(array, peer, tag=self._tag(action, index), purpose="activations")
            for index, array in enumerate(arrays)
        ]
        self._arrived[action.kind, place] = (list(arrays), requests)

    def _tag(self, receive: Action, index: int) -> int:
        """A function of stage, microbatch, slice, direction, and of which of several tensors it is."""
        s = self.schedule
        number = (receive.stage * s.microbatches + receive.microbatch) * s.slices + receive.slice
        number = (number * 2 + (receive.kind is Kind.RECEIVE_GRADIENT)) * 8 + index % 8
        return number % (self.world.tag_limit + 1)


def _place(action: Action) -> Place:
    return action.stage, action.microbatch, action.slice


def early_receives(row: Sequence[Action]) -> list[Action]:
    """The list with each receive moved ahead of the computation before it: it is posted while that runs."""
    actions: list[Action] = []
    front = 0  # where the latest computation stands
    for action in row:
        if action.kind in RECEIVES:
            actions.insert(front, action)
            front += 1
        else:
            if action.kind in COMPUTE:
                front = len(actions)
            actions.append(action)
    return actions
