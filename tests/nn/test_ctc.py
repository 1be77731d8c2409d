"""CTC against brute force: every path through the frames, collapsed."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from minigrad import ops
from minigrad.errors import ShapeError, UsageError
from minigrad.nn import functional as F
from minigrad.ops import tensor
from minigrad.testing import check_gradients


def collapsed(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    """Repeats become one, then blanks go."""
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


def likelihood(log_p: np.ndarray, labels: tuple[int, ...], blank: int) -> float:
    """The sum over all classes^T paths."""
    time, classes = log_p.shape
    paths = itertools.product(range(classes), repeat=time)
    return sum(
        math.exp(sum(log_p[t, k] for t, k in enumerate(path)))
        for path in paths
        if collapsed(path, blank) == labels
    )


def loss_of(logits: np.ndarray, labels: tuple[int, ...], **options: object) -> float:
    log_p = special.log_softmax(logits, axis=1)[:, None]
    targets = np.array([labels], dtype="int64").reshape(1, len(labels))
    return F.ctc_loss(tensor(log_p), targets, [len(logits)], [len(labels)], reduction="sum", **options).item()  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), time=st.integers(1, 5), classes=st.integers(2, 4), seed=st.integers(0, 999))
def test_the_likelihood_is_the_sum_over_all_paths(data, time, classes, seed):
    blank = data.draw(st.integers(0, classes - 1))
    others = [k for k in range(classes) if k != blank]
    labels = tuple(data.draw(st.lists(st.sampled_from(others), max_size=4)))
    logits = np.random.default_rng(seed).normal(size=(time, classes))
    expected = likelihood(special.log_softmax(logits, axis=1), labels, blank)
    found = loss_of(logits, labels, blank=blank)
    if expected == 0.0:  # too short
        assert found == math.inf
    else:
        assert found == pytest.approx(-math.log(expected), rel=1e-12)


@pytest.mark.parametrize(
    ("time", "labels", "paths"),
    [
        (4, (1,), 10),
        (4, (1, 2), 15),
        (5, (1, 2), 35),
        (6, (1, 2, 1), 84),
        (5, (1, 2, 1), 28),
        (4, (1, 1), 5),
        (4, (1, 1, 2), 1),
        (4, (), 1),
    ],
)
def test_uniform_frames_count_paths(time, labels, paths):
    """Labels that differ from their neighbours: (T + U over 2U) paths; repeats need a blank between."""
    assert math.exp(-loss_of(np.zeros((time, 3)), labels)) * 3**time == pytest.approx(paths)


@pytest.mark.parametrize(
    ("labels", "loss", "gradient"),
    [
        ((1, 2), 6.590162542289449, [-0.2789, -0.3205, 0.3781, 0.2213]),
        ((1, 1), 6.450503365505974, [-0.3024, -0.2971, 0.3781, 0.2213]),
        ((2, 2, 3), 5.589658560506508, [-0.0587, 0.1746, -0.3372, 0.2213]),
    ],
)
def test_a_fixed_instance(labels, loss, gradient):
    logits = tensor(np.random.default_rng(0).normal(size=(6, 4)), requires_grad=True)
    log_p = ops.expand_dims(ops.log_softmax(logits), axis=1)
    found = F.ctc_loss(log_p, np.array([labels]), [6], [len(labels)], reduction="sum")
    found.backward()
    assert found.item() == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(logits.grad.numpy()[0], gradient, atol=6e-5)  # type: ignore[union-attr]


def batch() -> tuple[np.ndarray, np.ndarray, list[int], list[int]]:
    logits = np.random.default_rng(2).normal(size=(5, 4, 3))
    targets = np.array([[1, 2, 0], [2, 2, 0], [1, 1, 1], [0, 0, 0]])
    return logits, targets, [5, 4, 3, 2], [2, 2, 3, 0]


def test_sequences_of_a_batch_do_not_touch_each_other_and_padding_counts_for_nothing():
    logits, targets, spans, lengths = batch()
    log_p = ops.log_softmax(tensor(logits))
    together = F.ctc_loss(log_p, targets, spans, lengths, reduction="none").numpy()
    alone = [loss_of(logits[: spans[i], i], tuple(targets[i, : lengths[i]])) for i in range(4)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)
    in_one_axis = np.concatenate([targets[i, : lengths[i]] for i in range(4)])
    np.testing.assert_array_equal(
        F.ctc_loss(log_p, in_one_axis, spans, lengths, reduction="none").numpy(), together
    )
    mean = F.ctc_loss(log_p, targets, spans, lengths, zero_infinity=True).item()
    finite = np.where(np.isfinite(together), together, 0.0)
    assert mean == pytest.approx((finite / np.maximum(lengths, 1)).mean())


@pytest.mark.parametrize(("zero", "expected"), [(False, math.inf), (True, 0.0)])
def test_too_few_frames_have_an_infinite_loss_and_a_gradient_of_zeros(zero, expected):
    logits = tensor(np.zeros((3, 1, 3)), requires_grad=True)
    loss = F.ctc_loss(ops.log_softmax(logits), np.array([[1, 1, 2]]), [3], [3], zero_infinity=zero)
    assert loss.item() == expected
    loss.backward()
    np.testing.assert_array_equal(logits.grad.numpy(), 0.0)  # type: ignore[union-attr]


def test_frames_that_are_sure_are_no_trouble():
    """Probabilities of 0 in every frame but on the one path: a loss of 0, and no NaN."""
    path = [1, 0, 2, 2]
    log_p = np.full((4, 1, 3), -np.inf)
    log_p[np.arange(4), 0, path] = 0.0
    leaf = tensor(np.maximum(log_p, -1e4), requires_grad=True)
    loss = F.ctc_loss(leaf, np.array([[1, 2]]), [4], [2], reduction="sum")
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert np.isfinite(leaf.grad.numpy()).all()  # type: ignore[union-attr]


def test_derivatives_by_both_walks_to_second_order():
    logits, targets, spans, lengths = batch()
    check_gradients(
        lambda x: F.ctc_loss(ops.log_softmax(x), targets[:2], spans[:2], lengths[:2], reduction="none"),
        logits[:, :2],
    )


@pytest.mark.parametrize(
    ("targets", "spans", "lengths", "words"),
    [
        ([[1, 0]], [3], [2], ["without the blank 0"]),
        ([[1, 3]], [3], [2], ["classes 0 ... 2"]),
        ([[1, 2]], [4], [2], ["[4]", "3 steps"]),
        ([[1, 2]], [3], [3], ["[3]", "(1, 2)"]),
        ([[1, 2]], [0], [2], ["[0]"]),
        ([1, 2, 1], [3], [2], ["(2,)", "(3,)"]),
        ([[1, 2]], [3, 3], [2], ["1 sequences", "(2,)"]),
    ],
)
def test_what_does_not_fit_is_refused(targets, spans, lengths, words):
    with pytest.raises((UsageError, ShapeError)) as caught:
        F.ctc_loss(tensor(np.zeros((3, 1, 3))), np.array(targets), spans, lengths)
    assert all(word in str(caught.value) for word in words), str(caught.value)
