"""GPT-2's weights as transformers saves them: read, written back, refused where they are something else."""

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from minigrad.errors import DTypeError, MinigradError, ShapeError, UsageError
from minigrad.nn import GPT, models
from minigrad.nn.weight_files import WeightFiles
from tests.nn.tiny_gpt import TINY, build, reference, tokens

CONFIG = {
    "model_type": "gpt2", "vocab_size": 11, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2,
    "activation_function": "gelu_new", "layer_norm_epsilon": 1e-05,
}  # fmt: skip
Arrays = dict[str, np.ndarray]


def as_saved_there(model: GPT, prefix: str = "transformer.") -> Arrays:
    """The names and layouts, written down anew: Conv1D keeps its weights as (inputs, outputs)."""
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    out = {}
    for name, array in state.items():
        conv1d = ".c_" in name and array.ndim == 2
        out[prefix + name] = np.ascontiguousarray(array.T) if conv1d else array
    return out


def folder_of(path: Path, arrays: Arrays, config: dict[str, Any] = CONFIG) -> Path:
    path.mkdir(exist_ok=True)
    save_file(arrays, path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps(config))
    return path


def with_masks(arrays: Arrays, prefix: str) -> Arrays:
    mask = np.tril(np.ones((1, 1, 8, 8), dtype="uint8"))
    masks = {f"{prefix}h.{i}.attn.bias": mask for i in range(2)}
    return {**arrays, **masks, f"{prefix}h.0.attn.masked_bias": np.array(-1e4, "float32")}


@pytest.mark.parametrize("prefix", ["transformer.", ""])
@pytest.mark.parametrize("head", [False, True])
def test_what_was_saved_there_computes_the_same_here(tmp_path, prefix, head):
    model = build(dtype="float32")
    arrays = with_masks(as_saved_there(model, prefix), prefix)
    if head:
        arrays["lm_head.weight"] = arrays[f"{prefix}wte.weight"]
    loaded = models.load_gpt2(folder_of(tmp_path / "there", arrays), dtype="float64")
    assert loaded.config == TINY
    numbers = tokens(3, 8)
    np.testing.assert_allclose(loaded(numbers).numpy(), reference(model, numbers), rtol=1e-5, atol=1e-4)
    loaded.loss(numbers, numbers).backward()  # it can be trained on
    assert all(p.grad is not None and p.device == "cpu" for p in loaded.parameters())


def test_going_back_writes_what_was_read(tmp_path):
    arrays = as_saved_there(build(dtype="float32"))
    model = models.load_gpt2(folder_of(tmp_path / "there", arrays))
    for path in (tmp_path / "back", tmp_path / "alone" / "gpt2.safetensors"):
        models.save_gpt2(model, path)
    files = [tmp_path / "back" / "model.safetensors", tmp_path / "alone" / "gpt2.safetensors"]
    for file in files:
        written = load_file(file)
        assert written.keys() == arrays.keys()
        assert all((written[name] == arrays[name]).all() for name in arrays)
        assert WeightFiles(file).shapes == {name: array.shape for name, array in arrays.items()}
    found = json.loads((tmp_path / "back" / "config.json").read_text())
    assert CONFIG.items() <= found.items()
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["config.json", "model.safetensors"]


def test_heads_come_from_the_settings_the_caller_or_the_width(tmp_path):
    arrays = as_saved_there(build(dtype="float32"))
    folder = folder_of(tmp_path / "there", arrays)
    assert models.load_gpt2(folder, heads=4).config.heads == 4
    assert models.load_gpt2(folder / "model.safetensors", heads=2).config.heads == 2
    assert models.load_gpt2(folder / "model.safetensors").config.heads == 1
    with pytest.raises(UsageError, match="width 8 is not divisible by 3 heads"):
        models.load_gpt2(folder, heads=3)


