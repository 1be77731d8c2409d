"""The drawings of docs/parallel.md: what they show is so, and those in the docs are these."""

import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from minigrad import dist
from minigrad.dist import pictures
from minigrad.draw_svg import bytes_text
from minigrad.nn.gpt import GPT, GPTConfig

DOCS = Path(__file__).resolve().parents[2] / "docs"
REMAKE = "make it again: python -m minigrad.dist.pictures docs"
TINY = GPTConfig(vocabulary=20, context=8, layers=2, heads=2, width=8)


@pytest.mark.parametrize("ranks", [2, 3, 4, 5, 7, 8])
@pytest.mark.parametrize("algorithm", ["ring", "halving", "ordered"])
@pytest.mark.parametrize("verb", ["reduce_scatter", "all_gather", "all_reduce"])
def test_messages_are_as_many_as_the_papers_say(verb, algorithm, ranks) -> None:
    found = pictures.messages_of(verb, algorithm, ranks=ranks)
    pieces = [piece for arrow in found for piece in arrow.label.split(", ")]
    halves = 2 if verb == "all_reduce" else 1
    power = ranks & (ranks - 1) == 0
    if algorithm != "halving" or power:
        assert len(pieces) == halves * (ranks - 1) * ranks  # elements: one for each piece
    if algorithm == "ring":
        assert 1 + max(arrow.step for arrow in found) == halves * (ranks - 1)
        assert all((arrow.source + 1) % ranks == arrow.target for arrow in found)
    if algorithm == "halving" and power:
        assert 1 + max(arrow.step for arrow in found) == halves * math.log2(ranks)
    if algorithm == "ring" and verb == "all_reduce":
        everyone = "+".join(map(str, range(ranks)))
        assert all(arrow.label.endswith(everyone) for arrow in found if arrow.step >= ranks - 1)


@pytest.mark.parametrize("ranks", [2, 3, 4, 7, 8])
def test_a_rank_sends_on_only_what_it_has_got(ranks) -> None:
    found = pictures.messages_of("all_reduce", "tree", ranks=ranks)
    depth = math.ceil(math.log2(ranks))
    everyone = "+".join(map(str, range(ranks)))
    had = {arrow.target: arrow.step for arrow in found if everyone in arrow.label}
    for arrow in found:
        if everyone in arrow.label:
            assert arrow.step > had.get(arrow.source, depth - 1)
        else:
            assert arrow.step < depth
    assert 1 + max(arrow.step for arrow in found) == 2 * depth
    assert len({(arrow.source, arrow.target) for arrow in found}) == len(found) == 2 * (ranks - 1)


def test_the_ring_in_the_docs_is_this_one() -> None:
    assert (DOCS / "parallel_ring.svg").read_text(encoding="utf-8") == pictures.ring_messages(), REMAKE


@pytest.mark.parametrize("ranks", [2, 3, 4, 5])
def test_the_caption_of_a_ring_explains_a_label_that_is_in_it(ranks: int) -> None:
    svg = pictures.ring_messages(ranks=ranks)
    assert f">{svg.partition('“')[2].partition('”')[0]}<" in svg


def test_each_stage_holds_less_than_the_one_before() -> None:
    held = pictures.held_by_stage(ranks=3)
    totals = [sum(parts.values()) for parts in held.values()]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == 4
    parameters = 4 * sum(parameter.size for parameter in GPT(pictures.SMALL, device="shapes").parameters())
    assert held["stage 0"]["parameters"] == held["stage 0"]["gradients"] == parameters
    assert held["stage 0"]["optimizer"] == 2 * parameters
    assert held["stage 1"]["optimizer"] == pytest.approx(2 * parameters / 3, rel=0.01)


def test_the_bars_in_the_docs_are_what_is_measured() -> None:
    svg = (DOCS / "parallel_memory.svg").read_text(encoding="utf-8")
    shown = [float(number) for number in re.findall(r">([\d.]+) MB<", svg)]
    totals = [sum(parts.values()) / 1e6 for parts in pictures.held_by_stage().values()]
    for total in totals:
        assert min(abs(total - number) for number in shown) < 0.03 * total, REMAKE
    assert bytes_text(totals[0] * 1e6) in pictures.memory_by_stage()


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_recorded_step_shows_the_passes_and_the_messages_of_every_rank(ranks) -> None:
    def main(world):
        return pictures.record_step(world, config=TINY)

    recording = dist.spawn(main, ranks=ranks)[0]
    for rank in range(ranks):
        mine = [event for event in recording.events if event.rank == rank]
        spans = [event.name for event in mine if event.row == "computing"]
        assert spans == ["forward", "backward", "update"]
        purposes = {event.details["purpose"] for event in mine if event.row == "messages"}
        assert purposes >= ({"gradients", "parameters"} if ranks > 1 else set())
    ElementTree.fromstring(pictures.step_timeline(recording))


def test_the_step_in_the_docs_shows_two_ranks() -> None:
    svg = (DOCS / "parallel_step.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(svg)
    for word in ("forward", "backward", "update", "gradients", "parameters", "rank 0", "rank 1"):
        assert f">{word}<" in svg
    assert ">rank 2<" not in svg


def test_the_command_writes_the_drawings(tmp_path) -> None:
    pictures.main(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parallel_memory.svg", "parallel_ring.svg"]
