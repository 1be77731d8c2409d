"""Send and receive on Tensors: the gradient of what was sent comes back from who received it.

A send returns a *token*, a zero without dimensions: it stands for the message in the graph, so that a walk
that comes by it fetches the gradient. Add the tokens to the loss, or hand each to the next `receive`.
"""

from dataclasses import dataclass
from typing import Any, cast

from minigrad import backend
from minigrad.dist.collective_rules import anchored, apart, contiguous
from minigrad.dist.refusals import Purpose
from minigrad.dist.verbs import Array
from minigrad.dist.world import World
from minigrad.graph import state
from minigrad.operation import general
from minigrad.tensor import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Line:
    """Whom a message goes to or comes from, and how."""

    world: World
    peer: int
    tag: int
    purpose: Purpose

    def put(self, x: Array) -> None:
        """Begin to send, and go on: two ranks may send to each other before either receives."""
        x = contiguous(backend.asarray(x))
        request = self.world.start_send(x, self.peer, tag=self.tag, purpose=self.purpose)
        self.world.keep(request)

    def take(self, xp: Any, shape: Shape, dtype: Any) -> Array:
        """Receive an array."""
        out = xp.empty(shape, dtype=dtype)
        self.world.receive(out, self.peer, tag=self.tag, purpose=self.purpose)
        return out


def _pull_send(xp: Any, v: Any, needs: Any, x_shape: Shape, x_dtype: Any, line: Line) -> list[Any]:
    if isinstance(v, Tensor):
        return [_receive(v, line=line, shape=x_shape, dtype=x_dtype)]
    return [line.take(xp, x_shape, x_dtype)]


def _push_send(xp: Any, tangents: Any, line: Line) -> Any:
    (t,) = tangents
    if isinstance(t, Tensor):
        return _send(t, line=line)
    line.put(t)
    return xp.zeros((), dtype=t.dtype)


def _pull_receive(xp: Any, v: Any, needs: Any, after_shape: Shape, after_dtype: Any, line: Line) -> list[Any]:
    if isinstance(v, Tensor):
        return [xp.broadcast_to(_send(v, line=line), after_shape)]
    line.put(v)
    return [xp.zeros(after_shape, dtype=after_dtype)]


def _push_receive(xp: Any, tangents: Any, line: Line, shape: Shape, dtype: Any) -> Any:
    (t,) = tangents
    if isinstance(t, Tensor):
        return _receive(t, line=line, shape=shape, dtype=dtype)
    return line.take(xp, shape, dtype)


with apart():

    @general(pull=_pull_send, push=_push_send)
    def _send(xp: Any, x: Array, /, *, line: Line) -> Array:
        line.put(x)
        return xp.zeros((), dtype=x.dtype)

    @general(pull=_pull_receive, push=_push_receive)
    def _receive(xp: Any, after: Array, /, *, line: Line, shape: Shape, dtype: Any) -> Array:
        return line.take(xp, shape, dtype)


def send(x: Any, world: World, destination: int, *, tag: int = 0, purpose: Purpose = "activations") -> Tensor:
    """Send x to one rank and return a token. It does not wait: x must stay as it is until it arrived."""
    return cast("Tensor", _send(anchored(x), line=Line(world, destination, tag, purpose)))


def receive(
    shape: Shape,
    world: World,
    source: int,
    *,
    dtype: Any = None,
    device: str = "cpu",
    after: Tensor | None = None,
    tag: int = 0,
    purpose: Purpose = "activations",
) -> Tensor:
    """What rank `source` sends, of this shape and dtype (by default the one of this thread).

    `after` is what this message follows in the graph, usually the token of a send: walks that come to the
    received Tensor go on there. Without it, only `backward()` of this rank comes by.
    """
    if after is None:
        after = Tensor.of(backend.of_device(device).zeros((), dtype=state.default_dtype))
    line = Line(world, source, tag, purpose)
    kind = backend.namespace(after.data).empty(0, dtype=dtype or state.default_dtype).dtype
    return cast("Tensor", _receive(anchored(after), line=line, shape=tuple(shape), dtype=kind))
