"""Functions that no layer stands for, and the arguments of all constructors."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch

from benchmarks.parity.compare import Parity, chosen, true, whole
from minigrad import nn
from minigrad.nn import lr_scheduler
from minigrad.nn.functional import interpolate

Random = np.random.Generator

ABSENT = {
    "size_average", "reduce",  # of losses, which torch itself no longer wants
    "min_value", "max_value",  # of Hardtanh, likewise
    "return_indices",  # of max pools
    "max_norm", "norm_type", "scale_grad_by_freq", "sparse", "_weight", "_freeze",  # of Embedding
    "recompute_scale_factor",  # of Upsample
    "foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay",  # of optimizers
    "device", "dtype", "args", "kwargs",
}  # fmt: skip
"""Arguments of torch's constructors that are not there, or mean something only there."""

OTHER_DEFAULTS = {
    ("LogSoftmax", "dim"), ("Softmax", "dim"), ("Softmin", "dim"),  # torch guesses, and warns
    ("TransformerEncoderLayer", "activation"), ("TransformerDecoderLayer", "activation"),  # a name for relu
    ("Transformer", "activation"),
    ("ModuleList", "modules"), ("ModuleDict", "modules"), ("ParameterList", "values"),
}  # fmt: skip


def functions(parity: Parity, random: Random) -> None:
    """Attention, distances, padding and resizing as functions."""
    heads, queries, keys, width = (whole(random, 1, 4) for _ in range(4))
    causal = true(random)
    queries = keys if causal else queries
    q, k, v = (random.normal(size=(2, heads, n, width)) for n in (queries, keys, keys))
    mask: Any = None
    if not causal and true(random):
        mask = random.normal(size=(queries, keys)) if true(random) else random.random((queries, keys)) < 0.7
        if mask.dtype.kind == "b":
            mask[:, 0] = True
    options: Any = {"attn_mask": mask, "is_causal": causal, "scale": chosen(random, None, 0.3)}
    x, y = random.normal(size=(2, 3, 4))
    p = chosen(random, 1.0, 2.0, 3.0)
    image = random.normal(size=(2, 3, 5, 6))
    widths = random.integers(0, 3, 4).tolist()
    mode = chosen(random, "constant", "reflect", "replicate", "circular")
    padding = {"mode": mode, **({"value": 1.5} if mode == "constant" else {})}
    size = [whole(random, 2, 9), whole(random, 2, 9)]
    bilinear: Any = {"mode": "bilinear", "align_corners": true(random)}
    ours, theirs = nn.functional, torch.nn.functional
    their_options = {**options, "attn_mask": None if mask is None else torch.tensor(mask)}
    cases: dict[str, tuple[list[Any], Any, Any]] = {
        "scaled_dot_product_attention": (
            [q, k, v],
            lambda *x: ours.scaled_dot_product_attention(*x, **options),
            lambda *x: theirs.scaled_dot_product_attention(*x, **their_options),
        ),
        "normalize": ([x], lambda x: ours.normalize(x, p, 0), lambda x: theirs.normalize(x, p, 0)),
        "cosine_similarity": ([x, y], ours.cosine_similarity, theirs.cosine_similarity),
        "pairwise_distance": (
            [x, y],
            lambda x, y: ours.pairwise_distance(x, y, p),
            lambda x, y: theirs.pairwise_distance(x, y, p),
        ),
        "pad": (
            [image], lambda x: ours.pad(x, widths, **padding), lambda x: theirs.pad(x, widths, **padding)
        ),
        "interpolate": (
            [image],
            lambda x: interpolate(x, size, **bilinear),
            lambda x: theirs.interpolate(x, size, **bilinear),
        ),
    }  # fmt: skip
    for name, (inputs, call, their_call) in cases.items():
        nothing, theirs_nothing = nn.Identity(), torch.nn.Identity()
        parity.compare(name, nothing, theirs_nothing, inputs, random, call=call, their_call=their_call)


def arguments(parity: Parity, random: Random) -> None:
    """Every constructor takes every argument that torch's takes, with the same default; see `ABSENT`."""
    if "constructors" in parity.trials:
        return  # nothing random in it
    homes: tuple[tuple[Any, tuple[Any, ...]], ...] = (
        (nn, (torch.nn,)),
        (nn.optim, (torch.optim,)),
        (lr_scheduler, (torch.optim.lr_scheduler, torch.optim.swa_utils)),
        (nn.averaging, (torch.optim.swa_utils,)),
        (nn.amp, (torch.amp,)),
    )
    for home, others in homes:
        for name, kind in inspect.getmembers(home, inspect.isclass):
            their_kind = next((getattr(other, name) for other in others if hasattr(other, name)), None)
            if not inspect.isclass(their_kind) or name in ("Parameter", "Buffer", "Module", "PackedSequence"):
                continue
            if name in ("RNN", "GRU", "LSTM"):  # torch's own take anything
                their_kind = torch.nn.RNNBase
            found = inspect.signature(kind.__init__).parameters
            for key, argument in inspect.signature(their_kind.__init__).parameters.items():
                if key in ABSENT or (key == "mode" and their_kind is torch.nn.RNNBase):
                    continue
                if key == "proj_size" and name != "LSTM":
                    continue
                if key not in found:
                    raise AssertionError(f"{name}: torch takes {key}, and minigrad does not")
                default = found[key].default
                if (name, key) not in OTHER_DEFAULTS and default != argument.default:
                    raise AssertionError(f"{name}: {key} is {default}, in torch {argument.default}")
            parity.note("constructors", name, 0.0, 0.0)
            parity.trials["constructors"] = parity.trials.get("constructors", 0) + 1
