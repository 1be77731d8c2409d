"""One rank's part in training a GPT: model, optimizer, and a step that is the same on any number of ranks.

The gradient of a step is the sum of the token losses' gradients over all ranks divided by the number of
tokens of the whole batch, so it depends neither on how the sequences are dealt to the ranks, nor on the
portions in which a rank works through its own, nor on what the ranks share out (the stage of ZeRO), nor on
how a mesh of ranks divides the model (by layers, and inside them).
"""

import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad.cli.run_folder import identity
from minigrad.cli.settings import ALGORITHMS, Settings
from minigrad.errors import DeviceError, MinigradError, UsageError
from minigrad.nn.text import VOCABULARY, Text, balanced_slice

if TYPE_CHECKING:
    from minigrad.dist.checkpoint import Piece
    from minigrad.dist.timing import Span
    from minigrad.dist.world import World
    from minigrad.nn import GPT

BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1  # on matrices only: pulling biases and gains towards zero does not regularize
GRADIENT_CLIP = 1.0
MINIMUM_RATIO = 0.1  # of the peak learning rate, reached at the last step
TIMED_STEPS = 20  # the latest ones, of which the idle share of a pipeline is the median


@dataclass(frozen=True)
class StepResult:
    """What one step did. The loss is the mean over the tokens of all ranks, in nats, before the update.

    `finite` says whether training can go on. Where the gradients are not finite, no rank takes the step, and
    the parameters stay as they were; in mixed precision a gradient beyond float16 (`gradient_norm` is None
    then) only lowers the loss scale.
    """

    step: int
    loss: float
    gradient_norm: float | None
    learning_rate: float
    seconds: float
    tokens_per_second: float
    finite: bool


