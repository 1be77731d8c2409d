"""Slices of tokens, through stages and over tensor-parallel ranks, give what whole sequences give."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dist, nn, random
from minigrad.dist.mesh import Mesh
from minigrad.dist.partitioning_tokens import slice_tokens
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.single import SingleWorld
from minigrad.dist.tensor_parallel import tensor_parallel
from minigrad.dist.tensor_parallel_layout import ParameterPart
from minigrad.dist.token_parallel import clip_grad_norm_, token_layers, token_loss
from minigrad.dist.world import World
from minigrad.errors import CommunicationError, UsageError
from minigrad.nn.gpt import GPT, GPTConfig
from tests.dist.tensor_training import ADAMW, Case, Result, batch, gradient, reference, whole_model

LENGTH = 12
CONFIG = GPTConfig(vocabulary=7, context=LENGTH, layers=2, heads=3, width=6)
CASE = Case(CONFIG, samples=2, time=LENGTH, max_norm=0.2)


def train(world: World, case: Case, stages: int, chunks: int, options: dict[str, Any]) -> Result:
    """This rank's part: its stage of its matrices."""
    mesh = Mesh(world, pipeline=stages, tensor=case.tensor)
    model = tensor_parallel(whole_model(case), mesh.axis("tensor"), sequence=case.sequence)
    pipeline = Pipeline(
        token_layers(model, length=case.time),
        loss=token_loss(model),
        world=mesh.axis("pipeline"),
        chunks=chunks,
        **options,
    )
    optimizer = ADAMW(pipeline.parameters())
    found = Result({}, {}, [], [])
    for step in range(case.steps):
        with random.scope(seed=case.seed, step=step, samples=range(case.samples)):
            found.losses.append(float(pipeline.step(*batch(case, step))))
        if step == 0:
            found.gradients = whole(pipeline, mesh.axis("tensor"), gradients=True)
        found.norms.append(float(clip_grad_norm_(pipeline, model, case.max_norm or 1.0)))
        optimizer.step()
        optimizer.zero_grad()
    found.values = whole(pipeline, mesh.axis("tensor"))
    return found


def whole(pipeline: Pipeline, world: World, *, gradients: bool = False) -> dict[str, np.ndarray]:
    """This stage's parameters, or their gradients, joined over tensor-parallel ranks."""
    found = {}
    for name, parameter in pipeline.named_parameters():
        array = gradient(parameter) if gradients else parameter.data
        if isinstance(parameter, ParameterPart):
            array = parameter.layout.join(array, world)
        found[name] = array.copy()
    return found


def check(case: Case, stages: int, chunks: int, **options: Any) -> None:
    expected = reference(case)
    for state in (expected.values, expected.gradients):
        state["lm_head.weight"] = state["wte.weight"]
    arguments = (case, stages, chunks, options)
    seen: set[str] = set()
    for found in dist.spawn(train, ranks=stages * case.tensor, arguments=arguments):
        np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-10)
        np.testing.assert_allclose(found.norms, expected.norms, rtol=1e-10)
        for own, every in ((found.gradients, expected.gradients), (found.values, expected.values)):
            for name, value in own.items():
                np.testing.assert_allclose(value, every[name], rtol=1e-10, atol=1e-10, err_msg=name)
        seen |= set(found.values)
    assert seen >= set(expected.values) - {"lm_head.weight"}


@st.composite
def slicings(draw: st.DrawFn) -> list[int]:
    cuts = sorted(draw(st.sets(st.integers(1, LENGTH - 1), max_size=4)))
    return [stop - start for start, stop in zip([0, *cuts], [*cuts, LENGTH], strict=True)]


@settings(max_examples=25)
@given(
    mesh=st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (4, 1), (2, 3), (1, 4)]),
    slices=slicings(),
    chunks=st.integers(1, 2),
    sequence=st.booleans(),
    dropout=st.sampled_from([0.0, 0.3]),
    recompute=st.booleans(),
)
def test_equal_to_whole_sequences_on_one_rank(mesh, slices, chunks, sequence, dropout, recompute):
    case = replace(CASE, config=replace(CONFIG, dropout=dropout), tensor=mesh[1], sequence=sequence)
    check(case, mesh[0], chunks, schedule="terapipe", slices=slices, recompute=recompute)


