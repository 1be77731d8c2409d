"""A message on its way: started, not yet waited for."""

from collections.abc import Callable

Poll = Callable[[bool], bool]
"""How a world finishes what it started: `poll(True)` waits until it is done, `poll(False)` only looks."""


class Request:
    """Something that `start_…` began; its buffers are taken until `wait` returned or `test` said yes.

    A request keeps its buffers alive. Messages need not move while nobody looks: calling `test` now and then
    between computations is what lets an MPI library overlap the two.
    """

    def __init__(self, poll: Poll, *finish: Callable[[], None]) -> None:
        self._poll: Poll | None = poll
        self._finish = finish

    def wait(self) -> None:
        """Return when it is done and the result is in place. A second call returns at once."""
        self._complete(block=True)

    def test(self) -> bool:
        """Whether it is done, without waiting; the result is in place once this is True."""
        return self._complete(block=False)

    def _complete(self, *, block: bool) -> bool:
        if self._poll is None:
            return True
        if not self._poll(block):
            return False
        self._poll = None
        for act in self._finish:
            act()
        return True


def done(block: bool) -> bool:
    """The poll of what is done as soon as it is started."""
    return True


def both(first: Poll, then: Poll) -> Poll:
    """The poll of two things, of which the first is asked first."""
    return then if first is done else lambda block: first(block) and then(block)
