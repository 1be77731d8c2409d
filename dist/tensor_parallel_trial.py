"""Trying a plan: what it makes of a model has to compute what the model computes.

Whether a layer may stand inside a region can be seen from numbers alone: queries, keys and values that are
packed, a table that two layers share, a norm over features of which a rank has some. So the plan is carried
out on a copy first, with drawn weights in float64, and outputs and gradients of a few tokens are compared.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from minigrad import backend, nn, random
from minigrad.dist.tensor_parallel_layout import ParameterPart
from minigrad.dist.tensor_parallel_region import Region
from minigrad.errors import UsageError
from minigrad.nn.module import Buffer, Module, Parameter
from minigrad.tensor import Tensor
from minigrad.tree import flatten

TOLERANCE = 1e-5  # of the largest number: a layer may compute in float32
FAILURES = (ValueError, TypeError, AttributeError, LookupError, RuntimeError, AssertionError)
Arrays = list[np.ndarray]


def try_plan(
    model: Module,
    carry_out: Callable[[Module], None],
    entries: Mapping[str, str],
    region: Region,
    example: Any,
) -> None:
    """Carry a plan out on a copy of `model`, and compare. All ranks of the region call this together.

    entries   which entry of the plan is for which module, by the names of these
    example   what the whole model takes, one input or a tuple; if None, some are drawn

    Raises UsageError, naming entries, where the copy fails or computes something else.
    """
    trial = with_drawn_weights(model)
    whole, inputs = _whole_run(trial, example, region)
    carry_out(trial)
    part = Run(trial)
    try:
        part.forward([x if x.dtype.kind in "iu" else Tensor.of(_own(region, x.data)) for x in inputs])
    except FAILURES as error:
        fault = f"that fails in {_described(part.at)}, where the whole one does not ({error})"
        raise _refusal(region, entries, part.at, fault) from error
    place = _first_difference(whole, part, region)
    _agree(region, entries, place, f"in which {_described(place or '')} returns something else")
    part.backward([_own(region, x) for x in _weights(whole)])
    name = _other_gradient(whole, part, region)
    _agree(region, entries, name, f"in which the gradient of {name} is another")


def with_drawn_weights(model: Module) -> Any:
    """A copy of the model in training, on the host, in float64, without hooks; it learns every parameter."""
    values = np.random.default_rng(0)
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        shape = parameter.shape
        drawn = values.normal(size=shape) / shape[-1] ** 0.5 if len(shape) > 1 else values.random(shape) + 0.5
        memo[id(parameter)] = Parameter(drawn, requires_grad=True)
    for buffer in model.buffers():
        array = backend.namespace(buffer.data).to_host(buffer.data)
        memo[id(buffer)] = Buffer(array.astype("float64") if array.dtype.kind in "fV" else array.copy())
    for module in model.modules():
        if module._hooks is not None:
            memo[id(module._hooks)] = None
    return copy.deepcopy(model, memo).train()


class Run:
    """A model's run there and back, and what each of its modules returned, in the order in which they did."""

    def __init__(self, model: Module) -> None:
        self.model = model
        self.returned: list[tuple[str, Arrays]] = []
        self._begun: list[str] = []

    @property
    def at(self) -> str:
        """The module that was running last."""
        return self._begun[-1] if self._begun else ""

    def forward(self, inputs: list[Tensor]) -> None:
        self.inputs = [x.detach().requires_grad_(x.dtype.kind == "f") for x in inputs]
        handles = []
        for name, module in self.model.named_modules():
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: self._begun.append(name)))
            handles.append(module.register_forward_hook(lambda *given: self._end(given[-1])))
        with random.scope(seed=0, step=0, samples=range(inputs[0].shape[0])):
            results = flatten(self.model(*self.inputs))
        for handle in handles:
            handle.remove()
        self._results = [x for x in results if isinstance(x, Tensor)]
        self.outputs = [x.data for x in self._results]

    def _end(self, output: Any) -> None:
        arrays = [x.data.copy() for x in flatten(output) if isinstance(x, Tensor)]
        self.returned.append((self._begun.pop(), arrays))

    def backward(self, weights: Arrays) -> None:
        """From the sum of outputs times these weights, to `gradients`: by names of inputs and parameters,
        these themselves, and their gradients.
        """
        for result, weight in zip(self._results, weights, strict=True):
            if result.node is not None:
                result.backward(Tensor(weight), retain_graph=True)

        named = [(f"input {place}", x) for place, x in enumerate(self.inputs) if x.dtype.kind == "f"]
        self.gradients: dict[str, tuple[Tensor, np.ndarray]] = {}
        for name, x in [*named, *self.model.named_parameters()]:
            self.gradients[name] = (x, np.zeros(x.shape) if x.grad is None else x.grad.numpy().copy())
        self.model.zero_grad()


def _weights(whole: Run) -> Arrays:
    return [np.random.default_rng(place).normal(size=x.shape) for place, x in enumerate(whole.outputs)]


