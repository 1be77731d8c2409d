"""What the answers of lesson 28 must do."""

import itertools
from functools import cache
from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from minigrad import dist, nn
from minigrad.dist.memory import Meter
from minigrad.dist.mesh import Mesh
from minigrad.dist.mesh_gpt import MeshGPT, divide
from minigrad.lessons.checking import count, exercise, few, require, wrong

RUNS = st.fixed_dictionaries(
    {
        "data": st.integers(1, 3),
        "pipeline": st.integers(1, 3),
        "tensor": st.sampled_from([1, 2]),
        "layers": st.integers(3, 5),
        "width": st.sampled_from([4, 8]),
    }
)


def run_of(answer, shape):
    """The learner's Run of a shape."""
    return answer.Run(words=12, context=5, samples=shape["data"] * 4, microbatches=2, **shape)


@cache
def runs():
    """Small runs that were really made: shapes, and what each rank found."""
    found = []
    for d, p, t in ((2, 2, 2), (3, 2, 1), (1, 3, 2)):
        shape = {"data": d, "pipeline": p, "tensor": t, "layers": 4, "width": 8}
        found.append((shape, dist.spawn(measured, ranks=d * p * t, arguments=(shape,))))
    return found


def words_of(run):
    """The run in words."""
    return (
        f"data {run.data} x pipeline {run.pipeline} x tensor {run.tensor}, {run.layers} blocks, "
        f"width {run.width}, V = {run.words}, T = {run.context}"
    )


def hint(found, expected, mistakes):
    """What to say if the answer is what known mistakes give."""
    alike = [why for why, value in mistakes.items() if found == value != expected]
    return "\n" + " Or: ".join(alike) if alike else ""


def config_of(run):
    """The GPT of a run, with two heads."""
    return nn.GPTConfig(run.words, run.context, layers=run.layers, heads=2, width=run.width)


def measured(world, shape):
    """A step on a mesh: its place, parameters, bytes held, and bytes sent by axis."""
    run = SimpleNamespace(words=12, context=5, samples=shape["data"] * 4, microbatches=2, **shape)
    mesh = Mesh(world, data=run.data, pipeline=run.pipeline, tensor=run.tensor)
    model, meter = nn.GPT(config_of(run), seed=0, dtype="float64"), Meter()
    part = MeshGPT(model, mesh, microbatches=run.microbatches, algorithm="ring")
    optimizer = nn.optim.AdamW(part.module.parameters(), lr=1e-3)
    zero = part.share_out(optimizer, stage=1, algorithm="ring", meter=meter)
    world.ledger.clear()
    own = run.samples // run.data
    tokens = np.random.default_rng(0).integers(0, run.words, size=(run.samples, run.context + 1))
    mine = tokens[mesh.coordinates["data"] * own :][:own]
    part.learn(mine[:, :-1], mine[:, 1:], count=run.samples * run.context)
    zero.step()
    sent = {"data": 0, "pipeline": 0, "tensor": 0}
    axes = {"send": "pipeline", "reduce_scatter": "data", "all_gather": "data"}
    for (verb, purpose), entry in world.ledger.by_kind.items():
        if purpose != "control":
            words = "pipeline" if purpose == "gradients" and mesh.axis("pipeline").size > 1 else "data"
            sent[axes.get(verb, "tensor" if purpose == "activations" else words)] += entry.bytes_sent
    size = sum(parameter.size for parameter in part.module.parameters())
    held = {name: meter.current[name] for name in ("parameters", "gradients", "optimizer")}
    return mesh.coordinates, size, held, sent


def stages_of(run):
    """(blocks, first, last) of each stage."""
    if run.pipeline == 1:
        return [(run.layers, True, True)]
    model = nn.GPT(config_of(run), device="shapes")
    names = divide(model, run.pipeline, microbatches=run.microbatches).stages
    return [(sum(n.startswith("h.") for n in own), "wte" in own, "lm_head" in own) for own in names]


def held_by(run):
    """What 28.2 asks for, by stage, from the shapes of a GPT's parameters."""
    model = nn.GPT(config_of(run), device="shapes")
    sizes = {name: p.size for name, p in model.named_parameters()}

    def size(name):
        whole = ("ln_1", "ln_2", "c_proj.bias", "wpe", "ln_f")
        return sizes[name] if any(word in name for word in whole) else sizes[name] // run.tensor

    block = sum(size(name) for name in sizes if name.startswith("h.0."))
    found = []
    for blocks, first, last in stages_of(run):
        total = blocks * block + (first or last) * size("wte.weight") + first * size("wpe.weight")
        found.append(total + last * (size("ln_f.weight") + size("ln_f.bias")))
    return found


