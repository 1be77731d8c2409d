"""Shape-only arrays: the same shapes and dtypes as NumPy's, honest counts, and no values."""

import tracemalloc

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import minigrad as mg
from minigrad import backend, nn
from minigrad.backend_shapes import ShapeArray, indexed_shape
from minigrad.errors import DTypeError, ShapeError
from tests.minigrad.examples import CONSTANTS, EXAMPLES


def shape_only(x: mg.Tensor) -> mg.Tensor:
    twin = mg.zeros(x.shape, dtype=x.dtype, device="shapes")
    return twin.requires_grad_() if x.requires_grad else twin


def needs_values(out: mg.Tensor) -> bool:
    """Whether the result was picked by a boolean mask: the one index whose shape depends on values."""
    index = out.node.parameters.get("index") if out.node is not None else None
    return any(
        getattr(part, "dtype", None) == mg.bool for part in (index if isinstance(index, tuple) else (index,))
    )


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - {"to_device"}))  # values cannot be fetched from here
def test_every_operation_has_numpys_shapes_forwards_and_backwards(name):
    for example in EXAMPLES[name]:
        for dtype in ("float32", "float64"):
            leaves = example.leaves(dtype)
            twins = [shape_only(x) for x in leaves]
            out = example.call(*leaves)
            if needs_values(out):
                with pytest.raises(DTypeError, match="mask"):
                    example.call(*twins)
                continue
            imagined = example.call(*twins)
            assert (imagined.shape, imagined.dtype) == (out.shape, out.dtype)
            assert isinstance(imagined.data, ShapeArray)
            if out.requires_grad:
                out.backward(np.ones(out.shape, out.dtype))
                imagined.backward(mg.ones(out.shape, dtype=out.dtype, device="shapes"))
                for x, twin in zip(leaves, twins, strict=True):
                    assert (x.grad is None) == (twin.grad is None)
                    assert twin.grad is None or (twin.grad.shape, twin.grad.dtype) == (x.shape, x.dtype)


DEPEND_ON_VALUES = {"nonzero"}
"""Operations whose result has a shape that depends on values; beside them, indexing by a mask."""


@pytest.mark.parametrize("name", sorted(CONSTANTS))
def test_what_has_no_derivative_has_numpys_shapes_too(name):
    for example in CONSTANTS[name]:
        twins = [mg.zeros(x.shape, dtype=x.dtype, device="shapes") for x in example.inputs]
        if name in DEPEND_ON_VALUES:
            with pytest.raises(DTypeError, match=f"^{name} .*may depend on values"):
                example.call(*twins)
            continue
        out, imagined = example.call(*map(mg.tensor, example.inputs)), example.call(*twins)
        assert (imagined.shape, imagined.dtype) == (out.shape, out.dtype)


def test_shapes_that_depend_on_values_are_refused_by_name():
    x = mg.ones((2, 3), device="shapes").requires_grad_()
    counts = mg.ones((3,), dtype="int64", device="shapes")
    for ask, message in [
        (lambda: mg.nonzero(x), "^nonzero .*may depend on values"),
        (lambda: mg.repeat(x, counts, axis=1), "^repeat .*may depend on values"),
        (lambda: x[x > 0], "boolean mask as index gives a shape that depends on values"),
        (lambda: mg.getitem(x, x > 0), "boolean mask as index"),
        (lambda: x.at[x > 0].set(x[0]), "boolean mask as index"),
        (lambda: x.at[x > 0].add(1.0), "boolean mask as index"),
        (lambda: [0, 1][counts.sum()], "no values"),
        (lambda: mg.arange(int(counts.sum())), "no values"),
        (lambda: int(counts[0]), "no values"),
        (lambda: x.tolist(), "no values"),
        (lambda: np.asarray(x.detach()), "no values"),
    ]:
        with pytest.raises(DTypeError, match=message):
            ask()


