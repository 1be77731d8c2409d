"""Optimizers.

The parameters of one optimizer lie in one flat array, so that a step is a few passes over few long pieces.

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
from minigrad.tensor import Tensor

BLOCK = 1 << 15
"""Entries that a step works through at a time on a processor: four arrays of them stay in its cache."""


class Optimizer:
    """Parameters in groups, each with its own settings; subclasses say what a step does to one piece of them.

    `params` is an iterable of parameters, or of dicts with "params" and settings that differ from the
    defaults. Raises UsageError for no parameters, the same one twice, and those that cannot have a gradient.
    """

    state_names: tuple[str, ...] = ()

    def __init__(self, params: Iterable[Parameter] | Iterable[Mapping[str, Any]], **defaults: Any) -> None:
        given: list[Any] = [params] if isinstance(params, Tensor) else list(params)
        grouped = any(isinstance(one, Mapping) for one in given)
        self.param_groups = [
            self._group(one, defaults) for one in (given if grouped else [{"params": given}])
        ]
        self.parameters: list[Parameter] = [p for group in self.param_groups for p in group["params"]]
        if not self.parameters:
            raise UsageError("an optimizer needs at least one parameter, and got none")
        if len({id(p) for p in self.parameters}) != len(self.parameters):
            raise UsageError("a parameter appears twice; give each to one group, once")
        kinds = {(p.dtype, p.device) for p in self.parameters}
        if len(kinds) > 1:
            raise UsageError(
                f"parameters of one optimizer share dtype and device; got {sorted(map(str, kinds))}"
            )
        self._lay_out()

    def _group(self, group: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """One group with all of its settings, checked."""
        if not isinstance(group, Mapping) or "params" not in group:
            raise UsageError('give all parameters in groups {"params": [...], ...}, or all without')
        unknown = set(group) - set(defaults) - {"params"}
        if unknown:
            raise UsageError(
                f"unknown settings {sorted(unknown)} in a parameter group; expected {sorted(defaults)}"
            )
        inside = group["params"]
        full = {**defaults, **group, "params": [inside] if isinstance(inside, Tensor) else list(inside)}
        self.check(full)
        for place, p in enumerate(full["params"]):
            if not isinstance(p, Tensor) or not isinstance(p.node, Leaf):
                raise UsageError(
                    f"parameter {place} of a group requires no gradient ({type(p).__name__} of shape "
                    f"{getattr(p, 'shape', None)}); leave out what is not to be trained"
                )
        return full

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise UsageError for settings of a group that make no sense."""

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
        self._views = [p.data for p in self.parameters]
        self._pieces: list[_Piece] = []
        self._layout: tuple[Any, ...] | None = None

    def _leaves(self) -> list[Leaf]:
        leaves: list[Leaf] = []
        for index, (p, view) in enumerate(zip(self.parameters, self._views, strict=True)):
            if p.data is not view:
                raise UsageError(
                    f"parameter {index} left this optimizer's array: it was moved with .to(...), or given to "
                    "another optimizer; build one optimizer, after moving"
                )
            if not isinstance(p.node, Leaf):
                raise UsageError(
                    f"parameter {index} of the optimizer no longer requires a gradient; build a new optimizer"
                )
            leaves.append(p.node)
        return leaves

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
        """Change `parameter` and `state`, flat and of equal length, in place; `step` counts from 1."""
        raise NotImplementedError

    def _find_pieces(self, leaves: list[Leaf]) -> list[_Piece]:
        """The longest runs of parameters whose gradients adjoin, of one group and one number of steps."""
        pieces: list[_Piece] = []
        group_of = [i for i, group in enumerate(self.param_groups) for _ in group["params"]]
        for index, (start, leaf) in enumerate(zip(self._starts, leaves, strict=True)):
            if not leaf.filled or leaf.buffer is None:
                continue
            if not _contiguous(leaf.buffer):
                raise UsageError(
                    f"the gradient buffer of parameter {index} has strides {leaf.buffer.strides}, not "
                    "contiguous; give it a slice of a flat array, reshaped"
                )
            last = pieces[-1] if pieces else None
            if (
                last is not None
                and (last.stop, last.group) == (start, group_of[index])
                and self.steps[last.members[0]] == self.steps[index]
                and last.adjoins(leaf.buffer)
            ):
                last.add(index, leaf.buffer)
            else:
                pieces.append(_Piece(index, group_of[index], start, leaf.buffer))
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
        """Take over what `state_dict` gave.

        Raises UsageError or ShapeError, before anything is changed, where groups, counts or shapes differ.
        """
        counts = [len(group["params"]) for group in saved["param_groups"]]
        if counts != [len(group["params"]) for group in self.param_groups]:
            raise UsageError(
                f"the saved state has groups of {counts} parameters, this optimizer of "
                f"{[len(group['params']) for group in self.param_groups]}; build it over the same parameters"
            )
        for index, p in enumerate(self.parameters):
            entry = saved["state"].get(index, {})
            missing = {"step", *self.state_names} - set(entry)
            if missing:
                raise UsageError(f"the saved state of parameter {index} lacks {sorted(missing)}")
            for name in self.state_names:
                shape = tuple(entry[name].shape)
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


