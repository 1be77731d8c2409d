"""One small real training in which everything meets: range test, accumulation, plateau, averaging."""

import numpy as np
import pytest

from minigrad import nn, random
from minigrad.graph import no_grad
from minigrad.nn import augment, averaging, datasets, lr_scheduler
from minigrad.nn.checks import check_step
from minigrad.nn.data import DataLoader, TensorDataset
from minigrad.ops import tensor

pytest.importorskip("sklearn")


def convnet() -> nn.Sequential:
    random.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def figures(model: nn.Module, data: TensorDataset) -> tuple[float, float]:
    """Loss and the share of right answers."""
    model.eval()
    images, labels = data.arrays
    with no_grad():
        logits = model(tensor(images))
        loss = nn.functional.cross_entropy(logits, labels).item()
    model.train()
    return loss, float((logits.numpy().argmax(1) == labels).mean())


def test_digits_with_a_range_test_accumulation_plateau_averaging_and_batch_norm():
    train, test = datasets.digits(seed=1)
    model, parts = convnet(), 2
    optimizer = nn.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9, weight_decay=1e-4)
    loader = DataLoader(
        train, 64, shuffle=True, seed=2, prefetch=2, transform=augment.on_first(augment.random_shift(1))
    )

    def train_step(step: int) -> float:
        """Gradients of the parts of a batch add up to those of a mean over all of it."""
        images, labels = loader.batch(step)
        total = 0.0
        optimizer.zero_grad()
        for part in np.array_split(np.arange(len(labels)), parts):
            loss = nn.functional.cross_entropy(model(tensor(images[part])), labels[part], reduction="sum")
            (loss / len(labels)).backward()
            total += loss.item() / len(labels)
        if step == 0:
            check_step(model, optimizer)
        optimizer.step()
        return total

    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    steps = iter(range(1000))
    found = lr_scheduler.range_test(
        lambda: train_step(next(steps)), optimizer, start=1e-3, stop=10.0, steps=40, module=model
    )
    assert 0.005 < found.steepest < 2.0
    assert all((value.numpy() == before[name]).all() for name, value in model.state_dict().items())

    rate = min(found.steepest, 0.1)
    optimizer.param_groups[0]["lr"] = rate
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.3)
    losses = []
    for epoch in range(4):
        for step in range(epoch * len(loader), (epoch + 1) * len(loader)):
            train_step(step)
        losses.append(figures(model, test)[0])
        plateau.step(losses[-1])
    cuts = sum(now > 0.7 * min(losses[:i]) for i, now in enumerate(losses) if i)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rate * 0.5**cuts)

    averaged, swa = averaging.AveragedModel(model), lr_scheduler.SWALR(optimizer, rate / 2, anneal_epochs=2)
    for epoch in range(4, 7):
        for step in range(epoch * len(loader), (epoch + 1) * len(loader)):
            train_step(step)
        averaged.update_parameters(model)
        swa.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rate / 2)
    first, norm, *_ = averaged.module.children()
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    stale = norm.running_mean.numpy().copy()
    plain = DataLoader(train, 100)
    averaging.update_bn((tensor(x) for x, _ in plain), averaged)
    with no_grad():
        means = [first(tensor(x)).numpy().mean((0, 2, 3)) for x, _ in plain]
    np.testing.assert_allclose(norm.running_mean.numpy(), np.mean(means, 0), rtol=1e-4, atol=1e-5)
    assert np.abs(stale - np.mean(means, 0)).max() > 1e-4
    assert figures(averaged, test)[1] > 0.95
    assert figures(averaged, test)[0] < losses[0]


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_accumulated_gradients_are_those_of_the_whole_batch(parts):
    images, labels = (array[:17] for array in datasets.digits()[0].arrays)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()
    whole = nn.functional.cross_entropy(model(tensor(images.astype("float64"))), labels)
    whole.backward()
    expected = [p.grad.numpy().copy() for p in model.parameters()]
    model.zero_grad()
    for part in np.array_split(np.arange(17), parts):
        logits = model(tensor(images[part].astype("float64")))
        (nn.functional.cross_entropy(logits, labels[part]) * (len(part) / 17)).backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        np.testing.assert_allclose(parameter.grad.numpy(), gradient, rtol=1e-11, atol=1e-14)
