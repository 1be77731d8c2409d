"""The machinery of the course: what a learner is told, what is refused, what a grader gets."""

import json
import re
from pathlib import Path

import pytest

from minigrad.cli.main import main
from minigrad.errors import UsageError
from minigrad.lessons import find_lesson, lessons
from minigrad.lessons.catalogue import read_lesson, state_of
from minigrad.lessons.contain import contained
from minigrad.lessons.mutants import Mutant, plant
from minigrad.lessons.verdict import check
from tests.lessons.small import RIGHT, small_lesson


@pytest.fixture
def lesson(tmp_path):
    return small_lesson(tmp_path)


def told(lesson, source, *, seconds=None, key=None):
    """States by exercise, and everything that the learner reads, for an answer."""
    path = lesson.folder.parent / "exercise.py"
    path.write_text(source)
    result = check(lesson, path, seconds=seconds, key=key)
    words = "\n".join(finding.message for verdict in result.verdicts for finding in verdict.findings)
    return [verdict.state for verdict in result.verdicts], words


def test_the_label_and_the_exercises_are_read_without_running_anything(lesson):
    assert (lesson.number, lesson.title, lesson.paper) == (
        1,
        "A small lesson",
        "nobody, a paper on two lines",
    )
    assert [(e.key, e.title, e.points, e.checks) for e in lesson.exercises] == [
        ("1.1", "add", 2, ("check_add",)),
        ("1.2", "double", 1, ("check_double",)),
    ]
    (lesson.folder / "lesson.py").write_text('"""A lesson.\n\nPaper: x\n"""\n')
    with pytest.raises(UsageError, match="lacks Builds, Source, Ranks, Minutes"):
        read_lesson(lesson.folder)


def test_right_answers_earn_their_points_and_stubs_are_todo(lesson):
    result = check(lesson, lesson.folder / "solution.py", guarded=False)
    assert (result.points, result.possible) == (3, 3)
    result = check(lesson, lesson.folder / "exercise.py")
    assert [verdict.state for verdict in result.verdicts] == ["todo", "todo"]
    assert result.verdicts[0].findings[0].message == "1.1: add both"
    assert result.verdicts[0].findings[0].line == 5


def test_a_wrong_answer_is_told_in_the_lessons_words_with_the_smallest_example(lesson):
    source = RIGHT.replace("x + y", "x + y + (x > 6)")
    states, words = told(lesson, source)
    assert states == ["failed", "done"]
    assert words.strip() == "the sum: expected 7, and yours is 8"
    result = check(lesson, lesson.folder.parent / "exercise.py", key="1.1")
    assert result.verdicts[0].findings[0].example == "x=7, y=0"


def test_an_error_in_the_answer_is_told_with_its_line(lesson):
    states, words = told(lesson, RIGHT.replace("return 2 * x", "return 2 // (x - x)"))
    assert states == ["done", "failed"]
    assert words.strip().startswith("exercise.py, line 6: return 2 // (x - x)")
    assert "ZeroDivisionError" in words
    assert "Traceback" not in words


def test_a_syntax_error_is_told_with_its_line(lesson):
    states, words = told(lesson, RIGHT.replace("return x + y", "return x + + ) y"))
    assert states == ["failed", "failed"]
    assert "exercise.py, line 2: unmatched ')'" in words


def test_an_endless_loop_is_told_with_its_line_and_the_others_are_checked(lesson):
    loop = "    while True:\n        x = x + 1\n"
    states, words = told(lesson, RIGHT.replace("    return x + y\n", loop), seconds=3)
    assert states == ["endless", "done"]
    assert re.search(r"no result after 3 seconds; it was in exercise.py, line [23]: ", words)


def test_an_answer_that_ends_the_process_fails(lesson):
    states, words = told(lesson, "import os\n" + RIGHT.replace("return x + y", "os._exit(0)"))
    assert states == ["failed", "done"]
    assert "the answer ended the process" in words


def test_an_answer_that_ends_the_process_while_it_is_imported_fails(lesson):
    states, words = told(lesson, "import os\nprint('out of here')\nos._exit(0)\n" + RIGHT)
    assert states == ["failed", "failed"]
    assert "the answer ended the process" in words


