"""The process in which answers are checked: pytest over one `check.py` and one answer, told in JSON lines.

    python -m minigrad.lessons.judge '{"check": ..., "subject": ..., ...}'    (or a list of these)

Every finished check appends a line to the file `out`, so that whatever ends this process (an endless loop, a
crash) what came before is known. The lines are told in words for learners: no frames of pytest or minigrad.
"""

import faulthandler
import importlib.util
import json
import linecache
import os
import re
import sys
import threading
import traceback
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from minigrad.errors import MinigradError
from minigrad.lessons.guard import Forbidden, Guard, close_solutions
from minigrad.lessons.todo import Todo

EXAMPLES = {"check": 60, "grade": 600}
ENDLESS = 3  # the exit code of a process whose check did not come back


@dataclass(frozen=True)
class Task:
    """What to check: the lesson's `check.py`, the file under test, names of checks (none: all), and how.

    `seed` None draws the same examples every time; `seconds` is the limit of one check; `guarded` refuses the
    library pieces that the exercises rebuild, and the solution.
    """

    check: str
    subject: str
    out: str
    checks: tuple[str, ...] = ()
    profile: str = "check"
    seed: int | None = None
    seconds: float = 30.0
    guarded: bool = True


@dataclass(frozen=True)
class Finding:
    """What one check found. `state`: started; then done, todo, failed, endless, or broken (the check is)."""

    check: str
    state: str
    message: str = ""
    example: str = ""
    line: int = 0


class Judge:
    """A pytest plugin that imports the answer, watches the clock and the guard, and writes the findings."""

    def __init__(self, task: Task) -> None:
        self.task = task
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
            return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.write(Finding(report.nodeid.rpartition("::")[2], "done"))

    def pytest_exception_interact(self, node: Any, call: Any) -> None:
        if isinstance(node, pytest.Item):
            self.write(self.finding(node.name, call.excinfo.value))
        else:  # check.py itself cannot be read
            self.write(Finding("", "broken", "".join(traceback.format_exception(call.excinfo.value))))

    # ------------------------------------------------------------------------------ the answer

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
        try:
            with self.limited(""):
                spec.loader.exec_module(module)
        except SyntaxError as error:
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
        return Finding(
            check, "failed", f"with what your code returned the check could not go on\n    {said}", example
        )

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

    def write(self, finding: Finding) -> None:
        with open(self.task.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(finding)) + "\n")


def rebuilds(item: pytest.Item) -> tuple[str, ...]:
    """The pieces of the library that the answer to this check's exercise may not use."""
    return tuple(piece for mark in item.iter_markers("exercise") for piece in mark.kwargs["rebuilds"])


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


def main() -> int:
    """Run the task, or the list of tasks, named on the command line."""
    faulthandler.enable()
    words = json.loads(sys.argv[1])
    if isinstance(words, dict):
        return run(words)
    for one in words:  # several tasks, each in a child that finds everything imported
        child = os.fork()
        if not child:
            os._exit(run(one))
        os.waitpid(child, 0)
    return 0


def run(words: dict[str, Any]) -> int:
    """Run one task in this process."""
    task = Task(**{**words, "checks": tuple(words.get("checks", ()))})
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
    options += [] if task.seed is None else [f"--hypothesis-seed={task.seed}"]
    return int(pytest.main([*options, task.check], plugins=[Judge(task)]))


if __name__ == "__main__":
    sys.exit(main())
