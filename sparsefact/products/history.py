"""The history of a solver as one array and back: a row for each report, without the times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sparsefact.errors import FormatError
from sparsefact.products.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["decode_history", "encode_history"]

_COLUMNS = 4
_MOST_ROWS = 1 << 16  # 2 MB, and some tens of megabytes as objects


def encode_history(history: Sequence[Any]) -> NDArray[np.float64] | None:
    """Return iteration, total, objective and error of each report; NaN where a report has no error.

    Parameters
    ----------
    history : sequence of Progress
        Of a longer one than a file holds evenly spaced reports are taken, the last one among them.

    Returns
    -------
    (k, 4) array or None
        None if nothing was recorded, or something else than `Progress`. Times are left out, so that equal runs have
        equal bytes.

    Examples
    --------
    >>> encode_history([Progress(1, 9, 0.5, None, 0.1)])
    array([[1. , 9. , 0.5, nan]])
    """
    if not history or not all(isinstance(step, Progress) for step in history):
        return None
    stride = -(-len(history) // _MOST_ROWS)
    kept = history[::-stride][::-1]
    return np.array(
        [(s.iteration, s.total, s.objective, np.nan if s.error is None else s.error) for s in kept], np.float64
    )


def decode_history(rows: NDArray[Any], where: str) -> tuple[Progress, ...]:
    """Return the history that `encode_history` took apart.

    Parameters
    ----------
    rows : array
        From a file that cannot be trusted.
    where : str
        What the sentence of an error begins with.

    Returns
    -------
    tuple of Progress
        With zero for the times.

    Raises
    ------
    FormatError
        The array is no history: of another type or shape, or with numbers that no solver reports.
    """
    if rows.dtype != np.float64 or rows.ndim != 2 or rows.shape[1] != _COLUMNS or not 0 < len(rows) <= _MOST_ROWS:
        raise FormatError(
            f"{where}: the history is {rows.dtype} of shape {rows.shape}, but it must be float64 with {_COLUMNS} "
            f"columns and from 1 to {_MOST_ROWS} rows"
        )
    counts, error = rows[:, :2], rows[:, 3]
    if not ((counts >= 0) & (counts < 2**53) & (counts == np.floor(counts))).all():
        raise FormatError(f"{where}: the history counts steps that are no whole numbers from 0 to 2**53")
    if (error < 0).any():
        raise FormatError(f"{where}: the history has a relative error below 0")
    return tuple(
        Progress(int(iteration), int(total), objective, None if np.isnan(missed) else missed, 0.0)
        for iteration, total, objective, missed in rows.tolist()
    )
