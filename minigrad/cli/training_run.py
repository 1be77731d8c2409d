"""A whole training run as every rank lives it: step, show, measure, save, and report at the end.

Only rank 0 writes and prints; what it cannot write, all ranks learn of (`agreed`), so that all stop together.
"""

import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import minigrad
from minigrad.cli.agreement import agreed, gathered
from minigrad.cli.progress import Progress
from minigrad.cli.report import loss_chart, print_sample, print_table, rank_figures, run_report
from minigrad.cli.run_folder import Checkpoint, RunFolder, metrics_until
from minigrad.cli.settings import Settings
from minigrad.cli.trainer import StepResult, Trainer
from minigrad.nn.text import Text

if TYPE_CHECKING:
    from minigrad.dist.world import World

VALIDATION_SEQUENCES = 64  # while training: quick, and the same ones every time
FINAL_VALIDATION_SEQUENCES = 512


@dataclass(frozen=True)
class Plan:
    """A run that was checked and may start: a new one, or one that goes on from `checkpoint` of `resume`."""

    settings: Settings
    text: Text
    out: Path
    resume: Path | None = None
    checkpoint: Checkpoint | None = None

    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        return {
            "minigrad": minigrad.__version__,
            "settings": self.settings.as_json(),
            "text": {"name": self.text.name, "files": self.text.files, "sha256": self.text.sha256},
        }


def train_on_rank(world: "World", plan: Plan) -> int:
    """Carry out `plan` on this rank and return the exit code: 0 done, 1 the loss stopped being finite.

    Raises AgreedError where the folder cannot be written.
    """
    started = time.perf_counter()
    trainer = Trainer(world, plan.settings, plan.text, checkpoint=plan.checkpoint)
    run = TrainingRun(world, plan, trainer)
    run.open_folder()
    run.introduce()
    with np.errstate(over="ignore", invalid="ignore"):  # a loss that diverges is reported once, by `steps`
        finished = run.steps()
    if not finished:
        return 1
    loss = trainer.validation_loss(FINAL_VALIDATION_SEQUENCES)
    ranks = gathered(world, rank_figures(trainer))
    seconds = time.perf_counter() - started
    agreed(world, lambda: run.report(loss, ranks, seconds))
    world.barrier()  # ranks that leave early would be taken for dead while rank 0 still writes text
    return 0


class TrainingRun:
    """The loop over steps, and what rank 0 does around it. `folder` is None on all other ranks."""

    def __init__(self, world: "World", plan: Plan, trainer: Trainer) -> None:
        self.world, self.plan, self.trainer = world, plan, trainer
        self.folder: RunFolder | None = None

    def open_folder(self) -> None:
        """Make the folder with a checkpoint of the start, or take up the one that is resumed."""
        self.folder = agreed(self.world, self._open_folder)

    def _open_folder(self) -> RunFolder | None:
        plan = self.plan
        if self.world.rank != 0:
            return None
        if plan.resume is None:
            return RunFolder.create(plan.out, plan.config(), self.trainer.checkpoint())
        folder = RunFolder.open(plan.resume)
        if plan.out != plan.resume:
            metrics = metrics_until(folder.steps(), self.trainer.steps_done)
            return RunFolder.create(plan.out, plan.config(), self.trainer.checkpoint(), metrics=metrics)
        folder.rewind(self.trainer.steps_done, plan.config())
        return folder

    def introduce(self) -> None:
        """Say what is about to be trained, on what, and by whom; with GPUs also who computes where."""
        devices = [entry["device"] for entry in gathered(self.world, {"device": self.trainer.device})]
        if self.folder is None:
            return
        settings, text = self.plan.settings, self.plan.text
        print(
            f"model   GPT with {self.trainer.parameter_count:,} parameters: layers {settings.layers}, "
            f"width {settings.width}, heads {settings.heads}, context {settings.context}, {settings.dtype}\n"
            f"text    {text.name}: {len(text.train):,} bytes, and {len(text.validation):,} to validate on "
            f"(sha256 {text.sha256[:12]})\n"
            f"ranks   {self.world.size} ({self.world.kind}), together {settings.batch} sequences a step\n"
            f"folder  {self.plan.out}"
        )
        if settings.device == "gpu":
            print("devices " + ", ".join(f"rank {rank} on {device}" for rank, device in enumerate(devices)))
        if self.trainer.steps_done:
            print(f"resumed after step {self.trainer.steps_done}")
        sys.stdout.flush()

    def steps(self) -> bool:
        """Take all steps that are left. Returns False where the loss stopped being finite."""
        settings, trainer = self.plan.settings, self.trainer
        mode = None if self.folder is not None else "off"
        with Progress(settings.steps, done=trainer.steps_done, mode=mode) as progress:
            while trainer.steps_done < settings.steps:
                result = trainer.step()
                if not result.finite:
                    return self._stop(
                        result.step, f"loss {result.loss:g}, gradient norm {result.gradient_norm:g}"
                    )
                progress.update(result.step, loss=result.loss, tokens_per_second=result.tokens_per_second)
                validation_loss = self._measure_and_save(result)
                if validation_loss is not None and not math.isfinite(validation_loss):
                    return self._stop(result.step, f"validation loss {validation_loss:g}")
        return True

    def _measure_and_save(self, result: StepResult) -> float | None:
        """Record the step; validate and save where due. What has no finite validation loss is not saved."""
        settings, step = self.plan.settings, result.step
        saves = step % settings.save_every == 0 or step == settings.steps
        loss = None
        if saves or step % settings.evaluate_every == 0:
            loss = self.trainer.validation_loss(VALIDATION_SEQUENCES)
        finite = loss is None or math.isfinite(loss)

        def write() -> None:
            if self.folder is not None:
                self.folder.append_step(metrics_of(result, loss if finite else None))
                if saves and finite:
                    self.folder.save(self.trainer.checkpoint())

        agreed(self.world, write)
        return loss

    def report(self, validation_loss: float, ranks: list[dict[str, Any]], seconds: float) -> None:
        """Write report.json and loss.svg; print a short table and what the model writes by itself."""
        if self.folder is None:
            return
        steps = self.folder.steps()
        report = run_report(self.plan, steps, validation_loss=validation_loss, ranks=ranks, seconds=seconds)
        self.folder.write_json("report.json", report)
        self.folder.write_text("loss.svg", loss_chart(report, steps))
        print_table(report, self.folder.path)
        print_sample(self.trainer)

    def _stop(self, step: int, figures: str) -> bool:
        if self.folder is not None:
            good, rate = self.folder.saved()[-1], self.plan.settings.learning_rate
            print(
                f"minigrad train: stopped at step {step}: {figures}, which is not finite; "
                f"the last good checkpoint is {good}; try a --learning-rate below {rate:g}",
                file=sys.stderr,
                flush=True,
            )
        return False


def metrics_of(result: StepResult, validation_loss: float | None) -> dict[str, Any]:
    """The object of one step in metrics.jsonl."""
    figures = asdict(result)
    del figures["finite"]  # only steps that were taken are recorded
    return figures if validation_loss is None else {**figures, "validation_loss": validation_loss}
