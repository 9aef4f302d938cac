"""What a running job shows on standard error: one bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from sparsefact.checkpoints.report import MEASURING
from sparsefact.cli.text import duration, percent, printable, shortened

if TYPE_CHECKING:
    from sparsefact.checkpoints.plan import Plan
    from sparsefact.checkpoints.run import Event

__all__ = ["show_progress"]

_QUIET_SECONDS = 30.0  # off a terminal, a long matrix speaks at most this often
_MEASURING = "measuring, "
_BAR = 10
_REST = _BAR + len("  100 %  iteration 50/50, error 12.34 %  0:00:00 ")


@contextlib.contextmanager
def show_progress(plan: Plan) -> Iterator[Callable[[Event], None]]:
    """Give the `on_event` of a run: a bar with name, iteration, error and time left, or plain lines.

    Parameters
    ----------
    plan : Plan
        What is going to run; the bar advances by the arithmetic each matrix costs.
    """
    from rich.console import Console

    screen = Console(stderr=True, markup=False, highlight=False, emoji=False)
    if not screen.is_terminal:
        yield _Lines()
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=_BAR),
        TextColumn("{task.percentage:>3.0f} %", markup=False),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeRemainingColumn(),
        console=screen,
        transient=True,
    ) as progress:
        bar = _Bar(plan)
        task = progress.add_task("", total=bar.total, detail="")

        def show(event: Event) -> None:
            if event.kind in ("copied", "waiting"):
                return
            if event.kind == "writing":
                progress.update(task, description="writing", detail="", completed=bar.total)
                return
            if event.kind == "failed":
                screen.print(_line(event), style="red", soft_wrap=True)
            count = f"[{event.index + 1}/{event.total}] {_MEASURING if event.message == MEASURING else ''}"
            progress.update(
                task,
                description=count + shortened(printable(event.name), screen.width - len(count) - _REST),
                detail=_detail(event),
                completed=bar.after(event),
                refresh=event.kind != "progress",
            )

        yield show


class _Bar:
    """How much of a run is done, also while several matrices are in hand and the first ones come last."""

    def __init__(self, plan: Plan) -> None:
        # Alternating over an m x n matrix is dominated by products with a square factor of side min(m, n).
        costs = {target.name: target.shape[0] * target.shape[1] * min(target.shape) for target in plan.targets}
        shared = [] if plan.recipe.total is None else [t.name for t in plan.targets if t.constraint is None]
        self._costs = {("", name): cost for name, cost in costs.items()}
        self._costs |= {(MEASURING, name): costs[name] for name in shared}
        self._shares: dict[tuple[str, str], float] = {}
        self.total = max(sum(self._costs.values()), 1)

    def after(self, event: Event) -> float:
        """Return how much is done after an event."""
        share = event.iteration / event.iterations if event.kind == "progress" and event.iterations else 0.0
        measuring = event.message == MEASURING
        if event.kind in ("done", "failed", "resumed", "measured"):
            share = 1.0
        self._shares[MEASURING if measuring else "", event.name] = share
        if not measuring:  # its curve, perhaps of an earlier run, is known
            self._shares[MEASURING, event.name] = 1.0
        return sum(share * self._costs.get(kind, 0) for kind, share in self._shares.items())


class _Lines:
    """One line per finished matrix, and a sign of life from a long one."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if event.kind in ("done", "failed", "measured", "writing") or (
            event.kind == "progress" and now - self._last >= _QUIET_SECONDS
        ):
            self._last = now
            click.echo(_line(event), err=True)


def _detail(event: Event) -> str:
    parts = [f"iteration {event.iteration}/{event.iterations}"] if event.iterations else []
    return ", ".join(parts + ([f"error {percent(event.error)}"] if event.error is not None else []))


def _line(event: Event) -> str:
    if event.kind == "writing":
        return f"writing {printable(event.name)}"
    head = f"[{event.index + 1}/{event.total}] {printable(event.name)}: "
    if event.kind == "failed":
        return head + f"failed: {printable(event.message)}"
    if event.kind == "done":
        return head + f"error {percent(event.error)} in {duration(event.seconds)}"
    if event.kind == "measured":
        return head + "measured for its share of the budget"
    return head + (_MEASURING if event.message == MEASURING else "") + _detail(event)
