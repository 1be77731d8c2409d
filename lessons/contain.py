"""Running somebody else's code: no rights, no network, limited time and memory, a read-only course.

    python -m minigrad.lessons.contain '{"seconds": 60, ...}' COMMAND ...

What the system does not offer is left out, and `contained` says which parts hold. Linux offers all of them to
root, and to everybody where user namespaces are allowed.
"""

import ctypes
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

NEW_MOUNTS, NEW_USER, NEW_NETWORK = 0x00020000, 0x10000000, 0x40000000  # clone(2)
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 32, 4096, 16384, 1 << 18  # mount(2)
SET_SECURE_BITS, ROOT_IS_NOBODY, CAPABILITY_VERSION = 28, 0b11, 0x20080522  # prctl(2), capset(2)
NOBODY = 65534
PARTS = ("limits", "network", "course", "rights")


def command(
    *, seconds: float, memory_bytes: int, hidden: Sequence[Path] = (), read_only: Sequence[Path] = ()
) -> list[str]:
    """What to put before a command line to contain it.

    `seconds` of processor time and `memory_bytes` of address space are limits; `hidden` folders look empty
    (other learners' answers), `read_only` ones cannot be changed (the course).
    """
    wish = {
        "seconds": seconds,
        "memory_bytes": memory_bytes,
        "hidden": [str(path.resolve()) for path in hidden],
        "read_only": [str(path.resolve()) for path in read_only],
    }
    return [sys.executable, "-m", "minigrad.lessons.contain", json.dumps(wish)]


@functools.cache
def contained() -> dict[str, bool]:
    """Which parts of the containment hold on this system, by trying them: limits, network, course, rights."""
    here = Path(__file__).resolve().parent
    probe = command(seconds=60, memory_bytes=8 << 30, read_only=[here])
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

    course = Path(__file__).resolve().parent
    try:
        with socket.create_connection(("192.0.2.1", 9), timeout=0.2):
            reaches = True
    except TimeoutError:
        reaches = True  # something carried the packet away: there is a network
    except OSError as error:
        reaches = "unreachable" not in str(error).lower()
    interfaces = [name for _, name in socket.if_nameindex() if name != "lo"]
    probe = course / ".probe"
    try:
        probe.touch()
        probe.unlink()
        writes = True
    except OSError:
        writes = False
    limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    capable = re.search(r"^CapEff:\s*0*[1-9a-f]", _text("/proc/self/status"), re.MULTILINE) is not None
    rights = not capable and (os.geteuid() != 0 or sys.platform == "linux")
    held = {
        "limits": limited,
        "network": not reaches and not interfaces,
        "course": not writes,
        "rights": rights,
    }
    print(json.dumps(held))


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""


def _unshare(flags: int) -> bool:
    return ctypes.CDLL(None, use_errno=True).unshare(flags) == 0


def _mount(source: str, target: str, kind: str | None, flags: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.mount(source.encode(), target.encode(), kind and kind.encode(), flags, None) == 0


def contain(wish: dict[str, object]) -> None:
    """Give up rights, network and writing, as far as the system lets a process do that to itself."""
    import resource

    user, group = os.getuid(), os.getgid()
    if sys.platform == "linux" and _unshare(NEW_MOUNTS | NEW_NETWORK | (NEW_USER if user else 0)):
        if user:
            Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
        _mount("none", "/", None, RECURSIVE | PRIVATE)
        for folder in wish["read_only"]:  # type: ignore[attr-defined]
            if _mount(folder, folder, None, BIND | RECURSIVE):
                _mount(folder, folder, None, BIND | REMOUNT | READ_ONLY)
        for folder in wish["hidden"]:  # type: ignore[attr-defined]
            _mount("none", folder, "tmpfs", READ_ONLY)
    seconds = int(float(str(wish["seconds"]))) + 1
    memory = int(str(wish["memory_bytes"]))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if user == 0:
        os.setgroups([])
        if _may_run_as_nobody():
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        else:
            _drop_capabilities()


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
