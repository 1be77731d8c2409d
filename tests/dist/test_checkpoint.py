"""Checkpoints come back to the bit, whoever saved them and whoever loads: any ranks, any cuts, any dtype."""

import json
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file

from minigrad import backend, dist
from minigrad.dist import World, checkpoint, checkpoint_piece
from minigrad.dist.checkpoint import Piece
from minigrad.dist.checkpoint_files import TensorFile
from minigrad.errors import UsageError

try:
    import ml_dtypes

    DTYPES = ["float32", "float64", "float16", "int64", "uint8", "bool", ml_dtypes.bfloat16]
except ImportError:
    DTYPES = ["float32", "float64", "float16", "int64", "uint8", "bool"]
RANKS = st.sampled_from([1, 2, 3, 4, 5, 7])


@dataclass(frozen=True)
class Case:
    """An array, and the seed of how it is cut."""

    name: str
    array: NDArray[Any]
    seed: int


@st.composite
def cases(draw: st.DrawFn) -> list[Case]:
    found = []
    for number in range(draw(st.integers(1, 3))):
        shape = tuple(draw(st.lists(st.integers(0, 6), max_size=3)))
        dtype, seed = np.dtype(draw(st.sampled_from(DTYPES))), draw(st.integers(0, 2**32))
        bits = np.random.default_rng(seed).integers(0, 256, prod(shape) * dtype.itemsize, dtype=np.uint8)
        array = (bits % 2).astype(bool) if dtype.kind == "b" else bits.view(dtype)  # NaNs of all kinds, too
        found.append(Case(f"array {number}", array.reshape(shape), seed))
    return found


def piece_of(case: Case, box: tuple[tuple[int, int], ...] | None, start: int, stop: int) -> Piece:
    """A piece with the values that belong there."""
    whole = tuple((0, length) for length in case.array.shape)
    part = case.array[tuple(slice(low, low + length) for low, length in box or whole)]
    return Piece(case.name, case.array.shape, start, stop, part.reshape(-1)[start:stop].copy(), box)


def cuts(generator: np.random.Generator, size: int, parts: int) -> list[tuple[int, int]]:
    """`size` entries in so many runs, some of them empty."""
    inner = np.sort(generator.integers(0, size + 1, parts - 1)).tolist()
    return list(zip([0, *inner], [*inner, size], strict=True))


def held(case: Case, ranks: int, salt: int) -> list[list[Piece]]:
    """What each rank holds: together the whole array, in one of the ways of the trade."""
    generator = np.random.default_rng([case.seed, salt])
    array, way = case.array, generator.integers(4)
    if way == 0:  # replicated
        return [[piece_of(case, None, 0, array.size)] for _ in range(ranks)]
    if way == 1 or not array.ndim:  # ZeRO: flat shards, dealt to ranks in any order
        runs = cuts(generator, array.size, ranks)
        return [[piece_of(case, None, *runs[rank])] for rank in generator.permutation(ranks)]
    axis = int(generator.integers(array.ndim))  # tensor parallel, each slice sharded once more
    owners: list[list[Piece]] = [[] for _ in range(ranks)]
    for low, high in cuts(generator, array.shape[axis], int(generator.integers(1, 4))):
        box = tuple(
            (low, high - low) if number == axis else (0, length) for number, length in enumerate(array.shape)
        )
        size = prod(length for _, length in box)
        for start, stop in cuts(generator, size, int(generator.integers(1, 4))):
            owners[generator.integers(ranks)].append(piece_of(case, box, start, stop))
            if way == 3:  # and somebody holds some of it once more
                start, stop = sorted(generator.integers(0, size + 1, 2).tolist())
                owners[generator.integers(ranks)].append(piece_of(case, box, start, stop))
    return owners


def emptied(pieces: list[Piece]) -> list[Piece]:
    """The same pieces with other values, to be filled."""
    return [replace(piece, array=np.zeros_like(piece.array)) for piece in pieces]


def assert_same(loaded: list[Piece], expected: list[Piece]) -> None:
    for found, piece in zip(loaded, expected, strict=True):
        assert found.array.dtype == piece.array.dtype
        assert found.array.tobytes() == piece.array.tobytes()


