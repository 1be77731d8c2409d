"""What a pipeline takes: models that are chains, any number of samples, losses of one number."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.pipeline_stages import ALONE
from minigrad.dist.schedules import SCHEDULES
from minigrad.dist.single import SingleWorld
from minigrad.dist.world import World
from minigrad.errors import UsageError
from tests.dist.pipelines import Case, batch, equal, layers, mean_square, train_alone, train_in_stages

F64: dict[str, Any] = {"dtype": "float64"}
X = np.random.default_rng(0).normal(size=(6, 3))


def linears() -> list[nn.Module]:
    mg.random.manual_seed(0)
    return [nn.Linear(3, 3, **F64) for _ in range(2)]


# ----- Chains -----


class Residual(nn.Module):
    def __init__(self) -> None:
        self.a, self.b = linears()

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        return x + self.b(mg.tanh(self.a(x)))


class Named(nn.Sequential):
    """Derived, with the forward of Sequential."""

    def __init__(self) -> None:
        super().__init__(*linears())


class Skipping(Named):
    def forward(self, x: Any) -> Any:
        return x + super().forward(x)


class Calling(Named):
    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        return super().__call__(*inputs, **keywords) * 2.0


class Looping(nn.ModuleList):
    def forward(self, x: mg.Tensor) -> mg.Tensor:
        for layer in self:
            x = x + layer(x)
        return x


def hooked() -> nn.Module:
    model = Named()
    model.register_forward_hook(lambda module, inputs, output: output * 2.0)
    return model


def patched() -> nn.Module:
    model = Named()
    model.forward = lambda x: x  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(
    "make",
    [
        Named,
        lambda: nn.Sequential({"a": linears()[0], "b": linears()[1]}),
        lambda: nn.ModuleList(linears()),
        lambda: nn.ModuleDict({"a": linears()[0], "b": linears()[1]}),
        linears,
        lambda: tuple(linears()),
        lambda: iter(linears()),
        lambda: dict(enumerate(linears())),
        lambda: {"a.0": linears()[0], "a.1": lambda: linears()[1]},
        lambda: [nn.Sequential(*linears()), nn.Identity()],
    ],
)
def test_chains_are_cut(make: Callable[[], Any], ranks: int) -> None:
    expected = mean_square(nn.Sequential(*linears())(mg.tensor(X)), mg.tensor(X)).item()

    def main(world: World) -> float:
        return float(Pipeline(make(), loss=mean_square, chunks=2, world=world).step(X, X))

    assert dist.spawn(main, ranks=ranks) == pytest.approx([expected] * ranks, rel=1e-12)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(
    "make",
    [Residual, Skipping, Calling, lambda: Looping(linears()), patched, lambda: nn.Linear(3, 3), hooked],
)
def test_what_may_be_no_chain_is_refused(make: Callable[[], nn.Module], ranks: int) -> None:
    def main(world: World) -> None:
        model = make()
        with pytest.raises(UsageError, match=f"cannot cut {type(model).__name__}|has hooks"):
            Pipeline(model, loss=mean_square, world=world)
        assert not world.ledger.by_kind

    dist.spawn(main, ranks=ranks)


# ----- Any number of stages on a rank, any number of samples -----


def test_the_three_lines_on_a_laptop() -> None:
    case = Case(("dense",) * 4, (2, 2), "1f1b", chunks=8, samples=9)
    expected = train_alone(case)
    for ranks in (1, 2):
        equal(dist.spawn(train_in_stages, ranks=ranks, arguments=(case,)), expected)


@settings(max_examples=30)
@given(
    schedule=st.sampled_from(["naive", "gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2"]),
    ranks=st.integers(1, 4),
    samples=st.integers(1, 7),
    recompute=st.booleans(),
)
def test_fewer_samples_than_microbatches(schedule: str, ranks: int, samples: int, recompute: bool) -> None:
    kinds = ("dense", "keep", "drop", "join", "words", "dense")
    balance = (7 - ranks, *[1] * (ranks - 1))
    case = Case(kinds, balance, schedule, chunks=2 * ranks, samples=samples, recompute=recompute, ranks=ranks)
    equal(dist.spawn(train_in_stages, ranks=ranks, arguments=(case,)), train_alone(case))


@pytest.mark.parametrize("samples", [1, 3])
def test_predictions_for_fewer_samples_than_microbatches(samples: int) -> None:
    case = Case(("dense", "dense"), (1, 1), "1f1b", chunks=4, samples=samples)

    def main(world: World) -> Any:
        model = nn.Sequential(*layers(case.kinds, case.seed))
        return Pipeline(model, chunks=4, world=world).predict(batch(case, 0)[0])

    *_, found = dist.spawn(main, ranks=2)
    values: Any = batch(case, 0)[0]
    for layer in layers(case.kinds, case.seed):
        values = layer(*values)
    np.testing.assert_allclose(found[0].data, values[0].data, rtol=1e-12)
    assert len(found[0]) == samples


def test_a_sum_over_fewer_samples_than_microbatches() -> None:
    def main(world: World, chunks: int) -> tuple[float, list[np.ndarray]]:
        def summed(output: mg.Tensor, target: mg.Tensor) -> mg.Tensor:
            return mg.sum(mg.square(output - target))

        pipeline = Pipeline(linears(), balance=[2], loss=summed, chunks=chunks, world=world)
        loss = float(pipeline.step(X[:2], X[:2], count=2))
        return loss, [p.grad.data.copy() for p in pipeline.parameters() if p.grad is not None]

    [(loss, gradients)], [(whole, expected)] = (
        dist.spawn(main, ranks=1, arguments=(chunks,)) for chunks in (5, 1)
    )
    assert loss == pytest.approx(whole, rel=1e-12)
    for one, other in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name in ("pipedream", "2bw")])
def test_an_update_without_samples_is_refused(name: str) -> None:
    def main(world: World) -> None:
        pipeline = Pipeline(
            linears(),
            chunks=2,
            schedule=name,
            batches=2 if name == "2bw" else 1,
            loss=mean_square,
            optimizer=lambda p: nn.optim.SGD(p, lr=0.1),
            world=world,
        )
        with pytest.raises(UsageError, match=r"a batch of 1 samples, .* leaves none for one of the updates"):
            pipeline.step(X[:1], X[:1])

    dist.spawn(main, ranks=2)


# ----- Statistics -----


@pytest.mark.parametrize(("ranks", "chunks"), [(1, 1), (1, 3), (2, 1), (2, 3)])
def test_plain_averages_of_batches(ranks: int, chunks: int) -> None:
    """Batch normalisation with `momentum=None`: the mean over batches of what each makes of its parts."""

    def main(world: World) -> dict[str, np.ndarray]:
        norm = nn.BatchNorm1d(3, momentum=None, **F64)
        balance = [2, 1] if world.size == 2 else [3]
        chain = [nn.Identity(), norm, nn.Linear(3, 3, **F64)]
        pipeline = Pipeline(chain, balance=balance, chunks=chunks, loss=mean_square, world=world)
        for step in range(3):
            pipeline.step(X * (step + 1) + step, X)
        return {name: x.numpy() for name, x in pipeline.state_dict().items()}

    state = dist.spawn(main, ranks=ranks)[0]
    parts = [np.split(X * (step + 1) + step, chunks) for step in range(3)]
    for name, statistic in (("mean", lambda x: x.mean(0)), ("var", lambda x: x.var(0, ddof=1))):
        expected = np.mean([[statistic(part) for part in one] for one in parts], axis=(0, 1))
        np.testing.assert_allclose(state[f"1.running_{name}"], expected, rtol=1e-12)
    assert state["1.num_batches_tracked"] == 3


class Table(nn.Module):
    """A buffer that nothing changes."""

    def __init__(self) -> None:
        self.table = nn.Buffer(np.arange(3.0))

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        return x + self.table


@pytest.mark.parametrize("ranks", [1, 2])
def test_statistics_that_two_stages_would_learn_are_refused(ranks: int) -> None:
    def main(world: World, make: Callable[[], nn.Module], stages: int) -> Any:
        balance, layer = [2, 2] if stages == 2 else [4], make()
        chain = [nn.Linear(3, 3, **F64), layer, nn.Linear(3, 3, **F64), layer]
        pipeline = Pipeline(chain, balance=balance, chunks=2, loss=mean_square, world=world)
        return float(pipeline.step(X, X))

    def norm() -> nn.Module:
        return nn.BatchNorm1d(3, **F64)

    dist.spawn(main, ranks=1, arguments=(norm, 1))
    dist.spawn(main, ranks=ranks, arguments=(Table, 2))
    dist.spawn(main, ranks=ranks, arguments=(lambda: norm().eval(), 2))
    with pytest.raises(UsageError, match=r"training changes [13].running_mean, which a layer of another"):
        dist.spawn(main, ranks=ranks, arguments=(norm, 2))


# ----- Losses -----


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda output, target: mg.square(output - target), r"returned a tensor of shape \(3, 3\)"),
        (lambda output, target: 0.5, "returned 0.5; it is to return a Tensor of one number"),
        (lambda output, target: None, "returned None"),
    ],
)
def test_losses_that_are_no_number(loss: Any, message: str) -> None:
    def main(world: World) -> None:
        Pipeline(linears(), chunks=2, loss=loss, world=world).step(X, X)

    with pytest.raises(UsageError, match=message):
        dist.spawn(main, ranks=2)


def test_a_loss_of_one_number_in_any_shape() -> None:
    def value(shape: tuple[int, ...]) -> float:
        def loss(output: mg.Tensor, target: mg.Tensor) -> mg.Tensor:
            return mean_square(output, target).reshape(shape)

        pipeline = Pipeline(linears(), balance=[2], chunks=2, loss=loss, world=SingleWorld())
        return float(pipeline.step(X, X))

    assert value((1, 1)) == value((1,)) == value(())


# ----- Slices of tokens -----


class Flipping(nn.Linear):
    def forward(self, x: mg.Tensor) -> mg.Tensor:
        return super().forward(mg.flip(x, axis=1))


class Alone(nn.Module):
    token_by_token = True

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        return x * 2.0


class FlippingToo(Alone):
    """Says nothing itself, and looks at other tokens."""

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        return mg.flip(x, axis=1)


class FlippingSlices(nn.Module):
    tensors_kept = 0

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        return x

    def forward_slice(self, x: mg.Tensor, *, start: int, past: Any) -> Any:
        return x, ()


class FlippingWholes(FlippingSlices):
    def forward(self, x: mg.Tensor) -> mg.Tensor:
        return mg.flip(x, axis=1)


class FlippingChain(nn.Sequential):
    def forward(self, x: Any) -> Any:
        return mg.flip(super().forward(x), axis=1)


class Marked(nn.Linear):
    token_by_token = True


def sliced(layer: nn.Module, lengths: list[int]) -> np.ndarray:
    def run(world: World) -> Any:
        pipeline = Pipeline([layer, nn.Identity()], schedule="terapipe", slices=lengths, world=world)
        x = np.random.default_rng(1).normal(size=(2, 5, 4))
        words = np.random.default_rng(1).integers(0, 4, (2, 5))
        found = pipeline.eval().predict(words if isinstance(layer, nn.Embedding) else x.astype("float32"))
        return None if found is None else found.numpy()

    found: np.ndarray = dist.spawn(run, ranks=2)[-1]
    return found


@pytest.mark.parametrize(
    "layer",
    [
        Flipping(4, 4),
        FlippingToo(),
        FlippingWholes(),
        FlippingChain(nn.Linear(4, 4)),
        nn.Sequential(nn.Linear(4, 4), Flipping(4, 4)),
        nn.LayerNorm((5, 4)),
        nn.RMSNorm((5, 4)),
        nn.BatchNorm1d(5),
        nn.PReLU(5),
        nn.Dropout(0.5),
        nn.Softmax(1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_what_is_derived_from_a_layer_that_sees_tokens_alone_need_not_do_so(layer: nn.Module) -> None:
    with pytest.raises(UsageError, match="may look at other tokens"):
        sliced(layer, [2, 3])


@pytest.mark.parametrize(
    "layer",
    [
        *(kind() for kind in ALONE if kind not in (nn.Linear, nn.Embedding)),  # type: ignore[call-arg]
        *(nn.Linear(4, 2), nn.Embedding(4, 2), nn.LayerNorm(4), nn.RMSNorm(4)),
        *(Alone(), Marked(4, 4), FlippingSlices(), nn.Sequential(nn.Linear(4, 4), nn.Tanh())),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_see_tokens_alone_give_in_slices_what_they_give_whole(layer: nn.Module) -> None:
    np.testing.assert_array_equal(sliced(layer, [2, 1, 2]), sliced(layer, [5]))
