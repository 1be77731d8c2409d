"""Positions: the papers' numbers, and what makes them useful."""

import math

import numpy as np
import pytest

from minigrad.nn import layers as L
from minigrad.ops import tensor


def test_sinusoids_are_the_papers_numbers():
    table = L.SinusoidalPositions(512, dtype="float64").table.numpy()
    assert table.shape == (5000, 512)
    np.testing.assert_allclose(
        table[1, :4], [0.8414709848, 0.5403023059, 0.8218561900, 0.5696950087], atol=1e-10
    )
    np.testing.assert_allclose(table[0], np.tile([0.0, 1.0], 256))
    wavelength = 10000.0 ** (510 / 512)
    np.testing.assert_allclose(table[7, 510:], [math.sin(7 / wavelength), math.cos(7 / wavelength)])


def test_a_shift_of_sinusoids_is_a_rotation_that_does_not_depend_on_the_place():
    table = L.SinusoidalPositions(8, 40, dtype="float64").table.numpy().reshape(40, 4, 2)
    for k in (1, 7):
        turned = []
        for p in (0, 3, 20):  # the rotation that takes PE(p) to PE(p + k), pair by pair
            s, c = table[p].T
            s_k, c_k = table[p + k].T
            turned.append((s_k * c - c_k * s, c_k * c + s_k * s))
        np.testing.assert_allclose(turned[0], turned[1], atol=1e-12)
        np.testing.assert_allclose(turned[0], turned[2], atol=1e-12)


@pytest.mark.parametrize("kind", [L.SinusoidalPositions, L.LearnedPositions, L.RotaryPositions])
def test_a_later_start_goes_on_where_the_sequence_was(kind):
    layer = kind(4, 9)
    x = tensor(np.random.default_rng(0).normal(size=(2, 7, 4)).astype("float32"))
    np.testing.assert_array_equal(layer(x[:, 3:], start=3).numpy(), layer(x).numpy()[:, 3:])


def test_rotations_keep_lengths_and_make_products_depend_on_the_distance_alone():
    layer = L.RotaryPositions(6, 30, dtype="float64")
    q, k = np.random.default_rng(0).normal(size=(2, 6))
    turned_q, turned_k = (layer(tensor(np.tile(x, (30, 1)))).numpy() for x in (q, k))
    np.testing.assert_allclose(np.linalg.norm(turned_q, axis=1), np.linalg.norm(q))
    products = turned_q @ turned_k.T
    for distance in range(-5, 6):
        along = np.diagonal(products, distance)
        np.testing.assert_allclose(along, along[0], rtol=1e-10, atol=1e-12)
    assert np.ptp(products[0]) > 0.1


def test_learned_positions_start_small_and_learn():
    layer = L.LearnedPositions(3, 5)
    assert list(layer.state_dict()) == ["weight"]
    layer(tensor(np.zeros((2, 4, 3), "float32"))).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist() == [[2.0] * 3] * 4 + [[0.0] * 3]


def test_tables_are_no_part_of_the_state():
    assert not L.SinusoidalPositions(4).state_dict()
    assert not L.RotaryPositions(4).state_dict()
