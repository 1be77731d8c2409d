"""The floor's attention: transposed scores, one batch element at a time, the masked quarter left out.

Scores are held as Sᵀ = K (Q/√d)ᵀ, shape (heads, keys, queries): the maximum and the sum over keys then run
along whole rows of queries, which NumPy vectorises, and what belongs to a query broadcasts along contiguous
memory. Only E = exp(S − max) is kept; with row sums l, O = EᵀV / l, and backward, with D = dO / l and δ = Σ
D·O: dV = E D, dS = E (V Dᵀ − δ), dQ = dSᵀK/√d, dK = dS Q/√d. So nothing of size keys × queries is ever
normalised.

Causal attention takes its keys in two blocks; queries before the second block do not see it, so a quarter of
the work is never done.
"""

import numpy as np

from benchmarks.workloads import Floats

BLOCKS = 2


def flip(x: Floats) -> Floats:
    """The last two axes exchanged."""
    return x.swapaxes(-1, -2)


class AttentionWork:
    """Work space that all layers share, for one batch element."""

    def __init__(self, heads: int, time: int, head_width: int, causal: bool) -> None:
        self.causal, blocks = causal, BLOCKS if causal else 1
        self.width = time // blocks
        self.starts = [block * self.width for block in range(blocks)]
        self.queries: Floats = np.empty((heads, time, head_width), np.float32)
        self.partial: Floats = np.empty_like(self.queries)
        self.cotangent: Floats = np.empty_like(self.queries)
        self.scores: list[Floats] = [
            np.empty((heads, self.width, time - start), np.float32) for start in self.starts
        ]
        self.mask: Floats = np.tril(np.full((self.width, self.width), -np.inf, np.float32), -1)
        self.ones: Floats = np.ones(self.width, np.float32)
        self.scale = head_width**-0.5


class Attention:
    """Attention of one layer; `qkv` is (batch, time, 3, heads, head width), as the linear layer left it."""

    def __init__(self, batch: int, heads: int, time: int, work: AttentionWork) -> None:
        self.work = work
        self.weights: list[Floats] = [
            np.empty((batch, heads, work.width, time - start), np.float32) for start in work.starts
        ]
        self.sums: Floats = np.empty((batch, heads, time), np.float32)

    def forward(self, qkv: Floats, out: Floats) -> None:
        """Writes (batch, time, heads, head width) into `out`."""
        work, width = self.work, self.work.width
        for element in range(len(qkv)):
            query, key, value = qkv[element].transpose(1, 2, 0, 3)  # each (heads, time, head width)
            result, total = out[element].swapaxes(0, 1), self.sums[element]
            np.multiply(query, work.scale, out=work.queries)
            highest = np.full(total.shape, -np.inf, np.float32)
            for start, weights in zip(work.starts, self.weights, strict=True):
                scores = weights[element]
                np.matmul(key[:, start : start + width], flip(work.queries[:, start:]), out=scores)
                if work.causal:
                    np.add(scores[:, :, :width], work.mask, out=scores[:, :, :width])
                np.maximum(highest[:, start:], np.maximum.reduce(scores, -2), out=highest[:, start:])
            for start, weights in zip(work.starts, self.weights, strict=True):
                scores, values = weights[element], value[:, start : start + width]
                np.subtract(scores, highest[:, None, start:], out=scores)
                np.exp(scores, out=scores)
                if start == 0:
                    np.matmul(work.ones, scores, out=total)
                    np.matmul(flip(scores), values, out=result)
                else:
                    np.add(total[:, start:], np.matmul(work.ones, scores), out=total[:, start:])
                    np.matmul(flip(scores), values, out=work.partial[:, start:])
                    np.add(result[:, start:], work.partial[:, start:], out=result[:, start:])
            np.divide(result, total[..., None], out=result)

    def backward(self, qkv: Floats, out: Floats, cotangent: Floats, gradient: Floats) -> None:
        """Writes the gradient of `qkv` into `gradient`, given forward's `out` and its cotangent."""
        work, width = self.work, self.work.width
        for element in range(len(qkv)):
            query, key, value = qkv[element].transpose(1, 2, 0, 3)
            query_gradient, key_gradient, value_gradient = gradient[element].transpose(1, 2, 0, 3)
            divided = work.cotangent
            np.divide(cotangent[element].swapaxes(0, 1), self.sums[element][..., None], out=divided)
            delta = np.vecdot(divided, out[element].swapaxes(0, 1))[:, None, :]
            for start, weights, slopes in zip(work.starts, self.weights, work.scores, strict=True):
                block, scores = slice(start, start + width), weights[element]
                np.matmul(scores, divided[:, start:], out=value_gradient[:, block])
                np.matmul(value[:, block], flip(divided[:, start:]), out=slopes)
                np.subtract(slopes, delta[:, :, start:], out=slopes)
                np.multiply(slopes, scores, out=slopes)
                np.matmul(slopes, query[:, start:], out=key_gradient[:, block])
                if start == 0:
                    np.matmul(flip(slopes), key[:, block], out=query_gradient)
                else:
                    np.matmul(flip(slopes), key[:, block], out=work.partial[:, start:])
                    later = query_gradient[:, start:]
                    np.add(later, work.partial[:, start:], out=later)
            both = gradient[element, :, 0:2]
            np.multiply(both, work.scale, out=both)
