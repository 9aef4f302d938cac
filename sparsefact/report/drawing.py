"""Small pictures as inline SVG: bars, lines and the supports of factors. No script, no font, no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["bars", "lines", "support"]

_LEVELS = 5
_CELLS = 32


def bars(rows: Sequence[tuple[str, float, float]], labels: tuple[str, str], unit: str) -> str:
    """Return pairs of horizontal bars.

    Parameters
    ----------
    rows : sequence of (str, float, float)
        A name and its two values, none negative.
    labels : (str, str)
        What the two values are.
    unit : str
        Written after each value.

    Returns
    -------
    str
        An ``<svg>`` element.

    Examples
    --------
    >>> bars([("w", 1.0, 2.0)], ("before", "after"), "MiB").count("<rect")
    4
    """
    most = max((max(first, second) for _, first, second in rows), default=0.0) or 1.0
    height = 30 * len(rows) + 24
    parts = [f'<svg class="bars" viewBox="0 0 640 {height}" role="img" aria-label="{escape(" and ".join(labels))}">']
    for index, label in enumerate(labels):
        parts.append(f'<rect class="c{index}" x="{260 + 120 * index}" y="4" width="10" height="10"/>')
        parts.append(f'<text x="{275 + 120 * index}" y="13">{escape(label)}</text>')
    for row, (name, *values) in enumerate(rows):
        top = 24 + 30 * row
        parts.append(f'<text class="name" x="250" y="{top + 16}">{escape(_short(name))}</text>')
        for index, value in enumerate(values):
            width = 290 * value / most
            y = top + 12 * index
            parts.append(f'<rect class="c{index}" x="260" y="{y}" width="{width:.1f}" height="10"/>')
            parts.append(f'<text class="value" x="{264 + width:.1f}" y="{y + 9}">{value:.4g} {escape(unit)}</text>')
    return "".join([*parts, "</svg>"])


def lines(series: Sequence[tuple[str, Sequence[tuple[float, float]]]], x_label: str, y_label: str) -> str:
    """Return lines over a common axis; the vertical one begins at zero.

    Parameters
    ----------
    series : sequence of (str, sequence of (float, float))
        A name and its points.
    x_label, y_label : str
        What the axes are.

    Returns
    -------
    str
        An ``<svg>`` element.

    Examples
    --------
    >>> lines([("w", [(1, 0.5), (2, 0.25)])], "iteration", "error").count("<polyline")
    1
    """
    points = [point for _, path in series for point in path if all(map(math.isfinite, point))]
    if not points:
        return ""
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    top = max(y for _, y in points) or 1.0
    width = (right - left) or 1.0
    parts = [
        f'<svg class="lines" viewBox="0 0 640 260" role="img" aria-label="{escape(y_label)} over {escape(x_label)}">'
    ]
    parts.append('<path class="axis" d="M50 10V220H630"/>')
    for share in (0.0, 0.5, 1.0):
        parts.append(f'<text class="tick" x="45" y="{224 - 210 * share:.0f}">{100 * top * share:.1f} %</text>')
        parts.append(f'<text class="tick" x="{50 + 575 * share:.0f}" y="236">{left + width * share:.3g}</text>')
    parts.append(f'<text x="300" y="254">{escape(x_label)}</text>')
    for number, (name, path) in enumerate(series):
        places = " ".join(
            f"{50 + 575 * (x - left) / width:.1f},{220 - 210 * y / top:.1f}"
            for x, y in path
            if math.isfinite(x) and math.isfinite(y)
        )
        hue = 360 * number * 0.381966 % 360
        parts.append(
            f'<polyline points="{places}" stroke="hsl({hue:.0f} 60% 45%)"><title>{escape(name)}</title></polyline>'
        )
    return "".join([*parts, "</svg>"])


def support(factor: Any, label: str) -> str:
    """Return where a factor has entries: a grid whose cells are the darker the more of their entries are stored.

    Parameters
    ----------
    factor : sparse array, array or KroneckerFactor
        With ``shape``, and ``tocoo`` or ``tocsr`` unless it is dense.
    label : str
        Its name.

    Returns
    -------
    str
        An ``<svg>`` element.

    Examples
    --------
    >>> support(np.eye(3), "one").count("h1v1h-1z")
    9
    """
    filled = _grid(factor)
    rows, columns = filled.shape
    side = 4 if max(rows, columns) > _CELLS // 2 else 8
    parts = [
        f'<svg class="support" viewBox="0 0 {columns} {rows}" width="{columns * side}" height="{rows * side}" '
        f'role="img" aria-label="{escape(label)}"><title>{escape(label)}</title>'
    ]
    levels = np.ceil(filled * _LEVELS).astype(int)
    for level in range(1, _LEVELS + 1):
        where = np.argwhere(levels == level)
        if len(where):
            squares = "".join(f"M{x} {y}h1v1h-1z" for y, x in where)
            parts.append(f'<path fill-opacity="{level / _LEVELS:g}" d="{squares}"/>')
    return "".join([*parts, "</svg>"])


def _grid(factor: Any) -> NDArray[np.float64]:
    """Return the share of stored entries in each cell of a grid of at most 32 x 32."""
    m, n = factor.shape
    rows, columns = min(m, _CELLS), min(n, _CELLS)
    if isinstance(factor, np.ndarray):
        return np.ones((rows, columns))
    entries = factor.tocsr().tocoo()
    y, x = entries.row.astype(np.int64) * rows // m, entries.col.astype(np.int64) * columns // n
    counts = np.bincount(y * columns + x, minlength=rows * columns).reshape(rows, columns)
    heights = np.bincount(np.arange(m) * rows // m, minlength=rows)
    widths = np.bincount(np.arange(n) * columns // n, minlength=columns)
    shares: NDArray[np.float64] = counts / np.outer(heights, widths)
    return shares


def _short(name: str) -> str:
    return name if len(name) <= 36 else f"{name[:16]}...{name[-17:]}"
