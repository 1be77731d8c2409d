"""What the answers of lesson 12 must do."""

import math

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.lessons.checking import (
    Wrong,
    count,
    exercise,
    few,
    require,
    require_close,
    require_tensor,
    wrong,
)

ATTENTION = [
    "minigrad.ops.attention.scaled_dot_product_attention",
    "minigrad.ops.attention.self_attention",
    "minigrad.nn.gpt.CausalSelfAttention",
    "minigrad.nn.gpt.Block",
]
sizes = st.integers(1, 4)


def plain_attention(query, key, value, hidden=None):
    """One matrix of queries at a time, entry by entry."""
    out = np.zeros((*query.shape[:-1], value.shape[-1]))
    for place in np.ndindex(query.shape[:-1]):
        *batch, row = place
        there = tuple(batch)
        scores = [
            -math.inf
            if hidden is not None and hidden[row, j]
            else query[place] @ key[there][j] / math.sqrt(query.shape[-1])
            for j in range(key.shape[-2])
        ]
        weights = np.exp(np.array(scores) - max(scores))
        out[place] = weights / weights.sum() @ value[there]
    return out


def require_gradients(name, function, *arrays):
    """Derivatives flow through the answer, and are those of its values."""
    try:
        mg.testing.check_gradients(function, *arrays, order=1)
    except Wrong:
        raise
    except AssertionError as error:
        wrong(f"the derivatives of your {name} are not those of its values: {error}")


def drawn(seed, *shapes):
    """Random arrays."""
    random = np.random.default_rng(seed)
    return [random.normal(size=shape) for shape in shapes]


@exercise("12.1", "scaled dot-product attention", points=3, rebuilds=ATTENTION)
@given(seed=st.integers(0, 99), n=sizes, m=sizes, d=sizes, e=sizes, batch=st.sampled_from([(), (2,), (2, 3)]))
def check_attention(answer, seed, n, m, d, e, batch):
    arrays = drawn(seed, (*batch, n, d), (*batch, m, d), (*batch, m, e))
    found = answer.attention(*map(mg.tensor, arrays))
    what = f"attention of queries {(*batch, n, d)}, keys {(*batch, m, d)}, values {(*batch, m, e)}"
    require_close(found, plain_attention(*arrays), what)


@exercise("12.1", "scaled dot-product attention", points=0, rebuilds=ATTENTION)
@given(seed=st.integers(0, 99), n=st.integers(2, 5))
def check_mask(answer, seed, n):
    arrays = drawn(seed, (n, 3), (n, 3), (n, 2))
    hidden = np.triu(np.ones((n, n), dtype=bool), 1)
    found = answer.attention(*map(mg.tensor, arrays), hidden)
    require_tensor(found, "attention")
    require_close(
        found, plain_attention(*arrays, hidden), f"attention of {n} positions, the later ones hidden"
    )
    arrays[1][-1] += 1.0
    again = answer.attention(*map(mg.tensor, arrays), hidden)
    same = np.array_equal(found.numpy()[:-1], again.numpy()[:-1])
    require(same, "a hidden key changed, and so did what should not see it: weights must be exactly 0 there")


@exercise("12.1", "scaled dot-product attention", points=1, rebuilds=ATTENTION)
@few()
@given(seed=st.integers(0, 9))
def check_that_gradients_flow(answer, seed):
    require_gradients("attention", answer.attention, *drawn(seed, (3, 2), (4, 2), (4, 2)))


@exercise("12.2", "many heads", points=2)
@given(seed=st.integers(0, 99), batch=sizes, time=sizes, heads=sizes, head=sizes)
def check_heads(answer, seed, batch, time, heads, head):
    (x,) = drawn(seed, (batch, time, heads * head))
    split = answer.split_heads(mg.tensor(x), heads)
    require_tensor(split, "split_heads")
    require(
        tuple(split.shape) == (batch, heads, time, head),
        f"split_heads of {x.shape} into {count(heads, 'head')} must be {(batch, heads, time, head)}, "
        f"and yours is {split.shape}",
    )
    for h in range(heads):
        require_close(
            split.numpy()[:, h], x[:, :, h * head : (h + 1) * head], f"head {h} of {heads}, x {x.shape}"
        )
    require_close(
        answer.merge_heads(mg.tensor(split.numpy())), x, f"merge_heads after split_heads of {x.shape}"
    )


@exercise("12.2", "many heads", points=0)
@few()
@given(seed=st.integers(0, 9))
def check_that_gradients_flow_through_heads(answer, seed):
    def there_and_back(x):
        split = answer.split_heads(x, 3)
        merged = answer.merge_heads(split)
        require_tensor(merged, "merge_heads")
        return merged

    require_gradients("split_heads and merge_heads", there_and_back, *drawn(seed, (2, 2, 6)))


@exercise("12.3", "positional encodings", points=2)
@given(positions=st.integers(1, 6), half=st.integers(1, 5))
def check_positional_encoding(answer, positions, half):
    width = 2 * half
    found = answer.positional_encoding(positions, width)
    expected = [
        [(math.sin, math.cos)[c % 2](p / 10000 ** ((c - c % 2) / width)) for c in range(width)]
        for p in range(positions)
    ]
    require_close(found, np.array(expected), f"the encoding of {count(positions, 'position')}, width {width}")


