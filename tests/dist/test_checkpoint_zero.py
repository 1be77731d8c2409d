"""What ZeRO saves at one stage, on some ranks or a mesh, every other loads to the bit, and saves alike."""

from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import dist, nn
from minigrad.dist import World, checkpoint
from minigrad.dist.checkpoint import Piece
from minigrad.dist.checkpoint_files import TensorFile
from minigrad.dist.mesh import Mesh
from minigrad.dist.zero import ZeRO
from tests.dist.zero_training import Case, Net, trained

OPTIMIZERS = [nn.optim.SGD, nn.optim.AdamW, nn.optim.Adagrad, nn.optim.Lion, nn.optim.LAMB]
LAYOUTS = st.one_of(
    st.tuples(st.sampled_from([0, 1, 2, 3]), st.sampled_from([1, 2, 3, 4, 5, 7]), st.just(1)),
    st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from([2, 3]), st.sampled_from([2, 3])),
)
"""Stage, ranks that share out, and how often there are such ranks."""


def expected(piece: Piece) -> np.ndarray:
    """The values that belong there: of a whole array made of its name; a master copy is the parameter's."""
    kind, _, name = piece.name.partition(".")
    seed = crc32(name.removesuffix(".master").encode()) + (kind == "model" or name.endswith(".master"))
    whole = np.random.default_rng(seed).normal(size=int(np.prod(piece.shape))).astype("float32")
    return whole.astype(piece.array.dtype)[piece.start : piece.stop]


def wrapped(
    world: World, layout: tuple[int, int, int], optimizer: type[nn.optim.Optimizer], half: bool
) -> ZeRO:
    """A small model with tied, frozen and unused parameters and a buffer, shared out."""
    stage, shards, replicas = layout
    mesh, case = Mesh(world, replicas=replicas, shards=shards), Case()
    model = Net(world.rank, case)
    if half:
        model.to(dtype="float16")
    return ZeRO(
        model,
        optimizer(trained(case, model), lr=0.01),
        mesh.axis("shards"),
        stage=stage,
        bucket_bytes=200,
        replicas=mesh.axis("replicas"),
        master="float32" if half else None,
    )


@given(LAYOUTS, LAYOUTS, st.sampled_from(OPTIMIZERS), st.booleans())
@settings(max_examples=20)
def test_any_layout_loads_what_any_other_saved(
    before: tuple[int, int, int],
    after: tuple[int, int, int],
    optimizer: type[nn.optim.Optimizer],
    half: bool,
) -> None:
    def save(world: World) -> None:
        zero = wrapped(world, before, optimizer, half)
        zero.optimizer.set_steps([5] * len(zero.optimizer.parameters))
        pieces = zero.pieces()
        for piece in pieces:
            piece.array[...] = expected(piece)
        checkpoint.save(folder / "step_5", world, pieces, zero.state())

    def load(world: World) -> list[str]:
        zero = wrapped(world, after, optimizer, half)
        pieces = zero.pieces()
        zero.loaded(checkpoint.load(folder / "step_5", world, pieces))
        assert set(zero.optimizer.steps) == {5}
        for piece in zero.pieces():
            assert piece.array.tobytes() == expected(piece).tobytes()
        with zero.gathered():
            for name, parameter in zero.module.named_parameters():
                whole = Piece(f"model.{name}", parameter.shape, 0, parameter.size, parameter.data)
                assert parameter.data.tobytes() == expected(whole).tobytes()
        checkpoint.save(folder / "step_6", world, zero.pieces(), zero.state())
        return [piece.name for piece in pieces]

    with TemporaryDirectory() as name:
        folder = Path(name)
        dist.spawn(save, ranks=before[1] * before[2])
        names = dist.spawn(load, ranks=after[1] * after[2])
        once, again = (checkpoint.read(folder / f"step_{step}") for step in (5, 6))
        assert once.keys() == again.keys() == {one for of_rank in names for one in of_rank}
        assert {"model.frozen", "model.scale", "model.shared"} <= once.keys()
        for key, array in once.items():
            assert again[key].dtype == array.dtype
            assert again[key].tobytes() == array.tobytes()


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_entry_of_the_state_is_written_once(tmp_path: Path, stage: int) -> None:
    """Six ranks hold every shard twice; the files together are no larger than what one rank would write."""
    sizes: list[int] = []
    for layout in ((0, 1, 1), (stage, 3, 2)):
        path = tmp_path / f"step_{len(sizes)}"

        def main(world: World, layout: tuple[int, int, int] = layout, path: Path = path) -> None:
            zero = wrapped(world, layout, nn.optim.AdamW, False)
            checkpoint.save(path, world, zero.pieces(), zero.state())

        dist.spawn(main, ranks=layout[1] * layout[2])
        files = [TensorFile(file) for file in path.glob("*.safetensors")]
        sizes.append(sum(file[name].size for file in files for name in file))
    assert sizes[0] == sizes[1]
