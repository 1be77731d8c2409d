"""Text to HTML: Markdown with LaTeX maths as MathML, and highlighted Python. Nothing here needs a network."""

import html
import itertools
import re
from functools import cache
from typing import Any

from minigrad.errors import UsageError

MISSING = 'the pages need a few more libraries: pip install "minigrad[course]"'


@cache
def _markdown() -> Any:
    try:
        from markdown_it import MarkdownIt
    except ImportError as error:
        raise UsageError(MISSING) from error
    renderer = MarkdownIt("commonmark", {"html": False, "typographer": False}).enable("table")
    renderer.inline.ruler.before("escape", "maths", _maths_rule)
    renderer.add_render_rule(
        "maths", lambda self, tokens, i, options, env: maths(tokens[i].content, tokens[i].block)
    )
    return renderer


def _maths_rule(state: Any, silent: bool) -> bool:
    """`$...$` in a line, `$$...$$` on its own; a dollar before a space or digit is only a dollar."""
    text, start = state.src, state.pos
    if text[start] != "$":
        return False
    mark = "$$" if text.startswith("$$", start) else "$"
    first = start + len(mark)
    stop = text.find(mark, first)
    if stop <= first or (mark == "$" and (text[first].isspace() or text[stop - 1].isspace())):
        return False
    if not silent:
        token = state.push("maths", "math", 0)
        token.content, token.block = text[first:stop], mark == "$$"
    state.pos = stop + len(mark)
    return True


def maths(latex: str, block: bool = False) -> str:
    """One formula as MathML. Raises UsageError where it is not LaTeX that can be turned into it."""
    try:
        from latex2mathml.converter import convert
    except ImportError as error:
        raise UsageError(MISSING) from error
    try:
        found = str(convert(" ".join(latex.split()), display="block" if block else "inline"))
    except Exception as error:
        raise UsageError(f"this formula cannot be turned into MathML: {latex!r} ({error})") from error
    unknown = re.search(r"\\[a-zA-Z]+", found)
    if unknown:
        raise UsageError(f"this formula cannot be turned into MathML: {latex!r} has {unknown[0]}")
    return found


def text(markdown: str) -> str:
    """Markdown as HTML; headings get ids made of their words, one of them each."""
    renderer = _markdown()
    tokens = renderer.parse(markdown)
    for opening, inside in itertools.pairwise(tokens):
        if opening.type == "heading_open":
            opening.attrs["id"] = slug(inside.content)
    return str(renderer.renderer.render(tokens, renderer.options, {}))


def slug(words: str) -> str:
    """An id made of the letters and digits of a heading."""
    return "-".join("".join(c.lower() if c.isalnum() else " " for c in words).split())


def code(source: str, *, numbered_from: int | None = None) -> str:
    """Python as HTML, highlighted by CSS classes; numbered lines get ids L1, L2, ... to link to."""
    try:
        from pygments import highlight
        from pygments.formatters import HtmlFormatter
        from pygments.lexers import PythonLexer
    except ImportError as error:
        raise UsageError(MISSING) from error
    numbers = {}
    if numbered_from is not None:
        numbers = {
            "linenos": "inline",
            "linenostart": numbered_from,
            "lineanchors": "L",
            "anchorlinenos": False,
        }
    formatter = HtmlFormatter(cssclass="code", wrapcode=True, **numbers)
    return (
        str(highlight(source, PythonLexer(stripnl=False), formatter))
        .replace('id="L-', 'id="L')
        .replace('name="L-', 'data-line="')
    )


def code_styles() -> str:
    """The CSS of highlighted code, for light and dark schemes."""
    from pygments.formatters import HtmlFormatter

    light = HtmlFormatter(style="default").get_style_defs(".code")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".code")
    both = f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"
    return "\n".join(line for line in both.splitlines() if "line-height: 125%" not in line)


def escape(words: str) -> str:
    """Text that may stand anywhere in HTML."""
    return html.escape(words, quote=True)