@exercise("12.4", "the block", points=3, rebuilds=ATTENTION)
@few(0.5)
@given(seed=st.integers(0, 99), batch=st.integers(1, 2), time=st.integers(1, 4), heads=st.integers(1, 3))
def check_block(answer, seed, batch, time, heads):
    width = 2 * heads
    x, packed, out, inner, outer = drawn(
        seed, (batch, time, width), (width, 3 * width), (width, width), (width, 5), (5, width)
    )

    def norm(scale):
        return lambda x: (x - mg.mean(x, axis=-1, keepdims=True)) * scale

    centred = (x - x.mean(-1, keepdims=True)) * 0.5
    q, k, v = np.split(centred @ packed, 3, axis=-1)
    cut = [np.stack(np.split(one, heads, axis=-1), axis=1) for one in (q, k, v)]
    seen = plain_attention(*cut, np.triu(np.ones((time, time), dtype=bool), 1))
    merged = np.concatenate([seen[:, h] for h in range(heads)], axis=-1)
    middle = x + merged @ out
    centred_middle = (middle - middle.mean(-1, keepdims=True)) * 2.0
    inputs = {
        "norm_1": ("x", x),
        "queries_keys_values": ("norm_1(x)", centred),
        "out": ("what the causal heads found, merged", merged),
        "norm_2": ("x + out(...)", middle),
        "mlp": ("norm_2(x + out(...))", centred_middle),
    }
    what = f"{count(heads, 'head')}, x of shape {x.shape}"
    called = []

    def layer(name, function):
        def checked(given):
            called.append(name)
            words, expected = inputs[name]
            require_tensor(given, f"{what}: what {name} gets")
            require_close(given, expected, f"{what}: {name} must get {words}")
            return function(given)

        return checked

    layers = {
        "norm_1": norm(0.5),
        "queries_keys_values": lambda x: x @ mg.tensor(packed),
        "out": lambda x: x @ mg.tensor(out),
        "norm_2": norm(2.0),
        "mlp": lambda x: mg.tanh(x @ mg.tensor(inner)) @ mg.tensor(outer),
    }
    spies = {name: layer(name, function) for name, function in layers.items()}
    found = answer.block(mg.tensor(x), **spies, heads=heads)
    missing = [name for name in layers if called.count(name) != 1]
    require(not missing, f"{what}: each layer must be called once; see {', '.join(missing)}")
    expected = middle + np.tanh(centred_middle @ inner) @ outer
    require_close(found, expected, f"{what}: the block's output, x + out(...) + mlp(...)")


@exercise("12.4", "the block", points=0, rebuilds=ATTENTION)
@few(0.1)
@given(seed=st.integers(0, 9))
def check_that_gradients_flow_through_the_block(answer, seed):
    x, *matrices = drawn(seed, (1, 3, 4), (4, 12), (4, 4), (4, 4))
    names = ("queries_keys_values", "out", "mlp")
    layers = {n: lambda x, w=w: x @ w for n, w in zip(names, map(mg.tensor, matrices), strict=True)}
    norms = {"norm_1": lambda x: 0.5 * x, "norm_2": lambda x: 2.0 * x}
    require_gradients("block", lambda x: answer.block(x, **layers, **norms, heads=2), x)


@exercise("12.5", "a test for leaks", points=2)
@given(seed=st.integers(0, 99), time=st.integers(2, 5), ahead=st.integers(0, 2), bits=st.booleans())
def check_leaks(answer, seed, time, ahead, bits):
    tokens = np.random.default_rng(seed).integers(0, 4, size=time)
    before = tokens.copy()

    def model(tokens):
        """Sums of what each position sees, which is `ahead` more than it should."""
        seen = np.tril(np.ones((time, time)), ahead)
        seen[: time - 1, time - 1] *= 2**-40 if bits else 1.0  # a leak may be very small
        return (seen @ np.exp(tokens))[:, None]

    found = answer.leaks(model, tokens, 4)
    require((tokens == before).all(), "leaks changed the tokens that it was given; work on a copy")
    what = f"each of {time} positions sees {ahead} later ones" + (
        ", the last one only by its last bits" if bits else ""
    )
    require(found is not None, "leaks must return True or False, and yours returns None")
    require(bool(found) == (ahead > 0), f"{what}: leaks must be {ahead > 0}, and yours is {found}")


@exercise("12.5", "a test for leaks", points=0)
@given(place=st.integers(1, 3), before=st.integers(0, 3), wanted=st.integers(0, 3))
def check_leaks_of_one_token(answer, place, before, wanted):
    assume(before != wanted)  # only one token gives the leak away, and only at one place
    tokens = np.array([0, 1, 2, 1])
    tokens[place] = before

    def model(tokens):
        return np.array([[float(tokens[place] == wanted)], [0.0], [0.0], [0.0]])

    what = f"tokens {tokens.tolist()}: the first output asks whether token {place} is {wanted}"
    require(answer.leaks(model, tokens.copy(), 4), f"{what}, and that is a leak")
    honest = answer.leaks(lambda tokens: np.cumsum(tokens)[:, None].astype(float), tokens.copy(), 4)
    require(not honest, f"running sums of the tokens {tokens.tolist()} see nothing later: no leak")
