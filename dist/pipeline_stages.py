"""The parts of a model that a pipeline spreads over ranks, and what they hand to each other.

What arrives where, of which shape, is found before anything runs: every stage is run once on arrays that have
a shape and no values.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigrad import backend, nn
from minigrad.dist.agreement import gathered
from minigrad.dist.partitioning import balance as balanced
from minigrad.dist.world import World
from minigrad.errors import CommunicationError, UsageError
from minigrad.graph import Leaf, mode
from minigrad.nn.materialize import unfilled
from minigrad.nn.module import Module
from minigrad.tensor import Tensor

Layer = Module | Callable[[], Module]
Values = tuple[Tensor, ...]
ABSENT = "absent"  # the namespace of parameters whose values lie on other ranks (ZeRO stage 3)


class Stage(Module):
    """Some neighbouring layers, one after the other, under the names that they have in the whole model.

    What a layer returns, a tensor or a tuple of them, the next one takes: so skip connections and several
    inputs pass from stage to stage.
    """

    def __init__(self, number: int, layers: Mapping[str, Module]) -> None:
        self.number = number
        for name, layer in layers.items():
            setattr(self, name, layer)

    @staticmethod
    def joined(stages: "Sequence[Stage]") -> "Stage":
        """The layers of several stages as one module; it is not called."""
        every = {name: layer for stage in stages for name, layer in stage.named_children()}
        return Stage(stages[0].number if stages else -1, every)

    def __repr__(self) -> str:
        names = [name for name, _ in self.named_children()]
        return (
            f"stage {self.number} ({names[0]} to {names[-1]})" if len(names) > 1 else f"stage {self.number}"
        )

    def forward(self, *values: Tensor) -> Values:
        for layer in self.children():
            values = tupled(layer(*values))
        return values

    @property
    def computes_with(self) -> Any:
        """The namespace of the parameters, wherever their values lie; the host's where there are none."""
        first = next(self.parameters(), None)
        return backend.host if first is None else backend.of_device(first.device)

    @contextmanager
    def without_values(self) -> Iterator[None]:
        """Parameters and buffers have shapes and no values inside the block, as must have what is put in."""
        xp = backend.of_device("shapes")
        tensors = [*self.parameters(), *self.buffers()]
        held = [tensor.data for tensor in tensors]
        # Where values lie on other ranks, hooks would fetch them.
        absent = any(backend.namespace(data).name == ABSENT for data in held)
        hooked = [
            (module, module._hooks) for module in self.modules() if absent and module._hooks is not None
        ]
        for tensor in tensors:
            tensor.data = xp.empty(tensor.shape, dtype=tensor.dtype)
        for module, _ in hooked:
            module._hooks = None
        try:
            yield
        finally:
            for tensor, data in zip(tensors, held, strict=True):
                tensor.data = data
            for module, hooks in hooked:
                module._hooks = hooks

    def forward_slice(
        self, values: Values, start: int, past: Sequence[Tensor]
    ) -> tuple[Values, list[Tensor]]:
        """Run one slice of the tokens, from token `start` on, given what the slice before it kept.

        A layer that looks at other tokens, or at their places, has a method `forward_slice(*values, start,
        past)` of its own, which returns its values and the `tensors_kept` tensors that it keeps for the next
        slice: keys and values of all tokens so far. Gradients into these come back. The other layers see each
        token by itself.
        """
        handed, present = list(past), []
        for layer in self.children():
            if not hasattr(layer, "forward_slice"):
                values = tupled(layer(*values))
                continue
            count: int = layer.tensors_kept  # type: ignore[attr-defined]  # what has the method has this
            place = {"start": start, "past": tuple(handed[:count])}
            if layer._hooks is None:
                outputs, kept = layer.forward_slice(*values, **place)
            else:  # ZeRO's stage 3 gathers a layer there
                outputs, kept = layer._hooks.run(layer, values, place, layer.forward_slice)
            values, handed = tupled(outputs), handed[count:]
            present += kept
        return values, present


def tupled(values: Any) -> Values:
    """What a layer returned, as a tuple of tensors."""
    return tuple(values) if isinstance(values, tuple | list) else (values,)


# ----- Cutting a model -----


