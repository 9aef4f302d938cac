"""What every solver is, for one matrix or for a product: a frozen configuration that is driven step by step.

A solver is a frozen dataclass of hyper-parameters. The shared loop (`sparsefact.minimizers.loop`) calls

    state = solver.init(problem, warm)      # allocates; `warm` is a state of an earlier run to continue from
    solver.step(problem, state)             # one iteration, in place: no input or output, no clock
    solver.report(problem, state)           # how far it is, asked for every `report_every` steps
    solver.finish(problem, state)           # the Outcome

and owns history, callback, time limit and the guard against non-finite numbers. `Alternating` drives its inner solver
through the same methods.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.constraints.base import Constraint
from sparsefact.products.progress import Progress
from sparsefact.products.status import Status

__all__ = ["Callback", "MinimizeProblem", "Outcome", "Progress", "Report", "Solver"]


Callback = Callable[[Progress], bool | None]


@dataclass(frozen=True)
class Report:
    """What a solver says about its state: the objective, the relative error if it has one, and whether it is done."""

    objective: float
    error: float | None = None
    converged: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a solver ends with: the value (one matrix, or a tuple of factors), how it ended, and the proof if any.

    `error` is the relative error of a product where the solver knows it exactly. `evidence` is what speaks for a result
    without proving anything.
    """

    value: Any
    status: Status
    certificate: Any = None
    explanation: str = ""
    error: float | None = None
    evidence: Any = None


@dataclass(frozen=True, eq=False)
class MinimizeProblem:
    """One call of `minimize`, or one half-step of an alternating method.

    Attributes
    ----------
    objective : Quadratic or Adapted
        A quadratic as it is; any other objective as a function of one array (`sparsefact.minimizers.adapted`).
    constraint : Constraint
    backend : Backend
    start : array of the shape of the unknown, optional
        Where to start without a warm state.
    seed : int
    expendable : bool
        The solver may overwrite the objective's arrays and the start, and need not report; saves memory in half-steps.
    """

    objective: Any
    constraint: Constraint
    backend: Backend
    start: NDArray[Any] | None = None
    seed: int = 0
    expendable: bool = field(default=False)


@runtime_checkable
class Solver(Protocol):
    """The methods that the shared loop drives; see the module's docstring."""

    @property
    def iterations(self) -> int:
        """Steps at most."""
        ...

    @property
    def report_every(self) -> int:
        """Steps between two reports."""
        ...

    def init(self, problem: Any, warm: Any = None) -> Any:
        """Return the state to start from."""
        ...

    def step(self, problem: Any, state: Any) -> None:
        """Do one iteration, in place."""
        ...

    def report(self, problem: Any, state: Any) -> Report:
        """Measure the state."""
        ...

    def finish(self, problem: Any, state: Any) -> Outcome:
        """Turn the state into the result; the state is not used afterwards."""
        ...
