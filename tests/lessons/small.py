"""A small lesson for tests of the machinery: two exercises, their solution, and a mistake for each."""

from pathlib import Path

from minigrad.lessons import Lesson
from minigrad.lessons.catalogue import read_lesson

LESSON = '''"""A small lesson.

Paper: nobody, a paper
    on two lines
Builds: a sum
Source: minigrad/walk.py, minigrad/graph.py
Ranks: 1
Minutes: 5
"""
'''
CHECK = '''"""What the answers must do."""

from hypothesis import given
from hypothesis import strategies as st

from minigrad.lessons.checking import exercise, require, require_close


@exercise("1.1", "add", points=2, rebuilds=["minigrad.ops.elementwise.add", "minigrad.derivatives.grad"])
@given(x=st.integers(0, 99), y=st.integers(0, 99))
def check_add(answer, x, y):
    require_close(answer.add(x, y), x + y, "the sum")


@exercise("1.2", "double", points=1)
@given(x=st.integers(0, 99))
def check_double(answer, x):
    require(answer.double(x) == 2 * x, f"twice {x} is {2 * x}")
'''
STUBS = """from minigrad.lessons import Todo


def add(x, y):
    raise Todo("1.1: add both")


def double(x):
    raise Todo("1.2: double it")
"""
RIGHT = "def add(x, y):\n    return x + y\n\n\ndef double(x):\n    return 2 * x\n"
WRONG = "def add(x, y):\n    return 7.0\n\n\ndef double(x):\n    return 7.0\n"
MUTANTS = """from minigrad.lessons.mutants import Mutant

MUTANTS = [Mutant("1.1", "subtracts", "x + y", "x - y"), Mutant("1.2", "thrice", "2 * x", "3 * x")]
"""


def small_lesson(home: Path) -> Lesson:
    """Write the lesson into a folder and read it."""
    folder = home / "01_small"
    folder.mkdir()
    files = {"lesson": LESSON, "check": CHECK, "exercise": STUBS, "solution": RIGHT, "mutants": MUTANTS}
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return read_lesson(folder)
