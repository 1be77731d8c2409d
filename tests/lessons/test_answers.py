"""Answers that a check could misjudge: wrong ones that nearly do it, and right ones of another style."""

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from minigrad.lessons import find_lesson
from minigrad.lessons.checking import Wrong, require_close
from minigrad.lessons.mutants import Mutant, plant
from minigrad.lessons.verdict import check_each

HEADS = "return mg.reshape(mg.permute_dims(x, (0, 2, 1, 3)), (batch, time, heads * head))"
ADAM = "self.m = 0.9 * self.m + 0.1 * g\n        self.v = 0.999 * self.v + 0.001 * g * g"
HVP = "_, product = mg.jvp(mg.grad(f), x, v)\n    return product"
CUT = "np.array_split(array, world.size)"
WRONG = [
    Mutant("1.2", "exp of x alone", "Dual(power, power * self.tangent)", "Dual(power, power)"),
    Mutant(
        "1.3",
        "empties a node that passed on",
        "source.gradient += factor * node.gradient\n",
        "source.gradient += factor * node.gradient\n        node.gradient *= not node.inputs\n",
    ),
    Mutant("2.2", "a complex number", "f(complex(x, h)).imag / h", "f(complex(x, h)) / (1j * h)"),
    Mutant("2.2", "a text", "return f(complex(x, h)).imag / h", "return str(f(complex(x, h)).imag / h)"),
    Mutant(
        "2.4", "differences", HVP, "g = mg.grad(f)\n    return (g(x + 1e-5 * v) - g(x - 1e-5 * v)) / 2e-5"
    ),
    Mutant("12.2", "lets gradients go", HEADS, HEADS.replace("(x, (", "(x.detach(), (")),
    Mutant("12.2", "an array", HEADS, HEADS + ".numpy()"),
    Mutant("12.4", "lets gradients go", "(norm_1(x))", "(norm_1(x).detach())"),
    Mutant("18.1", "everything in one piece", CUT, "[array] + [array[:0]] * (world.size - 1)"),
    Mutant("18.2", "no halves", "(start + stop) // 2", "stop"),
    Mutant("18.5", "warms up too long", "if epoch < 5:", "if epoch < 6:"),
    Mutant("18.5", "a step too early", "in (30, 60, 80)", "in (29, 60, 80)"),
    Mutant("19.1", "another cotangent", "    del x\n", "    del x\n    cotangent = 1.0\n"),
    Mutant("19.2", "another cotangent", "pull(cotangent)", "pull(np.ones_like(cotangent))"),
    Mutant(
        "20.3", "spoils the shard", "np.array([np.sum(own * own)])", "np.array([np.sum(np.square(own, own))])"
    ),
    Mutant("20.5", "k is 12", "    if parameters * (4 + k)", "    k = 12\n    if parameters * (4 + k)"),
    Mutant(
        "20.5",
        "what is whole twice",
        "math.ceil(parameters * (4 + k - whole)",
        "math.ceil(parameters * (4 + k + whole)",
    ),
]
RIGHT = [
    Mutant(
        "1.4", "numbers in lists", "axis=stretched, keepdims=True)", "axis=stretched).reshape(shape).tolist()"
    ),
    Mutant("2.2", "NumPy's number", "f(complex(x, h)).imag / h", "np.imag(f(np.complex128(x + 1j * h))) / h"),
    Mutant("2.4", "two walks back", HVP, "return mg.grad(lambda x: mg.sum(mg.grad(f)(x) * v))(x)"),
    Mutant("12.1", "adds to the scores", "mg.where(hidden, -math.inf, scores)", "scores - 1e9 * hidden"),
    Mutant(
        "18.1",
        "long pieces first",
        CUT,
        "np.split(array, [-(-array.size // world.size) * k for k in range(1, world.size)])",
    ),
    Mutant("19.2", "another generator", "np.random.default_rng(0)", "np.random.Generator(np.random.PCG64())"),
    Mutant(
        "20.2",
        "in place",
        ADAM,
        "self.m *= 0.9\n        self.m += 0.1 * g\n        self.v += 0.001 * (g**2 - self.v)",
    ),
]


@cache
def judged() -> dict[Mutant, str]:
    """What becomes of each answer, judged with the others of its lesson in one process."""
    found: dict[Mutant, str] = {}
    for number in sorted({_lesson(answer) for answer in (*WRONG, *RIGHT)}):
        lesson, answers = find_lesson(number), [a for a in (*WRONG, *RIGHT) if _lesson(a) == number]
        with tempfile.TemporaryDirectory() as folder:
            planted = []
            for k, answer in enumerate(answers):
                place = Path(folder, str(k))
                place.mkdir()
                planted.append((answer.exercise, plant(lesson, answer, place)))
            verdicts = check_each(lesson, planted)
        found |= {answer: verdict.state for answer, verdict in zip(answers, verdicts, strict=True)}
    return found


def _lesson(answer: Mutant) -> int:
    return int(answer.exercise.partition(".")[0])


def _name(answer: Mutant) -> str:
    return f"{answer.exercise} {answer.mistake}"


@pytest.mark.parametrize("answer", WRONG, ids=_name)
def test_a_wrong_answer_is_refused(answer):
    assert judged()[answer] == "failed"


@pytest.mark.parametrize("answer", RIGHT, ids=_name)
def test_a_right_answer_of_another_style_passes(answer):
    assert judged()[answer] == "done"


@pytest.mark.parametrize("found", ["1.0", 1j, np.complex128(1), np.array(["1"]), [1j]])
def test_only_real_numbers_are_numbers(found):
    expected = np.ones(np.shape(found))
    with pytest.raises(Wrong, match="expected real numbers"):
        require_close(found, expected, "the number")
    for right in (expected, expected.astype("int8"), expected.astype(bool), expected.astype(object)):
        require_close(right, expected, "the number")