def test_a_model_in_several_files_is_read_whole(tmp_path):
    arrays = as_saved_there(build(dtype="float32"))
    names = sorted(arrays)
    table: dict[str, str] = {}
    for number, part in enumerate((names[:9], names[9:]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: arrays[name] for name in part}, tmp_path / file)
        table |= dict.fromkeys(part, file)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    state = models.load_gpt2(tmp_path).state_dict()
    np.testing.assert_array_equal(state["wte.weight"].numpy(), arrays["transformer.wte.weight"])
    for table in ({"a": "../model.safetensors"}, {"a": "/etc/passwd"}, {"a": 3}, {"a": [1]}, {}, []):  # type: ignore[assignment]
        index.write_text(json.dumps({"weight_map": table}))
        with pytest.raises(UsageError, match=r"index.json names no files of its folder"):
            models.load_gpt2(tmp_path)


# ----- What is no GPT-2 --------------------------------------------------------------------------------


def without(name: str) -> Callable[[Arrays], None]:
    return lambda arrays: arrays.__delitem__(name)


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], None]:
    return lambda arrays: arrays.update({name: change(arrays[name])})


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (without("transformer.ln_f.bias"), UsageError, ["missing: ln_f.bias"]),
        (without("transformer.h.0.ln_1.bias"), UsageError, ["missing: h.0.ln_1.bias"]),
        (lambda a: a.update(extra=np.zeros(2, "float32")), UsageError, ["unexpected: extra"]),
        (lambda a: a.update({"h.999999999.ln_1.bias": np.zeros(8, "f")}), UsageError, ["h.999999999"]),
        (lambda a: a.update({"lm_head.weight": np.ones((11, 8), "f")}), UsageError, ["lm_head", "wte"]),
        (
            changed("transformer.h.1.mlp.c_fc.weight", lambda x: np.ascontiguousarray(x.T)),
            ShapeError,
            ["transformer.h.1.mlp.c_fc.weight is (32, 8), expected (8, 32)"],
        ),
        (changed("transformer.wpe.weight", lambda x: x[:, :4].copy()), ShapeError, ["(8, 4)", "(8, 8)"]),
        (changed("transformer.wte.weight", lambda x: x[0].copy()), ShapeError, ["(8,)", "two axes"]),
        (changed("transformer.wte.weight", lambda x: x[:0].copy()), UsageError, ["vocabulary", "0"]),
        (changed("transformer.ln_f.bias", lambda x: x.astype("int32")), DTypeError, ["ln_f.bias", "I32"]),
        (dict.clear, UsageError, ["missing: wte.weight"]),
    ],
)  # fmt: skip
def test_other_arrays_are_refused_by_name(tmp_path, change, error, words):
    arrays = as_saved_there(build(dtype="float32"))
    change(arrays)
    folder = folder_of(tmp_path / "there", arrays)
    with pytest.raises(error) as caught:
        models.load_gpt2(folder)
    assert all(word in str(caught.value) for word in [str(folder), *words]), str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("model_type", "llama"), ("activation_function", "relu"), ("layer_norm_epsilon", 1e-6), ("n_head", "2")],
)
def test_settings_of_another_model_are_refused(tmp_path, name, value):
    folder = folder_of(tmp_path / "x", as_saved_there(build(dtype="float32")), {**CONFIG, name: value})
    with pytest.raises(UsageError, match=rf"config.json.*{name} is '?{value}"):
        models.load_gpt2(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [("[" * 100_000, "not JSON"), ("{", "not JSON"), ("[]", "list"), ("1" * 10_000, "not JSON")],
)
def test_settings_that_are_no_settings_are_refused(tmp_path, content, words):
    folder = folder_of(tmp_path / "x", as_saved_there(build(dtype="float32")))
    (folder / "config.json").write_text(content)
    with pytest.raises(UsageError, match=words):
        models.load_gpt2(folder)


