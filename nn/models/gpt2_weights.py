"""GPT-2's weights as Hugging Face transformers names and lays them out: read by name, and written back.

There the blocks' four matrices belong to `Conv1D`, (inputs, outputs), and are turned; names begin with
"transformer." or not; masks are saved as `attn.bias` and `attn.masked_bias`, and are passed over by name; the
output layer is the token embedding, and where it is saved besides it has to be the same.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
from safetensors.numpy import save_file

from minigrad import backend
from minigrad.errors import ShapeError, UsageError
from minigrad.nn.gpt import GPT, GPTConfig
from minigrad.nn.weight_files import WeightFiles, packed, read_json

HEAD_WIDTH = 64
"""The width of a head in all four sizes: what is taken where nothing says how many heads there are."""

_BLOCK = re.compile(r"h\.(0|[1-9][0-9]{0,8})\.(.+)")
_MASK = re.compile(r"h\.[0-9]+\.attn\.(masked_)?bias")
_TURNED = re.compile(r"h\.[0-9]+\.(attn|mlp)\.c_\w+\.weight")
_FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}
"""What config.json may say, if it says anything, for the model to be `nn.GPT`."""


def load_gpt2(
    path: str | Path,
    *,
    heads: int | None = None,
    dropout: float = 0.0,
    dtype: Any = "float32",
    device: str | None = None,
) -> GPT:
    """The GPT-2 that transformers saved in `path`: a folder, or a safetensors file alone.

    Sizes are those of the arrays. The number of heads is in no array: it is `heads`, or what the folder's
    config.json says, or one for every 64 of width. Nothing is allocated before all names, shapes and types
    fit. Raises UsageError, ShapeError or DTypeError, naming the file and what does not.
    """
    path = Path(path)
    files = WeightFiles(path)
    names = {_plain(name): name for name in files if not _MASK.fullmatch(_plain(name))}
    head = names.pop("lm_head.weight", None)
    shapes = {plain: files.shapes[name] for plain, name in names.items()}
    settings = read_json(path / "config.json") if path.is_dir() and (path / "config.json").exists() else {}
    config = _config(path, shapes, settings, heads, dropout)
    model = GPT(config, dtype=dtype, device="shapes")
    parameters = dict(model.named_parameters())
    wrong = []
    for name, parameter in parameters.items():
        expected = parameter.shape[::-1] if _TURNED.fullmatch(name) else parameter.shape
        if shapes[name] != expected:
            wrong.append(f"{names[name]} is {shapes[name]}, expected {expected}")
    if wrong:
        raise ShapeError(f"{path} does not hold a GPT-2 of width {config.width}: {'; '.join(wrong[:4])}")
    for name in [*names.values(), *([head] if head else [])]:
        files.check_dtype(name)
    if head and not numpy.array_equal(files[head], files[names["wte.weight"]], equal_nan=True):
        raise UsageError(
            f"{path}: {head} differs from {names['wte.weight']}, and GPT-2's output layer is its token "
            "embedding; leave it out, or tie them before saving"
        )
    for name, parameter in parameters.items():
        array = packed(files[names[name]], transposed=bool(_TURNED.fullmatch(name)))
        parameter.data = backend.asarray(array, dtype=dtype, device=device or "cpu")
        parameter.requires_grad_(False).requires_grad_()  # a leaf of where it lies now
    return model


def _plain(name: str) -> str:
    return name.removeprefix("transformer.")


def _config(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    settings: Mapping[str, Any],
    heads: int | None,
    dropout: float,
) -> GPTConfig:
    """The sizes that the arrays have, once their names are those of a GPT-2."""
    blocks = {int(match[1]) for match in map(_BLOCK.fullmatch, shapes) if match}
    layers = len(blocks)
    parts = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    inside = [f"h.{i}.{part}" for i in range(layers) for part in parts]
    expected = ["wte.weight", "wpe.weight"]
    expected += [f"{name}.{kind}" for name in [*inside, "ln_f"] for kind in ("weight", "bias")]
    missing = [name for name in expected if name not in shapes]
    unexpected = [name for name in shapes if name not in set(expected)]
    if not layers or missing or unexpected:
        found = {"missing": missing, "unexpected": unexpected}
        text = "; ".join(f"{what}: {_some(names)}" for what, names in found.items() if names)
        raise UsageError(f"{path} does not hold a GPT-2 as transformers saves it; {text or 'no blocks'}")
    for name, allowed in _FIXED.items():
        if settings.get(name, allowed[0]) not in allowed:
            raise UsageError(
                f"{path / 'config.json'}: {name} is {settings[name]!r}, and nn.GPT has {allowed[0]!r}"
            )
    if len(shapes["wte.weight"]) != 2 or len(shapes["wpe.weight"]) != 2:
        raise ShapeError(
            f"{path}: wte.weight and wpe.weight are {shapes['wte.weight']} and {shapes['wpe.weight']}, "
            "expected two axes"
        )
    (vocabulary, width), (context, _) = shapes["wte.weight"], shapes["wpe.weight"]
    heads = heads or settings.get("n_head") or max(1, width // HEAD_WIDTH)
    if type(heads) is not int:
        raise UsageError(f"{path / 'config.json'}: n_head is {heads!r}, expected a whole number")
    try:
        return GPTConfig(vocabulary, context, layers, heads, width, dropout)
    except UsageError as error:
        raise UsageError(f"{path} does not hold a GPT-2: {error}") from error


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def save_gpt2(model: GPT, path: str | Path) -> None:
    """Write a model where transformers finds it: `GPT2LMHeadModel.from_pretrained(path)`.

    A path that ends in .safetensors becomes that file; any other a folder with model.safetensors and
    config.json. Files are written aside and moved into place.
    """
    path = Path(path)
    alone = path.suffix == ".safetensors"
    folder = path.parent if alone else path
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        f"transformer.{name}": packed(parameter.numpy(), transposed=bool(_TURNED.fullmatch(name)))
        for name, parameter in model.named_parameters()
    }
    file = path if alone else folder / "model.safetensors"
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        save_file(arrays, aside, metadata={"format": "pt"})
        os.replace(aside, file)
        if not alone:
            aside.write_text(json.dumps(_settings(model), indent=2) + "\n", encoding="utf-8")
            os.replace(aside, folder / "config.json")
    finally:
        aside.unlink(missing_ok=True)


def _settings(model: GPT) -> dict[str, Any]:
    """What config.json says of this model."""
    config = model.config
    sizes = {
        "vocab_size": config.vocabulary,
        "n_positions": config.context,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
    }
    drops = {f"{name}_pdrop": config.dropout for name in ("attn", "embd", "resid")}
    fixed = {name: allowed[0] for name, allowed in _FIXED.items()}
    last = {"bos_token_id": config.vocabulary - 1, "eos_token_id": config.vocabulary - 1}
    return {"architectures": ["GPT2LMHeadModel"], **fixed, **sizes, **drops, **last}
