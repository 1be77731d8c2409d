"""Losses against closed forms and SciPy, by both walks, in all reductions; what does not fit is refused."""

import copy
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from scipy.spatial import distance

from minigrad import ops
from minigrad.errors import DTypeError, MinigradError, ShapeError
from minigrad.nn import functional as F
from minigrad.nn import layers as L
from minigrad.nn.summary import shape_only
from minigrad.ops import tensor
from minigrad.testing import check_gradients
from tests.minigrad.strict import registered

random = np.random.default_rng(11)
X, Y = random.normal(size=(2, 4, 5)) * 2.0
P = random.uniform(0.05, 0.95, (4, 5))
Q = random.dirichlet(np.ones(5), 4)
CLASSES = np.array([0, 4, 2, 2])
LOG_P = special.log_softmax(X, axis=1)
KL = special.rel_entr(Q, np.exp(LOG_P))
WEIGHT = random.uniform(0.5, 2.0, 5)
NEAR, FAR = (np.array([distance.minkowski(x, z, 3) for x, z in zip(X, Z, strict=True)]) for Z in (Y, P))
COSINES = np.array([distance.cosine(x, y) for x, y in zip(X, Y, strict=True)])
SIGNS = np.array([1, -1, 1, -1])


def each(*terms: float) -> np.ndarray:
    return np.array(terms)


def smoothed(epsilon: float) -> np.ndarray:
    target = np.full((4, 5), epsilon / 5)
    target[np.arange(4), CLASSES] += 1 - epsilon
    return target


# Of each loss: its module, inputs, and the losses one by one as somebody else computes them.
EXPECTED = {
    "cross entropy": (L.CrossEntropyLoss(), (X, CLASSES), -LOG_P[np.arange(4), CLASSES]),
    "smoothed": (L.CrossEntropyLoss(label_smoothing=0.3), (X, CLASSES), -(smoothed(0.3) * LOG_P).sum(1)),
    "probabilities": (L.CrossEntropyLoss(), (X, Q), (special.entr(Q) + KL).sum(1)),
    "NLL": (L.NLLLoss(), (LOG_P, CLASSES), -LOG_P[np.arange(4), CLASSES]),
    "BCE": (L.BCELoss(), (P, Q), -special.xlogy(Q, P) - special.xlog1py(1 - Q, -P)),
    "BCE with logits": (L.BCEWithLogitsLoss(), (X, Q), np.logaddexp(0, X) - Q * X),
    "BCE with pos_weight": (
        L.BCEWithLogitsLoss(pos_weight=WEIGHT),
        (X, Q),
        WEIGHT * Q * np.logaddexp(0, -X) + (1 - Q) * np.logaddexp(0, X),
    ),
    "MSE": (L.MSELoss(), (X, Y), (X - Y) ** 2),
    "L1": (L.L1Loss(), (X, Y), np.abs(X - Y)),
    "smooth L1": (L.SmoothL1Loss(beta=0.7), (X, Y), special.huber(0.7, X - Y) / 0.7),
    "Huber": (L.HuberLoss(delta=1.3), (X, Y), special.huber(1.3, X - Y)),
    "KL": (L.KLDivLoss(), (LOG_P, Q), KL),
    "KL of logarithms": (L.KLDivLoss(log_target=True), (LOG_P, np.log(Q)), KL),
    "cosine": (
        L.CosineEmbeddingLoss(margin=-0.2),
        (X, Y, SIGNS * [1, 1, 1, 0]),  # 0 is neither
        np.where(SIGNS > 0, COSINES, np.maximum(0.0, 1.2 - COSINES)) * [1, 1, 1, 0],
    ),
    "ranking": (
        L.MarginRankingLoss(margin=0.5),
        (X[:, 0], Y[:, 0], SIGNS),
        np.maximum(0, 0.5 - SIGNS * (X - Y)[:, 0]),
    ),
    "triplet": (
        L.TripletMarginLoss(margin=3.0, p=3, eps=0.0),
        (X, Y, P),
        np.maximum(0.0, NEAR - FAR + 3.0),
    ),
    "focal": (
        L.FocalLoss(alpha=0.25, gamma=2.0),
        (X, (Q > 0.2).astype(float)),
        np.where(
            Q > 0.2,
            0.25 * special.expit(-X) ** 2 * np.logaddexp(0, -X),
            0.75 * special.expit(X) ** 2 * np.logaddexp(0, X),
        ),
    ),
    "distillation": (
        L.DistillationLoss(temperature=3.0, alpha=0.25),
        (X, Y, CLASSES),
        0.25 * 9 * special.rel_entr(special.softmax(Y / 3, 1), special.softmax(X / 3, 1)).sum(1)
        - 0.75 * LOG_P[np.arange(4), CLASSES],
    ),
}
everything = pytest.mark.parametrize("name", sorted(EXPECTED))


