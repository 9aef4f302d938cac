"""What proves a claim about an error: two bounds, and how to check them again.

`Certificate` is what all of them share; `PairCertificate` is the one for two fixed supports, whose bounds meet.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from sparsefact.analysis.stored_supports import encode_supports
from sparsefact.analysis.support_pairs import SupportPair
from sparsefact.analysis.tractability import Rectangles, tractability_of
from sparsefact.products.factorization import Factorization

__all__ = ["Certificate", "PairCertificate"]

# How far recomputed norms may be from the claimed ones, in units of eps * ||A||.
_SLACK = 200.0


@dataclass(frozen=True, eq=False, repr=False)
class Certificate(ABC):
    """Bounds on the best error ``inf ||A - P||`` over the products that were allowed; norms, not squares.

    Attributes
    ----------
    lower_bound : float
        No allowed product has a smaller error.
    upper_bound : float
        The error of the factors at hand, or a bound on it.
    stated : bool
        Whether a file states it, and nothing was computed since; `verify` checks it again.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> A = np.diag([3.0, 2.0])
    >>> found = sf.factorize(A, (sf.Support(np.ones((2, 1), bool)), sf.Support(np.ones((1, 2), bool)))).certificate
    >>> round(found.lower_bound, 6), round(found.ratio, 6), found.verify(A), found.verify(2 * A)
    (2.0, 1.0, True, False)
    """

    lower_bound: float
    upper_bound: float
    stated: bool = field(default=False, kw_only=True)

    @property
    def ratio(self) -> float:
        """How much larger the error may be than the best possible: upper over lower bound (1 for an optimum)."""
        if self.upper_bound == self.lower_bound:
            return 1.0
        return self.upper_bound / self.lower_bound if self.lower_bound > 0 else math.inf

    def __repr__(self) -> str:
        source = ", as a file states" if self.stated else ""
        return f"Certificate({self.lower_bound:.6g} <= best error <= {self.upper_bound:.6g}{source})"

    @abstractmethod
    def verify(self, A: Any) -> bool:
        """Check the claim again for this matrix, by a path that the solver did not take."""

    def stated_fields(self, F: Factorization) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
        """Return what a file of factors holds of it beside the factors: JSON-able fields, and arrays; or None."""
        return None


@dataclass(frozen=True, eq=False, repr=False)
class PairCertificate(Certificate):
    """Bounds on the best error ``inf ||A - L R||`` over factors with given supports; norms, not squares.

    The lower bound is an argument that anyone can repeat: the rectangles are disjoint blocks of A, on each of which no
    product can have more rank than inner indices whose rank-one supports meet the block; so the error is at least
    what these truncated SVDs leave (Eckart and Young), plus the cells that no rank-one support reaches. The upper bound
    is the error of the factors at hand.

    Attributes
    ----------
    lower_bound, upper_bound : float
        Equal for an exact optimum: the closed formula of `sparsefact.analysis.tractability`.
    residual : float
        The error of the factors as the solver computed it, in the factors' precision.
    pair : SupportPair
    rectangles : Rectangles or None
        None where a file states the certificate: `verify` finds them again.
    factors : pair of scipy.sparse CSR arrays
        The factors that reach the upper bound.
    weights : (n,) array or None
        Of the squared errors in each column, for a diagonal gram.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> A = np.arange(16.0).reshape(4, 4)
    >>> blocks = np.kron(np.eye(2, dtype=bool), np.ones((2, 1), dtype=bool))
    >>> F = sf.factorize(A, (sf.Support(blocks), sf.Support(blocks.T)), sf.SubmatrixSVD())
    >>> F.certificate.verify(A), F.certificate.verify(A + 1)
    (True, False)
    """

    residual: float
    pair: SupportPair
    rectangles: Rectangles | None
    factors: tuple[scipy.sparse.csr_array[Any], scipy.sparse.csr_array[Any]]
    weights: NDArray[Any] | None = None

    def verify(self, A: Any) -> bool:
        """Check both bounds again, for this matrix, from the supports and the factors alone.

        Every block is decomposed again in float64 by LAPACK, the ranks are counted from the supports, and the residual
        is formed in full. It costs about as much as a loop of full SVDs.

        Parameters
        ----------
        A : (m, n) array

        Returns
        -------
        bool
            False for another matrix, for factors outside their supports, and for a certificate that was changed.
        """
        matrix = np.asarray(A)
        if matrix.shape != self.pair.shape or matrix.dtype.kind not in "fc" or not np.isfinite(matrix).all():
            return False
        wide = matrix.astype(np.complex128 if matrix.dtype.kind == "c" else np.float64)
        scale = None if self.weights is None else np.sqrt(np.asarray(self.weights, dtype=np.float64))
        weighted = wide if scale is None else wide * scale
        blocks = self._blocks()
        if blocks is None or not (self._supports_hold() and self._ranks_hold(blocks)):
            return False
        left, right = (factor.astype(wide.dtype) for factor in self.factors)
        residual = wide - (left @ right).toarray()
        upper = float(np.linalg.norm(residual if scale is None else residual * scale))
        lower = self._lower(weighted, blocks)
        eps = float(np.finfo(self.factors[0].dtype).eps)
        slack = _SLACK * eps * float(np.linalg.norm(weighted))
        bounds = (self.lower_bound, self.upper_bound, self.residual)
        return all(math.isfinite(b) and abs(b - exact) <= slack for b in bounds for exact in (lower, upper))

    def stated_fields(self, F: Factorization) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
        """Return what a file of factors holds of it: the bounds, the supports, and the weights where there are some."""
        bounds = (self.lower_bound, self.upper_bound, self.residual)
        if not all(map(math.isfinite, bounds)) or len(F.factors) != 2:
            return None
        fields, arrays = encode_supports(self.pair, F)
        if self.weights is not None:
            arrays["weights"] = np.asarray(self.weights, dtype=np.float64)
        return {
            "kind": "pair",
            **dict(zip(("lower_bound", "upper_bound", "residual"), map(float, bounds), strict=True)),
            "weighted": self.weights is not None,
            **fields,
        }, arrays

    def _blocks(self) -> Rectangles | None:
        if self.rectangles is not None:
            return self.rectangles
        plan = tractability_of(self.pair).plan
        return None if plan is None else plan.rectangles

    def _supports_hold(self) -> bool:
        """Tell whether the factors are zero off their supports."""
        patterns = (self.pair.left.tocsr(), self.pair.right)
        for factor, pattern in zip(self.factors, patterns, strict=True):
            if factor.shape != pattern.shape:
                return False
            stored = factor.astype(bool)
            if stored.multiply(pattern).nnz != stored.count_nonzero():
                return False
        return True

    def _ranks_hold(self, blocks: Rectangles) -> bool:
        """Tell whether the blocks are disjoint and each is met by no more rank-one supports than its rank."""
        rows, cols = _indicator(blocks.rows, self.pair.shape[0]), _indicator(blocks.cols, self.pair.shape[1])
        meets_left: Any = rows @ self.pair.left.astype(np.int64)
        meets_right: Any = cols @ self.pair.right.T.astype(np.int64)
        touching = (meets_left.multiply(meets_right) > 0).sum(axis=1)
        common: Any = (rows @ rows.T).multiply(cols @ cols.T)
        overlaps = int((common > 0).sum()) - len(blocks)
        return bool(np.all(np.asarray(touching).ravel() <= blocks.members.lengths)) and overlaps == 0

    def _lower(self, weighted: NDArray[Any], blocks: Rectangles) -> float:
        outside = np.ones(weighted.shape, dtype=bool)
        for k in range(self.pair.inner):
            outside[np.ix_(self.pair.rows[k], self.pair.cols[k])] = False
        total = float(np.sum(np.abs(weighted[outside]) ** 2))
        for rows, cols, members in zip(blocks.rows, blocks.cols, blocks.members, strict=True):
            sigma = np.linalg.svd(weighted[np.ix_(rows, cols)], compute_uv=False)
            total += float(np.sum(sigma[members.size :] ** 2))
        return math.sqrt(total)


def _indicator(sets: Any, size: int) -> Any:
    data = np.ones(sets.idx.size, dtype=np.int64)
    return scipy.sparse.csr_array((data, sets.idx, sets.ptr), shape=(len(sets), size))
