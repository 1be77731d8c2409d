"""The process in which answers are checked: pytest over one `check.py` and one answer, told in JSON lines.

    python -m minigrad.lessons.judge '[{"check": ..., "subject": ..., ...}, ...]'

What a check found is a line on standard output at once: a line in a pipe cannot be taken back, whatever the
answer does later, and whatever ends this process (an endless loop, a crash) what came before is known. The
findings are told in words for learners: no frames of pytest or minigrad.
"""

import errno
import faulthandler
import functools
import importlib.util
import json
import linecache
import os
import re
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import StopTest, UnsatisfiedAssumption

from minigrad.errors import MinigradError
from minigrad.lessons.guard import Forbidden, Guard, close_solutions
from minigrad.lessons.todo import Todo

EXAMPLES = {"check": 60, "grade": 600}
ENDLESS = 3  # the exit code of a process whose check did not come back
SKIPPED = "the answer skips cases of its check"
WORDS = 2000  # of one message at most
FILE_BYTES = 64 << 20  # of one file that an answer writes, what it prints included
TOO_MUCH = f"prints or writes more than {FILE_BYTES >> 20} MB"


@dataclass(frozen=True)
class Task:
    """What to check: the lesson's `check.py`, the file under test, names of checks (none: all), and how.

    `seed` None draws the same examples every time; `seconds` is the limit of one check; `guarded` refuses the
    library pieces that the exercises rebuild, and the solution. After a `controlled` task this process says
    `ready` and judges the controls, of which it is then told on standard input.
    """

    check: str
    subject: str
    checks: tuple[str, ...] = ()
    profile: str = "check"
    seed: int | None = None
    seconds: float = 30.0
    guarded: bool = True
    controlled: bool = False
    control: bool = False


@dataclass(frozen=True)
class Finding:
    """What one check found. `state`: started; then done, todo, failed, endless, or broken (the check is).

    Without a check: `started` (the answer is being imported), `ready` for controls, and `over`, after which
    this process says nothing more.
    """

    check: str
    state: str
    message: str = ""
    example: str = ""
    line: int = 0


