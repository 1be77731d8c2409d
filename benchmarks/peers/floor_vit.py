"""The floor's vision transformer: patches as one product, then the blocks of `floor_blocks`."""

import numpy as np

from benchmarks.peers.floor_blocks import Stack
from benchmarks.peers.kernels import (
    cross_entropy,
    empty,
    linear,
    linear_gradients,
    norm_backward,
    norm_forward,
)
from benchmarks.peers.step import Step, trained
from benchmarks.workloads import Floats, Integers, ViT


class Model(Stack):
    """Patches, class token and positions, blocks, and a head that looks at the class token only."""

    def __init__(self, workload: ViT) -> None:
        super().__init__(workload)
        batch, places, width = workload.batch, workload.context - 1, workload.width
        side, patch = workload.image // workload.patch, workload.patch
        self.cut = (batch, workload.channels, side, patch, side, patch)
        self.patches = empty(batch, side, side, workload.channels, patch, patch)
        self.rows = self.patches.reshape(batch * places, -1)
        self.embedded = empty(batch * places, width)
        self.normal, self.scale, self.last = empty(batch, width), empty(batch), empty(batch, width)
        self.logits, self.narrow_class = empty(batch, workload.classes), empty(batch, width)
        self.epsilon = workload.epsilon

    def loss_and_gradients(self, images: Floats, labels: Integers) -> float:
        """Mean cross-entropy; gradients of all parameters are left in the flat buffer."""
        p, g = self.parameters, self.gradients
        stream, cotangent = self.stream.reshape(self.batched), self.cotangent.reshape(self.batched)
        kernel = p["patch.weight"].reshape(len(p["patch.weight"]), -1)
        np.copyto(self.patches, images.reshape(self.cut).transpose(0, 2, 4, 1, 3, 5))
        linear(self.rows, kernel, p["patch.bias"], self.embedded)
        np.add(self.embedded.reshape(stream[:, 1:].shape), p["position"][:, 1:], out=stream[:, 1:])
        stream[:, 0] = p["class_token"][0] + p["position"][:, 0]
        self.forward()
        # Behind the blocks only the class token counts: the norm of the others would be thrown away.
        token, gain = stream[:, 0], p["norm.weight"]
        norm_forward(token, gain, p["norm.bias"], self.epsilon, self.normal, self.scale, self.last)
        linear(self.last, p["head.weight"], p["head.bias"], self.logits)
        loss = cross_entropy(self.logits, labels)
        linear_gradients(self.last, self.logits, g["head.weight"], g["head.bias"])
        np.matmul(self.logits, p["head.weight"], out=self.narrow_class)
        cotangent[...] = 0
        norm_backward(
            self.narrow_class,
            self.normal,
            self.scale,
            gain,
            g["norm.weight"],
            g["norm.bias"],
            self.scratch,
            cotangent[:, 0],
        )
        self.backward()
        np.add.reduce(cotangent, axis=0, keepdims=True, out=g["position"])
        g["class_token"][...] = g["position"][:, :1]
        np.copyto(self.embedded.reshape(stream[:, 1:].shape), cotangent[:, 1:])
        linear_gradients(self.rows, self.embedded, g["patch.weight"].reshape(kernel.shape), g["patch.bias"])
        return loss


def vit(workload: ViT) -> Step:
    """The vision transformer."""
    return trained(Model(workload), workload)
