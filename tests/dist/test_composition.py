"""Data × pipeline × tensor: every combination trains as one rank does."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import dist, nn
from minigrad.dist.mesh import Mesh
from minigrad.dist.mesh_gpt import MeshGPT, divide
from minigrad.dist.tensor_parallel_layout import ParameterPart
from minigrad.dist.world import World
from minigrad.errors import UsageError
from minigrad.nn.amp import GradScaler
from minigrad.nn.gpt import GPT
from tests.dist.mesh_training import ADAMW, CONFIG, Case, assembled, build, check, copied, learn, train

SCHEDULES = ("naive", "gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "terapipe")
NO_DROPOUT = replace(CONFIG, dropout=0.0)


@st.composite
def cases(draw: Any) -> Case:
    """Every schedule with a flush, on every mesh, at every stage; only what papers exclude is left out."""
    schedule = draw(st.sampled_from(SCHEDULES))
    data, tensor = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    pipeline = draw(st.integers(1, 3))
    microbatches = draw(st.sampled_from([1, max(1, pipeline - 1), pipeline, 2 * pipeline + 1]))
    options = {"schedule": schedule, "recompute": draw(st.booleans())}
    if schedule == "interleaved":
        microbatches = draw(st.sampled_from([pipeline, 2 * pipeline]))
        options["virtual"] = 2
    if schedule == "terapipe":
        options["slices"] = draw(st.integers(1, 4))
    options["microbatches"] = microbatches
    stage = draw(st.integers(0, 3))
    samples = draw(st.sampled_from([9, 14]))
    samples = samples if samples // data >= microbatches else 14
    config = draw(st.sampled_from([CONFIG, NO_DROPOUT]))
    return Case(samples, data, pipeline, tensor, config, options=options, zero={"stage": stage})


@settings(max_examples=30, deadline=None)
@given(case=cases())
def test_every_mesh_trains_as_one_rank_does(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("stage", [0, 2])
def test_optimizers_that_measure_each_parameter_see_all_of_it(stage: int) -> None:
    lamb = partial(nn.optim.LAMB, lr=0.01)
    options = {"microbatches": 2}
    check(Case(5, 2, 2, 2, optimizer=lamb, options=options, zero={"stage": stage}))


def test_ordered_sums_are_the_same_to_the_bit_at_every_stage() -> None:
    found = []
    for stage in range(4):
        options = {"stage": stage, "algorithm": "ordered"}
        case = Case(5, 2, 2, 2, options={"algorithm": "ordered"}, zero=options)
        found.append(dist.spawn(train, ranks=8, arguments=(case,)))
    norms = [[result.norms for result in results] for results in found]
    assert norms[1:] == norms[:1] * 3
    arrays = [assembled([result.pieces for result in results]) for results in found]
    for other in arrays[1:]:
        for name, value in arrays[0].items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("algorithm", ["ring", "halving"])
def test_copies_of_a_tied_embedding_stay_alike_to_the_bit_on_three_data_ranks(
    stage: int, algorithm: str
) -> None:
    """The two lie at different places of different buckets; `compare` sees whether one bit is different."""
    for bucket_bytes in (300, 3000):
        options = {"stage": stage, "algorithm": algorithm, "bucket_bytes": bucket_bytes}
        check(Case(7, 3, 2, options={"microbatches": 2}, zero=options))


@pytest.mark.parametrize("mixed", [False, True], ids=["float64", "mixed"])
@pytest.mark.parametrize("coordinates", [{"pipeline": 0, "tensor": 1}, {"pipeline": 1, "tensor": 0}])
def test_what_is_not_finite_on_one_rank_is_left_out_by_all(coordinates: dict[str, int], mixed: bool) -> None:
    case = Case(3, pipeline=2, tensor=2, options={"microbatches": 2}, dtype="float16" if mixed else "float64")

    def main(world: World) -> tuple[list[float], bool]:
        scaler = GradScaler(init_scale=16.0) if mixed else None
        zero_options = {"scaler": scaler, "master": "float32"} if mixed else {"finite_only": True}
        part, zero, rows = build(world, replace(case, zero={"stage": 1, **zero_options}))
        before = copied(zero.pieces())
        learn(part, case, rows, 0, scaler)
        if all(part.mesh.coordinates[axis] == place for axis, place in coordinates.items()):
            own = next(p for p in part.module.parameters() if isinstance(p, ParameterPart) and p.size)
            own.grad.data[...] = np.inf  # type: ignore[union-attr]  # it has learned
        norms = [float(zero.step())]  # type: ignore[arg-type]  # there is one, because there is a limit
        alike = all((old.array == new.array).all() for old, new in zip(before, zero.pieces(), strict=True))
        learn(part, case, rows, 1, scaler)
        return [*norms, float(zero.step())], alike  # type: ignore[arg-type]

    for (first, second), alike in dist.spawn(main, ranks=4):
        assert not np.isfinite(first)
        assert alike
        assert 0 < second < np.inf


def test_norms_of_single_parameters_count_every_entry_once() -> None:
    """Optimizers divide one such norm by another, so most would never notice. Copies go by the first's."""
    words = {"wte.weight", "lm_head.weight"}

    def main(world: World) -> None:
        part, zero, _ = build(world, Case(3, pipeline=2, tensor=2, zero={"stage": 0}))
        stage = part.mesh.coordinates["pipeline"]
        squares = np.full((2, len(zero.optimizer.parameters)), 1.0 + stage)
        zero.optimizer._reduce(squares)  # type: ignore[misc]  # a mesh sets it
        for (name, parameter), found in zip(part.module.named_parameters(), squares[1], strict=True):
            parts = 2 if isinstance(parameter, ParameterPart) else 1
            assert found == parts * (1.0 if name in words else 1.0 + stage), name

    dist.spawn(main, ranks=4)


