"""What the docs say is so: their code runs, their links lead somewhere."""

import re
from pathlib import Path

import pytest

from minigrad.rules import OPERATIONS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture
def own_operations():
    """Operations that a page declares are forgotten afterwards."""
    before = set(OPERATIONS)
    yield
    for name in set(OPERATIONS) - before:
        del OPERATIONS[name]


@pytest.mark.usefixtures("own_operations")
@pytest.mark.parametrize(("name", "blocks"), [("engine.md", 9), ("parallel.md", 8)])
def test_the_code_of_a_page_runs(name, blocks):
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(code) >= blocks
    exec(compile("\n".join(code), f"docs/{name}", "exec"), {})  # noqa: S102 - our own page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
