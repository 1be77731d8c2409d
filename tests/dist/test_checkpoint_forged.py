"""Checkpoints that somebody made up: nothing outside the folder is read, and no gap is taken for whole."""

import copy
import hashlib
import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad.dist import checkpoint, checkpoint_files, checkpoint_manifest
from minigrad.errors import UsageError
from tests.dist.checkpoints import FILES, copied, load, refusal, two_saved


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_saved(tmp_path_factory.mktemp("good"))


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return copied(good, tmp_path)


def forge(path: Path, content: Any) -> None:
    """Write a manifest whose own hash is right: whoever forges one can do that, too."""
    if isinstance(content, dict):
        content = {key: value for key, value in content.items() if key != "sha256"}
        content["sha256"] = checkpoint_manifest._digest(content)
    (path / "manifest.json").write_text(json.dumps(content))


def manifest(folder: Path) -> Any:
    return json.loads((folder / "step_002" / "manifest.json").read_text())


PIECE = ("arrays", "w", "pieces", 0)
RANK_0 = "rank_00000.safetensors"


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("format",), 2),
        (("format",), None),
        (("step",), 7),
        (("step",), True),
        (("metadata",), []),
        (("files",), {}),
        (("files", "../step_001/rank_00000.safetensors"), {"bytes": 1, "sha256": ""}),
        (("files", "/etc/passwd"), {"bytes": 1, "sha256": ""}),
        (("files", RANK_0), 5),
        (("files", RANK_0, "bytes"), -1),
        (("files", RANK_0, "bytes"), 10**30),
        (("files", RANK_0, "sha256"), 0),
        (("arrays",), None),
        (("arrays", "w", "dtype"), "object"),
        (("arrays", "w", "dtype"), "float32"),
        (("arrays", "w", "dtype"), ["float64"]),
        (("arrays", "w", "shape"), [3, 2**62]),
        (("arrays", "w", "shape"), [2**40] * 3),
        (("arrays", "w", "shape"), [3, -4]),
        (("arrays", "w", "shape"), [3.0, 4]),
        (("arrays", "w", "shape"), [True, 12]),
        (("arrays", "w", "shape"), "34"),
        (("arrays", "w", "shape"), [1] * 99 + [12]),
        (("arrays", "w", "shape"), [3, 5]),
        (("arrays", "w", "pieces"), []),
        (("arrays", "w", "pieces"), {}),
        (PIECE, "piece"),
        ((*PIECE, "file"), "../" + RANK_0),
        ((*PIECE, "file"), "rank_00007.safetensors"),
        ((*PIECE, "key"), "scale"),
        ((*PIECE, "key"), "nothing"),
        ((*PIECE, "key"), []),
        ((*PIECE, "box"), [[0, 3]]),
        ((*PIECE, "box"), [[0, 3], [1, 4]]),
        ((*PIECE, "box"), [[0, 3], 4]),
        ((*PIECE, "box"), [[0, 3, 4], [0, 4]]),
        ((*PIECE, "start"), 1),
        ((*PIECE, "start"), -1),
        ((*PIECE, "start"), 9),
        ((*PIECE, "stop"), 13),
        ((*PIECE, "stop"), 2**70),
        ((*PIECE, "stop"), float("nan")),
    ],
)
def test_a_forged_manifest_is_refused(folder: Path, where: tuple[Any, ...], value: Any) -> None:
    content = manifest(folder)
    place = content
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    forge(folder / "step_002", content)
    assert re.search("damaged|no finished", refusal(lambda: load(folder / "step_002")))
    out = folder / "all.safetensors"
    refusal(lambda: checkpoint.consolidate(folder / "step_002", out))
    assert not out.exists()


def test_overlaps_do_not_make_up_for_a_gap(folder: Path) -> None:
    """As many entries as the array has, but one of them twice and one not at all."""
    content = manifest(folder)
    content["arrays"]["w"]["pieces"][1].update(start=3, stop=7)
    forge(folder / "step_002", content)
    assert "nobody saved its entries [7:8] (of the flattened array)" in refusal(
        lambda: load(folder / "step_002")
    )


@pytest.mark.parametrize("text", ["", "[]", "7", "{", "[" * 100_000, '{"format": 1}', "\ud800"])
def test_what_is_no_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / "step_002" / "manifest.json").write_text(text, errors="surrogatepass")
    assert "damaged" in refusal(lambda: load(folder / "step_002"))