@everything
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_values_are_what_others_compute(name, reduction):
    loss, inputs, expected = EXPECTED[name]
    loss.reduction = reduction
    wanted = {"none": expected, "sum": expected.sum(), "mean": expected.mean()}[reduction]
    found = loss.to(dtype="float64")(*map(tensor, inputs)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-13)


@everything
def test_derivatives_by_both_walks_to_second_order(name):
    loss, inputs, _ = EXPECTED[name]
    loss.reduction = "none"
    count = learned(name)
    rest = inputs[count:]
    check_gradients(lambda *x: loss(*x, *map(tensor, rest)), *inputs[:count], tolerance=1e-5)


def learned(name: str) -> int:
    """How many of a loss's inputs derivatives go to."""
    inputs = EXPECTED[name][1]
    return 1 if inputs[1].dtype.kind == "i" or name in ("focal", "distillation") else min(len(inputs), 2)


@everything
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_derivatives_of_a_sample_alone(name, reduction):
    loss, inputs, _ = EXPECTED[name]
    loss.reduction = reduction
    alone = [x[1:2] for x in inputs]
    rest = alone[learned(name) :]
    check_gradients(lambda *x: loss(*x, *map(tensor, rest)), *alone[: learned(name)], order=1, tolerance=1e-5)


@everything
def test_an_empty_batch_sums_to_nothing(name):
    loss, inputs, _ = EXPECTED[name]
    loss.reduction = "sum"
    leaves = [tensor(x[:0], requires_grad=place < learned(name)) for place, x in enumerate(inputs)]
    total = loss(*leaves)
    assert total.item() == 0.0
    total.backward()
    for leaf in leaves[: learned(name)]:
        assert leaf.grad is not None
        assert leaf.grad.shape == leaf.shape


@everything
def test_a_sample_alone_is_a_sample_of_many(name):
    loss, inputs, _ = EXPECTED[name]
    loss.reduction = "none"
    whole = loss(*map(tensor, inputs)).numpy()
    for row in range(len(whole)):
        one = loss(*(tensor(x[row : row + 1]) for x in inputs)).numpy()
        np.testing.assert_allclose(one, whole[row : row + 1], rtol=1e-12, atol=1e-13)


@everything
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_every_backend_computes_them(name, reduction):
    """Arrays that know the array API standard and no more, arrays without values, and float32."""
    loss, inputs, _ = EXPECTED[name]
    loss = copy.deepcopy(loss).to(dtype="float64")
    loss.reduction = reduction
    expected = loss(*map(tensor, inputs))
    shapes = shape_only(loss)(*(tensor(x, device="shapes") for x in inputs))
    assert (shapes.shape, shapes.dtype) == (expected.shape, expected.dtype)
    short = [x.astype("float32") if x.dtype.kind == "f" else x for x in inputs]
    single = copy.deepcopy(loss).to(dtype="float32")(*map(tensor, short))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single.numpy(), expected.numpy(), rtol=2e-4, atol=1e-5)
    if name in ("cross entropy", "distillation"):
        return  # the fused operation takes entries by pairs of numbers, which the standard has not
    with registered():
        first = tensor(inputs[0], device="strict", requires_grad=True)
        found = copy.deepcopy(loss).to(device="strict")(
            first, *(tensor(x, device="strict") for x in inputs[1:])
        )
        assert found.device == "strict"
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-11, atol=1e-12)
        found.sum().backward()
        assert first.grad is not None
        assert first.grad.device == "strict"