@exercise("28.1", "who works with whom", points=2, rebuilds=["minigrad.dist.mesh.Mesh"])
@few(0.5)
@given(shape=RUNS)
def check_places(answer, shape):
    run = run_of(answer, shape)

    def main(world):
        mesh = Mesh(world, data=run.data, pipeline=run.pipeline, tensor=run.tensor)
        every = {}
        for axis in ("data", "pipeline", "tensor"):
            own, found = np.array([world.rank]), np.empty(mesh.axis(axis).size, dtype=int)
            mesh.axis(axis).all_gather(own, found)
            every[axis] = found.tolist()
        return tuple(mesh.coordinates.values()), every

    shape_words = f"data {run.data} x pipeline {run.pipeline} x tensor {run.tensor}"
    ranks = dist.spawn(main, ranks=run.data * run.pipeline * run.tensor)
    for rank, (where, _) in enumerate(ranks):
        found = answer.place(rank, run)
        require(
            found is not None and tuple(found) == where,
            f"{shape_words}: rank {rank} stands at {where} on (data, pipeline, tensor), and yours at {found}",
        )
    for rank, (_, every) in enumerate(ranks):
        for axis, others in every.items():
            found = answer.together(rank, run, axis)
            require(
                found is not None and list(found) == others,
                f"{shape_words}: together({rank}, run, {axis!r}) is {others}, and yours is {found}",
            )


@exercise("28.2", "parameters of a rank", points=3, rebuilds=["minigrad.dist.mesh_gpt.MeshGPT"])
@given(shape=RUNS)
def check_parameters(answer, shape):
    run = run_of(answer, shape)
    for (blocks, first, last), expected in zip(stages_of(run), held_by(run), strict=True):
        found = answer.parameters_of_rank(run, blocks, first, last)
        ends = {(True, True): "first and last", (True, False): "first", (False, True): "last"}
        kind = ends.get((first, last), "inner")
        require(
            found == expected,
            f"{words_of(run)}: a rank of the {kind} stage, with {count(blocks, 'block')}, has {expected} "
            f"parameters; you predict {found}"
            + hint(found, expected, slips(run, blocks, first, last, expected)),
        )


def slips(run, blocks, first, last, expected):
    """What mistakes in 28.2 give."""
    h, cut = run.width, 1 - 1 / run.tensor  # the share that a cut takes away
    words, norms = run.words * h / run.tensor, 4 * h * blocks + 2 * h * last
    return {
        "Biases of the matrices cut by outputs are cut with them: 3 h and 4 h a block.": expected
        + 7 * h * blocks * cut,
        "Biases of the matrices cut by inputs are whole: h and h a block.": expected - 2 * h * blocks * cut,
        "Norms are whole.": expected - norms * cut,
        "A norm has a weight and a bias, 2 h.": expected - norms / 2,
        "Places are whole.": expected - run.context * h * cut * first,
        "Words are cut.": expected + run.words * h * cut * (first or last),
        "A stage that is first and last has the words once.": expected + words * (first and last),
        "The last stage has the words, too, for the output.": expected - words * last,
    }


@exercise("28.3", "states of a rank", points=2, rebuilds=["minigrad.dist.planner.model_states"])
@given(data=st.integers(1, 5), parameters=st.integers(1, 60))
def check_states(answer, data, parameters):
    run = answer.Run(words=12, context=5, layers=3, width=4, samples=4 * data, data=data)
    for rank in range(data):
        found = answer.states(run, parameters, rank)
        own = parameters // data + (rank < parameters % data)
        expected = {"parameters": 8 * parameters, "gradients": 8 * parameters, "optimizer": 16 * own}
        require(
            found == expected,
            f"{count(parameters, 'parameter')} on rank {rank} of {data} on the data axis: {expected} bytes, "
            f"and you predict {found}",
        )


@exercise("28.4", "traffic of a step", points=4, rebuilds=["minigrad.dist.planner.traffic"])
@few(0.5)
@given(shape=RUNS)
def check_traffic(answer, shape):
    run = run_of(answer, shape)
    d, p, t = run.data, run.pipeline, run.tensor
    tokens, parameters = run.samples * run.context, t * sum(held_by(run))
    ring = {axis: 2 * 8 * (n - 1) for axis, n in (("data", d), ("tensor", t))}
    between = 2 * (p - 1) * tokens * run.width * t + (2 * run.words * run.width * d if p > 1 else 0)
    expected = {
        "data": ring["data"] * parameters,
        "pipeline": 8 * between,
        "tensor": ring["tensor"] * tokens * ((4 * run.layers + 2) * run.width + 3),
    }
    compare_traffic(answer.traffic(run, parameters), expected, run)


def compare_traffic(found, expected, run, source=""):
    """By axis."""
    if not isinstance(found, dict) or set(found) != set(expected):
        wrong(f"traffic returns bytes by {', '.join(expected)}, and yours is {found!r}")
    for axis, number in expected.items():
        require(
            found[axis] == number,
            f"{words_of(run)}, {run.samples} samples: {number:,} bytes are sent on the {axis} axis{source}; "
            f"you predict {found[axis]:,}"
            + hint(found[axis], number, {} if source else misjudged(run, axis, number)),
        )


