"""Batch norm: what its paper promises, what it learns of batches, its fast path against its composition."""

import copy
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad.nn import functional as F
from minigrad.nn import layers as L
from minigrad.nn.functional.batch_norm_kernel import normalised_by_the_batch
from minigrad.ops import blocks, tensor

source = np.random.default_rng(4)


def both_ways(
    x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, fast: bool
) -> list[np.ndarray]:
    """The result, its statistics, and gradients of Σ cos(i) out_i."""
    with mg.fused_operations(fast):
        inputs = [None if a is None else tensor(a, requires_grad=True) for a in (x, weight, bias)]
        out, mean, variance, count = normalised_by_the_batch(inputs[0], inputs[1], inputs[2], 1e-5)  # type: ignore[arg-type]
        assert count == x.size // x.shape[1]
        out.backward(np.cos(np.arange(x.size)).reshape(x.shape).astype(x.dtype))
    grads = [a.grad.numpy() for a in inputs if a is not None]  # type: ignore[union-attr]
    return [out.numpy(), mean.numpy(), variance.numpy(), *grads]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.one_of(
        st.tuples(st.integers(2, 5), st.integers(1, 4)),
        st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(2, 4)),
        st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(2, 3), st.integers(1, 3)),
    ),
    last=st.booleans(),
    affine=st.sampled_from([(True, True), (True, False), (False, True), (False, False)]),
    block=st.sampled_from([1, 7, 1 << 16]),
)
def test_the_fast_path_is_its_composition_in_every_layout_and_block(shape, last, affine, block):
    x = source.normal(size=shape) * 3.0 + 10.0
    if last:  # channels last in memory
        order = (0, *range(2, len(shape)), 1)
        x = np.ascontiguousarray(x.transpose(order)).transpose(0, len(shape) - 1, *range(1, len(shape) - 1))
    weight, bias = (source.normal(size=shape[1]) if given_ else None for given_ in affine)
    with mock.patch.object(blocks, "BLOCK", block):
        fast = both_ways(x, weight, bias, fast=True)
    for found, expected in zip(fast, both_ways(x, weight, bias, fast=False), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_channels_that_lie_last_in_memory_stay_so():
    x = np.zeros((2, 3, 4, 5), "float32").transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
    out = L.BatchNorm2d(3)(tensor(x))
    assert out.data.transpose(0, 2, 3, 1).flags.c_contiguous


def test_large_means_do_not_drown_small_variances():
    """E[x²] - E[x]² in float32 would be off by everything here."""
    x = (1e4 + source.normal(size=(4000, 2))).astype("float32")
    out = L.BatchNorm1d(2)(tensor(x)).numpy()
    np.testing.assert_allclose(out.std(axis=0), 1.0, rtol=1e-2)


@pytest.mark.parametrize("training", [True, False])
def test_halves_are_normalised_in_float32(training):
    """600² overflows a half, and a mean of 4000 entries has no digits left in one."""
    norm = L.BatchNorm1d(2).train(training).to(dtype="float16")
    x = (source.normal(size=(4000, 2)) * 600.0).astype("float16")
    leaf = tensor(x, requires_grad=True)
    out = norm(leaf)
    assert out.dtype == np.float16
    if training:
        np.testing.assert_allclose(out.numpy().astype("float64").std(axis=0), 1.0, rtol=2e-3)
    out.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.dtype == norm.weight.grad.dtype == np.float16


def test_what_is_learned_of_batches():
    norm = L.BatchNorm1d(2, momentum=0.25, dtype="float64")
    batches = source.normal(size=(3, 6, 2)) * 4.0 + 2.0
    mean, variance = np.zeros(2), np.ones(2)
    for batch in batches:
        norm(tensor(batch))
        mean = 0.75 * mean + 0.25 * batch.mean(axis=0)
        variance = 0.75 * variance + 0.25 * batch.var(axis=0, ddof=1)
    np.testing.assert_allclose(norm.running_mean.numpy(), mean)  # type: ignore[union-attr]
    np.testing.assert_allclose(norm.running_var.numpy(), variance)  # type: ignore[union-attr]
    assert int(norm.num_batches_tracked) == 3  # type: ignore[arg-type]
    x = source.normal(size=(1, 2))
    np.testing.assert_allclose(norm.eval()(tensor(x)).numpy(), (x - mean) / np.sqrt(variance + 1e-5))
    norm.reset_running_stats()
    assert norm.running_mean.tolist() == [0, 0]  # type: ignore[union-attr]
    assert norm.running_var.tolist() == [1, 1]  # type: ignore[union-attr]


def test_without_momentum_batches_are_averaged():
    norm = L.BatchNorm1d(2, momentum=None, dtype="float64")
    batches = source.normal(size=(5, 6, 2))
    for batch in batches:
        norm(tensor(batch))
    np.testing.assert_allclose(norm.running_mean.numpy(), batches.mean(axis=(0, 1)))  # type: ignore[union-attr]


def test_without_statistics_the_batch_is_used_in_evaluation_too():
    norm = L.BatchNorm1d(2, track_running_stats=False, affine=False).eval()
    assert not norm.state_dict()
    np.testing.assert_allclose(norm(tensor(source.normal(size=(9, 2)))).numpy().mean(axis=0), 0.0, atol=1e-12)


def test_a_batch_that_is_computed_again_for_its_gradient_counts_once():
    norm = L.BatchNorm1d(2, dtype="float64")
    twin = copy.deepcopy(norm)
    x = tensor(source.normal(size=(4, 2)), requires_grad=True)
    mg.checkpoint(norm, x).sum().backward()
    twin(x.detach())
    assert int(norm.num_batches_tracked) == 1  # type: ignore[arg-type]
    np.testing.assert_array_equal(norm.running_mean.numpy(), twin.running_mean.numpy())  # type: ignore[union-attr]


def test_an_empty_batch_teaches_nothing():
    norm = L.BatchNorm1d(2)
    norm(tensor(np.zeros((0, 2), "float32")))
    assert norm.running_var.tolist() == [1.0, 1.0]  # type: ignore[union-attr]
    assert int(norm.num_batches_tracked) == 0  # type: ignore[arg-type]


# ----- What the paper promises ------------------------------------------------------------------------


def test_scaling_the_weights_before_it_changes_nothing_but_their_gradient():
    """§3.3: BN((aW)u) = BN(Wu), the gradient in u stays, and the gradient in aW is 1/a of W's."""
    u, w, v = source.normal(size=(6, 3)), source.normal(size=(2, 3)), source.normal(size=(6, 2))
    results = []
    for a in (1.0, 5.0):
        leaf, weight = tensor(u, requires_grad=True), tensor(a * w, requires_grad=True)
        out = F.batch_norm(F.linear(leaf, weight), None, None, training=True, eps=0.0)
        out.backward(v)
        results.append((out.numpy(), leaf.grad.numpy(), a * weight.grad.numpy()))  # type: ignore[union-attr]
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10)