def _contiguous(array: Array) -> bool:
    flags = getattr(array, "flags", None)  # arrays without values have none
    return flags is None or bool(flags.c_contiguous)


class _Piece:
    """Parameters whose values and gradients are contiguous: entries start ... stop of the flat array."""

    def __init__(self, index: int, group: int, start: int, buffer: Array) -> None:
        self.group, self.start, self.stop = group, start, start
        self.members: list[int] = []
        self.buffers: list[Array] = []  # held, so that no other array can take the identity of one
        self.gradient = buffer
        self.add(index, buffer)

    def adjoins(self, buffer: Array) -> bool:
        """Whether `buffer` begins where the piece ends, within one flat array of its kind."""
        last, owner = self.buffers[-1], buffer.base
        if owner is None or owner is not last.base or owner.dtype != buffer.dtype:
            return False
        before, after = mutation.byte_range(last), mutation.byte_range(buffer)
        return _contiguous(owner) and before is not None and after is not None and before[1] == after[0]

    def add(self, index: int, buffer: Array) -> None:
        self.members.append(index)
        self.buffers.append(buffer)
        self.stop += buffer.size

    def join(self) -> None:
        """Make one flat view of all the members' gradients."""
        first = self.buffers[0]
        if len(self.members) == 1:
            self.gradient = first.reshape(-1)
            return
        flat = first.base.reshape(-1)
        whole, own = mutation.byte_range(flat), mutation.byte_range(first)
        assert whole is not None  # `adjoins` has seen to it
        assert own is not None
        offset = (own[0] - whole[0]) // flat.dtype.itemsize
        self.gradient = flat[offset : offset + self.stop - self.start]


class AdamW(Optimizer):
    """Adam with decoupled weight decay, in place.

    m ← β₁m + (1-β₁)g,  v ← β₂v + (1-β₂)g²,  m̂ = m/(1-β₁ᵗ),  v̂ = v/(1-β₂ᵗ)
    θ ← θ - lr·λ·θ - lr · m̂ / (√v̂ + ε)

    Papers: Kingma, Ba 2015, Adam, algorithm 1; Loshchilov, Hutter 2019, Decoupled Weight Decay
    Regularization, algorithm 2.
    """

    state_names = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay)

    def check(self, settings: Mapping[str, Any]) -> None:
        lr, eps, decay, betas = (settings[name] for name in ("lr", "eps", "weight_decay", "betas"))
        if not (
            lr >= 0 and eps >= 0 and decay >= 0 and len(betas) == 2 and all(0 <= beta < 1 for beta in betas)
        ):
            raise UsageError(
                f"AdamW: lr {lr}, eps {eps} and weight_decay {decay} must not be negative, and two betas "
                f"({betas}) must lie in [0, 1)"
            )

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