def test_a_rank_keeps_its_own_stages_only() -> None:
    def main(world: World) -> int:
        part = MeshGPT(GPT(CONFIG), Mesh(world, data=1, pipeline=3, tensor=1), microbatches=3)
        part.share_out(ADAMW(part.module.parameters()))
        return sum(parameter.size for parameter in part.module.parameters())

    whole = sum(parameter.size for parameter in GPT(CONFIG).parameters())
    twice = CONFIG.vocabulary * CONFIG.width  # the token embedding, which is the output layer as well
    found = dist.spawn(main, ranks=3)
    assert sum(found) == whole + twice
    assert max(found) < whole / 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranks": 8}, r"8 stages \(8 ranks × 1 each\) cannot share 7 layers: 3 blocks"),
        ({"ranks": 2, "virtual": 4, "schedule": "interleaved", "microbatches": 2}, "8 stages .* 7 layers"),
        (
            {"ranks": 2, "virtual": 2, "schedule": "interleaved", "microbatches": 3},
            "3 .* no multiple of 2",
        ),
        ({"ranks": 2, "schedule": "pipedream"}, "pipedream has no flush"),
        ({"ranks": 2, "schedule": "2bw", "microbatches": 2}, "2bw has no flush"),
        ({"ranks": 2, "schedule": "terapipe", "slices": 7}, "7 token slices cannot share a context of 6"),
        ({"ranks": 2, "schedule": "zb-h3"}, "no schedule 'zb-h3'"),
    ],
)
def test_what_cannot_be_divided_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        divide(GPT(CONFIG, device="shapes"), **options)


def test_stages_get_about_equal_work() -> None:
    """A block is worth many output layers of a few words; the embedding costs nothing."""
    stages = divide(GPT(replace(CONFIG, layers=4), device="shapes"), 2).stages
    assert [sum(name.startswith("h.") for name in names) for names in stages] == [2, 2]


@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize("recompute", [False, True])
def test_stage_3_of_token_slices(tensor: int, recompute: bool) -> None:
    options = {"schedule": "terapipe", "slices": 3, "microbatches": 2, "recompute": recompute}
    check(Case(9, 2, 2, tensor, NO_DROPOUT, options=options, zero={"stage": 3}))


def test_processes(mpirun: Any) -> None:
    result = mpirun(["-m", "tests.dist.composition_mpi"], ranks=4, seconds=120)
    assert result.returncode == 0, result.stderr
    assert "5 runs on 4 ranks" in result.stdout