@dataclass(frozen=True)
class Cut:
    """How layers are spread over stages: their names, and the first layer of each stage."""

    names: tuple[str, ...]
    starts: tuple[int, ...]

    @property
    def stages(self) -> int:
        return len(self.starts) - 1

    def layers_of(self, stage: int) -> range:
        return range(self.starts[stage], self.starts[stage + 1])

    def stage_of(self, parameter: str) -> int:
        """The stage that holds the parameter of this name. Raises UsageError for one that nobody has."""
        place = next((i for i, name in enumerate(self.names) if parameter.startswith(f"{name}.")), None)
        if place is None:
            raise UsageError(
                f"no layer holds a parameter {parameter!r}; names begin with those of layers: "
                f"{', '.join(self.names)}"
            )
        return max(stage for stage in range(self.stages) if self.starts[stage] <= place)


def cut(layers: Any, balance: Sequence[int] | None, stages: int) -> tuple[Cut, dict[str, Layer]]:
    """Check and name the layers of a model, and say which stage has which. `balance` counts layers by stage.

    Raises UsageError for more stages than layers, and for a balance with a zero or a wrong sum.
    """
    if isinstance(layers, Module | Mapping):
        named: dict[str, Layer] = dict(layers.named_children() if isinstance(layers, Module) else layers)
    else:
        named = {str(number): layer for number, layer in enumerate(layers)}
    for name, layer in named.items():
        if not isinstance(layer, Module) and not callable(layer):
            raise UsageError(f"layer {name} is {layer!r}; give a Module, or a function that makes one")
        if hasattr(Stage, name) or name == "number":
            raise UsageError(f"a layer cannot be called {name!r}, as that is taken; choose another name")
    if balance is None:
        if len(named) < stages:
            raise UsageError(
                f"{len(named)} layers cannot be spread over {stages} stages; give fewer ranks, or more layers"
            )
        balance = balanced([1.0] * len(named), stages)
    counts = list(balance)
    if len(counts) != stages:
        raise UsageError(f"the balance {counts} is for {len(counts)} stages, and there are {stages}")
    if min(counts) < 1 or sum(counts) != len(named):
        raise UsageError(
            f"the balance {counts} adds up to {sum(counts)} layers, and the model has {len(named)}; give "
            "every stage at least one layer, and all layers to stages"
        )
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    return Cut(tuple(named), tuple(starts)), named


def refuse_unknown_starts(layers: Mapping[str, Layer], device: str) -> None:
    """Raise UsageError, alike on all ranks, for Modules of any stage that cannot be filled."""
    given = {name: layer for name, layer in layers.items() if isinstance(layer, Module)}
    unfilled(Stage(-1, given), device=device)


def build(cut: Cut, layers: Mapping[str, Layer], stage: int) -> Stage:
    """One stage; layers given as functions are made here, and only here."""
    chosen = {}
    for place in cut.layers_of(stage):
        layer = layers[cut.names[place]]
        chosen[cut.names[place]] = layer if isinstance(layer, Module) else layer()
    return Stage(stage, chosen)


# Layers that see each token by itself. Others say so: `token_by_token = True`.
ALONE = (nn.Linear, nn.Embedding, nn.ReLU, nn.Tanh, nn.GELU)


def refuse_other_tokens(name: str, layer: Module) -> None:
    """Raise UsageError for a layer that may look at other tokens and cannot run on slices of them."""
    if isinstance(layer, nn.Sequential):
        for inner, child in layer.named_children():
            refuse_other_tokens(f"{name}.{inner}", child)
        return
    alone = isinstance(layer, ALONE) or (isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) == 1)
    if not (alone or getattr(layer, "token_by_token", False) or hasattr(layer, "forward_slice")):
        raise UsageError(
            f"layer {name} ({type(layer).__name__}) may look at other tokens, and token slices need a model "
            "that never looks ahead: give it a method forward_slice (see Stage), or token_by_token = True if "
            "it takes each token alone; those of a GPT come from token_layers"
        )


