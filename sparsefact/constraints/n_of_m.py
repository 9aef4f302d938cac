"""n of every m consecutive entries: the pattern that sparse matrix units of GPUs read (2 of 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.registry import get_backend
from sparsefact.constraints.base import Projection, Shape, check_int, check_shape, nonzero_indices, two_dimensional
from sparsefact.errors import ArgumentError, ShapeError

__all__ = ["NOfM"]


@dataclass(frozen=True)
class NOfM(Projection):
    """At most `n` nonzeros in every `m` consecutive entries along an axis.

    Parameters
    ----------
    n, m : int
        ``1 <= n <= m``; the length along the axis must be a multiple of `m`.
    axis : {0, 1}
        1 groups the entries of a row, 0 those of a column.

    Raises
    ------
    ArgumentError
        If `n`, `m` or `axis` is not allowed.
    ShapeError
        By the methods, for a shape that is not a whole number of groups.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> sf.NOfM(2, 4).project(np.array([[1.0, -3.0, 2.0, 0.5, 4.0, 4.0, 4.0, 4.0]]))
    array([[ 0., -3.,  2.,  0.,  4.,  4.,  0.,  0.]])
    """

    n: int
    m: int
    axis: int = 1

    def __post_init__(self) -> None:
        for name in ("n", "m"):
            object.__setattr__(self, name, check_int(name, getattr(self, name)))
        object.__setattr__(self, "axis", check_int("axis", self.axis, 0))
        if self.n > self.m:
            raise ArgumentError(f"n={self.n} of every m={self.m} entries is not possible; pass n of at most m")
        if self.axis > 1:
            raise ArgumentError(f"axis={self.axis} is not an axis of a matrix; pass 1 (rows) or 0 (columns)")

    @property
    def T(self) -> NOfM:
        """The set of the transposed matrices: the other axis."""
        return NOfM(self.n, self.m, 1 - self.axis)

    def _check(self, shape: Shape) -> None:
        if shape[self.axis] % self.m:
            raise ShapeError(
                f"shape {tuple(shape)} has length {shape[self.axis]} along axis {self.axis}, not a multiple of "
                f"m={self.m}; pad the matrix or choose another m"
            )

    def count(self, shape: Shape) -> int:
        """Return how many entries of a matrix of this shape may be nonzero.

        Parameters
        ----------
        shape : (int, int)

        Returns
        -------
        int
        """
        rows, cols = check_shape(shape)
        self._check((rows, cols))
        return rows * cols // self.m * self.n

    def mask(self, scores: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which entries are kept, exactly `n` in every group: those of largest magnitude.

        Parameters
        ----------
        scores : (m, n) array
            Not checked for NaN, which counts as the largest.

        Returns
        -------
        (m, n) bool array
            Ties go to the lowest index of the group.
        """
        self._check(scores.shape)
        return get_backend(scores).nm_mask(scores, self.n, self.m, self.axis)

    def contains(self, x: Any) -> bool:
        """Return whether the matrix `x`, dense or scipy.sparse, has at most `n` nonzeros in every group."""
        x = two_dimensional(x)
        self._check(x.shape)
        if 0 in x.shape:
            return True
        across, along = nonzero_indices(x)[:: 1 if self.axis == 1 else -1]
        groups = across * (x.shape[self.axis] // self.m) + along // self.m
        return bool(np.bincount(groups, minlength=1).max() <= self.n)