def test_a_missing_name_and_a_missing_result_are_told(lesson):
    assert "exercise.py has no 'double' any more" in told(lesson, RIGHT.replace("def double", "def twice"))[1]
    assert "returns None; return the result" in told(lesson, RIGHT.replace("return x + y", "x + y"))[1]
    check = lesson.folder / "check.py"
    check.write_text(check.read_text().replace("answer.double(x) ==", "answer.double(x) + 0 =="))
    words = told(lesson, RIGHT.replace("return 2 * x", "2 * x"))[1]
    assert "could not go on (it returned None somewhere; return the result)\n    TypeError" in words


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "    return x + y",
            "    import minigrad as mg\n    return mg.add(x, y).item()",
            "line 3 calls minigrad.ops",
        ),
        ("    return x + y", "    from minigrad.ops import add\n    return add(x, y)", "build that yourself"),
        (
            "def add(x, y):\n    return x + y",
            "import functools, minigrad\nadd = functools.partial(minigrad.add)",
            "add in exercise.py is minigrad.ops.elementwise.add itself",
        ),
        ("    return x + y", "    import solution\n    return x + y", "No module named 'solution'"),
        (
            "    return x + y",
            "    exec(open(SOLUTION).read())\n    return x + y",
            "not for the exercise to read",
        ),
    ],
)
def test_the_library_and_the_solution_are_no_answer(lesson, before, after, message):
    head = f"SOLUTION = {str(lesson.folder / 'solution.py')!r}\n"
    states, words = told(lesson, RIGHT.replace(before, after) + head, key="1.1")
    assert states == ["failed"]
    assert message in words


def test_a_piece_that_another_exercise_rebuilds_may_be_used(lesson):
    source = RIGHT.replace("return 2 * x", "import minigrad as mg\n    return mg.add(x, x).item()")
    assert told(lesson, source)[0] == ["done", "done"]


def test_grading_draws_the_cases_of_its_seed(lesson):
    # Wrong for one pair in two thousand: sixty cases may miss it, and a seed decides.
    path = lesson.folder.parent / "exercise.py"
    path.write_text(RIGHT.replace("x + y", "x + y + (x % 9 == 5 and y % 11 == 7)"))
    first, again = (check(lesson, path, profile="grade", seed=5).as_json() for _ in range(2))
    assert first == again
    assert first["seed"] == 5
    assert first["states"] == ["failed", "done"]
    assert re.fullmatch("[0-9a-f]{12}", first["version"])


def test_a_mutant_has_to_fit_once(lesson, tmp_path):
    planted = plant(lesson, Mutant("1.1", "subtracts", "x + y", "x - y"), tmp_path)
    assert planted.read_text() == RIGHT.replace("x + y", "x - y")
    with pytest.raises(UsageError, match="occurs 0 times"):
        plant(lesson, Mutant("1.1", "?", "x ** y", ""), tmp_path)


# ---------------------------------------------------------------------------------- the command line


