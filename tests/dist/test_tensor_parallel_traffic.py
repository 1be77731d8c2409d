"""What tensor parallelism moves, from the ledger: which collectives, how often, how many bytes."""

from collections import Counter

import numpy as np
import pytest

from minigrad import dist
from minigrad.dist.ledger import Message
from minigrad.dist.mesh import Mesh
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.tensor_parallel import tensor_parallel
from minigrad.dist.token_parallel import token_layers, token_loss
from minigrad.dist.world import World
from minigrad.nn.gpt import GPT, GPTConfig

BATCH, TIME, WIDTH, VOCABULARY = 2, 12, 12, 24
ITEM = 8  # bytes of a float64
PIECE = BATCH * TIME * WIDTH * ITEM  # bytes of the activations between two layers
Count = Counter[tuple[str, str]]


def messages(world: World, layers: int, options: dict, steps: int = 1) -> list[Message]:
    """What one rank's walks there and back move."""
    config = GPTConfig(VOCABULARY, TIME, layers=layers, heads=6, width=WIDTH)
    whole = GPT(config, dtype="float64")
    whole.checkpoint_activations = options.get("checkpointed", False)
    model = tensor_parallel(
        whole, world, sequence=options["sequence"], algorithm=options.get("algorithm", "library")
    )
    values = np.random.default_rng(0)
    booked: list[Message] = []
    world.observer = booked.append
    for _ in range(steps):
        tokens = values.integers(0, VOCABULARY, (BATCH, TIME))
        model.loss(tokens, tokens).backward()
    world.observer = None
    return booked


def counts(found: list[Message]) -> Count:
    return Counter((message.verb, message.purpose) for message in found)


def per_block(ranks: int, steps: int = 1, **options) -> Count:
    """What three blocks more take, by block: the difference of two runs, so nothing else is in it."""
    deep = dist.spawn(messages, ranks=ranks, arguments=(4, options, steps))
    flat = dist.spawn(messages, ranks=ranks, arguments=(1, options, steps))
    differences = [counts(a) - counts(b) for a, b in zip(deep, flat, strict=True)]
    assert all(difference == differences[0] for difference in differences)
    assert all(number % 3 == 0 for number in differences[0].values())
    return Counter({kind: number // 3 for kind, number in differences[0].items()})


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("steps", [1, 3])
def test_four_all_reduces_per_block_and_microbatch(ranks, steps):
    assert per_block(ranks, steps, sequence=False) == {("all_reduce", "activations"): 4 * steps}


@pytest.mark.parametrize("ranks", [2, 3])
def test_six_with_recomputation(ranks):
    assert per_block(ranks, sequence=False, checkpointed=True) == {("all_reduce", "activations"): 6}


@pytest.mark.parametrize("checkpointed", [False, True])
def test_with_token_shares_none_but_gathers_and_scatters(checkpointed):
    """One more all-gather is for the gradients of what all ranks share: 6 vectors of the width."""
    each = 6 if checkpointed else 4
    assert per_block(3, sequence=True, checkpointed=checkpointed) == {
        ("all_gather", "activations"): each,
        ("reduce_scatter", "activations"): each,
        ("all_gather", "gradients"): 1,
    }
    options = {"sequence": True, "checkpointed": checkpointed}
    [found, *_] = dist.spawn(messages, ranks=3, arguments=(1, options))
    gradients = [message.bytes_sent for message in found if message.purpose == "gradients"]
    assert 6 * WIDTH * ITEM in gradients


def in_stages(world: World, layers: int, schedule: str, recompute: bool) -> Count:
    """What a rank's tensor-parallel axis carries in a step of two stages and three microbatches."""
    mesh = Mesh(world, pipeline=2, tensor=2)
    config = GPTConfig(VOCABULARY, TIME, layers=layers, heads=2, width=WIDTH)
    model = tensor_parallel(GPT(config, dtype="float64"), mesh.axis("tensor"))
    half = layers // 2 + 2
    pipeline = Pipeline(
        token_layers(model),
        balance=[half, half],
        chunks=3,
        schedule=schedule,
        loss=token_loss(model),
        recompute=recompute,
        world=mesh.axis("pipeline"),
    )
    tokens = np.zeros((3, TIME), dtype=int)
    booked: list[Message] = []
    mesh.axis("tensor").observer = booked.append
    pipeline.step(tokens, tokens)
    return counts(booked)


@pytest.mark.parametrize(
    ("schedule", "recompute", "expected"),
    [
        ("gpipe", False, [4 + 4 + 4] * 2),
        ("gpipe", True, [6 + 6 + 4] * 2),  # F2 is followed by B2: nothing is forgotten
        ("1f1b", True, [6 + 6 + 6, 4 + 4 + 4]),  # as all are on the last stage, and none on the first
    ],
)
def test_in_a_pipeline_what_comes_back_at_once_is_not_computed_again(schedule, recompute, expected):
    deep, flat = (dist.spawn(in_stages, ranks=4, arguments=(n, schedule, recompute)) for n in (4, 2))
    found = [dict(more - less) for more, less in zip(deep, flat, strict=True)]
    assert found == [{("all_reduce", "activations"): number} for number in expected for _ in range(2)]


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("sequence", [False, True])
def test_bytes_of_a_block_on_a_ring(ranks, sequence):
    """8 (p-1)/p b s h q per layer and rank (Narayanan et al. 2021, §3.2), in either form."""
    options = {"sequence": sequence, "algorithm": "ring"}
    deep = dist.spawn(messages, ranks=ranks, arguments=(2, options))
    flat = dist.spawn(messages, ranks=ranks, arguments=(1, options))
    for more, less in zip(deep, flat, strict=True):
        sent = sum(m.bytes_sent for m in more if m.purpose == "activations")
        sent -= sum(m.bytes_sent for m in less if m.purpose == "activations")
        assert sent == 8 * (ranks - 1) * PIECE // ranks


@pytest.mark.parametrize("sequence", [False, True])
def test_the_rest_of_the_model_never_gathers_logits(sequence):
    """Beside the blocks: the embedding's sum, the output layer's entry, and three numbers per token."""
    options = {"sequence": sequence}
    [found, *_] = dist.spawn(messages, ranks=2, arguments=(1, options))
    loss = [m for m in found if m.purpose == "activations" and m.bytes_sent in (LOSS_1, LOSS_2)]
    assert sorted(message.bytes_sent for message in loss) == [LOSS_1, LOSS_2]
    edges = [m for m in found if m.purpose == "activations" and m not in loss]
    largest = max(max(message.bytes_sent, message.bytes_received) for message in edges)
    assert largest == PIECE  # logits would be twice that
    assert len(edges) == (12 if sequence else 4 + 2)


LOSS_1, LOSS_2 = BATCH * TIME * ITEM, 2 * BATCH * TIME * ITEM