class Trainer:
    """Trains on this rank together with all others of `world`; all must call the same methods.

    checkpoint  to go on from, or None for a start
    disk        a folder on it for the optimizer's state, where the settings say that it lies there
    meter       what this rank holds; of the activations, those of the first step
    traffic     what this rank sent and received in the first step: traffic[verb][purpose]
    mesh        the axes data, pipeline and tensor
    part        what this rank has of the model; `own_parameter_count` numbers of `parameter_count`
    """

    def __init__(
        self,
        world: "World",
        settings: Settings,
        text: Text,
        *,
        checkpoint: Path | None = None,
        disk: Path = Path(),
    ) -> None:
        from minigrad import backend, backend_mkl, nn
        from minigrad.dist.agreement import agreed
        from minigrad.dist.memory import Meter
        from minigrad.dist.mesh import Mesh
        from minigrad.dist.mesh_gpt import MeshGPT
        from minigrad.nn.amp import GradScaler

        self.world, self.settings, self.text = world, settings, text
        if backend_mkl.where() is not None:
            backend_mkl.use_mkl()
        self.device = agreed(world, lambda: device_of_rank(world, settings.device))
        backend.of_device(self.device).use(self.device)
        model = agreed(world, lambda: build_model(settings, device="shapes"))  # filled in parts
        self.parameter_count = sum(parameter.size for parameter in model.parameters())  # of the whole model
        self.mesh = Mesh(world, **settings.mesh(world.size))
        self.part = MeshGPT(
            model,
            self.mesh,
            **settings.division,
            microbatches=settings.portions(world.size),
            recompute=settings.checkpoint_activations,
            algorithm=ALGORITHMS[settings.reduce or "mpi"],
        )
        matrices = [parameter for parameter in self.part.module.parameters() if len(parameter.shape) >= 2]
        others = [parameter for parameter in self.part.module.parameters() if len(parameter.shape) < 2]
        groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = nn.optim.AdamW(
            [group for group in groups if group["params"]], lr=settings.learning_rate, betas=BETAS
        )
        self.own_parameter_count = sum(parameter.size for parameter in self.optimizer.parameters)
        self.schedule = nn.lr_scheduler.WarmupCosine(
            self.optimizer,
            warmup_steps=settings.warmup_steps(),
            total_steps=max(settings.steps, settings.warmup_steps()),
            minimum_ratio=MINIMUM_RATIO,
        )
        self.scaler = GradScaler() if settings.dtype == "float16" else None
        self.meter = Meter()
        self.parallel = self.part.share_out(
            self.optimizer,
            stage=settings.zero,
            algorithm=ALGORITHMS[settings.reduce or "mpi"],
            max_norm=GRADIENT_CLIP,
            finite_only=True,
            scaler=self.scaler,
            master=settings.master,
            device=self.device,
            offload={"none": None, "host": "host", "disk": disk}[settings.offload],
            meter=self.meter,
        )
        self.traffic: dict[str, Any] | None = None
        self.steps_done = 0
        self._timed: deque[list[Span]] = deque(maxlen=TIMED_STEPS)
        if checkpoint is not None:
            self._restore(checkpoint)

    # ----- A step -----

    def step(self) -> StepResult:
        """Take the next step; one whose loss or gradient is not finite does not count."""
        started = time.perf_counter()
        settings, step = self.settings, self.steps_done + 1
        before = None if self.traffic is not None else self.world.ledger.report()["traffic"]
        self.part.train()
        figures = np.array([self._learn(step)])
        norm = float(self.parallel.step())  # type: ignore[arg-type]  # there is one, because there is a limit
        self.mesh.axis("data").all_reduce(figures, purpose="control")
        if before is not None:
            self.traffic = difference(self.world.ledger.report()["traffic"], before)
        overflow = self.scaler is not None and not math.isfinite(norm)
        finite = math.isfinite(figures[0]) and (math.isfinite(norm) or overflow)
        learning_rate = self.schedule.get_last_lr()[0]
        if finite:
            self.schedule.step()
            self.steps_done = step
        tokens, seconds = settings.batch * settings.context, time.perf_counter() - started
        return StepResult(
            step,
            float(figures[0]) / tokens,
            None if overflow else norm,
            learning_rate,
            seconds,
            tokens / seconds,
            finite,
        )

    def _learn(self, step: int) -> float:
        """Add the gradients of this copy's sequences; returns the sum of their tokens' losses."""
        from minigrad import random

        settings, data = self.settings, self.mesh.axis("data")
        own = balanced_slice(settings.batch, data.size, data.rank)
        inputs, targets = self.text.batch(
            seed=settings.seed, step=step, sequences=settings.batch, context=settings.context, part=own
        )
        with random.scope(seed=settings.seed, step=step, samples=range(own.start, own.stop)):
            loss = self.part.learn(
                inputs,
                targets,
                count=settings.batch * settings.context,  # no copy's own share scales the gradient
                scaler=self.scaler,
                meter=self.meter if self.traffic is None else None,
            )
        if self.part.pipeline is not None:
            self._timed.append(self.part.pipeline.executor.spans)
        return loss

    def bubble(self) -> float | None:
        """The share of time that ranks of this pipeline were idle in; the median of the latest steps.

        None without a pipeline. All its ranks call this together.
        """
        pipeline = self.part.pipeline
        if pipeline is None or not self._timed:
            return None
        shares = []
        for spans in self._timed:
            pipeline.executor.spans = spans
            shares.append(pipeline.timeline().bubble_fraction)
        return median(shares)

    def validation_loss(self, sequences: int) -> float:
        """The mean loss over `sequences` evenly spaced sequences of the validation text, in nats per byte."""
        settings, data = self.settings, self.mesh.axis("data")
        own = balanced_slice(sequences, data.size, data.rank)
        # As many at once as a training step holds, so that memory stays flat; as many rounds on every rank,
        # because ranks that share out the parameters gather them together.
        at_once = math.ceil(settings.batch / data.size)
        rounds = math.ceil(math.ceil(sequences / data.size) / at_once)
        total = np.zeros(1, dtype=np.float64)
        self.part.train(False)
        for number in range(rounds):
            part = balanced_slice(own.stop - own.start, rounds, number)
            inputs, targets = self.text.validation_batch(
                sequences=sequences,
                context=settings.context,
                part=slice(own.start + part.start, own.start + part.stop),
            )
            total += self.part.loss(inputs, targets)
        data.all_reduce(total, purpose="control")
        return float(total[0]) / (sequences * settings.context)

    # ----- Checkpoints -----

    def pieces(self) -> "list[Piece]":
        """What this rank holds of parameters and optimizer state."""
        return self.parallel.pieces()

    def metadata(self) -> dict[str, Any]:
        """What else a run needs to go on from here; the same on every rank."""
        run = identity(self.settings.as_json(), self.text.sha256)
        return {"step": self.steps_done, "run": run, "parallel": self.parallel.state()}

    def _restore(self, checkpoint: Path) -> None:
        """Take over what was saved, and the place in the schedule (whose length may have changed)."""
        from minigrad.dist.checkpoint import load

        metadata = load(checkpoint, self.world, self.pieces())
        self.parallel.loaded(metadata["parallel"])
        self.steps_done = metadata["step"]
        self.schedule.load_state_dict({"last_epoch": self.steps_done, "base_lrs": self.schedule.base_lrs})


