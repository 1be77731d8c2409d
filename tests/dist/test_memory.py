"""The meter: every memory once, under one category, for as long as it lives."""

import gc
import mmap
import threading
import time
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.dist.memory import CATEGORIES, Meter, owner_of, saved_arrays
from minigrad.errors import UsageError

KINDS = [
    lambda size: numpy.zeros(size, dtype="float32"),
    lambda size: numpy.zeros((size, 2), dtype="float64"),
    lambda size: numpy.zeros((3, size), dtype="int8").T,
    lambda size: numpy.frombuffer(bytearray(2 * size), dtype="float16"),
    lambda size: mg.zeros((size, 3), device="shapes").data,
]
VIEWS = [
    lambda a: a,
    lambda a: a[1:2],
    lambda a: a[:0],
    lambda a: a.T,
    lambda a: a[..., None],
    lambda a: a.view(),
]
actions = st.lists(
    st.tuples(
        st.sampled_from(["make", "view", "drop", "move", "reset"]),
        st.sampled_from(CATEGORIES),
        st.integers(0, 10**6),
        st.integers(0, 9),
    ),
    max_size=30,
)


def step(meter: Meter, alive: list[list], what: str, category: str, choice: int, size: int) -> None:
    """Do one thing to the arrays of `alive`: lists of category, bytes of a memory, arrays that show it."""
    if what == "make":
        array = meter.track(category, KINDS[choice % len(KINDS)](size))
        alive.append([category, owner_of(array).nbytes, [array]])
    elif alive:
        memory = alive[choice % len(alive)]
        if what == "view":
            memory[2].append(meter.track(memory[0], VIEWS[size % len(VIEWS)](memory[2][0])))
        elif what == "move":
            meter.track(category, memory[2][-1])
            memory[0] = category
        elif what == "drop":
            memory[2].pop(choice % len(memory[2]))
            alive[:] = [memory for memory in alive if memory[2]]


@given(actions)
def test_the_books_agree_with_a_list_of_what_is_alive(actions) -> None:
    meter = Meter()
    alive: list[list] = []
    at_peak = dict.fromkeys((*CATEGORIES, "total"), 0)
    peak = dict.fromkeys((*CATEGORIES, "total"), 0)
    for what, *arguments in actions:
        step(meter, alive, what, *arguments)
        now = {name: sum(size for category, size, _ in alive if category == name) for name in CATEGORIES}
        now["total"] = sum(now.values())
        assert meter.current == now
        if what == "reset":
            meter.reset_peak()
            peak, at_peak = dict(now), dict(now)
        if now["total"] > peak["total"]:
            at_peak = dict(now)
        peak = {name: max(peak[name], now[name]) for name in peak}
        assert meter.peak == peak
        assert meter.at_peak == at_peak


def test_a_view_keeps_the_whole_memory_on_the_books() -> None:
    meter = Meter()
    whole = numpy.zeros(1000)
    part = meter.track("gradients", whole[10:20])
    assert meter.current["gradients"] == 8000
    del whole
    assert meter.current["gradients"] == 8000
    del part
    assert meter.current["gradients"] == 0
    assert meter.peak["gradients"] == 8000


def test_arrays_that_died_unseen_do_not_count_for_those_at_their_address() -> None:
    meter = Meter()
    for size in range(1, 200):
        array = meter.track("buffers", numpy.zeros(size))
        assert meter.current["total"] == 8 * size
        assert meter.peak["total"] == 8 * size
        del array
    assert meter.current["total"] == 0


def test_threads_may_track_and_drop_at_the_same_time(monkeypatch) -> None:
    def slowly(array: numpy.ndarray) -> str:
        time.sleep(0.002)  # let the others come in between
        return "cpu"

    monkeypatch.setattr("minigrad.dist.memory._place", slowly)
    meter, shared = Meter(), [numpy.zeros(size) for size in range(1, 6)]

    def work() -> None:
        for array in shared:
            meter.track("gradients", array)
            meter.track("buffers", numpy.zeros(100))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert meter.current["buffers"] == 0
    assert meter.current["gradients"] == meter.current["total"] == 8 * (1 + 2 + 3 + 4 + 5)


def by_numpy(path: Path) -> numpy.ndarray:
    return numpy.memmap(path, dtype="float32", mode="w+", shape=(500,))


def by_hand(path: Path) -> numpy.ndarray:
    path.write_bytes(bytes(2000))
    with path.open("r+b") as file:
        return numpy.frombuffer(mmap.mmap(file.fileno(), 2000), dtype="float32")


