"""The pages of the site: their frame and style, a lesson, the front page, a page of source code."""

import base64
from collections.abc import Sequence
from typing import Any

from minigrad.lessons.catalogue import Lesson
from minigrad.lessons.cells import read_cells
from minigrad.lessons.markup import code, escape, text

STYLE = """
:root {
  --ink: #1f2328; --paper: #ffffff; --faint: #59636e;
  --line: #d1d9e0; --box: #f6f8fa; --link: #0550ae;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6edf3; --paper: #0d1117; --faint: #9198a1;
    --line: #3d444d; --box: #151b23; --link: #79b8ff;
  }
}
:root { color-scheme: light dark; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: var(--paper); font: 1.05rem/1.6 system-ui, sans-serif; }
header, main, footer { max-width: 50rem; margin: 0 auto; padding: 0 1rem; }
header { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding-top: 1rem; font-size: .95rem; }
footer { padding: 2rem 1rem 3rem; color: var(--faint); font-size: .9rem; }
a { color: var(--link); }
h1 { line-height: 1.2; font-size: 2rem; } h2 { margin-top: 2.4rem; line-height: 1.25; }
code { font: .92em/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
p code, li code, td code { background: var(--box); padding: .1em .3em; border-radius: .3em; }
p code, li code, td code { overflow-wrap: anywhere; }
.code, .printed { overflow-x: auto; border: 1px solid var(--line); border-radius: .4rem; margin: 1rem 0; }
.code { background: var(--box); }
.code pre, .printed { margin: 0; padding: .7rem .9rem; }
.code pre, .printed { font: .88rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
.printed { border-style: dashed; color: var(--faint); margin-top: -.5rem; white-space: pre; }
.label { border-left: .25rem solid var(--line); padding-left: 1rem; color: var(--faint); margin: 1rem 0; }
.label dt { float: left; clear: left; width: 6.5rem; }
.label dd { margin-left: 7rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; display: block; overflow-x: auto; max-width: 100%; }
td, th { border-bottom: 1px solid var(--line); padding: .3rem .8rem .3rem 0; }
td, th { text-align: left; vertical-align: top; }
math { max-width: 100%; overflow-x: auto; overflow-y: hidden; } math[display="block"] { display: block math; }
figure { margin: 1.5rem 0; } figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: var(--faint); font-size: .95rem; }
.steps { display: flex; gap: .8rem; align-items: center; }
.steps input { flex: 1; }
.map { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .8rem; padding: 0; }
.map li { list-style: none; border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem; }
.map .later { color: var(--faint); border-style: dashed; } .map small { display: block; color: var(--faint); }
details { margin: 1rem 0; } summary { cursor: pointer; }
:target { background: color-mix(in srgb, var(--link) 18%, transparent); }
"""
POLICY = "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'unsafe-inline'"
STEPPER = """<script>
for (const box of document.querySelectorAll('figure[data-frames]')) {
  const frames = JSON.parse(box.dataset.frames), labels = JSON.parse(box.dataset.labels);
  const picture = box.querySelector('img'), bar = document.createElement('p');
  const slider = document.createElement('input'), label = document.createElement('output');
  bar.className = 'steps'; slider.type = 'range'; slider.min = 0; slider.max = frames.length - 1;
  slider.value = frames.length - 1; slider.setAttribute('aria-label', 'step through the figure');
  slider.oninput = () => { picture.src = frames[slider.value]; label.value = labels[slider.value]; };
  label.value = labels[frames.length - 1]; bar.append(slider, label); picture.after(bar);
}
</script>"""


def frame(
    title: str, body: str, *, up: str = "", links: Sequence[tuple[str, str]] = (), script: bool = False
) -> str:
    """A whole page. `up` leads to the folder of the front page; `links` are (address, words) for the head."""
    places = "".join(f'<a href="{escape(address)}">{escape(words)}</a>' for address, words in links)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{up}style.css">
