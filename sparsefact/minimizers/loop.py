"""The one loop that drives every solver: history, callback, time limit, and the guard against non-finite numbers."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Any

from sparsefact.errors import ArgumentError, NonFiniteError
from sparsefact.minimizers.protocol import Callback, Outcome, Progress, Solver
from sparsefact.products.status import Status

__all__ = ["Run", "check_limits", "run"]


@dataclass(frozen=True)
class Run:
    """A finished run: its outcome, what was reported on the way, and how long it took in seconds."""

    outcome: Outcome
    history: tuple[Progress, ...]
    seconds: float


def check_limits(callback: Any, time_limit: Any) -> None:
    """Refuse a callback that cannot be called, and a time limit that is not a positive number of seconds."""
    if callback is not None and not callable(callback):
        raise ArgumentError(
            f"callback={callback!r} cannot be called; pass a function of one Progress that returns True to stop"
        )
    if time_limit is not None and not (isinstance(time_limit, (int, float)) and time_limit > 0):
        raise ArgumentError(
            f"time_limit={time_limit!r} is not a positive number of seconds; pass one, or None for no limit"
        )


def run(solver: Solver, problem: Any, *, callback: Callback | None = None, time_limit: float | None = None) -> Run:
    """Drive `solver` on `problem` to its end, to the time limit, or until `callback` returns True.

    A run that is ended early is still finished properly: its factors obey the constraints.

    Raises
    ------
    NonFiniteError
        If the objective stops being finite.
    ArgumentError
        If the time limit is not a positive number, or the callback cannot be called.
    """
    check_limits(callback, time_limit)
    started = time.perf_counter()
    total, history, early = solver.iterations, [], None
    state = solver.init(problem)
    for iteration in range(1, total + 1):
        solver.step(problem, state)
        seconds = time.perf_counter() - started
        if time_limit is not None and seconds > time_limit:
            early = Status.LIMIT
        if iteration % solver.report_every and iteration != total and early is None:
            continue
        report = solver.report(problem, state)
        if not math.isfinite(report.objective):
            raise NonFiniteError(
                f"{type(solver).__name__} reached a non-finite objective at iteration {iteration} of {total}; "
                "check the scale of the input, or use a larger penalty or ridge"
            )
        progress = Progress(iteration, total, report.objective, report.error, seconds)
        history.append(progress)
        if callback is not None and callback(progress):
            early = Status.STOPPED
        if early is not None or report.converged:
            break
    outcome = solver.finish(problem, state)
    if early is not None:
        outcome = dataclasses.replace(outcome, status=early)
    return Run(outcome, tuple(history), time.perf_counter() - started)