class Judge:
    """A pytest plugin that imports the answer, watches the clock and the guard, and writes the findings."""

    def __init__(self, task: Task, write: Callable[[Finding], None]) -> None:
        self.task, self.write = task, write
        self.subject = Path(task.subject).resolve()
        self.guard = Guard(self.subject)
        self.module: types.ModuleType | None = None

    # ------------------------------------------------------------------------------ pytest's hooks

    def pytest_configure(self, config: pytest.Config) -> None:
        config.addinivalue_line(
            "markers", "exercise(key, title, points, rebuilds): what a check decides about"
        )

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self.task.checks:
            items[:] = [item for item in items if item.name in self.task.checks]
        if self.task.control:
            for item in items:
                as_tested(item, self.task.profile)
        if self.task.guarded:
            self.guard.watch(piece for item in items for piece in rebuilds(item))
            close_solutions()
        problem = self.import_subject()
        if problem is not None:  # the same for every check
            for item in items:
                self.write(replace(problem, check=item.name))
            items.clear()

    @pytest.fixture(scope="session")
    def answer(self) -> types.ModuleType:
        """The learner's module."""
        assert self.module is not None
        return self.module

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Iterator[None]:
        self.write(Finding(pyfuncitem.name, "started"))
        with self.limited(pyfuncitem.name), self.guard.refusing(self.refused(pyfuncitem)):
            for name, value in list(vars(self.module).items()):
                self.guard.check_answer(name, value)
            self.keep_cases(pyfuncitem.obj)
            return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.rpartition("::")[2]
        if report.when == "call" and report.passed:
            self.write(Finding(name, "done"))
        elif report.skipped:
            self.write(Finding(name, "failed", SKIPPED))

    def pytest_exception_interact(self, node: Any, call: Any) -> None:
        if isinstance(node, pytest.Item):
            self.write(self.finding(node.name, call.excinfo.value))
        else:  # check.py itself cannot be read
            self.write(Finding("", "broken", "".join(traceback.format_exception(call.excinfo.value))))

    # ------------------------------------------------------------------------------ the answer

    def keep_cases(self, check: Any) -> None:
        """Let no answer leave out the cases that it gets wrong, as a check may with cases of its own."""
        inner = getattr(getattr(check, "hypothesis", None), "inner_test", None)
        if inner is None:
            return

        @functools.wraps(inner)
        def kept(*arguments: Any, **options: Any) -> None:
            try:
                inner(*arguments, **options)
            except (UnsatisfiedAssumption, StopTest) as error:
                if self.line_of(error):
                    raise Forbidden(SKIPPED) from None
                raise

        check.hypothesis.inner_test = kept

    def refused(self, item: pytest.Item) -> tuple[str, ...]:
        """The pieces of the library that this check refuses to the answer."""
        return rebuilds(item) if self.task.guarded else ()

    def import_subject(self) -> Finding | None:
        """Import the answer; what keeps it from being imported, if anything does."""
        name = "the_answer"
        spec = importlib.util.spec_from_file_location(name, self.subject)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        self.write(Finding("", "started"))
        try:
            with self.limited(""):
                spec.loader.exec_module(module)
        except (SyntaxError, ValueError) as error:
            if self.line_of(error):
                return self.finding("", error)
            if not isinstance(error, SyntaxError) or error.lineno is None:
                return Finding("", "failed", f"{self.subject.name} is no text of Python: {error}")
            where = f"{self.subject.name}, line {error.lineno}"
            source = (error.text or "").rstrip()
            mark = " " * max((error.offset or 1) - 1, 0) + "^"
            return Finding(
                "", "failed", f"{where}: {error.msg}\n    {source}\n    {mark}", line=error.lineno or 0
            )
        except BaseException as error:
            return self.finding("", error)
        self.module = module
        return None

    def finding(self, check: str, error: BaseException) -> Finding:
        """A failure, in words for the learner."""
        chain = [error]
        while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
            chain.append(cause)
        example = smallest_example(error)
        if type(error).__name__.startswith("Flaky") and hasattr(error, "exceptions"):
            found = self.finding(check, error.exceptions[0])
            words = f"{found.message}\n(not the same each time: something in it is random, or never set)"
            return replace(found, message=words, example=found.example or example)
        for one in chain:
            if isinstance(one, Todo):
                return Finding(check, "todo", str(one), line=self.line_of(one))
            if isinstance(one, Forbidden):
                return Finding(check, "failed", str(one))
        line = self.line_of(error)
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            return Finding(check, "failed", f"{self.subject.name} {TOO_MUCH}", line=line)
        if isinstance(error, AssertionError):
            return Finding(check, "failed", str(error), example, line)
        if line:
            source = linecache.getline(str(self.subject), line).strip()
            said = f"{type(error).__name__}: {error}"
            message = f"{self.subject.name}, line {line}: {source}\n    {said}"
            return Finding(check, "failed", message, example, line)
        if isinstance(error, MinigradError):  # such as a deadlock, which no single line of the answer raised
            return Finding(check, "failed", str(error), example)
        if isinstance(error, AttributeError) and "the_answer" in str(error):
            missing = str(error).rpartition("attribute ")[2]
            return Finding(check, "failed", f"{self.subject.name} has no {missing} any more; keep its name")
        said = f"{type(error).__name__}: {error}"
        none = " (it returned None somewhere; return the result)" * ("'NoneType'" in said)
        message = f"with what your code returned the check could not go on{none}\n    {said}"
        return Finding(check, "failed", message, example)

    def line_of(self, error: BaseException) -> int:
        """The innermost line of the answer that an exception went through; 0 for none."""
        lines = [
            f.lineno or 0
            for f in traceback.extract_tb(error.__traceback__)
            if f.filename == str(self.subject)
        ]
        return lines[-1] if lines else 0

    # ------------------------------------------------------------------------------ time and words

    @contextmanager
    def limited(self, check: str) -> Iterator[None]:
        """Give up when the block takes longer than a check may."""
        alarm = threading.Timer(self.task.seconds, self.give_up, [check])
        alarm.daemon = True
        alarm.start()
        try:
            yield
        finally:
            alarm.cancel()

    def give_up(self, check: str) -> None:
        """The check does not come back: find out where the answer is, write it, and end this process."""
        line = 0
        for frame in sys._current_frames().values():
            current: types.FrameType | None = frame
            while current is not None and not line:
                line = current.f_lineno if current.f_code.co_filename == str(self.subject) else 0
                current = current.f_back
        if line:
            source = linecache.getline(str(self.subject), line).strip()
            where = f"it was in {self.subject.name}, line {line}: {source}"
        else:
            where = "it was not in your file at that moment: too much work, or ranks that wait for each other"
        message = f"no result after {self.task.seconds:g} seconds; {where}"
        self.write(Finding(check, "endless", message, line=line))
        os._exit(ENDLESS)