def saved_and_loaded(
    folder: Path, before: list[list[Piece]], after: list[list[Piece]], metadata: dict[str, Any]
) -> list[list[Piece]]:
    """Save what ranks hold, and load what others want."""
    path = folder / "step_000012"
    dist.spawn(lambda world: checkpoint.save(path, world, before[world.rank], metadata), ranks=len(before))

    def load(world: World) -> list[Piece]:
        wanted = emptied(after[world.rank])
        assert checkpoint.load(path, world, wanted) == metadata
        return wanted

    return dist.spawn(load, ranks=len(after))


@given(cases(), RANKS, RANKS)
@settings(max_examples=80)
def test_what_some_ranks_saved_others_load_to_the_bit(drawn: list[Case], saving: int, loading: int) -> None:
    before, after = (
        [[piece for case in drawn for piece in held(case, ranks, salt)[rank]] for rank in range(ranks)]
        for salt, ranks in ((1, saving), (2, loading))
    )
    with TemporaryDirectory() as name:
        loaded = saved_and_loaded(Path(name), before, after, {"epoch": 3, "words": ["a", None]})
        for found, wanted in zip(loaded, after, strict=True):
            assert_same(found, wanted)
        checkpoint.consolidate(Path(name, "step_000012"), Path(name, "all.safetensors"))
        one_file = TensorFile(Path(name, "all.safetensors"))
        for case in drawn:
            assert one_file[case.name].tobytes() == case.array.tobytes()
        if all(case.array.dtype.kind != "V" for case in drawn):  # the library's NumPy side has no bfloat16
            for key, array in load_file(Path(name, "all.safetensors")).items():
                (case,) = (case for case in drawn if case.name == key)
                assert (array.shape, array.dtype) == (case.array.shape, case.array.dtype)
                assert array.tobytes() == case.array.tobytes()


def test_what_all_ranks_hold_is_written_once(tmp_path: Path) -> None:
    values = np.arange(1000.0)
    pieces = [[Piece("a", (10, 100), 0, 1000, values + rank)] for rank in range(4)]
    (loaded,) = saved_and_loaded(tmp_path, pieces, pieces[:1], {})
    assert [path.name for path in sorted((tmp_path / "step_000012").iterdir())] == [
        "manifest.json",
        "rank_00000.safetensors",
    ]
    np.testing.assert_array_equal(loaded[0].array, values)  # the lowest rank's
    # One rank's file of whole arrays is what the library makes of them, shapes included.
    assert load_file(tmp_path / "step_000012" / "rank_00000.safetensors")["a"].shape == (10, 100)


def test_of_what_several_ranks_hold_in_part_the_lowest_counts(tmp_path: Path) -> None:
    runs = [(4, 9), (0, 6), (3, 12)]
    before = [
        [Piece("a", (12,), start, stop, np.full(stop - start, rank))]
        for rank, (start, stop) in enumerate(runs)
    ]
    (loaded,) = saved_and_loaded(tmp_path, before, [[Piece("a", (12,), 0, 12, np.empty(12, int))]], {})
    assert loaded[0].array.tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0, 2, 2, 2]


def test_only_what_is_wanted_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the columns, from shards of rows: the rest of the file is never touched."""
    array = np.arange(64 * 64.0).reshape(64, 64)
    case = Case("a", array, 0)
    before = [[piece_of(case, None, *run)] for run in cuts(np.random.default_rng(0), array.size, 3)]
    read: list[int] = []
    cut = checkpoint_piece._cut

    def counted(*given: Any) -> Any:
        read.append(cut(*given).size)
        return cut(*given)

    monkeypatch.setattr(checkpoint_piece, "_cut", counted)
    wanted = piece_of(case, ((0, 64), (16, 16)), 0, 1024)
    ((loaded,),) = saved_and_loaded(tmp_path, before, [[wanted]], {})
    np.testing.assert_array_equal(loaded.array, wanted.array)
    assert sum(read) == 2 * 1024  # from where it was read, and where it went


def test_old_checkpoints_go_once_the_new_one_is_there(tmp_path: Path) -> None:
    world = dist.SingleWorld()
    piece = Piece("a", (3,), 0, 3, np.arange(3))
    for step in (1, 2, 10, 9, 11):
        checkpoint.save(tmp_path / f"step_{step}", world, [piece], {"step": step}, keep=2)
    assert [path.name for path in checkpoint.saved(tmp_path)] == ["step_10", "step_11"]
    piece.array[:] = 7
    checkpoint.save(tmp_path / "step_11", world, [piece], {"step": 11})  # once more, over the last
    wanted = replace(piece, array=np.zeros(3, int))
    checkpoint.load(tmp_path / "step_11", world, [wanted])
    assert wanted.array.tolist() == [7, 7, 7]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_10", "step_11"]


def peak_bytes(action: Callable[[], Any]) -> int:
    """The most memory that NumPy and Python held beyond what they had."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        action()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def test_no_array_is_held_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "CONSOLIDATED_AT_ONCE", 2**16)
    world = dist.SingleWorld()
    array = np.random.default_rng(0).random(2**20)
    piece, path = Piece("model.a", (2**10, 2**10), 0, 2**20, array), tmp_path / "step_1"
    small = array.nbytes // 4
    assert peak_bytes(lambda: checkpoint.save(path, world, [piece], {})) < small
    wanted = replace(piece, array=np.empty_like(array))
    assert peak_bytes(lambda: checkpoint.load(path, world, [wanted])) < small
    out = tmp_path / "new" / "model.safetensors"
    assert peak_bytes(lambda: checkpoint.consolidate(path, out, prefix="model.")) < small
    np.testing.assert_array_equal(load_file(out)["a"], array.reshape(2**10, 2**10))
    np.testing.assert_array_equal(wanted.array, array)


