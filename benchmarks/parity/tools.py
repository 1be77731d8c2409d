"""Starting values, averages of weights, loss scales, clipping and packed sequences beside torch's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

import minigrad as mg
from benchmarks.parity.compare import Parity, chosen, true, whole
from minigrad import nn
from minigrad.nn import init

Random = np.random.Generator


@contextlib.contextmanager
def _drawn() -> Iterator[tuple[list[Any], list[Any]]]:
    """The arguments with which starting values are drawn inside, here and in torch."""
    ours: list[Any] = []
    theirs: list[Any] = []

    def draw(found: list[Any], kind: float) -> Any:
        def drawn(tensor: Any, *first: Any, generator: Any = None, **named: Any) -> Any:
            found.append((kind, *first, *named.values()))
            return tensor

        return drawn

    with contextlib.ExitStack() as stack:
        for kind, name in enumerate(("uniform_", "normal_")):
            stack.enter_context(patch.object(init, name, draw(ours, kind)))
            stack.enter_context(patch.object(torch.Tensor, name, draw(theirs, kind)))
        yield ours, theirs


def starting_values(parity: Parity, random: Random) -> None:
    """What is drawn from which distribution: the same bounds, or the same mean and deviation."""
    shape = tuple(map(int, random.integers(1, 6, whole(random, 2, 5))))
    theirs_ = torch.empty(shape)
    ours_ = nn.Parameter(np.empty(shape))
    mode, slope = chosen(random, "fan_in", "fan_out"), float(random.uniform(0, 1))
    nonlinearity = chosen(random, "leaky_relu", "relu", "tanh", "linear", "sigmoid", "selu", "conv2d")
    he = {"a": slope, "mode": mode, "nonlinearity": nonlinearity}
    cases: dict[str, dict[str, Any]] = {
        "uniform_": {"a": -slope, "b": 2.0}, "normal_": {"mean": slope, "std": 0.3},
        "kaiming_uniform_": he, "kaiming_normal_": he,
        "xavier_uniform_": {"gain": 1.0 + slope}, "xavier_normal_": {"gain": 1.0 + slope},
    }  # fmt: skip
    for name, options in cases.items():
        with _drawn() as (ours, theirs):
            getattr(init, name)(ours_, **options)
            getattr(torch.nn.init, name)(theirs_, **options)
        parity.note(f"init.{name}", "what is drawn", ours, theirs)
        parity.trials[f"init.{name}"] = parity.trials.get(f"init.{name}", 0) + 1
    known: list[tuple[str, tuple[int, ...], tuple[Any, ...]]] = [
        ("constant_", shape, (slope,)), ("zeros_", shape, ()), ("ones_", shape, ()), ("eye_", shape[:2], ()),
    ]  # fmt: skip
    if len(shape) > 2:
        known.append(("dirac_", (shape[0] * 2, *shape[1:]), (chosen(random, 1, 2),)))
    for name, size, arguments in known:
        a, b = nn.Parameter(np.full(size, 7.0)), torch.full(size, 7.0)
        parity.note(
            f"init.{name}",
            "values",
            getattr(init, name)(a, *arguments).numpy(),
            getattr(torch.nn.init, name)(b, *arguments),
        )
        parity.trials[f"init.{name}"] = parity.trials.get(f"init.{name}", 0) + 1
    for name in ("orthogonal_", "sparse_"):
        size = shape if name == "orthogonal_" else shape[:2]
        a, b = nn.Parameter(np.empty(size)), torch.empty(size)
        getattr(init, name)(a, slope)
        getattr(torch.nn.init, name)(b, slope)
        parity.note(f"init.{name}", "products, or zeros", _structure(name, a.numpy()), _structure(name, b))
        parity.trials[f"init.{name}"] = parity.trials.get(f"init.{name}", 0) + 1
    gains = (home.calculate_gain(nonlinearity, slope) for home in (init, torch.nn.init))
    parity.note("init.calculate_gain", nonlinearity, *gains)
    fans = torch.nn.init._calculate_fan_in_and_fan_out(theirs_)
    parity.note("init.calculate_gain", "fans", init.fan_in_and_out(ours_), fans)
    parity.trials["init.calculate_gain"] = parity.trials.get("init.calculate_gain", 0) + 1


def _structure(name: str, x: Any) -> np.ndarray:
    """What all draws have in common: orthogonal rows, or how many entries of each column are 0."""
    matrix = np.asarray(x).reshape(len(x), -1)
    if name == "sparse_":
        return np.asarray((matrix == 0).sum(axis=0))
    return np.asarray(matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix)


def _numbers(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {key: value.detach().numpy().copy() for key, value in module.state_dict().items()}


def averages(parity: Parity, random: Random) -> None:
    """Averages of a model with batch norm over a few steps, and its statistics computed anew."""
    decay, use_buffers = float(random.uniform(0, 1)), true(random)
    swa, theirs_swa = nn.averaging, torch.optim.swa_utils
    momentum = chosen(random, 0.1, None)
    for kind in ("AveragedModel", "AveragedModel, exponential"):
        ours, theirs = (
            library.Sequential(library.Linear(3, 4), library.BatchNorm1d(4, momentum=momentum)).double()
            for library in (nn, torch.nn)
        )
        if kind == "AveragedModel":
            options: list[dict[str, Any]] = [{}, {}]
        elif true(random):
            options = [{"avg_fn": home.get_ema_avg_fn(decay)} for home in (swa, theirs_swa)]
        else:
            options = [{"multi_avg_fn": home.get_ema_multi_avg_fn(decay)} for home in (swa, theirs_swa)]
            use_buffers = False  # torch's function for many refuses the integers among buffers
        one = swa.AveragedModel(ours, use_buffers=use_buffers, **options[0])
        other = theirs_swa.AveragedModel(theirs, use_buffers=use_buffers, **options[1])
        for _ in range(whole(random, 1, 5)):
            state = {
                key: random.normal(size=value.shape) if value.dtype.kind == "f" else value + 1
                for key, value in _numbers(theirs).items()
            }
            ours.load_state_dict(state)
            theirs.load_state_dict({key: torch.tensor(value) for key, value in state.items()})
            one.update_parameters(ours)
            other.update_parameters(theirs)
        parity.trials[kind] = parity.trials.get(kind, 0) + 1
        expected = _numbers(other)
        for key, value in one.state_dict().items():
            if not (use_buffers and key.endswith("num_batches_tracked")):  # torch averages integers, too
                parity.note(kind, key, value.numpy(), expected[key])
        batches = [random.normal(size=(whole(random, 2, 4), 3)) for _ in range(3)]
        swa.update_bn([mg.tensor(x) for x in batches], one)
        theirs_swa.update_bn([torch.tensor(x) for x in batches], other)
        parity.trials["update_bn"] = parity.trials.get("update_bn", 0) + 1
        expected = _numbers(other)
        for key, value in one.state_dict().items():
            if "running" in key:
                parity.note("update_bn", key, value.numpy(), expected[key])


def loss_scales(parity: Parity, random: Random) -> None:
    """A loss scale over steps of which some overflow, with gradients clipped behind `unscale_` or not."""
    options = {
        "init_scale": float(2.0 ** whole(random, 0, 12)), "growth_factor": chosen(random, 2.0, 1.5),
        "backoff_factor": 0.5, "growth_interval": whole(random, 1, 4), "enabled": random.random() < 0.9,
    }  # fmt: skip
    clipped = true(random)
    ours, theirs = nn.Linear(3, 2).double(), torch.nn.Linear(3, 2).double()
    ours.load_state_dict(_numbers(theirs))
    optimizer = nn.optim.AdamW(ours.parameters(), lr=0.01)
    other = torch.optim.AdamW(theirs.parameters(), lr=0.01)
    scaler, their_scaler = nn.amp.GradScaler("cpu", **options), torch.amp.GradScaler("cpu", **options)
    for step in range(12):
        x = random.normal(size=(4, 3)) * chosen(random, 1.0, 1.0, 1.0, np.inf if options["enabled"] else 1.0)
        optimizer.zero_grad()
        other.zero_grad()
        with np.errstate(all="ignore"):
            scaler.scale((ours(mg.tensor(x)) ** 2).mean()).backward()
        their_scaler.scale((theirs(torch.tensor(x)) ** 2).mean()).backward()
        if clipped:
            scaler.unscale_(optimizer)
            their_scaler.unscale_(other)
            nn.utils.clip_grad_norm_(ours.parameters(), 0.5)
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        scaler.step(optimizer)
        their_scaler.step(other)
        scaler.update()
        their_scaler.update()
        for key, value in their_scaler.state_dict().items():
            parity.note("GradScaler", f"{key} after step {step + 1}", scaler.state_dict()[key], value)
        for (key, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            parity.note("GradScaler", f"{key} after step {step + 1}", a.numpy(), b.detach().numpy())
        if step == 5:
            scaler = nn.amp.GradScaler("cpu", enabled=bool(options["enabled"]))
            scaler.load_state_dict(their_scaler.state_dict())
    parity.trials["GradScaler"] = parity.trials.get("GradScaler", 0) + 1


def clipping(parity: Parity, random: Random) -> None:
    """Gradients cut by norm and by value, and parameters as a vector."""
    shapes = [tuple(random.integers(1, 4, whole(random, 0, 3))) for _ in range(whole(random, 1, 4))]
    values = [random.normal(size=shape) for shape in shapes]
    limit, kind = float(10 ** random.uniform(-1, 1)), chosen(random, 1.0, 2.0, 3.0, float("inf"))
    utils, theirs = nn.utils, torch.nn.utils
    for name in ("clip_grad_norm_", "clip_grads_with_norm_", "clip_grad_value_"):
        own = [nn.Parameter(x) for x in values]
        other = [torch.nn.Parameter(torch.tensor(x)) for x in values]
        for p, q in zip(own, other, strict=True):
            gradient = random.normal(size=p.shape)
            p.grad, q.grad = mg.tensor(gradient), torch.tensor(gradient)
        if name == "clip_grad_norm_":
            a, b = utils.clip_grad_norm_(own, limit, kind), theirs.clip_grad_norm_(other, limit, kind)
            parity.note(name, "norm", a.numpy(), b)
        elif name == "clip_grad_value_":
            utils.clip_grad_value_(own, limit)
            theirs.clip_grad_value_(other, limit)
        else:
            a = utils.get_total_norm([p.grad for p in own if p.grad is not None], kind)
            b = theirs.get_total_norm([q.grad for q in other if q.grad is not None], kind)
            parity.note(name, "norm", a.numpy(), b)
            utils.clip_grads_with_norm_(own, limit, a)
            theirs.clip_grads_with_norm_(other, limit, b)
        for place, (p, q) in enumerate(zip(own, other, strict=True)):
            assert p.grad is not None
            parity.note(name, f"gradient {place}", p.grad.numpy(), q.grad)
        parity.trials[name] = parity.trials.get(name, 0) + 1
    name = "parameters_to_vector"
    own = [nn.Parameter(x) for x in values]
    other = [torch.nn.Parameter(torch.tensor(x)) for x in values]
    vector = utils.parameters_to_vector(own)
    parity.note(name, "vector", vector.numpy(), theirs.parameters_to_vector(other).detach())
    utils.vector_to_parameters(-vector, own)
    theirs.vector_to_parameters(-theirs.parameters_to_vector(other).detach(), other)
    for place, (p, q) in enumerate(zip(own, other, strict=True)):
        parity.note(name, f"parameter {place}", p.numpy(), q.detach())
    parity.trials[name] = parity.trials.get(name, 0) + 1


def packing(parity: Parity, random: Random) -> None:
    """Packed and padded sequences, sorted by their maker or not."""
    lengths = random.integers(1, 6, whole(random, 1, 5))
    first, is_sorted = true(random), true(random)
    if is_sorted:
        lengths = -np.sort(-lengths)
    rows = [random.normal(size=(n, 2)) for n in lengths]
    home = torch.nn.utils.rnn
    own = nn.utils.rnn.pad_sequence([mg.tensor(x) for x in rows], first, 0.5)
    other = home.pad_sequence([torch.tensor(x) for x in rows], first, 0.5)
    parity.note("pad_sequence", "padded", own.numpy(), other)
    ours = nn.utils.rnn.pack_padded_sequence(own, lengths, first, is_sorted)
    theirs = home.pack_padded_sequence(other, torch.tensor(lengths), first, is_sorted)
    parity.note("pack_padded_sequence", "rows", ours.data.numpy(), theirs.data)
    parity.note("pack_padded_sequence", "batch_sizes", ours.batch_sizes, theirs.batch_sizes)
    total = chosen(random, None, 7)
    a, n = nn.utils.rnn.pad_packed_sequence(ours, first, -1.0, total)
    b, m = home.pad_packed_sequence(theirs, first, -1.0, total)
    parity.note("pad_packed_sequence", "padded", a.numpy(), b)
    parity.note("pad_packed_sequence", "lengths", n.numpy(), m)
    for name in ("pad_sequence", "pack_padded_sequence", "pad_packed_sequence"):
        parity.trials[name] = parity.trials.get(name, 0) + 1
