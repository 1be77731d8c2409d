"""The parts of a model that a pipeline spreads over ranks, and what they hand to each other.

What arrives where, of which shape, is found before microbatches of a new kind run: every stage is run once on
arrays that have a shape and no values. The same run counts draws of random numbers: a stream from which
layers of several stages draw goes on from stage to stage, as on one rank.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigrad import backend, nn, random
from minigrad.dist.partitioning import balance as balanced
from minigrad.dist.world import World
from minigrad.errors import CommunicationError, UsageError
from minigrad.graph import Leaf, mode
from minigrad.nn.layers.dropout import numbered
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

    def place_of(self, parameter: str) -> int:
        """The number of the layer that holds the parameter of this name. Raises UsageError where none can."""
        place = next((i for i, name in enumerate(self.names) if parameter.startswith(f"{name}.")), None)
        if place is None:
            raise UsageError(
                f"no layer holds a parameter {parameter!r}; names begin with those of layers: "
                f"{', '.join(self.names)}"
            )
        return place

    def stage_of(self, parameter: str) -> int:
        """The stage that holds the parameter of this name. Raises UsageError for one that nobody has."""
        place = self.place_of(parameter)
        return max(stage for stage in range(self.stages) if self.starts[stage] <= place)


def cut(layers: Any, balance: Sequence[int] | None, stages: int) -> tuple[Cut, dict[str, Layer]]:
    """Check and name the layers of a model, and say which stage has which. `balance` counts layers by stage.

    Raises UsageError for a model that is no chain of layers, for more stages than layers, and for a balance
    with a zero or a wrong sum.
    """
    named = named_layers(layers)
    if balance is None:
        if len(named) < stages:
            raise UsageError(
                f"{len(named)} layers cannot be spread over {stages} stages; give fewer ranks, or more layers"
            )
        balance = balanced([1.0] * len(named), stages)
    counts = list(balance)
    if len(counts) != stages:
        raise UsageError(f"the balance {counts} is for {len(counts)} stages, and there are {stages}")
    if min(counts) < 1:
        raise UsageError(
            f"the balance {counts} gives stage {counts.index(min(counts))} {min(counts)} layers; give every "
            "stage at least one"
        )
    if sum(counts) != len(named):
        raise UsageError(
            f"the balance {counts} adds up to {sum(counts)} layers, and the model has {len(named)}; give all "
            "layers to stages"
        )
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    return Cut(tuple(named), tuple(starts)), named


def named_layers(layers: Any) -> dict[str, Layer]:
    """The layers of a chain by name. Raises UsageError for a Module that may be something else than a chain
    of its children, and for what is no layer.
    """
    if isinstance(layers, Module):
        if not is_chain(layers):
            raise UsageError(
                f"a pipeline cannot cut {type(layers).__name__}: only its forward knows how its layers hang "
                "together. Write classes for them, each of which takes all that the one before returned (a "
                "tensor that skips some passes through them in a tuple), and give these in a list, a mapping "
                "or an nn.Sequential"
            )
        if layers._hooks and (layers._hooks.before or layers._hooks.after):
            raise UsageError(
                "the model has hooks, and a pipeline runs its layers one by one; register them on layers"
            )
        named: dict[str, Layer] = dict(layers.named_children())
    elif isinstance(layers, Mapping):
        named = {str(name): layer for name, layer in layers.items()}
    elif isinstance(layers, Iterable):
        named = {str(number): layer for number, layer in enumerate(layers)}
    else:
        raise UsageError(f"the layers are {layers!r}; give an nn.Sequential, or a list or mapping of Modules")
    for name, layer in named.items():
        if not isinstance(layer, Module) and not callable(layer):
            raise UsageError(f"layer {name} is {layer!r}; give a Module, or a function that makes one")
        if hasattr(Stage, name) or name == "number":
            raise UsageError(f"a layer cannot be called {name!r}, as that is taken; choose another name")
    return named


def is_chain(module: Module) -> bool:
    """Whether a module is known to run its children one after the other, or only to hold them."""
    kind = type(module)
    holds = isinstance(module, nn.ModuleList | nn.ModuleDict) and kind.forward is Module.forward
    runs = isinstance(module, nn.Sequential) and kind.forward is nn.Sequential.forward
    return (holds or runs) and kind.__call__ is Module.__call__ and "forward" not in vars(module)


def refuse_unknown_starts(layers: Mapping[str, Layer], device: str) -> None:
    """Raise UsageError, alike on all ranks, for Modules of any stage that cannot be filled."""
    given = {name: layer for name, layer in layers.items() if isinstance(layer, Module)}
    unfilled(Stage(-1, given), device=device)


def build(cut: Cut, layers: Mapping[str, Layer], stage: int, number: int) -> Stage:
    """One stage; layers given as functions are made here, and only here.

    `number` is that of a draw of this thread. What such a layer begins with, and its random numbers, are a
    function of that and of its own place: the same however layers are spread over stages and ranks.
    """
    chosen = {}
    for place in cut.layers_of(stage):
        name = cut.names[place]
        layer = layers[name]
        if not isinstance(layer, Module):
            seed, _, *rest = random.snapshot()
            draws = number * len(cut.names) + place << 32
            with random.restored((seed, draws, *rest)), numbered(f"{name} of {number}, "):
                made = layer()
            if not isinstance(made, Module):
                raise UsageError(f"the function for layer {name} returned {made!r}; it is to make a Module")
            layer = made
        chosen[name] = layer
    return Stage(stage, chosen)


# Layers that see each token by itself. Others, those derived from them too, say so: `token_by_token = True`.
ALONE = (
    *(nn.Linear, nn.Embedding, nn.Identity, nn.Tanh, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.LogSigmoid),
    *(nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.ELU, nn.SELU, nn.CELU, nn.Softplus, nn.Softsign, nn.Tanhshrink),
    *(nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardshrink, nn.Softshrink),
)


def refuse_other_tokens(name: str, layer: Module) -> None:
    """Raise UsageError for a layer that may look at other tokens and cannot run on slices of them."""
    if type(layer).forward is nn.Sequential.forward and not hasattr(type(layer), "forward_slice"):
        for inner, child in layer.named_children():
            refuse_other_tokens(f"{name}.{inner}", child)
        return
    alone = type(layer) in ALONE
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm) and type(layer) in (nn.LayerNorm, nn.RMSNorm):
        alone = len(layer.normalized_shape) == 1
    if not (alone or _says(layer, "token_by_token") or _says(layer, "forward_slice")):
        raise UsageError(
            f"layer {name} ({type(layer).__name__}) may look at other tokens, and token slices need a model "
            "that never looks ahead: give it a method forward_slice (see Stage), or token_by_token = True if "
            "it takes each token alone (a class derived from it with a forward of its own has to say so, "
            "too); those of a GPT come from token_layers"
        )


def _says(layer: Module, name: str) -> bool:
    """Whether a layer, or the class that has its forward or one derived from that, has something true."""
    if name in vars(layer):
        return bool(vars(layer)[name])
    first = next(kind for kind in type(layer).__mro__ if {name, "forward"} & set(vars(kind)))
    return bool(vars(first).get(name))


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
Drawn = dict[tuple[int, int], Mapping[str, int]]  # how often stages before drew from each stream


def entry(array: Any, has_gradient: bool) -> Tensor:
    """What stands for an input of a stage: a leaf, where the stage's own graph begins, or a constant."""
    return Tensor.of(array, Leaf(array.shape, array.dtype) if has_gradient else None)


