"""Pictures of grids: text, SVG, and pixels by Pillow.

A cell is coloured by what it is, or by its value where values are given: pale to blue from the
lowest to the highest, which reads with colour-blind eyes and on dark pages, since every cell
brings its own background. Forbidden cells are framed in orange, targets in green.
"""

from __future__ import annotations

import base64
import io
import os
from typing import Any

import numpy as np

from paragone.reinforcement._grid_layout import FORBIDDEN, MOVES

__all__ = ["Drawing", "as_text"]

_ARROWS = "↑→↓←·"
_FREE, _FORBIDDEN, _TARGET = (247, 247, 245), (243, 178, 120), (140, 205, 170)
_LOW, _HIGH = (252, 251, 247), (92, 148, 200)
_LINE, _INK, _GREEN, _AGENT = (150, 150, 150), (25, 25, 25), (0, 120, 80), (170, 30, 90)


def _checked(grid: Any, values: Any, policy: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Values (S,) and probabilities (S, A), or None."""
    from paragone.reinforcement._plan import checked_policy

    numbers = None if values is None else np.asarray(values, np.float64).reshape(-1)
    if numbers is not None and len(numbers) != grid.n_states:
        raise ValueError(f"{len(numbers)} values for {grid.n_states} states: give one for each")
    if policy is None:
        return numbers, None
    chance = checked_policy(grid, policy)
    if chance.ndim == 1:
        chance = np.eye(grid.n_actions)[chance]
    return numbers, chance


def as_text(grid: Any, values: Any, policy: Any, agent: int | None) -> str:
    """Blocks of text below each other: cells, arrows, values."""
    numbers, chance = _checked(grid, values, policy)
    cells = [list(row) for row in grid.layout]
    if agent is not None:
        cells[agent // grid.shape[1]][agent % grid.shape[1]] = "@"
    blocks = ["\n".join(" ".join(row) for row in cells)]
    if chance is not None:
        likeliest = chance.argmax(axis=1).reshape(grid.shape)
        blocks.append("\n".join(" ".join(_ARROWS[a] for a in row) for row in likeliest))
    if numbers is not None:
        table = [[f"{v:.1f}" for v in row] for row in numbers.reshape(grid.shape)]
        width = max(len(v) for row in table for v in row)
        blocks.append("\n".join(" ".join(v.rjust(width) for v in row) for row in table))
    return "\n\n".join(blocks) + "\n"


class Drawing:
    """A drawn grid.

    Args:
        grid: The `GridWorld`.
        values: State values (S,), or None.
        policy: Actions (S,) or probabilities (S, A), or None.
        agent: State of the agent, or None.
    """

    def __init__(self, grid: Any, values: Any, policy: Any, agent: int | None) -> None:
        self.rows, self.columns = grid.shape
        numbers, self._chance = _checked(grid, values, policy)
        self._numbers = None if numbers is None else numbers.reshape(grid.shape)
        self._cells, self._agent = grid.cells, agent
        self.cell = 56 if max(grid.shape) <= 12 else 32 if max(grid.shape) <= 30 else 16
        if max(grid.shape) > 60:
            self.cell = max(1, 900 // max(grid.shape))

    def _colors(self) -> np.ndarray:
        """Background of each cell (R, C, 3), bytes."""
        kinds = np.array([_FREE, _FORBIDDEN, _TARGET], np.uint8)
        if self._numbers is None:
            return kinds[self._cells]
        v = self._numbers
        span = float(v.max() - v.min())
        share = ((v - v.min()) / span if span > 0 else np.zeros_like(v))[:, :, None]
        blend = np.array(_LOW) * (1 - share) + np.array(_HIGH) * share
        colors = np.round(blend).astype(np.uint8)
        if self.cell < 16:
            colors[self._cells != 0] = kinds[self._cells[self._cells != 0]]
        return colors

    def _arrows(self) -> list[tuple[int, int, int, float]]:
        """(row, column, action, probability) of what is to be drawn."""
        if self._chance is None or self.cell < 16:
            return []
        found = np.argwhere(self._chance > 0.01)
        chances = self._chance[tuple(found.T)].tolist()
        pairs = zip(found.tolist(), chances, strict=True)
        return [(s // self.columns, s % self.columns, a, p) for (s, a), p in pairs]

    def svg(self) -> str:
        """The picture as SVG text; a grid of more than 60 cells a side is an image in it."""
        wide, high, d = self.columns * self.cell, self.rows * self.cell, self.cell
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" '
            f'width="{wide}" height="{high}" role="img" aria-label="grid world" '
            'font-family="sans-serif">'
        )
        if d < 16:
            data = base64.b64encode(self.png()).decode()
            href = f"data:image/png;base64,{data}"
            return f'{head}<image width="{wide}" height="{high}" href="{href}"/></svg>'
        parts, colors = [head], self._colors().tolist()
        for (r, c), kind in np.ndenumerate(self._cells):
            parts.append(_cell(c * d, r * d, d, tuple(colors[r][c]), int(kind)))
        if self._numbers is not None and d >= 32:
            low = 0.9 if self._chance is not None else 0.56
            for (r, c), v in np.ndenumerate(self._numbers):
                parts.append(
                    f'<text x="{(c + 0.5) * d:g}" y="{(r + low) * d:g}" font-size="{d * 0.24:g}" '
                    f'text-anchor="middle" fill="rgb{_INK}">{v:.3g}</text>'
                )
        for r, c, a, p in self._arrows():
            parts.append(_arrow(*self._middle(r, c), d, a, p))
        if self._agent is not None:
            x, y = self._middle(*divmod(self._agent, self.columns))
            parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="{d * 0.2:g}" fill="rgb{_AGENT}"/>')
        return "".join(parts) + "</svg>"

    def _middle(self, r: int, c: int) -> tuple[float, float]:
        up = 0.36 if self._numbers is not None and self.cell >= 32 else 0.5
        return (c + 0.5) * self.cell, (r + up) * self.cell

    def pixels(self) -> np.ndarray:
        """The picture (H, W, 3) as bytes, by Pillow."""
        from PIL import Image, ImageDraw

        colors = self._colors()
        d = self.cell
        image = Image.fromarray(np.repeat(np.repeat(colors, d, axis=0), d, axis=1))
        pen = ImageDraw.Draw(image)
        if d >= 16:
            for (r, c), kind in np.ndenumerate(self._cells):
                box = (c * d, r * d, (c + 1) * d - 1, (r + 1) * d - 1)
                pen.rectangle(box, outline=_LINE)
                if kind:
                    edge = _FORBIDDEN if kind == FORBIDDEN else _GREEN
                    inner = (box[0] + 2, box[1] + 2, box[2] - 2, box[3] - 2)
                    pen.rectangle(inner, outline=edge, width=3)
            if self._numbers is not None and d >= 32:
                low = 0.84 if self._chance is not None else 0.5
                for (r, c), v in np.ndenumerate(self._numbers):
                    at = ((c + 0.5) * d, (r + low) * d)
                    pen.text(at, f"{v:.3g}", fill=_INK, anchor="mm", font_size=d * 0.24)
        for r, c, a, p in self._arrows():
            _pen_arrow(pen, *self._middle(r, c), d, a, p)
        if self._agent is not None:
            x, y = self._middle(*divmod(self._agent, self.columns))
            size = max(1.0, 0.2 * d)
            pen.ellipse((x - size, y - size, x + size, y + size), fill=_AGENT)
        return np.asarray(image)

    def png(self) -> bytes:
        """The picture as a PNG file."""
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(self.pixels()).save(buffer, "PNG", optimize=True)
        return buffer.getvalue()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the picture; the ending says how: .svg or .png.

        Raises:
            ValueError: The ending is neither.
        """
        ending = os.path.splitext(path)[1]
        if ending not in (".svg", ".png"):
            raise ValueError(f"{os.fspath(path)!r} ends in {ending!r}: use .svg or .png")
        with open(path, "wb") as file:
            file.write(self.png() if ending == ".png" else self.svg().encode())

    def _repr_svg_(self) -> str:
        return self.svg()


def _cell(x: int, y: int, d: int, color: tuple[int, ...], kind: int) -> str:
    box = f'<rect x="{x}" y="{y}" width="{d}" height="{d}" fill="rgb{color}" stroke="rgb{_LINE}"/>'
    if kind == 0:
        return box
    edge = _FORBIDDEN if kind == FORBIDDEN else _GREEN
    inner = f'<rect x="{x + 2.5}" y="{y + 2.5}" width="{d - 5}" height="{d - 5}" fill="none" '
    box += f'{inner}stroke="rgb{edge}" stroke-width="3"/>'
    return box


def _ends(x: float, y: float, d: int, action: int, chance: float) -> tuple[float, ...]:
    """Tip of the arrow and the two corners of its head."""
    dy, dx = MOVES[action]
    reach, head = 0.26 * d * chance, 0.1 * d * (0.4 + 0.6 * chance)
    tx, ty = x + dx * reach, y + dy * reach
    back = (tx - dx * head, ty - dy * head)
    return (
        tx, ty, back[0] + dy * head * 0.7, back[1] + dx * head * 0.7,
        back[0] - dy * head * 0.7, back[1] - dx * head * 0.7,
    )  # fmt: skip


def _arrow(x: float, y: float, d: int, action: int, chance: float) -> str:
    width = max(1.0, d / 28)
    if MOVES[action] == (0, 0):
        return (
            f'<circle cx="{x:g}" cy="{y:g}" r="{0.13 * d * chance:g}" fill="none" '
            f'stroke="rgb{_INK}" stroke-width="{width:g}"/>'
        )
    tx, ty, ax, ay, bx, by = _ends(x, y, d, action, chance)
    return (
        f'<path d="M{x:g} {y:g}L{tx:.1f} {ty:.1f}M{ax:.1f} {ay:.1f}L{tx:.1f} {ty:.1f}'
        f'L{bx:.1f} {by:.1f}" fill="none" stroke="rgb{_INK}" stroke-width="{width:g}"/>'
    )


def _pen_arrow(pen: Any, x: float, y: float, d: int, action: int, chance: float) -> None:
    width = max(1, round(d / 28))
    if MOVES[action] == (0, 0):
        r = 0.13 * d * chance
        pen.ellipse((x - r, y - r, x + r, y + r), outline=_INK, width=width)
        return
    tx, ty, ax, ay, bx, by = _ends(x, y, d, action, chance)
    pen.line((x, y, tx, ty), fill=_INK, width=width)
    pen.line((ax, ay, tx, ty, bx, by), fill=_INK, width=width)
