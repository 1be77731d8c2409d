"""Optimizers. Parameters of one optimizer lie in one flat array, so that a step is a few passes over few long
pieces.

The gradients may lie in a flat array of somebody else (data parallelism has its buckets). A step looks for
the longest pieces in which parameters and gradients are both contiguous, and works on those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from minigrad import backend, mutation
from minigrad.backend import Array
from minigrad.errors import ShapeError, UsageError
from minigrad.graph import Leaf
from minigrad.nn.module import Parameter

BLOCK = 1 << 15
"""Entries that a step works through at a time on a processor: four arrays of them stay in its second-level
cache.
"""


class Optimizer:
    """Parameters in groups, each with its own settings; subclasses say what a step does to one contiguous
    piece.

    `parameters` is an iterable of parameters, or of dicts with "params" and settings that differ from the
    defaults.
    """

    state_names: tuple[str, ...] = ()

    def __init__(
        self, parameters: Iterable[Parameter] | Iterable[Mapping[str, Any]], **defaults: Any
    ) -> None:
        given: list[Any] = list(parameters)
        if not given:
            raise UsageError("an optimizer needs at least one parameter, and got none")
        groups: list[Mapping[str, Any]] = given if isinstance(given[0], Mapping) else [{"params": given}]
        self.param_groups: list[dict[str, Any]] = []
        for group in groups:
            unknown = set(group) - set(defaults) - {"params"}
            if unknown:
                raise UsageError(
                    f"unknown settings {sorted(unknown)} in a parameter group; expected {sorted(defaults)}"
                )
            self.param_groups.append({**defaults, **group, "params": list(group["params"])})
        self.parameters: list[Parameter] = [p for group in self.param_groups for p in group["params"]]
        if len({id(p) for p in self.parameters}) != len(self.parameters):
            raise UsageError("a parameter appears twice; give each to one group, once")
        kinds = {(p.dtype, p.device) for p in self.parameters}
        if len(kinds) > 1:
            raise UsageError(
                f"parameters of one optimizer share dtype and device; got {sorted(map(str, kinds))}"
            )
        self._lay_out()

    def _lay_out(self) -> None:
        """Move the parameters into one flat array, and make the state's arrays beside it."""
        first = self.parameters[0].data
        self._xp = xp = backend.namespace(first)
        sizes = [p.size for p in self.parameters]
        self._starts = [sum(sizes[:i]) for i in range(len(sizes))]
        total = sum(sizes)
        self.flat_parameters = xp.empty(total, dtype=first.dtype)
        self._flat_gradients: Array | None = None
        self.flat_state = {name: xp.zeros(total, dtype=first.dtype) for name in self.state_names}
        self.steps = [0] * len(sizes)
        for start, p in zip(self._starts, self.parameters, strict=True):
            view = self.flat_parameters[start : start + p.size].reshape(p.shape)
            view[...] = p.data
            p.data = view
        self._pieces: list[_Piece] = []
        self._layout: tuple[Any, ...] | None = None

    def _leaves(self) -> list[Leaf]:
        leaves = [p.node for p in self.parameters]
        if not all(isinstance(leaf, Leaf) for leaf in leaves):
            place = next(i for i, leaf in enumerate(leaves) if not isinstance(leaf, Leaf))
            raise UsageError(
                f"parameter {place} of the optimizer no longer requires a gradient; build a new optimizer"
            )
        return leaves  # type: ignore[return-value]

    def _give_buffers(self, leaves: list[Leaf]) -> None:
        """Make the gradients of parameters that nobody gave a buffer lie in one flat array."""
        if all(leaf.buffer is not None for leaf in leaves):
            return
        if self._flat_gradients is None:
            self._flat_gradients = self._xp.zeros_like(self.flat_parameters)
        for start, p, leaf in zip(self._starts, self.parameters, leaves, strict=True):
            if leaf.buffer is None:
                p.grad_buffer = self._flat_gradients[start : start + p.size].reshape(p.shape)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.parameters:
            p.zero_grad()

    def step(self) -> None:
        """Update every parameter that has a gradient. The others, and their state, stay as they are."""
        leaves = self._leaves()
        self._give_buffers(leaves)
        layout = tuple((id(leaf.buffer), leaf.filled) for leaf in leaves)
        if layout != self._layout:
            self._layout, self._pieces = layout, self._find_pieces(leaves)
        for piece in self._pieces:
            for index in piece.members:
                self.steps[index] += 1
            self._step_piece(piece)
        mutation.mutated(self.flat_parameters)

    def _step_piece(self, piece: _Piece) -> None:
        settings = self.param_groups[piece.group]
        step = self.steps[piece.members[0]]
        size = BLOCK if self._xp.blocked else max(piece.stop - piece.start, 1)
        for start in range(piece.start, piece.stop, size):
            part = slice(start, min(start + size, piece.stop))
            gradient = piece.gradient[part.start - piece.start : part.stop - piece.start]
            state = {name: array[part] for name, array in self.flat_state.items()}
            self.update(self.flat_parameters[part], gradient, state, settings, step)

    def update(
        self, parameter: Array, gradient: Array, state: dict[str, Array], settings: dict[str, Any], step: int
    ) -> None:
        """Change `parameter` and `state` in place for the `step`-th time (from 1); flat arrays of equal
        length.
        """
        raise NotImplementedError

    def _find_pieces(self, leaves: list[Leaf]) -> list[_Piece]:
        """The longest runs of parameters with gradients that adjoin in memory, share a group and were stepped
        as often.
        """
        pieces: list[_Piece] = []
        group_of = [i for i, group in enumerate(self.param_groups) for _ in group["params"]]
        for index, (start, leaf) in enumerate(zip(self._starts, leaves, strict=True)):
            if not leaf.filled or leaf.buffer is None:
                continue
            size = self.parameters[index].size
            span = mutation.byte_range(leaf.buffer)
            last = pieces[-1] if pieces else None
            if (
                last is not None
                and span is not None
                and (last.stop, last.end, last.group) == (start, span[0], group_of[index])
                and leaf.buffer.base is not None
                and leaf.buffer.base is last.owner
                and self.steps[last.members[0]] == self.steps[index]
            ):
                last.stop, last.end = start + size, span[1]
                last.members.append(index)
            else:
                pieces.append(_Piece(index, group_of[index], start, start + size, leaf.buffer, span))
        for piece in pieces:
            piece.join()
        return pieces

    # ----- State -----

    def state_dict(self) -> dict[str, Any]:
        """Steps and state arrays by parameter number, and the groups' settings, as torch lays them out."""
        numbers = iter(range(len(self.parameters)))
        groups = [
            {
                **{k: v for k, v in group.items() if k != "params"},
                "params": [next(numbers) for _ in group["params"]],
            }
            for group in self.param_groups
        ]
        state = {}
        for index, (start, p) in enumerate(zip(self._starts, self.parameters, strict=True)):
            arrays = {
                name: flat[start : start + p.size].reshape(p.shape) for name, flat in self.flat_state.items()
            }
            state[index] = {"step": self.steps[index], **arrays}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave. Raises UsageError or ShapeError where groups, counts or shapes
        differ.
        """
        counts = [len(group["params"]) for group in saved["param_groups"]]
        if counts != [len(group["params"]) for group in self.param_groups]:
            raise UsageError(
                f"the saved state has groups of {counts} parameters, this optimizer of "
                f"{[len(group['params']) for group in self.param_groups]}; build it over the same parameters"
            )
        for index, p in enumerate(self.parameters):
            for name in self.state_names:
                shape = tuple(saved["state"][index][name].shape)
                if shape != p.shape:
                    raise ShapeError(f"{name} of parameter {index} has shape {shape}, expected {p.shape}")
        for group, other in zip(self.param_groups, saved["param_groups"], strict=True):
            group.update({k: v for k, v in other.items() if k != "params"})
        for index, (start, p) in enumerate(zip(self._starts, self.parameters, strict=True)):
            entry = saved["state"][index]
            self.steps[index] = int(entry["step"])
            for name, flat in self.flat_state.items():
                values = backend.asarray(entry[name], device=p.device)
                flat[start : start + p.size] = values.reshape(-1)
        self._layout = None


class _Piece:
    """Parameters whose values and gradients are contiguous: entries start ... stop of the flat array."""

    def __init__(
        self, index: int, group: int, start: int, stop: int, buffer: Array, span: tuple[int, int] | None
    ) -> None:
        self.members, self.group, self.start, self.stop = [index], group, start, stop
        self.owner = buffer.base
        self.first = buffer
        self.end = span[1] if span is not None else -1
        self.gradient = buffer

    def join(self) -> None:
        """Make one flat view of all the members' gradients."""
        if len(self.members) == 1:
            self.gradient = self.first.reshape(-1)
            return
        flat = self.owner.reshape(-1)
        whole, own = mutation.byte_range(flat), mutation.byte_range(self.first)
        if whole is None or own is None:
            raise UsageError("gradient buffers that adjoin must say where they lie in memory")
        offset = (own[0] - whole[0]) // flat.dtype.itemsize
        self.gradient = flat[offset : offset + self.stop - self.start]


