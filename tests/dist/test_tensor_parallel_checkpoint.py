"""Checkpoints of tensor-parallel runs: saved on one mesh, loaded on another or as a plain GPT, to the bit."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from minigrad import dist, nn
from minigrad.dist import checkpoint
from minigrad.dist.mesh import Mesh
from minigrad.dist.mesh_zero import MeshZeRO
from minigrad.dist.tensor_parallel import tensor_parallel
from minigrad.dist.verbs import balanced_counts
from minigrad.dist.world import World
from minigrad.nn.gpt import GPT
from tests.dist.tensor_training import Case, State, gathered, loss_of, reference, whole_model

CASE = Case(samples=4, max_norm=0.3)


def start(world: World, case: Case) -> tuple[MeshZeRO, Mesh]:
    mesh = Mesh(world, data=case.data, pipeline=1, tensor=case.tensor)
    model = tensor_parallel(whole_model(case), mesh.axis("tensor"), sequence=case.sequence)
    optimizer = nn.optim.AdamW(model.parameters(), lr=0.01)
    zero = MeshZeRO(model, optimizer, mesh, stage=case.stage or 0, max_norm=case.max_norm, bucket_bytes=300)
    return zero, mesh


def steps(zero: MeshZeRO, mesh: Mesh, case: Case, numbers: range) -> State:
    axis = mesh.axis("data")
    first = sum(balanced_counts(case.samples, axis.size)[: axis.rank])
    rows = range(first, first + balanced_counts(case.samples, axis.size)[axis.rank])
    for step in numbers:
        loss_of(zero.module, case, step, rows).backward()
        zero.step()
    with zero.gathered():
        return gathered(zero.module)


def first_half(world: World, case: Case, path: Path) -> State:
    zero, mesh = start(world, case)
    state = steps(zero, mesh, case, range(2))
    checkpoint.save(path, world, zero.pieces(), zero.state())
    return state


def second_half(world: World, case: Case, path: Path) -> tuple[State, State]:
    zero, mesh = start(world, replace(case, seed=9))  # other values, which loading replaces
    zero.loaded(checkpoint.load(path, world, zero.pieces()))
    with zero.gathered():
        loaded = gathered(zero.module)
    return loaded, steps(zero, mesh, case, range(2, 4))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"data": 2, "tensor": 2, "stage": 1}, {"data": 1, "tensor": 3, "stage": 0}),
        ({"data": 1, "tensor": 3, "stage": 0}, {"data": 3, "tensor": 2, "stage": 2}),
        ({"data": 2, "tensor": 2, "stage": 3}, {"data": 3, "tensor": 1, "stage": 3}),
        ({"data": 3, "tensor": 1, "stage": 1}, {"data": 1, "tensor": 4, "stage": 1, "sequence": True}),
    ],
)
def test_from_mesh_to_mesh(tmp_path, before, after):
    path = tmp_path / "step_000002"
    case, other = replace(CASE, **before), replace(CASE, **after)
    [saved, *_] = dist.spawn(first_half, ranks=case.data * case.tensor, arguments=(case, path))
    expected = reference(replace(CASE, steps=4)).values
    for loaded, final in dist.spawn(second_half, ranks=other.data * other.tensor, arguments=(other, path)):
        for name, value in saved.items():
            np.testing.assert_array_equal(loaded[name], value, err_msg=name)
            np.testing.assert_allclose(final[name], expected[name], rtol=1e-10, atol=1e-10, err_msg=name)
    plain = GPT(CASE.config, dtype="float64")
    plain.load_state_dict({name: saved[name] for name in plain.state_dict()})
    arrays = checkpoint.read(path, prefix="model.")
    for name, parameter in plain.named_parameters():
        np.testing.assert_array_equal(arrays[name], parameter.data, err_msg=name)
    moments = checkpoint.read(path, prefix="optimizer.")
    shapes = {name: p.shape for name, p in plain.named_parameters()}
    assert {name: m.shape for name, m in moments.items()} == {
        f"{name}.{kind}": shape for name, shape in shapes.items() for kind in ("exp_avg", "exp_avg_sq")
    }


def test_a_plain_run_goes_on_in_parallel(tmp_path):
    """A checkpoint of ZeRO over the plain model loads as parts: names and shapes are the same."""

    def plain(world: World, path: Path) -> None:
        from minigrad.dist.zero import ZeRO

        model = whole_model(CASE)
        zero = ZeRO(model, nn.optim.AdamW(model.parameters(), lr=0.01), world, stage=2, max_norm=0.3)
        for step in range(2):
            rows = range(2 * world.rank, 2 * world.rank + 2)
            loss_of(model, CASE, step, rows).backward()
            zero.step()
        checkpoint.save(path, world, zero.pieces(), zero.state())

    path = tmp_path / "step_000002"
    dist.spawn(partial(plain, path=path), ranks=2)
    expected = reference(replace(CASE, steps=4)).values
    case = replace(CASE, tensor=2, data=2, stage=1)
    for _, final in dist.spawn(second_half, ranks=4, arguments=(case, path)):
        for name, value in final.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-10, atol=1e-10, err_msg=name)
