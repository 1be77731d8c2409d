"""How a long loop shows where it is: a bar on a terminal, else a flushed line every few seconds, or nothing.

Whether there is a terminal cannot be asked on a rank (under some MPIs every rank believes it has one), so the
launcher asks and tells the ranks by the environment variable MINIGRAD_PROGRESS: `bar`, `line` or `off`.
"""

import os
import sys
import time
from types import TracebackType

SECONDS_BETWEEN_LINES = 4.0
MODES = ("bar", "line", "off")


def progress_mode() -> str:
    """The mode the launcher chose; without a launcher, a bar exactly when this process has a terminal."""
    chosen = os.environ.get("MINIGRAD_PROGRESS", "")
    if chosen in MODES:
        return chosen
    return "bar" if sys.stdout.isatty() and sys.stderr.isatty() else "line"


class Progress:
    """Shows step, loss, tokens per second and time left of a loop of `total` steps, `done` of them before.

    A context, so that a bar is taken down however the loop ends.
    """

    def __init__(self, total: int, *, done: int = 0, mode: str | None = None) -> None:
        self.total = total
        self.done = self.first = done
        self.mode = progress_mode() if mode is None else mode
        self.started = time.perf_counter()
        self.shown: float | None = None  # when the last line was printed
        if self.mode == "bar":
            self._make_bar()

    def __enter__(self) -> "Progress":
        if self.mode == "bar":
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.mode == "bar":
            self.bar.stop()

    def update(self, step: int, *, loss: float, tokens_per_second: float) -> None:
        """Show that `step` steps are done."""
        self.done = step
        figures = f"loss {loss:.4f}  {tokens_per_second:,.0f} tokens/s"
        if self.mode == "bar":
            self.bar.update(self.task, completed=step, figures=figures, left=clock(self.seconds_left()))
        elif self.mode == "line":
            now = time.perf_counter()
            if self.shown is None or now - self.shown >= SECONDS_BETWEEN_LINES or step == self.total:
                self.shown = now
                print(f"step {step}/{self.total}  {figures}  {clock(self.seconds_left())} left", flush=True)

    def seconds_left(self) -> float:
        """The time the remaining steps take at the average pace so far."""
        pace = (time.perf_counter() - self.started) / max(self.done - self.first, 1)
        return pace * (self.total - self.done)

    def _make_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self.bar = RichProgress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TextColumn("{task.fields[left]} left"),
            console=Console(force_terminal=True),  # under mpirun stdout is a pipe that ends at the terminal
            refresh_per_second=4,
        )
        self.task = self.bar.add_task("", total=self.total, completed=self.done, figures="", left="-:--")


def clock(seconds: float) -> str:
    """Seconds as a clock shows them: 0:07, 12:30, 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
