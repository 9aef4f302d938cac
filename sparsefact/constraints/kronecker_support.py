"""The support of one butterfly factor: an identity times a full block times an identity, as a Kronecker product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.constraints.base import Shape, check_int, nonzero_indices
from sparsefact.constraints.fixed import FixedPositions

__all__ = ["KroneckerSupport"]


@dataclass(frozen=True)
class KroneckerSupport(FixedPositions):
    """The matrices that are zero outside the ones of ``I_a (x) 1_{b x c} (x) I_d``.

    The shape is ``(a*b*d, a*c*d)`` and ``a*b*c*d`` entries may be nonzero: `a` diagonal blocks, each of which is a
    b x c grid of d x d diagonal matrices.

    Parameters
    ----------
    a, b, c, d : int
        All at least 1.

    Raises
    ------
    ArgumentError
        If one of them is not a positive integer.

    Examples
    --------
    >>> import sparsefact as sf
    >>> E = sf.KroneckerSupport(1, 2, 2, 2)
    >>> E.shape, E.nnz
    ((4, 4), 8)
    >>> E.mask().astype(int)
    array([[1, 0, 1, 0],
           [0, 1, 0, 1],
           [1, 0, 1, 0],
           [0, 1, 0, 1]])
    """

    a: int
    b: int
    c: int
    d: int

    def __post_init__(self) -> None:
        for name in "abcd":
            object.__setattr__(self, name, check_int(name, getattr(self, name)))

    @property
    def shape(self) -> Shape:
        """Rows and columns, (a*b*d, a*c*d)."""
        return self.a * self.b * self.d, self.a * self.c * self.d

    @property
    def nnz(self) -> int:
        """How many entries may be nonzero, a*b*c*d."""
        return self.a * self.b * self.c * self.d

    @property
    def T(self) -> KroneckerSupport:
        """The support of the transposed matrices: b and c change places."""
        return KroneckerSupport(self.a, self.c, self.b, self.d)

    def _mask(self) -> NDArray[np.bool_]:
        mask = np.zeros((self.a, self.b, self.d, self.a, self.c, self.d), dtype=bool)
        block, inside = np.arange(self.a)[:, None], np.arange(self.d)
        mask[block, :, inside, block, :, inside] = True
        return mask.reshape(self.shape)

    def contains(self, x: Any) -> bool:
        """Return whether the matrix `x`, dense or scipy.sparse, is zero off the support."""
        self._check(np.shape(x), "x")
        rows, cols = nonzero_indices(x)
        same_block = rows // (self.b * self.d) == cols // (self.c * self.d)
        return bool(np.all(same_block & (rows % self.d == cols % self.d)))
