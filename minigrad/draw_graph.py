"""Pictures of a graph: what was computed from what, as SVG to look at or DOT for other tools.

Leaves stand on top, results at the bottom. Layers and the order within them follow Sugiyama, Tagawa, Toda
1981, Methods for Visual Understanding of Hierarchical System Structures: longest paths, then a few sweeps of
averages.
"""

from __future__ import annotations

from html import escape
from itertools import pairwise
from typing import Any

from minigrad.errors import GraphError
from minigrad.graph import Leaf, Node
from minigrad.tensor import Tensor
from minigrad.walk import gather

BOX_HEIGHT, GAP_X, GAP_Y, MARGIN = 40, 22, 36, 20
MOST_NODES = 2000

_STYLE = """
svg { background: #ffffff; font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
text { fill: #24292f; font-size: 12px; text-anchor: middle; }
.shape { fill: #57606a; font-size: 10px; }
rect { fill: #f6f8fa; stroke: #57606a; }
.leaf { fill: #ddf4ff; stroke: #0969da; }
path { fill: none; stroke: #57606a; stroke-width: 1.2; }
marker path { fill: #57606a; stroke: none; }
@media (prefers-color-scheme: dark) {
svg { background: #0d1117; }
text { fill: #e6edf3; } .shape { fill: #9198a1; }
rect { fill: #161b22; stroke: #9198a1; } .leaf { fill: #0c2d4a; stroke: #58a6ff; }
path { stroke: #9198a1; } marker path { fill: #9198a1; }
}
""".strip()


