"""Reference answers to lesson 22. Spoilers: try exercise.py first."""

from collections.abc import Sequence

Rows = list[list[str]]


def gpipe(ranks: int, microbatches: int) -> Rows:
    """All forwards, all backwards."""
    order = range(microbatches)
    return [[f"F{j}" for j in order] + [f"B{j}" for j in reversed(order)] for _ in range(ranks)]


def one_forward_one_backward(ranks: int, microbatches: int) -> Rows:
    """Warm up, alternate, drain."""
    rows = []
    for s in range(ranks):
        ahead = min(ranks - s - 1, microbatches)
        row = [f"F{j}" for j in range(ahead)]
        for j in range(microbatches):
            if ahead + j < microbatches:
                row.append(f"F{ahead + j}")
            row.append(f"B{j}")
        rows.append(row)
    return rows


def finish(rows: Rows, forward: float, backward: float) -> float | None:
    """A clock."""
    done: dict[tuple[int, str], float] = {}
    free, place, moved = [0.0] * len(rows), [0] * len(rows), True
    while moved:
        moved = False
        for s, row in enumerate(rows):
            while place[s] < len(row):
                action = row[place[s]]
                if action[0] == "F":
                    needed = (s - 1, action) if s else None
                else:
                    needed = (s + 1, action) if s + 1 < len(rows) else (s, "F" + action[1:])
                if needed is not None and needed not in done:
                    break
                start = free[s] if needed is None else max(free[s], done[needed])
                free[s] = start + (forward if action[0] == "F" else backward)
                done[s, action] = free[s]
                place[s] += 1
                moved = True
    return max(free) if all(at == len(row) for at, row in zip(place, rows, strict=True)) else None


def cut(costs: Sequence[float], stages: int) -> list[int]:
    """Dynamic programming."""
    count = len(costs)
    best = {(n, 1): (sum(costs[:n]), [n]) for n in range(1, count + 1)}
    for k in range(2, stages + 1):
        for n in range(k, count + 1):
            best[n, k] = min(
                (max(best[before, k - 1][0], sum(costs[before:n])), [*best[before, k - 1][1], n - before])
                for before in range(k - 1, n)
            )
    return best[count, stages][1]


class Stage:
    """A weight with a stash."""

    def __init__(self, weight: float, rate: float) -> None:
        self.weight, self.rate = weight, rate
        self.stash: dict = {}

    def forward(self, microbatch: int, x: float) -> float:
        """Stash the weight and the input."""
        self.stash[microbatch] = (self.weight, x)
        return self.weight * x

    def backward(self, microbatch: int, cotangent: float) -> float:
        """The old weight for the gradient, the newest for the step."""
        weight, x = self.stash.pop(microbatch)
        self.weight -= self.rate * cotangent * x
        return weight * cotangent


def zero_bubble(ranks: int, microbatches: int) -> Rows:
    """ZB-H1."""
    rows = []
    for s, plain in enumerate(one_forward_one_backward(ranks, microbatches)):
        row = []
        for action in plain:
            j = int(action[1:])
            if action[0] == "F":
                row.append(action)
                continue
            row.append(f"I{j}")
            if j >= s:
                row.append(f"W{j - s}")
        row += [f"W{j}" for j in range(max(0, microbatches - s), microbatches)]
        rows.append(row)
    return rows
