"""einsum and its relatives: every expression, against NumPy, with derivatives."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.errors import ShapeError
from minigrad.ops.products import _order, _parsed
from minigrad.testing import check_gradients
from tests.minigrad.examples import spread

EXPRESSIONS: list[Any] = [
    ("ij,jk->ik", (2, 3), (3, 4)),
    ("ij,jk", (2, 3), (3, 4)),
    ("ba,cb", (2, 3), (4, 2)),
    ("ij,kj->ki", (2, 3), (4, 3)),
    ("ji,jk->ik", (3, 2), (3, 4)),
    ("bhqd,bhkd->bhqk", (2, 1, 3, 2), (2, 1, 4, 2)),
    ("bhqk,bkhd->bqhd", (2, 2, 3, 4), (2, 4, 2, 3)),
    ("bijc,bicd->bjd", (2, 2, 3, 2), (2, 2, 2, 3)),
    ("ii", (3, 3)),
    ("ii->i", (3, 3)),
    ("iij->j", (2, 2, 3)),
    ("iji->ij", (2, 3, 2)),
    ("iii->i", (2, 2, 2)),
    ("iijj->ij", (2, 2, 3, 3)),
    ("ij->", (2, 3)),
    ("ij->ji", (2, 3)),
    ("i,i", (3,), (3,)),
    ("i,i->i", (3,), (3,)),
    ("i,j", (2,), (3,)),
    ("ji,j->ij", (2, 3), (2,)),
    ("ij,ij->i", (2, 3), (2, 3)),
    ("ij,ij", (2, 3), (2, 3)),
    ("ij,k->i", (2, 3), (4,)),
    ("...ij,...jk->...ik", (2, 1, 2, 3), (4, 3, 2)),
    ("...ij,jk", (2, 2, 3), (3, 2)),
    ("...i->...", (2, 3)),
    ("...", (2, 3)),
    ("i...,i...->...", (2, 3), (2, 1)),
    ("...,...", (), (2,)),
    ("ij,ij->ij", (1, 3), (2, 3)),
    ("ij,jk->ik", (2, 1), (3, 4)),
    ("ij,jk,kl->il", (2, 3), (3, 2), (2, 4)),
    ("i,i,i", (3,), (3,), (3,)),
    ("ij,j,jk,k->i", (2, 3), (3,), (3, 2), (2,)),
    ("ab,bc,cd,de,ef,fg->ag", (2, 2), (2, 3), (3, 2), (2, 2), (2, 3), (3, 2)),
    (" i j , j -> i ", (2, 3), (3,)),
    ("ij,jk->ik", (0, 3), (3, 2)),
    ("ij,jk->ik", (2, 0), (0, 2)),
    ("->", ()),
    (",i->i", (), (2,)),
]


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=[e[0] for e in EXPRESSIONS])
def test_einsum_is_numpys(expression):
    subscripts, *shapes = expression
    inputs = [np.asarray(spread(*shape)) for shape in shapes]
    result, expected = mg.einsum(subscripts, *inputs), np.einsum(subscripts, *inputs)
    assert result.shape == np.shape(expected)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-12, atol=1e-13)
    check_gradients(lambda *x: mg.einsum(subscripts, *x), *inputs)
    small = [mg.tensor(x, dtype="float32", requires_grad=True) for x in inputs]
    out = mg.einsum(subscripts, *small)
    out.sum().backward()
    assert out.dtype == "float32"
    twins = [mg.zeros(shape, dtype="float32", device="shapes") for shape in shapes]
    assert mg.einsum(subscripts, *twins).shape == out.shape


@given(st.data())
def test_any_einsum(data):
    sizes = dict(zip("abcd", data.draw(st.lists(st.integers(1, 3), min_size=4, max_size=4)), strict=True))
    letters = st.lists(st.sampled_from("abcd"), max_size=4).map("".join)
    terms = data.draw(st.lists(letters, min_size=1, max_size=4))
    used = sorted(set("".join(terms)))
    output = data.draw(st.permutations(used))[: data.draw(st.integers(0, len(used)))]
    subscripts = f"{','.join(terms)}->{''.join(output)}"
    inputs = [np.asarray(spread(*(sizes[k] for k in term))) for term in terms]
    found = mg.einsum(subscripts, *inputs).numpy()
    np.testing.assert_allclose(found, np.einsum(subscripts, *inputs), rtol=1e-10, atol=1e-12)


def test_the_order_has_the_fewest_multiplications():
    sizes = (("a", 2), ("b", 100), ("c", 100), ("d", 1))
    terms, output = _parsed("ab,bc,cd->ad", (2, 2, 2))
    assert _order(terms, output, sizes) == ((1, 2), (0, 1))  # from the right: 10,200 instead of 20,200
    x = [mg.ones(s, device="shapes") for s in ((50, 60), (60, 70), (70, 1))]
    assert mg.cost(lambda: mg.einsum("ab,bc,cd->ad", *x)).flops == 2 * (60 * 70 + 50 * 60)


def test_a_product_of_matrices_is_one_matmul():
    a, b = mg.ones((8, 9), device="shapes"), mg.ones((9, 7), device="shapes")
    assert mg.cost(lambda: mg.einsum("ij,jk->ik", a, b)).flops == 2 * 8 * 9 * 7
    leaf = mg.ones((8, 9)).requires_grad_()
    assert "made by matmul" in repr(mg.einsum("ij,jk->ik", leaf, mg.ones((9, 7))))


def test_integers_and_lists():
    x = np.arange(6).reshape(2, 3)
    assert mg.einsum("ij,ij", x, x).item() == 55
    assert mg.einsum("i,i", [1.0, 2.0], [3.0, 4.0]).item() == 11.0


@pytest.mark.parametrize(
    ("subscripts", "shapes", "message"),
    [
        ("ij,jk->ik", [(2, 3), (4, 5)], r"'j' has lengths 3 and 4.*\(2, 3\), \(4, 5\)"),
        ("ij->ij", [(2, 3), (2, 3)], "names 1 operands, and got 2"),
        ("ij", [(2, 3, 4)], "'ij' does not fit an operand of 3 dimensions"),
        ("ijk", [(2, 3)], "'ijk' does not fit an operand of 2 dimensions"),
        ("ij->k", [(2, 3)], "got k"),
        ("ij->ii", [(2, 3)], "one of them twice"),
        ("i+j", [(2, 3)], "expected letters"),
        ("...i,...i", [(2, 3), (4, 3)], "ellipsis has lengths 2 and 4"),
    ],
)
def test_einsum_says_what_is_wrong(subscripts, shapes, message):
    with pytest.raises(ShapeError, match=message):
        mg.einsum(subscripts, *(np.ones(s) for s in shapes))


@pytest.mark.parametrize(
    ("shapes", "axes"),
    [
        (((2, 3), (3, 4)), 1),
        (((2, 3), (2, 3)), 2),
        (((2,), (3,)), 0),
        (((2, 3, 4), (4, 2, 5)), ([0, 2], [1, 0])),
        (((2, 3, 4), (5, 3)), ([-2], [-1])),
        (((0, 3), (3, 2)), 1),
    ],
)
def test_tensordot(shapes, axes):
    inputs = [spread(*s) for s in shapes]
    expected = np.tensordot(inputs[0], inputs[1], axes=axes)
    np.testing.assert_allclose(mg.tensordot(*inputs, axes=axes).numpy(), expected, rtol=1e-12, atol=1e-13)
    check_gradients(lambda x, y: mg.tensordot(x, y, axes=axes), *inputs)


@pytest.mark.parametrize(
    ("call", "expected", "shapes"),
    [
        (mg.outer, np.outer, [(2,), (3,)]),
        (mg.outer, np.outer, [(0,), (3,)]),
        (mg.kron, np.kron, [(2, 3), (3, 1)]),
        (mg.kron, np.kron, [(2,), (3, 2)]),
        (mg.kron, np.kron, [(2, 2, 1), (3,)]),
        (mg.kron, np.kron, [(), (2,)]),
        (mg.kron, np.kron, [(0, 2), (3, 1)]),
        (mg.trace, np.trace, [(3, 3)]),
        (mg.trace, np.trace, [(2, 4)]),
        (mg.trace, np.trace, [(0, 0)]),
        (lambda x: mg.trace(x, offset=1), lambda x: np.trace(x, 1, -2, -1), [(2, 3, 4)]),
        (lambda x: mg.trace(x, offset=-2), lambda x: np.trace(x, -2, -2, -1), [(2, 4, 3)]),
        (lambda x: mg.trace(x, offset=5), lambda x: np.trace(x, 5), [(3, 3)]),
        (mg.cross, np.cross, [(3,), (3,)]),
        (mg.cross, np.cross, [(2, 1, 3), (4, 3)]),
        (mg.cross, np.cross, [(0, 3), (3,)]),
        (lambda x, y: mg.cross(x, y, axis=0), lambda x, y: np.cross(x, y, axis=0), [(3, 2), (3, 2)]),
        (mg.vecdot, np.vecdot, [(2, 3), (3,)]),
        (lambda x, y: mg.vecdot(x, y, axis=-2), lambda x, y: (x * y).sum(axis=-2), [(2, 3), (2, 3)]),
    ],
)
def test_the_relatives(call, expected, shapes):
    inputs = [np.asarray(spread(*s)) for s in shapes]
    result = call(*inputs)
    assert result.shape == np.shape(expected(*inputs))
    np.testing.assert_allclose(result.numpy(), expected(*inputs), rtol=1e-12, atol=1e-13)
    check_gradients(call, *inputs)
    assert call(*(x.astype("float32") for x in inputs)).dtype == "float32"


def test_the_relatives_say_what_is_wrong():
    two, three = np.ones((2, 2)), np.ones(3)
    for call, message in (
        (lambda: mg.outer(two, three), r"two vectors, got shapes \(2, 2\) and \(3,\)"),
        (lambda: mg.cross(two, two), r"three entries on axis -1, got shapes \(2, 2\)"),
        (lambda: mg.vecdot(two, three), r"\(2, 2\) and \(3,\) do not match on axis -1"),
        (lambda: mg.trace(three), r"matrices in the last two axes, got shape \(3,\)"),
        (lambda: mg.tensordot(two, three, axes=1), r"\(2, 2\) and \(3,\) do not pair up"),
        (lambda: mg.tensordot(two, three, axes=2), "are not there"),
    ):
        with pytest.raises(ShapeError, match=message):
            call()
