"""Exercises of lesson 28: the capstone.

Replace each `raise Todo(...)`; keep the names. `minigrad check 28` checks all, `minigrad check 28.2` one.
What you predict is compared with a run: numbers take 8 bytes (float64), messages are counted as they leave a
rank. Nothing here is approximate.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from minigrad.lessons import Todo


@dataclass(frozen=True)
class Run:
    """A GPT and its mesh. Words, heads and width divide by `tensor`, samples by `data * microbatches`."""

    words: int  # in the vocabulary, V
    context: int  # tokens of a sequence, T
    layers: int  # blocks, L
    width: int  # h
    samples: int  # of the whole batch
    data: int = 1  # d
    pipeline: int = 1  # p
    tensor: int = 1  # t
    microbatches: int = 1  # m


# ----- 28.1 ---------------------------------------------------------------------------------------


def place(rank: int, run: Run) -> tuple[int, int, int]:
    """Return where a rank stands on the axes (data, pipeline, tensor); the last varies fastest."""
    raise Todo("28.1: rank 0 is (0, 0, 0), rank 1 is its neighbour on the tensor axis")


def together(rank: int, run: Run, axis: str) -> list[int]:
    """Return the ranks, in order, that differ from this one on `axis` only (itself included).

    `axis` is "data", "pipeline" or "tensor".
    """
    raise Todo("28.1: those whose other two places are the same")


# ----- 28.2 ---------------------------------------------------------------------------------------


def parameters_of_rank(run: Run, blocks: int, first: bool, last: bool) -> int:
    """Return how many parameters a rank has whose stage has so many blocks.

    Where `first`, it has the embeddings of words (V by h) and places (T by h); where `last`, the norm before
    the output (2 h), and the output's matrix: that is the words' again, so a stage that is both has it once.
    A block has two norms (2 h each) and, weights and biases, the matrices h to 3h, h to h, h to 4h and 4h to
    h. Of these, tensor ranks cut the first and the third by outputs, bias and all, and the other two by
    inputs, with whole biases. Words are cut, too; norms and places are whole.
    """
    raise Todo("28.2: what is cut by t, and what is not")


# ----- 28.3 ---------------------------------------------------------------------------------------


def states(run: Run, parameters: int, data_rank: int) -> dict[str, int]:
    """Return the bytes of "parameters", "gradients" and "optimizer" (Adam) on a rank with ZeRO stage 1.

    `parameters` is what 28.2 says for the rank; `data_rank` is its place on the data axis. Adam keeps two
    numbers a parameter. Shards are as even as can be, the first ones longer by one where they must be.
    """
    raise Todo("28.3: what stage 1 shares out, and over whom")


# ----- 28.4 ---------------------------------------------------------------------------------------


def traffic(run: Run, parameters: int) -> dict[str, int]:
    """Return the bytes that all ranks together send in a step, by axis: "data", "pipeline" and "tensor".

    data      ZeRO stage 1: gradients are reduce-scattered, parameters all-gathered, over rings. `parameters`
              is the sum of 28.2 over the ranks of one copy, of all its stages and tensor parts.
    pipeline  what goes forward and back between neighbouring stages: all of each token's h numbers, from and
              to every tensor rank. And, where p > 1, one all-reduce of the gradients of the words' matrix
              between the first stage and the last.
    tensor    all-reduces over rings: 4 of h numbers for each token and block, one more for the embedding
              (forward) and one for the output (backward); 3 of one number for each token for the loss.

    An all-reduce over a ring of n ranks makes them send 2 (n - 1) times its array, all together; a
    reduce-scatter or an all-gather half of that. `run.samples` are those of all copies.
    """
    raise Todo("28.4: count the tokens of all copies, and the copies")


# ----- 28.5 ---------------------------------------------------------------------------------------


def meshes(ranks: int) -> Iterator[tuple[int, int, int]]:
    """Yield each (data, pipeline, tensor) of whole numbers whose product is `ranks`, each once."""
    raise Todo("28.5: d divides ranks, p divides what is left")


def best_mesh(
    ranks: int, limit: float, cost: Callable[[int, int, int], tuple[float, float]]
) -> tuple[int, int, int] | None:
    """Return the mesh that takes the least time among those that fit; None where none does.

    cost(data, pipeline, tensor) returns (bytes that the fullest rank holds, seconds of a step); `limit` is
    what fits. Of equally fast ones take the one that holds less.
    """
    raise Todo("28.5: leave out what does not fit, then the smallest pair")
