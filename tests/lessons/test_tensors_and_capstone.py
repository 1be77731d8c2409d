"""Lessons 23 and 28: on other numbers of processes, and what wrong answers are told."""

import os
import subprocess
import sys

import pytest

from minigrad.lessons import find_lesson
from minigrad.lessons.mutants import Mutant, plant
from minigrad.lessons.verdict import check_each
from tests.packaging.tree import ROOT


@pytest.mark.parametrize(("number", "ranks"), [(23, 3), (28, 3), (28, 8)])
def test_other_numbers_of_processes_find_the_same(number, ranks, mpirun, monkeypatch, tmp_path):
    """`minigrad learn 28` offers eight."""
    script = str(find_lesson(number).folder / "lesson.py")
    for name, value in (
        ("MINIGRAD_QUICK", "1"),
        ("PYTHONPATH", str(ROOT)),
        ("MINIGRAD_FIGURES", str(tmp_path)),
    ):
        monkeypatch.setenv(name, value)
    alone = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, check=True, env=os.environ
    )
    done = mpirun([script], ranks=ranks, seconds=120)
    assert done.returncode == 0, done.stderr
    different = set(done.stdout.splitlines()) ^ set(alone.stdout.splitlines())
    assert all(line.startswith("data ") and line.endswith("equal to 1e-9: True") for line in different)


TOLD = {
    23: {
        Mutant("23.1", "no sum", "        world.all_reduce(of_x)\n", ""): "the part of one rank's columns",
        Mutant(
            "23.1", "bias on every rank", "    z = y @ b\n", "    z = y @ b + bias\n    bias = 0 * bias\n"
        ): "add it after the sum",
        Mutant(
            "23.1", "sums bias", "cotangent.sum(axis=0)", "world.size * cotangent.sum(axis=0)"
        ): "times too much",
        Mutant(
            "23.3", "own largest", '    world.all_reduce(top, operation="max")\n', ""
        ): "its own largest logit",
        Mutant(
            "23.3", "the mean", "return np.log", "gradient /= len(rows)\n    return np.log"
        ): "the losses' sum",
        Mutant(
            "23.3", "probabilities", "    gradient[rows, places] -= mine\n", ""
        ): "These are probabilities",
        Mutant("23.3", "no target", "return np.log(both[0]) - both[1]", "return np.log(both[0])"): "alone",
        Mutant("23.5", "sees the future", "np.where(later, -np.inf, scores)", "scores"): "tokens after them",
        Mutant("23.5", "unscaled", "self.k.T / np.sqrt(q.shape[1])", "self.k.T"): "divided by sqrt(d)",
        Mutant("23.5", "unscaled back", "        of_scores /= np.sqrt(q.shape[1])\n", ""): "the way back",
        Mutant(
            "23.5", "forgets", "        self.of_k[:stop] +=", "        self.of_k[:stop] ="
        ): "later slices send is",
    },
    28: {
        Mutant(
            "28.1", "turned", "return data, pipeline, tensor", "return tensor, pipeline, data"
        ): "stands at",
        Mutant("28.2", "whole words", "run.words // t * h", "run.words * h"): "Words are cut",
        Mutant(
            "28.2", "cut places", "first * run.context * h", "first * run.context * h // t"
        ): "Places are whole",
        Mutant("28.4", "half of ring", "8 * 2 * (d - 1)", "8 * (d - 1)"): "and an all-gather",
        Mutant("28.4", "no loss", "* run.width + 3", "* run.width"): "three numbers a token are missing",
        Mutant("28.4", "no output", "4 * run.layers + 2", "4 * run.layers + 1"): "and the output another one",
        Mutant("28.4", "one copy", "run.words * run.width * d", "run.words * run.width"): "d times",
    },
}


@pytest.mark.parametrize("number", TOLD)
def test_a_wrong_answer_is_told_what_is_wrong(number, tmp_path):
    lesson, planted = find_lesson(number), []
    for place, mutant in enumerate(TOLD[number]):
        (tmp_path / str(place)).mkdir()
        planted.append((mutant.exercise, plant(lesson, mutant, tmp_path / str(place))))
    for (mutant, told), verdict in zip(TOLD[number].items(), check_each(lesson, planted), strict=True):
        assert verdict.state == "failed"
        assert told in "\n".join(finding.message for finding in verdict.findings), mutant.mistake
