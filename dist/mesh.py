"""A mesh: the ranks of a world on a grid with named axes, so that strategies combine, each along its own."""

from math import prod

from minigrad.dist.world import World
from minigrad.errors import UsageError


class Mesh:
    """The ranks of `world` on a grid. All ranks make it at the same place, with the same axes.

    Of the axes named here, the last varies fastest: its neighbours are neighbours among the ranks, which
    belongs to the strategy that moves most. Raises UsageError where the axes do not cover the world.

    >>> from minigrad import dist
    >>> from minigrad.dist.mesh import Mesh
    >>> def main(world):
    ...     mesh = Mesh(world, data=2, tensor=3)
    ...     return mesh.coordinates["data"], mesh.axis("tensor").rank
    >>> dist.spawn(main, ranks=6)
    [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    """

    def __init__(self, world: World, **axes: int) -> None:
        sizes = " × ".join(f"{name}={size}" for name, size in axes.items())
        wrong = [name for name, size in axes.items() if not isinstance(size, int) or size < 1]
        if not axes or wrong:
            raise UsageError(
                f"{world.name}: a mesh got the axes {sizes or 'none'}; name at least one, each of at least 1"
            )
        if prod(axes.values()) != world.size:
            raise UsageError(
                f"{world.name}: a mesh of {sizes} has {prod(axes.values())} places, but this world has "
                f"{world.size} ranks; make them equal"
            )
        self.world = world
        self.shape = dict(axes)
        self.coordinates: dict[str, int] = {}
        self._axes: dict[str, World] = {}
        rest = world.rank
        for name, size in reversed(axes.items()):
            rest, self.coordinates[name] = divmod(rest, size)
        self.coordinates = {name: self.coordinates[name] for name in axes}
        stride = world.size
        for name, size in axes.items():
            stride //= size
            place = self.coordinates[name]
            # Ranks that differ along this axis only have this number, their first one's, in common.
            self._axes[name] = world.split(world.rank - place * stride, key=place)

    def axis(self, name: str) -> World:
        """The ranks that differ from this one along axis `name` only. Raises UsageError if it has no such."""
        if name not in self._axes:
            raise UsageError(
                f"{self.world.name}: the mesh has no axis {name!r}; its axes are {', '.join(self._axes)}"
            )
        return self._axes[name]

    def __repr__(self) -> str:
        return f"<mesh {' × '.join(f'{name}={size}' for name, size in self.shape.items())}>"