def _whole_run(trial: Module, example: Any, region: Region) -> tuple[Run, list[Tensor]]:
    """The whole model's run, and the inputs that it took."""
    failure = ""
    for inputs in _drawn(trial, region) if example is None else [_given(example)]:
        run = Run(trial)
        try:
            run.forward(inputs)
        except FAILURES as error:
            failure = f" ({error})"
        else:
            run.backward(_weights(run))
            return run, inputs
    whose = "`example`" if example is not None else "a few numbers drawn for its first layer"
    raise UsageError(
        f"{region.world.name}: a plan is tried before it is carried out, and {type(trial).__name__} does not "
        f"take {whose}{failure}; give example=, a small input of the whole model, or a tuple of several"
    )


def _given(example: Any) -> list[Tensor]:
    inputs = [Tensor(x).data for x in (example if isinstance(example, tuple) else (example,))]
    hosted = [backend.namespace(x).to_host(x) for x in inputs]
    return [Tensor(x.astype("float64") if x.dtype.kind in "fV" else x) for x in hosted]


def _drawn(model: Module, region: Region) -> Iterator[list[Tensor]]:
    """Inputs that the first layer with parameters could take; with token shares, equal ones."""
    values = np.random.default_rng(1)
    length = 2 * region.world.size if region.sequence else 3
    first = next((m for m in model.modules() if any(True for _ in m.parameters(recurse=False))), None)
    if isinstance(first, nn.Embedding):
        yield [Tensor(values.integers(0, first.num_embeddings, (2, length)))]
    if isinstance(first, nn.Linear):
        yield [Tensor(values.normal(size=(2, length, first.in_features)))]
        yield [Tensor(values.normal(size=(4, first.in_features)))]


# ----- Comparing -----


def _own(region: Region, array: np.ndarray) -> np.ndarray:
    """What this rank has of an array between regions: with token shares its own part of axis 1."""
    if not region.sequence or array.ndim < 2:
        return array
    first, stop = region.tokens(array.shape[1])
    return array[:, first:stop].copy()


def _alike(found: Arrays, expected: Arrays) -> bool:
    return len(found) == len(expected) and all(
        a.shape == b.shape
        and np.allclose(a, b, rtol=0, atol=TOLERANCE * (1e-30 + np.max(np.abs(b), initial=0)))
        for a, b in zip(found, expected, strict=True)
    )


def _first_difference(whole: Run, part: Run, region: Region) -> str | None:
    """The module that first returned something else, or None where the model returns the same.

    Inside a region others return parts, of other shapes, and those are right.
    """
    if _alike(part.outputs, [_own(region, x) for x in whole.outputs]):
        return None
    expected: dict[str, list[Arrays]] = {}
    for name, arrays in whole.returned:
        expected.setdefault(name, []).append(arrays)
    for name, arrays in part.returned:
        if expected.get(name):
            wanted = expected[name].pop(0)
            wholes = [wanted, [_own(region, x) for x in wanted]]
            shapes = [[x.shape for x in each] for each in wholes]
            if [x.shape for x in arrays] in shapes and not any(_alike(arrays, each) for each in wholes):
                return name
    return ""


def _other_gradient(whole: Run, part: Run, region: Region) -> str | None:
    """The first input or parameter whose gradient is another, or that the whole model has not."""
    for name, (x, found) in part.gradients.items():
        if name not in whole.gradients:
            return name
        _, wanted = whole.gradients[name]
        scale = np.max(np.abs(wanted), initial=0)
        if isinstance(x, ParameterPart):
            wanted = x.layout.cut(wanted)
        elif name.startswith("input"):
            wanted = _own(region, wanted)
        if wanted.shape == found.shape and np.max(np.abs(found - wanted), initial=0) > TOLERANCE * scale:
            return name
    return None


def _agree(region: Region, entries: Mapping[str, str], place: str | None, fault: str) -> None:
    """Raise UsageError on all ranks if one of them found a difference."""
    found = np.array([place is not None], dtype="int64")
    region.world.all_reduce(found, operation="max", purpose="control")
    if found[0]:
        fault = fault if place is not None else "as another rank of this world says"
        raise _refusal(region, entries, place or "", fault)


def _refusal(region: Region, entries: Mapping[str, str], place: str, fault: str) -> UsageError:
    """The error that names the entries of the plan that have to do with a module, or all if none has."""
    near = [pattern for name, pattern in entries.items() if _related(name, place)] or [*entries.values()]
    named = ", ".join(repr(pattern) for pattern in dict.fromkeys(near))
    return UsageError(
        f"{region.world.name}: the plan's {named} would make another model, {fault}; a region begins with a "
        "column-parallel layer, ends with a row-parallel one, and acts on each feature, or head, by itself "
        "in between, without dropout; parameters that layers share stay shared (a GPT needs no plan)"
    )


def _related(name: str, place: str) -> bool:
    """Whether one of two modules is the other, or inside it."""
    return f"{name}.".startswith(f"{place}.") or f"{place}.".startswith(f"{name}.")


def _described(name: str) -> str:
    return f"its module {name}" if name else "the model itself"
