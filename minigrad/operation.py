"""Operations: declared once, forward and derivative rules side by side.

A forward function takes an array namespace `xp`, then the inputs (positional-only), then parameters. A rule
takes `xp`, the incoming derivative `v`, and *by name* whatever else it needs: an input, a parameter, `out`,
or an input's shape or dtype (`x_shape`, `x_dtype`). What it asks for is what is saved, and nothing else is
kept. There are three forms:

* `elementwise`: one factor per input serves both walks, `rule(xp, v, ...) = v · ∂f/∂x`;
* `linear`: the operation is its own derivative forwards; per input only the transpose is written;
* `general`: `pull` and `push` are written out, for any number of inputs and outputs.

`fused` (in minigrad.fused) adds a fast path to a composition of such operations. Rules never see a broadcast:
the walks take care of it. They use operators and functions of `xp` only, never `if` on values, and so they
also run on Tensors (`xp` is then minigrad itself), which is how second derivatives come about.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

from minigrad import backend
from minigrad.apply import apply, beside, binary, operand, unary
from minigrad.rules import Operation, Rule
from minigrad.tensor import Tensor

P = ParamSpec("P")


def elementwise(**rules: Rule | None) -> Callable[[Callable[Concatenate[Any, P], Any]], Callable[P, Any]]:
    """Declare an operation that acts entry by entry, with broadcasting. `x=rule` gives v · ∂f/∂x; None means
    zero.
    """

    def declare(forward: Callable[Concatenate[Any, P], Any]) -> Callable[P, Any]:
        return _public(Operation(forward, rules))

    return declare


def linear(**transposes: Rule | None) -> Callable[[Callable[Concatenate[Any, P], Any]], Callable[P, Any]]:
    """Declare an operation that is linear in each input that has a rule; the rule applies the transpose to
    `v`.

    A transpose must ask for every other input by name: the forward derivative is the operation itself with
    that input replaced by its tangent, and takes the others from what was saved.
    """

    def declare(forward: Callable[Concatenate[Any, P], Any]) -> Callable[P, Any]:
        operation = Operation(forward, transposes)
        operation.linear = True
        for name, wanted, rule in zip(operation.inputs, operation.wanted, operation.rules or (), strict=True):
            missing = set(operation.inputs) - {name} - set(wanted)
            if rule is not None and missing:
                raise TypeError(
                    f"{operation.name}: the transpose for {name} must ask for {sorted(missing)} too"
                )
        return _public(operation)

    return declare


def general(
    *, pull: Rule, push: Rule, several_outputs: bool = False
) -> Callable[[Callable[Concatenate[Any, P], Any]], Callable[P, Any]]:
    """Declare an operation by both rules in full.

    `pull(xp, v, needs, ...)` returns a cotangent for each input (None where `needs` is false); `push(xp,
    tangents, ...)` gets None for inputs without a tangent. With `several_outputs` the forward function
    returns a tuple, `v` is a tuple with None for unused outputs, and `push` returns a tuple.
    """

    def declare(forward: Callable[Concatenate[Any, P], Any]) -> Callable[P, Any]:
        operation = Operation(forward, {})
        operation.rules, operation.several_outputs = None, several_outputs
        operation.pull, operation.push = pull, push
        operation.pull_names = tuple(inspect.signature(pull).parameters)[3:]
        operation.push_names = tuple(inspect.signature(push).parameters)[2:]
        operation.wanted = (tuple(dict.fromkeys(operation.pull_names + operation.push_names)),)
        operation._check(operation.wanted[0])
        operation.savers = (None,)
        return _public(operation)

    return declare


def constant(forward: Callable[Concatenate[Any, P], Any]) -> Callable[P, Any]:
    """Declare an operation without a derivative (comparisons, rounding to integers, argmax): its result is a
    constant.
    """
    operation = Operation(forward, {})

    def public(*inputs: Any, **parameters: Any) -> Any:
        arrays = [x.data if isinstance(x, Tensor) else x for x in inputs]
        like = beside(arrays)
        arrays = [operand(a, like) for a in arrays]
        xp = backend.namespace(arrays[0])
        try:
            out = forward(xp, *arrays, **parameters)
        except (ValueError, TypeError, IndexError) as error:
            raise operation.explain(error, arrays) from error
        return Tensor.of(xp.asarray(out))

    return dressed(public, operation)


def _public(operation: Operation) -> Callable[..., Any]:
    """The function that users call, unrolled for the operations that are called most."""
    if operation.rules is not None and not operation.variadic and not operation.parameters:
        if len(operation.inputs) == 1:
            return dressed(unary(operation), operation)
        if len(operation.inputs) == 2:
            return dressed(binary(operation), operation)

    def public(*inputs: Any, **parameters: Any) -> Any:
        return apply(operation, inputs, parameters)

    return dressed(public, operation)


def dressed(function: Callable[..., Any], operation: Operation) -> Callable[..., Any]:
    """Give the function that users call the name, signature and docstring of the declaration."""
    forward = operation.forward
    function.__name__ = function.__qualname__ = operation.name
    function.__doc__ = forward.__doc__
    function.__module__ = forward.__module__
    signature = inspect.signature(forward)
    function.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=list(signature.parameters.values())[1:]
    )
    function.operation = operation  # type: ignore[attr-defined]
    operation.public = function
    return function
