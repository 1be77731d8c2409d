"""Simple changes to images (C, H, W) that leave what they show: for `DataLoader(transform=...)`.

Each function returns a transform, which takes an image and a NumPy generator. What comes in from outside the
image is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
from numpy.typing import NDArray

from minigrad.errors import ShapeError, UsageError

Image = NDArray[Any]
ImageTransform = Callable[[Image, numpy.random.Generator], Image]


def _checked(image: Any) -> Image:
    image = numpy.asarray(image)
    if image.ndim != 3:
        raise ShapeError(f"expected an image (C, H, W), got shape {image.shape}")
    return image


def compose(*transforms: ImageTransform) -> ImageTransform:
    """One after the other."""

    def run(image: Image, generator: numpy.random.Generator) -> Image:
        for transform in transforms:
            image = transform(image, generator)
        return image

    return run


def on_first(
    transform: ImageTransform,
) -> Callable[[tuple[Any, ...], numpy.random.Generator], tuple[Any, ...]]:
    """Change the first entry of a sample (image, label, ...) and hand the others on."""
    return lambda sample, generator: (transform(sample[0], generator), *sample[1:])


def moved(image: Image, down: int, right: int) -> Image:
    """The image moved by whole places."""
    image = _checked(image)
    out = numpy.zeros_like(image)
    height, width = image.shape[1:]
    into = [slice(max(n, 0), size + min(n, 0)) for n, size in ((down, height), (right, width))]
    source = [slice(max(-n, 0), size + min(-n, 0)) for n, size in ((down, height), (right, width))]
    if abs(down) < height and abs(right) < width:
        out[:, into[0], into[1]] = image[:, source[0], source[1]]
    return out


def random_shift(places: int) -> ImageTransform:
    """Move by up to `places`, down or up and right or left."""

    def run(image: Image, generator: numpy.random.Generator) -> Image:
        down, right = generator.integers(-places, places + 1, 2)
        return moved(image, int(down), int(right))

    return run


def random_rotation(degrees: float) -> ImageTransform:
    """Turn about the middle by up to `degrees` either way, interpolating between places."""

    def run(image: Image, generator: numpy.random.Generator) -> Image:
        from scipy.ndimage import rotate

        angle = generator.uniform(-degrees, degrees)
        turned: Image = rotate(_checked(image), angle, axes=(1, 2), reshape=False, order=1)
        return turned

    return run


def random_crop(size: int, padding: int = 0) -> ImageTransform:
    """A square of `size` out of the image with a border of `padding`."""

    def run(image: Image, generator: numpy.random.Generator) -> Image:
        image = numpy.pad(_checked(image), ((0, 0), (padding, padding), (padding, padding)))
        height, width = image.shape[1:]
        if size < 1 or min(height, width) < size:
            raise UsageError(
                f"random_crop: no square of {size} in an image {height} by {width}, padding included"
            )
        down = int(generator.integers(0, height - size + 1))
        right = int(generator.integers(0, width - size + 1))
        return image[:, down : down + size, right : right + size]

    return run


def random_flip(p: float = 0.5) -> ImageTransform:
    """Left and right change places with probability p."""

    def run(image: Image, generator: numpy.random.Generator) -> Image:
        return _checked(image)[:, :, ::-1] if generator.random() < p else _checked(image)

    return run


def cutout(size: int) -> ImageTransform:
    """A square of `size` becomes 0; its middle lies anywhere. Paper: DeVries, Taylor 2017, Improved
    Regularization of Convolutional Neural Networks with Cutout, §3.
    """

    def run(image: Image, generator: numpy.random.Generator) -> Image:
        out = _checked(image).copy()
        top, left = (int(generator.integers(0, n)) - size // 2 for n in out.shape[1:])
        out[:, max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = 0
        return out

    return run
