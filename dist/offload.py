"""ZeRO-Offload: the optimizer's states and its step where there is room for them.

Parameters and gradients stay where the model computes; this rank's pieces of them are copied to the host, the
step is taken there, and the new values come back: 2 bytes each way per parameter in half precision, which is
the least that any split between the two can move (Ren et al. 2021, ZeRO-Offload: Democratizing Billion-Scale
Model Training, §3). States may also lie in a memory-mapped file, worked through block by block: then they may
be larger than the memory.
"""

import errno
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from minigrad import backend
from minigrad.dist import staging
from minigrad.dist.agreement import agreed
from minigrad.dist.contiguous import aligned
from minigrad.dist.partition import Bucket
from minigrad.dist.verbs import Array
from minigrad.dist.world import World
from minigrad.errors import UsageError
from minigrad.nn.optim import Optimizer


class StateFile:
    """Flat arrays in one memory-mapped file that disappears with the process.

    Raises UsageError, before anything is written, where the folder is none or has no room for `bytes_needed`;
    `sharers` processes of this host ask for as much.
    """

    def __init__(self, folder: Path, bytes_needed: int, *, sharers: int = 1) -> None:
        if not folder.is_dir():
            raise UsageError(f"offload={str(folder)!r} is no folder; make it, or name another")
        free = shutil.disk_usage(folder).free
        if free < bytes_needed * sharers:
            raise UsageError(
                f"offload: {sharers} ranks keep {bytes_needed * sharers} bytes of optimizer states in "
                f"{folder}, where {free} are free; make room, or name a folder on another disk"
            )
        self._used, self._size = 0, max(bytes_needed, mmap.PAGESIZE)
        with tempfile.TemporaryFile(dir=folder) as file:  # without a name: nothing is left behind
            self._reserve(file.fileno(), folder)
            self._map = mmap.mmap(file.fileno(), self._size)

    def _reserve(self, number: int, folder: Path) -> None:
        """Take the room now: a full disk would end the process in the middle of a step."""
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(number, 0, self._size)
            else:
                os.truncate(number, self._size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise
            raise UsageError(
                f"offload: no room for {self._size} bytes of optimizer states in {folder} "
                f"({error.strerror}); make room, or name a folder on another disk"
            ) from error

    def allocate(self, name: str, size: int, dtype: Any) -> Array:
        """A flat array of zeros in the file."""
        dtype = np.dtype(dtype)
        start, self._used = self._used, self._used + aligned(size * dtype.itemsize)
        return np.frombuffer(self._map, dtype=dtype, count=size, offset=start)

    def release(self) -> None:
        """Let the system have the memory in which it keeps parts of the file."""
        if hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED)


