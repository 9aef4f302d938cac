"""What a run tells while it goes on, and how its matrices came out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["MEASURING", "Event", "MatrixReport", "RunReport"]

MEASURING = "measuring"
"""The message of events of a matrix whose errors are measured first, for its share of a budget."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a run tells while it goes on.

    Attributes
    ----------
    kind : str
        ``"start"``, ``"progress"``, ``"measured"``, ``"done"`` or ``"failed"`` of a matrix, ``"resumed"`` of one that
        an earlier run has committed, ``"copied"`` of a tensor, ``"writing"`` of the output; ``"waiting"`` now and then
        while there is nothing to tell, so that the receiver can end the run by raising.
    name : str
        The tensor, or the output's path.
    index, total : int
        Which it is, from 0, of how many matrices (or copied tensors).
    iteration, iterations : int
        How far the solver is; 0 except for ``"progress"``.
    error : float or None
        The relative error reached.
    seconds : float
        Since the matrix was begun.
    message : str
        Why it failed or is copied; `MEASURING` while its share of a budget is looked for.
    """

    kind: str
    name: str
    index: int = 0
    total: int = 0
    iteration: int = 0
    iterations: int = 0
    error: float | None = None
    seconds: float = 0.0
    message: str = ""


@dataclass(frozen=True, slots=True)
class MatrixReport:
    """How one matrix came out.

    Attributes
    ----------
    name, shape, dtype
        As in the checkpoint.
    density : float
        ``nnz / (m * n)``; 1 for a matrix that failed and is kept as it was.
    nnz : int
        Entries stored by all factors.
    error : float or None
        ``||A - F1 F2|| / ||A||`` (Frobenius, in float64) of the values as they are stored; None if it failed.
    magnitude_error : float or None
        The same when instead the `nnz` entries of A of largest magnitude are kept; None if it failed.
    bytes_before, bytes_after : int
        Of the matrix and of its stored factors.
    seconds : float
        Spent on the factorization.
    dense_ms, factor_ms : float or None
        Median wall time of a product with 128 vectors, in milliseconds, before and after; None if it failed.
    status : str
        The name of the solver's `Status` in lower case, or ``"failed"``.
    message : str
        Why it failed, or what else is to be known.
    weighted_error : float or None
        The relative error in the loss of the Gram matrix, where there was one.
    """

    name: str
    shape: tuple[int, int]
    dtype: str
    density: float
    nnz: int
    error: float | None
    magnitude_error: float | None
    bytes_before: int
    bytes_after: int
    seconds: float
    dense_ms: float | None
    factor_ms: float | None
    status: str
    message: str = ""
    weighted_error: float | None = None


@dataclass(frozen=True, slots=True)
class RunReport:
    """How a run came out.

    Attributes
    ----------
    output : Path
        The file or folder that was written.
    matrices : tuple of MatrixReport
        One for each target of the plan, in its order.
    copied : tuple of str
        Names of the tensors that were taken over unchanged, without the matrices that failed.
    bytes_before, bytes_after : int
        Of all tensors together.
    seconds : float
        The whole run.
    resumed : int
        How many of the matrices an earlier run had committed.
    """

    output: Path
    matrices: tuple[MatrixReport, ...]
    copied: tuple[str, ...]
    bytes_before: int
    bytes_after: int
    seconds: float
    resumed: int = 0

    @property
    def failed(self) -> tuple[MatrixReport, ...]:
        """The matrices that could not be factorized; the output holds them as they were."""
        return tuple(matrix for matrix in self.matrices if matrix.status == "failed")

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a dictionary that JSON can hold."""
        return {**dataclasses.asdict(self), "output": str(self.output)}