def test_the_instance_of_the_paper_with_the_planners_slices():
    slices = slice_tokens(lambda l, c: max(4, l) + 0.0625 * l * (c + (l + 1) / 2), LENGTH, 4).slices  # noqa: E741
    assert slices == [5, 4, 3]
    check(replace(CASE, tensor=1), 2, 1, schedule="terapipe", slices=slices)


@settings(max_examples=12)
@given(
    schedule=st.sampled_from(["naive", "gpipe", "1f1b", "zb-h1", "zb-h2"]),
    mesh=st.sampled_from([(2, 2), (3, 2), (2, 3)]),
    sequence=st.booleans(),
    recompute=st.booleans(),
    dropout=st.sampled_from([0.0, 0.3]),
)
def test_other_schedules_over_tensor_parallel_ranks(schedule, mesh, sequence, recompute, dropout):
    config = replace(CONFIG, dropout=dropout)
    case = replace(CASE, samples=4, config=config, tensor=mesh[1], sequence=sequence)
    check(case, mesh[0], 3, schedule=schedule, recompute=recompute)


def test_interleaved_stages():
    check(replace(CASE, samples=4), 2, 4, schedule="interleaved", balance=[2, 1, 1, 2])


def test_gradients_of_earlier_keys_come_from_later_slices():
    """A loss of the last slice's tokens only moves the keys and values of the first one."""

    def main(world: World, slices: list[int]) -> np.ndarray:
        model = tensor_parallel(whole_model(CASE), SingleWorld())

        def last_token(logits: mg.Tensor, targets: Any) -> mg.Tensor:
            return mg.sum(logits[:, -1]) * float(targets.data[0, -1])

        pipeline = Pipeline(
            token_layers(model), loss=last_token, slices=slices, schedule="terapipe", world=world
        )
        marks = np.zeros((2, LENGTH))
        marks[:, -1] = LENGTH / slices[-1]  # a slice's loss counts by its share of the tokens
        pipeline.step(batch(CASE, 0)[0], mg.tensor(marks))
        gradient = model.h[0].attn.c_attn.weight.grad
        assert gradient is not None
        return gradient.data.copy()

    [expected] = dist.spawn(main, ranks=1, arguments=([12],))
    [sliced] = dist.spawn(main, ranks=1, arguments=([5, 4, 3],))
    np.testing.assert_allclose(sliced, expected, rtol=1e-10, atol=1e-13)


# ------------------------------------------------------------------------------------------ misuse


def test_what_looks_ahead_is_refused():
    encoder = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)

    def main(world: World) -> None:
        Pipeline([nn.Linear(3, 4), encoder], schedule="terapipe", slices=[2, 2], world=world)

    with pytest.raises(UsageError, match=r"layer 1 \(TransformerEncoderLayer\) may look at other tokens"):
        dist.spawn(main, ranks=1)


@pytest.mark.parametrize(
    ("config", "tokens", "message"),
    [
        (replace(CONFIG, context=9), 12, "tokens 9 to 11 do not fit a context of 9"),
        (replace(CONFIG, dropout=0.1), 12, "got a slice of one of unknown length"),
    ],
)
def test_slices_that_do_not_fit(config, tokens, message):
    def main(world: World) -> None:
        model = tensor_parallel(GPT(config), world)
        pipeline = Pipeline(
            token_layers(model), loss=token_loss(model), slices=[5, 4, 3], schedule="terapipe", world=world
        )
        pipeline.step(np.zeros((1, tokens), dtype=int), np.zeros((1, tokens), dtype=int))

    with pytest.raises(CommunicationError, match=message):
        dist.spawn(main, ranks=1)