def test_kl_batchmean_is_the_mean_of_divergences():
    found = L.KLDivLoss(reduction="batchmean")(tensor(LOG_P), tensor(Q)).item()
    assert found == pytest.approx(
        np.mean([stats.entropy(q, np.exp(p)) for q, p in zip(Q, LOG_P, strict=True)])
    )


# ----- Cross-entropy's options ------------------------------------------------------------------------


def test_the_least_loss_of_smoothed_labels_is_their_entropy():
    """ε = 0.1 of ten classes: 0.500288 nats, reached where the prediction is the smoothed label itself."""
    label = np.full(10, 0.01)
    label[3] += 0.9
    loss = F.cross_entropy(tensor(np.log(label)[None]), np.array([3]), label_smoothing=0.1)
    assert loss.item() == pytest.approx(0.500288, abs=1e-6)
    assert loss.item() == pytest.approx(stats.entropy(label))


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), places=st.sampled_from([(), (3,), (2, 2)]))
def test_ignored_and_weighted_targets_count_what_they_should(seed, places, weighted, smoothing, reduction):
    """Against a loop: ignored targets are absent, and the mean is over the weights of the others."""
    source = np.random.default_rng(seed)
    x = source.normal(size=(3, 4, *places))
    target = source.integers(0, 4, (3, *places))
    target.flat[0] = -1
    weight = source.uniform(0.5, 2.0, 4) if weighted else np.ones(4)
    losses, total = np.zeros(target.shape), np.zeros(())
    for place in np.ndindex(target.shape):
        if target[place] == -1:
            continue
        log_p = special.log_softmax(x[(place[0], slice(None), *place[1:])])
        wanted = np.full(4, smoothing / 4)
        wanted[target[place]] += 1 - smoothing
        losses[place] = -(weight * wanted * log_p).sum()
        total += weight[target[place]]
    expected = {"none": losses, "sum": losses.sum(), "mean": losses.sum() / total}[reduction]
    found = F.cross_entropy(
        tensor(x),
        target,
        tensor(weight) if weighted else None,
        ignore_index=-1,
        reduction=reduction,
        label_smoothing=smoothing,
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-13)


def test_weights_are_buffers_that_move_and_are_saved():
    loss = L.CrossEntropyLoss(WEIGHT)
    assert list(loss.state_dict()) == ["weight"]
    assert loss.to(dtype="float32").weight.dtype == np.float32


# ----- Extremes ---------------------------------------------------------------------------------------


def test_huge_logits_neither_overflow_nor_round_to_nothing():
    x = tensor([1000.0, -1000.0, 40.0], dtype="float64", requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(x, tensor([0.0, 1.0, 1.0]), reduction="none")
    np.testing.assert_allclose(loss.numpy(), [1000.0, 1000.0, math.log1p(math.exp(-40.0))], rtol=1e-12)
    loss.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [1.0, -1.0, -special.expit(-40.0)], rtol=1e-12)  # type: ignore[union-attr]


def test_probabilities_of_0_and_1_cost_at_most_100_and_make_no_nan():
    p = tensor([0.0, 1.0, 0.0, 1.0], dtype="float64", requires_grad=True)
    loss = F.binary_cross_entropy(p, tensor([0.0, 1.0, 1.0, 0.0]), reduction="none")
    np.testing.assert_allclose(loss.numpy(), [0.0, 0.0, 100.0, 100.0])
    loss.sum().backward()
    assert np.isfinite(p.grad.numpy()).all()  # type: ignore[union-attr]


def test_targets_of_0_cost_nothing_in_kl():
    assert F.kl_div(tensor([-1.0]), tensor([0.0])).item() == 0.0


