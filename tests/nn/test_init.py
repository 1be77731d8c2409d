"""Starting values: their moments, bounds and structures; fans and gains."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from minigrad import random
from minigrad.errors import ShapeError, UsageError
from minigrad.nn import init
from minigrad.ops import conv2d, zeros

SHAPE = (60, 50, 3, 2)  # fan in 300, fan out 360


def filled(fill, shape=SHAPE, **options):
    random.manual_seed(5)
    tensor = zeros(shape, dtype="float64")
    assert fill(tensor, **options) is tensor
    return tensor.numpy()


@pytest.mark.parametrize(
    ("shape", "fans"),
    [
        ((4, 5), (5, 4)),
        ((4, 5, 3), (15, 12)),
        (SHAPE, (300, 360)),
        ((0, 5), (5, 0)),
        ((4, 5, 2, 3, 2), (60, 48)),
    ],
)
def test_fans_count_inputs_and_outputs_of_a_unit(shape, fans):
    assert init.fan_in_and_out(zeros(shape)) == fans


@pytest.mark.parametrize(
    ("name", "gain"),
    [
        ("linear", 1),
        ("conv2d", 1),
        ("conv_transpose1d", 1),
        ("sigmoid", 1),
        ("tanh", 5 / 3),
        ("relu", 2**0.5),
        ("selu", 0.75),
    ],
)
def test_gains(name, gain):
    assert init.calculate_gain(name) == gain


def test_the_gain_of_a_leak_is_what_keeps_the_second_moment():
    assert init.calculate_gain("leaky_relu", 0.3) == pytest.approx(math.sqrt(2 / 1.09))
    x = np.random.default_rng(0).normal(size=400_000) * init.calculate_gain("leaky_relu", 0.3)
    assert np.mean(np.where(x > 0, x, 0.3 * x) ** 2) == pytest.approx(1.0, rel=0.01)
    with pytest.raises(UsageError, match="no gain for 'sine'"):
        init.calculate_gain("sine")


UNIFORM: dict[str, Any] = {
    "uniform": (init.uniform_, {"a": -0.5, "b": 1.5}, -0.5, 1.5),
    "kaiming": (init.kaiming_uniform_, {"nonlinearity": "relu"}, -math.sqrt(6 / 300), math.sqrt(6 / 300)),
    "kaiming out": (
        init.kaiming_uniform_,
        {"a": 1.0, "mode": "fan_out"},
        -math.sqrt(3 / 360),
        math.sqrt(3 / 360),
    ),
    "xavier": (init.xavier_uniform_, {"gain": 2.0}, -2 * math.sqrt(6 / 660), 2 * math.sqrt(6 / 660)),
}
NORMAL: dict[str, Any] = {
    "normal": (init.normal_, {"mean": 3.0, "std": 0.5}, 3.0, 0.5),
    "kaiming": (init.kaiming_normal_, {"nonlinearity": "tanh"}, 0.0, 5 / 3 / math.sqrt(300)),
    "kaiming out": (
        init.kaiming_normal_,
        {"mode": "fan_out", "nonlinearity": "relu"},
        0.0,
        math.sqrt(2 / 360),
    ),
    "xavier": (init.xavier_normal_, {}, 0.0, math.sqrt(2 / 660)),
}


@pytest.mark.parametrize("name", UNIFORM)
def test_uniform_values(name):
    fill, options, low, high = UNIFORM[name]
    assert stats.kstest(filled(fill, **options).ravel(), "uniform", (low, high - low)).pvalue > 1e-3


@pytest.mark.parametrize("name", NORMAL)
def test_normal_values(name):
    fill, options, mean, std = NORMAL[name]
    assert stats.kstest(filled(fill, **options).ravel(), stats.norm(mean, std).cdf).pvalue > 1e-3


def test_truncated_normal_values():
    values = filled(init.trunc_normal_, mean=1.0, std=2.0, a=0.0, b=4.0).ravel()
    assert values.min() >= 0.0
    assert values.max() <= 4.0
    assert stats.kstest(values, "truncnorm", (-0.5, 1.5, 1.0, 2.0)).pvalue > 1e-3
    with pytest.raises(UsageError, match="a < b"):
        init.trunc_normal_(zeros(3), a=1.0, b=1.0)


def test_constants():
    assert (filled(init.constant_, val=3.0) == 3.0).all()
    assert (filled(init.ones_) == 1.0).all()
    assert not init.zeros_(init.ones_(zeros((2, 2)))).numpy().any()


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3), (4, 2, 3), (6, 2, 2, 1)])
def test_orthogonal_rows_or_columns(shape):
    matrix = filled(init.orthogonal_, shape, gain=2.0).reshape(shape[0], -1) / 2.0
    small = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(small, np.eye(len(small)), atol=1e-12)


def test_orthogonal_matrices_have_no_preferred_direction():
    """Without the signs of R the first entry would never be positive."""
    random.manual_seed(0)
    signs = [init.orthogonal_(zeros((3, 3), dtype="float64")).numpy()[0, 0] > 0 for _ in range(200)]
    assert 60 < sum(signs) < 140


def test_the_identity_as_a_matrix_and_as_a_convolution():
    np.testing.assert_array_equal(filled(init.eye_, (2, 3)), np.eye(2, 3))
    for groups in (1, 2):
        weight = filled(init.dirac_, (4, 4 // groups, 3, 3), groups=groups)
        x = np.random.default_rng(0).normal(size=(1, 4, 5, 5))
        np.testing.assert_array_equal(conv2d(x, weight, padding=1, groups=groups).numpy(), x)


def test_a_share_of_each_column_is_zero():
    values = filled(init.sparse_, (10, 7), sparsity=0.25, std=3.0)
    assert ((values == 0).sum(axis=0) == 3).all()


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: init.kaiming_normal_(zeros(3)), ShapeError),
        (lambda: init.xavier_uniform_(zeros(3)), ShapeError),
        (lambda: init.kaiming_uniform_(zeros((2, 2)), mode="fan"), UsageError),
        (lambda: init.eye_(zeros(3)), ShapeError),
        (lambda: init.dirac_(zeros((3, 3))), ShapeError),
        (lambda: init.dirac_(zeros((3, 3, 1)), groups=2), ShapeError),
        (lambda: init.orthogonal_(zeros(3)), ShapeError),
        (lambda: init.sparse_(zeros((3, 3)), sparsity=2.0), ShapeError),
    ],
)
def test_what_does_not_fit_is_refused(call, kind):
    with pytest.raises(kind):
        call()


def test_tensors_without_values_stay_without():
    for fill in (init.normal_, init.orthogonal_, init.trunc_normal_, init.kaiming_uniform_):
        assert fill(zeros((3, 4), device="shapes")).device == "shapes"