def refused(action: Callable[[], Any]) -> str:
    with pytest.raises(UsageError) as caught:
        action()
    return str(caught.value)


@pytest.mark.parametrize(
    ("pieces", "says"),
    [
        ([Piece("a", (4,), 0, 3, np.zeros(3))], r"incomplete: nobody saved its entries \[3:4\]"),
        (
            [Piece("a", (4,), 0, 2, np.zeros(2)), Piece("a", (4,), 1, 3, np.zeros(2))],
            r"nobody saved its entries \[3:4\]",  # four entries in all, and one of them missing
        ),
        (
            [Piece("a", (2, 3), 0, 4, np.zeros(4), ((0, 2), (0, 2)))],
            r"shape \(2, 3\) is incomplete: nobody saved its entries \[0:2, 2:3\]",
        ),
        ([Piece("a", (4,), 0, 5, np.zeros(5))], "has 4 entries, and not those from 0 to 5"),
        ([Piece("a", (4,), 0, 4, np.zeros(4), ((1, 4),))], "is no part of it"),
        ([Piece("a", (2, 2), 0, 4, np.zeros((2, 2)))], "expected a name and a flat array of 4 entries"),
        ([Piece("a", (1,), 0, 1, np.zeros(1, "complex128"))], "arrays of complex128 cannot be saved"),
        ([Piece("a", (1,), 0, 1, np.zeros(1)), Piece("a", (2,), 0, 1, np.zeros(1))], "must mean the same"),
    ],
)
@pytest.mark.parametrize("ranks", [1, 3])
def test_pieces_that_make_no_whole_arrays_are_refused_before_anything_is_written(
    tmp_path: Path, pieces: list[Piece], says: str, ranks: int
) -> None:
    heard = dist.spawn(
        lambda world: refused(
            lambda: checkpoint.save(tmp_path / "step_1", world, pieces if world.rank == ranks - 1 else [], {})
        ),
        ranks=ranks,
    )
    assert len(set(heard)) == 1
    assert re.search(says, heard[0]), heard[0]
    assert list(tmp_path.iterdir()) == []


def test_names_and_metadata_that_cannot_be_saved_are_refused(tmp_path: Path) -> None:
    world = dist.SingleWorld()
    assert "ends in its step" in refused(lambda: checkpoint.save(tmp_path / "best", world, [], {}))
    for metadata in ({"loss": float("nan")}, {"array": np.zeros(2)}):
        assert "must be JSON" in refused(lambda: checkpoint.save(tmp_path / "step_1", world, [], metadata))  # noqa: B023
    assert list(tmp_path.iterdir()) == []


def test_loading_something_else_than_what_was_saved_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "step_1"
    checkpoint.save(path, dist.SingleWorld(), [Piece("a", (4,), 0, 4, np.arange(4.0))], {})
    right = Piece("a", (4,), 0, 4, np.full(4, 9.0))
    for wrong in (
        Piece("b", (4,), 0, 4, np.zeros(4)),
        Piece("a", (2, 2), 0, 4, np.zeros(4)),
        Piece("a", (4,), 0, 4, np.zeros(4, "float32")),
    ):

        def load(world: World, wrong: Piece = wrong) -> str:
            return refused(lambda: checkpoint.load(path, world, [right, wrong] if world.rank else [right]))

        heard = dist.spawn(load, ranks=2)
        assert heard[0] == heard[1]
        assert heard[0].startswith("rank 1 of 2: ")
        assert "does not fit" in heard[0]


