"""Safetensors files of any content: what the format allows is read, everything else refused in a sentence.

What is allowed is said here once more, independently, from the format's description.
"""

import json
import math
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minigrad.errors import DTypeError, UsageError
from minigrad.nn.weight_files import WeightFiles

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
READ = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
Pairs = list[tuple[str, Any]]


def file_of(text: bytes, data: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def written(pairs: Pairs) -> bytes:
    """JSON in which a key may come twice."""
    return ("{" + ",".join(f"{json.dumps(k)}:{json.dumps(v)}" for k, v in pairs) + "}").encode()


def is_whole(pairs: Pairs, data: bytes) -> bool:
    """Whether this header is one of these data: every array of its size, end to end, to the last byte."""
    if len({name for name, _ in pairs}) != len(pairs):
        return False
    places = []
    for _, entry in pairs:
        shape, (start, stop) = entry["shape"], entry["data_offsets"]
        if entry["dtype"] not in SIZES or any(type(n) is not int or n < 0 for n in [*shape, start, stop]):
            return False
        if stop - start != math.prod(shape) * SIZES[entry["dtype"]]:
            return False
        places.append((start, stop))
        if math.prod(n or 1 for n in shape) >= 2**59:
            return False  # nothing in it, and yet beyond what an array can be
    ends = [0, *(stop for _, stop in sorted(places))]
    return [start for start, _ in sorted(places)] == ends[:-1] and ends[-1] == len(data)


HOSTILE_NUMBERS = st.sampled_from(
    [
        -1,
        -(2**63),
        2**31,
        2**32,
        2**40,
        2**62,
        2**63,
        2**63 - 1,
        2**64 - 1,
        2**64,
        2**70,
        0.5,
        None,
        "2",
        True,
    ]
)
DTYPES = st.sampled_from([*SIZES, "f32", "F33", "OBJECT", "", "F" * 1000])


@st.composite
def files(draw: st.DrawFn) -> tuple[Pairs, bytes]:
    """A whole file, and then up to two things wrong with it."""
    pairs: Pairs = []
    end = 0
    for place in range(draw(st.integers(1, 4))):
        dtype = draw(st.sampled_from(sorted(SIZES)))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        start, end = end, end + math.prod(shape) * SIZES[dtype]
        pairs.append((f"a{place}", {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}))
    data = draw(st.binary(min_size=end, max_size=end))
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(pairs) - 1))
        name, entry = pairs[place][0], json.loads(json.dumps(pairs[place][1]))
        kind = draw(st.sampled_from(["offset", "shape", "dtype", "name", "data", "order"]))
        if kind == "offset":
            wrong = st.one_of(HOSTILE_NUMBERS, st.integers(0, end + 9))
            entry["data_offsets"][draw(st.integers(0, 1))] = draw(wrong)
        elif kind == "shape":
            entry["shape"].insert(draw(st.integers(0, len(entry["shape"]))), draw(HOSTILE_NUMBERS))
        elif kind == "dtype":
            entry["dtype"] = draw(DTYPES)
        elif kind == "name":
            name = pairs[draw(st.integers(0, len(pairs) - 1))][0]
        elif kind == "data":
            data = data[: draw(st.integers(0, len(data)))] + draw(st.binary(max_size=3))
        else:
            pairs = draw(st.permutations(pairs))
            continue
        pairs[place] = (name, entry)
    return pairs, data


def refused(path: Path) -> str:
    """The sentence with which a file is refused, and no memory to speak of taken for it."""
    tracemalloc.start()
    try:
        with pytest.raises(UsageError) as caught:
            WeightFiles(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 500 + len(str(path))
    assert peak < 2**20
    return message


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files") / "some.safetensors"


def entry(shape: list[Any], start: Any, stop: Any, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@settings(max_examples=250, deadline=None)
@given(file=files())
@example(file=([("a", entry([2**63], 0, 0, "U8"))], b""))
@example(file=([("a", entry([2**32, 2**32, 4], 0, 0))], b""))  # 2^66: 0, once it has wrapped around
@example(file=([("a", entry([0, 2**63], 0, 0))], b""))
@example(file=([("a", entry([1], 0, 4)), ("a", entry([1], 0, 4))], b"\0" * 4))
@example(file=([("a", entry([1], 0, 4)), ("b", entry([1], 2, 6))], b"\0" * 6))
@example(file=([("a", entry([True], 0, 4))], b"\0" * 4))
def test_a_file_is_read_to_the_bit_or_refused_in_a_sentence(path, file):
    pairs, data = file
    path.write_bytes(file_of(written(pairs), data))
    if not is_whole(pairs, data):
        refused(path)
        return
    found = WeightFiles(path)
    assert dict(found.shapes) == {name: tuple(entry["shape"]) for name, entry in pairs}
    for name, entry in pairs:
        start, stop = entry["data_offsets"]
        if entry["dtype"] in READ:
            expected = np.frombuffer(data[start:stop], READ[entry["dtype"]]).reshape(entry["shape"])
            assert found[name].tobytes() == expected.tobytes()
            assert found[name].dtype == expected.dtype
        elif entry["dtype"] == "BF16":
            upper = np.ascontiguousarray(found[name]).reshape(-1).view("<u2")[1::2]
            lower = np.ascontiguousarray(found[name]).reshape(-1).view("<u2")[::2]
            assert upper.tobytes() == data[start:stop]
            assert not lower.any()
        else:
            with pytest.raises(DTypeError, match=f"{name} is {entry['dtype']}, expected one of F64"):
                found[name]


@settings(max_examples=120, deadline=None)
@given(
    text=st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4)),
            lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(max_size=4), inner)),
            max_leaves=6,
        )
        .filter(lambda found: not (isinstance(found, dict) and found.keys() <= {"__metadata__"}))
        .map(lambda found: json.dumps(found).encode()),
    ),
    data=st.binary(max_size=9),
    length=st.one_of(st.none(), st.integers(0, 70), st.sampled_from([2**31, 2**63 - 1, 2**63, 2**64 - 1])),
)
@example(text=b'{"\xff": 1}', data=b"", length=None)
@example(text=b"{}", data=b"", length=3)  # one more than there is
def test_any_bytes_at_all_are_refused_in_a_sentence(path, text, data, length):
    path.write_bytes(file_of(text, data, length))
    after = (text + data)[: len(text) if length is None else length]
    if after.strip() == b"{}" and len(after) == len(text + data) and length in (None, len(after)):
        assert not WeightFiles(path).shapes  # no arrays, and whole
        return
    refused(path)


def test_bfloat16_is_widened_without_loss(path):
    values = np.array(
        [[1.0, -2.5, 1.5 * 2.0**127], [np.inf, -0.0, 2.0**-133]], "float32"
    )  # the last: subnormal
    halves = (values.view("<u4") >> 16).astype("<u2")
    pairs = [("first", entry([1], 0, 2, "F16")), ("x", entry([2, 3], 2, 14, "BF16"))]
    path.write_bytes(file_of(written(pairs), b"\0\0" + halves.tobytes()))
    found = WeightFiles(path)["x"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values)
    assert np.signbit(found[1, 1])
