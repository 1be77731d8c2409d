"""`minigrad plan --pipeline --tensor`: what ranks of a data × pipeline × tensor mesh hold and send."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from minigrad.errors import UsageError

if TYPE_CHECKING:
    from minigrad.dist.planner import Setup
    from minigrad.dist.planner_model import Count
    from minigrad.nn.gpt import GPTConfig

Report = dict[str, Any]
AXES = ("data", "pipeline", "tensor")


def mesh_of(ranks: int | None, data: int | None, pipeline: int, tensor: int) -> dict[str, int]:
    """The sizes of the axes. Raises UsageError where they do not make up the ranks.

    >>> mesh_of(12, None, 2, 3)
    {'data': 2, 'pipeline': 2, 'tensor': 3}
    """
    inside = pipeline * tensor
    if data is None:
        data, rest = divmod(inside if ranks is None else ranks, inside)
        if rest or not data:
            raise UsageError(
                f"{ranks} ranks cannot be divided into copies of {inside} (pipeline {pipeline} × tensor "
                f"{tensor}); give a multiple of that, or --data instead of --ranks"
            )
    elif ranks not in (None, data * inside):
        raise UsageError(
            f"data {data} × pipeline {pipeline} × tensor {tensor} are {data * inside} ranks, and --ranks is "
            f"{ranks}; leave --ranks out"
        )
    return dict(zip(AXES, (data, pipeline, tensor), strict=True))


def plan_mesh(
    setup: "Setup",
    mesh: Mapping[str, int],
    *,
    config: "GPTConfig",
    batch: int,
    stages: tuple[int, ...],
    microbatches: int,
    schedule: str,
    memory: int | None,
    checkpoint: bool,
) -> Report:
    """What `plan` reports, for a mesh: rows by stage of ZeRO are those of the rank that holds most; `mesh`
    has the axes, and all places in the pipeline. A batch is that of one copy and one microbatch.
    """
    from minigrad.cli.settings import usual_division
    from minigrad.dist.planner import smallest_ranks, traffic
    from minigrad.dist.planner_mesh import count_ranks

    division = usual_division(schedule, config.context)
    check_sizes(config, mesh, microbatches, division)
    counted = count_ranks(
        config,
        pipeline=mesh["pipeline"],
        tensor=mesh["tensor"],
        batch=batch * microbatches,
        microbatches=microbatches,
        precision=setup.precision,
        checkpoint=checkpoint,
        **division,
    )
    setups = [replace(setup, parameters=each.count.parameters, ranks=mesh["data"]) for each in counted]
    places: list[Report] = [
        {"layers": each.layers, "parameters": each.count.parameters, "flops": each.count.flops, "memory": {}}
        for each in counted
    ]
    rows = []
    for stage in stages:
        held = [with_total(_held(each.count, stage, own)) for each, own in zip(counted, setups, strict=True)]
        for place, found in zip(places, held, strict=True):
            place["memory"][str(stage)] = found
        most = max(range(len(held)), key=lambda place: held[place]["total"])
        sent = traffic(setups[most], stage, microbatches=microbatches) | counted[most].sent
        row: Report = {"stage": stage, "place": most, "memory": held[most], "sent": with_total(sent)}
        if memory is not None:
            row["fits"] = row["memory"]["total"] <= memory
            fewest = [
                smallest_ranks(own, stage, memory, held=partial(_held, each.count, stage))
                for each, own in zip(counted, setups, strict=True)
            ]
            copies = None if None in fewest else max(number for number in fewest if number)
            row["smallest_ranks"] = copies and copies * mesh["pipeline"] * mesh["tensor"]
        rows.append(row)
    return {
        **asdict(replace(setup, parameters=_whole(config))),
        "microbatches": microbatches,
        "memory_of_a_rank": memory,
        "model": {**asdict(config), "batch": batch, "checkpoint_activations": checkpoint},
        "bytes_a_parameter": setup.widths,
        "mesh": {**mesh, "schedule": schedule, "places": places},
        "stages": rows,
        "ladder": [],
    }


def check_sizes(
    config: "GPTConfig", mesh: Mapping[str, int], microbatches: int, division: Mapping[str, Any]
) -> None:
    """Raise UsageError, before anything is counted, for ranks that would have nothing, and for a schedule of
    more cells than anybody waits for.
    """
    from minigrad.cli.schedule import check_size

    layers, rows = config.layers + 4, max(4 * config.width, config.vocabulary)
    if mesh["pipeline"] > layers:
        raise UsageError(
            f"--pipeline {mesh['pipeline']} ranks cannot share {layers} layers ({config.layers} blocks, two "
            "embeddings, a norm and the output layer); give fewer, or more layers"
        )
    if mesh["tensor"] > rows:
        raise UsageError(
            f"--tensor {mesh['tensor']} ranks cannot share matrices of at most {rows} rows; give fewer"
        )
    sizes = {name: division[name] for name in ("virtual", "slices")}
    check_size(pipeline=mesh["pipeline"], microbatches=microbatches, **sizes)


def _held(counted: "Count", stage: int, setup: "Setup") -> dict[str, int]:
    from minigrad.dist.planner_model import rank_memory

    return rank_memory(counted, setup, stage)


def _whole(config: "GPTConfig") -> int:
    """The parameters of the model, each once."""
    from minigrad.nn.gpt import GPT

    return sum(parameter.size for parameter in GPT(config, device="shapes").parameters())


def with_total(parts: Mapping[str, Any]) -> Report:
    """The parts, and their sum."""
    return {**parts, "total": sum(parts.values())}


def places_table(report: Report, table: Any) -> Any:
    """Fill a table of what each place in the pipeline has."""
    from minigrad.draw_svg import bytes_text

    for number, place in enumerate(report["mesh"]["places"]):
        first, last = place["layers"][0], place["layers"][-1]
        held = next(iter(place["memory"].values()))
        table.add_row(
            str(number),
            first if first == last else f"{first} to {last}",
            f"{place['parameters']:,}",
            bytes_text(held["activations"]),
            bytes_text(held["buffers"]),
        )
    return table
