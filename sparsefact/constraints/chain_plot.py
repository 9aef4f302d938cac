"""A picture of a chain: its supports side by side, to one scale. Needs matplotlib, which only this file imports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsefact.constraints.kronecker_pair import pattern
from sparsefact.constraints.kronecker_support import KroneckerSupport
from sparsefact.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot"]

_CELLS = 128  # a longer side is drawn with at most this many cells, each of which still is a pixel
_EVEN, _ODD, _PRODUCT, _GRID = "#1f5fa8", "#6fa8dc", "#b7bdc6", "#ffffff"


def plot(factors: Sequence[KroneckerSupport], product: KroneckerSupport | None, ax: Axes | None) -> Axes:
    """Draw `product`, where there is one, and the factors; the a diagonal blocks of each alternate in colour."""
    try:
        from matplotlib import pyplot
        from matplotlib.colors import ListedColormap
        from matplotlib.patches import Rectangle
    except ImportError as error:
        raise ArgumentError(
            "a chain cannot be drawn, since matplotlib is not installed; pip install 'sparsefact[report]'"
        ) from error
    panels = [(product, "A"), *((factor, f"K_{{{number}}}") for number, factor in enumerate(factors, 1))]
    if product is None:
        panels = panels[1:]
    shapes = [support.shape for support, _ in panels if support is not None]
    height = max(rows for rows, _ in shapes)
    longest = max(height, max(cols for _, cols in shapes))
    slots = [max(cols, 0.55 * longest) for _, cols in shapes]  # a narrow support still needs room for its label
    gap = 0.16 * longest
    width = sum(slots) + gap * (len(slots) - 1)
    if ax is None:
        inches = min(1.9, 24 * longest / width) / longest  # about two inches for the longest side, two feet in all
        _, ax = pyplot.subplots(figsize=(width * inches + 0.3, height * inches + 1.0), layout="constrained")
    start = 0.0
    for position, ((support, name), (rows, cols), slot) in enumerate(zip(panels, shapes, slots, strict=True)):
        assert support is not None
        left, top, middle = start + (slot - cols) / 2, (height - rows) / 2, start + slot / 2
        colours = [_PRODUCT, _PRODUCT] if name == "A" else [_EVEN, _ODD]
        image, cell = _picture(support)
        drawn = ax.imshow(
            np.ma.masked_equal(image, 0),
            cmap=ListedColormap(colours),
            vmin=1,
            vmax=2,
            interpolation="nearest",
            extent=(left, left + image.shape[1] * cell, top + image.shape[0] * cell, top),
            zorder=1,
        )
        if longest <= 48:
            ax.hlines(top + np.arange(1, rows), left, left + cols, color=_GRID, linewidth=0.6, zorder=2)
            ax.vlines(left + np.arange(1, cols), top, top + rows, color=_GRID, linewidth=0.6, zorder=2)
        frame = Rectangle((left, top), cols, rows, fill=False, edgecolor="#444444", linewidth=0.8, zorder=3)
        ax.add_patch(frame)
        drawn.set_clip_path(frame)  # the last cells may reach beyond
        space = 0.05 * longest
        ax.text(middle, top - space, f"${name}$", ha="center", va="bottom", fontsize=12)
        label = f"{rows} × {cols}" if name == "A" else str(pattern(support))
        ax.text(middle, top + rows + space, label, ha="center", va="top", fontsize=8, color="#444444")
        if position < len(panels) - 1:
            sign = r"$\approx$" if name == "A" else r"$\times$"
            ax.text(start + slot + gap / 2, height / 2, sign, ha="center", va="center", fontsize=12)
        start += slot + gap
    ax.set(xlim=(-0.02 * longest, width + 0.02 * longest), ylim=(height + 0.25 * longest, -0.25 * longest))
    ax.set_aspect("equal")
    ax.set_axis_off()
    return ax


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
