"""What `sparsefact.report.figures` draws of numbers over numbers: which line has a colour and a name, and the axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparsefact.report.style import COLOURS, INK, MARKERS, dressed, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Curve", "draw_curves", "draw_errors", "draw_histories", "few_ticks", "look_of", "percent"]

_NAMED = 6  # lines that have a name and a colour each; of more, only the highest and the lowest do
_FIRST = {"linewidth": 2.2}
_MARKED = 10  # markers on a line

Curve = Sequence[tuple[float, float]]


def draw_errors(ax: Axes, curves: Mapping[str, Curve], *, first: bool) -> None:
    """Draw relative errors over densities."""
    dressed(ax, x="density (numbers kept / entries of the matrix)", y="relative error")
    draw_curves(ax, curves, first=first)
    ax.set(xlim=(0, None), ylim=(0, None))
    percent(ax.yaxis)


def draw_histories(ax: Axes, histories: Mapping[str, Sequence[Any]]) -> None:
    """Draw relative errors over iterations, or objectives where a history has no errors."""
    steps = [step for history in histories.values() for step in history]
    errors = all(isinstance(step, tuple) or step.error is not None for step in steps)

    def point(step: Any) -> tuple[float, float]:
        return step if isinstance(step, tuple) else (step.iteration, step.error if errors else step.objective)

    dressed(ax, x="iteration", y="relative error" if errors else "objective")
    curves = {name: [point(step) for step in history] for name, history in histories.items()}
    draw_curves(ax, curves, first=False)
    values = [y for curve in curves.values() for _, y in curve if math.isfinite(y)]
    if values and min(values) > 0 and max(values) > 3 * min(values):
        ax.set_yscale("log")
        few_ticks(ax.yaxis)
    if errors:
        percent(ax.yaxis)


def draw_curves(ax: Axes, curves: Mapping[str, Curve], *, first: bool) -> None:
    """Draw a line for each curve, all of them named where they are few, else only the highest and the lowest.

    Where `first`, the first curve is set off from the others.
    """
    finite = {
        name: [(x, y) for x, y in curve if math.isfinite(x) and math.isfinite(y)] for name, curve in curves.items()
    }
    ends = {name: curve[-1][1] for name, curve in finite.items() if curve}
    named = list(ends) if len(ends) <= _NAMED else [max(ends, key=ends.__getitem__), min(ends, key=ends.__getitem__)]
    faint = min(0.5, 30 / max(len(ends), 1))
    if len(ends) > len(named):
        for name in ends:
            if name not in named:
                ax.plot(*zip(*finite[name], strict=True), color=INK, linewidth=0.8, alpha=faint, label=plain(name))
    handles = []
    for number, name in enumerate(named):
        look: dict[str, Any] = _FIRST if first and number == 0 else {"linewidth": 1.4}
        colour = COLOURS[number % len(COLOURS)]
        handles += ax.plot(
            *zip(*finite[name], strict=True),
            **look,
            color=colour,
            marker=MARKERS[number % len(MARKERS)],
            markevery=-(-len(finite[name]) // _MARKED),
            label=plain(name),
        )
    if len(ends) > len(named):
        words = [f"highest: {plain(named[0])}", f"lowest: {plain(named[1])}", f"the other {len(ends) - 2}"]
        ax.legend([*handles, ax.lines[0]], words)
    elif len(named) > 1 or first:
        ax.legend(handles, [plain(name) for name in named])


def look_of(way: str, number: int) -> dict[str, Any]:
    """Return how the line of a way of doing something looks, the same wherever it is drawn."""
    if way.startswith("roofline"):
        return {"color": INK, "linewidth": 1.2}
    lines = ("-", "--", ":", "-.")
    look = {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": lines[number // len(COLOURS) % len(lines)],
    }
    return look | ({"linewidth": 2.2, "zorder": 3} if way.startswith("sparsefact") else {"linewidth": 1.2})


def percent(axis: Any) -> None:
    """Let an axis count in percent."""
    axis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")


def few_ticks(axis: Any) -> None:
    """Put ticks at 1, 2 and 5 of each decade, and none between."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
