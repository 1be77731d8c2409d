"""Models: sizes to the last parameter, forward and backward at small sizes, what they promise."""

from typing import Any

import numpy as np
import pytest

from minigrad.errors import MinigradError
from minigrad.nn import functional as F
from minigrad.nn import models as M
from minigrad.nn.layers import Linear, Tanh
from minigrad.nn.module import Module
from minigrad.nn.optim import Adam
from minigrad.nn.summary import summary
from minigrad.ops import tensor, zeros
from minigrad.tensor import Tensor

SHAPES: dict[str, Any] = {"device": "shapes"}
source = np.random.default_rng(9)

# The sizes that the papers' tables, or the published weights, have.
COUNTS: dict[str, Any] = {
    "LeNet": (M.LeNet, {}, 61_706),
    "ResNet-18": (M.resnet18, {}, 11_689_512),
    "ResNet-34": (M.resnet34, {}, 21_797_672),
    "ResNet-50": (M.resnet50, {}, 25_557_032),
    "SE-ResNet-50": (M.resnet50, {"squeeze": 16}, 25_557_032 + 2_514_944),
    "ResNet-101": (M.resnet101, {}, 44_549_160),
    "GPT-2": (M.gpt2, {}, 124_439_808),
    "GPT-2 medium": (M.gpt2, {"size": "gpt2-medium"}, 354_823_168),
    "GPT-2 large": (M.gpt2, {"size": "gpt2-large"}, 774_030_080),
    "GPT-2 XL": (M.gpt2, {"size": "gpt2-xl"}, 1_557_611_200),
    "BERT-base": (M.BERT, {}, 109_482_240),
    "BERT-large": (M.BERT, {"layers": 24, "heads": 16, "width": 1024}, 335_141_888),
    "Transformer base": (M.TranslationTransformer, {}, 63_045_632),
    "Transformer big": (M.TranslationTransformer, {"width": 1024, "heads": 16, "inner": 4096}, 214_171_648),
    "ViT-B/16": (M.vit_b_16, {}, 86_567_656),
    "ViT-B/32": (M.vit_b_32, {}, 88_224_232),
    "ViT-L/16": (M.vit_l_16, {}, 304_326_632),
    "ViT-H/14": (M.vit_h_14, {}, 632_045_800),
    "Mixer-B/16": (M.Mixer, {}, 59_880_472),
    "Mixer-L/16": (
        M.Mixer,
        {"num_layers": 24, "hidden_dim": 1024, "token_dim": 512, "channel_dim": 4096},
        208_196_168,
    ),
    "Mixer-S/32": (
        M.Mixer,
        {"patch_size": 32, "num_layers": 8, "hidden_dim": 512, "token_dim": 256, "channel_dim": 2048},
        19_104_624,
    ),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_counted_to_the_last_one(name):
    make, options, count = COUNTS[name]
    model = make(**options, **SHAPES)
    assert sum(p.size for p in model.parameters()) == count
    assert all(p.device == "shapes" for p in model.parameters())


# ----- Small ones, with values ------------------------------------------------------------------------


def images(*shape: int) -> np.ndarray:
    return source.normal(size=shape).astype("float32")


def tokens(*shape: int) -> np.ndarray:
    return source.integers(1, 9, shape)


SMALL: dict[str, Any] = {
    "MLP": (lambda: M.MLP([12, 8, 5], activation=Tanh, dropout=0.1), lambda: (images(2, 3, 4),), (2, 5)),
    "LeNet": (M.LeNet, lambda: (images(2, 1, 28, 28),), (2, 10)),
    "ResNet": (
        lambda: M.ResNet(M.resnet.BasicBlock, [1, 1, 1, 1], 3, squeeze=8),
        lambda: (images(2, 3, 32, 32),),
        (2, 3),
    ),
    "Bottlenecks": (
        lambda: M.ResNet(M.resnet.Bottleneck, [1, 1, 1, 1], 3),
        lambda: (images(2, 3, 32, 32),),
        (2, 3),
    ),
    "BERT": (lambda: M.BERT(9, 2, 2, 8, 7), lambda: (tokens(2, 6), tokens(2, 6) % 2), (2, 6, 8)),
    "Transformer": (
        lambda: M.TranslationTransformer(9, 8, 2, 2, 16),
        lambda: (tokens(2, 6), tokens(2, 4)),
        (2, 4, 9),
    ),
    "ViT": (lambda: M.ViT(8, 4, 2, 2, 8, 16, num_classes=3), lambda: (images(2, 3, 8, 8),), (2, 3)),
    "Mixer": (lambda: M.Mixer(8, 4, 2, 8, 4, 16, 3), lambda: (images(2, 3, 8, 8),), (2, 3)),
    "Seq2Seq": (lambda: M.Seq2Seq(9, 9, 8, 6), lambda: (tokens(2, 5), tokens(2, 4), [5, 3]), (2, 4, 9)),
}
small = pytest.mark.parametrize("name", SMALL)


@small
def test_every_parameter_is_used(name):
    make, inputs, _ = SMALL[name]
    model = make()
    out = model(*inputs())
    out = out[0].sum() + out[1].sum() if isinstance(out, tuple) else out.sum()
    out.backward()
    unused = {n for n, p in model.named_parameters() if p.grad is None}
    assert unused == set()


@small
def test_outputs_have_their_shape_and_a_batch_of_one_is_a_row(name):
    make, inputs, shape = SMALL[name]
    model = make().eval()
    given = inputs()
    out = model(*given)
    one = model(*(x[1:] for x in given))
    out, one = (x[0] if isinstance(x, tuple) else x for x in (out, one))
    assert out.shape == shape
    np.testing.assert_allclose(one.numpy(), out.numpy()[1:], rtol=1e-4, atol=1e-5)


@small
def test_a_few_steps_lower_the_loss(name):
    make, inputs, shape = SMALL[name]
    model = make().eval()
    given = inputs()
    target = source.integers(0, shape[-1], shape[:-1])
    optimizer = Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        out = model(*given)
        logits = (out[0] if isinstance(out, tuple) else out).reshape(-1, shape[-1])
        loss = F.cross_entropy(logits, target.reshape(-1))
        model.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] * 0.95


