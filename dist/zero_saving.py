"""What ZeRO contributes to a checkpoint, and how it goes on from one."""

from collections.abc import Sequence
from typing import Any

from minigrad.dist.checkpoint_piece import Piece
from minigrad.dist.offload import Offload
from minigrad.dist.partition import Bucket
from minigrad.dist.roster import Seal
from minigrad.dist.zero_parameters import WholeParameters
from minigrad.dist.zero_shards import ShardedParameters
from minigrad.nn.amp import GradScaler
from minigrad.nn.module import Module
from minigrad.nn.optim import Optimizer, Shard


class SavedZeRO:
    """The part of ZeRO that gives away what it holds."""

    module: Module
    optimizer: Optimizer
    scaler: GradScaler | None
    buckets: Sequence[Bucket]
    _offload: Offload
    _parameters: WholeParameters | ShardedParameters
    _shards: dict[int, Shard]
    _seal: Seal

    def pieces(self) -> list[Piece]:
        """What this rank contributes to a checkpoint, and asks of one: arrays that may be written to.

        "model.NAME" for parameters and persistent buffers, "optimizer.NAME.STATE" for the optimizer's state.
        A delayed run has every update in "model.NAME", also one that is under way, and in "shown.NAME" what
        the model computes with. After loading call `loaded`.
        """
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        found = []
        shown = [("model", bucket, self._parameters.shown(bucket)) for bucket in self.buckets]
        frozen = [("model", bucket, self._parameters.own(bucket)) for bucket in self._parameters.frozen]
        updated = self._offload.updated()
        if updated is not None:
            shown = [("shown", bucket, flat) for _, bucket, flat in shown]
            shown += [("model", bucket, own) for bucket, own in zip(self.buckets, updated, strict=True)]
        for kind, bucket, own in [*shown, *frozen]:
            whole = own.size == bucket.size
            ranges = [(0, p.size) for p in bucket.parameters] if whole else bucket.ranges()
            parts = [view.reshape(-1) for view in bucket.views(own)] if whole else bucket.pieces(own)
            for parameter, (start, stop), part in zip(bucket.parameters, ranges, parts, strict=True):
                if id(parameter) in names:  # one that stands for none is not part of the model
                    found.append(Piece(f"{kind}.{names[id(parameter)]}", parameter.shape, start, stop, part))
        rest = [(name, p) for name, p in self.module.named_parameters() if not (p.requires_grad or frozen)]
        kept = [(name, b) for name, b in self.module.named_buffers() if b.persistent]
        for name, tensor in [*rest, *kept]:
            found.append(Piece(f"model.{name}", tensor.shape, 0, tensor.size, tensor.data.reshape(-1)))
        for parameter, state in zip(self.optimizer.parameters, self.optimizer.shard_state(), strict=True):
            shard = self._shards.get(id(parameter))
            for kind in self.optimizer.all_state_names if shard is not None else ():
                name = f"optimizer.{names[id(parameter)]}.{kind}"
                found.append(Piece(name, parameter.shape, shard.start, shard.stop, state[kind]))  # type: ignore[union-attr]
        return found

    def state(self) -> dict[str, Any]:
        """What belongs to a checkpoint beside its arrays, as JSON: steps by name, the loss scale, and how far
        delayed updates are.
        """
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        numbers = zip(self.optimizer.parameters, self.optimizer.steps, strict=True)
        steps = {names[id(parameter)]: number for parameter, number in numbers}
        scaler = {} if self.scaler is None else self.scaler.state_dict()
        return {"steps": steps, "scaler": scaler, "delayed": self._offload.state()}

    def loaded(self, state: dict[str, Any]) -> None:
        """Go on from arrays that were loaded into `pieces()`, and from what `state()` gave."""
        self._offload.refuse_inside("loaded()")
        self._parameters.forget()  # what was gathered of them, by a pass that was broken off
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        self.optimizer.set_steps([state["steps"].get(names[id(p)], 0) for p in self.optimizer.parameters])
        if self.scaler is not None and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self._offload.loaded(state.get("delayed", {}), max(state["steps"].values(), default=0))
        self._seal.renew()
