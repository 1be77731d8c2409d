"""Models whose sizes are known to the last parameter."""

from minigrad.nn.models.bert import BERT
from minigrad.nn.models.gpt2 import GPT2_SIZES, gpt2
from minigrad.nn.models.gpt2_weights import load_gpt2, save_gpt2
from minigrad.nn.models.lenet import LeNet
from minigrad.nn.models.mixer import Mixer
from minigrad.nn.models.mlp import MLP
from minigrad.nn.models.resnet import ResNet, resnet18, resnet34, resnet50, resnet101
from minigrad.nn.models.seq2seq import Seq2Seq
from minigrad.nn.models.translation import TranslationTransformer
from minigrad.nn.models.vit import ViT, vit_b_16, vit_b_32, vit_h_14, vit_l_16

__all__ = [
    "BERT",
    "GPT2_SIZES",
    "LeNet",
    "MLP",
    "Mixer",
    "ResNet",
    "Seq2Seq",
    "TranslationTransformer",
    "ViT",
    "gpt2",
    "load_gpt2",
    "resnet101",
    "resnet18",
    "resnet34",
    "resnet50",
    "save_gpt2",
    "vit_b_16",
    "vit_b_32",
    "vit_h_14",
    "vit_l_16",
]