def test_gradients_have_no_mean_and_no_part_along_the_output():
    x = tensor(source.normal(size=(7, 3)), requires_grad=True)
    out = F.batch_norm(x, None, None, training=True, eps=0.0)
    out.backward(source.normal(size=(7, 3)))
    gradient = x.grad.numpy()  # type: ignore[union-attr]
    np.testing.assert_allclose(gradient.sum(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose((gradient * out.numpy()).sum(axis=0), 0.0, atol=1e-12)


def test_of_two_samples_nothing_but_the_order_is_left():
    out = L.BatchNorm1d(3, affine=False)(tensor([[0.0, 5.0, 1.0], [2.0, 3.0, 9.0]])).numpy()
    np.testing.assert_allclose(out, [[-1, 1, -1], [1, -1, 1]], atol=1e-4)


@pytest.mark.parametrize(("groups", "axes"), [(1, (1, 2, 3)), (4, (2, 3))])
def test_group_norm_of_one_group_is_layer_norm_and_of_all_is_instance_norm(groups, axes):
    x = source.normal(size=(2, 4, 3, 3))
    expected = (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(x.var(axis=axes, keepdims=True) + 1e-5)
    np.testing.assert_allclose(F.group_norm(tensor(x), groups).numpy(), expected, rtol=1e-9, atol=1e-12)
    other = F.layer_norm(tensor(x), (4, 3, 3)) if groups == 1 else F.instance_norm(tensor(x))
    np.testing.assert_allclose(other.numpy(), expected, rtol=1e-9, atol=1e-12)
