"""Batch norm over ranks: the same as one rank on the whole batch, however it is dealt out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import dist, nn
from minigrad.dist.sync_batch_norm import SyncBatchNorm
from minigrad.errors import UsageError
from minigrad.nn.layers.batch_norm import BatchNorm, BatchNorm1d, BatchNorm2d
from minigrad.ops import tensor

CHANNELS = 3


def run(norm: BatchNorm, x: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Two training passes, the second with gradients of Σ weights · out, then one in evaluation."""
    assert norm.weight is not None
    assert norm.bias is not None
    norm.weight.assign(np.arange(1.0, CHANNELS + 1))
    norm(tensor(x * 3.0 + 1.0))
    leaf = tensor(x, requires_grad=True)
    out = norm(leaf)
    (out * tensor(weights)).sum().backward()
    found = {"out": out.numpy(), "x": leaf.grad.numpy()}  # type: ignore[union-attr]
    found |= {"weight": norm.weight.grad.numpy(), "bias": norm.bias.grad.numpy()}  # type: ignore[union-attr]
    found |= {name: buffer.numpy().copy() for name, buffer in norm.named_buffers()}
    found["eval"] = norm.eval()(tensor(x)).numpy()
    return found


def values(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    return random.normal(size=shape) * 4.0 + 100.0, random.normal(size=shape)


@settings(max_examples=30, deadline=None)
@given(
    ranks=st.sampled_from([1, 2, 3, 4, 5, 7]),
    shares=st.lists(st.integers(0, 3), min_size=7, max_size=7),
    places=st.sampled_from([(), (2,), (2, 3)]),
    momentum=st.sampled_from([0.1, None]),
)
def test_any_deal_equals_one_rank(ranks, shares, places, momentum):
    shares = shares[:ranks]
    shares[-1] = max(shares[-1], 2 - sum(shares[:-1]), 0)
    stops = np.cumsum(shares)
    x, weights = values((int(stops[-1]), CHANNELS, *places))
    kind = BatchNorm2d if len(places) == 2 else BatchNorm1d
    whole = run(kind(CHANNELS, momentum=momentum, dtype="float64"), x, weights)

    def main(world: dist.World) -> dict[str, np.ndarray]:
        own = slice(stops[world.rank] - shares[world.rank], stops[world.rank])
        return run(
            SyncBatchNorm(CHANNELS, momentum=momentum, world=world, dtype="float64"), x[own], weights[own]
        )

    parts = dist.spawn(main, ranks=ranks)
    for name in ("out", "x", "eval"):
        np.testing.assert_allclose(
            np.concatenate([part[name] for part in parts]), whole[name], rtol=1e-10, atol=1e-10
        )
    for name in ("weight", "bias"):  # gradients of parameters are each rank's own, to be summed
        np.testing.assert_allclose(sum(part[name] for part in parts), whole[name], rtol=1e-10, atol=1e-10)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        for part in parts:
            np.testing.assert_allclose(part[name], whole[name], rtol=1e-10)


def test_statistics_of_each_rank_alone_would_be_seen():
    """The test above can fail: without the messages, four ranks differ from one."""
    x, weights = values((8, CHANNELS))
    whole = run(BatchNorm1d(CHANNELS, dtype="float64"), x, weights)
    alone = [
        run(BatchNorm1d(CHANNELS, dtype="float64"), x[i : i + 2], weights[i : i + 2]) for i in (0, 2, 4, 6)
    ]
    assert np.abs(np.concatenate([part["out"] for part in alone]) - whole["out"]).max() > 0.1


def test_converting_keeps_parameters_names_and_sharing():
    norm = BatchNorm2d(2)
    model = nn.Sequential(nn.Sequential(norm), nn.ReLU(), norm)
    before = dict(model.named_parameters())

    def main(world: dist.World) -> list[str]:
        changed = SyncBatchNorm.convert_sync_batchnorm(model, world)
        assert changed is model
        assert model[0][0] is model[2]
        assert isinstance(model[2], SyncBatchNorm)
        assert all(before[name] is parameter for name, parameter in model.named_parameters())
        return list(model.state_dict())

    assert dist.spawn(main, ranks=1)[0][:2] == ["0.0.weight", "0.0.bias"]


def test_misuse_is_refused():
    def convert(world: dist.World) -> None:
        SyncBatchNorm.convert_sync_batchnorm(nn.Linear(1, 1), world)

    with pytest.raises(UsageError, match="Linear has no BatchNorm"):
        dist.spawn(convert, ranks=1)

    def tiny(world: dist.World) -> None:
        SyncBatchNorm(1, world=world)(tensor(np.ones((1 - world.rank, 1), "float32")))

    with pytest.raises(UsageError, match="all ranks together have one value"):
        dist.spawn(tiny, ranks=2)


def test_two_messages_there_and_two_back_carry_numbers_of_channels_alone():
    """Sums and the count, then squares; backwards the cotangents of both. None in evaluation."""
    channels, size = 5, 8

    def main(world: dist.World) -> list[tuple[str, int]]:
        norm = SyncBatchNorm(channels, world=world, dtype="float64")
        x = tensor(np.random.default_rng(world.rank).normal(size=(4, channels, 6)), requires_grad=True)
        norm(x).sum().backward()
        norm.eval()(x)
        return [(verb, entry.bytes_sent) for (verb, _), entry in world.ledger.by_kind.items()]

    for booked in dist.spawn(main, ranks=3):
        assert booked == [("all_reduce", 2 * (channels + 1 + channels) * size)]
