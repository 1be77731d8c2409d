"""Meshes: every axis is a world of the ranks that differ along it only."""

from collections.abc import Callable
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad import dist
from minigrad.dist.mesh import Mesh
from minigrad.dist.world import World
from minigrad.errors import UsageError


@given(
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=4).filter(lambda lengths: prod(lengths) <= 12)
)
def test_axes_and_coordinates_are_those_of_a_grid(lengths: list[int]):
    grid = np.arange(prod(lengths)).reshape(lengths)
    axes = {f"axis_{k}": length for k, length in enumerate(lengths)}

    def main(world: World) -> None:
        mesh = Mesh(world, **axes)
        place = [int(k[0]) for k in np.nonzero(grid == world.rank)]
        assert list(mesh.coordinates.items()) == list(zip(axes, place, strict=True))
        assert mesh.shape == axes
        for k, name in enumerate(axes):
            axis = mesh.axis(name)
            line = grid[tuple(slice(None) if j == k else p for j, p in enumerate(place))]
            assert (axis.size, axis.rank) == (lengths[k], place[k])
            assert list(axis.members) == line.tolist()
            total = np.array([world.rank])
            axis.all_reduce(total)
            assert total[0] == line.sum()

    dist.spawn(main, ranks=prod(lengths))


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (
            lambda w: Mesh(w, data=2, tensor=2),
            "a mesh of data=2 × tensor=2 has 4 places, but this world has 6 ranks",
        ),
        (lambda w: Mesh(w), "axes none; name at least one"),
        (lambda w: Mesh(w, data=-2, tensor=-3), "axes data=-2 × tensor=-3; .* at least 1"),
        (
            lambda w: Mesh(w, data=2, tensor=3).axis("pipeline"),
            "no axis 'pipeline'; its axes are data, tensor",
        ),
    ],
)
def test_misuse_names_the_numbers(misuse: Callable[[World], object], message: str):
    with pytest.raises(UsageError, match=rf"^rank \d of 6: .*{message}"):
        dist.spawn(misuse, ranks=6)
