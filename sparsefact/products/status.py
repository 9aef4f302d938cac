"""How a solver ended: one enumeration for every solver of the package."""

from __future__ import annotations

import enum

__all__ = ["Status"]


class Status(enum.Enum):
    """How a solver ended; the value is a sentence.

    Examples
    --------
    >>> from sparsefact import Status
    >>> Status.STATIONARY.success
    True
    >>> Status.LIMIT.value
    'The iteration or time limit was reached first.'
    """

    OPTIMAL = "The returned point is a global optimum, and the certificate proves it."
    STATIONARY = "The solver converged: no step of its kind improves the returned point."
    INFIMUM_NOT_ATTAINED = "The infimum is approached but not attained: factors diverge while the error creeps down."
    LIMIT = "The iteration or time limit was reached first."
    STOPPED = "The callback asked to stop."

    @property
    def success(self) -> bool:
        """Whether the solver ended by its own criterion (`OPTIMAL` or `STATIONARY`)."""
        return self in (Status.OPTIMAL, Status.STATIONARY)
