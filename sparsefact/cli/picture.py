"""The picture of a pair of supports in a terminal: letters."""

from __future__ import annotations

import string
from typing import Any

import numpy as np

__all__ = ["picture"]

_WIDEST = 64
_LETTERS = string.ascii_uppercase + string.ascii_lowercase


def picture(classes: Any, shape: tuple[int, int]) -> str:
    """Return the product with the classes that reach each cell, or an empty text where it is too large for that.

    A letter is the one class that reaches a cell, ``#`` stands for several, and ``·`` for none.

    Parameters
    ----------
    classes : sequence of (rows, cols, members)
    shape : (int, int)
        Of the product.

    Returns
    -------
    str

    Examples
    --------
    >>> first, second = ([0, 1], [0], [0]), ([1], [1], [1])  # rows, columns and inner indices of two classes
    >>> print(picture([first, second], (2, 2)))
    A·
    AB
    """
    if max(shape) > _WIDEST or len(classes) > len(_LETTERS):
        return ""
    cells = np.full(shape, "·")
    for letter, (rows, cols, _) in zip(_LETTERS, classes, strict=False):
        block = cells[np.ix_(rows, cols)]
        cells[np.ix_(rows, cols)] = np.where(block == "·", letter, "#")
    return "\n".join("".join(row) for row in cells)