class Offload:
    """Where the optimizer keeps its states, and where and when it takes its steps.

    where    None: beside the model; "host": in host memory; a folder: in a memory-mapped file there
    delayed  the number of the first step whose update runs while the next one computes; 0: none does
    """

    def __init__(
        self,
        where: str | Path | None,
        delayed: int,
        optimizer: Optimizer,
        world: World,
        master: Any,
        *,
        track: Callable[[str, Array], Array],
    ) -> None:
        if delayed and (where is None or delayed < 1):
            raise UsageError(
                f"delayed={delayed} with offload={where!r}; a delayed update runs on the host: give "
                'offload="host" or a folder, and the number of the first step to delay'
            )
        if delayed and not optimizer.joins and world.size > 1:
            raise UsageError(
                f"{type(optimizer).__name__} needs norms of all ranks in the middle of its step, and a "
                "delayed step runs beside the model's messages; leave out delayed"
            )
        self.where, self.optimizer, self.world, self.master = where, optimizer, world, master
        self.track = track
        self._file: StateFile | None = None
        self._copies: HostCopies | None = None
        self._delayed = Delayed(delayed) if delayed else None
        self._watching = False

    def reserve(self, buckets: Sequence[Bucket]) -> None:
        """Make room for the states of this rank's pieces.

        Raises UsageError, the same on all ranks, where they do not fit the disk.
        """
        if self.where in (None, "host"):
            return
        held = np.dtype(self.optimizer.state_dtype if self.master is None else self.master)
        kept = len(self.optimizer.state_names) + (held != buckets[0].dtype)
        needed = kept * aligned(sum(bucket.stop - bucket.start for bucket in buckets) * held.itemsize)
        folder, sharers = Path(self.where), self.world.local_size
        self._file = agreed(self.world, lambda: StateFile(folder, needed, sharers=sharers))

    def bring_here(
        self, values: Sequence[Array], gradients: Sequence[Array]
    ) -> tuple[Sequence[Array], Sequence[Array]]:
        """The flat arrays that the optimizer works on: the model's own, or copies on the host."""
        if self.where is None or (backend.namespace(values[0]) is backend.host and not self._delayed):
            return values, gradients
        self._copies = HostCopies(values, gradients, track=self.track)
        return self._copies.values, self._copies.gradients

    def allocate(self, name: str, size: int, dtype: Any) -> Array:
        """A flat state array of zeros."""
        if self._file is not None:
            return self.track("optimizer", self._file.allocate(name, size, dtype))
        return self.track("optimizer", self.optimizer.namespace.zeros(size, dtype=dtype))

    def step(
        self,
        fill: Callable[[], None],
        scale: Array | None,
        skip: Array | None,
        publish: Callable[[], None],
    ) -> None:
        """Take the optimizer's step, now or in due time.

        `fill()` says which shards have gradients, `publish()` hands the values on to the other ranks.
        """
        if self._copies is None:
            fill()
            self._planned(scale, skip)()
            publish()
            return
        copies = self._copies
        scale, skip = (None if a is None else backend.namespace(a).to_host(a) for a in (scale, skip))

        def fetch() -> None:
            fill()
            copies.fetch()

        def hand_on() -> None:
            copies.publish()
            publish()

        if self._delayed is None:
            fetch()
            self._planned(scale, skip)()
            hand_on()
        else:
            self._delayed.step(fetch, lambda: self._planned(scale, skip), hand_on)

    def _planned(self, scale: Array | None, skip: Array | None) -> Callable[[], None]:
        """The optimizer's step, to be taken by calling it, maybe later: all that it reads is settled now."""
        step = self.optimizer.planned_step(gradient_scale=scale, skip=skip)

        def update() -> None:
            step()
            if self._file is not None:
                self._file.release()

        return update

    @property
    def keeps_values(self) -> bool:
        """Whether the values that count are copies, and not the model's."""
        return self._copies is not None

    def settle(self, publish: Callable[[], None]) -> None:
        """Finish an update that is under way."""
        if self._delayed is not None and self._copies is not None:
            self.refuse_inside("settle()")
            copies = self._copies

            def hand_on() -> None:
                copies.publish()
                publish()

            self._delayed.settle(hand_on)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """What is written into the model's values in this block counts from then on. All else stays as it is,
        and so does an update that is under way.
        """
        before = self._copies.shown() if self._copies is not None and self._pending else None
        outer, self._watching = self._watching, True
        try:
            yield
        finally:
            self._watching = outer
            if self._delayed is not None:
                self._delayed.wait()
            if self._copies is not None:
                self._copies.take_over(before)

    def refuse_inside(self, what: str) -> None:
        """Raises UsageError in a block of `watched`: its end takes over what the model has, and would undo
        what is written elsewhere.
        """
        if self._watching:
            raise UsageError(
                f"{self.world.name}: {what} came inside of gathered(), whose end would undo it; leave the "
                "block first"
            )

    # ----- Checkpoints -----

    @property
    def _pending(self) -> bool:
        return self._delayed is not None and self._delayed.pending

    def updated(self) -> Sequence[Array] | None:
        """Of a delayed run: this rank's pieces of the values with every update, also one that is under way.
        The model shows older ones meanwhile.
        """
        if self._delayed is None or self._copies is None:
            return None
        self._delayed.wait()
        return self._copies.values

    def state(self) -> dict[str, Any]:
        """How far a delayed run is, as JSON; {} of others."""
        return {} if self._delayed is None else {"taken": self._delayed.taken, "pending": self._pending}

    def loaded(self, state: dict[str, Any], steps: int) -> None:
        """Go on from what `state` gave; after `steps` steps if it was no delayed run's."""
        if self._delayed is not None:
            self._delayed.taken = state.get("taken", steps)
            self._delayed.pending = state.get("pending", False)
        elif self._copies is not None:
            self._copies.take_over()


