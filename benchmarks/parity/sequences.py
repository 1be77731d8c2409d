"""Random instances of recurrent layers, attention and transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.parity.compare import Parity, chosen, true, whole
from minigrad.nn import layers
from minigrad.nn.sequences import pack_padded_sequence, pad_packed_sequence

Random = np.random.Generator


def _with_states(module: Any) -> Any:
    """Call a recurrent module with none, one or a pair of states."""
    return lambda x, *states: module(x, (states if len(states) > 1 else states[0]) if states else None)


def recurrent(parity: Parity, random: Random) -> None:
    """Layers over sequences, padded, packed and single; and cells."""
    for kind in ("RNN", "LSTM", "GRU"):
        inner, size, layers_, time, batch = (whole(random, 1, n) for n in (4, 4, 3, 5, 5))
        options: dict[str, Any] = {"num_layers": layers_, "bias": true(random)}
        options |= {"batch_first": true(random), "bidirectional": true(random)}
        if kind == "LSTM" and size > 1 and true(random):
            options["proj_size"] = whole(random, 1, size - 1)
        if kind == "RNN":
            options["nonlinearity"] = chosen(random, "tanh", "relu")
        ours, theirs = parity.pair(kind, inner, size, **options)
        first = options["batch_first"]
        x = random.normal(size=(batch, time, inner) if first else (time, batch, inner))
        directions = layers_ * (1 + options["bidirectional"])
        widths = (ours.proj_size or size, size)[: ours.states]
        states = [random.normal(size=(directions, batch, width)) for width in widths]
        states = states if true(random) else []
        run, their_run = _with_states(ours), _with_states(theirs)
        parity.compare(kind, ours, theirs, [x, *states], random, call=run, their_call=their_run)
        alone = [part[:, 0] for part in states]
        row = x[0] if first else x[:, 0]
        parity.compare(kind, ours, theirs, [row, *alone], random, call=run, their_call=their_run)
        packed(parity, random, kind, ours, theirs, x, states)
        lead = (batch,) if true(random) else ()
        states = [random.normal(size=(*lead, size)) for _ in states]
        x = random.normal(size=(*lead, inner))
        ours, theirs = parity.pair(f"{kind}Cell", inner, size, bias=options["bias"])
        parity.compare(
            f"{kind}Cell",
            ours,
            theirs,
            [x, *states],
            random,
            call=_with_states(ours),
            their_call=_with_states(theirs),
        )


def packed(
    parity: Parity, random: Random, kind: str, ours: Any, theirs: Any, x: np.ndarray, states: list[Any]
) -> None:
    """The same layer over sequences of unequal lengths."""
    first = ours.batch_first
    batch, time = x.shape[:2] if first else x.shape[1::-1]
    lengths = random.integers(1, time + 1, batch)
    run, their_run = _with_states(ours), _with_states(theirs)
    torch_utils = torch.nn.utils.rnn

    def call(x: Any, *states: Any) -> Any:
        out, last = run(pack_padded_sequence(x, lengths, first, False), *states)
        return pad_packed_sequence(out, first, 0.5)[0], last

    def their_call(x: Any, *states: Any) -> Any:
        sequence = torch_utils.pack_padded_sequence(x, torch.tensor(lengths), first, False)
        out, last = their_run(sequence, *states)
        return torch_utils.pad_packed_sequence(out, first, 0.5)[0], last

    parity.compare(
        kind,
        ours,
        theirs,
        [x, *states],
        random,
        call=call,
        their_call=their_call,
        label=f"{kind}, packed",
    )


def attention(parity: Parity, random: Random) -> None:
    """Multi-head attention with masks of all kinds."""
    heads, first = whole(random, 1, 3), true(random)
    width = heads * whole(random, 1, 3)
    kdim, vdim = chosen(random, None, whole(random, 1, 5)), chosen(random, None, whole(random, 1, 5))
    options = {"bias": true(random), "kdim": kdim, "vdim": vdim, "batch_first": first}
    added = {"add_bias_kv": true(random), "add_zero_attn": true(random)}
    ours, theirs = parity.pair("MultiheadAttention", width, heads, **options, **added)
    batch, queries, keys = (whole(random, 1, 5) for _ in range(3))

    def made(count: int, size: int) -> np.ndarray:
        return random.normal(size=(batch, count, size) if first else (count, batch, size))

    padding = random.random((batch, keys)) < 0.5 if true(random) else None
    if padding is not None:
        padding[:, 0] = False  # torch makes NaN of a query that may look nowhere
    shape = chosen(random, None, (queries, keys), (batch * heads, queries, keys))
    hidden: Any = None if shape is None else random.random(shape) < 0.5
    if hidden is not None:
        hidden[..., 0] = False
    need, mean = true(random), true(random)
    tensors = [None if m is None else torch.tensor(m) for m in (padding, hidden)]
    parity.compare(
        "MultiheadAttention",
        ours,
        theirs,
        [made(queries, width), made(keys, kdim or width), made(keys, vdim or width)],
        random,
        call=lambda q, k, v: ours(q, k, v, padding, need, hidden, mean),
        their_call=lambda q, k, v: theirs(q, k, v, tensors[0], need, tensors[1], mean),
    )
    if kdim is None and vdim is None:
        future = torch.nn.Transformer.generate_square_subsequent_mask(queries)
        need = need or any(added.values())  # without, torch hides what is added from the first queries
        parity.compare(
            "MultiheadAttention",
            ours,
            theirs,
            [made(queries, width)],
            random,
            call=lambda x: ours(x, x, x, None, need, is_causal=True),
            their_call=lambda x: theirs(x, x, x, None, need, future, is_causal=True),
        )


def transformer(parity: Parity, random: Random) -> None:
    """Encoder and decoder layers, stacks of them, and the whole."""
    heads, first = whole(random, 1, 2), true(random)
    width, count = heads * whole(random, 1, 3), whole(random, 1, 3)
    options = {
        "dim_feedforward": 5,
        "dropout": 0.0,
        "activation": chosen(random, "relu", "gelu"),
        "batch_first": first,
        "norm_first": true(random),
        "bias": true(random),
        "layer_norm_eps": 1e-3,
    }
    batch, sources, targets = (whole(random, 1, 4) for _ in range(3))
    src, tgt = (
        random.normal(size=(batch, n, width) if first else (n, batch, width)) for n in (sources, targets)
    )
    future = torch.nn.Transformer.generate_square_subsequent_mask(targets)
    padding = random.random((batch, sources)) < 0.5
    padding[:, 0] = False
    hidden = torch.where(torch.tensor(padding), -torch.inf, 0.0)
    pair = parity.pair
    ours, theirs = pair("TransformerEncoderLayer", width, heads, **options)
    for training in (True, False):
        ours.train(training)
        theirs.train(training)
        parity.compare(
            "TransformerEncoderLayer",
            ours,
            theirs,
            [src],
            random,
            call=lambda x: ours(x, None, padding),
            their_call=lambda x: theirs(x, None, hidden),
        )
    one, other = pair("TransformerDecoderLayer", width, heads, **options)
    parity.compare(
        "TransformerDecoderLayer",
        one,
        other,
        [tgt, src],
        random,
        call=lambda x, m: one(x, m, future.numpy(), memory_key_padding_mask=padding),
        their_call=lambda x, m: other(x, m, future, memory_key_padding_mask=hidden),
    )
    stack, their_stack = layers.TransformerEncoder(ours, count), torch.nn.TransformerEncoder(theirs, count)
    parity.compare("TransformerEncoder", stack, their_stack, [src], random)
    deep = layers.TransformerDecoder(one, count, layers.LayerNorm(width))
    their_deep = torch.nn.TransformerDecoder(other, count, torch.nn.LayerNorm(width))
    parity.compare(
        "TransformerDecoder",
        deep,
        their_deep,
        [tgt, src],
        random,
        call=lambda x, m: deep(x, m, tgt_is_causal=True),
        their_call=lambda x, m: their_deep(x, m, future, tgt_is_causal=True),
    )
    both, theirs_both = pair("Transformer", width, heads, 2, 2, **options)
    parity.compare(
        "Transformer",
        both,
        theirs_both,
        [src, tgt],
        random,
        call=lambda x, y: both(x, y, tgt_mask=future.numpy(), src_key_padding_mask=padding),
        their_call=lambda x, y: theirs_both(x, y, tgt_mask=future, src_key_padding_mask=hidden),
    )
