"""What the answers of lesson 21 must do."""

import math
import tempfile
import tracemalloc
from itertools import product
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from minigrad.lessons.checking import count, exercise, few, require, require_close, wrong

STATES = {"passes": 0, "p16": 2, "g16": 2, "update": 0, "p32": 4, "m": 4, "v": 4}
FLOW = {
    ("p16", "passes"): 4,
    ("passes", "g16"): 2,
    ("g16", "update"): 2,
    ("update", "p16"): 2,
    **{(a, b): 4 for state in ("p32", "m", "v") for a, b in ((state, "update"), ("update", state))},
}
NAMES = "abcdef"


@st.composite
def flows(draw):
    """A data-flow graph of a few nodes; node a is pinned."""
    names = NAMES[: draw(st.integers(2, 5))]
    sizes = {name: draw(st.integers(0, 5)) for name in names}
    pairs = [(x, y) for x in names for y in names if x != y]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=8))
    return sizes, {pair: draw(st.integers(1, 4)) for pair in chosen}, "a"


def require_best(answer, sizes, edges, pinned):
    """The answer's placement against all of them."""

    def judged(host):
        moved = sum(size for (a, b), size in edges.items() if (a in host) != (b in host))
        return moved, sum(size for name, size in sizes.items() if name not in host)

    free = [name for name in sizes if name != pinned]
    sets = [
        {n for n, there in zip(free, bits, strict=True) if there}
        for bits in product((0, 1), repeat=len(free))
    ]
    moved, left = min(judged(host) for host in sets if host)
    found = answer.best_placement(sizes, edges, pinned)
    pair = isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], set | frozenset)
    require(pair, f"return the bytes moved and the set of nodes on the host; yours returns {found!r}")
    told, host = found
    require(host and host <= set(free), f"nodes {sorted(host)} on the host: take some of {free}")
    what = f"putting {sorted(host)} on the host"
    needed, stays = judged(host)
    require(told == needed, f"{what} moves {count(needed, 'byte')}, and you say {told}")
    require(needed == moved, f"{what} moves {count(needed, 'byte')}; {moved} are possible")
    require(
        stays == left,
        f"{what} leaves {count(stays, 'byte')} on the device; {left} are possible for the same traffic",
    )


@exercise("21.1", "what goes to the host", points=1)
@given(flow=flows())
def check_best_placement(answer, flow):
    require_best(answer, *flow)


@exercise("21.1", "what goes to the host", points=1)
def check_the_graph_of_the_paper(answer):
    require_best(answer, STATES, FLOW, "passes")


class OnDevice:
    """An array that only a link can reach."""

    def __init__(self, values):
        self._values = np.asarray(values, dtype=np.float16)

    def __array__(self, *arguments, **options):
        wrong("this array is on the device; fetch it over the link")


class Link:
    """The way between device and host; it counts bytes."""

    def __init__(self):
        self.down = self.up = 0

    def fetch(self, array):
        """A copy on the host."""
        require(isinstance(array, OnDevice), f"link.fetch takes what is on the device, got {type(array)}")
        self.down += array._values.nbytes
        return array._values.copy()

    def push(self, array, target):
        """Overwrite what is on the device."""
        require(isinstance(target, OnDevice), f"link.push writes to the device, got {type(target)}")
        require(
            array.dtype == target._values.dtype and array.shape == target._values.shape,
            f"link.push got {array.dtype} {array.shape}; on the device are {target._values.dtype} "
            f"{target._values.shape}",
        )
        self.up += array.nbytes
        target._values[...] = array


def adam_on_paper(start, gradients, rate):
    """Adam in float32 with its states kept between the steps."""
    master, m, v = start.astype(np.float32), np.float32(0), np.float32(0)
    for step, gradient in enumerate(gradients, 1):
        g = gradient.astype(np.float32)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        master = master - rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return master