class HostCopies:
    """This rank's pieces of values and gradients on the host: flat arrays beside those of the model.

    values, gradients    of each bucket, in the order given
    """

    def __init__(
        self, values: Sequence[Array], gradients: Sequence[Array], *, track: Callable[[str, Array], Array]
    ) -> None:
        self._values, self._gradients, self._track = list(values), list(gradients), track
        self._device = next((device for device in staging.DEVICES if device.owns(values[0])), None)
        self.values = [track("parameters", self._like(array)) for array in values]
        self.gradients = [track("gradients", self._like(array)) for array in gradients]
        self.take_over()

    def _like(self, array: Array) -> Array:
        """Memory on the host for an array."""
        if self._device is None or not array.size:  # of nothing there is no memory to pin
            return np.empty(array.shape, array.dtype)
        self._device.synchronize(array)
        return self._device.host_buffer(array)

    def _to_host(self, arrays: Sequence[Array], buffers: Sequence[Array]) -> None:
        for array, buffer in zip(arrays, buffers, strict=True):
            if self._device is None:
                buffer[...] = array
            else:
                self._device.synchronize(array)
                self._device.to_host(array, buffer)

    def shown(self) -> list[Array]:
        """The values of the model as they are now."""
        buffers = [self._track("parameters", self._like(array)) for array in self._values]
        self._to_host(self._values, buffers)
        return buffers

    def take_over(self, before: Sequence[Array] | None = None) -> None:
        """Bring the values here; with what they were before, only entries that changed since."""
        if before is None:
            self._to_host(self._values, self.values)
            return
        for values, old, new in zip(self.values, before, self.shown(), strict=True):
            # Byte by byte, since what is no number does not equal itself.
            changed = old.view(np.uint8) != new.view(np.uint8)
            np.copyto(values, new, where=changed.reshape(new.size, new.itemsize).any(axis=1))

    def fetch(self) -> None:
        """Bring the gradients here."""
        self._to_host(self._gradients, self.gradients)

    def publish(self) -> None:
        """Bring the values back to the model."""
        for buffer, array in zip(self.values, self._values, strict=True):
            if self._device is None:
                array[...] = buffer
            else:
                self._device.to_device(buffer, array)


class Delayed:
    """One-step delayed update: a step's update runs while the next step computes, with the old parameters.

    The first `first - 1` steps are taken at once. Step `first` leaves the parameters as they are; from the
    next on, each step ends with the update by the gradients of the step before: θₜ₊₁ = θₜ - update(g(θₜ₋₁)).
    Ren et al. 2021, ZeRO-Offload, §4.2 (figure 6).

    pending  whether an update was computed, or is, whose values are not public
    """

    def __init__(self, first: int) -> None:
        self.first, self.taken, self.pending = first, 0, False
        self._running: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="delayed update")

    def step(
        self,
        fetch: Callable[[], None],
        plan: Callable[[], Callable[[], None]],
        publish: Callable[[], None],
    ) -> None:
        """Take a step: bring the gradients here, update by them, and make the values public, in due time.

        `plan()` gives the update by these gradients, whose settings are those of now.
        """
        self.taken += 1
        if self.taken < self.first:
            fetch()
            plan()()
            publish()
            return
        self.settle(publish)
        fetch()
        self._running, self.pending = self._thread.submit(plan()), True

    def wait(self) -> None:
        """Wait for the update that is under way."""
        if self._running is not None:
            running, self._running = self._running, None
            running.result()

    def settle(self, publish: Callable[[], None]) -> None:
        """Wait for the update that is under way, and make its values public."""
        self.wait()
        if self.pending:
            self.pending = False
            publish()
