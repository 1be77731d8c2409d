"""GPT-2 in its four sizes. Paper: Radford et al. 2019, table 2."""

from __future__ import annotations

from typing import Any

from minigrad.errors import UsageError
from minigrad.nn.gpt import GPT, GPTConfig

GPT2_SIZES = {
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280),
    "gpt2-xl": (48, 25, 1600),
}
"""Layers, heads and width of each."""


def gpt2(size: str = "gpt2", *, dropout: float = 0.0, **options: Any) -> GPT:
    """A GPT-2 of one of `GPT2_SIZES`: 50,257 tokens, 1,024 positions; options are those of `nn.GPT`."""
    if size not in GPT2_SIZES:
        raise UsageError(f"gpt2: sizes are {', '.join(GPT2_SIZES)}; got {size!r}")
    layers, heads, width = GPT2_SIZES[size]
    config = GPTConfig(
        vocabulary=50257, context=1024, layers=layers, heads=heads, width=width, dropout=dropout
    )
    return GPT(config, **options)
