"""The site: links, ids, maths, nothing from outside; and, where there is a Chromium, what a browser says."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from minigrad.cli.main import main
from minigrad.errors import UsageError
from minigrad.lessons import lessons
from minigrad.lessons.markup import code, maths, slug, text
from minigrad.lessons.site import build, library_file

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)


class Page(HTMLParser):
    """What a page links to, the ids it has, and the tags it opens and never closes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.without_words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.tags.append(tag)
        self.ids += [named["id"]] if "id" in named else []
        self.links += [named[name] for name in ("href", "src") if named.get(name)]
        if tag == "img" and not named.get("alt"):
            self.without_words.append(named.get("src", "")[:40])

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    target = tmp_path_factory.mktemp("pages") / "site"
    build(target, lessons(), quick=True, said=lambda _: None)
    return target


def test_every_link_leads_somewhere_and_nothing_comes_from_outside(site):
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) > len(lessons())
    for path, page in pages.items():
        assert len(page.ids) == len(set(page.ids)), path
        assert page.without_words == []
        for link in page.links:
            if link.startswith("data:"):
                continue
            assert "//" not in link, f"{path} asks the network for {link}"
            address, _, place = link.partition("#")
            target = (path.parent / address).resolve() if address else path
            assert target.is_file(), f"{path} links to {link}"
            if place:
                assert place in pages[target].ids


def test_maths_are_elements_and_no_dollar_is_left(site):
    page = Page(site / "01_graphs" / "index.html")
    assert page.tags.count("math") >= 10
    prose = re.sub(
        r'<div class="code">.*?</div>|<pre.*?</pre>|data-frames="[^"]*"',
        "",
        (site / "01_graphs" / "index.html").read_text(),
        flags=re.DOTALL,
    )
    assert "$" not in prose
    assert page.tags.count("img") >= 3


def test_the_front_page_has_all_lessons_and_says_which_are_to_come(site):
    words = "".join(Page(site / "index.html").words)
    for number in range(1, 29):
        assert f"{number}. " in words
    assert "not written yet" in words


def test_a_site_replaces_a_site_and_nothing_else(tmp_path, site):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UsageError, match="no site of ours"):
        build(tmp_path, [], said=lambda _: None)
    copy = tmp_path / "copy"
    shutil.copytree(site, copy)
    build(copy, [], said=lambda _: None)
    assert not (copy / "01_graphs").exists()
    assert main(["site", "serve", "--out", str(tmp_path)]) == 2


def test_markup():
    assert "<math" in text("so $a^2$ and \\$5, or 3 $ and 4 $ more")
    assert text("3 $ and 4 $ more").count("<math") == 0
    assert 'display="block"' in text("$$\\sum_i x_i$$")
    assert '<h2 id="one-idea">' in text("## One idea!")
    assert slug("A (b) c") == "a-b-c"
    assert "<script>" not in text("<script>alert(1)</script>")
    assert 'id="L3' in code("a\nb\nc\n", numbered_from=1)
    with pytest.raises(UsageError, match="cannot be turned into MathML"):
        maths("\\nonsense{1}")
    with pytest.raises(UsageError, match="not in the library"):
        library_file("minigrad/nothing.py")
    assert library_file("nn/gpt.py").is_file()


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium to look at the pages with")
@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_has_nothing_to_complain_about(site, tmp_path, width):
    copy = tmp_path / "site"
    shutil.copytree(site, copy)
    measure = (
        "<script>document.title = `widths ${document.documentElement.scrollWidth} ${innerWidth}`</script>"
    )
    for path in [copy / "index.html", *copy.glob("*/index.html")]:
        path.write_text(path.read_text().replace("</body>", measure + "</body>"))
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
        options += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--dump-dom"]
        done = subprocess.run(
            [str(BROWSER), *options, path.as_uri()], capture_output=True, text=True, timeout=90, check=False
        )
        assert "CONSOLE" not in done.stderr, done.stderr
        found = re.search(r"<title>widths (\d+) (\d+)</title>", done.stdout)
        assert found is not None, done.stdout[:500]
        assert int(found[1]) <= int(found[2]), f"{path} scrolls sideways at {width}"
