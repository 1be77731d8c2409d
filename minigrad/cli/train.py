"""`minigrad train`: check everything, start the ranks, train a GPT on real text."""

import argparse
import os
import shlex
import shutil
import sys
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigrad.cli.settings import (
    CHOICES,
    Schedules,
    Settings,
    option,
    resumed_settings,
    settings_from_json,
)
from minigrad.errors import UsageError

if TYPE_CHECKING:
    from minigrad.cli.run_folder import RunFolder
    from minigrad.cli.training_run import Plan
    from minigrad.dist.checkpoint import Newest
    from minigrad.dist.world import World

DESCRIPTION = """\
Train a GPT on text, byte by byte, on one rank or many. Without --text it learns the source text of the Python
standard library, which every machine has.

The ranks share each batch and add up their gradients (data parallelism), so the loss of every step is the
same at any number of ranks; try --ranks 1 and --ranks 4 and compare metrics.jsonl. They can also divide the
model: by layers (--pipeline), and each layer (--tensor); the loss stays the same then, too.
"""

EXAMPLES = """\
examples:
  minigrad train --ranks 4                       four processes; prints the mpirun line that starts them
  minigrad train --ranks 4 --threads             four ranks as threads: no MPI needed, one runs at a time
  mpirun -n 4 minigrad train                     the same as the first, started by hand
  minigrad train --ranks 4 --zero 3              each rank keeps a quarter, and what is in use
  minigrad train --data 2 --pipeline 2 --schedule zb-h1 --microbatches 8 --zero 1
                                                 four ranks: two copies of the model, each in two stages
  minigrad train --text *.txt --steps 2000       your own text, for longer
  minigrad train --resume runs/mine --ranks 2    go on after Ctrl-C, also on other ranks or another mesh

The run folder holds config.json, metrics.jsonl (one JSON object a step), checkpoints/, and at the end
loss.svg and report.json, which says what each rank held and sent. The loss is in nats per byte; three
baselines show what it means: knowing nothing (ln 256 = 5.55), knowing how frequent each byte is, and knowing
which byte tends to follow which.
"""