def draw_graph(*outputs: Tensor, **names: Tensor) -> str:
    """The graph of some tensors as SVG text; keywords name tensors in it: `mg.draw_graph(loss, w=w)`.

    Raises GraphError for a tensor without a graph, and for graphs of more than 2,000 nodes.

    >>> import minigrad as mg
    >>> w = mg.tensor(2.0, requires_grad=True)
    >>> mg.draw_graph(w * w, w=w).count("<rect")
    2
    """
    order, labels = _nodes(outputs), _labels(names)
    texts = {node: (labels.get(node) or _name(node), _shape(node)) for node in order}
    layers, routes = _layers(order)
    sizes = {item: _width(texts.get(item)) for layer in layers for item in layer}
    widths = [sum(sizes[item] for item in layer) + GAP_X * (len(layer) - 1) for layer in layers]
    place: dict[Any, tuple[float, float]] = {}  # the middle of the upper edge
    for depth, layer in enumerate(layers):
        x = MARGIN + (max(widths) - widths[depth]) / 2
        for item in layer:
            place[item] = (x + sizes[item] / 2, MARGIN + depth * (BOX_HEIGHT + GAP_Y))
            x += sizes[item] + GAP_X
    width, height = 2 * MARGIN + max(widths), 2 * MARGIN + len(layers) * (BOX_HEIGHT + GAP_Y) - GAP_Y
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">',
        f"<title>A graph of {len(order)} nodes</title>",
        f"<style>{_STYLE}</style>",
        '<marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7"',
        ' orient="auto"><path d="M0,0 L8,4 L0,8 z"/></marker>',
    ]
    parts += [_arrow([place[item] for item in route]) for route in routes]
    for node in order:
        (x, y), (name, shape) = place[node], texts[node]
        kind = ' class="leaf"' if node.operation is None else ""
        left, wide = x - sizes[node] / 2, sizes[node]
        parts.append(f'<rect{kind} x="{left:g}" y="{y:g}" width="{wide:g}" height="{BOX_HEIGHT}" rx="6"/>')
        parts.append(f'<text x="{x:g}" y="{y + 17:g}">{escape(name)}</text>')
        parts.append(f'<text class="shape" x="{x:g}" y="{y + 31:g}">{escape(shape)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def graph_dot(*outputs: Tensor, **names: Tensor) -> str:
    """The same graph in the DOT language, for Graphviz."""
    order, labels = _nodes(outputs), _labels(names)
    lines = ["digraph {", '  node [shape=box, style=rounded, fontname="sans-serif"];']
    for node in reversed(order):
        text = f"{labels.get(node) or _name(node)}\\n{_shape(node)}".replace('"', '\\"')
        lines.append(f'  n{node.number} [label="{text}"{", color=blue" if node.operation is None else ""}];')
        lines += [f"  n{edge.number} -> n{node.number};" for edge in node.inputs if edge is not None]
    return "\n".join([*lines, "}"]) + "\n"


def _nodes(outputs: tuple[Tensor, ...]) -> list[Node]:
    roots = [x.node for x in outputs if x.node is not None]
    if not outputs or len(roots) < len(outputs):
        raise GraphError(
            "only tensors with a graph can be drawn: nothing these were computed from requires a gradient"
        )
    order = gather(roots)
    if len(order) > MOST_NODES:
        raise GraphError(
            f"the graph has {len(order)} nodes, more than the {MOST_NODES} that a picture can show"
        )
    return order


def _labels(names: dict[str, Tensor]) -> dict[Node, str]:
    return {x.node: name for name, x in names.items() if x.node is not None}


def _name(node: Node) -> str:
    if node.operation is None:
        return "leaf" if isinstance(node, Leaf) else "tangent"
    return node.operation.name.replace("_", " ")


def _shape(node: Node) -> str:
    sizes = " × ".join(map(str, node.shape)) if node.shape else "one number"
    return f"{sizes}, {node.dtype}" if node.dtype is not None else f"{len(node.shape)} results"


def _width(texts: tuple[str, str] | None) -> float:
    """How wide a box is; an arrow that only passes through a layer needs little."""
    return 12 if texts is None else max(96.0, 16 + 7.2 * len(texts[0]), 16 + 6 * len(texts[1]))


class _Bend:
    """Where an arrow passes through a layer on its way to one further down."""


def _layers(order: list[Node]) -> tuple[list[list[Any]], list[list[Any]]]:
    """Nodes by their longest path from a leaf, arrows as routes from layer to layer, with few crossings."""
    depth: dict[Any, int] = {}
    for node in sorted(order, key=lambda node: node.number):
        depth[node] = 1 + max((depth[edge] for edge in node.inputs if edge is not None), default=-1)
    for node in order:  # a leaf stands directly above its first consumer
        below = [depth[other] for other in order if node in other.inputs] if node.operation is None else []
        depth[node] = min(below, default=depth[node] + 1) - 1
    routes: list[list[Any]] = []
    for node in order:
        for edge in dict.fromkeys(edge for edge in node.inputs if edge is not None):
            bends = [_Bend() for _ in range(depth[node] - depth[edge] - 1)]
            depth.update({bend: depth[edge] + 1 + i for i, bend in enumerate(bends)})
            routes.append([edge, *bends, node])
    layers: list[list[Any]] = [[] for _ in range(max(depth.values()) + 1)]
    for item in sorted(depth, key=lambda item: getattr(item, "number", 0)):
        layers[depth[item]].append(item)
    above: dict[Any, list[Any]] = {item: [] for item in depth}
    below_of: dict[Any, list[Any]] = {item: [] for item in depth}
    for route in routes:
        for upper, lower in pairwise(route):
            above[lower].append(upper)
            below_of[upper].append(lower)
    place: dict[Any, float] = {item: float(i) for layer in layers for i, item in enumerate(layer)}
    for sweep in range(12):
        around = below_of if sweep % 2 else above
        for layer in reversed(layers) if sweep % 2 else layers:
            for item in layer:
                if around[item]:
                    place[item] = sum(place[other] for other in around[item]) / len(around[item])
            layer.sort(key=place.__getitem__)
            place.update((item, i - (len(layer) - 1) / 2) for i, item in enumerate(layer))
    return layers, routes


def _arrow(points: list[tuple[float, float]]) -> str:
    """A smooth line from the lower edge of the first box, past the bends, to the upper edge of the last."""
    x, y = points[0][0], points[0][1] + BOX_HEIGHT
    path = f"M{x:g},{y:g}"
    for place, (next_x, next_y) in enumerate(points[1:], start=1):
        middle = (y + next_y) / 2
        path += f" C{x:g},{middle:g} {next_x:g},{middle:g} {next_x:g},{next_y:g}"
        x, y = next_x, next_y
        if place < len(points) - 1:  # straight through the layer of a bend
            y += BOX_HEIGHT
            path += f" L{x:g},{y:g}"
    return f'<path d="{path}" marker-end="url(#arrow)"/>'
