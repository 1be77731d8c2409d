"""Optimizers: one file for each, over what they share in `optimizer`."""

from minigrad.nn.optim.adagrad import Adagrad
from minigrad.nn.optim.adam import Adam, AdamW
from minigrad.nn.optim.adamax import Adamax
from minigrad.nn.optim.lamb import LAMB
from minigrad.nn.optim.lars import LARS
from minigrad.nn.optim.lbfgs import LBFGS
from minigrad.nn.optim.lion import Lion
from minigrad.nn.optim.nadam import NAdam
from minigrad.nn.optim.optimizer import Optimizer
from minigrad.nn.optim.reading import BLOCK
from minigrad.nn.optim.rmsprop import RMSprop
from minigrad.nn.optim.sgd import SGD
from minigrad.nn.optim.shard import Shard

__all__ = [
    "BLOCK",
    "LAMB",
    "LARS",
    "LBFGS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "NAdam",
    "Optimizer",
    "RMSprop",
    "Shard",
]
