"""GPT-2 there and back with Hugging Face transformers: `python -m benchmarks.parity.gpt2`.

A small GPT-2 of random weights is saved by transformers, loaded here, and saved again for transformers to
load: the logits agree each time. Needs torch and transformers. Exits with 1 above `TOLERANCE`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from minigrad import nn
from minigrad.graph import no_grad

TOLERANCE = 1e-5
SIZES = (
    {"vocab_size": 101, "n_positions": 32, "n_embd": 48, "n_layer": 3, "n_head": 4},
    {"vocab_size": 67, "n_positions": 16, "n_embd": 128, "n_layer": 1, "n_head": 2},
)


def logits_there(model: Any, tokens: np.ndarray) -> np.ndarray:
    """What transformers computes."""
    with torch.no_grad():
        return np.asarray(model.eval()(torch.tensor(tokens)).logits.numpy())


def logits_here(model: nn.GPT, tokens: np.ndarray) -> np.ndarray:
    """What minigrad computes."""
    with no_grad():
        return np.asarray(model.eval()(tokens).numpy())


def there_and_back(sizes: dict[str, int], seed: int, folder: Path, parts: str) -> tuple[float, float]:
    """The largest differences of logits, relative to the largest logit: there against here, and back."""
    torch.manual_seed(seed)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn_like(parameter)  # biases and norms, too, shall matter
    theirs.save_pretrained(folder / "theirs", max_shard_size=parts)
    ours = nn.models.load_gpt2(folder / "theirs")
    nn.models.save_gpt2(ours, folder / "ours")
    again = transformers.GPT2LMHeadModel.from_pretrained(folder / "ours")
    shape = (3, sizes["n_positions"])
    tokens = np.random.default_rng(seed).integers(0, sizes["vocab_size"], shape)
    expected = logits_there(theirs, tokens)
    size = np.abs(expected).max()
    here = np.abs(logits_here(ours, tokens) - expected).max() / size
    back = np.abs(logits_there(again, tokens) - expected).max() / size
    return float(here), float(back)


def main() -> int:
    """Print a line for each size, in one file and in several."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    worst = 0.0
    for seed, sizes in enumerate(SIZES):
        for parts in ("1GB", "60KB"):
            with tempfile.TemporaryDirectory() as name:
                here, back = there_and_back(sizes, seed, Path(name), parts)
                count = len(list(Path(name, "theirs").glob("*.safetensors")))
            print(f"{sizes}, {count} file(s): logits differ by {here:.1e} here, by {back:.1e} back there")
            worst = max(worst, here, back)
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    raise SystemExit(main())
