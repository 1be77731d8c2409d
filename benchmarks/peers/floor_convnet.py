"""The floor's convolutions: channels last, windows of a few images at a time, so that they stay in cache.

A convolution is a product of windows, cut out as runs of neighbouring entries, with the kernel. Backwards the
windows' cotangents are laid side by side where they do not overlap, and added where they do.
"""

import numpy as np

from benchmarks.peers.kernels import (
    FlatAdam,
    Scratch,
    cross_entropy,
    empty,
    flat_views,
    linear,
    linear_gradients,
)
from benchmarks.peers.step import Step, trained
from benchmarks.workloads import Convnet, Floats, Integers

IMAGES = 4  # at a time: windows of 4 · 14 · 14 places, 288 entries each, are 0.9 MB


def windows(image: Floats, kernel: int, stride: int, count: int) -> Floats:
    """Windows of (n, height, width, channels) as a view (n, count, count, kernel, kernel · channels)."""
    n, _, _, channels = image.shape
    first, row, column, entry = image.strides
    shape = (n, count, count, kernel, kernel * channels)
    strides = (first, stride * row, stride * column, row, entry)
    return np.lib.stride_tricks.as_strided(image, shape, strides)


class Model:
    """Both convolutions and the linear layer."""

    def __init__(self, workload: Convnet) -> None:
        batch, size, small = workload.batch, workload.size, workload.reduced
        first, second = workload.channels
        self.flat, self.parameters = flat_views(workload.parameters())
        self.flat_gradients, self.gradients = flat_views(self.parameters)
        self.adam = FlatAdam(self.flat, self.flat_gradients, workload.adam, Scratch())
        self.size, self.small, self.first, self.second = size, small, first, second
        part = min(IMAGES, batch)
        self.blocks = [slice(start, min(start + part, batch)) for start in range(0, batch, part)]
        # The border of the second convolution's input is even in size, so that its columns pair up.
        self.image: Floats = np.zeros((batch, size + 2, size + 2), np.float32)
        self.hidden: Floats = np.zeros((batch, 2 * small + 2, 2 * small + 2, first), np.float32)
        self.inside = (slice(None), slice(1, size + 1), slice(1, size + 1))
        # One row of ones beside the nine of a window: the bias is one more weight.
        self.columns: Floats = np.ones((len(self.blocks), 10, part, size, size), np.float32)
        self.wide = empty(part * size * size, first)
        self.cut = empty(part, small, small, 3, 3 * first)
        self.spread: Floats = np.zeros((part, *self.hidden.shape[1:]), np.float32)
        self.positive = np.empty((part, size, size, first), bool)
        self.out, self.cotangent = (empty(batch, small, small, second) for _ in range(2))
        self.above = np.empty(self.out.shape, bool)
        self.logits = empty(batch, workload.classes)
        self.head = empty(workload.classes, small * small * second)
        self.head_gradient = empty(*self.head.shape)

    def forward(self, images: Floats) -> None:
        """Images (batch, 1, size, size) to `out` (batch, small, small, second)."""
        p, size = self.parameters, self.size
        kernel1 = np.concatenate([p["conv1.weight"].reshape(-1, 9).T, p["conv1.bias"][None]])
        kernel2 = self.matrix().T
        self.image[self.inside] = images[:, 0]
        cuts = windows(self.hidden, 3, 2, self.small)
        for columns, block in zip(self.columns, self.blocks, strict=True):
            count = block.stop - block.start
            for place in range(9):
                row, column = divmod(place, 3)
                columns[place, :count] = self.image[block, row : row + size, column : column + size]
            wide = self.wide[: count * size * size]
            np.matmul(columns[:, :count].reshape(10, -1).T, kernel1, out=wide)
            np.maximum(wide.reshape(count, size, size, -1), 0.0, out=self.hidden[block][self.inside])
            cut, out = self.cut[:count], self.out[block].reshape(-1, self.second)
            np.copyto(cut, cuts[block])
            linear(cut.reshape(len(out), -1), kernel2.T, p["conv2.bias"], out)
            np.maximum(out, 0.0, out=out)

    def matrix(self) -> Floats:
        """The second kernel as (out, window), channels last."""
        return self.parameters["conv2.weight"].transpose(0, 2, 3, 1).reshape(self.second, -1)

    def backward(self) -> None:
        """From `cotangent`, of the second convolution's output, to the gradients of both convolutions."""
        g, size, kernel = self.gradients, self.size, self.matrix()
        np.greater(self.out, 0.0, out=self.above)
        np.multiply(self.cotangent, self.above, out=self.cotangent)
        total: Floats = np.zeros(kernel.shape, np.float32)
        total1: Floats = np.zeros((10, self.first), np.float32)
        cuts = windows(self.hidden, 3, 2, self.small)
        for columns, block in zip(self.columns, self.blocks, strict=True):
            count = block.stop - block.start
            cotangent = self.cotangent[block].reshape(-1, self.second)
            cut = self.cut[:count].reshape(len(cotangent), -1)
            np.copyto(self.cut[:count], cuts[block])
            np.add(total, np.matmul(cotangent.T, cut), out=total)
            np.matmul(cotangent, kernel, out=cut)
            self.add_up(self.cut[:count], self.spread[:count])
            positive, wide = self.positive[:count], self.wide[: count * size * size]
            np.greater(self.hidden[block][self.inside], 0.0, out=positive)
            np.multiply(self.spread[:count][self.inside], positive, out=wide.reshape(positive.shape))
            np.add(total1, np.matmul(columns[:, :count].reshape(10, -1), wide), out=total1)
        g["conv1.weight"].reshape(-1, 9)[...] = total1[:9].T
        g["conv1.bias"][...] = total1[9]
        g["conv2.weight"].transpose(0, 2, 3, 1)[...] = total.reshape(self.second, 3, 3, -1)
        rows = self.cotangent.reshape(-1, self.second)
        np.matmul(np.ones(len(rows), np.float32), rows, out=g["conv2.bias"])

    def add_up(self, cut: Floats, image: Floats) -> None:
        """The transpose of cutting windows out, into `image`: two columns of a window never meet those of
        another, and so go in as one run; the third is added.
        """
        small, first = self.small, self.first
        count = 2 * small
        pairs = image.reshape(len(image), count + 2, small + 1, 2 * first)[:, :, :small]
        third = image[:, :, 2::2]
        run = slice(0, 2 * first), slice(2 * first, None)
        image[:, count:] = 0
        image[:, :, count:] = 0
        for row in (0, 1):
            pairs[:, row:count:2] = cut[:, :, :, row, run[0]]
        for row in (0, 1):
            rows = third[:, row:count:2]
            np.add(rows, cut[:, :, :, row, run[1]], out=rows)
        for target, part in ((pairs, run[0]), (third, run[1])):
            rows = target[:, 2::2]
            np.add(rows, cut[:, :, :, 2, part], out=rows)

    def loss_and_gradients(self, images: Floats, labels: Integers) -> float:
        """Mean cross-entropy; gradients of all parameters are left in the flat buffer."""
        p, g = self.parameters, self.gradients
        self.forward(images)
        # The linear layer counts channels first: its weight is turned, which is smaller than what it meets.
        first = (len(self.head), self.second, -1)
        last = (len(self.head), self.small**2, self.second)
        np.copyto(self.head.reshape(last), p["linear.weight"].reshape(first).swapaxes(1, 2))
        rows = self.out.reshape(len(images), -1)
        linear(rows, self.head, p["linear.bias"], self.logits)
        loss = cross_entropy(self.logits, labels)
        linear_gradients(rows, self.logits, self.head_gradient, g["linear.bias"])
        np.copyto(g["linear.weight"].reshape(first).swapaxes(1, 2), self.head_gradient.reshape(last))
        np.matmul(self.logits, self.head, out=self.cotangent.reshape(rows.shape))
        self.backward()
        return loss


def convnet(workload: Convnet) -> Step:
    """The convolutional network."""
    return trained(Model(workload), workload)
