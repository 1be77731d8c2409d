"""What the system knows of a process that says nothing: whether it was stopped, how long it has computed, how
much it holds.
"""

import mmap
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sight:
    """A process at one moment: its state, as Linux calls it by a letter, its processor time so far, and its
    part of the memory.
    """

    state: str
    cpu_seconds: float
    memory_bytes: int = 0

    def at_work_since(self, before: "Sight | None") -> bool:
        """Whether it has computed since then, and nothing holds it now."""
        return before is not None and self.state not in "Tt" and self.cpu_seconds > before.cpu_seconds

    def describe(self) -> str:
        """The state in words."""
        return {"T": "was stopped by a signal", "t": "is held by a debugger", "D": "waits for a disk"}.get(
            self.state, "uses no processor time"
        )


def sight_of(process: int) -> Sight | None:
    """What Linux tells of a process (proc(5), /proc/PID/stat); None elsewhere, or where there is none."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])  # in the program, and in the system for it
        pages = int(fields[21])
    except (OSError, ValueError, IndexError):
        return None
    return Sight(fields[0], ticks / os.sysconf("SC_CLK_TCK"), pages * mmap.PAGESIZE)