class AdamW(Optimizer):
    """Adam with decoupled weight decay, in place.

    m ← β₁m + (1-β₁)g,  v ← β₂v + (1-β₂)g²,  θ ← θ - lr·λ·θ - lr · m̂ / (√v̂ + ε), with m̂ = m/(1-β₁ᵗ) and v̂
    = v/(1-β₂ᵗ). Papers: Kingma, Ba 2015, Adam, algorithm 1; Loshchilov, Hutter 2019, Decoupled Weight Decay
    Regularization, algorithm 2.
    """

    state_names = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        parameters: Iterable[Parameter] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        if lr < 0 or eps < 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas):
            raise UsageError(
                f"AdamW: lr {lr}, eps {eps} and weight_decay {weight_decay} must not be negative, and betas "
                f"{tuple(betas)} must lie in [0, 1)"
            )
        super().__init__(parameters, lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay)

    def update(
        self, parameter: Array, gradient: Array, state: dict[str, Array], settings: dict[str, Any], step: int
    ) -> None:
        xp = self._xp
        lr, (beta1, beta2) = settings["lr"], settings["betas"]
        m, v = state["exp_avg"], state["exp_avg_sq"]
        m *= beta1
        s = gradient * (1 - beta1)
        m += s
        s *= gradient
        s *= (1 - beta2) / (1 - beta1)
        v *= beta2
        v += s
        if settings["weight_decay"]:
            parameter *= 1 - lr * settings["weight_decay"]
        # m̂/(√v̂ + ε) = m · √(1-β₂ᵗ)/(1-β₁ᵗ) / (√v + ε·√(1-β₂ᵗ))
        root = (1 - beta2**step) ** 0.5
        xp.sqrt(v, out=s)
        s += settings["eps"] * root
        xp.divide(m, s, out=s)
        s *= lr * root / (1 - beta1**step)
        parameter -= s
