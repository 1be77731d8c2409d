"""A tensor-parallel GPT is the plain one: its loss, every gradient, training; on meshes, with ZeRO."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import dist, nn
from minigrad.dist.mesh import Mesh
from minigrad.dist.mesh_zero import MeshZeRO
from minigrad.dist.tensor_parallel import tensor_parallel
from minigrad.dist.tensor_parallel_layout import ParameterPart
from minigrad.dist.world import World
from minigrad.nn.amp import GradScaler
from minigrad.nn.gpt import GPTConfig
from tests.dist.tensor_training import Case, check, loss_of, whole_model


@st.composite
def configs(draw: st.DrawFn) -> GPTConfig:
    heads = draw(st.integers(1, 5))
    return GPTConfig(
        vocabulary=draw(st.integers(2, 11)),
        context=8,
        layers=draw(st.integers(1, 2)),
        heads=heads,
        width=heads * draw(st.integers(1, 3)),
        dropout=draw(st.sampled_from([0.0, 0.3])),
    )


@settings(max_examples=30)
@given(
    config=configs(),
    tensor=st.sampled_from([1, 2, 3, 4]),
    samples=st.integers(1, 3),
    time=st.integers(1, 8),
    sequence=st.booleans(),
    checkpointed=st.booleans(),
    max_norm=st.sampled_from([None, 0.1]),
    algorithm=st.sampled_from(["library", "ring", "ordered"]),
    seed=st.integers(0, 99),
)
def test_equal_to_one_rank(**options):
    check(Case(**options))


@settings(max_examples=20)
@given(
    config=configs(),
    mesh=st.sampled_from([(2, 1), (2, 2), (1, 2), (3, 2), (2, 3)]),
    stage=st.sampled_from([0, 1, 2, 3]),
    sequence=st.booleans(),
    checkpointed=st.booleans(),
    max_norm=st.sampled_from([None, 0.1]),
    seed=st.integers(0, 99),
)
def test_with_zero_on_a_mesh(mesh, **options):
    data, tensor = mesh
    check(Case(data=data, tensor=tensor, samples=3, time=5, **options))


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_norms_of_single_parameters_count_both_axes(stage, sequence):
    """LAMB measures each parameter as a whole, whoever has parts of it."""
    lamb = partial(nn.optim.LAMB, lr=0.01)
    check(Case(data=2, tensor=2, stage=stage, sequence=sequence, optimizer=lamb, max_norm=0.2))


def test_what_all_ranks_have_is_measured_once():
    """(LAMB's ratio of two norms would not show it.)"""

    def main(world: World) -> np.ndarray:
        mesh = Mesh(world, data=2, pipeline=1, tensor=3)
        model = tensor_parallel(whole_model(Case()), mesh.axis("tensor"))
        zero = MeshZeRO(model, nn.optim.LAMB(model.parameters()), mesh, stage=1, max_norm=1.0)
        squares = np.ones((2, len(zero.optimizer.parameters)))
        zero._sum_squares(squares)
        parts = [isinstance(parameter, ParameterPart) for parameter in zero.optimizer.parameters]
        np.testing.assert_array_equal(squares, [np.where(parts, 6.0, 2.0)] * 2)
        return squares

    dist.spawn(main, ranks=6)


@pytest.mark.parametrize("sequence", [False, True])
def test_uneven_everything(sequence):
    """3 heads on 2 ranks, 257 words on 4, 7 tokens on 3; fewer heads, words and tokens than ranks."""
    config = GPTConfig(vocabulary=257, context=7, layers=1, heads=3, width=12, dropout=0.2)
    for tensor in (2, 3, 4):
        check(Case(config=config, tensor=tensor, time=7, samples=2, sequence=sequence))
    few = replace(config, vocabulary=2, heads=1, width=4)
    check(Case(config=few, tensor=4, time=2, samples=2, sequence=sequence))


@pytest.mark.parametrize("stage", [0, 1])
def test_an_overflow_on_one_rank_is_everybodys(stage):
    """A part that overflowed on one tensor-parallel rank: all leave the step out, and halve the scale."""
    case = Case(stage=stage, tensor=3)

    def main(world: World) -> None:
        mesh = Mesh(world, data=1, pipeline=1, tensor=3)
        model = tensor_parallel(whole_model(case), mesh.axis("tensor"))
        before = {name: p.data.copy() for name, p in model.named_parameters()}
        scaler = GradScaler(init_scale=4.0)
        optimizer = nn.optim.AdamW(model.parameters(), lr=0.01)
        zero = MeshZeRO(model, optimizer, mesh, stage=stage, scaler=scaler, max_norm=1.0)
        scaler.scale(loss_of(model, case, 0, range(3))).backward()
        if world.rank == 1:
            model.h[0].mlp.c_fc.weight.grad.data[0, 0] = np.inf
        zero.step()
        assert scaler.get_scale() == 2.0
        for name, parameter in model.named_parameters():
            np.testing.assert_array_equal(parameter.data, before[name])
        scaler.scale(loss_of(model, case, 0, range(3))).backward()
        norm = zero.step()
        plain = whole_model(case)
        loss_of(plain, case, 0, range(3)).backward()
        expected = nn.utils.clip_grad_norm_(list(plain.parameters()), 1.0)
        assert norm is not None
        np.testing.assert_allclose(float(norm), expected.item(), rtol=1e-10)

    dist.spawn(main, ranks=3)
