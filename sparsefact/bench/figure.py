"""The figure of a benchmark: seconds over size, one panel per case, on logarithmic axes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sparsefact.errors import ArgumentError, StorageError
from sparsefact.io.atomic import atomic_write

__all__ = ["check_figure", "draw"]

_SUFFIXES = (".svg", ".png", ".pdf")


def check_figure(path: Path) -> None:
    """Refuse a figure that could not be drawn, before anything is measured.

    Raises
    ------
    ArgumentError
        If the ending is none of .svg, .png and .pdf.
    StorageError
        If matplotlib is not installed.
    """
    if path.suffix not in _SUFFIXES:
        raise ArgumentError(f"{path}: a figure ends in .svg, .png or .pdf; give such a path")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise StorageError(
            f"{path}: a figure needs matplotlib, which is not installed; pip install 'sparsefact[report]'"
        ) from error


def draw(content: dict[str, Any], path: Path) -> None:
    """Write the figure of the rows of a result file: medians, bars from quartile to quartile, and the roofline.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    from matplotlib.figure import Figure

    panels: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in content["rows"]:
        panels.setdefault((row["suite"], row["name"], row["dtype"], _detail(row)), []).append(row)
    columns = min(4, max(1, len(panels)))
    lines = max(1, math.ceil(len(panels) / columns))
    figure = Figure(figsize=(4.5 * columns, 3.4 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).reshape(-1)
    for ax, ((_, name, dtype, detail), rows) in zip(axes, panels.items(), strict=False):
        series: dict[str, list[tuple[float, float, float, float]]] = {}
        for row in rows:
            for way, told in row["ways"].items():
                if told.get("median"):
                    low, high = told["quartiles"]
                    point = (row["size"], told["median"], told["median"] - low, high - told["median"])
                    series.setdefault(f"{way}, {row['device']}", []).append(point)
        for label, points in sorted(series.items(), key=lambda item: not item[0].startswith("sparsefact")):
            x, y, below, above = zip(*sorted(points), strict=True)
            width = 2.2 if label.startswith("sparsefact") else 1.0
            errors = [[max(0.0, b) for b in below], [max(0.0, a) for a in above]]
            ax.errorbar(x, y, yerr=errors, marker="o", markersize=3, linewidth=width, label=label)
        for device in dict.fromkeys(row["device"] for row in rows):
            floor = sorted((row["size"], row["roofline_seconds"]) for row in rows if row["device"] == device)
            ax.plot(*zip(*floor, strict=True), "--", color="0.6", linewidth=0.8, label=f"roofline, {device}")
        ax.set(xscale="log", yscale="log", xlabel="size", ylabel="seconds")
        ax.set_title(", ".join(part for part in (name, dtype, detail) if part), fontsize=9)
        ax.legend(fontsize=6)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    atomic_write(path, lambda temporary: figure.savefig(temporary, format=path.suffix[1:], dpi=120))


def _detail(row: dict[str, Any]) -> str:
    """Return what tells cases apart but does not change with the size."""
    detail = str(row["detail"])
    return "" if "unknowns" in detail or row["name"] == "one factor" else detail
