"""docs/nn.md names every public name, with its paper, and a file and tests that know it."""

import inspect
import re
import types
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from minigrad import nn
from minigrad.nn import layers, text

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "nn.md"
MODULES: tuple[types.ModuleType, ...] = (
    nn, layers, nn.amp, nn.augment, nn.averaging, nn.bpe, nn.checks, nn.data, nn.datasets, nn.functional,
    nn.init, nn.lr_scheduler, nn.models, nn.norms, nn.optim, nn.sampling, nn.utils, text,
)  # fmt: skip
NOT_NAMED = {"BLOCK"}  # a size
ELSEWHERE = {"SyncBatchNorm"}
TESTED_UNDER_ANOTHER_NAME = {
    "LRScheduler", "FactorLR",  # by the schedules that they are the base of
    "RangeTest",  # what range_test returns
    "warmup_cosine",  # by WarmupCosine
    "get_swa_avg_fn",  # the default of AveragedModel
    "Dataset",  # what a DataLoader takes
    "check_options", "sample_sequence",  # by those who call them
    "GPT2_SIZES",  # by gpt2
    "MaxPool1d", "AvgPool1d", "BatchNorm1d",
}  # fmt: skip


class Row(NamedTuple):
    """One row of a table, without what stands in brackets and behind colons."""

    section: str
    names: tuple[str, ...]
    paper: str
    files: tuple[Path, ...]
    tests: tuple[Path, ...]


def paths(cell: str, home: str) -> tuple[Path, ...]:
    """The files that a cell names, from the folder `home` unless they say otherwise."""
    given = re.findall(r"`([\w/]+\.py)`", cell)
    whole = ("minigrad/", "dist/", "tests/")
    return tuple(ROOT / (name if name.startswith(whole) else f"{home}/{name}") for name in given)


def rows() -> list[Row]:
    found, section = [], ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line[3:]
        if not line.startswith("| ") or line.startswith("| what |"):
            continue
        what, paper, files, tests = (cell.strip() for cell in line.strip("|").split("|")[:4])
        names = tuple(re.findall(r"[A-Za-z]\w*", re.sub(r"`[^`]*`", "", what)))
        found.append(Row(section, names, paper, paths(files, "nn"), paths(tests, "tests/nn")))
    return found


ROWS = rows()


def public() -> dict[str, Any]:
    """Every name that `nn` and its modules hand out, modules aside."""
    found = {}
    for module in MODULES:
        own = [n for n, o in vars(module).items() if getattr(o, "__module__", None) == module.__name__]
        for name in getattr(module, "__all__", own):
            if not name.startswith("_") and not isinstance(getattr(module, name), types.ModuleType):
                found[name] = getattr(module, name)
    return {name: value for name, value in found.items() if name not in NOT_NAMED}


@pytest.mark.parametrize("name", sorted(public()))
def test_every_public_name_is_in_the_catalogue_with_file_and_test(name):
    own = [row for row in ROWS if name in row.names]
    assert own, f"docs/nn.md does not name {name}"
    defined = re.compile(rf"^(class|def) {name}\b|^(\w+ = )*{name}(:.*)? = ", re.MULTILINE)
    holds = [file for row in own for file in row.files if defined.search(file.read_text(encoding="utf-8"))]
    assert holds, f"no file that docs/nn.md gives for {name} defines it"
    if inspect.isclass(public()[name]):
        assert Path(inspect.getfile(public()[name])).resolve() in holds
    if name not in TESTED_UNDER_ANOTHER_NAME and all(row.section != "Functions" for row in own):
        known = [
            t for row in own for t in row.tests if re.search(rf"\b{name}\b", t.read_text(encoding="utf-8"))
        ]
        assert known, f"no test that docs/nn.md gives for {name} mentions it"


def test_every_row_has_a_paper_or_a_dash_and_files_and_tests_that_exist():
    assert len(ROWS) > 90
    for row in ROWS:
        assert row.paper == "–" or re.search(r"\d{4}|see the|the same", row.paper), row
        assert row.files, row
        assert row.tests, row
        for path in (*row.files, *row.tests):
            assert path.is_file(), f"docs/nn.md names {path.relative_to(ROOT)}, which is not there"


def test_no_class_is_named_that_is_not_there():
    known = {*public(), *ELSEWHERE}
    for row in ROWS:
        if row.section != "Modules":
            classes = [
                n for n in row.names if re.fullmatch(r"[A-Z]\w*(?:LR|Loss|Norm\w*|Pool\w*|Cell|Layer)", n)
            ]
            assert set(classes) <= known, row