def rebuilds(item: pytest.Item) -> tuple[str, ...]:
    """The pieces of the library that the answer to this check's exercise may not use."""
    return tuple(piece for mark in item.iter_markers("exercise") for piece in mark.kwargs["rebuilds"])


def as_tested(item: pytest.Item, profile: str) -> None:
    """Let a control meet the very cases in which the course's own tests see each mistake caught.

    The check's module stays as the answer left it, so that its settings have to be changed where they are.
    """
    check = getattr(item, "obj", None)
    usual = getattr(check, "_hypothesis_internal_use_settings", None)
    if usual is not None and Phase.shrink in usual.phases:
        examples = max(1, usual.max_examples * EXAMPLES["check"] // EXAMPLES[profile])
        phases = (Phase.explicit, Phase.generate)
        vars(check)["_hypothesis_internal_use_settings"] = settings(
            usual, max_examples=examples, derandomize=True, phases=phases
        )


def smallest_example(error: BaseException) -> str:
    """The arguments with which Hypothesis saw the check fail, shortened as far as it could."""
    for note in getattr(error, "__notes__", []):
        found = re.match(r"(?:Falsifying example|Failing test case): \w+\((.*)\)\s*$", note, re.DOTALL)
        if found:
            lines = [line.strip().rstrip(",") for line in found[1].strip().splitlines()]
            shown = [
                line.partition("#")[0].rstrip(" ,")
                for line in lines
                if not line.startswith(("answer=", "seed=", "#"))
            ]
            return ", ".join(line for line in shown if line)
    return ""


def main() -> None:
    """Run the tasks named on the command line, and the controls that follow a controlled one."""
    faulthandler.enable()
    limit_files()
    channel = os.dup(1)
    os.dup2(2, 1)  # what else is printed here is no finding

    def told(number: int) -> Callable[[Finding], None]:
        def write(finding: Finding) -> None:
            short = replace(finding, message=finding.message[:WORDS], example=finding.example[:WORDS])
            os.write(channel, (json.dumps({"task": number, **asdict(short)}) + "\n").encode())

        return write

    tasks = [Task(**{**words, "checks": tuple(words["checks"])}) for words in json.loads(sys.argv[1])]
    if len(tasks) > 1:  # each in a child that finds everything imported
        for number, task in enumerate(tasks):
            child = os.fork()
            if not child:
                run(task, told(number))
                os._exit(0)
            os.waitpid(child, 0)
    else:
        run(tasks[0], told(0))
    if tasks[0].controlled:
        told(0)(Finding("", "ready"))
        for number, control in enumerate(json.loads(sys.stdin.readline()), 1):
            folder = Path(tempfile.mkdtemp())
            Path(folder, "exercise.py").write_text(control["source"], encoding="utf-8")
            task = replace(
                tasks[0],
                subject=str(folder / "exercise.py"),
                checks=tuple(control["checks"]),
                control=True,
                guarded=False,
            )
            run(task, told(number))
    told(0)(Finding("", "over"))
    os._exit(0)  # whatever the answer left behind does not go on


def limit_files() -> None:
    """Bound what an answer can print or write, where the system offers that."""
    try:
        import resource
    except ImportError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = FILE_BYTES if most == resource.RLIM_INFINITY else min(FILE_BYTES, most)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))


def run(task: Task, write: Callable[[Finding], None]) -> None:
    """Run one task in this process."""
    settings.register_profile(
        task.profile,
        max_examples=EXAMPLES[task.profile],
        derandomize=task.seed is None,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile(task.profile)
    folder = Path(task.check).parent
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:doctest", "--import-mode=importlib", "--noconftest"]
    options += ["-c", os.devnull, "--rootdir", str(folder), "-o", "python_functions=check_*"]
    options += ["--show-capture=no"]
    options += [] if task.seed is None else [f"--hypothesis-seed={task.seed}"]
    pytest.main([*options, task.check], plugins=[Judge(task, write)])


if __name__ == "__main__":
    main()
