"""What the constraints with a fixed set of positions share: a shape, and a count that does not depend on the matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.constraints.base import Projection, Shape, check_shape
from sparsefact.errors import ShapeError

__all__ = ["FixedPositions"]


class FixedPositions(Projection):
    """The matrices of one shape that are zero outside given positions; a subclass has `shape`, `nnz` and `_mask`."""

    __slots__ = ()

    def count(self: Any, shape: Shape | None = None) -> int:
        """Return how many entries may be nonzero.

        Parameters
        ----------
        shape : (int, int), optional
            Checked against the shape of the support.

        Returns
        -------
        int
        """
        if shape is not None:
            self._check(check_shape(shape), "the matrix")
        nnz: int = self.nnz
        return nnz

    def mask(self: Any, scores: NDArray[Any] | None = None) -> NDArray[np.bool_]:
        """Return the support as a new dense boolean array, whatever the scores.

        Parameters
        ----------
        scores : (m, n) array, optional
            Only the shape is looked at.

        Returns
        -------
        (m, n) bool array
        """
        if scores is not None:
            self._check(scores.shape, "scores")
        mask: NDArray[np.bool_] = self._mask()
        return mask

    def _check(self: Any, shape: Any, name: str) -> None:
        """Refuse a shape that is not that of the support."""
        if tuple(shape) != self.shape:
            raise ShapeError(
                f"{name} has shape {tuple(shape)}, but the support has shape {self.shape}; they must agree"
            )

    def _fit(self, x: Any) -> None:
        if np.ndim(x) == 2:
            self._check(np.shape(x), "x")
