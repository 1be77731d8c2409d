"""Whose matrix products minigrad's contenders use: NumPy's or, where `--mkl` is given, MKL's."""

import argparse
import os

import minigrad as mg
from minigrad import backend_mkl

VARIABLE = "BENCHMARK_MKL"  # tells the contenders, which are processes of their own


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add `--mkl`."""
    parser.add_argument(
        "--mkl", action="store_true", help="minigrad multiplies by MKL (pip install 'minigrad[mkl]')"
    )


def ask(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Tell the contenders that are started from now on; the command ends here where MKL is not installed."""
    os.environ.pop(VARIABLE, None)
    if options.mkl:
        if backend_mkl.where() is None:
            parser.error("MKL is not installed here: pip install 'minigrad[mkl]'")
        os.environ[VARIABLE] = "1"


def choose() -> str:
    """Set what was asked for in a contender's process; returns what to say of it in a description."""
    if not os.environ.get(VARIABLE):
        return ""
    mg.use_mkl()
    return ", use_mkl()"
