"""torch's contenders on the CPU: DDP, FSDP2 and pipelining over gloo, one thread a rank."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from benchmarks.parallel.program import MICROBATCHES, Program, share
from benchmarks.peers.step import in_turn
from benchmarks.peers.torch_eager import adam
from benchmarks.workloads import GPT

torch.set_num_threads(1)


class Block(nn.Module):
    """Pre-norm attention and perceptron."""

    def __init__(self, workload: GPT) -> None:
        super().__init__()
        width = workload.width
        self.heads = workload.heads
        self.norm1 = nn.LayerNorm(width, workload.epsilon)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, workload.epsilon)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, time, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, time, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(mixed.transpose(1, 2).reshape(batch, time, width))
        y = functional.gelu(self.expand(self.norm2(x)), approximate="tanh")
        out: torch.Tensor = x + self.contract(y)
        return out


class Transformer(nn.Module):
    """A GPT with its head tied to the token embedding, or the blocks of one stage of it."""

    def __init__(self, workload: GPT, stage: int = 0, stages: int = 1) -> None:
        super().__init__()
        self.first, self.last = stage == 0, stage + 1 == stages
        if self.first or self.last:
            self.token_embedding = nn.Embedding(workload.vocabulary, workload.width)
        if self.first:
            self.position_embedding = nn.Embedding(workload.context, workload.width)
        numbers = share(range(workload.layers), stage, stages)
        self.blocks = nn.ModuleList([Block(workload) for _ in numbers])
        if self.last:
            self.norm = nn.LayerNorm(workload.width, workload.epsilon)
        values = {key: value for key, value in workload.parameters().items() if not key.startswith("blocks.")}
        for own, number in enumerate(numbers):
            prefix = f"blocks.{number}."
            values.update(
                (f"blocks.{own}.{torch_name(key.removeprefix(prefix))}", value)
                for key, value in workload.parameters().items()
                if key.startswith(prefix)
            )
        self.load_state_dict({key: torch.from_numpy(values[key]) for key in self.state_dict()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.first:
            x = self.token_embedding(x) + self.position_embedding.weight
        for block in self.blocks:
            x = block(x)
        if self.last:
            x = functional.linear(self.norm(x), self.token_embedding.weight)
        return x


def torch_name(name: str) -> str:
    """The name in `Block` of a workload's parameter."""
    return name.replace("mlp.projection", "contract").removeprefix("attention.").removeprefix("mlp.")


def token_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean over tokens."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def batches_of(workload: GPT) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches as tensors, in turn."""
    return in_turn([(torch.from_numpy(x), torch.from_numpy(y)) for x, y in workload.data()])


def join() -> tuple[int, int]:
    """Join the other ranks; returns rank and number of ranks."""
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if ranks > 1:
        distributed.init_process_group(
            "gloo", init_method=os.environ["BENCHMARK_STORE"], rank=rank, world_size=ranks
        )
    return rank, ranks


def trainer(workload: GPT, wrap: Callable[[Transformer], Any], what: str) -> Program:
    """Each rank trains on its rows; what wraps the model takes means over ranks."""
    rank, ranks = join()
    model = wrap(Transformer(workload))
    optimizer = adam(model.parameters(), workload.adam)
    batches = batches_of(workload)

    def run() -> float:
        tokens, targets = (share(array, rank, ranks) for array in next(batches))
        loss = token_loss(model(tokens), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item() / ranks

    meet = distributed.barrier if ranks > 1 else lambda: None
    return Program(rank, f"torch {torch.__version__}, {what}", run, meet)


def one_rank(workload: GPT) -> Program:
    """The plain loop."""
    return trainer(workload, lambda model: model, "one process")


def ddp(workload: GPT) -> Program:
    """DistributedDataParallel."""
    return trainer(
        workload,
        lambda model: DistributedDataParallel(model, gradient_as_bucket_view=True),
        "DistributedDataParallel, gloo",
    )


def fsdp2(workload: GPT) -> Program:
    """fully_shard of each block and of the whole."""

    def wrap(model: Transformer) -> Any:
        for block in model.blocks:
            fully_shard(block)
        return fully_shard(model)

    return trainer(workload, wrap, "fully_shard (FSDP2), gloo")


def pipelining(workload: GPT, schedule: Any) -> Program:
    """torch.distributed.pipelining; the gradients of the tied embedding are summed by hand."""
    rank, ranks = join()
    module = Transformer(workload, rank, ranks)
    stage = PipelineStage(module, rank, ranks, torch.device("cpu"))
    steps = schedule(stage, n_microbatches=MICROBATCHES, loss_fn=token_loss)
    optimizer = adam(module.parameters(), workload.adam)
    batches = batches_of(workload)

    def run() -> float:
        tokens, targets = next(batches)
        losses: list[torch.Tensor] = []
        optimizer.zero_grad()
        if module.first:
            steps.step(tokens)
        else:
            steps.step(target=targets, losses=losses)
        distributed.all_reduce(module.token_embedding.weight.grad)
        optimizer.step()
        return float(torch.stack(losses).mean().item()) if losses else 0.0

    description = f"torch {torch.__version__}, {schedule.__name__}, gloo"
    return Program(rank, description, run, distributed.barrier)


def one_forward_one_backward(workload: GPT) -> Program:
    """Schedule1F1B."""
    return pipelining(workload, Schedule1F1B)


def gpipe(workload: GPT) -> Program:
    """ScheduleGPipe."""
    return pipelining(workload, ScheduleGPipe)
