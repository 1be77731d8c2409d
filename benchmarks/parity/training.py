"""Ten steps of every optimizer that torch has too."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import minigrad as mg
from benchmarks.parity.compare import Parity, chosen, true
from minigrad import nn

STEPS = 10


def _options(random: np.random.Generator, name: str) -> dict[str, Any]:
    """Random settings of one optimizer."""
    decay = {"lr": float(10 ** random.uniform(-4, -1)), "weight_decay": chosen(random, 0.0, 0.1)}
    if name != "LBFGS":
        decay["maximize"] = true(random)
    betas = {"betas": (float(random.uniform(0.5, 0.95)), float(random.uniform(0.9, 0.999)))}
    betas["eps"] = chosen(random, 1e-8, 1e-4)
    momentum = chosen(random, 0.0, 0.9)
    nesterov = momentum > 0 and true(random)
    options: dict[str, dict[str, Any]] = {
        "SGD": {
            "momentum": momentum, "nesterov": nesterov,
            "dampening": 0.0 if nesterov else chosen(random, 0.0, 0.4),
        },
        "Adam": {**betas, "amsgrad": true(random)},
        "AdamW": {**betas, "amsgrad": true(random)},
        "Adamax": betas,
        "NAdam": {**betas, "momentum_decay": 0.01, "decoupled_weight_decay": true(random)},
        "RMSprop": {
            "momentum": momentum, "centered": true(random), "alpha": float(random.uniform(0.8, 0.99)),
        },
        "Adagrad": {
            "lr_decay": chosen(random, 0.0, 0.1), "initial_accumulator_value": chosen(random, 0.0, 0.5),
        },
        # One iteration a step: its differences of gradients grow rounding about thirtyfold with each.
        "LBFGS": {"lr": 0.5, "line_search_fn": chosen(random, None, "strong_wolfe"), "max_iter": 1},
    }  # fmt: skip
    return {**decay, **options[name]} if name != "LBFGS" else options[name]


def _numbers(state: Any) -> Any:
    """A state of torch with arrays in place of tensors."""
    if isinstance(state, dict):
        return {key: _numbers(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_numbers(value) for value in state]
    return state.detach().numpy().copy() if isinstance(state, torch.Tensor) else state


def optimizers(parity: Parity, random: np.random.Generator) -> None:
    """One small regression, learned from the same start by both, in two groups and with a frozen parameter.

    A second pair begins at step five of the first, from the state that torch has saved.
    """
    x, y = random.normal(size=(12, 4)), random.normal(size=(12, 3))
    for name in ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RMSprop", "Adagrad", "LBFGS"):
        options, frozen, together = _options(random, name), true(random), true(random)
        ours, theirs = (
            library.Sequential(library.Linear(4, 5), library.Tanh(), library.Linear(5, 3)).double()
            for library in (nn, torch.nn)
        )
        ours.load_state_dict(_numbers(dict(theirs.state_dict())))
        ours[0].bias.requires_grad_(not frozen)
        theirs[0].bias.requires_grad_(not frozen)

        def made(model: Any, home: Any) -> Any:
            if name == "LBFGS":  # noqa: B023
                return home.LBFGS(model.parameters(), **options)  # noqa: B023
            rate = options["lr"]  # noqa: B023
            first, second = ({"params": list(part.parameters())} for part in (model[0], model[2]))
            groups = [first, {**second, "lr": rate / 3}]
            return getattr(home, name)(list(model.parameters()) if together else groups, **options)  # noqa: B023

        optimizer, other = made(ours, nn.optim), made(theirs, torch.optim)
        parity.trials[name] = parity.trials.get(name, 0) + 1
        for step in range(STEPS):
            if step == STEPS // 2:
                optimizer = made(ours, nn.optim)
                optimizer.load_state_dict(_numbers(other.state_dict()))

            def loss(optimizer: Any = optimizer, ours: Any = ours) -> Any:
                optimizer.zero_grad()
                value = nn.functional.mse_loss(ours(mg.tensor(x)), mg.tensor(y))
                value.backward()
                return value

            def their_loss(other: Any = other, theirs: Any = theirs) -> Any:
                other.zero_grad()
                value = torch.nn.functional.mse_loss(theirs(torch.tensor(x)), torch.tensor(y))
                value.backward()
                return value

            if name == "LBFGS":
                optimizer.step(loss)
                other.step(their_loss)
            else:
                loss()
                their_loss()
                optimizer.step()
                other.step()
            for (key, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
                parity.note(name, f"{key} after step {step + 1}", a.numpy(), b.detach().numpy())
