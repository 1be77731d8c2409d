"""The corpus: its split, its batches, its baselines, and what it refuses."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad.errors import UsageError
from minigrad.nn.text import (
    Text,
    balanced_slice,
    encode,
    entropy_of_byte,
    entropy_of_next_byte,
    standard_library_text,
    text_from_files,
)


@pytest.fixture(scope="module")
def library() -> Text:
    return standard_library_text()


def text_of(content: bytes) -> Text:
    """A text that trains and validates on the same bytes, to test what comes after the split."""
    array = np.frombuffer(content, dtype=np.uint8)
    return Text(train=array, validation=array, name="a test", files=1, sha256="")


def test_the_default_corpus_is_real_text_without_tests(library: Text) -> None:
    assert len(library.train) > 2_000_000
    assert 0.05 <= len(library.validation) / (len(library.train) + len(library.validation)) <= 0.1
    assert b"class ArgumentParser" in library.train.tobytes() + library.validation.tobytes()
    assert b"class TestArgumentParser" not in library.train.tobytes() + library.validation.tobytes()


def test_the_default_corpus_is_the_same_every_time(library: Text) -> None:
    again = standard_library_text()
    assert again.sha256 == library.sha256
    assert np.array_equal(again.validation, library.validation)


def test_files_are_dealt_whole(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index:02}.txt" for index in range(20)]
    for index, path in enumerate(paths):
        path.write_bytes(bytes([index]) * 100)
    text = text_from_files(paths)
    assert set(text.train) | set(text.validation) == set(range(20))
    assert not set(text.train) & set(text.validation)
    assert len(text.validation) == 200
    assert text.files == 20


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_files_are_cut_at_nine_tenths(tmp_path: Path, count: int) -> None:
    paths = [tmp_path / f"{index}.txt" for index in range(count)]
    for index, path in enumerate(paths):
        path.write_bytes(bytes(range(100)) + bytes([index]))
    text = text_from_files(paths)
    joined = b"".join(path.read_bytes() for path in paths)
    assert text.train.tobytes() + text.validation.tobytes() == joined
    assert len(text.validation) == len(joined) // 10


def test_the_hash_tells_texts_and_splits_apart(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"ab" * 100)
    second.write_bytes(b"ab" * 99 + b"ba")
    assert text_from_files([first]).sha256 != text_from_files([second]).sha256
    assert text_from_files([first, first]).sha256 != text_from_files([first]).sha256


@given(
    seed=st.integers(0, 2**63 - 1),
    step=st.integers(1, 10**9),
    sequences=st.integers(1, 17),
    ranks=st.integers(1, 17),
    context=st.integers(1, 30),
)
def test_the_ranks_together_read_the_batch_of_one(
    seed: int, step: int, sequences: int, ranks: int, context: int
) -> None:
    text = text_of(bytes(range(256)) * 2)
    inputs, targets = text.batch(seed=seed, step=step, sequences=sequences, context=context)
    assert inputs.shape == targets.shape == (sequences, context)
    assert np.array_equal((inputs + 1) % 256, targets)  # in this text the next byte is one more
    parts = [
        text.batch(
            seed=seed,
            step=step,
            sequences=sequences,
            context=context,
            part=balanced_slice(sequences, ranks, rank),
        )
        for rank in range(ranks)
    ]
    assert np.array_equal(np.concatenate([part[0] for part in parts]), inputs)
    assert np.array_equal(np.concatenate([part[1] for part in parts]), targets)


def test_batches_differ_by_step_and_seed_and_reach_both_ends() -> None:
    text = text_of(bytes(range(40)))
    first = text.batch(seed=1, step=1, sequences=64, context=8)[0]
    assert not np.array_equal(first, text.batch(seed=1, step=2, sequences=64, context=8)[0])
    assert not np.array_equal(first, text.batch(seed=2, step=1, sequences=64, context=8)[0])
    many, targets = text.batch(seed=1, step=1, sequences=2000, context=8)
    assert many.min() == 0
    assert targets.max() == 39


def test_batches_do_not_depend_on_the_version_of_numpy() -> None:
    text = text_of(np.arange(1 << 16, dtype=np.uint16).view(np.uint8).tobytes())
    inputs, _ = text.batch(seed=7, step=3, sequences=4, context=2)
    assert inputs.tolist() == [[158, 199], [194, 149], [161, 35], [77, 0]]


def test_validation_sequences_are_fixed_and_span_the_text() -> None:
    text = text_of(bytes(range(200)))
    inputs, targets = text.validation_batch(sequences=5, context=9)
    assert inputs[0, 0] == 0
    assert targets[-1, -1] == 199
    part = text.validation_batch(sequences=5, context=9, part=slice(2, 4))[0]
    assert np.array_equal(part, inputs[2:4])


@given(st.binary(min_size=2, max_size=300))
def test_entropies_match_their_definitions(content: bytes) -> None:
    array = np.frombuffer(content, dtype=np.uint8)
    byte = -sum(math.log(content.count(value) / len(content)) for value in content) / len(content)
    assert entropy_of_byte(array) == pytest.approx(byte, abs=1e-12)
    pairs = list(pairwise(content))
    conditional = -sum(
        math.log(pairs.count(pair) / sum(first == pair[0] for first, _ in pairs)) for pair in pairs
    ) / len(pairs)
    assert entropy_of_next_byte(array) == pytest.approx(conditional, abs=1e-12)


def test_baselines_of_a_text_that_is_known() -> None:
    baselines = text_of(bytes(range(256)) * 4).baselines()
    assert baselines["uniform"] == pytest.approx(math.log(256))
    assert baselines["H(byte)"] == pytest.approx(math.log(256))
    assert baselines["H(next byte | previous byte)"] == pytest.approx(0, abs=1e-12)


@given(count=st.integers(0, 100), parts=st.integers(1, 30))
def test_balanced_slices_cover_everything_once_and_evenly(count: int, parts: int) -> None:
    slices = [balanced_slice(count, parts, index) for index in range(parts)]
    assert [item for part in slices for item in range(count)[part]] == list(range(count))
    sizes = [part.stop - part.start for part in slices]
    assert max(sizes) - min(sizes) <= 1


def test_any_string_becomes_bytes() -> None:
    assert encode("é\n").tolist() == [0xC3, 0xA9, 0x0A]
    assert encode("").shape == (0,)


def test_misuse_is_refused_with_the_reason(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    for paths, message in [
        ([tmp_path / "missing.txt"], "there is no file .*missing.txt"),
        ([tmp_path], "is a folder"),
        ([empty], "is empty"),
        ([], "no text files"),
    ]:
        with pytest.raises(UsageError, match=message):
            text_from_files(paths)


@pytest.mark.parametrize(("size", "context"), [(1, 1), (20, 2), (100, 10), (1000, 128)])
def test_a_text_too_short_for_the_context_is_refused(tmp_path: Path, size: int, context: int) -> None:
    path = tmp_path / "short.txt"
    path.write_bytes(b"x" * size)
    text = text_from_files([path])
    with pytest.raises(UsageError, match=f"too short: of its {size} bytes"):
        text.check_context(context)
    longest = size // 10 - 1
    if longest >= 1:
        text.check_context(longest)
        text.batch(seed=0, step=1, sequences=8, context=longest)
        text.validation_batch(sequences=8, context=longest)