def test_shapes_that_do_not_fit_are_refused_as_numpy_refuses_them():
    x, xp = mg.ones((2, 3), device="shapes"), backend.of_device("shapes")
    raw = x.data
    for wrong, message in [
        (lambda: x.reshape(4), r"cannot reshape \(2, 3\) into \(4,\): 6 elements"),
        (lambda: x.reshape(4, -1), r"cannot reshape \(2, 3\) into \(4, -1\)"),
        (lambda: x[0, 0, 0], r"3 indices are too many for shape \(2, 3\)"),
        (lambda: mg.broadcast_to(x, (3,)), r"cannot broadcast \(2, 3\) to \(3,\)"),
        (lambda: xp.matmul(raw, raw), r"matmul: \(2, 3\) @ \(2, 3\) do not fit"),
        (lambda: xp.add(raw, raw, out=xp.empty((3, 3))), r"result has shape \(2, 3\), and out has \(3, 3\)"),
        (lambda: raw.__setitem__(0, xp.empty((2, 3))), r"cannot write shape \(2, 3\) into \(3,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            wrong()
    assert repr(raw) == "ShapeArray(shape=(2, 3), dtype=float32)"
    assert raw.view().base is raw
    assert raw.sum(axis=0).shape == (3,)


def test_a_cost_reads_as_a_sentence_and_takes_what_is_no_array():
    counted = mg.cost(lambda x, n: x * n, np.ones((10, 10)), 3.0)
    assert str(counted) == "100 FLOPs, 1,608 bytes moved, at most 800 bytes alive"


@st.composite
def indices(draw):
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    together = draw(st.sampled_from([(), (1,), (2,), (3, 2)]))
    one = st.one_of(
        st.just(0),
        st.builds(slice, st.none() | st.integers(-2, 3), st.none(), st.sampled_from([None, 2, -1])),
        st.just(np.zeros(together, int)),
    )
    parts = draw(st.lists(one, max_size=len(shape)))
    for special in draw(st.lists(st.sampled_from([None, Ellipsis]), max_size=2)):
        if special is None or Ellipsis not in [p for p in parts if not isinstance(p, np.ndarray)]:
            parts.insert(draw(st.integers(0, len(parts))), special)
    return tuple(shape), tuple(parts)


@given(indices())
def test_indexing_has_numpys_shapes(case):
    shape, index = case
    assert indexed_shape(shape, index)[0] == np.zeros(shape)[index].shape


def test_flops_are_those_of_the_textbook():
    a, b = (mg.ones(s, device="shapes") for s in ((3, 4, 5), (5, 7)))
    assert mg.cost(lambda: a @ b).flops == 2 * 3 * 4 * 5 * 7
    assert mg.cost(lambda: a + 1.0).flops == 60
    assert mg.cost(lambda: a.sum()).flops == 60
    assert mg.cost(lambda: a.reshape(12, 5).T).flops == 0


def test_bytes_moved_are_those_read_and_written():
    a = mg.ones((10, 10), dtype="float64", device="shapes")
    assert mg.cost(lambda: a * a).bytes_moved == 3 * 800
    assert mg.cost(lambda: a[2:4]).bytes_moved == 0


def test_a_transformer_of_175_billion_parameters_is_counted():
    sizes = {"vocabulary": 50257, "context": 2048, "layers": 96, "heads": 96, "width": 12288}
    model = nn.GPT(nn.GPTConfig(**sizes), device="shapes")
    count = sum(p.size for p in model.parameters())
    assert count == 174_604_259_328  # GPT-3's formula: 174.604 billion
    tokens = np.zeros((1, 2048), int)
    forward = mg.cost(lambda x: model.loss(x, x), tokens).flops

    def step(x):
        model.loss(x, x).backward()
        model.zero_grad()

    # 2 FLOPs a parameter and token forwards, twice that backwards (Kaplan et al. 2020, §2.1), and attention.
    assert 2 * count * 2048 < forward < 2.1 * count * 2048
    assert 6 * count * 2048 < mg.cost(step, tokens).flops < 6.3 * count * 2048


def test_peak_memory_is_what_numpy_really_holds():
    rng = np.random.default_rng(0)
    config = nn.GPTConfig(vocabulary=64, context=64, layers=2, heads=4, width=128)
    tokens = rng.integers(0, 64, (4, 64))

    def step(model):
        def run(x):
            model.loss(x, x).backward()
            model.zero_grad()

        return run

    imagined = mg.cost(step(nn.GPT(config, device="shapes")), tokens).peak_bytes
    real = nn.GPT(config)
    step(real)(tokens)  # caches are filled
    tracemalloc.start()
    try:
        step(real)(tokens)
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert imagined == pytest.approx(held, rel=0.15)


def test_what_needs_a_value_is_refused_by_name():
    x = mg.ones((2, 3), device="shapes")
    for ask in (lambda: x.sum().item(), lambda: bool(x.sum() > 0), lambda: x.numpy(), lambda: x[x > 0]):
        with pytest.raises(DTypeError, match=r"no values|depends on values"):
            ask()
    with pytest.raises(ShapeError, match=r"\(2, 3\).*\(2, 3\)"):
        x @ x
    with pytest.raises(ShapeError):
        x + mg.ones((4,), device="shapes")


def test_a_training_step_with_its_optimizer_costs_nothing_and_counts():
    model = nn.GPT(nn.GPTConfig(layers=1), device="shapes")
    optimizer = nn.optim.AdamW(model.parameters())
    tokens = np.zeros((2, 128), int)
    model.loss(tokens, tokens).backward()
    update = mg.cost(optimizer.step).flops
    count = sum(p.size for p in model.parameters())
    assert 10 * count <= update <= 16 * count
