"""How many threads the BLAS of this process uses: the last bits of every result depend on it."""

from __future__ import annotations

import os

__all__ = ["THREAD_VARIABLES", "cores", "threads_here"]

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


def threads_here() -> int:
    """Return the number of BLAS threads that this process was started for.

    Returns
    -------
    int
        What the first of the usual variables says (``OPENBLAS_NUM_THREADS``, ``MKL_NUM_THREADS``,
        ``OMP_NUM_THREADS``), or the cores that the process may use.

    Examples
    --------
    >>> threads_here() >= 1
    True
    """
    for name in THREAD_VARIABLES:
        value = os.environ.get(name, "")
        if value.isdecimal() and int(value) > 0:
            return int(value)
    return cores()


def cores() -> int:
    """Return how many cores this process may use.

    Returns
    -------
    int

    Examples
    --------
    >>> cores() >= 1
    True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