def refuse_shared_streams(world: World, stages: Mapping[int, Stage]) -> None:
    """Raise UsageError, on all ranks, where layers of two stages draw from one stream of random numbers.

    On one rank the second would draw anew; stages run apart, and both would draw the same mask.
    """
    drawn = {
        number: sorted({name for module in stage.modules() if (name := _stream_of(module))})
        for number, stage in stages.items()
    }
    stages_of: dict[str, list[int]] = {}
    for number, names in sorted(
        (int(n), names) for part in gathered(world, drawn) for n, names in part.items()
    ):
        for name in names:
            stages_of.setdefault(name, []).append(number)
    for name, numbers in stages_of.items():
        if len(numbers) > 1:
            raise UsageError(
                f"{world.name}: layers of stages {' and '.join(map(str, numbers))} draw from one stream of "
                f"random numbers, {name!r}, and would draw the same mask; give each a layer of its own, "
                "and where ranks make their layers, a stream of its own: Dropout(p, stream=...)"
            )


def _stream_of(module: Module) -> str:
    """The stream that a layer draws from; nothing for one that does not."""
    name = getattr(module, "stream", None) or getattr(module, "_stream", None)
    draws = getattr(module, "p", 0.0) or getattr(module, "dropout", 0.0)
    return name if draws and isinstance(name, str) else ""


# ----- What passes between stages -----


@dataclass(frozen=True)
class Passed:
    """One tensor that a stage hands on: its shape and dtype, and whether a gradient comes back for it."""

    shape: tuple[int, ...]
    dtype: str
    has_gradient: bool

    def empty(self, xp: Any) -> Any:
        return xp.empty(self.shape, dtype=self.dtype)


Boundaries = dict[tuple[int, int], tuple[Passed, ...]]


def entry(array: Any, has_gradient: bool) -> Tensor:
    """What stands for an input of a stage: a leaf, where the stage's own graph begins, or a constant."""
    return Tensor.of(array, Leaf(array.shape, array.dtype) if has_gradient else None)


def find_boundaries(
    world: World,
    stages: Mapping[int, Stage],
    rank_of: Sequence[int],
    inputs: Sequence[Values],
    starts: Sequence[int] | None = None,
) -> Boundaries:
    """What each stage hands on, by (stage, slice), for one microbatch given by its slices; on all ranks.

    `starts` are the slices' first tokens; None for a schedule without slices.

    Every rank runs its own stages on shape-only arrays when their turn comes and tells the others.
    """
    xp = backend.of_device("shapes")
    found: Boundaries = {}
    before = [tuple(Passed(tuple(x.shape), str(x.dtype), False) for x in part) for part in inputs]
    for stage, home in enumerate(rank_of):
        texts = ""
        if home == world.rank:
            before = _run_without_values(world, stages[stage], before, xp, starts)
            texts = json.dumps([[[list(p.shape), p.dtype, p.has_gradient] for p in part] for part in before])
        told = json.loads(_tell(world, texts, root=home))
        before = [tuple(Passed(tuple(shape), dtype, g) for shape, dtype, g in part) for part in told]
        found.update({(stage, place): part for place, part in enumerate(before)})
    return found


def _run_without_values(
    world: World, stage: Stage, inputs: Sequence[tuple[Passed, ...]], xp: Any, starts: Sequence[int] | None
) -> list[tuple[Passed, ...]]:
    outputs = []
    past: list[Tensor] = []
    with stage.without_values(), mode(recording=True):
        for place, part in enumerate(inputs):
            values = tuple(entry(passed.empty(xp), passed.has_gradient) for passed in part)
            try:
                if starts is None:
                    made = stage(*values)
                else:
                    made, past = stage.forward_slice(values, starts[place], past)
            except Exception as error:
                taken = ", ".join(f"{p.dtype} {p.shape}" for p in part)
                raise CommunicationError(f"{world.name}: {stage!r} cannot take {taken}: {error}") from error
            for value in made:
                if not isinstance(value, Tensor):
                    raise CommunicationError(
                        f"{world.name}: {stage!r} returned {value!r}; stages hand on tensors, or tuples"
                    )
            outputs.append(tuple(Passed(tuple(x.shape), str(x.dtype), x.node is not None) for x in made))
    return outputs


def _tell(world: World, text: str, *, root: int) -> str:
    """Rank `root`'s text, on every rank."""
    content = np.frombuffer(text.encode(), dtype=np.uint8).copy()
    length = np.array([content.size])
    world.broadcast(length, root=root)
    if world.rank != root:
        content = np.empty(int(length[0]), dtype=np.uint8)
    world.broadcast(content, root=root)
    return content.tobytes().decode()
