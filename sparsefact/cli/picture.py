"""Pictures of a pair of supports: letters in a terminal, or a figure."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import numpy as np

from sparsefact.errors import StorageError

__all__ = ["draw", "picture"]

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


def draw(left: Any, right: Any, path: Path) -> None:
    """Write a figure of the two supports and of how many rank-one supports reach each cell of the product.

    Parameters
    ----------
    left, right : Support
        Of shapes (m, r) and (r, n).
    path : Path
        Where to write; the suffix chooses the format.

    Raises
    ------
    StorageError
        If matplotlib is not installed, or the figure cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise StorageError(
            f"{path}: a figure needs matplotlib, which is not installed; pip install 'sparsefact[report]'"
        ) from error
    counts = (left.tocsr().astype(np.int32) @ right.tocsr().astype(np.int32)).toarray()
    figure = Figure(figsize=(11, 4), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, image, title in zip(
        panels,
        (left.mask(), right.mask(), counts),
        ("left support", "right support", "rank-one supports that reach each cell"),
        strict=True,
    ):
        shown = axes.imshow(image, cmap="viridis", vmin=0, interpolation="nearest")
        axes.set_title(title)
    figure.colorbar(shown, ax=panels[2])
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: the figure cannot be written ({error}); choose another path or suffix") from error
