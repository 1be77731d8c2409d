"""One rank alone: every collective is a copy, and the only one to talk to is oneself."""

import sys
from typing import ClassVar, Literal, NoReturn

from minigrad.dist.mail import Mail
from minigrad.dist.request import Poll, done
from minigrad.dist.transfer import Tag
from minigrad.dist.verbs import Array, Call, carry_out, complaint
from minigrad.dist.world import World
from minigrad.errors import CommunicationError


class SingleWorld(World):
    """A world of size 1. Arrays of any device stay where they are."""

    kind: ClassVar[Literal["single", "threads", "mpi"]] = "single"

    def __init__(self) -> None:
        super().__init__(0, [0], local_rank=0, local_size=1)
        self._mail = Mail([self.name])

    @property
    def takes_device_arrays(self) -> bool:
        return True

    def abort(self, message: str) -> NoReturn:
        sys.exit(f"{self.name}: {message}")

    def _start_send(self, buffer: Array, destination: int, tag: Tag) -> Poll:
        return self._post(buffer, tag, sends=True)

    def _start_receive(self, buffer: Array, source: int, tag: Tag) -> Poll:
        return self._post(buffer, tag, sends=False)

    def _post(self, buffer: Array, tag: Tag, *, sends: bool) -> Poll:
        post, _ = self._mail.post(buffer, 0, 0, tag, sends=sends)

        def poll(block: bool) -> bool:
            if block and not post.happened:
                raise CommunicationError(
                    f"deadlock: {self.name} waits {post.describe()}; start both, then wait"
                )
            return post.happened

        return poll

    def _collective(self, call: Call, array: Array, out: Array) -> Poll:
        wrong = complaint([call], [array], [out])
        if wrong:
            raise CommunicationError(f"{self.name}: {call.verb}: {wrong}")
        carry_out([call], [array], [out])
        return done

    def _split(self, color: int, ranks: list[int]) -> World:
        return self
