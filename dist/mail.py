"""Messages between ranks of one process: sender and receiver meet, and one array is copied into the other."""

from collections import deque
from collections.abc import Sequence

from minigrad.dist.baton import Event
from minigrad.dist.transfer import Tag
from minigrad.dist.verbs import Array
from minigrad.errors import CommunicationError


def labelled(tag: Tag) -> str:
    """A tag as messages tell of it."""
    return f"with tag {tag}" if isinstance(tag, int) else f"in {tag}"


class Post(Event):
    """One side of a message, until the other side comes."""

    def __init__(self, buffer: Array, names: tuple[str, str], tag: Tag, *, sends: bool) -> None:
        super().__init__()
        self.buffer = buffer
        self.sender, self.receiver = names
        self.tag = tag
        self.sends = sends

    def describe(self) -> str:
        what = f"{self.buffer.size} elements of {self.buffer.dtype} {labelled(self.tag)}"
        if self.sends:
            return f"for {self.receiver} to receive {what}"
        return f"for {self.sender} to send {what}"


class Mail:
    """What was posted in one group and not yet met its other side, oldest first.

    A send is done when it was received, never earlier: a program that leans on buffers of the library, which
    MPI allows but does not promise, is found out here. Every collective has a tag of its own, so nothing is
    kept of those on which nobody waits.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._waiting: dict[tuple[int, int, Tag], deque[Post]] = {}

    def post(
        self, buffer: Array, source: int, destination: int, tag: Tag, *, sends: bool
    ) -> tuple[Post, Post | None]:
        """Post one side; the second value is the other side, if it was there: the message is delivered then.

        Raises CommunicationError where the sides differ in size or dtype.
        """
        post = Post(buffer, (self._names[source], self._names[destination]), tag, sends=sends)
        kind = source, destination, tag
        queue = self._waiting.setdefault(kind, deque())
        if not queue or queue[0].sends == sends:
            queue.append(post)
            return post, None
        other = queue.popleft()
        if not queue:
            del self._waiting[kind]
        sent, received = (post, other) if sends else (other, post)
        if (sent.buffer.dtype, sent.buffer.size) != (received.buffer.dtype, received.buffer.size):
            raise CommunicationError(
                f"{post.sender} sends {sent.buffer.size} elements of {sent.buffer.dtype} {labelled(tag)}, "
                f"but {post.receiver} receives {received.buffer.size} of {received.buffer.dtype}; "
                "make both equal"
            )
        received.buffer[...] = sent.buffer
        post.happened = other.happened = True
        return post, other

    def unfinished(self) -> list[Post]:
        """What nobody received or sent."""
        return [post for queue in self._waiting.values() for post in queue]
