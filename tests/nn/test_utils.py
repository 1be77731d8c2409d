"""Clipping by the norm of all gradients, or by value."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad import nn
from minigrad.backend import of_device
from minigrad.errors import ShapeError, UsageError
from minigrad.nn.utils import (
    clip_coefficient,
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_total_norm,
    parameters_to_vector,
    vector_to_parameters,
)
from minigrad.ops import tensor
from minigrad.tensor import Tensor


def with_gradients(*gradients: np.ndarray | None) -> list[nn.Parameter]:
    parameters = []
    for gradient in gradients:
        parameter = nn.Parameter(np.zeros(3 if gradient is None else np.shape(gradient)))
        if gradient is not None:
            parameter.grad = tensor(np.array(gradient, dtype="float64"))
        parameters.append(parameter)
    return parameters


def joined(parameters: list[nn.Parameter]) -> np.ndarray:
    return np.concatenate([p.grad.numpy().reshape(-1) for p in parameters if p.grad is not None])


@given(
    shapes=st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=4),
    scale=st.floats(1e-3, 1e3),
    limit=st.floats(1e-2, 1e2),
)
def test_the_joint_norm_ends_at_most_at_the_limit(shapes, scale, limit):
    generator = np.random.default_rng(0)
    before = [scale * generator.normal(size=shape) for shape in shapes]
    parameters = with_gradients(*before, None)
    flat = joined(parameters)
    norm = float(np.linalg.norm(flat))
    assert clip_grad_norm_(parameters, limit).item() == pytest.approx(norm, rel=1e-12)
    after = joined(parameters)
    if norm <= limit:
        np.testing.assert_array_equal(after, flat)
    else:
        assert np.linalg.norm(after) == pytest.approx(limit, rel=1e-6 + 2e-6 / norm)
        assert np.linalg.norm(after) <= limit
        np.testing.assert_allclose(after / np.linalg.norm(after), flat / norm, rtol=1e-10, atol=1e-12)
    assert parameters[-1].grad is None


def test_by_hand():
    parameters = with_gradients(np.array([3.0]), np.array([[0.0, 4.0]]))
    assert clip_grad_norm_(parameters, 1.0).item() == 5.0
    np.testing.assert_allclose(joined(parameters), [0.6, 0.0, 0.8], rtol=1e-6)


def test_gradients_are_scaled_where_they_lie():
    """In a buffer that somebody gave, so that who owns the buffer sees it."""
    flat = np.zeros(4)
    parameters = [nn.Parameter(np.ones(2)), nn.Parameter(np.ones(2))]
    for place, parameter in enumerate(parameters):
        parameter.grad_buffer = flat[2 * place : 2 * place + 2]
        (parameter * 10.0).sum().backward()
    assert clip_grad_norm_(parameters, 2.0).item() == 20.0
    np.testing.assert_allclose(flat, np.ones(4), rtol=1e-6)


def test_any_iterable_and_one_parameter_alone():
    first, second = with_gradients(np.array([3.0, 4.0]), np.array([12.0]))
    assert clip_grad_norm_((p for p in (first, second)), 100.0).item() == 13.0
    assert clip_grad_norm_(first, 1.0).item() == 5.0
    np.testing.assert_allclose(joined([first]), [0.6, 0.8], rtol=1e-6)
    assert second.grad is not None
    assert second.grad.item() == 12.0


def test_no_gradients_have_no_norm():
    assert clip_grad_norm_(with_gradients(None, None), 1.0).item() == 0.0
    assert clip_grad_norm_([], 1.0).item() == 0.0


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_norm_that_is_not_finite_is_told_and_changes_nothing(value):
    parameters = with_gradients(np.array([value, 5.0]), np.array([7.0]))
    assert not math.isfinite(clip_grad_norm_(parameters, 1.0))
    with pytest.raises(UsageError, match="norm of the gradients is"):
        clip_grad_norm_(parameters, 1.0, error_if_nonfinite=True)
    assert joined(parameters)[1:].tolist() == [5.0, 7.0]


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
def test_limits_that_make_no_sense_are_refused(limit):
    parameters = with_gradients(np.array([5.0]))
    with pytest.raises(UsageError, match="must be positive"):
        clip_grad_norm_(parameters, limit)
    assert joined(parameters).tolist() == [5.0]


@given(
    norm_type=st.sampled_from([0.5, 1, 2, 3.5, math.inf]),
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    limit=st.floats(1e-2, 1e2),
)
def test_norms_of_other_types(norm_type, sizes, limit):
    generator = np.random.default_rng(0)
    parameters = with_gradients(*(generator.normal(size=size) for size in sizes))
    flat = joined(parameters)
    norm = float(np.linalg.norm(flat, norm_type)) if flat.size else 0.0
    assert clip_grad_norm_(parameters, limit, norm_type).item() == pytest.approx(norm, rel=1e-12)
    expected = flat * min(1.0, limit / (norm + 1e-6))
    np.testing.assert_allclose(joined(parameters), expected, rtol=1e-12)


@given(limit=st.floats(0, 3), sizes=st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_every_entry_ends_within_its_bounds(limit, sizes):
    generator = np.random.default_rng(0)
    parameters = with_gradients(*(generator.normal(size=size) for size in sizes), None)
    flat = joined(parameters)
    clip_grad_value_(parameters, limit)
    np.testing.assert_array_equal(joined(parameters), np.clip(flat, -limit, limit))


def test_more_limits_that_make_no_sense_are_refused():
    parameters = with_gradients(np.array([5.0]))
    for norm_type in (0.0, -1.0, math.nan):
        with pytest.raises(UsageError, match="positive number or infinity"):
            clip_grad_norm_(parameters, 1.0, norm_type)
    with pytest.raises(UsageError, match="must not be negative"):
        clip_grad_value_(parameters, -1.0)
    assert joined(parameters).tolist() == [5.0]


def test_half_precision_is_squared_in_single():
    parameter = nn.Parameter(np.zeros(1000, "float16"))
    parameter.grad = tensor(np.full(1000, 100.0, "float16"))
    norm = clip_grad_norm_(parameter, 1.0).item()
    assert norm == pytest.approx(100.0 * math.sqrt(1000), rel=1e-6)
    assert parameter.grad is not None
    assert parameter.grad.dtype == np.float16
    np.testing.assert_allclose(parameter.grad.numpy(), np.full(1000, 1 / math.sqrt(1000)), rtol=2e-3)


def test_nobody_looks_at_a_norm_on_arrays_without_values():
    parameter = nn.Parameter(np.zeros((3, 4)), device="shapes")
    parameter.grad = Tensor.of(of_device("shapes").empty((3, 4)))
    assert clip_grad_norm_(parameter, 1.0).shape == ()
    assert clip_coefficient(of_device("shapes").empty(()), 1.0).shape == ()


def test_clipping_in_two_calls_is_clipping_in_one():
    generator = np.random.default_rng(0)
    gradients = [generator.normal(size=shape) for shape in ((3, 2), (4,), ())]
    for norm_type in (1.0, 2.0, 3.0, math.inf):
        one, two = with_gradients(*gradients, None), with_gradients(*gradients, None)
        norm = get_total_norm([p.grad for p in two if p.grad is not None], norm_type)
        assert norm.item() == clip_grad_norm_(one, 0.5, norm_type).item()
        clip_grads_with_norm_(two, 0.5, norm)
        np.testing.assert_array_equal(joined(one), joined(two))
    with pytest.raises(UsageError, match="nan"):
        get_total_norm(tensor(np.array([math.nan])), error_if_nonfinite=True)


@given(shapes=st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=4))
def test_parameters_go_into_a_vector_and_back(shapes):
    generator = np.random.default_rng(0)
    own = [nn.Parameter(generator.normal(size=shape)) for shape in shapes]
    vector = parameters_to_vector(own)
    np.testing.assert_array_equal(vector.numpy(), np.concatenate([p.numpy().reshape(-1) for p in own]))
    (vector * vector).sum().backward()
    for p in own:
        assert p.grad is not None
        np.testing.assert_allclose(p.grad.numpy(), 2 * p.numpy())
    before = [p.numpy().copy() for p in own]
    vector_to_parameters(-vector, own)
    for p, value in zip(own, before, strict=True):
        np.testing.assert_array_equal(p.numpy(), -value)
    with pytest.raises(ShapeError, match=f"a vector of {vector.size} entries"):
        vector_to_parameters(tensor(np.zeros(vector.size + 1)), own)


def test_sequences_are_where_torch_has_them():
    assert nn.utils.rnn.pack_padded_sequence is nn.pack_padded_sequence