@pytest.mark.parametrize("make", [by_numpy, by_hand])
def test_memory_mapped_files_fill_no_memory(make, tmp_path) -> None:
    meter = Meter()
    mapped = make(tmp_path / "state")
    shown = meter.track("optimizer", numpy.asarray(mapped)[100:])
    del mapped
    kept = meter.track("optimizer", numpy.zeros(10, dtype="float32"))
    assert meter.current["optimizer"] == meter.current["total"] == 40
    assert meter.on_disk["optimizer"] == 2000
    report = meter.report()
    assert report["places"]["disk"]["peak"]["optimizer"] == 2000
    assert report["places"]["cpu"]["current"] == report["current"]
    del shown, kept
    assert meter.on_disk["total"] == meter.current["total"] == 0


class Pointer:
    def __init__(self, ptr: int) -> None:
        self.ptr = ptr


class Device:
    """An array as a GPU library has them: its memory is known by a pointer, and may have several owners."""

    base, nbytes, dtype = None, 400, numpy.dtype("float32")

    def __init__(self, ptr: int) -> None:
        self.data = Pointer(ptr)


def test_device_arrays_that_own_the_same_memory_count_once(monkeypatch) -> None:
    monkeypatch.setattr("minigrad.dist.memory._place", lambda array: "gpu:0")
    meter = Meter()
    first, again, other = Device(4096), Device(4096), Device(8192)
    for array in (first, again, other, again):
        meter.track("parameters", array)
    assert meter.current["parameters"] == 800
    del array, first
    assert meter.current["parameters"] == 800
    del again
    assert meter.current["parameters"] == 400
    assert meter.report()["places"]["gpu:0"]["peak"]["total"] == 800


def test_an_array_that_dies_while_another_takes_its_address_is_told_apart(monkeypatch) -> None:
    monkeypatch.setattr("minigrad.dist.memory._place", lambda array: "gpu:0")
    meter, settle = Meter(), Meter._settle
    alive = [Device(4096)]
    meter.track("parameters", alive[0])
    later = Device(4096)
    later.nbytes = 100

    def settle_and_lose(self: Meter) -> None:
        settle(self)
        alive.clear()

    with monkeypatch.context() as patch:
        patch.setattr(Meter, "_settle", settle_and_lose)
        meter.track("gradients", later)
    assert meter.current["total"] == meter.current["gradients"] == 100


def test_what_is_no_category_or_no_array_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'weights'.*parameters, gradients"):
        Meter().track("weights", numpy.zeros(3))
    with pytest.raises(UsageError, match="Tensor"):
        Meter().track("parameters", mg.zeros(3))
    with pytest.raises(UsageError, match="list"):
        Meter().track("parameters", [1.0])


# ---------------------------------------------------------------------------------------- activations


def mlp(device: str) -> tuple[nn.Module, mg.Tensor]:
    model = nn.Sequential(
        nn.Linear(6, 5, device=device), nn.Tanh(), nn.Linear(5, 3, device=device), nn.Tanh()
    )
    return model, mg.zeros((7, 6), device=device)


@pytest.mark.parametrize("device", ["cpu", "shapes"])
def test_activations_are_what_the_rules_saved_and_no_parameter(device) -> None:
    model, x = mlp(device)
    meter = Meter()
    for parameter in model.parameters():
        meter.track("parameters", parameter.data)
    weights = meter.current["parameters"]
    y = model(x)
    # x and the output of each tanh: (7, 6), (7, 5), (7, 3) of 4 bytes each
    assert meter.activations(y) == 4 * 7 * (6 + 5 + 3)
    assert meter.activations(y, y) == 4 * 7 * (6 + 5 + 3)
    assert meter.current["activations"] == 4 * 7 * (6 + 5 + 3)
    assert meter.current["parameters"] == weights == 4 * (6 * 5 + 5 + 5 * 3 + 3)
    del y
    assert meter.current["activations"] == 4 * 7 * 6  # x is still here
    del x
    assert meter.current["activations"] == 0


def test_a_backward_walk_lets_go_of_what_it_used() -> None:
    model, x = mlp("cpu")
    meter = Meter()
    for parameter in model.parameters():
        meter.track("parameters", parameter.data)
    meter.track("buffers", x.data)
    loss = model(x).sum()
    assert meter.activations(loss) == 4 * 7 * (5 + 3)
    loss.backward()
    gc.collect()
    assert meter.current["activations"] == 0
    assert meter.peak["activations"] == 4 * 7 * (5 + 3)


@pytest.mark.parametrize("device", ["cpu", "shapes"])
def test_a_checkpoint_keeps_only_its_inputs(device) -> None:
    model, x = mlp(device)
    meter = Meter()
    for parameter in model.parameters():
        meter.track("parameters", parameter.data)
    assert meter.activations(mg.checkpoint(model, x.requires_grad_())) == 4 * 7 * 6


def test_saved_arrays_leave_the_shared_constants_out() -> None:
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    assert [array.shape for array in saved_arrays(x * 3.0 * x)] == [(2,), (2,)]
    assert list(saved_arrays(mg.tensor(1.0))) == []
