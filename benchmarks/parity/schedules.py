"""Thirty epochs of every schedule that torch has too, alone and combined, over two groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.parity.compare import Parity, chosen, true, whole
from minigrad import nn
from minigrad.nn import lr_scheduler

EPOCHS = 30
Random = np.random.Generator
SETTINGS = ("lr", "momentum", "initial_lr")


def _pair(random: Random, name: str) -> tuple[Any, Any]:
    """Two groups of rates of their own, in both libraries."""
    rates = [float(10 ** random.uniform(-3, 0)) for _ in range(2)]
    beta = name in ("OneCycleLR", "CyclicLR") and true(random)
    made = []
    for library in (nn, torch.nn):
        layers = [library.Linear(1, 1) for _ in rates]
        groups = [{"params": list(x.parameters()), "lr": lr} for x, lr in zip(layers, rates, strict=True)]
        optim: Any = nn.optim if library is nn else torch.optim
        made.append(optim.Adam(groups) if beta else optim.SGD(groups, lr=0.1, momentum=0.9))
    return made[0], made[1]


def _settings(random: Random) -> dict[str, dict[str, Any]]:
    """Random settings of every schedule that goes on by itself."""
    steps, gamma = whole(random, 1, 9), float(random.uniform(0.5, 0.99))
    cycle = {"max_lr": 0.5, "cycle_momentum": true(random), "base_momentum": 0.8, "max_momentum": 0.95}
    length = chosen(random, {"total_steps": EPOCHS + steps}, {"epochs": EPOCHS, "steps_per_epoch": 2})
    return {
        "StepLR": {"step_size": steps, "gamma": gamma},
        "MultiStepLR": {"milestones": random.choice(25, 3, False).tolist(), "gamma": gamma},
        "ConstantLR": {"factor": gamma, "total_iters": steps},
        "LinearLR": {"start_factor": gamma, "end_factor": float(random.uniform(0, 1)), "total_iters": steps},
        "ExponentialLR": {"gamma": gamma},
        "PolynomialLR": {"total_iters": steps, "power": float(random.uniform(0.5, 3))},
        "LambdaLR": {"lr_lambda": [lambda epoch: gamma**epoch, lambda epoch: 1 / (1 + epoch)]},
        "MultiplicativeLR": {"lr_lambda": lambda epoch: 1 - 1 / (epoch + steps + 1)},
        "CosineAnnealingLR": {"T_max": steps, "eta_min": 0.001},
        "CosineAnnealingWarmRestarts": {"T_0": steps, "T_mult": whole(random, 1, 2), "eta_min": 0.001},
        "OneCycleLR": {
            **cycle, **length, "pct_start": float(random.uniform(0.2, 0.5)), "three_phase": true(random),
            "anneal_strategy": chosen(random, "cos", "linear"), "final_div_factor": 1e3,
        },
        "CyclicLR": {
            **cycle, "base_lr": [0.01, 0.1], "step_size_up": steps, "gamma": gamma,
            "step_size_down": chosen(random, None, whole(random, 1, 9)),
            "mode": chosen(random, "triangular", "triangular2", "exp_range"),
        },
        "SWALR": {
            "swa_lr": chosen(random, 0.05, [0.05, 0.01]), "anneal_epochs": steps,
            "anneal_strategy": chosen(random, "cos", "linear"),
        },
    }  # fmt: skip


def _build(library: Any, name: str, optimizer: Any, options: dict[str, Any]) -> Any:
    home = library.optim.swa_utils if name == "SWALR" and library is torch else None
    home = home or (torch.optim.lr_scheduler if library is torch else lr_scheduler)
    return getattr(home, name)(optimizer, **options)


def _compare(parity: Parity, label: str, pair: tuple[Any, Any], made: tuple[Any, Any], *figures: Any) -> None:
    """Rates, momenta and the like of both, epoch by epoch; half-way, ours goes on from its own state."""
    parity.trials[label] = parity.trials.get(label, 0) + 1
    (ours, theirs), (schedule, other) = pair, made
    for epoch in range(EPOCHS):
        figure = [row[epoch] for row in figures]
        theirs.step()
        schedule.step(*figure)
        other.step(*figure)
        for group, expected in zip(ours.param_groups, theirs.param_groups, strict=True):
            for key in SETTINGS:
                if key in expected:
                    parity.note(label, f"{key} after epoch {epoch + 1}", group[key], expected[key])
            if "betas" in expected:
                parity.note(label, f"betas after epoch {epoch + 1}", group["betas"], expected["betas"])
        parity.note(label, "get_last_lr", schedule.get_last_lr(), other.get_last_lr())
        if epoch == EPOCHS // 2:
            schedule.load_state_dict(schedule.state_dict())


def schedules(parity: Parity, random: Random) -> None:
    """Each schedule alone."""
    for name, options in _settings(random).items():
        ours, theirs = _pair(random, name)
        made = (_build(nn, name, ours, options), _build(torch, name, theirs, options))
        _compare(parity, name, (ours, theirs), made)
    plateau = {
        "mode": chosen(random, "min", "max"), "factor": float(random.uniform(0.3, 0.9)),
        "patience": whole(random, 0, 3), "cooldown": whole(random, 0, 2), "min_lr": 0.01,
        "threshold": chosen(random, 1e-4, 0.3), "threshold_mode": chosen(random, "rel", "abs"),
    }  # fmt: skip
    pair = _pair(random, "")
    both = (
        _build(nn, "ReduceLROnPlateau", pair[0], plateau),
        _build(torch, "ReduceLROnPlateau", pair[1], plateau),
    )
    _compare(parity, "ReduceLROnPlateau", pair, both, random.integers(3, size=EPOCHS).astype(float))


def combinations(parity: Parity, random: Random) -> None:
    """Chained, sequential, and a second schedule over an optimizer that a first one has changed."""
    names = ["StepLR", "ExponentialLR", "LinearLR", "ConstantLR", "CosineAnnealingLR", "PolynomialLR"]
    for label in ("ChainedScheduler", "SequentialLR", "a second schedule"):
        parts = [str(name) for name in random.choice(names, whole(random, 2, 3), False)]
        settings = _settings(random)
        marks = sorted(random.choice(np.arange(1, 25), len(parts) - 1, False).tolist())
        pair, made = _pair(random, ""), []
        for library, optimizer in zip((nn, torch), pair, strict=True):
            schedules_ = [_build(library, name, optimizer, settings[name]) for name in parts]
            home: Any = torch.optim.lr_scheduler if library is torch else lr_scheduler
            if label == "ChainedScheduler":
                made.append(home.ChainedScheduler(schedules_, optimizer))
            elif label == "SequentialLR":
                made.append(home.SequentialLR(optimizer, schedules_, marks))
            else:
                for _ in range(3):
                    if library is torch:
                        optimizer.step()
                    schedules_[0].step()
                made.append(_build(library, parts[1], optimizer, settings[parts[1]]))
        _compare(parity, label, pair, (made[0], made[1]))
