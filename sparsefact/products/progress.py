"""One entry of the history of a solver: what a callback receives, and what a file of factors keeps."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Progress"]


@dataclass(frozen=True)
class Progress:
    """What a callback receives and a history keeps.

    Attributes
    ----------
    iteration : int
        Steps done.
    total : int
        Steps at most.
    objective : float
        The value that is minimised.
    error : float or None
        The relative error of a factorization; None for `minimize`.
    seconds : float
        Since the solver started; 0 where the history comes from a file, which holds no times.
    """

    iteration: int
    total: int
    objective: float
    error: float | None
    seconds: float
