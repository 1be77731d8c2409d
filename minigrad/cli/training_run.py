"""A whole training run as every rank lives it: step, show, measure, save, and report at the end.

Only rank 0 writes and prints; what it cannot write, all ranks learn of (`agreed`), so that all stop together.
"""

import math
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import minigrad
from minigrad.cli.progress import Progress
from minigrad.cli.report import loss_chart, print_sample, print_table, rank_figures, run_report
from minigrad.cli.run_folder import RunFolder, begun
from minigrad.cli.settings import Settings
from minigrad.cli.trainer import StepResult, Trainer
from minigrad.dist.agreement import AgreedError, agreed, gathered
from minigrad.dist.checkpoint import Newest, save, saved
from minigrad.nn.text import Text

if TYPE_CHECKING:
    from minigrad.dist.world import World

VALIDATION_SEQUENCES = 64  # while training: quick, and the same ones every time
FINAL_VALIDATION_SEQUENCES = 512
SHARED_OUT = {
    1: "optimizer state shared out",
    2: "optimizer state and gradients shared out",
    3: "optimizer state, gradients and parameters shared out",
}


@dataclass(frozen=True)
class Plan:
    """A run that was checked and may start: a new one, or one that goes on from `checkpoint` of `resume`."""

    settings: Settings
    text: Text
    out: Path
    resume: Path | None = None
    checkpoint: Newest | None = None

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
    (out, *_) = (Path(name) for name in gathered(world, str(plan.out)))  # rank 0's: names may hold the time
    trainer = Trainer(
        world,
        plan.settings,
        plan.text,
        checkpoint=plan.checkpoint.path if plan.checkpoint is not None else None,
        disk=next(parent for parent in out.absolute().parents if parent.is_dir()),
    )
    with closing(TrainingRun(world, plan, out, trainer)) as run:
        run.open_folder()
        run.introduce()
        with np.errstate(over="ignore", invalid="ignore"):  # a loss that diverges is reported once
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

    def __init__(self, world: "World", plan: Plan, out: Path, trainer: Trainer) -> None:
        self.world, self.plan, self.out, self.trainer = world, plan, out, trainer
        self.folder: RunFolder | None = None

    def open_folder(self) -> None:
        """Make the folder with a checkpoint of the start, or take up the one that is resumed."""
        plan, first = self.plan, self.world.rank == 0
        if plan.resume is not None and plan.out == plan.resume:
            self.folder = agreed(self.world, lambda: self._rewound(self.out) if first else None)
            return
        folder = self.folder = agreed(self.world, lambda: self._begun() if first else None)
        try:
            self.save(begun(self.out))
            agreed(self.world, lambda: folder.finish(self.out) if folder else None)
        except AgreedError:
            if folder is not None:
                folder.discard()
            self.world.barrier()  # a rank that leaves may end the others
            raise

    def close(self) -> None:
        """Let other processes write to the folder."""
        if self.folder is not None:
            self.folder.let_go()

    def _begun(self) -> RunFolder:
        """The folder of a run that starts, aside, with the steps that were taken elsewhere."""
        plan, metrics = self.plan, ""
        if plan.resume is not None:
            metrics = RunFolder.open(plan.resume).metrics_until(self.trainer.steps_done)
        return RunFolder.begin(self.out, plan.config(), metrics=metrics)

    def _rewound(self, path: Path) -> RunFolder:
        """The folder of the run that goes on, as it was then."""
        folder = self.folder = RunFolder.open(path)
        folder.hold()
        folder.rewind(self.trainer.steps_done, self.plan.config())
        return folder

    def save(self, path: Path) -> None:
        """All ranks: save a checkpoint in the run folder at `path`."""
        trainer = self.trainer
        name = f"step_{trainer.steps_done:06d}"
        save(RunFolder(path).checkpoints / name, self.world, trainer.pieces(), trainer.metadata())

    def introduce(self) -> None:
        """Say what is about to be trained, on what, and by whom; with GPUs also who computes where."""
        devices = [entry["device"] for entry in gathered(self.world, {"device": self.trainer.device})]
        if self.folder is None:
            return
        settings, text = self.plan.settings, self.plan.text
        print(
            f"model   GPT with {self.trainer.parameter_count:,} parameters: layers {settings.layers}, "
            f"width {settings.width}, heads {settings.heads}, context {settings.context}, "
            f"{settings.precision}\n"
            f"text    {text.name}: {len(text.train):,} bytes, and {len(text.validation):,} to validate on "
            f"(sha256 {text.sha256[:12]})\n"
            f"ranks   {self.world.size} ({self.world.kind}){self._mesh()}, "
            f"together {settings.batch} sequences a step"
            f"{', ' + SHARED_OUT[settings.zero] if settings.zero else ''}\n"
            f"folder  {self.out}"
        )
        if settings.device == "gpu":
            print("devices " + ", ".join(f"rank {rank} on {device}" for rank, device in enumerate(devices)))
        if self.plan.checkpoint is not None:
            for reason in self.plan.checkpoint.refused:
                print(f"refused {reason}")
            print(f"resumed after step {self.trainer.steps_done}")
        sys.stdout.flush()

    def _mesh(self) -> str:
        """How the ranks divide the model, where they do."""
        settings, ranks = self.plan.settings, self.world.size
        if settings.pipeline * settings.tensor == 1:
            return ""
        words = [f"{name} {size}" for name, size in settings.mesh(ranks).items()]
        if settings.pipeline > 1:
            words.append(f"{settings.schedule} of {settings.portions(ranks)} microbatches")
        return f": {', '.join(words)}"

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
                self.folder.append_step(metrics_of(result, loss if finite else None), flush=saves)

        agreed(self.world, write)
        if saves and finite:
            self.save(self.out)
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
        print_sample(self.folder, self.plan.settings)

    def _stop(self, step: int, figures: str) -> bool:
        if self.folder is not None:
            good, rate = saved(self.folder.checkpoints)[-1], self.plan.settings.learning_rate
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
