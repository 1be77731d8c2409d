"""The graph: one node for every operation that ran, and the state of the thread that ran it.

A `Tensor` is only a handle (an array and the node that made it). The node knows where it came from and what
its derivative rule needs, and not its own result, so an intermediate array lives exactly as long as somebody
needs it.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import ContextDecorator, contextmanager
from typing import TYPE_CHECKING, Any

from minigrad.backend import Array

if TYPE_CHECKING:
    from minigrad.rules import Operation
    from minigrad.tensor import Tensor

next_number = itertools.count(1).__next__
"""Creation numbers. Taking one is a single atomic step, so threads share the counter; every node is newer
than its inputs.
"""


Watcher = Callable[["Sequence[Node]", "Container[Node]"], None]
"""Told of the nodes that a walk will visit, and of the leaves beside them that get their gradient at once."""


class State(threading.local):
    """What belongs to one thread, because ranks may be threads."""

    recording = True  # grad mode: operations leave nodes behind
    streaming = 0  # the creation number at which an outermost forward derivative began; 0: none runs
    ordinary = True  # recording and not streaming: the one test on the fast path
    fused = True  # fused operations take their fast paths
    default_dtype = "float32"
    watchers: tuple[Callable[[], Watcher | None], ...] = ()  # weak; called before a walk that fills leaves


state = State()


class mode(threading.local, ContextDecorator):
    """Set the grad mode of the thread for the length of a `with` block, or of a function that it decorates.

    It may be entered again, also inside itself and by several threads.
    """

    def __init__(self, *, recording: bool | None = None, streaming: int | None = None) -> None:
        self.recording, self.streaming = recording, streaming
        self.before: list[tuple[bool, int, bool]] = []

    def __enter__(self) -> None:
        self.before.append((state.recording, state.streaming, state.ordinary))
        state.recording = state.recording if self.recording is None else self.recording
        state.streaming = state.streaming if self.streaming is None else self.streaming
        state.ordinary = state.recording and not state.streaming

    def __exit__(self, *error: object) -> None:
        state.recording, state.streaming, state.ordinary = self.before.pop()


def no_grad() -> mode:
    """Return a context (or decorator) in which operations record nothing: `with mg.no_grad(): ...`."""
    return mode(recording=False, streaming=0)


def enable_grad() -> mode:
    """Return a context in which operations record again, inside a `no_grad` block."""
    return mode(recording=True)


def is_grad_enabled() -> bool:
    """Whether operations of this thread record nodes."""
    return state.recording


@contextmanager
def fused_operations(enabled: bool) -> Iterator[None]:
    """Choose whether fused operations take their fast path or run the composition that defines them."""
    before, state.fused = state.fused, enabled
    try:
        yield
    finally:
        state.fused = before


class Node:
    """One recorded operation.

    `inputs` holds the node of each input (None for constants), `saved` what the derivative rules asked for,
    `shape` and `dtype` those of the result, `number` the place in the order of creation.
    """

    __slots__ = ("dtype", "inputs", "number", "operation", "parameters", "saved", "shape")

    def __init__(
        self,
        operation: Operation | None,
        inputs: tuple[Node | None, ...],
        saved: Any,
        parameters: dict[str, Any],
        shape: tuple[int, ...],
        dtype: Any,
    ) -> None:
        self.operation = operation
        self.inputs = inputs
        self.saved = saved
        self.parameters = parameters
        self.shape = shape
        self.dtype = dtype
        self.number = next_number()

    def __repr__(self) -> str:
        name = self.operation.name if self.operation is not None else type(self).__name__.lower()
        return f"<node {self.number}: {name} {self.shape} {self.dtype}>"


class Leaf(Node):
    """Where a graph begins: a tensor with `requires_grad`. Gradients end up here.

    With a `buffer` (a raw array of the leaf's shape) gradients are written there, so that many can lie in one
    flat array. Without one, `provide` is asked for it directly before the first contribution, so that memory
    can go round among leaves. Hooks run as soon as the gradient is final within a backward walk.
    """

    __slots__ = ("buffer", "filled", "gradient", "hooks", "lent", "provide", "shown")

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        super().__init__(None, (), (), {}, shape, dtype)
        self.gradient: Tensor | None = None
        self.buffer: Array | None = None
        self.provide: Callable[[], Array] | None = None
        self.filled = False
        self.lent = False
        self.shown = False  # somebody was given the buffer, as `.grad`, since it was last written to
        self.hooks: list[Callable[[], None]] = []

    def target(self) -> Array | None:
        """The buffer, asked for now if there is none yet; None where the leaf keeps its gradients itself."""
        if self.buffer is None and self.provide is not None:
            self.buffer = self.provide()
        return self.buffer

    def lend(self) -> Array | None:
        """The buffer, if the first contribution to this walk's gradient may be written straight into it."""
        if self.filled or self.lent or self.target() is None:
            return None
        self.lent = True
        return self.buffer

    def forget(self) -> None:
        """Let the next walk begin anew; it overwrites a given buffer."""
        self.gradient, self.filled = None, False

    def settle(self) -> None:
        """The gradient is final: run the hooks."""
        if self.buffer is not None:
            self.filled, self.lent = True, False
        if self.hooks:
            for hook in [*self.hooks]:  # a hook may remove itself
                hook()


class Dual(Node):
    """Where a streamed forward derivative is now: the tangent of one tensor, and no history."""

    __slots__ = ("tangent",)

    def __init__(self, tangent: Array) -> None:
        super().__init__(None, (), (), {}, tangent.shape, tangent.dtype)
        self.tangent = tangent


def moving(node: Node | None) -> bool:
    """Whether `node` is a dual number of the running forward derivative, not a leftover of another."""
    return type(node) is Dual and 0 < state.streaming < node.number
