"""What a finished run tells: report.json, a picture of the loss, a table, a sample of its own writing."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from minigrad.cli.progress import clock
from minigrad.draw import line_chart

if TYPE_CHECKING:
    from minigrad.cli.run_folder import RunFolder
    from minigrad.cli.settings import Settings
    from minigrad.cli.trainer import Trainer
    from minigrad.cli.training_run import Plan
    from minigrad.dist.ledger import Ledger

TRAIN_LOSS_STEPS = (
    20  # the reported training loss is the mean over so many last steps; one batch alone is noisy
)
SAMPLE_PROMPT = "def "
SAMPLE_TOKENS = 240


def rank_figures(trainer: "Trainer") -> dict[str, Any]:
    """What this rank alone knows and the report needs: where it computed, what it held and sent.

    All ranks call this together, as those of a pipeline compare when each was idle.
    """
    return {
        "device": trainer.device,
        "coordinates": trainer.mesh.coordinates,
        "parameters": trainer.own_parameter_count,
        "bubble": trainer.bubble(),
        "memory": trainer.meter.report(),
        "traffic": trainer.traffic,
        "formula": formula(trainer),
        "bytes_sent": bytes_by_verb(trainer.world.ledger),
        "peak_memory_bytes": peak_memory_bytes(),
        "blas_threads": blas_threads(),
    }


def formula(trainer: "Trainer") -> dict[str, Any]:
    """What ZeRO's paper (§5, §7) gives for this rank's memory, and for what it sends in a step along the data
    axis, given what it has of the model: `traffic` is on the wire, and `payload` is the same step as traffic
    that is `counted` as payload shows it; and the idle share that its pipeline's schedule has by itself, with
    equal stages, backwards that take twice as long as forwards, and messages that take no time.

    There is no formula for activations.
    """
    from minigrad.dist import planner
    from minigrad.dist.timing import simulate

    settings, pipeline = trainer.settings, trainer.part.pipeline
    setup = planner.Setup(
        trainer.own_parameter_count,
        ranks=trainer.mesh.shape["data"],
        optimizer="adamw",
        precision="mixed" if settings.master else settings.precision,
    )
    microbatches = trainer.part.microbatches
    return {
        "memory": planner.model_states(setup, settings.zero),
        "traffic": planner.traffic(setup, settings.zero, microbatches=microbatches),
        "payload": planner.payload(setup, settings.zero, microbatches=microbatches),
        "bubble": None if pipeline is None else simulate(pipeline.schedule).bubble_fraction,
    }


def run_report(
    plan: "Plan",
    steps: Sequence[Mapping[str, Any]],
    *,
    validation_loss: float,
    ranks: Sequence[Mapping[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """The content of report.json. Losses are in nats per byte; figures of ranks are in rank order."""
    settings = plan.settings
    last = steps[-TRAIN_LOSS_STEPS:]
    tokens = settings.batch * settings.context
    return {
        "steps": settings.steps,
        "train_loss": fmean(step["loss"] for step in last),
        "validation_loss": validation_loss,
        "baselines": plan.text.baselines(),
        "seconds": seconds,  # of this start, with validation and saving
        "seconds_in_steps": sum(step["seconds"] for step in steps),  # of all steps, also before a resume
        "tokens_per_second": tokens * len(steps) / sum(step["seconds"] for step in steps),
        "ranks": len(ranks),
        "mesh": settings.mesh(len(ranks)),
        "pipeline": pipeline_figures(settings, ranks),
        "coordinates": [rank["coordinates"] for rank in ranks],  # of each rank on the mesh
        "parameters": [rank["parameters"] for rank in ranks],  # of the model, before ZeRO shares them out
        "devices": [rank["device"] for rank in ranks],
        "bytes_sent": [rank["bytes_sent"] for rank in ranks],
        "peak_memory_bytes": [rank["peak_memory_bytes"] for rank in ranks],
        "blas_threads": [rank["blas_threads"] for rank in ranks],
        "memory": [rank["memory"] for rank in ranks],  # bytes by category, now and at most
        "traffic": [rank["traffic"] for rank in ranks],  # of one step, by verb and purpose
        "formula": [rank["formula"] for rank in ranks],  # what papers give for both
        "openblas_coretype": os.environ.get("OPENBLAS_CORETYPE"),
        "text": {"name": plan.text.name, "sha256": plan.text.sha256},
    }


def pipeline_figures(settings: "Settings", ranks: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What ran in the pipelines, and the share of time that their ranks were idle; None without any."""
    if settings.pipeline == 1:
        return None
    return {
        **settings.division,
        "microbatches": settings.portions(len(ranks)),
        "bubble": fmean(rank["bubble"] for rank in ranks),  # measured, beside formula.bubble
    }


def loss_chart(report: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> str:
    """The SVG picture of training and validation loss over the steps, with the baselines as levels."""
    validated = [step for step in steps if "validation_loss" in step]
    series = {"training loss": ([step["step"] for step in steps], [step["loss"] for step in steps])}
    series["validation loss"] = (
        [step["step"] for step in validated],
        [step["validation_loss"] for step in validated],
    )
    return line_chart(
        series,
        title=f"Loss on {report['text']['name']}",
        x_label="step",
        y_label="nats per byte",
        horizontal_lines=report["baselines"],
    )


def print_table(report: Mapping[str, Any], folder: Path) -> None:
    """Print the short table that ends a run."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="nats per byte", title_justify="left", show_header=False)
    table.add_row("validation loss", f"{report['validation_loss']:.3f}", style="bold")
    table.add_row("training loss", f"{report['train_loss']:.3f}")
    for name, value in report["baselines"].items():
        table.add_row(name, f"{value:.3f}")
    console = Console(highlight=False)
    console.print(table)
    sent = [sum(verbs.values()) for verbs in report["bytes_sent"]]
    memory = [peak for peak in report["peak_memory_bytes"] if peak is not None]
    pipeline = report["pipeline"]
    facts = [
        f"{report['steps']} steps in {clock(report['seconds'])}",
        "1 rank" if report["ranks"] == 1 else f"{report['ranks']} ranks",
        f"{report['tokens_per_second']:,.0f} tokens/s",
        *([f"{pipeline['bubble']:.0%} of the time idle in the pipeline"] if pipeline else []),
        *([f"{max(sent) / 1e6:,.0f} MB sent per rank"] if max(sent) else []),
        *([f"{max(memory) / 1e6:,.0f} MB peak memory"] if memory else []),
    ]
    print(", ".join(facts))
    print(f"wrote {folder}: loss.svg, report.json, metrics.jsonl, checkpoints/")


def print_sample(folder: "RunFolder", settings: "Settings") -> None:
    """Print what the saved model writes after a short prompt."""
    from minigrad.cli.sample import trained_model, write_sample

    model, _ = trained_model(folder, settings)
    print("\nwhat the model writes:")
    write_sample(model, SAMPLE_PROMPT, SAMPLE_TOKENS, temperature=0.8, top_k=None, seed=settings.seed)
    sys.stdout.flush()


def bytes_by_verb(ledger: "Ledger") -> dict[str, int]:
    """The payload bytes this rank gave to each verb of its communicator, whatever the purpose."""
    sent: dict[str, int] = {}
    for (verb, _), entry in sorted(ledger.by_kind.items()):
        sent[verb] = sent.get(verb, 0) + entry.bytes_sent
    return sent


def peak_memory_bytes() -> int | None:
    """The most memory this process ever held, or None where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def blas_threads() -> int | None:
    """The threads that NumPy's BLAS may use on this rank, or None where it does not say."""
    from threadpoolctl import threadpool_info

    threads = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
    return max(threads, default=None)