def difference(after: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """What a ledger booked between two reports of its traffic, by verb and purpose."""
    found: dict[str, Any] = {}
    for verb, purposes in after.items():
        for purpose, entry in purposes.items():
            old = before.get(verb, {}).get(purpose, {})
            new = {
                name: value - old.get(name, 0) if isinstance(value, int) else value
                for name, value in entry.items()
            }
            if new["messages"]:
                found.setdefault(verb, {})[purpose] = new
    return found


def build_model(
    settings: Settings,
    parameters: Mapping[str, Any] | None = None,
    *,
    dtype: str | None = None,
    device: str = "cpu",
) -> "GPT":
    """The GPT that the settings describe, with saved or else initial parameters.

    Raises UsageError where the saved ones are those of another model.
    """
    from minigrad import nn
    from minigrad.dist.checkpoint_files import data_type

    config = nn.GPTConfig(
        vocabulary=VOCABULARY,
        context=settings.context,
        layers=settings.layers,
        heads=settings.heads,
        width=settings.width,
        dropout=settings.dropout,
    )
    model = nn.GPT(config, seed=settings.seed, dtype=data_type(dtype or settings.dtype), device=device)
    if parameters is not None:
        try:
            model.load_state_dict(parameters)
        except MinigradError as error:
            raise UsageError(
                f"the checkpoint holds another model than config.json describes ({error}); one was changed"
            ) from error
    return model


def check_disk(settings: Settings, out: Path, *, new: bool) -> None:
    """Refuse a disk without room for a new run's checkpoints, or for what is offloaded. Raises UsageError."""
    from minigrad.dist import planner
    from minigrad.dist.checkpoint_files import check_room

    parameters = sum(p.size for p in build_model(settings, dtype="float32", device="shapes").parameters())
    precision = "mixed" if settings.master else settings.precision
    widths = planner.Setup(parameters, optimizer="adamw", precision=precision).widths
    saved = parameters * (widths["parameters"] + widths["optimizer"])
    offloaded = parameters * widths["optimizer"] if settings.offload == "disk" else 0
    remedy = "make room, or name a folder on another disk with --out"
    # Two checkpoints that are kept, and the one that is being written.
    check_room(out, 3 * saved * new + offloaded, remedy)


def check_division(settings: Settings, ranks: int) -> None:
    """Refuse a pipeline that cannot be: its schedule, its stages, its slices. Raises UsageError."""
    from minigrad.dist.mesh_gpt import divide

    if settings.pipeline > 1:
        model = build_model(settings, dtype="float32", device="shapes")
        divide(model, settings.pipeline, microbatches=settings.portions(ranks), **settings.division)


def device_of_rank(world: "World", device: str) -> str:
    """Where this rank computes: `cpu`, or the GPU of its host that its local rank is dealt.

    Several ranks may share one GPU. Raises UsageError where a GPU is asked for and there is none.
    """
    return device if device == "cpu" else f"gpu:{world.local_rank % gpu_count()}"


def gpu_count() -> int:
    """The number of GPUs of this host that CuPy can use. Raises UsageError where there is none."""
    from minigrad import backend

    try:
        return backend.gpu().count()
    except DeviceError as error:
        raise UsageError(str(error)) from error