</head>
<body>
<header><a href="{up}index.html"><strong>minigrad</strong></a>{places}</header>
<main>
{body}
</main>
<footer>Every figure and number on this page was computed when the page was built.</footer>
{STEPPER if script else ""}
</body>
</html>
"""


def lesson_page(
    lesson: Lesson,
    performed: Sequence[dict[str, Any]],
    *,
    neighbours: Sequence[tuple[str, str]],
    notebook: bool,
) -> str:
    """The page of a lesson: its text and code, what the code printed, its figures, and its exercises."""
    results = {entry["line"]: entry for entry in performed}
    parts = []
    for cell in read_cells(lesson.folder / "lesson.py"):
        if cell.kind == "text":
            parts.append(text(cell.source))
            continue
        parts.append(code(cell.source))
        entry = results[cell.line]
        if entry["printed"].strip():
            parts.append(f'<pre class="printed">{escape(entry["printed"].rstrip())}</pre>')
        parts += [figure(one) for one in entry["figures"]]
    if parts:
        parts.insert(1, label(lesson, notebook=notebook))
    parts.append(exercises(lesson))
    stepped = any(len(one["frames"]) > 1 for entry in performed for one in entry["figures"])
    title = f"{lesson.number}. {lesson.title}"
    return frame(title, "\n".join(parts), up="../", links=neighbours, script=stepped)


def label(lesson: Lesson, *, notebook: bool) -> str:
    """What the lesson is about, in a few lines."""
    sources = ", ".join(
        f'<a href="../source/{escape(one)}.html"><code>{escape(one)}</code></a>' for one in lesson.source
    )
    rows = [
        ("Paper", escape(lesson.paper)),
        ("You build", escape(lesson.builds)),
        ("Beside it", sources),
        ("Time", f"about {lesson.minutes} minutes, on {lesson.ranks} rank{'s' * (lesson.ranks > 1)}"),
        ("Begin", f"<code>minigrad learn {lesson.number}</code>"),
    ]
    if notebook:
        rows.append(("Notebook", f'<a href="{lesson.name}.ipynb" download>{lesson.name}.ipynb</a>'))
    return (
        '<dl class="label">' + "".join(f"<dt>{name}</dt><dd>{words}</dd>" for name, words in rows) + "</dl>"
    )


def figure(one: dict[str, Any]) -> str:
    """A figure; one of several pictures is stepped through where scripts run, else it shows the last."""
    pictures = [
        "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode() for svg in one["frames"]
    ]
    steps = ""
    if len(pictures) > 1:
        import json

        steps = (
            f' data-frames="{escape(json.dumps(pictures))}" data-labels="{escape(json.dumps(one["labels"]))}"'
        )
    caption = escape(one["caption"])
    picture = f'<img src="{pictures[-1]}" alt="{caption}">'
    return f'<figure id="figure-{one["name"]}"{steps}>{picture}<figcaption>{caption}</figcaption></figure>'


def exercises(lesson: Lesson) -> str:
    """The list of exercises and, to open, the file to fill in."""
    rows = "".join(
        f"<tr><td>{one.key}</td><td>{escape(one.title)}</td><td>{one.points}</td></tr>"
        for one in lesson.exercises
    )
    stubs = code((lesson.folder / "exercise.py").read_text(encoding="utf-8"))
    return (
        f'<h2 id="your-part">Your part</h2>'
        f"<p><code>minigrad check {lesson.number}</code> checks your answers.</p>"
        "<table><thead><tr><th></th><th>Exercise</th><th>Points</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
        f"<details><summary>exercise.py, the file to fill in</summary>{stubs}</details>"
    )


def source_page(name: str, content: str) -> str:
    """A file of the library, with numbered lines."""
    up = "../" * (name.count("/") + 1)
    return frame(name, f"<h1><code>{escape(name)}</code></h1>{code(content, numbered_from=1)}", up=up)