def add_parser(subparsers: Any) -> None:
    """Add `train` to the command line."""
    parser = subparsers.add_parser(
        "train",
        help="train a GPT on text, on one rank or many",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_launch_options(parser.add_argument_group("who computes"))
    _add_mesh_options(
        parser.add_argument_group("how ranks divide the model (ranks = data × pipeline × tensor)")
    )
    model = parser.add_argument_group("the model")
    _add(model, "layers", int, "transformer blocks, one after the other")
    _add(model, "width", int, "numbers that describe each position (the embedding's size)")
    _add(model, "heads", int, "attention heads a block; they must divide the width")
    _add(model, "context", int, "bytes the model sees at once; also the length of a sequence")
    _add(model, "dropout", float, "share of activations set to zero while training")
    _add(
        model,
        "precision",
        str,
        "of all numbers; float64 is slower, and lets you see losses agree to 1e-10; mixed: the model in 16 "
        "bits (for GPUs: NumPy is slow in them), and a copy in float32 that the optimizer updates",
    )
    training = parser.add_argument_group("the training")
    training.add_argument(
        "--text",
        nargs="+",
        metavar="FILE",
        help="text files to learn, any encoding (default: the standard library)",
    )
    _add(training, "steps", int, "updates of the parameters")
    _add(training, "batch", int, "sequences a step, over all ranks together; at least one each")
    _add(
        training,
        "learning_rate",
        float,
        "its peak: it rises over a tenth of the steps (at least 50), then falls as a cosine",
    )
    _add(training, "seed", int, "the same seed gives the same run")
    _add_memory_options(
        parser.add_argument_group("what a rank holds (the losses stay the same, but for rounding)")
    )
    folder = parser.add_argument_group("the run folder")
    folder.add_argument(
        "--out", type=Path, metavar="DIR", help="where to write (default: runs/DATE_TIME); must not exist"
    )
    folder.add_argument(
        "--resume",
        type=Path,
        metavar="DIR",
        help="go on with this run, with its own settings, from its last checkpoint",
    )
    _add(folder, "save_every", int, "steps between checkpoints")
    _add(folder, "evaluate_every", int, "steps between validations")


def _add_launch_options(group: Any) -> None:
    group.add_argument(
        "--ranks",
        type=int,
        metavar="N",
        help="ranks that share the work, started with mpirun (default: data × pipeline × tensor)",
    )
    group.add_argument(
        "--threads", action="store_true", help="make the ranks threads of this process: needs no MPI"
    )
    _add(group, "device", str, "gpu: local rank r computes on GPU r mod (GPUs of its host)")
    _add(
        group,
        "reduce",
        str,
        "who adds up over ranks: MPI in its own way, or minigrad by messages between two ranks each; ordered "
        "adds rank after rank, to the same bits at every stage (default: mpi; threads have their own way)",
    )


def _add_mesh_options(group: Any) -> None:
    group.add_argument(
        "--data",
        type=int,
        metavar="D",
        help="copies of the model, each with its part of the batch (default: what is left of --ranks, or 1)",
    )
    _add(group, "pipeline", int, "ranks of a copy that share out the layers, one after the other")
    _add(
        group,
        "tensor",
        int,
        "ranks that share out each layer: attention by heads, matrices by columns or rows",
    )
    _add(
        group,
        "schedule",
        str,
        "in which order a pipeline works through microbatches; `minigrad schedule` shows each. One of "
        "%(choices)s, of which those that update while they run are refused",
    )
    _add(
        group,
        "microbatches",
        int,
        "into how many a copy cuts its part of the batch; without a pipeline, what --accumulate does "
        "(default: 4 for each rank of a pipeline, as far as the batch goes)",
    )
    _add(group, "virtual", int, "stages for each rank of a pipeline (default: 2 for schedules with several)")
    _add(group, "slices", int, "pieces into which schedules with slices cut each sequence (default: 4)")


def _add_memory_options(group: Any) -> None:
    """What helps where a model does not fit, in the order in which to try it."""
    _add(group, "accumulate", int, "work through a rank's sequences in so many portions")
    group.add_argument(
        option("checkpoint_activations"),
        action=argparse.BooleanOptionalAction,
        help="keep only what enters each block (each stage of a pipeline), and compute the rest again: a "
        "third more work (default: no)",
    )
    _add(
        group,
        "zero",
        int,
        "what ranks share out, each keeping a part: 0 nothing, 1 the optimizer's state, 2 the gradients too, "
        "3 the parameters too",
    )
    _add(
        group,
        "offload",
        str,
        "keep the optimizer's state in the host's memory (GPUs), or in a file on the disk",
    )


def _add(group: Any, name: str, kind: type, text: str) -> None:
    """Add the option of a setting. Its default is None, so that --resume can tell what was really given."""
    default = getattr(Settings(), name)
    known = CHOICES.get(name, ())
    catalogue = isinstance(known, Schedules)
    choices = known if catalogue else [choice for choice in known if choice is not None]
    metavar = "NAME" if catalogue else None if choices else "X" if kind is float else "N"
    text += "" if default is None else f" (default: {default})"
    group.add_argument(option(name), type=kind, choices=choices or None, metavar=metavar, help=text)


def main(args: argparse.Namespace) -> int:
    """Train as `args` say and return the exit code. Raises UsageError for what can be refused beforehand."""
    from minigrad import dist
    from minigrad.cli.training_run import train_on_rank
    from minigrad.dist.prepare import announced, share_the_cores

    if announced() is not None:
        return _train_under_mpirun(args, dist.world())
    _run_to_resume(args)
    plan = make_plan(args, found=_newest(args))
    ranks = ranks_of(args, plan.settings)
    _choose_progress()
    if ranks == 1:
        return train_on_rank(dist.world(), plan)
    if args.threads:
        share_the_cores(ranks)
        return max(dist.spawn(train_on_rank, ranks=ranks, arguments=(plan,)))
    return _launch(args, plan, ranks)


def _train_under_mpirun(args: argparse.Namespace, world: "World") -> int:
    """Train as one of several processes. What all refuse alike, rank 0 says, and all leave in order."""
    from minigrad.cli.training_run import train_on_rank
    from minigrad.dist.agreement import AgreedError, agreed

    try:
        ranks = agreed(world, lambda: _checked_size(args, world.size))
        agreed(world, lambda: _run_to_resume(args))
        found = _newest(args, world)
        plan = agreed(world, lambda: make_plan(args, ranks=ranks, found=found))
        code = train_on_rank(world, plan)
    except AgreedError as error:
        code = 2
        if world.rank == 0:
            print(f"minigrad train: {error}", file=sys.stderr, flush=True)
    world.barrier()
    if code:
        raise SystemExit(
            code
        )  # sys.exit would be taken for the failure of this rank alone, which ends the others
    return code


def _run_to_resume(args: argparse.Namespace) -> "RunFolder | None":
    """The run to go on with, if one is named. Raises UsageError where it is none."""
    from minigrad.cli.run_folder import RunFolder

    return None if args.resume is None else RunFolder.open(args.resume)


def _newest(args: argparse.Namespace, world: "World | None" = None) -> "Newest | None":
    """The checkpoint to go on from; all ranks of a `world` look for it together. Raises UsageError."""
    from minigrad.dist import checkpoint

    folder = _run_to_resume(args)
    return None if folder is None else checkpoint.newest(folder.checkpoints, world)


def ranks_of(args: argparse.Namespace, settings: Settings) -> int:
    """The ranks that are asked for: so many, or as many as the mesh has."""
    if args.ranks is not None:
        return int(args.ranks)
    return (1 if args.data is None else args.data) * settings.pipeline * settings.tensor


def make_plan(args: argparse.Namespace, *, ranks: int | None = None, found: "Newest | None" = None) -> "Plan":
    """Check all that can be known before the start. Raises UsageError; nothing has been written then.

    `ranks` were started already; without them, the arguments say how many will be.
    """
    from minigrad.cli.run_folder import check_out_is_free, check_same_run, identity
    from minigrad.cli.trainer import check_disk, check_division, gpu_count
    from minigrad.cli.training_run import Plan
    from minigrad.dist.checkpoint_files import data_type
    from minigrad.nn.text import standard_library_text, text_from_files

    given = given_settings(args)
    folder, recorded_hash = _run_to_resume(args), None
    if folder is None or found is None:
        settings = Settings(**given)
    else:
        config = folder.config()
        recorded = settings_from_json(config.get("settings", {}))
        settings = resumed_settings(recorded, given, step=found.step)
        recorded_hash = config.get("text", {}).get("sha256")
    ranks = ranks_of(args, settings) if ranks is None else ranks
    settings.check(ranks=ranks, threads=args.threads, data=args.data)
    settings.check_effect(given)
    data_type(settings.dtype)
    check_division(settings, ranks)
    if settings.device == "gpu":
        gpu_count()
    if args.out is not None:
        check_out_is_free(args.out)
    text = standard_library_text() if settings.text is None else text_from_files(settings.text)
    text.check_context(settings.context)
    if args.resume is not None and text.sha256 != recorded_hash:
        raise UsageError(
            f"{args.resume} was trained on another text than {text.name} is now (their hashes differ); "
            "bring back that text (or that Python, for its standard library), or start a new run"
        )
    if found is not None:
        check_same_run(found.path, found.metadata, identity(settings.as_json(), text.sha256))
    out = args.out or args.resume or default_folder()
    check_disk(settings, out, new=out != args.resume)
    return Plan(settings=settings, text=text, out=out, resume=args.resume, checkpoint=found)


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings named on the command line; files by their absolute paths, so that a resume finds them."""
    given = {field.name: getattr(args, field.name) for field in fields(Settings)}
    if given["text"] is not None:
        given["text"] = tuple(os.path.abspath(path) for path in given["text"])
    return {name: value for name, value in given.items() if value is not None}


def default_folder() -> Path:
    """A folder below runs/ named by the time, that does not exist yet."""
    name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    candidates = (Path("runs", name + suffix) for suffix in ["", *(f"_{count}" for count in range(2, 1000))])
    return next(path for path in candidates if not path.exists())


def _launch(args: argparse.Namespace, plan: "Plan", ranks: int) -> int:
    from minigrad.dist.launch import mpirun_command, run_under_mpirun

    words = []
    for name, value in given_settings(args).items():
        if isinstance(value, bool):
            words.append(option(name) if value else option(f"no_{name}"))
        else:
            words += [option(name), *(value if isinstance(value, tuple) else [str(value)])]
    words += ["--resume", str(args.resume)] if args.resume is not None else []
    words += ["--out", str(plan.out)] if plan.out != args.resume else []
    command = [sys.executable, "-m", "minigrad", "train", *words]
    print("$ " + shlex.join(mpirun_command(ranks, command)), flush=True)
    return run_under_mpirun(command, ranks=ranks)


def _checked_size(args: argparse.Namespace, size: int) -> int:
    """The number of ranks that mpirun started, if the options agree with it. Raises UsageError if not."""
    if args.threads:
        raise UsageError(
            "--threads makes ranks of one process, but mpirun started several; leave one of them out"
        )
    if args.ranks not in (None, size):
        raise UsageError(
            f"--ranks is {args.ranks}, but mpirun started {size} ranks; leave --ranks out under mpirun"
        )
    return size


def _choose_progress() -> None:
    """Find out whether there is a terminal, while this process can, and tell the ranks."""
    terminal = sys.stdout.isatty()
    os.environ.setdefault("MINIGRAD_PROGRESS", "bar" if terminal else "line")
    if terminal:
        os.environ.setdefault("COLUMNS", str(shutil.get_terminal_size().columns))
