"""Reference answers to lesson 28. Spoilers: try exercise.py first."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """A GPT and its mesh. Words, heads and width divide by `tensor`, samples by `data * microbatches`."""

    words: int
    context: int
    layers: int
    width: int
    samples: int
    data: int = 1
    pipeline: int = 1
    tensor: int = 1
    microbatches: int = 1


def place(rank: int, run: Run) -> tuple[int, int, int]:
    """Digits."""
    rest, tensor = divmod(rank, run.tensor)
    data, pipeline = divmod(rest, run.pipeline)
    return data, pipeline, tensor


def together(rank: int, run: Run, axis: str) -> list[int]:
    """The other places are the same."""
    number = ("data", "pipeline", "tensor").index(axis)

    def others(rank: int) -> tuple[int, ...]:
        return tuple(p for k, p in enumerate(place(rank, run)) if k != number)

    ranks = range(run.data * run.pipeline * run.tensor)
    return [other for other in ranks if others(other) == others(rank)]


def parameters_of_rank(run: Run, blocks: int, first: bool, last: bool) -> int:
    """Cut and whole."""
    h, t = run.width, run.tensor
    cut = 3 * h * h + 3 * h + h * h + 4 * h * h + 4 * h + 4 * h * h
    whole = 4 * h + h + h
    found = blocks * (cut // t + whole)
    if first or last:
        found += run.words // t * h
    return found + first * run.context * h + last * 2 * h


def states(run: Run, parameters: int, data_rank: int) -> dict[str, int]:
    """Adam's two moments are shared out."""
    share, rest = divmod(parameters, run.data)
    own = share + (data_rank < rest)
    return {"parameters": 8 * parameters, "gradients": 8 * parameters, "optimizer": 16 * own}


def traffic(run: Run, parameters: int) -> dict[str, int]:
    """By axis."""
    tokens, d, p, t = run.samples * run.context, run.data, run.pipeline, run.tensor
    boundaries = 2 * (p - 1) * tokens * run.width * t
    tied = 2 * run.words * run.width * d if p > 1 else 0
    numbers = (4 * run.layers + 2) * run.width + 3
    return {
        "data": 8 * 2 * (d - 1) * parameters,
        "pipeline": 8 * (boundaries + tied),
        "tensor": 8 * 2 * (t - 1) * tokens * numbers,
    }


def meshes(ranks: int) -> Iterator[tuple[int, int, int]]:
    """Divisors."""
    for data in range(1, ranks + 1):
        for pipeline in range(1, ranks // data + 1):
            if ranks % (data * pipeline) == 0:
                yield data, pipeline, ranks // (data * pipeline)


def best_mesh(
    ranks: int, limit: float, cost: Callable[[int, int, int], tuple[float, float]]
) -> tuple[int, int, int] | None:
    """What fits, by time."""
    found = []
    for mesh in meshes(ranks):
        held, seconds = cost(*mesh)
        if held <= limit:
            found.append((seconds, held, mesh))
    return min(found)[2] if found else None
