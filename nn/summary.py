"""What a model is made of and what a step of it costs, found without computing or allocating anything."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minigrad import backend, ops
from minigrad.graph import mode, state
from minigrad.meter import Meter, metered
from minigrad.nn.module import Module
from minigrad.tensor import Tensor
from minigrad.tree import flatten


@dataclass(frozen=True)
class Row:
    """One module: its path, class, output shape (None unless it is a tensor), parameters and FLOPs of its
    forward, each with everything below it.
    """

    path: str
    kind: str
    output_shape: tuple[int, ...] | None
    parameters: int
    flops: int


@dataclass(frozen=True)
class Summary:
    """The modules in the order in which they ran first, and what the whole model takes.

    A parameter that is shared counts once. FLOPs count a multiplication and an addition as two. Bytes:
    `activation_bytes` is what the graph holds between forward and backward; `peak_bytes` the most that is
    alive at a time in both, besides parameters and inputs.
    """

    rows: tuple[Row, ...]
    parameters: int
    learned: int
    forward_flops: int
    backward_flops: int
    parameter_bytes: int
    activation_bytes: int
    peak_bytes: int

    def __str__(self) -> str:
        table = [("module", "class", "output", "parameters", "FLOPs")]
        for row in self.rows:
            shape = "" if row.output_shape is None else str(row.output_shape)
            table.append((row.path or "(model)", row.kind, shape, f"{row.parameters:,}", f"{row.flops:,}"))
        widths = [max(len(line[column]) for line in table) for column in range(5)]
        lines = [
            "  ".join(
                text.rjust(width) if column > 2 else text.ljust(width)
                for column, (text, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in table
        ]
        lines.insert(1, "-" * max(map(len, lines)))
        lines += [
            lines[1],
            f"{self.parameters:,} parameters ({self.learned:,} learned), {_size(self.parameter_bytes)}",
            f"{self.forward_flops:,} FLOPs forward, {self.backward_flops:,} backward",
            f"{_size(self.activation_bytes)} of activations kept for backward, at most "
            f"{_size(self.peak_bytes)} alive",
        ]
        return "\n".join(lines)


def _size(count: int) -> str:
    """Bytes in words, by powers of 1024."""
    power = min(int(math.log(count, 1024)), 4) if count else 0
    return f"{count / 1024**power:.4g} {['bytes', 'KiB', 'MiB', 'GiB', 'TiB'][power]}"


def summary(model: Module, *inputs: Any, depth: int | None = None) -> Summary:
    """Run a shape-only twin of the model on shape-only inputs, forward and backward, in its present mode.

    Each input is a shape (of the default dtype), or a tensor or array whose shape and dtype count. Modules
    deeper than `depth` are left out of the rows. The model itself is not touched.

    >>> from minigrad import nn
    >>> result = summary(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), (8, 4))
    >>> result.parameters, [row.output_shape for row in result.rows]
    (15, [(8, 3), (8, 3), (8, 3)])
    """
    twin = shape_only(model)
    with metered() as meter:
        recorder = _Recorder(meter, depth)
        for path, module in twin.named_modules():
            recorder.watch(path, module)
        given = [_shape_only_input(x) for x in inputs]
        held = meter.bytes_alive
        with mode(recording=True):
            outputs = [x for x in flatten(twin(*given)) if isinstance(x, Tensor) and x.requires_grad]
            forward, kept = meter.flops, meter.bytes_alive - held
            if outputs:
                total: Any = sum((ops.sum(x) for x in outputs[1:]), start=ops.sum(outputs[0]))
                total.backward()
        peak = meter.peak_bytes - held
    parameters = list(model.parameters())
    return Summary(
        rows=tuple(recorder.rows[path] for path in recorder.order if path in recorder.rows),
        parameters=sum(p.size for p in parameters),
        learned=sum(p.size for p in parameters if p.requires_grad),
        forward_flops=forward,
        backward_flops=meter.flops - forward,
        parameter_bytes=sum(p.size * p.dtype.itemsize for p in parameters),
        activation_bytes=kept,
        peak_bytes=peak,
    )


def shape_only(model: Module) -> Any:
    """A copy of the model whose parameters and buffers have shapes and dtypes, and no values.

    Hooks do not come along.
    """
    xp = backend.of_device("shapes")
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        twin = object.__new__(type(tensor))
        twin.data, twin.node = xp.empty(tensor.shape, dtype=tensor.dtype), None
        twin.start = tensor.start if tensor.device == "shapes" else None
        if hasattr(tensor, "persistent"):
            twin.persistent = tensor.persistent  # type: ignore[attr-defined]
        memo[id(tensor)] = twin.requires_grad_() if tensor.requires_grad else twin
    for module in model.modules():
        if module._hooks is not None:
            memo[id(module._hooks)] = None
    memo["kept"] = [model]  # type: ignore[index]
    return copy.deepcopy(model, memo)


def _shape_only_input(x: Any) -> Tensor:
    xp = backend.of_device("shapes")
    if isinstance(x, Sequence):
        return Tensor.of(xp.empty(tuple(x), dtype=state.default_dtype))
    return Tensor.of(xp.empty(tuple(x.shape), dtype=x.dtype))


class _Recorder:
    """Writes a row when a module's forward has ended; its first run counts for its shape, all for FLOPs."""

    def __init__(self, meter: Meter, depth: int | None) -> None:
        self.meter, self.depth = meter, depth
        self.order: list[str] = []
        self.rows: dict[str, Row] = {}
        self.started: list[int] = []

    def watch(self, path: str, module: Module) -> None:
        if self.depth is not None and path and path.count(".") + 1 > self.depth:
            return

        def before(module: Module, inputs: Any) -> None:
            if path not in self.order:
                self.order.append(path)
            self.started.append(self.meter.flops)

        def after(module: Module, inputs: Any, output: Any) -> None:
            flops = self.meter.flops - self.started.pop()
            if path in self.rows:
                flops += self.rows[path].flops
            shape = output.shape if isinstance(output, Tensor) else None
            count = sum(p.size for p in module.parameters())
            self.rows[path] = Row(path, type(module).__name__, shape, count, flops)

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)
