"""Checkpointing a sequence of functions: few of the states between them are kept, the others computed again.

Papers: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, §4.1 (√n segments); Griewank, Walther
2000, Algorithm 799: Revolve (the least work for a number of kept states).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import isqrt
from typing import Any

from minigrad import random
from minigrad.apply import pick_node
from minigrad.backend import Array
from minigrad.checkpoint import Checkpoint, checkpoint, closed_over, entry, own_node
from minigrad.checkpoint_schedule import stops
from minigrad.errors import UsageError
from minigrad.graph import Node, mode, next_number, state
from minigrad.tensor import Tensor

Function = Callable[[Any], Any]


def checkpoint_sequence(
    functions: Sequence[Function], x: Any, /, *, policy: str = "sqrt", snapshots: int | None = None
) -> Any:
    """Return functions[-1](... functions[0](x)), and keep only some states in between for the gradient.

    `policy` says which. "sqrt": √n segments for n functions; each but the last is computed once more when
    the gradient comes to it, so that about 2√n states are held and each function runs at most twice.
    "revolve": at most `snapshots` states, x among them; the functions run as few times as that allows, n +
    `checkpoint_schedule.fewest_steps(n, snapshots)` times for value and gradient. Then every function takes
    and returns one Tensor.

    Gradients are those without checkpoints, to the bit: random numbers are replayed. The functions must
    compute the same each time. Raises UsageError for an empty sequence or a policy that does not fit.

    >>> import minigrad as mg
    >>> x = mg.tensor(0.5, requires_grad=True)
    >>> mg.checkpoint_sequence([mg.sin] * 10, x, policy="revolve", snapshots=3).backward()
    >>> round(x.grad.item(), 4)
    0.3827
    """
    functions = list(functions)
    if not functions:
        raise UsageError("checkpoint_sequence got no functions; expected at least one")
    if policy not in ("sqrt", "revolve"):
        raise UsageError(f'checkpoint_sequence: policy is "sqrt" or "revolve", not {policy!r}')
    if (policy == "revolve") != (snapshots is not None) or (snapshots is not None and snapshots < 1):
        raise UsageError(
            f'checkpoint_sequence: policy "revolve" needs snapshots, the number of states to keep (at least '
            f'1), and "sqrt" chooses it; got policy={policy!r}, snapshots={snapshots}'
        )
    if not state.recording or state.streaming:
        return _run(functions, x)
    if snapshots is None:
        return _in_segments(functions, x)
    return _Sequence(functions, snapshots).run(x if isinstance(x, Tensor) else Tensor(x))


def _run(functions: Sequence[Function], x: Any) -> Any:
    for function in functions:
        x = function(x)
    return x


def _in_segments(functions: list[Function], x: Any) -> Any:
    length = len(functions)
    count = isqrt(length - 1) + 1  # √n, rounded up
    bounds = [length * i // count for i in range(count + 1)]
    for start, stop in pairwise(bounds[:-1]):
        x = checkpoint(lambda y, part=functions[start:stop]: _run(part, y), x)
    return _run(functions[bounds[-2] :], x)  # the gradient begins here: nothing is gained by dropping it


class _Sequence:
    """A sequence that was run: its functions, the states kept, and where random numbers were at each."""

    def __init__(self, functions: list[Function], snapshots: int) -> None:
        self.functions, self.snapshots = functions, snapshots
        self.kept: dict[int, Array] = {}
        self.moments: list[Any] = []

    def run(self, x: Tensor) -> Tensor:
        """The forward pass: a node for every function but the last, which is recorded as it is."""
        last = len(self.functions) - 1
        wanted = {0, *stops(0, last, self.snapshots)}
        for step in range(last):
            if step in wanted:
                self.kept[step] = x.data
            x = self.step(step, x)
        return self.functions[last](x)

    def step(self, step: int, x: Tensor) -> Tensor:
        """Run one function, and let its graph go again but for what it closed over."""
        self.moments.append(random.snapshot())
        entries = [] if x.node is None else [entry(x.data)]
        start, out = self.record(step, entries[0] if entries else x)
        if out.node is None:
            return out
        edges = (*([x.node] if entries else []), *closed_over(out, start, entries))
        saved = (self, step, bool(entries), self.kept)  # (what was kept must not be overwritten)
        node = Node(STEP, edges, saved, {}, (out.shape,), None)  # type: ignore[arg-type]
        return Tensor.of(out.data, pick_node(node, 0, out.data))

    def record(self, step: int, x: Tensor) -> tuple[int, Tensor]:
        """Run a function and record it. Also the number from which its nodes count."""
        start = next_number()
        with mode(recording=True):
            out = self.functions[step](x)
            if not isinstance(out, Tensor):
                raise UsageError(
                    f"checkpoint_sequence: function {step} returned {type(out).__name__}; with policy "
                    '"revolve" each takes and returns one Tensor'
                )
            return start, own_node(out, start)

    def state(self, step: int) -> Array:
        """The input of a function, computed from the nearest state that is kept; more are kept on the way.

        The walk asks from the last to the first, so that what lies behind is dropped.
        """
        for later in [place for place in self.kept if place > step]:
            del self.kept[later]
        at = max(self.kept)
        array = self.kept[at]
        wanted = set(stops(at, step, self.snapshots - len(self.kept) + 1))
        with mode(recording=False):
            for place in range(at, step):
                with random.restored(self.moments[place]):
                    array = self.functions[place](Tensor.of(array)).data
                if place + 1 in wanted:
                    self.kept[place + 1] = array
        return array


class _Step(Checkpoint):
    """The operation of one function of a sequence: as a checkpoint, whose input has to be found first."""

    def _held(self, node: Node) -> tuple[tuple[Any, ...], Callable[[Sequence[Tensor]], tuple[int, Any]]]:
        sequence, step, given, _ = node.saved
        array = sequence.state(step)

        def run(values: Sequence[Tensor]) -> tuple[int, Any]:
            with random.restored(sequence.moments[step]):
                return sequence.record(step, values[0] if given else Tensor.of(array))

        return ((array,) if given else ()), run


def _checkpoint_step(xp: Any, /, *inputs: Any) -> Any:
    """Run one function of a sequence and keep nothing."""
    raise NotImplementedError("the nodes of a sequence are made by mg.checkpoint_sequence")


STEP = _Step(_checkpoint_step, {})
STEP.rules, STEP.several_outputs = None, True
