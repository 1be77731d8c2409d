"""What all optimizers share: parameters in groups, flat arrays, shards, saved state.

The parameters of one optimizer lie in one flat array, so that a step is a few passes over few long pieces.
Its state lies in flat arrays beside it, made when the first step (or a saved state) needs them.

The gradients may lie in a flat array of somebody else (data parallelism has its buckets). A step looks for
the longest pieces in which parameters and gradients are both contiguous, and works on those. After
`shard(...)` it does the same with the entries that this rank was given, and knows nothing of the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from minigrad import backend, mutation
from minigrad.backend import Array
from minigrad.errors import UsageError
from minigrad.graph import Leaf
from minigrad.nn.module import Parameter
from minigrad.nn.optim.given import OwnPart, check_alike, check_once, check_some, listed
from minigrad.nn.optim.piece import Piece, check_gradient
from minigrad.nn.optim.reading import Reading
from minigrad.nn.optim.shard import Shard, check_shards
from minigrad.nn.optim.state import SCHEDULED, SavedState
from minigrad.tensor import Tensor

Params = Iterable[Parameter] | Iterable[Mapping[str, Any]]


class Optimizer(SavedState):
    """Parameters in groups, each with its own settings; subclasses say what a step does to one piece of them.

    `params` is an iterable of parameters, or of (name, parameter), or of dicts with "params" and settings
    that differ from the defaults. Parameters that require no gradient are kept and not changed. Raises
    UsageError for no parameters, the same one twice, and tensors that can have no gradient.
    """

    joins = True
    """Whether parameters may be updated together; not where each one's own norm counts."""

    def __init__(self, params: Params, **defaults: Any) -> None:
        given = listed(params)
        self.part = OwnPart.among(params, given)
        grouped = any(isinstance(one, Mapping) for one in given)
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self.parameters: list[Parameter] = []
        self.steps_counted: list[int] = []
        self._shards: list[Shard] | None = None
        self._reduce: Callable[[Array], None] | None = None
        self._allocate: Callable[[str, int, Any], Array] | None = None
        self._master: Any = None
        self._refusal = ""
        self.flat_parameters: Array | None = None
        self._views: list[Array] = []
        self._flat_state: dict[str, Array] = {}
        self._held: int | None = None  # entries of each state array
        self._skips: list[Array | None] = []
        self._scratch: Array | None = None
        self._forget_layout()
        self._add([self._group(one) for one in (given if grouped else [{"params": given}])])
        check_some(self.parameters, self.part)

    # ----- Parameters and their groups -----

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Train further parameters: {"params": [...]} with settings that differ from the defaults.

        Raises UsageError once the optimizer is sharded: all parameters are shared out before.
        """
        if self._shards is not None:
            raise UsageError(
                "this optimizer's parameters are shared out over ranks already; add the group before "
                "shard(...), or before the model is wrapped"
            )
        self._add([self._group(group)])

    def _add(self, groups: list[dict[str, Any]]) -> None:
        added: list[Parameter] = [p for group in groups for p in group["params"]]
        every = [*self.parameters, *added]
        check_once(every)
        check_alike(every)
        self.param_groups += groups
        self.parameters = every
        self.steps_counted += [0] * len(added)
        self._skips += [None] * len(added)
        self._group_of = [i for i, group in enumerate(self.param_groups) for _ in group["params"]]
        self._set_sizes([p.size for p in every])
        self._views, self.flat_parameters = [], None
        self._forget_layout()

    def _set_sizes(self, sizes: Sequence[int]) -> None:
        """Let the state of each parameter have this many entries."""
        self._sizes = list(sizes)
        *self._starts, self._total = accumulate(sizes, initial=0)

    def _group(self, group: Any) -> dict[str, Any]:
        """One group with all of its settings, checked."""
        if not isinstance(group, Mapping) or "params" not in group:
            raise UsageError('give all parameters in groups {"params": [...], ...}, or all without')
        unknown = set(group) - set(self.defaults) - {"params", "param_names", *SCHEDULED}
        if unknown:
            raise UsageError(
                f"unknown settings {sorted(unknown)} in a parameter group; expected {sorted(self.defaults)}"
            )
        inside = listed(group["params"])
        full = {**self.defaults, **group, "params": inside}
        if inside and all(isinstance(one, tuple) for one in inside):  # named_parameters()
            full["param_names"], full["params"] = ([*part] for part in zip(*inside, strict=True))
        self.check(full)
        for place, p in enumerate(full["params"]):
            if not isinstance(p, Tensor) or not (isinstance(p, Parameter) or isinstance(p.node, Leaf)):
                raise UsageError(
                    f"parameter {place} of a group is no parameter ({type(p).__name__} of shape "
                    f"{getattr(p, 'shape', None)}); give nn.Parameters, or leaves that require a gradient"
                )
        return full

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise UsageError for settings of a group that make no sense."""

    # ----- Where values and gradients lie -----

    def _forget_layout(self) -> None:
        self._layout: list[Any] | None = None
        self._pieces: list[Piece] = []
        self._counted: list[int] = []

    def _lay_out(self) -> None:
        """Move the parameters into one flat array."""
        check_alike(self.parameters)
        flat, views = self.namespace.empty(self._total, dtype=self._own_dtype), []
        for start, p in zip(self._starts, self.parameters, strict=True):
            views.append(flat[start : start + p.size].reshape(p.shape))
            views[-1][...] = p.data
            mutation.mutated(p.data)  # what a graph saved is no longer the parameter
        self.move_to(flat, views)

    def move_to(self, flat: Array, views: list[Array]) -> None:
        """Go on with parameters that lie in `flat`, one after the other: `views` of it, in their shapes."""
        for p, view in zip(self.parameters, views, strict=True):
            p.data = view
        self.flat_parameters, self._views = flat, views
        self._forget_layout()

    def _leaves(self) -> list[Leaf | None]:
        """Where the gradients are, each with a buffer; None for what requires none now."""
        if not self._views:
            self._lay_out()
        here = [p.data is view for p, view in zip(self.parameters, self._views, strict=True)]
        if not all(here):
            raise UsageError(
                f"parameter {here.index(False)} left this optimizer's array: it was moved with .to(...), or "
                "given to another optimizer; build one optimizer, after moving"
            )
        leaves = [p.node if isinstance(p.node, Leaf) else None for p in self.parameters]
        homeless = [
            p for p, leaf in zip(self.parameters, leaves, strict=True) if leaf and leaf.buffer is None
        ]
        if homeless:
            self._give_buffers(homeless)
        return leaves

    def _give_buffers(self, parameters: list[Parameter]) -> None:
        """Make the gradients of parameters that nobody gave a buffer lie in one flat array."""
        flat = self.namespace.zeros(sum(p.size for p in parameters), dtype=parameters[0].dtype)
        start = 0
        for p in parameters:
            p.grad_buffer = flat[start : start + p.size].reshape(p.shape)
            start += p.size

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, or, without `set_to_none`, fill those that there are with zeros."""
        if not set_to_none:
            for piece in self._find_out():
                piece.gradient[...] = 0
            return
        if self._shards is None:
            for p in self.parameters:
                if isinstance(p.node, Leaf):
                    p.node.forget()
            return
        for shard in self._shards:
            shard.filled = False
        if any(shard.gradient is None for shard in self._shards):
            self._forget_layout()  # nor keep their memory

    def _find_pieces(self, places: list[tuple[Array, Array | None] | None]) -> list[Piece]:
        """The longest runs of parameters that adjoin, of one group and one number of steps."""
        pieces: list[Piece] = []
        for index, place in enumerate(places):
            if place is None or place[0].size == 0:
                continue
            values, gradient = place
            check_gradient(index, values, gradient)
            last = pieces[-1] if pieces and self.joins else None
            alike = last is not None and self._alike(last.members[0], index)
            if last is None or not alike or not last.takes(index, self._starts[index], values, gradient):
                group = self._group_of[index]
                pieces.append(Piece(index, group, self._starts[index], values, gradient))
        for piece in pieces:
            piece.join()
        return pieces

    def _alike(self, one: int, other: int) -> bool:
        return (
            self._group_of[one] == self._group_of[other]
            and self.steps_counted[one] == self.steps_counted[other]
            and self._skips[one] is self._skips[other]
        )

    # ----- The step -----

    def step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        gradient_scale: Array | float | None = None,
        skip: Array | bool | None = None,
    ) -> Any:
        """Update every parameter that has a gradient. The others, and their state, stay as they are. A
        first step in which none has one raises UsageError: nobody has called backward.

        `closure`, if given, is called first (it computes the gradients anew), and what it returns is handed
        on. `gradient_scale` multiplies every gradient as it is read. `skip`, a 0-d boolean array, says that
        nothing is to change; unless it lies on the host, nobody looks at it: the device decides.

        Raises UsageError where somebody else takes the steps, and sums gradients over ranks before.
        """
        self._check_own_steps()
        result = None if closure is None else closure()
        self.planned_step(gradient_scale=gradient_scale, skip=skip)()
        return result

    def planned_step(
        self, *, gradient_scale: Array | float | None = None, skip: Array | bool | None = None
    ) -> Callable[[], None]:
        """A step with the gradients, settings and counts of now, to be taken once, by calling what this
        returns. That may happen in another thread: settings may change meanwhile, gradients may not.
        """
        directed = gradient_scale is not None or skip is not None  # by a loss scale, say, over many ranks
        if skip is not None and (isinstance(skip, bool) or backend.namespace(skip) is backend.host):
            if skip:
                return lambda: None
            skip = None
        pieces = self._find_out()
        excused = directed or any(self.steps_counted) or (self.part and self.part.walked())
        if not (self._counted or excused or self._shards is not None):
            raise UsageError(self._nothing_to_do())
        for index in self._counted:
            self.steps_counted[index] += 1
        reading = Reading(self, gradient_scale, skip)

        def take() -> None:
            self.step_pieces(pieces, reading)
            if skip is not None:
                self._count_skips(skip)
            for piece in pieces:
                piece.mutated()

        return take

    def _check_own_steps(self) -> None:
        if self._refusal:
            raise UsageError(self._refusal)

    def _nothing_to_do(self) -> str:
        names = [name for group in self.param_groups for name in group.get("param_names", ())]
        shape = self.parameters[0].shape if self.parameters else ()
        first = f"{names[0] if names else 'the first'} of shape {shape}"
        return (
            f"{type(self).__name__}.step: none of {len(self.parameters)} parameters ({first}) has a "
            "gradient; call backward() on a loss that they enter, behind zero_grad()"
        )

    def gradients(self) -> list[Array]:
        """All gradients that a step would read now, flat, in as few arrays as memory allows."""
        self._check_own_steps()
        return [piece.gradient for piece in self._find_out()]

    def _find_out(self) -> list[Piece]:
        """The pieces of this step, looked for anew only where arrays changed."""
        shards, leaves = self._shards or [], [] if self._shards is not None else self._leaves()
        layout: list[Any] = [(id(s.values), id(s.gradient), s.filled) for s in shards]
        layout += [leaf and (id(leaf.buffer), leaf.filled) for leaf in leaves]
        if layout != self._layout:
            places = [(s.values, s.gradient) if s.filled else None for s in shards]
            found = zip(self._views, leaves, strict=True)
            places += [(view, leaf.buffer) if leaf and leaf.filled else None for view, leaf in found]
            self._pieces, self._layout = self._find_pieces(places), layout
            self._counted = [index for index, place in enumerate(places) if place is not None]
        return self._pieces

    def _count_skips(self, skip: Array) -> None:
        """Add this step's decision to how many steps of each parameter did not happen, on the device."""
        sums: dict[int, Array] = {}
        flag = skip.astype("float64")
        for index in self._counted:
            before = self._skips[index]
            if id(before) not in sums:
                sums[id(before)] = flag if before is None else before + flag
            self._skips[index] = sums[id(before)]

    def step_number(self, piece: Piece) -> Any:
        """Which step of its own, from 1, a piece takes now: an integer, or a 0-d array on the device."""
        number, skips = self.steps_counted[piece.members[0]], self._skips[piece.members[0]]
        return number if skips is None else number - skips

    def step_pieces(self, pieces: Sequence[Piece], reading: Reading) -> None:
        """Update all pieces. Optimizers that need a quantity of all ranks first do it in two rounds."""
        for piece in pieces:
            step, settings = self.step_number(piece), reading.settings[piece.group]
            for part in reading.parts(piece):
                self.update(part.values, part.gradient, part.state, settings, step)
                part.write_back()

    def update(
        self, parameter: Array, gradient: Array, state: dict[str, Array], settings: dict[str, Any], step: Any
    ) -> None:
        """Change `parameter` and `state`, flat and of equal length, in place, and leave `gradient` alone.

        `step` counts from 1: an integer, or a 0-d array where a device decided which steps to skip.
        """
        raise NotImplementedError

    def scratch(self, like: Array) -> Array:
        """Work space of the length and dtype of `like` for one call of `update`. Blocks share it: it stays in
        the cache.
        """
        xp = self.namespace
        if not xp.blocked:
            return xp.empty_like(like)
        kept = self._scratch
        if kept is None or kept.size < like.size or kept.dtype != like.dtype:
            kept = self._scratch = xp.empty_like(like)
        return kept[: like.size]

    # ----- Shards and master copies -----

    def shard(
        self,
        shards: Sequence[Shard],
        *,
        reduce: Callable[[Array], None] | None = None,
        allocate: Callable[[str, int, Any], Array] | None = None,
        master: Any = None,
        refusal: str = "",
    ) -> None:
        """From now on update these entries only, one Shard per parameter, in the order of `parameters`.

        The parameters' own arrays and gradient buffers are not touched again. `reduce(array)` sums `array`
        over all ranks in place, where an optimizer needs norms of whole parameters (one array a step).
        `allocate(name, size, dtype)` makes the flat state arrays, filled with zeros. `master` is the dtype of
        a copy of the values, kept as state "master": the copy is updated, and written back rounded. State
        that is there already is taken over, entry by entry. With a `refusal`, `step` and `gradients` raise
        UsageError with that text: whoever shards the optimizer takes its `planned_step`s.

        Raises UsageError, before anything changes, for shards that do not fit the parameters.
        """
        if self._shards is not None:
            raise UsageError("this optimizer is sharded already; build a new one to share it out anew")
        check_shards(shards, self.parameters)
        before, starts = (self._flat_state, self._starts) if self._held else ({}, [])
        self._shards, self._views, self.flat_parameters = list(shards), [], None
        self._reduce, self._allocate, self._refusal = reduce, allocate, refusal
        self._flat_state, self._held = {}, None
        self._set_sizes([shard.stop - shard.start for shard in shards])
        self._forget_layout()
        if master is not None:
            self._master = np.dtype(master)
        for name in set(before) & set(self.all_state_names):
            flat = self.flat_state[name]
            for shard, new, old in zip(shards, self._starts, starts, strict=True):
                count = shard.stop - shard.start
                flat[new : new + count] = before[name][old + shard.start : old + shard.stop]

    def keep_master(self, dtype: Any = "float32", *, values: Sequence[Array] | None = None) -> None:
        """Keep a copy of the values in `dtype`, update that, and write it back rounded.

        For parameters in half precision, whose own steps would be rounded away (Micikevicius et al. 2018,
        Mixed Precision Training, §3.1). The copy begins with `values`, one array for each parameter, or with
        what the parameters hold at the first step. Raises UsageError once there is state.
        """
        if self._held is not None:
            raise UsageError("this optimizer has state already; ask for a master copy before its first step")
        self._master, self._views = np.dtype(dtype), []  # the parameters may have moved since
        if values is not None and self.has_master:
            for entry, value in zip(self.shard_state(), values, strict=True):
                entry["master"][...] = value.reshape(-1)
