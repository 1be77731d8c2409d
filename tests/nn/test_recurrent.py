"""Recurrent layers against loops written from their papers' equations; sequences of unequal lengths."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

import minigrad as mg
from minigrad import random
from minigrad.errors import MinigradError
from minigrad.nn import layers as L
from minigrad.nn.functional.gru_kernel import gru_sequence
from minigrad.nn.functional.lstm_kernel import lstm_sequence
from minigrad.nn.sequences import PackedSequence, pack_padded_sequence, pad_packed_sequence, pad_sequence
from minigrad.ops import tensor

KINDS = ["RNN", "LSTM", "GRU"]


def cell(kind: str, x: np.ndarray, state: list[np.ndarray], p: dict[str, np.ndarray]) -> list[np.ndarray]:
    """One step of one sequence, gate by gate."""
    h, size = state[0], len(state[-1])

    def gate(k: int, hidden: np.ndarray | float = 1.0) -> np.ndarray:
        rows = slice(k * size, (k + 1) * size)
        own = p["weight_ih"][rows] @ x + p["bias_ih"][rows]
        return np.asarray(own + hidden * (p["weight_hh"][rows] @ h + p["bias_hh"][rows]))

    if kind == "RNN":
        return [np.tanh(gate(0))]
    if kind == "GRU":
        r, z = expit(gate(0)), expit(gate(1))
        n = np.tanh(gate(2, r))
        return [(1 - z) * n + z * h]
    i, f, g, o = expit(gate(0)), expit(gate(1)), np.tanh(gate(2)), expit(gate(3))
    c = f * state[1] + i * g
    return [p["weight_hr"] @ (o * np.tanh(c)) if "weight_hr" in p else o * np.tanh(c), c]


def read(
    layer: Any, kind: str, x: np.ndarray, start: list[np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """All layers and directions over one sequence (time, width): the outputs, and the last states."""
    finals = []
    for number in range(layer.num_layers):
        outputs = []
        for direction, suffix in enumerate(["", "_reverse"][: 1 + layer.bidirectional]):
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")[: 4 + (layer.proj_size > 0)]
            p = {name: getattr(layer, f"{name}_l{number}{suffix}").numpy() for name in names}
            state = [part[number * (1 + layer.bidirectional) + direction] for part in start]
            steps = range(len(x))[:: -1 if direction else 1]
            found: dict[int, np.ndarray] = {}
            for t in steps:
                state = cell(kind, x[t], state, p)
                found[t] = state[0]
            outputs.append(np.array([found[t] for t in range(len(x))]))
            finals.append(state)
        x = np.concatenate(outputs, axis=1)
    return x, [np.array(parts) for parts in zip(*finals, strict=True)]


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    batch_first=st.booleans(),
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    packed=st.booleans(),
    projected=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_every_sequence_is_read_as_the_equations_say(
    kind, layers, bidirectional, batch_first, lengths, packed, projected, seed
):
    random.manual_seed(seed)
    source = np.random.default_rng(seed)
    layer = getattr(L, kind)(
        2, 3, layers, batch_first=batch_first, bidirectional=bidirectional, dtype="float64",
        **({"proj_size": projected} if kind == "LSTM" else {}),
    )  # fmt: skip
    if not packed:
        lengths = [max(lengths)] * len(lengths)
    batch, time = len(lengths), max(lengths)
    x = source.normal(size=(batch, time, 2))
    widths = (layer.proj_size or 3, 3)[: layer.states]
    start = [source.normal(size=(layers * (1 + bidirectional), batch, width)) for width in widths]
    given_x = tensor(x if batch_first else x.transpose(1, 0, 2))
    state = tuple(map(tensor, start)) if kind == "LSTM" else tensor(start[0])
    if packed:
        pack = pack_padded_sequence(given_x, lengths, batch_first, enforce_sorted=False)
        out, last = layer(pack, state)
        out, found_lengths = pad_packed_sequence(out, batch_first)
        assert found_lengths.tolist() == lengths
    else:
        out, last = layer(given_x, state)
    found = out.numpy() if batch_first else out.numpy().transpose(1, 0, 2)
    lasts = last if kind == "LSTM" else (last,)
    for row, length in enumerate(lengths):
        expected, finals = read(layer, kind, x[row, :length], [part[:, row] for part in start])
        np.testing.assert_allclose(found[row, :length], expected, rtol=1e-12, atol=1e-12)
        assert not found[row, length:].any()
        for part, wanted in zip(lasts, finals, strict=True):
            np.testing.assert_allclose(part.numpy()[:, row], wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_is_one_step_of_the_layer(kind):
    layer = getattr(L, kind)(2, 3)
    one = getattr(L, kind + "Cell")(2, 3)
    one.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    x = tensor(np.random.default_rng(0).normal(size=(4, 5, 2)).astype("float32"))
    out, _ = layer(x)
    state = None
    for t in range(4):
        state = one(x[t], state)
        hidden = state[0] if kind == "LSTM" else state
        np.testing.assert_allclose(hidden.numpy(), out[t].numpy(), rtol=1e-5, atol=1e-6)
    alone = one(x[0, 0])
    alone = alone[0] if kind == "LSTM" else alone
    np.testing.assert_allclose(alone.numpy(), out[0, 0].numpy(), rtol=1e-5, atol=1e-6)


def test_names_and_shapes_are_torchs():
    layer = L.LSTM(2, 3, num_layers=2, bidirectional=True)
    shapes = {name: value.shape for name, value in layer.state_dict().items()}
    assert list(shapes)[:5] == [
        "weight_ih_l0",
        "weight_hh_l0",
        "bias_ih_l0",
        "bias_hh_l0",
        "weight_ih_l0_reverse",
    ]
    assert shapes["weight_ih_l1"] == (12, 6)
    assert shapes["weight_hh_l1_reverse"] == (12, 3)
    layer = L.LSTM(2, 3, num_layers=2, bidirectional=True, proj_size=1)
    shapes = {name: value.shape for name, value in layer.state_dict().items()}
    assert list(shapes)[3:6] == ["bias_hh_l0", "weight_hr_l0", "weight_ih_l0_reverse"]
    assert shapes["weight_hr_l1"] == (1, 3)
    assert shapes["weight_ih_l1"] == (12, 2)
    assert shapes["weight_hh_l1_reverse"] == (12, 1)
    assert sorted(L.GRUCell(2, 3).state_dict()) == ["bias_hh", "bias_ih", "weight_hh", "weight_ih"]
    assert repr(L.GRU(2, 3, batch_first=True)) == "GRU(2, 3, batch_first=True)"


def test_dropout_lies_between_layers_and_belongs_to_samples():
    layer = L.GRU(2, 4, num_layers=2, dropout=0.5, batch_first=True)
    x = np.random.default_rng(0).normal(size=(3, 5, 2)).astype("float32")

    def run(rows: list[int]) -> np.ndarray:
        with random.scope(seed=0, step=1, samples=rows):
            return layer(tensor(x[rows]))[0].numpy()

    whole = run([0, 1, 2])
    np.testing.assert_allclose(run([2, 0]), whole[[2, 0]], rtol=1e-6)
    with random.scope(seed=0, step=1, samples=[0, 1, 2]):
        packed = pack_padded_sequence(tensor(x), [5, 5, 5], batch_first=True)
        np.testing.assert_allclose(
            pad_packed_sequence(layer(packed)[0], batch_first=True)[0].numpy(), whole, rtol=1e-6
        )
    assert np.abs(layer.eval()(tensor(x))[0].numpy() - whole).max() > 1e-3
    one = L.GRU(2, 4, dropout=0.9)
    np.testing.assert_array_equal(one(tensor(x))[0].numpy(), one.eval()(tensor(x))[0].numpy())


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["LSTM", "GRU", "GRU without bias"]),
    shape=st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(1, 3)),
    reverse=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_fast_path_is_the_composition_of_its_steps(kind, shape, reverse, seed):
    time, batch, size = shape
    make = np.random.default_rng(seed).normal
    gates = 4 if kind == "LSTM" else 3
    arrays = [make(size=s) for s in [(time, batch, gates * size), (gates * size, size)]]
    states = [make(size=(batch, size)) for _ in range(2 if kind == "LSTM" else 1)]
    arrays += states if kind == "LSTM" else [make(size=3 * size), *states]
    v = make(size=(time + (kind == "LSTM"), batch, size))
    results = []
    for fast in (True, False):
        with mg.fused_operations(fast):
            leaves: list[Any] = [tensor(a, requires_grad=True) for a in arrays]
            given_ = list(leaves)
            if kind == "GRU without bias":
                given_[2] = None
            run = lstm_sequence if kind == "LSTM" else gru_sequence
            out = run(*given_, reverse=reverse)
            out.backward(v)
        results.append([out.numpy(), *(leaf.grad.numpy() for leaf in given_ if leaf is not None)])
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


def test_gates_that_are_sure_neither_overflow_nor_stall():
    inputs = tensor(np.array([[[800.0, -800.0, 800.0, 800.0]]]), requires_grad=True)
    out = lstm_sequence(
        inputs, tensor(np.zeros((4, 1))), tensor([[0.0]], dtype="float64"), tensor([[9.0]], dtype="float64")
    )
    np.testing.assert_allclose(out.numpy().ravel(), [np.tanh(1.0), 1.0])
    out.sum().backward()
    np.testing.assert_array_equal(inputs.grad.numpy(), 0.0)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [L.RNN, L.LSTM, L.GRU])
@pytest.mark.parametrize("place", [1, 3, 5])
def test_nothing_leaks_from_the_future_to_the_bit(kind, place):
    layer, x = kind(3, 4, 2, batch_first=True), np.random.default_rng(0).normal(size=(2, 6, 3))
    other = x.copy()
    other[:, place:] += 100.0
    before, after = (layer(tensor(v.astype("float32")))[0].numpy() for v in (x, other))
    np.testing.assert_array_equal(before[:, :place], after[:, :place])
    assert (before[:, place:] != after[:, place:]).any()


# ----- Packing ----------------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    batch_first=st.booleans(),
    more=st.integers(0, 2),
)
def test_packing_goes_there_and_back(lengths, batch_first, more):
    time = max(lengths) + more
    x = np.random.default_rng(1).normal(size=(len(lengths), time, 2))
    used = np.arange(time) < np.array(lengths)[:, None]
    packed = pack_padded_sequence(
        tensor(x if batch_first else x.transpose(1, 0, 2)), lengths, batch_first, enforce_sorted=False
    )
    assert packed.data.shape == (sum(lengths), 2)
    assert packed.lengths.tolist() == lengths
    assert (np.diff(packed.batch_sizes) <= 0).all()
    padded, found = pad_packed_sequence(packed, batch_first, padding_value=-7.0, total_length=time)
    values = padded.numpy() if batch_first else padded.numpy().transpose(1, 0, 2)
    np.testing.assert_array_equal(values, np.where(used[:, :, None], x, -7.0))
    assert found.tolist() == lengths


def test_padding_gets_no_gradient():
    x = tensor(np.ones((3, 2, 1)), requires_grad=True)
    packed = pack_padded_sequence(x, [3, 1])
    assert isinstance(packed, PackedSequence)
    packed.data.sum().backward()
    assert x.grad.numpy()[:, :, 0].tolist() == [[1, 1], [1, 0], [1, 0]]  # type: ignore[union-attr]


def test_sequences_are_padded_to_the_longest():
    parts = [tensor([1.0, 2.0]), tensor([3.0])]
    assert pad_sequence(parts, padding_value=9.0).tolist() == [[1, 3], [2, 9]]
    assert pad_sequence(parts, batch_first=True).tolist() == [[1, 2], [3, 0]]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: pack_padded_sequence(x, [1, 3]), ["[1, 3]", "not sorted"]),
        (lambda x: pack_padded_sequence(x, [4, 1]), ["[4, 1]", "3 steps"]),
        (lambda x: pack_padded_sequence(x, [3, 0]), ["[3, 0]", "1 to 3"]),
        (lambda x: pack_padded_sequence(x, [3]), ["2 sequences", "[3]"]),
        (lambda x: pad_packed_sequence(pack_padded_sequence(x, [3, 1]), total_length=2), ["2", "3"]),
        (lambda x: pad_sequence([x, x[:, :1]]), ["(3, 2, 2)", "(3, 1, 2)"]),
        (lambda x: L.LSTM(2, 3)(x, (x, x)), ["LSTM", "2 state(s)", "(1, 2, 3)", "(3, 2, 2)"]),
        (lambda x: L.LSTM(2, 3, proj_size=2)(x, (x, x)), ["(1, 2, 2)", "(1, 2, 3)", "(3, 2, 2)"]),
        (lambda x: L.LSTM(2, 3, proj_size=3), ["proj_size", "hidden_size 3", "got 3"]),
        (lambda x: L.GRU(2, 3, proj_size=1), ["GRU", "only an LSTM", "1"]),
        (lambda x: L.LSTMCell(2, 3)(x[0], (x[0], x[0])), ["LSTMCell", "(2, 3)", "(2, 2)"]),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(MinigradError) as caught:
        call(tensor(np.ones((3, 2, 2), "float32")))
    assert all(word in str(caught.value) for word in words), str(caught.value)
