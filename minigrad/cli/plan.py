"""`minigrad plan`: how much memory and traffic a training takes per rank, before anything is run."""

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigrad.cli.plan_mesh import AXES, Report, mesh_of, places_table, plan_mesh, with_total
from minigrad.errors import UsageError

if TYPE_CHECKING:
    from minigrad.dist.planner import Setup
    from minigrad.nn.gpt import GPTConfig

MOST = 1e100  # of anything: products of a few such numbers are numbers still
DESCRIPTION = """\
Plan a training: memory per rank by category for every stage of ZeRO, bytes sent a step, the fewest ranks that
fit a memory, and the ways to fit a model on one device. Nothing is allocated and nothing runs.

Give a number of parameters for the states of the model alone, or the sizes of a GPT: then the real model runs
on arrays without values, and its activations are counted as well.
"""

EXAMPLES = """\
examples:
  minigrad plan --parameters 7.5e9 --ranks 64                     figure 1 of the ZeRO paper
  minigrad plan --parameters 7.5e9 --ranks 64 --memory 32e9       what fits into 32 GB, and on how many ranks
  minigrad plan --model layers=48,width=1600,heads=25,context=1024,vocabulary=50257,batch=32 -o plan.svg
  minigrad plan --model layers=24,width=1024,heads=16,context=1024,vocabulary=50257,batch=4 \
    --data 4 --pipeline 2 --tensor 2 --microbatches 8             a mesh: what its ranks hold and send

Bytes are decimal (1 GB = 10^9), as papers print them. `largest model` is the first row of table 2 of the ZeRO
paper; its other rows are multiples of that row's rounded values, so they differ in the last digit from what
this command computes. A batch is that of one rank and one pass (on a mesh: of one copy and one microbatch);
where `ways to need less` shards, it deals that batch out over the ranks, one sequence a pass. Without
--precision, parameters and gradients take 2 bytes and the optimizer works on 4-byte master weights (mixed).
"""