def misjudged(run, axis, number):
    """What mistakes in 28.4 give."""
    d, p, t, h = run.data, run.pipeline, run.tensor, run.width
    if axis == "data":
        return {
            "Two collectives move the parameters' bytes: a reduce-scatter and an all-gather.": number / 2,
            "That is what one rank of each ring sends; all d ranks of it send.": number / d,
            "The d ranks of a ring send 2 (d - 1) times the array all together.": number * d,
        }
    tokens = run.samples * run.context
    if axis == "tensor":
        each = 2 * 8 * (t - 1) * tokens
        return {
            "The embedding and the output have an all-reduce each, beside the blocks.": number - each * 2 * h,
            "The embedding has an all-reduce, and the output another one.": number - each * h,
            "The loss's three numbers a token are missing.": number - each * 3,
            "The loss moves three numbers a token, not three times h.": number + each * 3 * (h - 1),
            "`samples` are those of all copies already.": number * d,
            "Each copy sums its own tokens: all of `samples` count.": number / d,
        }
    flow, tied = 8 * 2 * (p - 1) * tokens * h * t, 8 * 2 * run.words * h * d
    return {
        "Each of the t tensor ranks sends all of a token's numbers.": flow / t + tied,
        "Cotangents go back as well, as many as activations go forward.": flow / 2 + tied,
        "The all-reduce of the words' gradients is missing.": flow,
        "Each copy sums its words' gradients: d times.": flow + tied / d,
        "Two stages have the words, first and last, however many there are.": flow + tied * (p - 1),
        "A tensor rank sums its own words only: V / t of them.": flow + tied * t,
        "Microbatches share the tokens; they do not multiply them.": flow * run.microbatches + tied,
        "`samples` are those of all copies already.": flow * d + tied,
        "Each copy sends its own tokens: all of `samples` count.": flow / d + tied,
    }


@exercise("28.2", "parameters of a rank", points=1, rebuilds=["minigrad.dist.mesh_gpt.MeshGPT"])
def check_parameters_of_runs(answer):
    for shape, ranks in runs():
        run = run_of(answer, shape)
        for rank, (at, size, _, _) in enumerate(ranks):
            found = answer.parameters_of_rank(run, *stages_of(run)[at["pipeline"]])
            require(
                found == size,
                f"in a run on {words_of(run)} rank {rank} had {size} parameters; you predict {found}",
            )


@exercise("28.3", "states of a rank", points=1, rebuilds=["minigrad.dist.mesh_gpt.MeshGPT"])
def check_states_of_runs(answer):
    for shape, ranks in runs():
        run = run_of(answer, shape)
        for rank, (at, size, held, _) in enumerate(ranks):
            found = answer.states(run, size, at["data"])
            require(
                found == held,
                f"in a run on {words_of(run)} rank {rank}, with {size} parameters, held {held}; you predict "
                f"{found}",
            )


@exercise("28.4", "traffic of a step", points=2, rebuilds=["minigrad.dist.mesh_gpt.MeshGPT"])
def check_traffic_of_runs(answer):
    for shape, ranks in runs():
        run = run_of(answer, shape)
        parameters = sum(size for at, size, _, _ in ranks if at["data"] == 0)
        sums = {axis: sum(sent[axis] for _, _, _, sent in ranks) for axis in ("data", "pipeline", "tensor")}
        compare_traffic(answer.traffic(run, parameters), sums, run, " in a run")


@exercise("28.5", "the best mesh", points=2)
@given(ranks=st.integers(1, 24), seed=st.integers(0, 50), limit=st.integers(0, 9))
def check_best_mesh(answer, ranks, seed, limit):
    every = [m for m in itertools.product(range(1, ranks + 1), repeat=3) if m[0] * m[1] * m[2] == ranks]
    found = answer.meshes(ranks)
    require(found is not None, "meshes yields nothing: write `yield data, pipeline, tensor` for each")
    found = sorted(map(tuple, found))
    require(
        found == sorted(every), f"{count(ranks, 'rank')}: expected the meshes {every}, and yours are {found}"
    )
    random = np.random.default_rng(seed)
    costs = {mesh: tuple(random.integers(0, 10, size=2).tolist()) for mesh in every}
    told = answer.best_mesh(ranks, limit, lambda *mesh: costs[mesh])
    fitting = {mesh: pair[::-1] for mesh, pair in costs.items() if pair[0] <= limit}
    shown = {mesh: costs[mesh] for mesh in every}
    if not fitting:
        require(told is None, f"nothing fits into {limit} of {shown} (bytes, seconds), and yours is {told}")
        return
    best = min(fitting.values())
    require(
        told is not None and tuple(told) in fitting and fitting[tuple(told)] == best,
        f"{count(limit, 'byte')} fit; of {shown} (bytes, seconds) the best is "
        f"{next(m for m in every if fitting.get(m) == best)}, and yours is {told}",
    )
