"""Nests of tensors: what pairs with what, and which types come back."""

from collections import OrderedDict, defaultdict, namedtuple
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.errors import ShapeError
from minigrad.tree import flatten, paired, rebuild

Pair = namedtuple("Pair", "first second")


def nests(leaves: Any) -> Any:
    """Nests of lists, tuples and dicts, none of them empty."""

    def wider(children: Any) -> Any:
        lists = st.lists(children, min_size=1, max_size=3)
        return (
            lists
            | lists.map(tuple)
            | st.dictionaries(st.sampled_from("abcd"), children, min_size=1, max_size=3)
        )

    return st.recursive(leaves, wider, max_leaves=8)


def shuffled(nest: Any, draw: Any) -> Any:
    """An equal nest whose dicts were filled in another order, lists and tuples exchanged at will."""
    if isinstance(nest, dict):
        return {key: shuffled(nest[key], draw) for key in draw(st.permutations(sorted(nest)))}
    if isinstance(nest, (list, tuple)):
        return draw(st.sampled_from([list, tuple]))(shuffled(part, draw) for part in nest)
    return nest


@given(nests(st.integers()), st.data())
def test_dicts_pair_by_key_and_lists_by_place(nest, data) -> None:
    assert paired("these", shuffled(nest, data.draw), "those", nest) == flatten(nest)
    assert rebuild(nest, flatten(nest)) == nest


@given(nests(st.just(0)), nests(st.just(0)))
def test_another_structure_is_refused_with_both_named(one, other) -> None:
    def shape(nest: Any) -> Any:
        if isinstance(nest, dict):
            return frozenset((key, shape(part)) for key, part in nest.items())
        return tuple(map(shape, nest)) if isinstance(nest, (list, tuple)) else nest

    if shape(one) == shape(other):
        assert paired("these", one, "those", other) == flatten(other)
    else:
        with pytest.raises(ShapeError, match=r"^these nested as .* cannot be paired with those nested as "):
            paired("these", one, "those", other)


@given(st.permutations("abc"), st.permutations("abc"))
def test_derivatives_pair_dicts_by_key(first, second) -> None:
    values = {"a": 2.0, "b": 3.0, "c": 5.0}
    factors = {"a": 7.0, "b": 11.0, "c": 13.0}

    def number(value: float) -> mg.Tensor:
        return mg.tensor(value, dtype="float64")

    def f(x: Any) -> Any:
        return {key: factors[key] * x[key] for key in first}

    x = {key: number(values[key]) for key in first}
    v = {key: number(values[key]) for key in second}
    right = {key: factors[key] * values[key] for key in factors}
    (pulled,) = mg.vjp(f, x)[1](v)
    assert {key: part.item() for key, part in pulled.items()} == right
    assert {key: part.item() for key, part in mg.jvp(f, x, v)[1].items()} == right
    leaves = {key: part.requires_grad_() for key, part in x.items()}
    found = mg.gradients(f(leaves), leaves, cotangents=v)
    assert {key: part.item() for key, part in found.items()} == right


def test_refusals_name_both_nests() -> None:
    x = {"a": mg.ones(2), "b": [mg.ones(2)]}
    with pytest.raises(
        ShapeError, match=r"tangents nested as \{'a': \*, 'c': \[\*\]\} .* inputs .*'b': \[\*\]"
    ):
        mg.jvp(lambda d: d["a"], x, {"a": mg.ones(2), "c": [mg.ones(2)]})
    with pytest.raises(ShapeError, match=r"cotangents nested as \* cannot be paired with outputs .*'a': \*"):
        mg.vjp(lambda d: d, x)[1](mg.ones(2))
    y = mg.ones(2).requires_grad_()
    with pytest.raises(ShapeError, match=r"cotangents nested as \[\*, \*\] .* outputs nested as \[\*\]"):
        mg.gradients(y * y, [y], cotangents=[mg.ones(2), mg.ones(2)])
    with pytest.raises(ShapeError, match=r"cotangents nested as \(\*,\) .* nested as \[\*, \*\]"):
        mg.gradients([y * y, y], [y], cotangents=(mg.ones(2),))
    np.testing.assert_array_equal(mg.gradients(y * y, y, cotangents=mg.ones(2)).numpy(), [2.0, 2.0])


def test_nests_keep_their_types() -> None:
    ordered = OrderedDict(b=mg.ones(()), a=mg.ones(()))
    g = mg.grad(lambda d: d["a"] * d["b"])(ordered)
    assert type(g) is OrderedDict
    assert list(g) == ["b", "a"]
    grown: Any = defaultdict(list, a=mg.ones(()))
    g = mg.grad(lambda d: d["a"] * 2.0)(grown)
    assert type(g) is defaultdict
    assert g.default_factory is list
    assert grown["a"].item() == 1.0  # the caller's nest is left alone


def test_rebuilding_a_nest_counts_its_leaves() -> None:
    nest = {"a": [1, (2, 3)], "b": Pair(4, 5)}
    assert flatten(nest) == [1, 2, 3, 4, 5]
    assert rebuild(nest, list("abcde")) == {"a": ["a", ("b", "c")], "b": Pair("d", "e")}
    with pytest.raises(ShapeError, match="6 leaves do not fit a nest with 5"):
        rebuild(nest, list("abcdef"))
