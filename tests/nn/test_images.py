"""Layers of images against SciPy and loops: convolutions, pools, resizing, channels that weigh each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, signal
from scipy.special import expit

from minigrad.errors import UsageError
from minigrad.nn import layers as L
from minigrad.ops import tensor

source = np.random.default_rng(8)


def array(*shape: int) -> np.ndarray:
    return source.normal(size=shape)


@settings(max_examples=40, deadline=None)
@given(
    groups=st.integers(1, 3),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    padding=st.integers(0, 2),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
)
def test_a_convolution_is_scipys_correlation_of_the_padded_image(
    groups, kernel, stride, dilation, padding, mode
):
    layer = L.Conv2d(
        2 * groups, 3 * groups, kernel, stride, padding, dilation, groups, padding_mode=mode, dtype="float64"
    )
    x = array(2, 2 * groups, 7, 6)
    out = layer(tensor(x)).numpy()
    how = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    padded = np.pad(x, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2), mode=how)  # type: ignore[call-overload]
    assert layer.bias is not None
    weight, bias = layer.weight.numpy(), layer.bias.numpy()
    spread = np.zeros((*weight.shape[:2], *(dilation * (kernel - 1) + 1,) * 2))  # zeros between: dilation
    spread[:, :, ::dilation, ::dilation] = weight
    for n in range(2):
        for channel in range(3 * groups):
            first = channel // 3 * 2
            planes = [
                signal.correlate(padded[n, first + k], spread[channel, k], mode="valid") for k in range(2)
            ]
            expected = (planes[0] + planes[1])[::stride, ::stride] + bias[channel]
            np.testing.assert_allclose(out[n, channel], expected, rtol=1e-10, atol=1e-12)


def test_padding_same_keeps_sizes_and_an_image_alone_is_a_batch_of_one():
    layer = L.Conv2d(2, 3, (4, 3), padding="same", dilation=(1, 2))
    x = tensor(array(2, 5, 6).astype("float32"))
    assert layer(x).shape == (3, 5, 6)
    np.testing.assert_allclose(layer(x).numpy(), layer(x.reshape(1, 2, 5, 6)).numpy()[0], rtol=1e-6)


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_transposed_convolution_is_the_transpose_of_the_convolution(axes, stride):
    """⟨v, conv x⟩ = ⟨convᵀ v, x⟩, with the size of x given where several lead to that of v."""
    kind, back = (L.Conv1d, L.ConvTranspose1d) if axes == 1 else (L.Conv2d, L.ConvTranspose2d)
    forward = kind(2, 4, 3, stride, 1, groups=2, bias=False, dtype="float64")
    transposed = back(4, 2, 3, stride, 1, groups=2, bias=False, dtype="float64")
    transposed.weight.assign(forward.weight.numpy())
    for size in (5, 6, 7):
        x = tensor(array(1, 2, *(size,) * axes))
        out = forward(x)
        v = tensor(array(*out.shape))
        found = transposed(v, output_size=(size,) * axes)
        assert found.shape == x.shape
        assert (v * out).sum().item() == pytest.approx((found * x).sum().item())
    with pytest.raises(UsageError, match="output_size"):
        transposed(tensor(array(1, 4, *(3,) * axes)), output_size=(99,) * axes)


def test_pools_are_scipys_filters_at_every_second_place():
    x = array(1, 1, 6, 8)
    largest = ndimage.maximum_filter(x[0, 0], size=2, origin=-1)[::2, ::2]
    mean = ndimage.uniform_filter(x[0, 0], size=2, origin=-1)[::2, ::2]
    np.testing.assert_allclose(L.MaxPool2d(2)(tensor(x)).numpy()[0, 0], largest)
    np.testing.assert_allclose(L.AvgPool2d(2)(tensor(x)).numpy()[0, 0], mean)
    line = tensor(x.reshape(1, 1, 48))
    np.testing.assert_allclose(L.AdaptiveAvgPool1d(1)(line).numpy().item(), x.mean())
    np.testing.assert_allclose(L.AdaptiveMaxPool1d(1)(line).numpy().item(), x.max())
    assert L.AdaptiveMaxPool1d((5,))(line).shape == (1, 1, 5)


def test_upsampling_repeats_or_draws_lines():
    x = tensor([[[0.0, 1.0, 3.0]]])
    assert L.Upsample(scale_factor=2)(x).tolist() == [[[0, 0, 1, 1, 3, 3]]]
    assert L.Upsample(5, mode="linear", align_corners=True)(x).tolist() == [[[0, 0.5, 1, 2, 3]]]


def test_squeeze_and_excitation_scales_channels_by_what_all_places_show():
    layer = L.SqueezeExcitation(4, 2, dtype="float64")
    x = array(2, 4, 3, 3)
    state = {name: value.numpy() for name, value in layer.state_dict().items()}
    inner = np.maximum(x.mean(axis=(2, 3)) @ state["fc1.weight"].T + state["fc1.bias"], 0.0)
    scale = expit(inner @ state["fc2.weight"].T + state["fc2.bias"])
    np.testing.assert_allclose(layer(tensor(x)).numpy(), x * scale[:, :, None, None], rtol=1e-12)


# ----- Dropout's other forms --------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "shape"), [(L.Dropout1d, (400, 50, 3)), (L.Dropout2d, (400, 50, 2, 2))])
def test_channels_go_as_a_whole(kind, shape):
    out = kind(0.3)(tensor(np.ones(shape))).numpy().reshape(400, 50, -1)
    assert (out == out[:, :, :1]).all()
    assert set(np.unique(out)) == {0.0, 1 / 0.7}
    assert (out == 0).mean() == pytest.approx(0.3, abs=0.02)


def test_stochastic_depth_leaves_out_samples():
    out = L.StochasticDepth(0.2)(tensor(np.ones((5000, 4)))).numpy()
    assert (out == out[:, :1]).all()
    assert (out[:, 0] == 0).mean() == pytest.approx(0.2, abs=0.03)
    assert out.mean() == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_alpha_dropout_keeps_mean_and_variance(p):
    out = L.AlphaDropout(p)(tensor(array(1000, 1000))).numpy()
    assert out.mean() == pytest.approx(0.0, abs=0.01)
    assert out.var() == pytest.approx(1.0, abs=0.03)
    assert not L.AlphaDropout(1.0)(tensor(array(2, 2))).numpy().any()


def test_dropout_of_one_layer_used_twice_draws_twice_and_recomputing_it_draws_the_same():
    import minigrad as mg
    from minigrad import random

    layer = L.Dropout(0.5)
    x = tensor(np.ones((4, 200)), requires_grad=True)
    with random.scope(seed=0, step=0, samples=range(4)):
        plain = layer(layer(x))
    assert (plain.numpy() != 0).mean() == pytest.approx(0.25, abs=0.08)  # and not 0.5, as of one mask
    with random.scope(seed=0, step=0, samples=range(4)):
        again = mg.checkpoint(lambda x: layer(layer(x)), x)
    np.testing.assert_array_equal(again.numpy(), plain.numpy())
    again.sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), plain.numpy())