def test_equal_vectors_have_gradients_that_are_numbers():
    x = tensor(np.ones((2, 3)), requires_grad=True)
    (F.pairwise_distance(x, x.detach(), eps=0.0).sum() + F.normalize(x * 0.0).sum()).backward()
    assert np.isfinite(x.grad.numpy()).all()  # type: ignore[union-attr]


def test_focal_loss_weighs_what_is_easy_down():
    """p_t = .9: 100 times less than cross-entropy (γ = 2); a prior of .01 is a bias of -4.595."""
    logit = special.logit(0.9)
    plain = F.binary_cross_entropy_with_logits(tensor([logit]), tensor([1.0])).item()
    focal = F.focal_loss(tensor([logit]), tensor([1.0]), alpha=-1.0, gamma=2.0).item()
    assert plain / focal == pytest.approx(100.0)
    assert F.focal_loss(tensor([logit]), tensor([1.0]), alpha=-1.0, gamma=0.0).item() == pytest.approx(plain)


def test_at_high_temperature_distillation_matches_centred_logits():
    """Hinton et al., §2.1: the gradient tends to (z - v) / N for logits of mean 0, T² included."""
    z, v = (a - a.mean(axis=1, keepdims=True) for a in (X, Y))
    leaf = tensor(z, requires_grad=True)
    F.distillation_loss(leaf, tensor(v), temperature=1e4, reduction="sum").backward()
    np.testing.assert_allclose(leaf.grad.numpy(), (z - v) / 5, rtol=2e-3, atol=2e-3)  # type: ignore[union-attr]


def test_nothing_flows_into_the_teacher():
    teacher = tensor(Y, requires_grad=True)
    F.distillation_loss(tensor(X, requires_grad=True), teacher).backward()
    assert teacher.grad is None


# ----- Misuse -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: F.mse_loss(np.ones((4, 1)), np.ones(4)), ShapeError, ["mse_loss", "(4, 1)", "(4,)"]),
        (lambda: F.nll_loss(tensor(LOG_P), CLASSES.astype(float)), DTypeError, ["float64"]),
        (lambda: F.nll_loss(tensor(LOG_P), CLASSES + 1), MinigradError, ["target 5", "5 classes"]),
        (lambda: F.nll_loss(tensor(LOG_P), CLASSES[:3]), ShapeError, ["(4, 5)", "(3,)"]),
        (lambda: F.nll_loss(tensor(LOG_P), CLASSES, [1.0, 2.0]), ShapeError, ["5 classes", "(2,)"]),
        (lambda: F.cross_entropy(tensor(X), Q[:3]), ShapeError, ["(4, 5)", "(3, 5)"]),
        (lambda: F.cross_entropy(tensor(X), CLASSES, label_smoothing=2.0), MinigradError, ["2.0"]),
        (lambda: F.binary_cross_entropy(tensor(X), tensor(Q)), MinigradError, ["0 and 1", "with_logits"]),
        (lambda: F.huber_loss(tensor(X), tensor(Y), delta=0.0), MinigradError, ["delta", "0.0"]),
        (lambda: F.smooth_l1_loss(tensor(X), tensor(Y), beta=-1.0), MinigradError, ["beta", "-1.0"]),
        (lambda: F.cosine_embedding_loss(tensor(X), tensor(Y), [1, -1]), ShapeError, ["(4, 5)", "(2,)"]),
        (lambda: F.distillation_loss(tensor(X), tensor(Y), temperature=0.0), MinigradError, ["0.0"]),
        (lambda: F.mse_loss(tensor(X), tensor(Y), reduction="average"), MinigradError, ["'average'"]),
    ],
)
def test_what_does_not_fit_is_refused(call, kind, words):
    with pytest.raises(kind) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_every_loss_is_here():
    kinds = {type(loss).__name__ for loss, _, _ in EXPECTED.values()}
    assert kinds | {"CTCLoss"} == {name for name in L.__all__ if name.endswith("Loss")}
    assert ops.log_softmax(tensor(X)).shape == X.shape
