"""Data in batches: which samples a batch holds is a function of the seed and the step, and of nothing else.

So a run that stops can go on with the next batch, and any number of ranks, each taking its part, sees the
same whole batches. Samples are dealt from one shuffle of all data for each epoch.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy
from numpy.typing import NDArray

from minigrad import random
from minigrad.errors import UsageError
from minigrad.nn.text import balanced_slice
from minigrad.tensor import Tensor

Integers = NDArray[numpy.int64]
Transform = Callable[[Any, numpy.random.Generator], Any]


class Dataset(Protocol):
    """Samples by number: anything with a length and an index, such as a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class TensorDataset:
    """Rows of arrays of one length: sample i is the tuple of their rows i. Batches are cut in one go."""

    def __init__(self, *arrays: Any) -> None:
        self.arrays = tuple(numpy.asarray(a.numpy() if isinstance(a, Tensor) else a) for a in arrays)
        lengths = [len(a) if a.ndim else 0 for a in self.arrays]
        if not lengths or len(set(lengths)) > 1:
            raise UsageError(f"TensorDataset: expected arrays of one length, got lengths {lengths}")

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        return tuple(a[index] for a in self.arrays)


def collate(samples: Sequence[Any]) -> Any:
    """Samples side by side: numbers and arrays are stacked, tuples, lists and mappings entry by entry."""
    first = samples[0]
    if isinstance(first, Mapping):
        return {key: collate([sample[key] for sample in samples]) for key in first}
    if isinstance(first, tuple | list):
        return tuple(collate(parts) for parts in zip(*samples, strict=True))
    return numpy.stack([x.numpy() if isinstance(x, Tensor) else numpy.asarray(x) for x in samples])


class DataLoader:
    """Batches of a dataset, for one rank of several.

    `batch_size` is that of all ranks together; rank r gets a part of it, as even as can be. With `shuffle`
    each epoch has an order of its own, a function of the seed. The last batch of an epoch is shorter, unless
    `drop_last` leaves it out. `transform(sample, generator)` changes samples, with random numbers that are a
    function of seed, epoch and sample. `prefetch` batches are made ahead by a thread.

    Iterating gives the rest of the present epoch; `batch(step)` any batch at all. `state_dict` says where the
    loader is.

    >>> loader = DataLoader(TensorDataset(range(10)), 4, shuffle=True, seed=1)
    >>> [len(x) for (x,) in loader], len(loader)
    ([4, 4, 2], 3)
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        ranks: int = 1,
        transform: Transform | None = None,
        collate: Callable[[Sequence[Any]], Any] = collate,
        prefetch: int = 0,
    ) -> None:
        if batch_size < 1 or prefetch < 0:
            raise UsageError(
                f"DataLoader: expected batch_size ≥ 1 and prefetch ≥ 0, got {batch_size}, {prefetch}"
            )
        if not 0 <= rank < ranks:
            raise UsageError(f"DataLoader: rank {rank} is none of {ranks}")
        self.dataset, self.batch_size, self.shuffle, self.seed = dataset, batch_size, shuffle, seed
        self.rank, self.ranks, self.prefetch = rank, ranks, prefetch
        self.transform, self.collate = transform, collate
        count = len(dataset)
        self.steps = count // batch_size if drop_last else -(-count // batch_size)
        if not self.steps:
            raise UsageError(f"DataLoader: {count} samples make no batch of {batch_size}")
        self.step = 0
        self._shuffled: tuple[int, Integers] | None = None

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self.steps

    @property
    def epoch(self) -> int:
        return self.step // self.steps

    def whole(self, step: int) -> Integers:
        """The numbers of all samples in the batch of one step, of all ranks."""
        epoch, place = divmod(step, self.steps)
        return self._order(epoch)[place * self.batch_size : (place + 1) * self.batch_size]

    def places(self, step: int) -> range:
        """Which rows of the whole batch this rank has: what `minigrad.random.scope` takes as samples."""
        count = len(self.whole(step))
        return range(count)[balanced_slice(count, self.ranks, self.rank)]

    def batch(self, step: int) -> Any:
        """This rank's part of the batch of one step."""
        places = self.places(step)
        numbers = self.whole(step)[places.start : places.stop]
        if isinstance(self.dataset, TensorDataset) and self.transform is None:
            return self.dataset[numbers]
        samples = [self._sample(int(number), step // self.steps) for number in numbers]
        if samples:
            return self.collate(samples)
        return _emptied(self.collate([self._sample(0, 0)]))  # a rank without samples gets their shapes

    def _sample(self, number: int, epoch: int) -> Any:
        sample = self.dataset[number]
        if self.transform is None:
            return sample
        return self.transform(sample, random.generator(self.seed, "sample", epoch, number))

    def _order(self, epoch: int) -> Integers:
        if self._shuffled is None or self._shuffled[0] != epoch:
            order = numpy.arange(len(self.dataset))
            if self.shuffle:
                # By sorting raw words: what a generator shuffles to may change between versions of NumPy.
                source = numpy.random.Philox(key=random.key(self.seed, "shuffle", epoch))
                order = numpy.argsort(source.random_raw(len(order)), kind="stable")
            self._shuffled = (epoch, order)
        return self._shuffled[1]

    def __iter__(self) -> Iterator[Any]:
        """The batches from the present step to the end of its epoch."""
        steps = range(self.step, (self.epoch + 1) * self.steps)
        for step, batch in zip(
            steps, self._ahead(steps) if self.prefetch else map(self.batch, steps), strict=True
        ):
            self.step = step + 1
            yield batch

    def _ahead(self, steps: range) -> Iterator[Any]:
        """The same batches, made by a thread while the last one is used."""
        made: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(self.prefetch)
        stop = threading.Event()

        def put(item: tuple[Any, BaseException | None]) -> None:
            while not stop.is_set():
                try:
                    return made.put(item, timeout=0.1)
                except queue.Full:
                    continue

        def work() -> None:
            try:
                for step in steps:
                    if stop.is_set():
                        return
                    put((self.batch(step), None))
            except BaseException as error:  # it is raised where the batch was asked for
                put((None, error))

        thread = threading.Thread(target=work, name="minigrad data", daemon=True)
        thread.start()
        try:
            for _ in steps:
                batch, error = made.get()
                if error is not None:
                    raise error
                yield batch
        finally:
            stop.set()
            thread.join()

    def state_dict(self) -> dict[str, int]:
        """Where the loader is, and what its batches depend on."""
        return {
            "step": self.step,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "samples": len(self.dataset),
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where `state` was. Raises UsageError if its batches would have been other ones."""
        own = self.state_dict()
        other = [name for name in own if name != "step" and state.get(name) != own[name]]
        if other or state.get("step", -1) < 0:
            text = ", ".join(f"{name} {state.get(name)} and not {own[name]}" for name in other)
            raise UsageError(f"this state is of other batches: {text or 'it has no step'}")
        self.step = state["step"]


def _emptied(batch: Any) -> Any:
    if isinstance(batch, dict):
        return {key: _emptied(value) for key, value in batch.items()}
    return tuple(map(_emptied, batch)) if isinstance(batch, tuple) else batch[:0]