@exercise(
    "21.2", "Adam on the host", points=3, rebuilds=["minigrad.nn.optim.Adam", "minigrad.dist.zero.ZeRO"]
)
@few(0.5)
@given(
    size=st.integers(1, 6),
    steps=st.integers(1, 8),
    seed=st.integers(0, 9),
    rate=st.sampled_from([1e-4, 1e-2]),  # one is smaller than what float16 can add to a number near 1
    slope=st.sampled_from([1.0, 1e-4]),  # one is so small that the 1e-8 counts, and where it stands
)
def check_offloaded_adam(answer, size, steps, seed, rate, slope):
    random = np.random.default_rng(seed)
    start = random.normal(size=size).astype(np.float16)
    gradients = (slope * random.normal(size=(steps, size))).astype(np.float16)
    parameters, link = OnDevice(start.copy()), Link()
    adam = answer.OffloadedAdam(parameters, link, rate)
    what = f"{count(size, 'parameter')}, {count(steps, 'step')} at rate {rate:g}"
    if size * steps <= 3:
        what += f", from {start.tolist()} with gradients {gradients.tolist()}"
    link.down = link.up = 0
    for gradient in gradients:
        adam.step(OnDevice(gradient))
    require(
        np.isfinite(parameters._values).all(),
        f"{what}: on the device are {parameters._values.tolist()}; something divides by 0 (are there steps "
        "yet?), or takes the root of less",
    )
    expected = adam_on_paper(start, gradients, rate).astype(np.float16)
    unit = float(np.spacing(np.abs(expected).max()))
    require(
        np.abs(parameters._values.astype(float) - expected.astype(float)).max() <= unit,
        f"{what}: on the device are {parameters._values.tolist()}, and Adam with a master copy in float32 "
        f"gives {expected.tolist()}",
    )
    for way, moved in (("down", link.down), ("up", link.up)):
        require(
            moved == 2 * size * steps,
            f"{what}: {moved} bytes go {way}; 2 a parameter and step are {2 * size * steps}",
        )
    kept = {name: v for name, v in vars(adam).items() if isinstance(v, np.ndarray) and v.size == size}
    narrow = [f"self.{name} is {value.dtype}" for name, value in kept.items() if value.dtype != np.float32]
    require(not narrow, f"{what}: {', '.join(narrow)}; keep it in float32")


@exercise("21.3", "one step late", points=2, rebuilds=["minigrad.dist.offload.Delayed"])
@given(first=st.integers(1, 5), steps=st.integers(0, 6), settled=st.booleans())
def check_delayed(answer, first, steps, settled):
    rate, target = 0.25, np.array([1.0, -2.0])
    own = answer.Delayed(np.zeros(2), rate, first)
    what = f"first = {first}; from x = [0, 0], with gradients x - [1, -2] and rate {rate}"
    xs, gradients = [np.zeros(2)], []
    buffer = np.empty(2)
    for step in range(1, steps + 1):
        gradients.append(xs[-1] - target)
        buffer[...] = own.x - target
        own.step(buffer)
        buffer[...] = 1e6  # the model uses its gradient's memory again
        if step < first:
            xs.append(xs[-1] - rate * gradients[-1])
        elif step == first:
            xs.append(xs[-1])
        else:
            xs.append(xs[-1] - rate * gradients[-2])
        require_close(own.x, xs[-1], f"{what}: x after step {step} (each gradient comes in the same array)")
    if settled:
        late = steps >= first
        expected = xs[-1] - rate * gradients[-1] if late else xs[-1]
        for times in ("", " twice"):
            own.settle()
            require_close(own.x, expected, f"{what}: x after {count(steps, 'step')} and settling{times}")