def test_the_manifest_says_what_is_where(tmp_path: Path) -> None:
    before = [[Piece("a", (2, 3), 3 * rank, 3 * rank + 3, np.zeros(3, "int64"))] for rank in range(2)]
    saved_and_loaded(tmp_path, before, before, {"seed": 5})
    manifest = json.loads((tmp_path / "step_000012" / "manifest.json").read_text())
    assert (manifest["format"], manifest["step"], manifest["metadata"]) == (1, 12, {"seed": 5})
    assert manifest["arrays"]["a"]["shape"] == [2, 3]
    assert [(piece["start"], piece["stop"]) for piece in manifest["arrays"]["a"]["pieces"]] == [
        (0, 3),
        (3, 6),
    ]
    for name, file in manifest["files"].items():
        assert (tmp_path / "step_000012" / name).stat().st_size == file["bytes"]


def test_arrays_begin_where_their_items_fit(tmp_path: Path) -> None:
    """An odd number of bytes before it would leave every read of a wide array misaligned."""
    arrays = [("a", "bool", 3), ("b", "int64", 2), ("c", "float16", 1), ("d", "float32", 1)]
    pieces = [Piece(name, (size,), 0, size, np.ones(size, dtype)) for name, dtype, size in arrays]
    checkpoint.save(tmp_path / "step_1", dist.SingleWorld(), pieces, {})
    file = TensorFile(tmp_path / "step_1" / "rank_00000.safetensors")
    assert all(file[name].flags.aligned for name, _, _ in arrays)


class Far(np.ndarray):
    """An array on a device: it takes no values of the host as they are."""

    def __setitem__(self, index: Any, value: Any) -> None:
        assert isinstance(value, Far)
        super().__setitem__(index, value)


class FarNamespace(backend.NumpyNamespace):
    """What makes arrays on that device, and brings them back."""

    array_type = Far  # type: ignore[assignment]

    def to_host(self, array: Any) -> NDArray[Any]:
        return np.array(array)

    def from_host(self, array: NDArray[Any], *, device: str = "") -> Any:
        assert array.flags.c_contiguous
        assert device == self.device(array)
        return array.view(Far)

    def device(self, array: Any) -> str:
        return "far:1"


@given(cases(), st.sampled_from([1, 2, 3]))
@settings(max_examples=20)
def test_arrays_on_a_device_go_through_the_host(drawn: list[Case], ranks: int) -> None:
    def far(pieces: list[Piece]) -> list[Piece]:
        return [replace(piece, array=piece.array.view(Far)) for piece in pieces]

    before, after = (
        [far([piece for case in drawn for piece in held(case, ranks, salt)[rank]]) for rank in range(ranks)]
        for salt in (1, 2)
    )
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as name:
        patch.setitem(backend._namespaces, Far, FarNamespace())
        loaded = saved_and_loaded(Path(name), before, after, {})
    for found, wanted in zip(loaded, after, strict=True):
        assert_same(found, wanted)


PROGRAM = """
import sys
import numpy as np
from minigrad import dist
from minigrad.dist.checkpoint import Piece, load, save
world, (action, path) = dist.world(), sys.argv[1:]
shape, counts = (5, 7), dist.balanced_counts(35, world.size)
start = sum(counts[:world.rank])
if action == "save":
    mine = np.arange(start, start + counts[world.rank], dtype=np.float32)
    save(path, world, [Piece("w", shape, start, start + mine.size, mine)], {"ranks": world.size})
else:
    box = ((0, 5), (3 * world.rank, 3))
    mine = np.zeros(15, np.float32)
    assert load(path, world, [Piece("w", shape, 0, 15, mine, box)]) == {"ranks": 3}
    expected = np.arange(35).reshape(shape)[:, 3 * world.rank : 3 * world.rank + 3]
    assert (mine.reshape(5, 3) == expected).all()
"""


def test_processes_save_and_others_load(tmp_path: Path, mpirun: Callable[..., Any]) -> None:
    for action, ranks in (("save", 3), ("load", 2)):
        ended = mpirun(["-c", PROGRAM, action, str(tmp_path / "step_4")], ranks=ranks)
        assert ended.returncode == 0, ended.stdout + ended.stderr
