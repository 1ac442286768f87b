"""The lineage of methods as a tree: one inline SVG, and the same as a nested list.

Each form of a method (`catalog.Form`) hangs below the first of its parents; a thin line leads to
it from each further one. Depth goes to the right, and every leaf has a row of its own, so nothing
overlaps whatever the catalogue holds. Forms with neither parents nor children stand below.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from paragone._core.catalog import Form, Method
from paragone.lab.report import svg

__all__ = ["Node", "drawing", "forest", "nested"]

_COLUMN, _ROW, _BOX, _TALL, _EDGE = 188, 30, 160, 24, 4


@dataclass(frozen=True)
class Node:
    """One form in the tree.

    Attributes:
        form: The form.
        method: Whose it is.
        children: Those of which it is the first parent.
        further: Names of its further parents.
    """

    form: Form
    method: Method
    children: tuple[Node, ...]
    further: tuple[str, ...]


def forest(methods: Sequence[Method]) -> list[Node]:
    """The trees of all forms of these methods, in the order of the catalogue."""
    owner = {form.name: method for method in methods for form in method.line}
    forms = {form.name: form for method in methods for form in method.line}
    below: dict[str, list[Form]] = {}
    for form in forms.values():
        known = [name for name in form.parents if name in forms]
        below.setdefault(known[0] if known else "", []).append(form)

    def grown(form: Form) -> Node:
        children = tuple(grown(child) for child in below.get(form.name, ()))
        further = tuple(name for name in form.parents[1:] if name in forms)
        return Node(form, owner[form.name], children, further)

    return [grown(form) for form in below.get("", ())]


def nested(nodes: Sequence[Node]) -> str:
    """The trees as nested HTML lists."""
    items = []
    for node in nodes:
        also = f" <span>(also from {escape(', '.join(node.further))})</span>" * bool(node.further)
        link = f'<a href="#m-{node.method.id}">{escape(node.form.name)}</a>'
        items.append(f"<li>{link} {node.form.year}{also}{nested(node.children)}</li>")
    return f"<ul>{''.join(items)}</ul>" if items else ""


class _Places:
    """Where each form stands; rows are given out from the top."""

    def __init__(self) -> None:
        self.at: dict[str, tuple[float, float]] = {}
        self.nodes: list[tuple[Node, Node | None]] = []
        self.next, self.deepest = 0.0, 0

    def put(self, node: Node, depth: int = 0, parent: Node | None = None) -> float:
        """Places a node and all below it; a parent stands beside its first child."""
        self.deepest = max(self.deepest, depth)
        self.nodes.append((node, parent))
        rows = [self.put(child, depth + 1, node) for child in node.children]
        row = rows[0] if rows else self.next
        if not rows:
            self.next += _ROW
        self.at[node.form.name] = (depth * _COLUMN + _EDGE, row + _EDGE)
        return row


def drawing(nodes: Sequence[Node], families: Mapping[str, str]) -> str:
    """The trees as SVG; boxes lead to `#m-ID`, and have the family's colour at their left.

    Args:
        nodes: What `forest` returned.
        families: Family to the class of its colour, such as "c0".
    """
    roots = _ordered(nodes)
    alone = [node for node in nodes if node not in roots]
    places = _Places()
    for node in roots:
        places.put(node)
        places.next += _ROW / 3
    across = places.deepest + 1
    for i, node in enumerate(alone):
        row, column = divmod(i, across)
        places.nodes.append((node, None))
        places.at[node.form.name] = (column * _COLUMN + _EDGE, places.next + row * _ROW + _EDGE)
    places.next += _ROW * -(-len(alone) // across)
    width, height = places.deepest * _COLUMN + _BOX + 2 * _EDGE, places.next + 2 * _EDGE
    lines, boxes = [], []
    for node, parent in places.nodes:
        if parent is not None:
            lines.append(_line(places, parent.form.name, node.form.name, "branch"))
        lines += [_line(places, name, node.form.name, "branch also") for name in node.further]
        boxes.append(_box(node, *places.at[node.form.name], families))
    return svg.element(
        "svg", "".join(lines + boxes), viewBox=f"0 0 {width:g} {height:g}", role="img",
        aria_labelledby="lineage-name", aria_describedby="lineage-list",
    )  # fmt: skip


def _ordered(nodes: Sequence[Node]) -> list[Node]:
    """The roots that lead to anything; a further parent's tree follows the tree it leads to."""
    own = {node.form.name: set(_names(node)) for node in nodes}
    wanted = {
        node.form.name: {name for name in _further(node) if name not in own[node.form.name]}
        for node in nodes
    }
    leads = [n for n in nodes if own[n.form.name] & set().union(*wanted.values())]
    order: list[Node] = []

    def add(node: Node) -> None:
        if node not in order:
            order.append(node)
            for other in leads:
                if own[other.form.name] & wanted[node.form.name]:
                    add(other)

    for node in [*(n for n in nodes if n.children and n not in leads), *leads]:
        add(node)
    return order


def _names(node: Node) -> Iterator[str]:
    yield node.form.name
    for child in node.children:
        yield from _names(child)


def _further(node: Node) -> Iterator[str]:
    yield from node.further
    for child in node.children:
        yield from _further(child)


def _line(places: _Places, a: str, b: str, kind: str) -> str:
    """From the right of a box to the left of another, as a curve."""
    (x0, y0), (x1, y1) = places.at[a], places.at[b]
    x0, y0, y1 = x0 + _BOX, y0 + _TALL / 2, y1 + _TALL / 2
    if x1 <= x0:
        # A parent that stands no farther left: around its box, from below or above.
        x0 -= _BOX / 2
        y0 += _TALL / 2 if y1 > y0 else -_TALL / 2
        path = f"M{x0:g} {y0:g}C{x0:g} {(y0 + y1) / 2:g} {x1 - 26:g} {y1:g} {x1:g} {y1:g}"
        return svg.element("path", d=path, cls=kind)
    middle = x1 - (_COLUMN - _BOX) / 2 if "also" not in kind else (x0 + x1) / 2
    path = f"M{x0:g} {y0:g}C{middle:g} {y0:g} {middle:g} {y1:g} {x1:g} {y1:g}"
    return svg.element("path", d=path, cls=kind)


def _box(node: Node, x: float, y: float, families: Mapping[str, str]) -> str:
    name, year = node.form.name, str(node.form.year)
    wide = svg.text_width(name) > _BOX - 52
    parts = [
        svg.element("title", escape(f"{name}, {year}: {node.method.title}")),
        svg.element("rect", x=x, y=y, width=_BOX, height=_TALL, rx=5, cls="form"),
        svg.element("rect", x=x, y=y + 4, width=4, height=_TALL - 8, rx=2,
                    cls=families[node.method.family]),
        svg.element("text", escape(name), x=x + 11, y=y + 16, cls="name",
                    textLength=_BOX - 54 if wide else None,
                    lengthAdjust="spacingAndGlyphs" if wide else None),
        svg.element("text", year, x=x + _BOX - 7, y=y + 16, cls="tick", text_anchor="end"),
    ]  # fmt: skip
    return svg.element("a", "".join(parts), href=f"#m-{node.method.id}", tabindex="-1")
