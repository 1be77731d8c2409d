"""One rank's part in training a GPT: model, optimizer, and a step that is the same on any number of ranks.

The gradient of a step is the sum of the token losses' gradients over all ranks divided by the number of
tokens of the whole batch, so it does not depend on how the sequences are dealt to the ranks.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad.cli.agreement import agreed
from minigrad.cli.run_folder import Checkpoint
from minigrad.cli.settings import Settings
from minigrad.errors import DeviceError, MinigradError, UsageError
from minigrad.nn.text import VOCABULARY, Text, balanced_slice

if TYPE_CHECKING:
    from minigrad.dist.world import World
    from minigrad.nn import GPT

BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1  # on matrices only: pulling biases and gains towards zero does not regularize
GRADIENT_CLIP = 1.0
MINIMUM_RATIO = 0.1  # of the peak learning rate, reached at the last step


@dataclass(frozen=True)
class StepResult:
    """What one step did. The loss is the mean over the tokens of all ranks, in nats, before the update.

    `finite` says whether the step was taken: one that is not leaves the parameters as they were.
    """

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    seconds: float
    tokens_per_second: float
    finite: bool


class Trainer:
    """Trains on this rank together with all others of `world`; all must call the same methods."""

    def __init__(
        self, world: "World", settings: Settings, text: Text, *, checkpoint: Checkpoint | None = None
    ) -> None:
        from minigrad import backend, dist, nn

        self.world, self.settings, self.text = world, settings, text
        self.device = agreed(world, lambda: device_of_rank(world, settings.device))
        backend.of_device(self.device).use(self.device)
        parameters = None if checkpoint is None else checkpoint.model
        self.model: GPT = agreed(world, lambda: build_model(settings, parameters, device=self.device))
        self.parallel = dist.DataParallel(self.model, world)
        matrices = [parameter for parameter in self.model.parameters() if len(parameter.shape) >= 2]
        others = [parameter for parameter in self.model.parameters() if len(parameter.shape) < 2]
        self.optimizer = nn.optim.AdamW(
            [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}],
            lr=settings.learning_rate,
            betas=BETAS,
        )
        self.schedule = nn.lr_scheduler.WarmupCosine(
            self.optimizer,
            warmup_steps=settings.warmup_steps(),
            total_steps=max(settings.steps, settings.warmup_steps()),
            minimum_ratio=MINIMUM_RATIO,
        )
        self.steps_done = 0
        if checkpoint is not None:
            self._restore_optimizer(checkpoint)

    @property
    def parameter_count(self) -> int:
        """The number of trained numbers."""
        return sum(parameter.size for parameter in self.model.parameters())

    def step(self) -> StepResult:
        """Take the next step, unless its loss or gradient is not finite."""
        from minigrad import nn, random

        started = time.perf_counter()
        step, settings = self.steps_done + 1, self.settings
        part = balanced_slice(settings.batch, self.world.size, self.world.rank)
        inputs, targets = self.text.batch(
            seed=settings.seed, step=step, sequences=settings.batch, context=settings.context, part=part
        )
        tokens = settings.batch * settings.context  # of all ranks: no rank's own share scales the gradient
        self.model.train()
        self.optimizer.zero_grad()
        with random.scope(seed=settings.seed, step=step, samples=range(part.start, part.stop)):
            loss = self.model.loss(inputs, targets, reduction="sum")
        (loss * (1.0 / tokens)).backward()
        self.parallel.synchronize()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_CLIP))
        # Summed once the gradient's norm is known: one message carries both, and all ranks decide alike.
        figures = np.array([loss.item(), 0.0 if math.isfinite(norm) else math.nan], dtype=np.float64)
        self.world.all_reduce(figures, purpose="control")
        finite = math.isfinite(figures.sum())
        learning_rate = self.schedule.get_last_lr()[0]
        if finite:
            self.optimizer.step()
            self.schedule.step()
            self.steps_done = step
        seconds = time.perf_counter() - started
        return StepResult(
            step, float(figures[0]) / tokens, norm, learning_rate, seconds, tokens / seconds, finite
        )

    def validation_loss(self, sequences: int) -> float:
        """The mean loss over `sequences` evenly spaced sequences of the validation text, in nats per byte."""
        from minigrad.graph import no_grad

        context, own = self.settings.context, balanced_slice(sequences, self.world.size, self.world.rank)
        at_once = -(
            -self.settings.batch // self.world.size
        )  # as many as a training step holds, so memory stays flat
        total = np.zeros(1, dtype=np.float64)
        self.model.eval()
        with no_grad():
            for start in range(own.start, own.stop, at_once):
                part = slice(start, min(start + at_once, own.stop))
                inputs, targets = self.text.validation_batch(sequences=sequences, context=context, part=part)
                total += self.model.loss(inputs, targets, reduction="sum").item()
        self.world.all_reduce(total, purpose="control")
        return float(total[0]) / (sequences * context)

    def checkpoint(self) -> Checkpoint:
        """All that a run needs to go on from here; the same on every rank."""
        saved = self.optimizer.state_dict()
        arrays: dict[str, Any] = {}
        steps: dict[str, int] = {}
        for name, number in self._optimizer_numbers().items():
            entry = dict(saved["state"][number])
            steps[name] = entry.pop("step")
            arrays |= {f"{name}.{kind}": host_array(value) for kind, value in entry.items()}
        return Checkpoint(
            step=self.steps_done,
            seed=self.settings.seed,
            model={name: host_array(tensor.data) for name, tensor in self.model.state_dict().items()},
            optimizer=arrays,
            optimizer_state={"steps": steps, "param_groups": saved["param_groups"]},
        )

    def _restore_optimizer(self, checkpoint: Checkpoint) -> None:
        """Take over the optimizer's state and the place in the schedule (whose length may have changed)."""
        state = {
            number: {
                "step": checkpoint.optimizer_state["steps"][name],
                **{kind: checkpoint.optimizer[f"{name}.{kind}"] for kind in self.optimizer.state_names},
            }
            for name, number in self._optimizer_numbers().items()
        }
        groups = checkpoint.optimizer_state["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.schedule.load_state_dict({"last_epoch": checkpoint.step, "base_lrs": self.schedule.base_lrs})
        self.steps_done = checkpoint.step

    def _optimizer_numbers(self) -> dict[str, int]:
        """The optimizer's number of each parameter, by its name: names outlive a change of order."""
        numbers = {id(parameter): number for number, parameter in enumerate(self.optimizer.parameters)}
        return {name: numbers[id(parameter)] for name, parameter in self.model.named_parameters()}


def build_model(
    settings: Settings, parameters: Mapping[str, Any] | None = None, *, device: str = "cpu"
) -> "GPT":
    """The GPT that the settings describe, with saved or else initial parameters.

    Raises UsageError where the saved ones are those of another model.
    """
    from minigrad import nn

    config = nn.GPTConfig(
        vocabulary=VOCABULARY,
        context=settings.context,
        layers=settings.layers,
        heads=settings.heads,
        width=settings.width,
        dropout=settings.dropout,
    )
    model = nn.GPT(config, seed=settings.seed, dtype=settings.dtype, device=device)
    if parameters is not None:
        try:
            model.load_state_dict(parameters)
        except MinigradError as error:
            raise UsageError(
                f"the checkpoint holds another model than config.json describes ({error}); one was changed"
            ) from error
    return model


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


def host_array(array: Any) -> Any:
    """The NumPy array of a raw array of any backend."""
    from minigrad.backend import namespace

    return namespace(array).to_host(array)
