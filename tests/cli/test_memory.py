"""At the default sizes of `minigrad train`, sharing out takes less memory than data parallelism."""

from pathlib import Path

import pytest

from minigrad.cli.main import main
from tests.cli.common import quiet, report, text

__all__ = ["quiet", "text"]  # fixtures


def peaks(text: Path, out: Path, ranks: int, *more: str) -> list[dict[str, int]]:
    """The most bytes of each rank, by category, as report.json tells them. The batch is no model's size."""
    words = [
        "train",
        "--text",
        str(text),
        "--steps",
        "1",
        "--batch",
        str(ranks),
        "--threads",
        "--ranks",
        str(ranks),
    ]
    assert main([*words, "--out", str(out), *more]) == 0
    return [memory["peak"] for memory in report(out)["memory"]]


@pytest.mark.parametrize("ranks", [2, 4])
def test_stages_2_and_3_hold_less_than_stage_0(text: Path, tmp_path: Path, ranks: int) -> None:
    everything = peaks(text, tmp_path / "0", ranks, "--zero", "0")
    sharing: dict[tuple[str, ...], list[str]] = {
        ("2",): ["gradients", "optimizer", "total"],
        ("3",): ["parameters", "gradients", "optimizer", "total"],
    }
    if ranks == 4:  # blocks that are computed again come in two units each
        sharing["3", "--checkpoint-activations"] = sharing["3",]
    for number, (more, names) in enumerate(sharing.items()):
        found = peaks(text, tmp_path / f"run {number}", ranks, "--zero", *more)
        for name in names:
            assert all(a[name] < b[name] for a, b in zip(found, everything, strict=True)), (more, name)