def find_boundaries(
    world: World,
    stages: Mapping[int, Stage],
    rank_of: Sequence[int],
    inputs: Sequence[Values],
    starts: Sequence[int] | None = None,
) -> tuple[Boundaries, Drawn]:
    """What each stage hands on, and what was drawn before it, by (stage, slice), for one microbatch given by
    its slices; on all ranks.

    `starts` are the slices' first tokens; None for a schedule without slices.

    Every rank runs its own stages on shape-only arrays when their turn comes and tells the others.
    """
    xp = backend.of_device("shapes")
    found: Boundaries = {}
    drawn: Drawn = {(0, place): {} for place in range(len(inputs))}
    before = [tuple(Passed(tuple(x.shape), str(x.dtype), False) for x in part) for part in inputs]
    for stage, home in enumerate(rank_of):
        texts = ""
        if home == world.rank:
            made = _run_without_values(world, stages[stage], before, xp, starts)
            texts = json.dumps(
                [([(p.shape, p.dtype, p.has_gradient) for p in part], calls) for part, calls in made]
            )
        before = []
        for place, (told, calls) in enumerate(json.loads(_tell(world, texts, root=home))):
            before.append(tuple(Passed(tuple(shape), dtype, g) for shape, dtype, g in told))
            found[stage, place] = before[-1]
            drawn[stage + 1, place] = dict(Counter(drawn[stage, place]) + Counter(calls))
    return found, drawn


def _run_without_values(
    world: World, stage: Stage, inputs: Sequence[tuple[Passed, ...]], xp: Any, starts: Sequence[int] | None
) -> list[tuple[tuple[Passed, ...], dict[str, int]]]:
    """For each slice what the stage hands on, and how often it draws from which stream."""
    outputs = []
    past: list[Tensor] = []
    with stage.without_values(), mode(recording=True):
        for place, part in enumerate(inputs):
            values = tuple(entry(passed.empty(xp), passed.has_gradient) for passed in part)
            try:
                with random.scope(seed=0, step=0, samples=()):
                    if starts is None:
                        made = stage(*values)
                    else:
                        made, past = stage.forward_slice(values, starts[place], past)
                    *_, calls = random.snapshot()
            except Exception as error:
                taken = ", ".join(f"{p.dtype} {p.shape}" for p in part)
                raise CommunicationError(f"{world.name}: {stage!r} cannot take {taken}: {error}") from error
            for value in made:
                if not isinstance(value, Tensor):
                    raise CommunicationError(
                        f"{world.name}: {stage!r} returned {value!r}; stages hand on tensors, or tuples"
                    )
            handed = tuple(Passed(tuple(x.shape), str(x.dtype), x.node is not None) for x in made)
            outputs.append((handed, calls))
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