def test_a_manifest_without_end_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_manifest, "SIZE_LIMIT", 100)
    assert "more than 100 bytes" in refusal(lambda: load(folder / "step_002"))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where all values of a JSON text are."""
    inner = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else []
    )
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


@given(st.data())
@settings(max_examples=100)
def test_any_value_in_any_place_of_a_manifest_is_refused_or_harmless(good: Path, data: st.DataObject) -> None:
    content = copy.deepcopy(manifest(good))
    *way, last = data.draw(st.sampled_from(places(content)[1:]))
    place = content
    for key in way:
        place = place[key]
    place[last] = data.draw(anything)
    with TemporaryDirectory() as name:
        path = Path(name, "step_002")
        path.mkdir()
        for file in FILES[1:]:
            (path / file).write_bytes((good / "step_002" / file).read_bytes())
        forge(path, content)
        try:
            loaded = load(path)
        except UsageError:
            return
        assert loaded.tolist() == (np.arange(12) + 2).tolist()


@given(st.data())
@settings(max_examples=100)
def test_any_change_of_a_tensor_file_with_a_right_hash_is_refused_or_stays_inside(
    good: Path, data: st.DataObject
) -> None:
    with TemporaryDirectory() as name:
        path = Path(name, "step_002")
        path.mkdir()
        for file in FILES[1:]:
            (path / file).write_bytes((good / "step_002" / file).read_bytes())
        content = bytearray((path / RANK_0).read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        forged = manifest(good)
        forged["files"][RANK_0] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (path / RANK_0).write_bytes(content)
        forge(path, forged)
        try:
            loaded = load(path)
        except UsageError:
            return
        assert loaded[4:].tolist() == (np.arange(4, 12) + 2).tolist()  # what other files hold


def outside(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A file beside the checkpoints, with what rank 0 saved, and what a manifest says of it."""
    path = folder / "outside.safetensors"
    content = (folder / "step_002" / RANK_0).read_bytes()
    path.write_bytes(content)
    return path, {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize("absolute", [False, True])
def test_a_path_out_of_the_folder_is_not_followed(folder: Path, absolute: bool) -> None:
    path, written = outside(folder)
    name = str(path) if absolute else "../outside.safetensors"
    content = manifest(folder)
    del content["files"][RANK_0]
    content["files"][name] = written
    for array in content["arrays"].values():
        array["pieces"][0]["file"] = name
    forge(folder / "step_002", content)
    assert "is no name of a file of this folder" in refusal(lambda: load(folder / "step_002"))


def test_a_link_out_of_the_folder_is_not_followed(folder: Path) -> None:
    path, _ = outside(folder)
    (folder / "step_002" / RANK_0).unlink()
    (folder / "step_002" / RANK_0).symlink_to(path)
    assert f"{RANK_0} is missing" in refusal(lambda: load(folder / "step_002"))


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"a": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}}, "does not fit into its place"),
        ({"a": {"dtype": "F64", "shape": [2], "data_offsets": [0, 8]}}, "does not fit into its place"),
        ({"a": {"dtype": "F64", "shape": [-1], "data_offsets": [8, 0]}}, "no whole numbers"),
        ({"a": {"dtype": "F64", "shape": [-1, -1], "data_offsets": [0, 8]}}, "no whole numbers"),
        ({"a": {"dtype": "F64", "shape": [1.0], "data_offsets": [0, 8]}}, "no whole numbers"),
        ({"a": {"dtype": "object", "shape": [1], "data_offsets": [0, 8]}}, "KeyError"),
        ({"a": {"dtype": "F64", "shape": [1]}}, "KeyError"),
        ({"a": 3}, "TypeError"),
        (["a"], "Error"),
        ("x" * 20, "Error"),
    ],
)
def test_a_tensor_file_that_is_none_is_refused(tmp_path: Path, header: Any, says: str) -> None:
    path, text = tmp_path / "x.safetensors", json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    assert says in refusal(lambda: checkpoint_files.TensorFile(path))
    for length in (len(text) + 9, 2**63, 2**64 - 1):
        path.write_bytes(length.to_bytes(8, "little") + text + bytes(8))
        assert "does not fit into it" in refusal(lambda: checkpoint_files.TensorFile(path))
    path.write_bytes(b"1234")
    assert "does not fit into it" in refusal(lambda: checkpoint_files.TensorFile(path))
