"""Building the site: every lesson is run and becomes a page that needs no network to be read."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import minigrad
from minigrad.errors import UsageError
from minigrad.lessons.catalogue import HOME, Lesson
from minigrad.lessons.markup import code_styles, escape, text
from minigrad.lessons.page import STYLE, frame, lesson_page, source_page
from minigrad.lessons.syllabus import SYLLABUS

WELCOME = """\
# How autodiff and parallel training work

A course that you run. Each lesson takes one idea from its papers, shows it working in a few lines, and lets
you build it yourself; a check tells you exactly what is wrong until it is right. A laptop will do.

    pip install "minigrad[mpi,course]"
    minigrad learn 1
"""


def build(
    target: Path, lessons: Sequence[Lesson], *, quick: bool = False, said: Callable[[str], None] = print
) -> None:
    """Run the lessons and write the site to the folder `target`, all or nothing.

    `quick` runs their short forms. A folder that holds an earlier site is replaced; another one is refused
    with UsageError, and so is a lesson that fails.
    """
    if target.exists() and any(target.iterdir()) and not (target / "site.json").is_file():
        raise UsageError(f"{target} holds something that is no site of ours; name another folder")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for index, lesson in enumerate(lessons):
            said(f"lesson {lesson.number}: {lesson.title}")
            _lesson(partial, lesson, lessons, index, quick=quick)
        for name in sorted({name for lesson in lessons for name in lesson.source}):
            page = partial / "source" / f"{name}.html"
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(
                source_page(name, library_file(name).read_text(encoding="utf-8")), encoding="utf-8"
            )
        (partial / "style.css").write_text(STYLE + code_styles() + "\n", encoding="utf-8")
        (partial / "index.html").write_text(front_page(lessons), encoding="utf-8")
        (partial / "site.json").write_text(json.dumps({"version": minigrad.__version__}), encoding="utf-8")
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)


def _lesson(site: Path, lesson: Lesson, lessons: Sequence[Lesson], index: int, *, quick: bool) -> None:
    folder = site / lesson.name
    folder.mkdir()
    near = [(f"../{lessons[index - 1].name}/index.html", f"← {lessons[index - 1].title}")] if index else []
    if index + 1 < len(lessons):
        near.append((f"../{lessons[index + 1].name}/index.html", f"{lessons[index + 1].title} →"))
    notebook = write_notebook(lesson, folder / f"{lesson.name}.ipynb")
    page = lesson_page(lesson, performed(lesson, quick=quick), neighbours=near, notebook=notebook)
    (folder / "index.html").write_text(page, encoding="utf-8")


def performed(lesson: Lesson, *, quick: bool) -> list[dict[str, Any]]:
    """Run a lesson in a process of its own. Raises UsageError with its last words where it fails."""
    with tempfile.TemporaryDirectory(prefix="minigrad-") as folder:
        out = Path(folder, "out.json")
        home = str(Path(minigrad.__file__).parents[1])
        path = os.pathsep.join([home, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        environment = os.environ | {
            "PYTHONPATH": path,
            "MINIGRAD_PROGRESS": "off",
            "MINIGRAD_QUICK": "1" if quick else "",
        }
        command = [sys.executable, "-m", "minigrad.lessons.stage", str(lesson.folder / "lesson.py"), str(out)]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise UsageError(f"lesson {lesson.number} failed:\n{done.stderr.strip()}")
        return list(json.loads(out.read_text(encoding="utf-8")))


def write_notebook(lesson: Lesson, path: Path) -> bool:
    """Write the lesson as a Jupyter notebook, where jupytext is installed; say whether it was written."""
    try:
        import jupytext
    except ImportError:
        return False
    notebook = jupytext.read(lesson.folder / "lesson.py", fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # otherwise drawn at random, and no two builds were alike
    jupytext.write(notebook, path, fmt="ipynb")
    return True


def library_file(name: str) -> Path:
    """A file of the library by its name in the repository, installed or not. Raises UsageError."""
    package = Path(minigrad.__file__).resolve().parent
    for path in (package / name.removeprefix("minigrad/"), package / name, HOME.parent / name):
        if path.is_file():
            return path
    raise UsageError(f"a lesson names the file {name}, which is not in the library")


def front_page(lessons: Sequence[Lesson]) -> str:
    """The map of the course: what is there can be opened, what is not is shown as coming."""
    there = {lesson.number: lesson for lesson in lessons}
    parts = [text(WELCOME)]
    for heading, entries in SYLLABUS:
        items = []
        for number, title in entries:
            lesson = there.get(number)
            if lesson is None:
                items.append(
                    f'<li class="later">{number}. {escape(title)}<small>not written yet</small></li>'
                )
                continue
            link = f'<a href="{lesson.name}/index.html">{number}. {escape(lesson.title)}</a>'
            items.append(f"<li>{link}<small>{escape(lesson.builds)}</small></li>")
        parts.append(f'<h2>{escape(heading)}</h2><ul class="map">{"".join(items)}</ul>')
    return frame("minigrad: the course", "\n".join(parts))
