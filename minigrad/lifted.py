"""The lifted reading of a derivative rule: minigrad's own functions in place of an array library's, and the
saved values as Tensors that belong to the graph.
"""

from __future__ import annotations

from typing import Any

from minigrad.apply import pick_node
from minigrad.graph import Node
from minigrad.rules import Operation
from minigrad.tensor import Tensor


def functions() -> Any:
    """minigrad's own functions as the array namespace of the lifted reading."""
    from minigrad import ops

    return ops


def lift(node: Node, index: int) -> tuple[Any, ...]:
    """The saved arguments of one rule as Tensors that belong to the graph."""
    operation = node.operation
    assert operation is not None
    saved = node.saved[index] if operation.rules is not None else node.saved
    return tuple(
        _lifted(node, operation, name, value)
        for name, value in zip(operation.wanted[index], saved, strict=True)
    )


def _lifted(node: Node, operation: Operation, name: str, value: Any) -> Any:
    if name == "out":
        if operation.several_outputs:
            return tuple(Tensor.of(a, pick_node(node, i, a)) for i, a in enumerate(value))
        return Tensor.of(value, node)
    if operation.variadic and name == operation.inputs[0]:
        return tuple(Tensor.of(a, edge) for a, edge in zip(value, node.inputs, strict=True))
    if name in operation.inputs:
        return Tensor.of(value, node.inputs[operation.inputs.index(name)])
    return value
