"""Lessons 21 and 22: wrong answers that once got through, or were told something misleading."""

import pytest

from minigrad.lessons import find_lesson
from minigrad.lessons.mutants import Mutant, plant
from minigrad.lessons.verdict import check_each

TOLD = {
    21: {
        Mutant("21.1", "counts bytes twice", "return moved, f", "return 2 * moved, f"): "and you say",
        Mutant(
            "21.2", "steps from 0", "        self.steps += 1\n        self.m", "        self.m"
        ): "something divides by 0",
        Mutant(
            "21.5", "drops the rest", "range(0, self.size,", "range(0, self.size - self.block,"
        ): "with gradients",
        Mutant(
            "21.5", "the state in no file", "mode=mode, shape=(size,))", "mode=mode, shape=(size,)) + 0.0"
        ): "'numpy.ndarray' object has no attribute 'flush'",
    },
    22: {
        Mutant(
            "22.1", "a rank is missing", "for _ in range(ranks)]", "for _ in range(ranks - 1)]"
        ): "your schedule has 0 rows",
        Mutant(
            "22.1", "words run together", "    return [[f", '    return [["F0 B0"]] or [[f'
        ): "a list of lists of words",
        Mutant(
            "22.5", "one stash for all", "self.stash[microbatch] = (self.weight, x)", "self.stash = (x, x)"
        ): "self.stash is a dict by microbatch",
        Mutant(
            "22.5", "never forgets", "self.stash.pop(microbatch)", "self.stash[microbatch]"
        ): "self.stash holds [0]",
        Mutant("22.6", "weights too late", "if j >= s:", "if j >= s + 1:"): "cannot run",
    },
}


@pytest.mark.parametrize("number", TOLD)
def test_a_wrong_answer_is_told_what_is_wrong(number, tmp_path):
    lesson, planted = find_lesson(number), []
    for place, mutant in enumerate(TOLD[number]):
        (tmp_path / str(place)).mkdir()
        planted.append((mutant.exercise, plant(lesson, mutant, tmp_path / str(place))))
    for (mutant, told), verdict in zip(TOLD[number].items(), check_each(lesson, planted), strict=True):
        assert told in "\n".join(finding.message for finding in verdict.findings), mutant.mistake