def test_names_are_those_of_published_weights():
    names = list(M.resnet18(**SHAPES).state_dict())
    assert names[:3] == ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert "layer2.0.downsample.1.running_var" in names
    assert "layer4.1.bn2.num_batches_tracked" in names
    assert not any("last" in name for name in names)
    names = list(M.vit_b_16(**SHAPES).state_dict())
    assert names[:2] == ["class_token", "conv_proj.weight"]
    for name in (
        "encoder.pos_embedding",
        "encoder.layers.encoder_layer_11.self_attention.in_proj_weight",
        "encoder.layers.encoder_layer_0.mlp.3.bias",
        "heads.head.weight",
    ):
        assert name in names
    names = list(M.BERT(**SHAPES).state_dict())
    for name in (
        "embeddings.LayerNorm.bias",
        "encoder.layer.11.attention.self.query.weight",
        "encoder.layer.0.attention.output.LayerNorm.weight",
        "encoder.layer.3.intermediate.dense.bias",
        "pooler.dense.weight",
    ):
        assert name in names


def test_blocks_that_start_as_the_identity_pass_their_input_on():
    model = M.resnet18(zero_init_residual=True).eval()
    x = tensor(np.abs(images(1, 64, 4, 4)))
    np.testing.assert_array_equal(model.layer1(x).numpy(), x.numpy())
    assert (M.resnet18().eval().layer1(x).numpy() != x.numpy()).any()


def test_bert_does_not_look_at_what_the_mask_hides_and_scores_words():
    model = M.BERT(9, 2, 2, 8, 7).eval()
    words = tokens(1, 6)
    mask = np.array([[1, 1, 1, 1, 0, 0]])
    other = words.copy()
    other[:, 4:] = 8 - other[:, 4:] % 8
    hidden, pooled = model(words, mask=mask)
    np.testing.assert_array_equal(hidden.numpy()[:, :4], model(other, mask=mask)[0].numpy()[:, :4])
    np.testing.assert_allclose(hidden.numpy()[:, :4], model(words[:, :4])[0].numpy(), rtol=1e-4, atol=1e-5)
    assert model.masked_logits(hidden).shape == (1, 6, 9)
    assert pooled.shape == (1, 8)


