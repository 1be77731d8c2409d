"""Answers that attack their judge: each is found out by the controls, or has a text that says so, or both."""

import pytest

from minigrad.lessons import lessons
from minigrad.lessons.mutants import Control, controls_of
from minigrad.lessons.reach import reaches
from minigrad.lessons.verdict import check
from tests.lessons.small import RIGHT, WRONG, small_lesson

SAY = """
import json, os, sys
CHECKS = ("check_add", "check_double")
def say(check, state, task=0):
    for number in range(1, 30):
        try:
            os.write(number, (json.dumps({"task": task, "check": check, "state": state}) + "\\n").encode())
        except OSError:
            pass
"""
FORGED = {
    "says that all is done, and ends": "for c in CHECKS: say(c, 'done')\nsay('', 'over')\nos._exit(0)",
    "says that the controls failed, too": (
        "for task in range(5):\n    for c in CHECKS: say(c, 'failed' if task else 'done', task)\n"
        "say('', 'over')\nos._exit(0)"
    ),
    "says done and becomes another program": (
        "for c in CHECKS: say(c, 'done')\nos.execv(sys.executable, [sys.executable, '-c', ''])"
    ),
    "takes out what compares": (
        "for module in list(sys.modules.values()):\n    for name in ('require', 'require_close'):\n"
        "        if hasattr(module, name): setattr(module, name, lambda *a, **k: None)"
    ),
    "changes how findings are worded": (
        "judge = sys.modules['__main__']\n"
        "judge.Judge.finding = lambda self, check, error: judge.Finding(check, 'done')"
    ),
    "finds the judge itself": (
        "import gc\njudge = sys.modules['__main__']\n"
        "own, = [one for one in gc.get_objects() if isinstance(one, judge.Judge)]\n"
        "told = own.write\nown.write = lambda finding: told(judge.Finding(finding.check, 'done'))\n"
        "judge.Judge.__init__ = lambda self, *a: vars(self).update(vars(own))"
    ),
    "changes pytest": "import _pytest.python as p\np.Function.runtest = lambda self: None",
    "changes Hypothesis": (
        "import hypothesis.core as h\nh.StateForActualGivenExecution.run_engine = lambda self: None"
    ),
    "changes NumPy": "import numpy\nnumpy.any = lambda *a, **k: False",
}
REFUSED = {  # by the judge itself
    "leaves out the cases that it gets wrong": "import hypothesis\nhypothesis.assume(x == 7)",
    "skips its check": "import pytest\npytest.skip()",
    "says it is done at exit": (
        "import atexit\nexec(SAY)\natexit.register(lambda: [say(c, 'done') for c in CHECKS])"
    ),
    "goes on saying that it is done": (
        "import threading\nexec(SAY)\n"
        "threading.Thread(target=lambda: [say(c, 'done') for _ in iter(int, 1) for c in CHECKS]).start()"
    ),
    "leaves a child that keeps the pipe open": (
        "import os, time\nif not os.fork():\n    os.setsid()\n    time.sleep(9)\n    os._exit(0)"
    ),
}
# What runs beside the judge can imitate right answers; only their texts tell.
TOLD_BY_TEXT = {
    "looks up what is expected": RIGHT.replace(
        "return 2 * x", "import sys\n    return 2 * sys._getframe(1).f_locals['x']"
    ),
    "equals everything": RIGHT.replace(
        "return 2 * x", "return type('Yes', (), {'__eq__': lambda *a: True})()"
    ),
    "changes the judge for itself alone": (
        "import sys\nMINE = 1\nfor module in list(sys.modules.values()):\n"
        "    for name in ('require', 'require_close'):\n"
        "        def calm(*words, old=getattr(module, name, None), **more):\n"
        "            return None if 'MINE' in vars(sys.modules['the_answer']) else old(*words, **more)\n"
        "        if hasattr(module, name): setattr(module, name, calm)\n" + WRONG
    ),
}


@pytest.fixture
def lesson(tmp_path):
    return small_lesson(tmp_path)


def states(lesson, source):
    """What a graded answer comes to."""
    path = lesson.folder.parent / "exercise.py"
    path.write_text(source)
    result = check(lesson, path, controls=controls_of(lesson))
    return {verdict.state for verdict in result.verdicts}, result.points


@pytest.mark.parametrize("attack", FORGED.values(), ids=FORGED)
def test_a_judge_that_was_changed_is_found_out(lesson, attack):
    source = WRONG + SAY + attack
    assert states(lesson, source) == ({"tampered"}, 0)
    assert reaches(source.encode(), lesson)


@pytest.mark.parametrize("attack", REFUSED.values(), ids=REFUSED)
def test_what_is_said_too_much_or_left_out_earns_nothing(lesson, attack):
    line = attack.replace("exec(SAY)", f"exec({SAY!r}, globals())").replace("\n", "\n    ")
    source = WRONG.replace("    return 7.0", f"    {line}\n    return 7.0")
    assert states(lesson, source) == ({"failed"}, 0)
    assert reaches(source.encode(), lesson)


