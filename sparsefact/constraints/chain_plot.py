"""Matrices side by side, to one scale, and the picture of a chain in that way. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.constraints.kronecker_pair import pattern
from sparsefact.constraints.kronecker_support import KroneckerSupport
from sparsefact.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Panel", "chain_panels", "draw_panels", "inches", "plot"]

_CELLS = 128  # a longer side is drawn with at most this many cells, each of which still is a pixel
_ROOM = 0.55
# a grey that can be read on white and on black, as in sparsefact/report/style.py
_EVEN, _ODD, _PRODUCT, _INK = "#0077bb", "#66b5e0", "#a5abb3", "#7f7f7f"


@dataclass(frozen=True)
class Panel:
    """One matrix of a picture.

    Attributes
    ----------
    name, label : str
        What stands above and below it; the name is set as mathematics.
    shape : (int, int)
        Of the matrix.
    image : masked array
        Cells, of which the masked ones are not drawn; the last ones may reach beyond the matrix.
    cell : int
        Entries along the side of a cell.
    colours : str or tuple of str
        The name of a colour map for values in `limits`, or one colour for each of the values 1, 2, ...
    limits : (float, float)
    """

    name: str
    label: str
    shape: tuple[int, int]
    image: Any
    cell: int
    colours: Any
    limits: tuple[float, float]


def plot(factors: Sequence[KroneckerSupport], product: KroneckerSupport | None, ax: Axes | None) -> Axes:
    """Draw `product`, where there is one, and the factors; the a diagonal blocks of each alternate in colour."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ArgumentError(
            "a chain cannot be drawn, since matplotlib is not installed; pip install 'sparsefact[report]'"
        ) from error
    panels = chain_panels(factors, product)
    if ax is None:
        _, ax = pyplot.subplots(figsize=inches(panels), layout="constrained")
    draw_panels(ax, panels, equals=product is not None)
    return ax


def chain_panels(factors: Sequence[KroneckerSupport], product: KroneckerSupport | None) -> list[Panel]:
    """Return the panels of a chain, that of the product first where there is one."""
    panels = []
    for support, name, colours in [
        *([(product, "A", (_PRODUCT, _PRODUCT))] if product is not None else []),
        *((factor, f"K_{{{number}}}", (_EVEN, _ODD)) for number, factor in enumerate(factors, 1)),
    ]:
        image, cell = _picture(support)
        rows, cols = support.shape
        label = f"{rows} × {cols}" if name == "A" else str(pattern(support))
        panels.append(Panel(name, label, (rows, cols), np.ma.masked_equal(image, 0), cell, colours, (1, len(colours))))
    return panels


def inches(panels: Sequence[Panel]) -> tuple[float, float]:
    """Return a size for panels side by side: about two inches for the longest side, two feet in all."""
    _, _, height, longest, width = _layout(panels, _ROOM)
    scale = min(1.9, 24 * longest / width) / longest
    return width * scale + 0.3, height * scale + 1.0


def draw_panels(ax: Axes, panels: Sequence[Panel], *, equals: bool, room: float = _ROOM) -> None:
    """Draw panels side by side, all to one scale; after the first stands a sign of nearness where `equals`.

    A panel gets at least the share `room` of the longest side, for what stands below it.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Rectangle

    slots, gap, height, longest, width = _layout(panels, room)
    start = 0.0
    for position, (panel, slot) in enumerate(zip(panels, slots, strict=True)):
        rows, cols = panel.shape
        left, top, middle = start + (slot - cols) / 2, (height - rows) / 2, start + slot / 2
        across, down = panel.image.shape[1] * panel.cell, panel.image.shape[0] * panel.cell
        drawn = ax.imshow(
            panel.image,
            cmap=ListedColormap(panel.colours) if isinstance(panel.colours, tuple) else panel.colours,
            vmin=panel.limits[0],
            vmax=panel.limits[1],
            interpolation="none",
            extent=(left, left + across, top + down, top),
            zorder=1,
        )
        if longest <= 48:
            ax.hlines(top + np.arange(1, rows), left, left + cols, color=_INK, linewidth=0.4, alpha=0.3, zorder=2)
            ax.vlines(left + np.arange(1, cols), top, top + rows, color=_INK, linewidth=0.4, alpha=0.3, zorder=2)
        frame = Rectangle((left, top), cols, rows, fill=False, edgecolor=_INK, linewidth=0.8, zorder=3)
        ax.add_patch(frame)
        drawn.set_clip_path(frame)  # the last cells may reach beyond
        space = 0.05 * longest
        ax.text(middle, top - space, f"${panel.name}$", ha="center", va="bottom", fontsize=12, color=_INK)
        ax.text(middle, top + rows + space, panel.label, ha="center", va="top", fontsize=8, color=_INK)
        if position < len(panels) - 1:
            sign = r"$\approx$" if equals and position == 0 else r"$\times$"
            ax.text(start + slot + gap / 2, height / 2, sign, ha="center", va="center", fontsize=12, color=_INK)
        start += slot + gap
    ax.set(xlim=(-0.02 * longest, width + 0.02 * longest), ylim=(height + 0.25 * longest, -0.25 * longest))
    ax.set_aspect("equal")
    ax.set_axis_off()


def _layout(panels: Sequence[Panel], room: float) -> tuple[list[float], float, int, int, float]:
    """Return the width of each panel, the gap, the height, the longest side and the width of all."""
    height = max(panel.shape[0] for panel in panels)
    longest = max(height, max(panel.shape[1] for panel in panels))
    slots = [max(panel.shape[1], room * longest) for panel in panels]
    gap = 0.16 * longest
    return slots, gap, height, longest, sum(slots) + gap * (len(slots) - 1)


def _picture(support: KroneckerSupport) -> tuple[NDArray[np.uint8], int]:
    """Return 0 off the support and 1 or 2 on it, by the parity of the diagonal block; and the entries along a cell."""
    a, b, c, d = pattern(support)
    m, n = support.shape
    cell = -(-max(m, n) // _CELLS)
    image = np.zeros((-(-m // cell), -(-n // cell)), dtype=np.uint8)
    if d == 1 and a == 1:
        image[:] = 1
        return image, cell
    inside = np.arange(d)
    colours = 2 if min(b, c) * d >= 2 * cell else 1  # smaller blocks share cells
    for block in range(a):
        for row in range(b):
            rows = ((block * b + row) * d + inside) // cell
            cols = ((block * c + np.arange(c)[:, None]) * d + inside) // cell
            image[np.broadcast_to(rows, cols.shape), cols] = 1 + block % colours
    return image, cell
