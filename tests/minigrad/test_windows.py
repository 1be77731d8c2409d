"""Convolution, pooling and resampling against explicit loops, and what they say when they are misused."""

from __future__ import annotations

import itertools
import math
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.backend_windows import window_spans
from minigrad.errors import DTypeError, ShapeError, UsageError
from minigrad.ops import convolution_blocks, depthwise
from minigrad.testing import check_gradients
from tests.minigrad.examples import spread
from tests.minigrad.examples_windows import convolved
from tests.minigrad.test_fused import same

CASES: list[Any] = [  # x, weight, stride, padding, dilation, groups
    ((3, 2, 5, 9), (4, 2, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((3, 4, 6, 5), (6, 4, 3, 3), (2, 2), (1, 1), (1, 1), 1),
    ((2, 4, 7, 6), (6, 2, 2, 3), (2, 1), (0, 2), (1, 2), 2),
    ((2, 3, 4, 4), (6, 1, 3, 3), (1, 1), (1, 1), (1, 1), 3),
    ((3, 3, 6, 5), (3, 1, 3, 2), (2, 1), (1, 1), (1, 2), 3),
    ((2, 3, 4, 5), (2, 3, 1, 1), (1, 1), (0, 0), (1, 1), 1),
    ((2, 3, 4, 5), (2, 3, 1, 1), (2, 2), (1, 0), (1, 1), 1),
    ((0, 3, 4, 5), (2, 3, 2, 2), (1, 1), (0, 0), (1, 1), 1),
]


def arguments(case: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
    x, weight, stride, padding, dilation, groups = case
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return spread(*x), spread(*weight), spread(weight[0]), options


@pytest.mark.parametrize("block", [1, 1 << 18])
@pytest.mark.parametrize("case", CASES)
def test_conv2d(case: Any, block: int) -> None:
    x, w, b, options = arguments(case)
    geometry = (w.shape[2:], options["stride"], options["dilation"])
    sides = [(p, p) for p in options["padding"]]
    with mock.patch.object(convolution_blocks, "BLOCK", block), mock.patch.object(depthwise, "BLOCK", block):
        for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-5)):
            same(lambda *t: mg.conv2d(*t, **options), x, w, b, dtype=dtype, tolerance=tolerance)
        same(lambda *t: mg.conv2d(*t, **options), x, w, None)
        for needs in itertools.product([False, True], repeat=3):
            same(lambda *t: mg.conv2d(*t, **options), x, w, b, needs=list(needs))
        found = mg.conv2d(mg.tensor(x), mg.tensor(w), mg.tensor(b), **options)
    right = convolved(x, w, b, geometry, sides, options["groups"])
    np.testing.assert_allclose(found.numpy(), right, atol=1e-12)


@given(st.data())
def test_the_gradient_of_any_convolution_is_its_composition_s(data: st.DataObject) -> None:
    def pair(low: int, high: int) -> tuple[int, int]:
        return data.draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    groups, inner, outer = (data.draw(st.integers(1, 3)) for _ in range(3))
    kernel, stride, padding, dilation = pair(1, 4), pair(1, 4), pair(0, 3), pair(1, 2)
    room = [d * (k - 1) + 1 - 2 * p for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = tuple(data.draw(st.integers(max(1, n), max(1, n) + 5)) for n in room)
    options: Any = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    x, w = spread(2, groups * inner, *size), spread(groups * outer, inner, *kernel)
    same(lambda *t: mg.conv2d(*t, **options), x, w, spread(groups * outer), tolerance=1e-10)


@given(*[st.integers(1, 9)] * 4, st.integers(0, 4))
def test_spans_meet_what_windows_meet(
    size: int, kernel: int, stride: int, dilation: int, before: int
) -> None:
    count = (size + 2 * before - dilation * (kernel - 1) - 1) // stride + 1
    assume(count >= 1)
    spans, complete = window_spans(size, count, kernel, stride, dilation, before)
    met = {
        (window, place, entry)
        for place, windows, entries, _ in spans
        for window, entry in zip(range(count)[windows], range(size)[entries], strict=True)
    }
    every = itertools.product(range(count), range(kernel))
    entries = [(w, p, w * stride + p * dilation - before) for w, p in every]
    assert met == {one for one in entries if 0 <= one[2] < size}
    first = [entry for *_, entries, fills in spans if fills for entry in range(size)[entries]]
    assert len(first) == len(set(first))
    assert (set(first) == set(range(size))) is complete
    assert [fills for *_, fills in spans] == sorted((fills for *_, fills in spans), reverse=True)
    for *_, found, fills in spans:  # what does not fill adds to what is filled whole, or not at all
        assert fills or {*range(size)[found]} <= {*first} or not {*range(size)[found]} & {*first}


def test_channels_that_lie_last_in_memory_stay_so() -> None:
    x = mg.tensor(np.moveaxis(spread(2, 5, 6, 4), -1, 1))
    w = mg.tensor(spread(3, 4, 3, 3))
    y = mg.relu(mg.conv2d(x, w))
    assert np.moveaxis(y.numpy(), 1, -1).flags.c_contiguous
    same(mg.conv2d, np.moveaxis(spread(2, 5, 6, 4), -1, 1), spread(3, 4, 2, 2), None)


def test_the_gradient_of_a_weight_goes_into_its_buffer() -> None:
    for inner in (1, 5):
        x, w = spread(2, inner, 4, 4), spread(3, inner, 2, 2)
        plain = mg.tensor(w, requires_grad=True)
        mg.conv2d(mg.tensor(x), plain).sum().backward()
        assert plain.grad is not None
        right = plain.grad.numpy()
        leaf = mg.tensor(w, requires_grad=True)
        buffer = np.full(w.shape, np.nan)
        leaf.grad_buffer = buffer
        mg.conv2d(mg.tensor(x), leaf).sum().backward()
        np.testing.assert_allclose(buffer, right, rtol=1e-12)


@pytest.mark.parametrize(("size", "dilation", "kernel"), [(5, 1, 3), (6, 2, 4), (4, 1, 2), (3, 1, 1)])
def test_padding_by_name(size: int, dilation: int, kernel: int) -> None:
    x, w = mg.tensor(spread(1, 1, size)), mg.tensor(spread(1, 1, kernel))
    span = dilation * (kernel - 1)
    padded = mg.tensor(np.pad(x.numpy(), ((0, 0), (0, 0), (span // 2, span - span // 2))))
    found = mg.conv1d(x, w, padding="same", dilation=dilation)
    assert found.shape == x.shape
    np.testing.assert_array_equal(found.numpy(), mg.conv1d(padded, w, dilation=dilation).numpy())
    if span < size:
        valid = mg.conv1d(x, w, padding="valid", dilation=dilation)
        np.testing.assert_array_equal(valid.numpy(), mg.conv1d(x, w, dilation=dilation).numpy())


@pytest.mark.parametrize("case", CASES)
def test_conv_transpose2d_is_the_transpose(case: Any) -> None:
    """⟨conv(x), y⟩ = ⟨x, conv_transpose(y)⟩, with the output padding that restores the shape of x."""
    x, w, _, options = arguments(case)
    y = mg.conv2d(mg.tensor(x), mg.tensor(w), **options)
    v = spread(*y.shape)
    bare = mg.conv_transpose2d(mg.tensor(v), mg.tensor(w), **options)
    more = tuple(n - m for n, m in zip(x.shape[2:], bare.shape[2:], strict=True))
    back = mg.conv_transpose2d(mg.tensor(v), mg.tensor(w), output_padding=more, **options)
    assert back.shape == x.shape
    np.testing.assert_allclose((y.numpy() * v).sum(), (back.numpy() * x).sum(), rtol=1e-10, atol=1e-12)


def test_conv_transpose_of_one_axis_and_its_gradients() -> None:
    x, w, b = spread(2, 2, 3), spread(2, 1, 3), spread(2)

    def f(*t: Any) -> mg.Tensor:
        return mg.conv_transpose1d(*t, stride=2, padding=1, output_padding=1, groups=2)

    check_gradients(f, x, w, b)
    expected = np.zeros((2, 2, 8))
    for i, k in itertools.product(range(3), range(3)):
        expected[..., 2 * i + k] += x[..., i] * w[:, 0, k]
    np.testing.assert_allclose(f(*map(mg.tensor, (x, w, b))).numpy(), expected[..., 1:7] + b[:, None])


STRIDES: list[Any] = [None, (1, 1), (2, 3)]
POOLS: list[Any] = list(itertools.product([(2, 2), (3, 2)], STRIDES, [(0, 0), (1, 1)], [False, True]))


def pooled(x: np.ndarray, kernel: Any, stride: Any, padding: Any, ceil: bool, one: Any) -> np.ndarray:
    """By loops: `one(entries, count)` of each window's entries of x, and of how many with padding."""
    stride = stride or kernel
    counts = []
    for n, k, s, p in zip(x.shape[2:], kernel, stride, padding, strict=True):
        count = (math.ceil if ceil else math.floor)((n + 2 * p - k) / s) + 1
        counts.append(count - 1 if ceil and (count - 1) * s >= n + p else count)
    out = np.zeros((*x.shape[:2], *counts))
    for window in np.ndindex(*counts):
        starts = [o * s - p for o, s, p in zip(window, stride, padding, strict=True)]
        inside: Any = tuple(slice(max(a, 0), a + k) for a, k in zip(starts, kernel, strict=True))
        spans = zip(starts, kernel, x.shape[2:], padding, strict=True)
        padded = math.prod(min(a + k, n + p) - a for a, k, n, p in spans)
        out[(..., *window)] = one(x[(..., *inside)], padded)
    return out


@pytest.mark.parametrize(("kernel", "stride", "padding", "ceil"), POOLS)
def test_pooling(kernel: Any, stride: Any, padding: Any, ceil: bool) -> None:
    x = spread(2, 2, 5, 6)
    options: Any = {"stride": stride, "padding": padding, "ceil_mode": ceil}
    found = mg.max_pool2d(mg.tensor(x), kernel, **options).numpy()
    np.testing.assert_array_equal(
        found, pooled(x, kernel, stride, padding, ceil, lambda a, _: a.max(axis=(2, 3)))
    )
    same(lambda t: mg.max_pool2d(t, kernel, **options), x)
    means = {
        None: lambda a, padded: a.sum(axis=(2, 3)) / padded,
        False: lambda a, _: a.mean(axis=(2, 3)),
        7: lambda a, _: a.sum(axis=(2, 3)) / 7,
    }
    for how, one in means.items():
        more: Any = {None: {}, False: {"count_include_pad": False}, 7: {"divisor_override": 7}}[how]
        found = mg.avg_pool2d(mg.tensor(x), kernel, **options, **more).numpy()
        np.testing.assert_allclose(found, pooled(x, kernel, stride, padding, ceil, one), rtol=1e-12)


def test_pooling_of_one_axis_ties_and_numbers_that_are_none() -> None:
    x = spread(2, 3, 7)
    flat = mg.max_pool1d(mg.tensor(x), 3, stride=2, dilation=2)
    assert flat.numpy()[1, 2, 1] == max(x[1, 2, 2], x[1, 2, 4], x[1, 2, 6])
    np.testing.assert_allclose(
        mg.avg_pool1d(mg.tensor(x), 2).numpy(), (x[..., 0:6:2] + x[..., 1:6:2]) / 2, rtol=1e-14
    )
    check_gradients(lambda t: mg.avg_pool1d(t, 3, stride=2, padding=1, count_include_pad=False), x)
    tied = mg.tensor([[[1.0, 1.0, 0.0, 1.0]]], requires_grad=True)
    mg.max_pool1d(tied, 4).sum().backward()
    assert tied.grad is not None
    np.testing.assert_allclose(tied.grad.numpy(), [[[1 / 3, 1 / 3, 0, 1 / 3]]], rtol=1e-6)
    spoilt = mg.max_pool1d(mg.tensor([[[np.nan, 1.0, 2.0, np.inf]]]), 2).numpy()
    np.testing.assert_array_equal(spoilt, [[[np.nan, np.inf]]])
    for f in (mg.max_pool1d, mg.avg_pool1d):
        assert f(mg.zeros((0, 3, 4)), 2).shape == (0, 3, 2)
        assert f(mg.ones((1, 3, 4)), 2).dtype == np.float32


@pytest.mark.parametrize("size", [1, (5, 2), (3, 4), (None, 4), (2, 7)])
def test_adaptive_pooling(size: Any) -> None:
    x = spread(2, 2, 5, 6)
    sizes = [n if o is None else o for o, n in zip((size, size) if size == 1 else size, (5, 6), strict=True)]
    for f, reduce in ((mg.adaptive_avg_pool2d, np.mean), (mg.adaptive_max_pool2d, np.max)):
        expected = np.zeros((2, 2, *sizes))
        for i, j in np.ndindex(*sizes):
            rows, columns = (
                slice(k * n // o, math.ceil((k + 1) * n / o))
                for k, n, o in zip((i, j), (5, 6), sizes, strict=True)
            )
            expected[..., i, j] = reduce(x[..., rows, columns], axis=(2, 3))
        np.testing.assert_allclose(f(mg.tensor(x), size).numpy(), expected, rtol=1e-13)
        check_gradients(lambda t, f=f: f(t, size), x)
    line = mg.adaptive_avg_pool1d(mg.tensor(x[0]), 4).numpy()
    np.testing.assert_allclose(line[..., 1], x[0][..., 1:3].mean(-1), rtol=1e-13)


@given(st.integers(0, 2), st.integers(1, 7), st.integers(1, 7), st.integers(1, 7), st.integers(1, 7))
def test_adaptive_pooling_is_its_composition(
    batch: int, height: int, width: int, rows: int, columns: int
) -> None:
    x = np.random.default_rng(0).integers(0, 3, (batch, 2, height, width)) * 1.0  # with ties
    results = []
    for enabled in (True, False):
        t = mg.tensor(x, requires_grad=True)
        with mg.fused_operations(enabled):
            y = mg.adaptive_max_pool2d(t, (rows, columns))
            y.backward(np.cos(np.arange(y.size)).reshape(y.shape))
        assert t.grad is not None
        results.append((y.numpy(), t.grad.numpy()))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13)


# ----- Resampling ---------------------------------------------------------------------------------


def between(x: np.ndarray, places: Any) -> np.ndarray:
    """x, an image, at (row, column) places by the four neighbours, the outermost continued."""
    out = np.zeros((*x.shape[:2], len(places[0]), len(places[1])))
    for (i, row), (j, column) in itertools.product(*map(enumerate, places)):
        r, c = (min(max(p, 0.0), n - 1.0) for p, n in zip((row, column), x.shape[2:], strict=True))
        for a, b in itertools.product((0, 1), repeat=2):
            share = (1 - abs(r - int(r) - a)) * (1 - abs(c - int(c) - b))
            entry = x[..., min(int(r) + a, x.shape[2] - 1), min(int(c) + b, x.shape[3] - 1)]
            out[..., i, j] += share * entry
    return out


@pytest.mark.parametrize("size", [(6, 8), (2, 9), (1, 1), (3, 4)])
def test_interpolation(size: tuple[int, int]) -> None:
    x = spread(2, 1, 3, 4)
    rows, columns = ([i * n // o for i in range(o)] for n, o in zip((3, 4), size, strict=True))
    nearest = x[:, :, rows][..., columns]
    np.testing.assert_array_equal(mg.interpolate(mg.tensor(x), size).numpy(), nearest)
    check_gradients(lambda t: mg.interpolate(t, size), x)
    for align in (False, True):
        places = [
            [i * (n - 1) / max(o - 1, 1) if align else (i + 0.5) * n / o - 0.5 for i in range(o)]
            for n, o in zip((3, 4), size, strict=True)
        ]

        def f(t: mg.Tensor, align: bool = align) -> mg.Tensor:
            return mg.interpolate(t, size, mode="bilinear", align_corners=align)

        np.testing.assert_allclose(f(mg.tensor(x)).numpy(), between(x, places), rtol=1e-12, atol=1e-14)
        check_gradients(f, x)


def test_interpolation_by_a_factor_and_of_one_axis() -> None:
    x = spread(1, 2, 5)
    double = mg.interpolate(mg.tensor(x), scale_factor=2).numpy()
    np.testing.assert_array_equal(double, np.repeat(x, 2, axis=-1))
    np.testing.assert_array_equal(mg.interpolate(mg.tensor(x), scale_factor=0.5).numpy(), x[..., [0, 2]])
    line = mg.interpolate(mg.tensor(x), scale_factor=1.5, mode="linear")
    places = [min(max((i + 0.5) / 1.5 - 0.5, 0), 4) for i in range(7)]
    right = [np.interp(places, range(5), channel) for channel in x[0]]
    np.testing.assert_allclose(line.numpy()[0], right, rtol=1e-12)
    assert mg.interpolate(mg.ones((0, 2, 3)), 6, mode="linear").dtype == np.float32


@pytest.mark.parametrize("align", [False, True])
def test_grids_and_samples(align: bool) -> None:
    x, theta = spread(2, 2, 3, 4), spread(2, 2, 3) / 3
    identity = mg.tensor(np.array([[[1.0, 0, 0], [0, 1, 0]]] * 2))
    grid = mg.affine_grid(identity, x.shape, align_corners=align)
    same_again = mg.grid_sample(mg.tensor(x), grid, align_corners=align)
    np.testing.assert_allclose(same_again.numpy(), x, atol=1e-14)
    check_gradients(lambda t: mg.affine_grid(t, (2, 1, 2, 3), align_corners=align), theta)
    places = np.array([[-1.7, -0.31], [0.05, 0.67], [1.4, 0.9], [0.43, -2.9]]).reshape(1, 2, 2, 2)
    ends = [((places[0, ..., k] + 1) * n - 1) / 2 for k, n in ((1, 3), (0, 4))]
    if align:
        ends = [(places[0, ..., k] + 1) * (n - 1) / 2 for k, n in ((1, 3), (0, 4))]
    wide = np.pad(x, ((0, 0), (0, 0), (9, 9), (9, 9)))
    for i, j in np.ndindex(2, 2):
        at = [[ends[0][i, j]], [ends[1][i, j]]]
        zeros = between(wide[:1], [[at[0][0] + 9], [at[1][0] + 9]])[..., 0, 0]
        border = between(x[:1], at)[..., 0, 0]
        for mode, expected in (("zeros", zeros), ("border", border)):
            found = mg.grid_sample(
                mg.tensor(x[:1]), mg.tensor(places), padding_mode=mode, align_corners=align
            ).numpy()
            np.testing.assert_allclose(found[..., i, j], expected, rtol=1e-12, atol=1e-12)
    for mode, padding in itertools.product(("bilinear", "nearest"), ("zeros", "border")):

        def f(x: Any, g: Any, mode: str = mode, padding: str = padding) -> mg.Tensor:
            return mg.grid_sample(x, g, mode=mode, padding_mode=padding, align_corners=align)

        check_gradients(f, x[:1], places)
    lost = np.array([np.nan, np.inf, -np.inf, 0.0]).reshape(1, 1, 2, 2)
    assert not mg.grid_sample(mg.tensor(x[:1]), mg.tensor(lost)).numpy().any()


# ----- Cost and misuse ----------------------------------------------------------------------------


def test_shapes_only_count_what_a_convolution_costs() -> None:
    x, w = (mg.ones(s, device="shapes").requires_grad_() for s in ((8, 16, 12, 12), (32, 16, 3, 3)))
    product = 2 * 8 * 12 * 12 * 32 * 16 * 9

    def step() -> None:
        y = mg.conv2d(x, w, padding=1)
        y.backward(mg.ones(y.shape, device="shapes"))

    assert mg.cost(lambda: mg.conv2d(x, w, padding=1)).flops == product
    assert 3 * product <= mg.cost(step).flops < 3.1 * product
    for f in (
        lambda: mg.max_pool2d(x, 2, padding=1),
        lambda: mg.adaptive_avg_pool2d(x, 5),
        lambda: mg.conv_transpose2d(x, mg.ones((16, 2, 3, 3), device="shapes"), stride=2),
        lambda: mg.interpolate(x, (7, 30), mode="bilinear"),
        lambda: mg.grid_sample(x, mg.ones((8, 3, 4, 2), device="shapes")),
    ):
        f().sum().backward()


def test_misuse_has_its_sentence() -> None:
    x, w = mg.ones((2, 4, 5, 5)), mg.ones((6, 4, 3, 3))
    cases: list[tuple[type[Exception], str, Any]] = [
        (ShapeError, r"conv2d: expected x of shape \(N, C, H, W\), got \(4, 5", lambda: mg.conv2d(x[0], w)),
        (ShapeError, r"conv1d: expected x of shape \(N, C, L\)", lambda: mg.conv1d(x, w)),
        (ShapeError, r"weight \(out, in / groups, kh, kw\).*got \(6, 4", lambda: mg.conv2d(x, w[..., 0])),
        (ShapeError, r"\(2, 3, 5, 5\).*\(6, 4, 3, 3\).*takes 4 channels", lambda: mg.conv2d(x[:, :3], w)),
        (ShapeError, "groups must divide 6", lambda: mg.conv2d(x, w[:, :1], groups=4)),
        (ShapeError, r"bias of shape \(6,\), got \(4,\)", lambda: mg.conv2d(x, w, mg.ones(4))),
        (ShapeError, r"kernel \(3, 3\) with dilation \(4, 4\) is", lambda: mg.conv2d(x, w, dilation=4)),
        (UsageError, "stride is 0; expected a whole number from 1", lambda: mg.conv2d(x, w, stride=0)),
        (UsageError, r"padding is \(1,\); .* or 2 of them", lambda: mg.conv2d(x, w, padding=(1,))),
        (UsageError, '"same" needs stride 1', lambda: mg.conv2d(x, w, stride=2, padding="same")),
        (UsageError, "not 'full'", lambda: mg.conv2d(x, w, padding="full")),
        (UsageError, "groups is 0", lambda: mg.conv2d(x, w, groups=0)),
        (DTypeError, "floating-point numbers, got int64", lambda: mg.conv2d(np.ones((1, 4, 5, 5), int), w)),
        (ShapeError, "takes 6 channels", lambda: mg.conv_transpose2d(x, w)),
        (UsageError, r"output_padding \(2, 2\)", lambda: mg.conv_transpose2d(x, w[:4], output_padding=2)),
        (ShapeError, "leaves nothing", lambda: mg.conv_transpose2d(x, w[:4], padding=4)),
        (UsageError, "more than half of kernel_size", lambda: mg.max_pool2d(x, 2, padding=2)),
        (ShapeError, "larger than the padded input", lambda: mg.avg_pool2d(x, 6)),
        (UsageError, "divisor_override is 0", lambda: mg.avg_pool2d(x, 2, divisor_override=0)),
        (UsageError, r"output_size is \(0, 0\)", lambda: mg.adaptive_avg_pool2d(x, 0)),
        (UsageError, "output_size", lambda: mg.adaptive_max_pool2d(x, (1, 2, 3))),
        (UsageError, '"nearest" or "bilinear" for 4', lambda: mg.interpolate(x, 3, mode="linear")),
        (UsageError, "align_corners", lambda: mg.interpolate(x, 3, align_corners=True)),
        (UsageError, "size or scale_factor", lambda: mg.interpolate(x)),
        (UsageError, "at least one entry", lambda: mg.interpolate(x, scale_factor=0.1)),
        (ShapeError, "without entries", lambda: mg.interpolate(x[..., :0], 3)),
        (ShapeError, r"theta \(2, 2, 3\), got \(2, 3\)", lambda: mg.affine_grid(mg.ones((2, 3)), x.shape)),
        (ShapeError, r"grid \(2, H, W, 2\), got \(1,\)", lambda: mg.grid_sample(x, mg.ones(1))),
        (UsageError, "not 'cubic'", lambda: mg.grid_sample(x, mg.ones((2, 1, 1, 2)), mode="cubic")),
        (UsageError, "not 'wrap'", lambda: mg.grid_sample(x, mg.ones((2, 1, 1, 2)), padding_mode="wrap")),
        (ShapeError, "without entries", lambda: mg.grid_sample(x[:, :, :0], mg.ones((2, 1, 1, 2)))),
        (ShapeError, "no window", lambda: mg.cut_windows(x, ((6, 1), (1, 1), (1, 1)))),
        (ShapeError, "has windows", lambda: mg.add_windows(x, ((2,), (1,), (1,)), (5,))),
    ]
    for error, sentence, call in cases:
        with pytest.raises(error, match=sentence):
            call()
