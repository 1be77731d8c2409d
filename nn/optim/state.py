"""An optimizer's state: flat arrays, made when they are first needed, saved and loaded in torch's layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from minigrad import backend
from minigrad.backend import Array
from minigrad.errors import ShapeError, UsageError
from minigrad.nn.module import Parameter
from minigrad.nn.optim.shard import Shard

SCHEDULED = ("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr")
"""Settings of a group that schedules keep there."""


class SavedState:
    """The part of an optimizer that holds its state and gives it away."""

    state_names: tuple[str, ...] = ()
    """Names of the state arrays, each as long as the parameters together."""

    defaults: dict[str, Any]
    param_groups: list[dict[str, Any]]
    parameters: list[Parameter]
    steps_counted: list[int]
    _shards: list[Shard] | None
    _allocate: Callable[[str, int, Any], Array] | None
    _master: Any
    _skips: list[Array | None]
    _flat_state: dict[str, Array]
    _held: int | None
    _starts: list[int]
    _sizes: list[int]
    _total: int

    @property
    def namespace(self) -> backend.Namespace:
        """The array library that the step computes with."""
        return backend.namespace(self._first)

    @property
    def _first(self) -> Array:
        """What the first parameter holds; nothing where a part of a model has none."""
        if self._shards:
            return self._shards[0].values
        return self.parameters[0].data if self.parameters else backend.host.zeros(0, dtype="float32")

    def _forget_layout(self) -> None:
        raise NotImplementedError

    # ----- The arrays -----

    @property
    def _own_dtype(self) -> Any:
        return self._first.dtype

    @property
    def has_master(self) -> bool:
        """Whether a copy of the values in another dtype is kept, as state "master"."""
        return self._master is not None and self._master != self._own_dtype

    @property
    def state_dtype(self) -> Any:
        """The dtype of the state, in which a step is computed."""
        return self._master if self.has_master else self._own_dtype

    @property
    def all_state_names(self) -> tuple[str, ...]:
        """The names of the state arrays, a master copy first."""
        return ("master", *self.state_names) if self.has_master else self.state_names

    @property
    def flat_state(self) -> dict[str, Array]:
        """The state arrays by name, flat; parameter i has its entries in the order of `parameters`."""
        names = self.all_state_names
        if self._held != self._total or len(names) > len(self._flat_state):
            self._make_state(names)
        return self._flat_state

    def _make_state(self, names: Sequence[str]) -> None:
        """Make the arrays, or longer ones where parameters were added since, with what was there."""
        xp, dtype = self.namespace, self.state_dtype
        for name in names:
            held = (self._held or 0) if name in self._flat_state else 0
            if held == self._total and name in self._flat_state:
                continue
            if self._allocate is not None:
                # A memory-mapped file comes as an array of NumPy's own kind, which is faster to slice.
                flat = xp.asarray(self._allocate(name, self._total, dtype))
            else:
                flat = xp.zeros(self._total, dtype=dtype)
            if held:
                flat[:held] = self._flat_state[name]
            for index, (start, size) in enumerate(zip(self._starts, self._sizes, strict=True)):
                if start >= held:
                    self._begin(name, flat[start : start + size], index)
            self._flat_state[name] = flat
        self._held = self._total

    def _begin(self, name: str, part: Array, index: int) -> None:
        """Give the entries of one parameter in one state array, all zero, the values of a first step."""
        if name == "master":
            part[...] = (
                self._shards[index].values if self._shards else self.parameters[index].data.reshape(-1)
            )
        else:
            self.fill_state(name, part, index)

    def fill_state(self, name: str, array: Array, index: int) -> None:
        """Give the entries of parameter `index` in a new state array, all zero, their first values."""

    # ----- Steps -----

    @property
    def steps(self) -> list[int]:
        """How many steps each parameter has taken."""
        skips = {id(s): 0 if s is None else round(float(s)) for s in self._skips}
        return [n - skips[id(s)] for n, s in zip(self.steps_counted, self._skips, strict=True)]

    def set_steps(self, steps: Sequence[int]) -> None:
        """Say how many steps each parameter has taken."""
        if len(steps) != len(self.parameters):
            raise UsageError(f"{len(steps)} numbers of steps for {len(self.parameters)} parameters")
        self.steps_counted = [int(n) for n in steps]
        self._skips = [None] * len(steps)
        self._forget_layout()

    # ----- Saving and loading -----

    def shard_state(self) -> list[dict[str, Any]]:
        """For each parameter its "step" and the flat arrays of its entries here: views of the state.

        To load, write into those arrays and give the steps to `set_steps`.
        """
        return [
            {"step": step, **{name: flat[at : at + size] for name, flat in self.flat_state.items()}}
            for step, at, size in zip(self.steps, self._starts, self._sizes, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Steps and state arrays by parameter number, and the groups' settings, as torch lays them out."""
        self._refuse_shards("state_dict")
        numbers = iter(range(len(self.parameters)))
        groups = [
            {
                **{k: v for k, v in group.items() if k != "params"},
                "params": [next(numbers) for _ in group["params"]],
            }
            for group in self.param_groups
        ]
        state = {
            index: {k: v if k == "step" else v.reshape(p.shape) for k, v in entry.items()}
            for index, (entry, p) in enumerate(zip(self.shard_state(), self.parameters, strict=True))
        }
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, here or in torch (where what took no step has no entry).

        Raises UsageError or ShapeError, before anything is changed, where groups, counts or shapes differ.
        """
        self._refuse_shards("load_state_dict")
        self.check_state(saved)
        counts = [len(group["params"]) for group in saved["param_groups"]]
        if counts != [len(group["params"]) for group in self.param_groups]:
            raise UsageError(
                f"the saved state has groups of {counts} parameters, this optimizer of "
                f"{[len(group['params']) for group in self.param_groups]}; build it over the same parameters"
            )
        entries = [self._checked(index, saved["state"].get(index, {})) for index in range(sum(counts))]
        for group, other in zip(self.param_groups, saved["param_groups"], strict=True):
            group.update({k: v for k, v in other.items() if k in {*self.defaults, *SCHEDULED}})
        flat_state = self.flat_state
        for index, (entry, p, start) in enumerate(zip(entries, self.parameters, self._starts, strict=True)):
            for name, flat in flat_state.items():
                part = flat[start : start + p.size]
                if name in entry:
                    part[...] = backend.asarray(entry[name], device=p.device).reshape(-1)
                else:
                    part[...] = self.namespace.zeros(p.size, dtype=part.dtype)
                    self._begin(name, part, index)
        self.set_steps([int(entry["step"]) for entry in entries])

    @staticmethod
    def check_state(saved: Any) -> None:
        """Raise UsageError for something else than the state of an optimizer."""
        if not isinstance(saved, Mapping) or not {"state", "param_groups"} <= saved.keys():
            raise UsageError(
                f"this is no state of an optimizer, but a {type(saved).__name__} without state and "
                "param_groups; give what optimizer.state_dict() returned"
            )

    def _checked(self, index: int, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        """What was saved of one parameter, if it fits."""
        if not entry:
            return {"step": 0}
        missing = {"step", *self.all_state_names} - set(entry)
        if missing:
            raise UsageError(f"the saved state of parameter {index} lacks {sorted(missing)}")
        expected = self.parameters[index].shape
        for name, value in entry.items():
            shape = tuple(np.shape(value))
            if shape != expected and (shape or name in self.all_state_names):
                raise ShapeError(f"{name} of parameter {index} has shape {shape}, expected {expected}")
        return entry

    def _refuse_shards(self, verb: str) -> None:
        if self._shards is not None:
            raise UsageError(
                f"this optimizer is sharded, and {verb} needs whole parameters; use shard_state() and "
                "set_steps(...), as a checkpoint of a distributed run does"
            )
