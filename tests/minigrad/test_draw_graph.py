"""Pictures of graphs: everything is in them, arrows point down, and the one in the docs is this one."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given

import minigrad as mg
from minigrad.errors import GraphError
from minigrad.testing import programs
from minigrad.walk import gather

SVG = "{http://www.w3.org/2000/svg}"
DOCS = Path(__file__).resolve().parents[2] / "docs"


def small_graph() -> tuple[mg.Tensor, dict[str, mg.Tensor]]:
    """The example of docs/engine.md."""
    x = mg.ones((4, 3))
    w = mg.ones((3, 2)).requires_grad_()
    b = mg.zeros(2).requires_grad_()
    h = mg.tanh(x @ w + b)
    loss = (h * h).sum()
    return loss, {"w": w, "b": b, "loss": loss}


def boxes(svg: str) -> list[tuple[float, float, float]]:
    """Left edge, right edge and upper edge of every box."""
    return [
        (float(r.get("x", 0)), float(r.get("x", 0)) + float(r.get("width", 0)), float(r.get("y", 0)))
        for r in ElementTree.fromstring(svg).iter(f"{SVG}rect")
    ]


def test_the_picture_in_the_docs_is_this_one():
    loss, names = small_graph()
    assert (DOCS / "graph.svg").read_text(encoding="utf-8") == mg.draw_graph(loss, **names)


def test_names_operations_and_shapes_are_written_in_it():
    loss, names = small_graph()
    texts = [t.text for t in ElementTree.fromstring(mg.draw_graph(loss, **names)).iter(f"{SVG}text")]
    assert {"w", "b", "loss", "matmul", "add", "tanh", "multiply", "3 × 2, float32"} <= set(texts)


@given(programs())
def test_every_node_has_a_box_of_its_own_and_arrows_point_down(program):
    out = program(*(mg.ones((3, 3)).requires_grad_() for _ in range(program.leaves)))
    if out.node is None:
        return
    svg = mg.draw_graph(out)
    nodes = gather([out.node])
    found = boxes(svg)
    assert len(found) == len(nodes)
    for place, (left, right, top) in enumerate(found):
        for other_left, other_right, other_top in found[place + 1 :]:
            assert top != other_top or right <= other_left or other_right <= left
    for path in re.findall(r'd="(M[^"]*)" marker-end', svg):
        heights = [float(y) for y in re.findall(r",(-?[0-9.]+)", path)]
        assert heights == sorted(heights)
    edges = {(e, n) for n in nodes for e in n.inputs if e is not None}
    assert svg.count("marker-end") == len(edges)
    assert mg.graph_dot(out).count("->") == sum(e is not None for n in nodes for e in n.inputs)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(GraphError, match="only tensors with a graph"):
        mg.draw_graph(mg.ones(2))
    x = mg.ones(2).requires_grad_()
    y = x
    for _ in range(2100):
        y = y * 1.0
    with pytest.raises(GraphError, match="2101 nodes"):
        mg.draw_graph(y)
