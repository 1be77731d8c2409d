"""Running somebody else's code: no rights, no network, limited time and memory, files that it cannot change.

    python -m minigrad.lessons.contain '{"seconds": 60, ...}' COMMAND ...

What the system does not offer is left out, and `contained` says which parts hold. Linux offers all of them to
root, and to everybody where user namespaces are allowed.
"""

import ctypes
import functools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NEW_MOUNTS, NEW_USER, NEW_PROCESSES, NEW_NETWORK = 0x00020000, 0x10000000, 0x20000000, 0x40000000  # clone(2)
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 32, 4096, 16384, 1 << 18  # mount(2)
KEPT = 2 | 4 | 8 | 1024 | 2048  # what a remount must repeat: nosuid, nodev, noexec, noatime, nodiratime
END_WITH_PARENT, SET_SECURE_BITS, ROOT_IS_NOBODY = 1, 28, 0b11  # prctl(2)
CAPABILITY_VERSION = 0x20080522  # capset(2)
NOBODY = 65534
PARTS = ("limits", "network", "files", "rights", "processes")
FILE_BYTES = 64 << 20  # of one file that is written, what is printed included
PROCESSES, PROCESSES_OF_USER = 256, 4096  # older systems count everything that an ordinary user runs


def command(
    *, seconds: float, memory_bytes: int, hidden: Sequence[Path] = (), writable: Sequence[Path] = ()
) -> list[str]:
    """What to put before a command line to contain it.

    `seconds` of processor time and `memory_bytes` of address space are limits; `hidden` folders and files
    look empty (other learners' answers, the solution); nothing but the `writable` folders can be written, not
    even by their owner. Windows offers none of it, and no command.
    """
    if sys.platform == "win32":
        return []
    wish = {
        "seconds": seconds,
        "memory_bytes": memory_bytes,
        "hidden": [str(path.resolve()) for path in hidden],
        "writable": [str(path.resolve()) for path in writable],
    }
    return [sys.executable, "-m", "minigrad.lessons.contain", json.dumps(wish)]


@functools.cache
def contained() -> dict[str, bool]:
    """Which of the `PARTS` of the containment hold on this system, by trying them."""
    probe = command(seconds=60, memory_bytes=8 << 30)
    code = "import minigrad.lessons.contain as c; c.report()"
    done = subprocess.run([*probe, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)
    except ValueError:
        found = {}
    return {part: bool(found.get(part)) for part in PARTS}


def report() -> None:
    """Print, as JSON, what this process cannot do."""
    import resource
    import socket

    try:
        with socket.create_connection(("192.0.2.1", 9), timeout=0.2):
            reaches = True
    except TimeoutError:
        reaches = True  # something carried the packet away: there is a network
    except OSError as error:
        reaches = "unreachable" not in str(error).lower()
    interfaces = [name for _, name in socket.if_nameindex() if name != "lo"]
    writes = any(_writes(place) for place in (Path(__file__).parent, Path.home(), Path.cwd()))
    limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    capable = re.search(r"^CapEff:\s*0*[1-9a-f]", _text("/proc/self/status"), re.MULTILINE) is not None
    rights = not capable and (os.geteuid() != 0 or sys.platform == "linux")
    held = {
        "limits": limited,
        "network": not reaches and not interfaces,
        "files": not writes,
        "rights": rights,
        "processes": os.getpid() < 10,
    }
    print(json.dumps(held))


def _writes(folder: Path) -> bool:
    probe = folder / f".probe-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError:
        return False
    return True


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _unshare(flags: int) -> bool:
    return ctypes.CDLL(None, use_errno=True).unshare(flags) == 0


def _mount(source: str, target: str, kind: str | None, flags: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.mount(source.encode(), target.encode(), kind and kind.encode(), flags, None) == 0


def contain(wish: dict[str, Any]) -> None:
    """Give up rights, network and writing, as far as the system lets a process do that to itself."""
    import resource

    user, group = os.getuid(), os.getgid()
    spaces = NEW_MOUNTS | NEW_NETWORK | NEW_PROCESSES
    if sys.platform == "linux" and _unshare(spaces | (NEW_USER if user else 0)):
        if user:
            Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
        _mount("none", "/", None, RECURSIVE | PRIVATE)
        _close_files(wish["writable"], wish["hidden"])
        _go_on_as_child()
    seconds, memory = int(wish["seconds"]) + 1, int(wish["memory_bytes"])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    if user:
        _, most = resource.getrlimit(resource.RLIMIT_NPROC)
        most = PROCESSES_OF_USER if most == resource.RLIM_INFINITY else min(most, PROCESSES_OF_USER)
        resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
    else:
        os.setgroups([])
        if _may_run_as_nobody():
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            resource.setrlimit(resource.RLIMIT_NPROC, (PROCESSES, PROCESSES))
        else:
            _drop_capabilities()
    _end_with_parent()  # last, because a change of rights takes it back


def _close_files(writable: Sequence[str], hidden: Sequence[str]) -> None:
    """Make every file system read-only but the writable folders, for this process and its children."""
    for folder in writable:
        _mount(folder, folder, None, BIND | RECURSIVE)
    mounts = [line.split()[4] for line in _text("/proc/self/mountinfo").splitlines()]
    for coded in mounts:
        place = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), coded)
        if place not in writable and os.access(place, os.F_OK):
            kept = os.statvfs(place).f_flag & KEPT
            _mount("none", place, None, REMOUNT | BIND | READ_ONLY | kept)
    for path in hidden:
        if os.path.isdir(path):
            _mount("none", path, "tmpfs", READ_ONLY)
        else:
            _mount(os.devnull, path, None, BIND)


def _go_on_as_child() -> None:
    """Return in a first process of its own: when it ends, the system ends all that it started."""
    child = os.fork()
    if child:
        _end_with_parent()
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(END_WITH_PARENT, signal.SIGKILL, 0, 0, 0)


def _may_run_as_nobody() -> bool:
    """Whether an ordinary user can reach the interpreter and minigrad: they may lie in root's own folders."""
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    needed = [Path(sys.executable), Path(sys.executable).resolve(), Path(__file__)]
    reached = all(os.access(path, os.R_OK, effective_ids=True) for path in needed)
    os.seteuid(0)
    os.setegid(0)
    return reached


def _drop_capabilities() -> None:
    """Stay root by name, without any of root's powers, also after the next program starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(SET_SECURE_BITS, ROOT_IS_NOBODY, 0, 0, 0)
    header, nothing = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    libc.capset(header, nothing)


def main() -> None:
    """Contain this process and become the command."""
    contain(json.loads(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
