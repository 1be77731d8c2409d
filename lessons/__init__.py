"""The course: one folder a lesson, in reading order, and the machinery that runs, checks and grades them.

A lesson folder holds `lesson.py` (text and running code), `exercise.py` (what a learner fills in), `check.py`
(what it must do), `solution.py` and `mutants.py` (mistakes that the checks must catch).
"""

from minigrad.lessons.catalogue import Exercise, Lesson, find_lesson, lessons
from minigrad.lessons.kit import figure, on_ranks, quick, say
from minigrad.lessons.todo import Todo

__all__ = ["Exercise", "Lesson", "Todo", "figure", "find_lesson", "lessons", "on_ranks", "quick", "say"]