def add_parser(subparsers: Any) -> None:
    """Add `plan` to the command line."""
    parser = subparsers.add_parser(
        "plan",
        help="memory and traffic per rank, before anything runs",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--parameters", metavar="N", type=_count, help="parameters of the model, as in 7.5e9")
    what.add_argument(
        "--model", metavar="SIZES", help="a GPT: layers=, width=, heads=, context=, vocabulary=, batch=, …"
    )
    parser.add_argument("--ranks", type=_count, metavar="N", help="ranks that share (default: 1)")
    mesh = parser.add_argument_group("a mesh (with --model; ranks = data × pipeline × tensor)")
    mesh.add_argument("--data", type=_count, metavar="N", help="copies (default: as many as --ranks allows)")
    mesh.add_argument("--pipeline", type=_count, default=1, metavar="N", help="ranks that share the layers")
    mesh.add_argument("--tensor", type=_count, default=1, metavar="N", help="ranks that share each matrix")
    mesh.add_argument(
        "--schedule", default="1f1b", metavar="NAME", help="of the pipeline's microbatches (default: 1f1b)"
    )
    parser.add_argument(
        "--stage", type=int, choices=(0, 1, 2, 3), help="one stage of ZeRO only (default: all)"
    )
    parser.add_argument(
        "--optimizer", default="adamw", metavar="NAME", help="whose states are kept (default: adamw)"
    )
    parser.add_argument(
        "--precision", default="mixed", metavar="NAME", help="mixed, float32 or float64 (default: mixed)"
    )
    parser.add_argument(
        "--accumulate",
        "--microbatches",
        type=_count,
        default=1,
        metavar="K",
        help="microbatches a step (default: 1)",
    )
    parser.add_argument("--memory", type=_count, metavar="BYTES", help="what a rank has, as in 32e9")
    parser.add_argument(
        "--checkpoint-activations", action="store_true", help="recompute each block (with --model)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE.svg", help="draw the stages as bars")


def _count(text: str) -> int:
    """A whole number that may be written as 7.5e9."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (1 <= value <= MOST and value == int(value)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no whole number of at least 1 and at most {MOST:g}; write 7.5e9 or 64"
        )
    return int(value)


def main(args: argparse.Namespace) -> int:
    """Print the plan, and draw it if asked to. Raises UsageError for sizes that make no sense."""
    from minigrad.cli.schedule import check_target, save
    from minigrad.dist.planner import Setup
    from minigrad.dist.schedules import entry_of

    if args.out:
        check_target(args.out)
    entry_of(args.schedule)
    config, batch = _model(args.model) if args.model else (None, 1)
    if args.checkpoint_activations and config is None:
        raise UsageError("--checkpoint-activations needs --model: only a model has activations to count")
    mesh = mesh_of(args.ranks, args.data, args.pipeline, args.tensor)
    ranks = math.prod(mesh.values())
    setup = Setup(args.parameters or 1, ranks, args.optimizer, args.precision)
    common: dict[str, Any] = {
        "batch": batch,
        "stages": (0, 1, 2, 3) if args.stage is None else (args.stage,),
        "microbatches": args.accumulate,
        "memory": args.memory,
        "checkpoint": args.checkpoint_activations,
    }
    if ranks == mesh["data"]:
        report = plan(setup, config=config, **common)
    elif config is None:
        raise UsageError(
            "--pipeline and --tensor need --model: only a model has layers and matrices to share"
        )
    else:
        report = plan_mesh(setup, mesh, config=config, schedule=args.schedule, **common)
    if args.out:
        save(args.out, drawing(report))
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)
    return 0


def plan(
    setup: "Setup",
    *,
    config: "GPTConfig | None" = None,
    batch: int = 1,
    stages: tuple[int, ...] = (0, 1, 2, 3),
    microbatches: int = 1,
    memory: int | None = None,
    checkpoint: bool = False,
) -> Report:
    """Everything that the command prints, as plain numbers: bytes, parameters, ranks."""
    from minigrad.dist.planner import (
        largest_model,
        model_states,
        published_activations,
        smallest_ranks,
        traffic,
    )
    from minigrad.dist.planner_ladder import ladder
    from minigrad.dist.planner_model import count, rank_memory

    counted, model = None, None
    if config is not None:
        both = [
            count(config, batch=batch, precision=setup.precision, checkpoint=again) for again in (False, True)
        ]
        counted = both[checkpoint]
        setup = replace(setup, parameters=counted.parameters)
        rule = published_activations(
            layers=config.layers, width=config.width, context=config.context, batch=batch
        )
        kept = dict(zip(("kept", "checkpointed"), (each.activations for each in both), strict=True))
        flops = dict(zip(("kept", "checkpointed"), (each.flops for each in both), strict=True))
        model = {
            **asdict(config),
            "batch": batch,
            "checkpoint_activations": checkpoint,
            "activations": {**kept, "rule_of_thumb": rule},
            "flops": flops,
        }
    rows = []
    for stage in stages:

        def held(at: "Setup", stage: int = stage) -> Mapping[str, int]:
            return model_states(at, stage) if counted is None else rank_memory(counted, at, stage)

        row: Report = {"stage": stage, "memory": with_total(held(setup))}
        row["sent"] = with_total(traffic(setup, stage, microbatches=microbatches))
        if memory is not None:
            row["fits"] = row["memory"]["total"] <= memory
            row["smallest_ranks"] = smallest_ranks(setup, stage, memory, held=held)
            if counted is None:
                row["largest_model"] = largest_model(setup, stage, memory)
        rows.append(row)
    rungs = [
        {**asdict(rung), "memory": with_total(rung.memory)}
        for rung in ladder(setup, config=config, batch=batch, memory=memory)
    ]
    return {**asdict(setup), "microbatches": microbatches, "memory_of_a_rank": memory, "model": model} | {
        "bytes_a_parameter": setup.widths,
        "stages": rows,
        "ladder": rungs,
    }


def drawing(report: Report) -> str:
    """The bars of a plan as SVG text."""
    from minigrad.draw_bars import bar_chart

    bars = {
        f"stage {row['stage']}": {k: v for k, v in row["memory"].items() if k != "total"}
        for row in report["stages"]
    }
    memory = report["memory_of_a_rank"]
    return bar_chart(
        bars,
        title=f"Memory of one of {report['ranks']:,} ranks",
        caption=f"{_headline(report)}. Decimal units; the rank that holds most. Stage 0 is plain data "
        "parallelism; stages 1, 2 and 3 of ZeRO share out the optimizer's states, the gradients too, and the "
        "parameters too.",
        levels={"memory of a rank": memory} if memory else None,
    )


def _model(text: str) -> "tuple[GPTConfig, int]":
    """The sizes that `--model` names, and the batch. Raises UsageError for what is no size."""
    from minigrad.nn.gpt import GPTConfig

    known = [field.name for field in fields(GPTConfig) if field.type in (int, "int")] + ["batch"]
    given: dict[str, int] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name not in known or not value:
            raise UsageError(f"--model got {part.strip()!r}; it takes NAME=NUMBER with {', '.join(known)}")
        try:
            given[name] = _count(value)
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"--model {name}: {error}") from None
    batch = given.pop("batch", 1)
    return GPTConfig(**given), batch


def _headline(report: Report) -> str:
    ranks = f"{report['ranks']:,} rank{'s' if report['ranks'] > 1 else ''}"
    if "mesh" in report:
        ranks += " (" + " × ".join(f"{axis} {report['mesh'][axis]}" for axis in AXES) + ")"
    return (
        f"{_short(report['parameters'])} parameters on {ranks}, {report['optimizer']}, "
        f"{report['precision']} precision"
    )


def _short(count: int) -> str:
    """A large number in words: 7.5 billion."""
    for size, name in ((10**12, "trillion"), (10**9, "billion"), (10**6, "million")):
        if count >= size:
            return f"{count / size:.3g} {name}"
    return f"{count:,}"


def _print(report: Report) -> None:
    from rich.console import Console

    from minigrad.dist.planner import PRECISIONS, STATE_ARRAYS, Setup

    console = Console()
    console.print(f"{_headline(report)}\n", highlight=False)
    widths = {
        name: Setup(1, optimizer=name, precision=report["precision"]).widths["optimizer"]
        for name in STATE_ARRAYS
    }
    console.print(_memory_table(report))
    if report["ranks"] > 1 or report["memory_of_a_rank"] is not None:
        console.print(_traffic_table(report))
    if "mesh" in report:
        names = ("place", "layers", "parameters", "activations", "buffers")
        console.print(places_table(report, _table(*names, title="places in the pipeline", left=(0, 1))))
    elif report["model"] is not None:
        _print_activations(console, report["model"])
    if report["ladder"]:
        console.print(_ladder_table(report))
    precision = PRECISIONS[report["precision"]]
    console.print(
        f"bytes a parameter: {precision.parameter} for itself, {precision.gradient} for its gradient, and K "
        f"for the optimizer: {', '.join(f'{name} {width}' for name, width in widths.items())}",
        highlight=False,
    )


def _memory_table(report: Report) -> Any:
    from minigrad.draw_svg import bytes_text

    names = list(report["stages"][0]["memory"])
    table = _table("stage", *names, title="memory of the rank that holds most")
    for row in report["stages"]:
        table.add_row(str(row["stage"]), *(bytes_text(row["memory"][name]) for name in names))
    return table


def _traffic_table(report: Report) -> Any:
    from minigrad.draw_svg import bytes_text

    memory = report["memory_of_a_rank"]
    more = [] if memory is None else ["fits", "fewest ranks"]
    if "largest_model" in report["stages"][0]:
        more.append("largest model")
    title = "sent by a rank in a step" + (f", and what fits into {bytes_text(memory)}" if memory else "")
    names = list(report["stages"][0]["sent"])
    names = names if len(names) <= 3 else names[:-1]  # of more, the total would not fit beside them
    table = _table("stage", *names, *more, title=title)
    for row in report["stages"]:
        cells = [bytes_text(row["sent"][name]) for name in names]
        if memory is not None:
            ranks = row["smallest_ranks"]
            cells += ["yes" if row["fits"] else "no", "none" if ranks is None else f"{ranks:,}"]
        if "largest_model" in row:
            cells.append(_short(row["largest_model"]))
        table.add_row(str(row["stage"]), *cells)
    return table


def _ladder_table(report: Report) -> Any:
    from minigrad.draw_svg import bytes_text

    memory = report["memory_of_a_rank"]
    table = _table("what", "memory", "its host", "price", title="ways to need less", left=(0, 3))
    table.columns[0].min_width = len("--checkpoint-activations")
    for rung in report["ladder"]:
        total = rung["memory"]["total"]
        mark = "" if memory is None else " fits" if total <= memory else " no"
        host = bytes_text(rung["host"]) if rung["host"] else ""
        name = f"{rung['name']}\n[dim]{rung['option']}[/]" if rung["option"] else rung["name"]
        table.add_row(name, bytes_text(total) + mark, host, rung["price"])
    return table


def _print_activations(console: Any, model: Report) -> None:
    from minigrad.draw_svg import bytes_text

    kept, flops = model["activations"], model["flops"]
    console.print(
        f"activations of a batch of {model['batch']}: {bytes_text(kept['kept'])} kept, or "
        f"{bytes_text(kept['checkpointed'])} with checkpointing at "
        f"{flops['checkpointed'] / flops['kept'] - 1:.0%} more computation (counted; the papers' rule of "
        f"thumb for 2-byte activations gives {bytes_text(kept['rule_of_thumb'])})\n",
        highlight=False,
    )


def _table(*names: str, title: str, left: tuple[int, ...] = (0,)) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for place, name in enumerate(names):
        table.add_column(name, justify="left" if place in left else "right", no_wrap=place not in left)
    return table