@exercise("21.4", "the limit of a delay", points=1)
@given(delay=st.integers(0, 8), eighths=st.integers(0, 20))
def check_growth(answer, delay, eighths):
    rate = eighths / 8
    found = answer.growth(rate, delay)
    x = np.zeros(delay + 1)
    x[-1] = 1.0
    steps, log = 600, 0.0
    for step in range(steps):
        following = x[-1] - rate * x[0]
        x = np.append(x[1:], following)
        size = np.abs(x).max()
        if size == 0:
            break
        log += math.log(size) if step >= steps // 2 else 0.0
        x /= size
    measured = 0.0 if not x.any() else math.exp(log / (steps - steps // 2))
    require_close(found, measured, f"rate {rate:g}, delay {delay}: the growth a step", tolerance=0.02)


@exercise("21.4", "the limit of a delay", points=1)
@given(delay=st.integers(0, 6), curvature=st.sampled_from([0.5, 1.0, 2.0, 8.0]))
def check_largest_rate(answer, delay, curvature):
    found = answer.largest_rate(delay, curvature)
    require(isinstance(found, float), f"the largest rate is a float, and yours is {found!r}")
    what = f"delay {delay}, f(x) = {curvature:g} x^2 / 2"
    for factor, stable in ((0.98, True), (1.02, False)):
        x = [1.0] * (delay + 1)
        for _ in range(3000):
            x.append(x[-1] - factor * found * curvature * x[-1 - delay])
            if abs(x[-1]) > 1e6:
                break
        end = max(map(abs, x[-delay - 2 :]))
        require(
            (end < 1) == stable,
            f"{what}: {factor} of your rate {found:.4g} should {'shrink' if stable else 'grow'}, "
            f"and |x| is {end:.2g} in the end",
        )


@exercise("21.5", "a state on disk", points=3, rebuilds=["minigrad.dist.offload.StateFile"])
@few(0.5)
@given(size=st.integers(1, 40), block=st.integers(1, 12), steps=st.integers(1, 3), again=st.booleans())
def check_disk(answer, size, block, steps, again):
    random = np.random.default_rng(size)
    parameters = random.normal(size=size)
    gradients = random.normal(size=(2 * steps, size))
    expected, u = parameters.copy(), np.zeros(size)
    what = f"{count(size, 'parameter')} in blocks of {block}"
    if size <= 3:
        what += f", from {parameters.round(4).tolist()} with gradients {gradients.round(4).tolist()}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "state")
        own = answer.DiskMomentum(path, size, 0.1, block)
        for number, gradient in enumerate(gradients[: 2 * steps if again else steps]):
            if number == steps:
                own = answer.DiskMomentum(path, size, 0.1, block)  # as after a restart
            own.step(parameters, gradient)
            u = 0.9 * u + gradient
            expected -= 0.1 * u
            when = "" if number < steps else " (the second half by another DiskMomentum on the same file)"
            require_close(parameters, expected, f"{what}: the parameters after step {number + 1}{when}")
            require(path.exists(), "there is no file at the path")
            length = path.stat().st_size
            require(
                length == 8 * size,
                f"{count(size, 'parameter')}: the file has {length} bytes, and 8 each are {8 * size}",
            )
            require_close(np.fromfile(path), u, f"{what}: what is in the file after step {number + 1}")
        kept = [name for name, value in vars(own).items() if type(value) is np.ndarray and value.size >= size]
        require(not kept, f"self.{', self.'.join(kept)} keeps the state in memory; keep only the mapped file")
        del own


@exercise("21.5", "a state on disk", points=0, rebuilds=["minigrad.dist.offload.StateFile"])
def check_memory_of_a_step(answer):
    size, block = 200_000, 1_000
    parameters, gradient = np.zeros(size), np.ones(size)
    with tempfile.TemporaryDirectory() as folder:
        own = answer.DiskMomentum(Path(folder, "state"), size, 0.1, block)
        own.step(parameters, gradient)
        tracemalloc.start()
        own.step(parameters, gradient)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        del own
    most = 8 * block * 8 + 16_000
    require(
        peak <= most,
        f"{size:,} parameters in blocks of {block:,}: a step takes {peak:,} bytes of memory, "
        f"and {most:,} are enough; work on one block at a time",
    )