def test_weights_in_bfloat16_are_read_as_they_are(tmp_path):
    """Written by hand: NumPy, and so the format's own writer of arrays, has no such type."""
    arrays = as_saved_there(build(dtype="float32"))
    rounded, header, data = {}, {}, b""
    for name, array in arrays.items():
        upper = (array.view("<u4") >> 16).astype("<u2")
        rounded[name] = (upper.astype("<u4") << 16).view("<f4")
        start, data = len(data), data + upper.tobytes()
        header[name] = {"dtype": "BF16", "shape": array.shape, "data_offsets": [start, len(data)]}
    folder = folder_of(tmp_path / "there", rounded)
    expected = models.load_gpt2(folder)
    (folder / "model.safetensors").write_bytes(file_of(header, data))
    model = models.load_gpt2(folder)
    for (name, value), other in zip(model.named_parameters(), expected.parameters(), strict=True):
        np.testing.assert_array_equal(value.numpy(), other.numpy(), err_msg=name)


# ----- Hostile files -----------------------------------------------------------------------------------


def file_of(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[Any], start: Any, stop: Any, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


HOSTILE = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "header beyond the file": file_of({}, length=10**6),
    "header of 16 EiB": file_of({}, length=2**64 - 1),
    "header of 100 MB": file_of(b" " * (17 * 2**20)),
    "not JSON": file_of(b"PK\x03\x04 a zip of pickles"),
    "not UTF-8": file_of(b'{"\xff": 1}'),
    "deep JSON": file_of(b'{"a":' * 50_000),
    "deep lists": file_of(b'{"a":' + b"[" * 500_000),
    "a list": file_of([]),
    "no data": file_of({"a": entry([2], 0, 8)}),
    "truncated data": file_of({"a": entry([2], 0, 8)}, b"\0" * 7),
    "more data": file_of({"a": entry([2], 0, 8)}, b"\0" * 9),
    "negative offset": file_of({"a": entry([2], -8, 0)}, b"\0" * 8),
    "offsets turned": file_of({"a": entry([2], 8, 0)}, b"\0" * 8),
    "offset 2^64": file_of({"a": entry([2], 2**64, 2**64 + 8)}, b"\0" * 8),
    "overlap": file_of({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, b"\0" * 12),
    "the same bytes twice": file_of({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, b"\0" * 8),
    "a gap": file_of({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, b"\0" * 12),
    "absurd shape": file_of({"a": entry([2**40, 2**40], 0, 8)}, b"\0" * 8),
    "product that wraps around": file_of({"a": entry([2**32, 2**32, 4], 0, 0)}),
    "negative shape": file_of({"a": entry([-1, -2], 0, 8)}, b"\0" * 8),
    "half a shape": file_of({"a": entry([0.5], 0, 2)}, b"\0" * 2),
    "shape of words": file_of({"a": entry(["2"], 0, 8)}, b"\0" * 8),
    "no such type": file_of({"a": entry([2], 0, 8, "OBJECT")}, b"\0" * 8),
    "no entry": file_of({"a": None}),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_in_a_sentence_before_memory_is_taken(tmp_path, kind):
    path = tmp_path / "gpt2.safetensors"
    path.write_bytes(HOSTILE[kind])
    tracemalloc.start()
    try:
        with pytest.raises(UsageError) as caught:
            models.load_gpt2(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 500
    assert peak < 2**20


def test_a_header_of_any_length_is_not_even_read(tmp_path):
    path = tmp_path / "gpt2.safetensors"
    path.write_bytes(file_of({"__metadata__": {"x": "a" * 17 * 2**20}}))  # all in order, but for its size
    with pytest.raises(
        UsageError, match=r"begin with a header of 17,825,81[0-9]+, expected at most 16,777,216"
    ):
        models.load_gpt2(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(UsageError, match=r"safetensors cannot be read \(No such file"):
            models.load_gpt2(path)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_damage_anywhere_is_refused_or_changes_values_alone(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    path = folder / "damaged.safetensors"
    save_file(as_saved_there(build(dtype="float32")), path)
    content = bytearray(path.read_bytes())
    length = 8 + int.from_bytes(content[:8], "little")
    kind = data.draw(st.sampled_from(["cut", "flip", "grow"]))
    if kind == "flip":
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, length - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content += bytes(data.draw(st.integers(1, 9)))
    path.write_bytes(content)
    says, model = "", None
    try:
        model = models.load_gpt2(path)
    except MinigradError as error:
        says = str(error)
    assert str(path) in says or (kind == "flip" and model is not None)  # a letter of the metadata
