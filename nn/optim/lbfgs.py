"""L-BFGS: Newton's method with a curvature remembered from the latest steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from minigrad import backend, mutation
from minigrad.backend import Array
from minigrad.errors import UsageError
from minigrad.nn.optim.line_search import Point, strong_wolfe
from minigrad.nn.optim.optimizer import Optimizer, Params


class LBFGS(Optimizer):
    """Steps along -H·g, where H, the inverse Hessian, is guessed from the latest steps and what they changed.

    H is built from up to `history_size` steps; one call of `step` makes up to `max_iter` of them.
    `line_search_fn` is None (each step has length lr) or "strong_wolfe". Losses are looked at on the host.
    One group only; no shards. Source: Nocedal, Wright 2006, Numerical Optimization, algorithms 7.4 and 7.5.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            max_iter=max_iter,
            max_eval=max_iter * 5 // 4 if max_eval is None else max_eval,
            tolerance_grad=tolerance_grad,
            tolerance_change=tolerance_change,
            history_size=history_size,
            line_search_fn=line_search_fn,
        )
        if len(self.param_groups) != 1:
            raise UsageError(f"LBFGS takes one group of parameters, and got {len(self.param_groups)}")
        self._iterations = self._evaluations = 0
        self._step, self._scale, self._loss = 0.0, 1.0, 0.0
        self._direction: Array = None
        self._gradient: Array = None
        self._moves: list[Array] = []  # s = change of the parameters
        self._changes: list[Array] = []  # y = change of the gradient
        self._inverses: list[float] = []  # ρ = 1 / yᵀs

    def check(self, settings: Mapping[str, Any]) -> None:
        if settings["line_search_fn"] not in (None, "strong_wolfe"):
            raise UsageError(
                f'LBFGS: line_search_fn is None or "strong_wolfe", got {settings["line_search_fn"]!r}'
            )
        if not (settings["lr"] >= 0 and settings["max_iter"] >= 1 and settings["history_size"] >= 1):
            raise UsageError(
                f"LBFGS: lr {settings['lr']} must not be negative, max_iter {settings['max_iter']} and "
                f"history_size {settings['history_size']} at least 1"
            )

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        raise UsageError("LBFGS takes one group of parameters; build a new one over all of them")

    def shard(self, *shards: Any, **options: Any) -> None:
        raise UsageError("LBFGS needs whole parameters and cannot be sharded; choose another optimizer")

    def keep_master(self, dtype: Any = "float32", **options: Any) -> None:
        raise UsageError("LBFGS keeps no master copy; give it parameters in float32 or float64")

    def step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        gradient_scale: Array | float | None = None,
        skip: Array | bool | None = None,
    ) -> Any:
        """Make up to `max_iter` steps. `closure` forgets the gradients, computes loss and gradients anew, and
        returns the loss; the first loss is handed on.
        """
        if closure is None or gradient_scale is not None or skip is not None:
            raise UsageError(
                "LBFGS evaluates the loss several times: give step(closure) a function, and nothing else"
            )
        settings = self.param_groups[0]
        first = closure()
        self._evaluations += 1
        loss, gradient, spent = float(first), self._gather(), 1
        if self._largest(gradient) <= settings["tolerance_grad"]:
            return first
        for iteration in range(1, settings["max_iter"] + 1):
            self._remember(gradient)
            self._gradient, self._loss = gradient.copy(), loss
            self._step = settings["lr"]
            if self._iterations == 1:
                total = float(self.namespace.sum(self.namespace.abs(gradient)))
                self._step *= min(1.0, 1.0 / total)
            slope = self._dot(gradient, self._direction)
            if slope > -settings["tolerance_change"]:
                break
            last = iteration == settings["max_iter"]
            start = Point(0.0, loss, gradient, slope)
            left = settings["max_eval"] - spent
            point, count = self._advance(closure, start, left, last=last)
            loss, gradient = point.loss, point.gradient
            spent += count
            self._evaluations += count
            if (
                spent >= settings["max_eval"]
                or self._largest(gradient) <= settings["tolerance_grad"]
                or self._largest(self._direction) * abs(self._step) <= settings["tolerance_change"]
                or abs(loss - self._loss) < settings["tolerance_change"]
            ):
                break
        return first

    def _advance(
        self, closure: Callable[[], Any], start: Point, left: int, *, last: bool
    ) -> tuple[Point, int]:
        """Move the parameters along the direction: the place reached, and how often the loss was computed.

        `left` is how many evaluations a line search may spend after its first.
        """
        flat, settings = self.flat_parameters, self.param_groups[0]
        assert flat is not None  # gathering the gradient has laid the parameters out
        origin = flat.copy()

        def go(step: float) -> None:
            flat[...] = origin + self._direction * step
            mutation.mutated(flat)

        def look(step: float) -> Point:
            go(step)
            loss, gradient = float(closure()), self._gather()
            return Point(step, loss, gradient, self._dot(gradient, self._direction))

        if settings["line_search_fn"] is None:
            if not last:
                return look(self._step), 1
            go(self._step)  # nobody would look at the loss
            return start, 0
        point, count = strong_wolfe(
            look,
            start,
            self._step,
            most=left,
            length=self._largest(self._direction),
            tolerance=settings["tolerance_change"],
        )
        self._step = point.step
        go(point.step)
        return point, count

    def _remember(self, gradient: Array) -> None:
        """Take the latest step into the history, and find the next direction from it."""
        self._iterations += 1
        if self._iterations == 1:
            self._direction, self._scale = -gradient, 1.0
            return
        change, move = gradient - self._gradient, self._direction * self._step
        product = self._dot(change, move)
        if product > 1e-10:
            if len(self._moves) == self.param_groups[0]["history_size"]:
                del self._moves[0], self._changes[0], self._inverses[0]
            self._moves.append(move)
            self._changes.append(change)
            self._inverses.append(1.0 / product)
            self._scale = product / self._dot(change, change)
        direction, shares = -gradient, []
        history = list(zip(self._moves, self._changes, self._inverses, strict=True))
        for move, change, inverse in reversed(history):
            shares.append(self._dot(move, direction) * inverse)
            direction -= change * shares[-1]
        direction *= self._scale
        for (move, change, inverse), share in zip(history, reversed(shares), strict=True):
            direction += move * (share - self._dot(change, direction) * inverse)
        self._direction = direction

    def _gather(self) -> Array:
        """The gradients of all parameters in one new flat array, zero where there is none."""
        leaves = self._leaves()
        gradient = self.namespace.zeros(self._total, dtype=self.parameters[0].dtype)
        for p, leaf, start in zip(self.parameters, leaves, self._starts, strict=True):
            if leaf is not None and p.grad is not None:
                gradient[start : start + p.size] = p.grad.data.reshape(-1)
        return gradient

    def _dot(self, one: Array, other: Array) -> float:
        return float(self.namespace.vecdot(one, other))

    def _largest(self, array: Array) -> float:
        return float(self.namespace.max(self.namespace.abs(array)))

    # ----- State -----

    def state_dict(self) -> dict[str, Any]:
        """Groups, and under parameter 0 the history under torch's names, its lists as arrays of rows."""
        saved = super().state_dict()
        saved["state"] = {}
        if self._iterations:
            xp = self.namespace
            rows = {"old_dirs": self._changes, "old_stps": self._moves}
            stacked = {
                name: xp.concat([row[None] for row in found]) if found else xp.zeros((0, self._total))
                for name, found in rows.items()
            }
            saved["state"][0] = {
                "func_evals": self._evaluations,
                "n_iter": self._iterations,
                "d": self._direction.copy(),
                "t": self._step,
                **stacked,
                "ro": list(self._inverses),
                "H_diag": self._scale,
                "prev_flat_grad": self._gradient.copy(),
                "prev_loss": self._loss,
            }
        return saved

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave. Raises UsageError, before anything changes, where it cannot."""
        self.check_state(saved)
        history = saved["state"].get(0)
        if history is not None and tuple(history["d"].shape) != (self._total,):
            raise UsageError(
                f"the saved direction has shape {tuple(history['d'].shape)}, expected ({self._total},); "
                "build the optimizer over the same parameters"
            )
        super().load_state_dict({**saved, "state": {}})
        if history is None:
            return
        device = self.parameters[0].device

        def array(values: Any) -> Array:
            return backend.asarray(values, device=device).copy()

        self._evaluations, self._iterations = int(history["func_evals"]), int(history["n_iter"])
        self._direction, self._gradient = array(history["d"]), array(history["prev_flat_grad"])
        self._step, self._scale, self._loss = (float(history[n]) for n in ("t", "H_diag", "prev_loss"))
        self._changes = [array(row) for row in history["old_dirs"]]
        self._moves = [array(row) for row in history["old_stps"]]
        self._inverses = [float(inverse) for inverse in history["ro"]]