def test_learn_check_and_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["check", "1"]) == 2
    assert "`minigrad learn 1` makes one" in capsys.readouterr().err
    assert main(["learn", "1"]) == 0
    assert "minigrad check 1" in capsys.readouterr().out
    assert main(["learn", "1"]) == 2
    assert "rename it" in capsys.readouterr().err
    assert main(["check", "1"]) == 1
    out = capsys.readouterr().out
    assert "0 of 10 points" in out
    assert "next: 1.1: " in out
    assert main(["lessons"]) == 0
    assert "todo" in capsys.readouterr().out
    assert main(["check", "1.4", "--subject", "solution", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["points"] == 2
    assert main(["check", "1.9"]) == 2
    assert "it has 1.1, 1.2" in capsys.readouterr().err
    assert main(["check", "one"]) == 2
    assert main(["check", "²"]) == 2
    assert main(["check", "99"]) == 2


@pytest.mark.parametrize(
    ("kept", "state"),
    [
        ('{"states": ["done", "done"]}', "done"),
        ('{"states": ["done", "todo"]}', "todo"),
        ('{"states": ["todo", "failed"]}', "failed"),
        ('{"states": ["done", "endless"]}', "failed"),
        ('{"states": ["broken", "todo"]}', "failed"),
        ("[1]", "new"),
        ('{"states": 1}', "new"),
        ("", "new"),
    ],
)
def test_the_state_of_a_lesson_is_what_its_latest_check_found(tmp_path, kept, state):
    (tmp_path / ".checked.json").write_text(kept)
    assert state_of(tmp_path) == state


def test_export_holds_no_solution(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--student", "course"]) == 0
    names = {path.name for path in Path("course").rglob("*.py")}
    assert names == {"lesson.py", "exercise.py", "check.py"}
    assert len(list(Path("course").iterdir())) == len(lessons())
    assert main(["export", "--student", "course"]) == 2


SNOOP = """
import os, socket
from pathlib import Path

def add(x, y):
    found = []
    try:
        socket.create_connection(("192.0.2.1", 9), timeout=0.5)
        found.append("network")
    except OSError as error:
        if "unreachable" not in str(error).lower():
            found.append("network")
    if list(Path(SUBMISSIONS).glob("*")):
        found.append("others")
    for folder in (HOME, OWN):  # OWN may be written by the very user who runs this
        try:
            (Path(folder) / "planted.py").write_text("")
            found.append(folder)
        except OSError:
            pass
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "61.2345"])  # a process that would outlive its check
    raise RuntimeError(f"reached {found}")
"""


@pytest.mark.skipif(not all(contained().values()), reason="this system does not offer containment")
def test_graded_answers_are_contained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first = find_lesson(1)
    for who, source in (("ann", (first.folder / "solution.py").read_text()), ("=bob", SNOOP)):
        (tmp_path / "all" / who / first.name).mkdir(parents=True)
        head = f"SUBMISSIONS = {str(tmp_path / 'all')!r}\nHOME = {str(first.folder.parent)!r}\n"
        head += f"OWN = {str(tmp_path)!r}\n"
        text = head + source.replace("def add", "def sum_over_paths").replace("x, y)", "a, b, c)", 1)
        (tmp_path / "all" / who / first.name / "exercise.py").write_text(text if who == "=bob" else source)
    assert main(["grade", "all", "--lessons", "1", "--quick", "--seed", "3"]) == 0
    assert "not contained" not in capsys.readouterr().out
    rows = Path("grades.csv").read_text().splitlines()
    assert rows[1].startswith("'=bob,01_graphs,0,10,")
    assert rows[2].startswith("ann,01_graphs,10,10,")
    grades = json.loads(Path("grades.json").read_text())
    messages = json.dumps(grades["grades"][0])
    assert "reached []" in messages
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(b"61.2345" in words for words in running)


def test_an_empty_or_missing_folder_is_refused(tmp_path, capsys):
    assert main(["grade", str(tmp_path / "none")]) == 2
    assert main(["grade", str(tmp_path)]) == 2
    assert "no folder in" in capsys.readouterr().err


@pytest.mark.parametrize("memory", ["0", "-1", "1", "nan", "inf"])
def test_memory_in_which_no_answer_can_run_is_refused(tmp_path, capsys, memory):
    assert main(["grade", str(tmp_path), f"--memory={memory}"]) == 2
    assert f"--memory {memory}: eight ranks of a right answer need 2 GB" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch, capsys):
    def refusing(*arguments, **options):
        raise OSError(30, "Read-only file system")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "all" / "ann" / "01_graphs").mkdir(parents=True)
    (tmp_path / "all" / "ann" / "01_graphs" / "exercise.py").write_text(RIGHT)
    monkeypatch.setattr("tempfile.TemporaryFile", refusing)
    assert main(["grade", "all"]) == 2
    assert "cannot write into .: Read-only file system" in capsys.readouterr().err
    monkeypatch.setattr("shutil.copyfile", refusing)
    assert main(["learn", "1"]) == 2
    assert "could not make 01_graphs/ in" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["all"]


def test_a_judge_that_cannot_begin_is_no_answers_fault(lesson):
    from minigrad.lessons.mutants import controls_of

    result = check(
        lesson,
        lesson.folder / "exercise.py",
        command=["sh", "-c", "echo no memory >&2"],
        controls=controls_of(lesson),
    )
    assert {verdict.state for verdict in result.verdicts} == {"broken"}
    assert result.verdicts[0].findings[0].message == "no memory"


def test_memory_and_time_are_limited(lesson):
    from minigrad.lessons.contain import command

    if not contained()["limits"]:
        pytest.skip("this system does not limit processes")
    path = lesson.folder.parent / "exercise.py"
    path.write_text(RIGHT.replace("return 2 * x", "return len(bytearray(6 << 30)) * x"))
    folder = path.parent / "scratch"
    folder.mkdir(mode=0o777)
    prefix = command(seconds=60, memory_bytes=4 << 30, writable=[folder])
    result = check(lesson, path, command=prefix, scratch=folder)
    assert [verdict.state for verdict in result.verdicts] == ["done", "failed"]
    assert "MemoryError" in result.verdicts[1].findings[0].message
