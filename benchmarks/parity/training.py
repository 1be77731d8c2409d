"""Ten steps of every optimizer, and thirty epochs of every schedule, that torch has too."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.parity.compare import Parity, chosen, true, whole
from minigrad import nn
from minigrad.nn import lr_scheduler

STEPS, EPOCHS = 10, 30


def _optimizer(random: np.random.Generator, name: str) -> dict[str, Any]:
    """Random settings of one optimizer."""
    decay = {"lr": float(10 ** random.uniform(-4, -1)), "weight_decay": chosen(random, 0.0, 0.1)}
    betas = {"betas": (float(random.uniform(0.5, 0.95)), float(random.uniform(0.9, 0.999)))}
    momentum = chosen(random, 0.0, 0.9)
    options: dict[str, dict[str, Any]] = {
        "SGD": {"momentum": momentum, "nesterov": momentum > 0 and true(random)},
        "Adam": {**betas, "amsgrad": true(random)},
        "AdamW": {**betas, "amsgrad": true(random)},
        "Adamax": betas,
        "NAdam": betas,
        "RMSprop": {"momentum": momentum, "centered": true(random)},
        "Adagrad": {"lr_decay": chosen(random, 0.0, 0.1)},
        # One iteration a step: its differences of gradients grow rounding about thirtyfold with each.
        "LBFGS": {"lr": 0.5, "line_search_fn": chosen(random, None, "strong_wolfe"), "max_iter": 1},
    }
    return {**decay, **options[name]} if name != "LBFGS" else options[name]


def optimizers(parity: Parity, random: np.random.Generator) -> None:
    """One small regression, learned from the same start by both."""
    x, y = random.normal(size=(12, 4)), random.normal(size=(12, 3))
    for name in ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RMSprop", "Adagrad", "LBFGS"):
        options = _optimizer(random, name)
        ours, theirs = nn.Linear(4, 3).double(), torch.nn.Linear(4, 3, dtype=torch.float64)
        ours.load_state_dict({key: value.detach().numpy() for key, value in theirs.state_dict().items()})
        optimizer = getattr(nn.optim, name)(ours.parameters(), **options)
        other = getattr(torch.optim, name)(theirs.parameters(), **options)

        def loss(ours: Any = ours, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            value = nn.functional.mse_loss(ours(nn.Parameter(x, requires_grad=False)), y)
            value.backward()
            return value

        def their_loss(theirs: Any = theirs, other: Any = other) -> Any:
            other.zero_grad()
            value = torch.nn.functional.mse_loss(theirs(torch.tensor(x)), torch.tensor(y))
            value.backward()
            return value

        parity.trials[name] = parity.trials.get(name, 0) + 1
        for step in range(STEPS):
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


def schedules(parity: Parity, random: np.random.Generator) -> None:
    """The rates of both, epoch by epoch."""
    steps, gamma = whole(random, 1, 9), float(random.uniform(0.5, 0.99))
    cases: dict[str, dict[str, Any]] = {
        "StepLR": {"step_size": steps, "gamma": gamma},
        "MultiStepLR": {"milestones": sorted(random.choice(25, 3, False).tolist()), "gamma": gamma},
        "ConstantLR": {"factor": gamma, "total_iters": steps},
        "LinearLR": {"start_factor": gamma, "end_factor": 1.0, "total_iters": steps},
        "ExponentialLR": {"gamma": gamma},
        "PolynomialLR": {"total_iters": steps, "power": float(random.uniform(0.5, 3))},
        "CosineAnnealingLR": {"T_max": steps, "eta_min": 0.001},
        "CosineAnnealingWarmRestarts": {"T_0": steps, "T_mult": whole(random, 1, 2), "eta_min": 0.001},
        "OneCycleLR": {
            "max_lr": 0.5, "total_steps": EPOCHS + steps, "pct_start": 0.3, "three_phase": true(random),
            "anneal_strategy": chosen(random, "cos", "linear"),
        },
        "CyclicLR": {
            "base_lr": 0.01, "max_lr": 0.5, "step_size_up": steps, "gamma": gamma,
            "mode": chosen(random, "triangular", "triangular2", "exp_range"),
        },
        "ReduceLROnPlateau": {"factor": gamma, "patience": whole(random, 0, 3), "cooldown": 1},
    }  # fmt: skip
    for name, options in cases.items():
        parity.trials[name] = parity.trials.get(name, 0) + 1
        ours = nn.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1, momentum=0.9)
        theirs = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.1, momentum=0.9)
        schedule = getattr(lr_scheduler, name)(ours, **options)
        other = getattr(torch.optim.lr_scheduler, name)(theirs, **options)
        for epoch in range(EPOCHS):
            figure = (float(random.integers(3)),) if name == "ReduceLROnPlateau" else ()
            theirs.step()
            schedule.step(*figure)
            other.step(*figure)
            for key in ("lr", "momentum"):
                found, expected = ours.param_groups[0][key], theirs.param_groups[0][key]
                parity.note(name, f"{key} after epoch {epoch + 1}", found, expected)
