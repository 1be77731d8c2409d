"""The comparison with torch runs, covers what both have, and sees a difference."""

import sys

import numpy as np
import pytest

from minigrad.nn import layers

torch = pytest.importorskip("torch", reason="the benchmarks extra is not installed")

from benchmarks.parity.__main__ import CASES, main  # noqa: E402
from benchmarks.parity.compare import TOLERANCE, Parity  # noqa: E402

RANDOM_MASKS = {"Dropout", "Dropout1d", "Dropout2d", "AlphaDropout"}


@pytest.fixture
def doubles():
    """torch computes in float64 by default within a test."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def test_every_layer_that_torch_has_is_compared(doubles, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["parity", "--trials", "2"])
    assert main() == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if "|" in line]
    compared = {row[place].strip() for row in rows for place in (1, 4)}
    both = {name for name in layers.__all__ if hasattr(torch.nn, name)}
    assert both - RANDOM_MASKS <= compared


def test_a_difference_is_seen(doubles):
    parity, random = Parity(), np.random.default_rng(0)
    x = random.normal(size=(2, 3))
    ours, theirs = layers.LayerNorm(3, eps=1e-3), torch.nn.LayerNorm(3, eps=1e-5)
    parity.compare("LayerNorm", ours, theirs, [x], random)
    assert parity.errors["LayerNorm"] > TOLERANCE
    with pytest.raises(AssertionError, match="shape"):
        parity.note("x", "output", np.zeros(2), np.zeros(3))
    with pytest.raises(AssertionError, match="NaN"):
        parity.note("x", "output", np.array([0.0]), np.array([np.nan]))
    assert len(CASES) == 22