@pytest.mark.parametrize("source", TOLD_BY_TEXT.values(), ids=TOLD_BY_TEXT)
def test_what_only_the_text_can_tell(lesson, source):
    assert states(lesson, source) == ({"done"}, 3)
    assert reaches(source.encode(), lesson)


def test_right_answers_stand_and_an_endless_one_costs_only_itself(lesson):
    assert states(lesson, RIGHT) == ({"done"}, 3)
    path = lesson.folder.parent / "exercise.py"
    path.write_text(RIGHT.replace("return x + y", "while True: pass"))
    result = check(lesson, path, controls=controls_of(lesson), seconds=2)
    assert [verdict.state for verdict in result.verdicts] == ["endless", "done"]


def test_a_judge_that_fails_everything_is_found_out_too(lesson):
    path = lesson.folder.parent / "exercise.py"
    path.write_text(RIGHT)
    checks = lesson.exercises[0].checks
    result = check(lesson, path, controls=[Control("1.1", checks, WRONG, right=True)])
    assert {verdict.state for verdict in result.verdicts} == {"tampered"}
    assert "a right answer to 1.1 did not pass" in result.verdicts[0].findings[0].message


# ------------------------------------------------------------------------------------ what a text reaches for


@pytest.mark.parametrize("lesson", lessons(), ids=lambda lesson: lesson.name)
def test_solutions_and_stubs_reach_for_nothing(lesson):
    for name in ("solution.py", "exercise.py"):
        assert reaches((lesson.folder / name).read_bytes(), lesson) == []


@pytest.mark.parametrize(
    ("source", "beyond"),
    [
        ("import sys", "line 1: sys"),
        ("import os.path as p", "line 1: os.path"),
        ("def f():\n    from minigrad.lessons import judge", "line 2: minigrad.lessons.judge"),
        ("from numpy.ma.core import builtins", "line 1: numpy.ma.core.builtins"),
        ("import numpy as np\nx = np.ma.core.builtins", "line 2: .builtins"),
        ("import numpy as np\nn = np\nn.sum = 3", "line 2: np, handed on"),
        ("import minigrad as mg\nT = [mg.Tensor][0]\nT.sum = 3", "line 2: .Tensor, handed on"),
        ("from minigrad import Tensor as T\nT.sum = 3", "line 2: T, handed on"),
        ("f'{eval(1)}'", "line 1: eval"),
        ("def f(x):\n    return x.__class__", "line 2: .__class__"),
        ("def f(self):\n    return self._mailbox", "line 2: ._mailbox"),
        ("g = (1 for _ in [1])\ng.gi_frame", "line 2: .gi_frame"),
        ("'{0.gi_frame}'.format(1)", "line 1: .format"),
        ("try: pass\nexcept Exception as e: e.tb_frame", "line 2: .tb_frame"),
        ("def f(w):\n    match w:\n        case object(f_back=x): return x", "line 3: .f_back"),
        ("class F(float):\n    def __sub__(self, o): return 0.0", "line 1: class F(float)"),
        ("class A:\n    def __eq__(self, o): return True", "line 2: __eq__"),
        ("class A:\n    __array__ = None", "line 2: __array__"),
        ("class A(metaclass=B): pass", "line 1: metaclass="),
        ("def isinstance(a, b): pass", "line 1: isinstance"),
        ("def f(world):\n    world.ledger.clear()", "line 2: .ledger"),
        ("from pathlib import Path\nPath('x').write_text('')", "line 2: .write_text"),
        ("print(__builtins__)", "line 1: __builtins__"),
        ("(" * 5000, "the file cannot be read"),
        ("\0", "the file cannot be read"),
    ],
)
def test_what_reaches_beyond_an_exercise_is_listed(source, beyond):
    assert beyond in reaches(source.encode(), lessons()[0])


def test_ordinary_python_is_not_listed():
    source = """
import functools
import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
import numpy as np
import minigrad as mg
from minigrad import dist, nn
import minigrad.nn.functional as F

@dataclass
class Node:
    value: float
    parents: list["Node"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.size = self._count = 0

    @property
    def twice(self) -> float:
        return 2 * self.value + self._count

@functools.cache
def f(x: mg.Tensor | None, world: dist.World, g: Callable[[mg.Tensor], mg.Tensor]) -> Iterator[np.ndarray]:
    if not isinstance(x, (mg.Tensor, float)):
        raise TypeError(f"not {type(x).__name__}")
    rows = defaultdict(list)
    rows[0].append(np.linalg.norm(np.asarray(x.numpy(), dtype=np.float64)))
    node = Node(1.0)
    node.value += F.relu(x).sum().item() + float(np.random.default_rng(0).normal())
    for a, b in itertools.pairwise(deque([1, 2])):
        with mg.no_grad():
            yield nn.Linear(a, b)(x).numpy()[..., None] @ np.eye(world.size)

if __name__ == "__main__":
    print(sorted({1: 2}.items(), key=lambda pair: -pair[1]))
"""
    assert reaches(source.encode(), lessons()[0]) == []