def test_seq2seq_gives_padding_no_weight_and_its_lengths_change_nothing_else():
    model = M.Seq2Seq(9, 9, 8, 6).eval()
    words, targets = tokens(2, 5), tokens(2, 4)
    words[1, 3:] = 0
    out = model(words, targets, [5, 3]).numpy()
    np.testing.assert_allclose(out[1:], model(words[1:, :3], targets[1:]).numpy(), rtol=1e-4, atol=1e-5)
    annotations, state, mask = model.encode(words, [5, 3])
    _, _, weights = model.step(
        tensor(targets[:, 0]), state, model.attention.key(annotations), annotations, mask
    )
    np.testing.assert_allclose(weights.numpy().sum(axis=1), 1.0, rtol=1e-6)
    assert (weights.numpy()[1, 3:] == 0.0).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: M.gpt2("gpt3", **SHAPES), ["gpt2-xl", "'gpt3'"]),
        (lambda: M.MLP([3]), ["[3]"]),
        (lambda: M.ViT(30, 16, **SHAPES), ["16", "30"]),
        (lambda: M.Mixer(30, 16, **SHAPES), ["16", "30"]),
        (lambda: M.ViT(8, 4, 1, 1, 8, 8)(zeros((1, 3, 4, 4))), ["(N, C, 8, 8)", "(1, 3, 4, 4)"]),
        (lambda: M.ResNet(M.resnet.BasicBlock, [1, 1]), ["four layers", "[1, 1]"]),
        (lambda: M.BERT(9, 1, 3, 8, **SHAPES), ["width 8", "3 heads"]),
        (lambda: M.BERT(9, 1, 2, 8, 4)(tokens(2, 5)), ["at most 4 positions", "(2, 5)"]),
        (lambda: M.Seq2Seq(9, 9, 4, 4)(tokens(5), tokens(2, 5)), ["(batch, time)", "(5,)"]),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(MinigradError) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)


# ----- Summary ----------------------------------------------------------------------------------------


def test_a_summary_counts_what_can_be_counted_by_hand():
    model = M.MLP([6, 4, 2])
    before = [p.numpy().copy() for p in model.parameters()]
    found = summary(model, (5, 6))
    assert [(row.path, row.kind, row.output_shape, row.parameters) for row in found.rows] == [
        ("", "MLP", (5, 2), 38),
        ("0", "Flatten", (5, 6), 0),
        ("1", "Linear", (5, 4), 28),
        ("2", "ReLU", (5, 4), 0),
        ("3", "Linear", (5, 2), 10),
    ]
    rows = {row.path: row.flops for row in found.rows}
    assert rows["1"] == 2 * 5 * 6 * 4 + 5 * 4  # products, and the bias
    assert rows[""] == sum(flops for path, flops in rows.items() if path) == found.forward_flops
    assert found.parameters == found.learned == 38
    assert found.parameter_bytes == 38 * 4
    assert "38 parameters" in str(found)
    assert all(np.array_equal(a, p.numpy()) for a, p in zip(before, model.parameters(), strict=True))


def test_published_flops_of_large_models():
    """ResNet-50 is known for 4.09 and ViT-B/16 for 17.56 thousand million multiplications with additions."""
    image = (1, 3, 224, 224)
    assert summary(M.resnet50(**SHAPES), image).forward_flops / 2e9 == pytest.approx(4.09, rel=0.02)
    assert summary(M.vit_b_16(**SHAPES), image).forward_flops / 2e9 == pytest.approx(17.56, rel=0.02)
    found = summary(M.resnet50(**SHAPES), image, depth=1)
    assert len(found.rows) == 9
    assert found.backward_flops == pytest.approx(2 * found.forward_flops, rel=0.05)


def test_shared_and_frozen_parameters_are_counted_once_and_apart():
    model = M.gpt2(**SHAPES)
    model.wpe.requires_grad_(False)
    found = summary(model, zeros((1, 8), dtype="int64", device="shapes"))
    assert found.parameters == 124_439_808
    assert found.parameters - found.learned == 1024 * 768


def test_activation_bytes_grow_with_the_batch_and_checkpoints_of_memory_hold():
    small_batch, large_batch = (summary(M.LeNet(**SHAPES), (n, 1, 28, 28)) for n in (10, 20))
    assert large_batch.activation_bytes == pytest.approx(2 * small_batch.activation_bytes, rel=0.01)
    assert large_batch.peak_bytes >= large_batch.activation_bytes > 0


def test_a_module_that_runs_twice_counts_its_flops_twice_and_its_parameters_once():
    class Twice(Module):
        def __init__(self) -> None:
            self.linear = Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.linear(x))

    rows = {row.path: row for row in summary(Twice(), (5, 4)).rows}
    assert rows["linear"].flops == rows[""].flops == 2 * (2 * 5 * 4 * 4 + 5 * 4)
    assert rows["linear"].parameters == rows[""].parameters == 20
