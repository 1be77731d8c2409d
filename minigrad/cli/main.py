"""The command `minigrad`: finds the subcommand, runs it, turns errors into one line and an exit code.

Each subcommand is a module of this package with two functions: `add_parser(subparsers)`, light on imports,
and `main(args) -> int`, which imports what it needs. Exit codes: 0 done; 1 it failed; 2 wrong usage;
130 interrupted.
"""

import argparse
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import minigrad
from minigrad.errors import MinigradError, UsageError

COMMANDS = (
    "train",
    "sample",
    "lessons",
    "learn",
    "check",
    "export",
    "grade",
    "site",
    "run",
    "plan",
    "doctor",
    "schedule",
    "partition",
)

DESCRIPTION = "Train transformers, on one rank or many, with an engine small enough to read."

EXAMPLES = """\
examples:
  minigrad doctor                        what is installed, what works, how to mend the rest
  minigrad train --ranks 4               train a GPT on four MPI ranks, on text that every machine has
  minigrad train --ranks 4 --threads     the same with ranks as threads: nothing to install
  minigrad sample DIR --prompt "def "    let the trained model write on
  minigrad run -n 2 my_script.py         run any script of yours on two MPI ranks
  minigrad plan --parameters 7.5e9       memory and traffic of a training, before anything runs

`minigrad COMMAND --help` explains each command. `python -m minigrad` is the same as `minigrad`.
"""


REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room on the disk"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG),
        "check the name, and what you may do there",
    ),
}
"""What helps where the system refuses a path that somebody named, or the output goes to a full disk."""


class Parser(argparse.ArgumentParser):
    """An argument parser that refuses in one line and says where the help is."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        self.exit(2, f"{self.prog}: {message} (`{self.prog} --help` explains)\n")


def build_parser(commands: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """Build the parser with the given subcommands; each one's module is imported here."""
    parser = Parser(
        prog="minigrad",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"minigrad {minigrad.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", required=True)
    for name in commands:
        importlib.import_module(f"minigrad.cli.{name}").add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with `arguments` (default: those of the process) and return its exit code."""
    if sys.stdout is None:  # whoever started us has closed it
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - for good
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not everybody's output has all the letters that we use
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Only the command that is asked for is imported, so that `doctor` runs where another command cannot.
    named = words[:1] if words and words[0] in COMMANDS else COMMANDS
    args = build_parser(named).parse_args(words)
    code = run_command(args)
    dist = sys.modules.get("minigrad.dist.prepare")
    if code and dist is not None and dist.announced() is not None:
        # One of several ranks: `dist` watches sys.exit and ends the others, which may wait for this one. The
        # caller's `sys.exit(main())` would not do: it took hold of sys.exit before `dist` was imported.
        sys.exit(code)
    return code


def run_command(args: argparse.Namespace) -> int:
    """Run the subcommand that `args` names; its errors become one line on stderr and an exit code."""
    from minigrad.allocator import keep_freed_memory

    keep_freed_memory()
    try:
        code: int = importlib.import_module(f"minigrad.cli.{args.command}").main(args)
    except UsageError as error:
        return refuse(2, args.command, str(error))
    except MinigradError as error:
        return refuse(1, args.command, str(error))
    except MemoryError as error:
        return refuse(1, args.command, f"out of memory: {error}; `minigrad plan` shows ways to need less")
    except KeyboardInterrupt:
        return refuse(130, args.command, "interrupted")
    except BrokenPipeError:  # the reader of our output, such as `head`, has what it wants
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        return refuse(2, args.command, f"{where}{error.strerror}; {REMEDIES[error.errno]}")
    return code


def refuse(code: int, command: str, message: str) -> int:
    """Print one line on stderr and return `code`."""
    print(f"minigrad {command}: {message}", file=sys.stderr, flush=True)
    return code
