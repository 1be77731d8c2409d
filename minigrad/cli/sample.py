"""`minigrad sample`: let a trained model write on."""

import argparse
import codecs
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigrad.errors import UsageError

if TYPE_CHECKING:
    from minigrad.cli.run_folder import RunFolder
    from minigrad.cli.settings import Settings
    from minigrad.nn import GPT

EXAMPLES = """\
examples:
  minigrad sample runs/mine                                   500 bytes after a line break
  minigrad sample runs/mine --prompt "class Tensor:" --temperature 0.7
  minigrad sample runs/mine --temperature 0                   always the likeliest byte

The model writes byte by byte: each time it gives every byte a probability and one is drawn. A temperature
below 1 sharpens the probabilities, one above 1 flattens them; --top-k K draws among the K likeliest only.
Keys and values of earlier bytes are kept, so that a new byte costs one position, not the whole text again.
"""


def add_parser(subparsers: Any) -> None:
    """Add `sample` to the command line."""
    parser = subparsers.add_parser(
        "sample",
        help="let a trained model write on",
        description="Load the newest checkpoint of a run and let the model continue a prompt.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of a run of `minigrad train`")
    parser.add_argument("--prompt", default="\n", help="what the text begins with (default: a line break)")
    parser.add_argument(
        "--tokens", type=int, default=500, metavar="N", help="bytes to write (default: %(default)s)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="0 always takes the likeliest byte (default: %(default)s)",
    )
    parser.add_argument(
        "--top-k", type=int, metavar="K", help="draw among the K likeliest bytes (default: all)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="the same seed draws the same text (default: %(default)s)",
    )


def main(args: argparse.Namespace) -> int:
    """Write the sample to stdout as it comes. Raises UsageError for bad values and damaged folders."""
    from minigrad.cli.run_folder import RunFolder
    from minigrad.cli.settings import settings_from_json

    check_arguments(args)
    folder = RunFolder.open(args.folder)
    settings = settings_from_json(folder.config().get("settings", {}))
    settings.check(ranks=1)
    model, refused = trained_model(folder, settings)
    for reason in refused:
        print(f"minigrad sample: refused {reason}", file=sys.stderr, flush=True)
    write_sample(
        model, args.prompt, args.tokens, temperature=args.temperature, top_k=args.top_k, seed=args.seed
    )
    return 0


def trained_model(folder: "RunFolder", settings: "Settings") -> "tuple[GPT, tuple[str, ...]]":
    """The model of a run's newest checkpoint that is whole, and why newer ones are not.

    It computes in float32 where it was trained in half precision. Raises UsageError.
    """
    from minigrad.cli.trainer import build_model
    from minigrad.dist import checkpoint

    found = checkpoint.newest(folder.checkpoints)
    dtype = settings.master or settings.dtype
    arrays = checkpoint.read(found.path, prefix="model.")
    parameters = {name: array.astype(dtype, copy=False) for name, array in arrays.items()}
    return build_model(settings, parameters, dtype=dtype), found.refused


def write_sample(
    model: "GPT", prompt: str, count: int, *, temperature: float, top_k: int | None, seed: int
) -> None:
    """Write `prompt` and `count` more bytes of the model's to stdout, each as soon as it is drawn.

    Bytes that are no UTF-8 show as the replacement character; so does what the terminal cannot show.
    """
    from minigrad.nn.text import encode

    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    tokens = encode(prompt)
    sys.stdout.write(decoder.decode(bytes(tokens.tolist())))
    for token in model.stream(tokens, count, temperature=temperature, top_k=top_k, seed=seed):
        sys.stdout.write(decoder.decode(bytes([int(token)])))
        sys.stdout.flush()
    print(decoder.decode(b"", final=True), flush=True)


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse values that no model can sample with. Raises UsageError."""
    from minigrad.nn.text import VOCABULARY

    if not args.prompt:
        raise UsageError(
            "the prompt is empty, but the model continues from at least one byte; leave --prompt out"
        )
    if args.tokens < 1:
        raise UsageError(f"--tokens is {args.tokens}; it must be at least 1")
    if not 0 <= args.temperature < math.inf:
        raise UsageError(
            f"--temperature is {args.temperature}; it must be 0 (always the likeliest byte) or above"
        )
    if args.top_k is not None and not 1 <= args.top_k <= VOCABULARY:
        raise UsageError(
            f"--top-k is {args.top_k}, but the vocabulary has {VOCABULARY} bytes; give 1 to {VOCABULARY}"
        )
    if not 0 <= args.seed < 2**63:
        raise UsageError(f"--seed is {args.seed}; it must be between 0 and 2^63 - 1")
