"""Gradients, Jacobians, Hessians and their products with vectors: what `vjp` and `jvp` give, put together.

A Jacobian has the nesting of the outputs, and in place of each output the nesting of the inputs; the block of
an output y and an input x has shape (*y, *x) and x's dtype, as a gradient has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minigrad import backend
from minigrad.errors import GraphError
from minigrad.ops import creation
from minigrad.ops.shape import astype, reshape, stack
from minigrad.tensor import Tensor
from minigrad.transforms import _differentiable, jvp, vjp
from minigrad.tree import flatten, paired, rebuild
from minigrad.walk import pull, seed


def chosen_arguments(
    f: Callable[..., Any], argnums: int | tuple[int, ...], arguments: Sequence[Any], keywords: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """f as a function of the arguments `argnums` alone, and these. Raises GraphError for one not given."""
    places = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if not places or not -len(arguments) <= min(places) <= max(places) < len(arguments):
        wanted = f"argument {', '.join(map(str, places))}" if places else "no argument"
        raise GraphError(f"gradient with respect to {wanted}, but only {len(arguments)} were given")

    def of_chosen(*chosen: Any) -> Any:
        every = list(arguments)
        for place, value in zip(places, chosen, strict=True):
            every[place] = value
        return f(*every, **keywords)

    return of_chosen, tuple(arguments[place] for place in places)


def value_and_grad(
    f: Callable[..., Any], *, argnums: int | tuple[int, ...] = 0
) -> Callable[..., tuple[Any, Any]]:
    """Return a function that gives f(...) and its gradient with respect to argument `argnums`.

    f must return one number. The argument may be any nest of lists, tuples and dicts; the gradient has the
    same nesting.

    >>> import minigrad as mg
    >>> mg.value_and_grad(lambda x: x * x)(mg.tensor(3.0))
    (tensor(9., dtype=float32), tensor(6., dtype=float32))
    """

    def wrapped(*arguments: Any, **keywords: Any) -> tuple[Any, Any]:
        of_chosen, chosen = chosen_arguments(f, argnums, arguments, keywords)
        value, transposed = vjp(of_chosen, *chosen)
        if not isinstance(value, Tensor) or value.size != 1:
            shape = value.shape if isinstance(value, Tensor) else type(value).__name__
            raise GraphError(
                f"grad needs a function that returns one number, not {shape}; use vjp or jacobian"
            )
        gradients = transposed(creation.ones_like(value.detach()))
        return value, gradients[0] if isinstance(argnums, int) else gradients

    return wrapped


def grad(f: Callable[..., Any], *, argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """Return the gradient of f, a function that returns one number, as a function of the same arguments.

    >>> import minigrad as mg
    >>> mg.grad(mg.grad(lambda x: x * x * x))(mg.tensor(2.0))
    tensor(12., dtype=float32)
    """
    both = value_and_grad(f, argnums=argnums)
    return lambda *arguments, **keywords: both(*arguments, **keywords)[1]


def gradients(
    outputs: Any,
    inputs: Any,
    *,
    cotangents: Any = None,
    retain_graph: bool = False,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> Any:
    """Derivatives of `outputs` (summed against `cotangents`) with respect to `inputs`, tensors of a recorded
    graph.

    `cotangents` are nested as the outputs are (None stands for the 1 that a single number starts with); of
    one output it may also stand in a list. Nothing is added to any `.grad`. Raises GraphError for an input
    that no output depends on, unless `allow_unused` (then None), and ShapeError where cotangents do not fit.
    """
    ends, starts = flatten(outputs), flatten(inputs)
    if any(x.node is None for x in [*ends, *starts]):
        raise GraphError("gradients are taken between tensors of a graph; one of these requires no gradient")
    given = [None] * len(ends)
    if cotangents is not None:
        alone = isinstance(outputs, Tensor) and isinstance(cotangents, (list, tuple))
        given = paired("cotangents", cotangents, "outputs", [outputs] if alone else outputs)
    seeds: list[Any] = [seed(x, c) for x, c in zip(ends, given, strict=True)]
    if create_graph:
        seeds = [c if isinstance(c, Tensor) else Tensor.of(s) for c, s in zip(given, seeds, strict=True)]
    nodes = [x.node for x in starts]
    found, _ = pull([x.node for x in ends], seeds, targets=nodes, lifted=create_graph, retain=retain_graph)
    results = []
    for place, node in enumerate(nodes):
        g = found[node]
        if g is None and not allow_unused:
            raise GraphError(f"no output depends on input {place}; pass allow_unused=True to get None for it")
        results.append(g if g is None or isinstance(g, Tensor) else Tensor.of(backend.asarray(g)))
    return rebuild(inputs, results)


# ----- Second derivatives, Jacobians ------------------------------------------------------------------


def hvp(f: Callable[..., Any], x: Any, v: Any) -> Any:
    """The Hessian of f at x times v, forward over reverse, without forming the Hessian.

    f returns one number. A tuple x is f's several arguments: v is a tuple too, and so is the product, in
    which every argument's part has what all parts of v add to it.
    """
    if not isinstance(x, tuple):
        return jvp(grad(f), x, v)[1]
    return jvp(grad(f, argnums=tuple(range(len(x)))), x, v)[1] if x else ()


def jacobian(f: Callable[..., Any], *, argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """Return the function that gives ∂f/∂x at its arguments, x being argument `argnums`.

    f may return any nest of tensors, and x may be one (of several `argnums`, a tuple of theirs): the result
    is f's nest, with a nest of x's in place of each output and blocks of shape (*output, *input) in these.
    Computed by columns with the forward walk or by rows with the reverse walk, whichever are fewer.

    >>> import minigrad as mg
    >>> mg.jacobian(lambda x: {"twice": 2 * x})(mg.tensor([1.0, 2.0]))["twice"].tolist()
    [[2.0, 0.0], [0.0, 2.0]]
    """

    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        of_chosen, chosen = chosen_arguments(f, argnums, arguments, keywords)
        inputs = [_differentiable(x) for x in flatten(chosen)]
        values, transposed = vjp(of_chosen, *rebuild(chosen, list(inputs)))
        outputs = flatten(values)
        outputs = [y if isinstance(y, Tensor) else Tensor(y) for y in outputs]
        if sum(x.size for x in inputs) < sum(y.size for y in outputs):
            pushed = [_pushed(of_chosen, chosen, inputs, place) for place in range(len(inputs))]
            blocks = [
                [_columns(pushed[i], k, y, x) for i, x in enumerate(inputs)] for k, y in enumerate(outputs)
            ]
        else:
            blocks = [_rows(transposed, values, outputs, inputs, place) for place in range(len(outputs))]
        nests = [rebuild(chosen, row) for row in blocks]
        return rebuild(values, [nest[0] for nest in nests] if isinstance(argnums, int) else nests)

    return wrapped


def hessian(f: Callable[..., Any], *, argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """Return the function that gives ∂²f/∂x² at its arguments, for f that returns one number: a nest of x's
    with a nest of x's in place of each leaf, and blocks of shape (*row, *column).
    """
    return jacobian(grad(f, argnums=argnums), argnums=argnums)


def _units(x: Tensor) -> list[Tensor]:
    """For each entry of x, an array like x with 1 there and 0 elsewhere."""
    xp = backend.namespace(x.data)
    steps = xp.eye(x.size, dtype=x.dtype)
    return [Tensor.of(xp.reshape(steps[i], x.shape)) for i in range(x.size)]


def _pushed(f: Any, arguments: Any, inputs: Sequence[Tensor], place: int) -> list[list[Tensor]]:
    """The derivatives of all outputs along each entry of one input."""
    still = [creation.zeros_like(x.detach()) for x in inputs]
    at = rebuild(arguments, list(inputs))
    along = ([*still[:place], unit, *still[place + 1 :]] for unit in _units(inputs[place].detach()))
    return [flatten(jvp(f, at, rebuild(arguments, tangents))[1]) for tangents in along]


def _columns(pushed: list[list[Tensor]], output: int, y: Tensor, x: Tensor) -> Tensor:
    """The block of one output and one input, from its columns."""
    if not pushed:
        return creation.zeros((*y.shape, *x.shape), dtype=x.dtype, device=x.device)
    return astype(
        reshape(stack([c[output] for c in pushed], axis=-1), (*y.shape, *x.shape)), x.dtype, copy=False
    )


def _rows(
    transposed: Any, values: Any, outputs: Sequence[Tensor], inputs: Sequence[Tensor], place: int
) -> list[Tensor]:
    """The blocks of one output with all inputs, from their rows."""
    y = outputs[place]
    still = [creation.zeros_like(other.detach()) for other in outputs]
    along = ([*still[:place], unit, *still[place + 1 :]] for unit in _units(y.detach()))
    rows = [flatten(transposed(rebuild(values, cotangents))) for cotangents in along]
    if not rows:
        return [creation.zeros((*y.shape, *x.shape), dtype=x.dtype, device=x.device) for x in inputs]
    columns = zip(*rows, strict=True)
    return [reshape(stack(parts), (*y.shape, *x.shape)) for parts, x in zip(columns, inputs, strict=True)]
