"""The proof of an error on a chain: no product of the chain can be nearer than what one split alone leaves out.

For a chainable chain let E_s be the distance of A to the matrices whose blocks at split s have rank at most r_s, and
which are zero off the support of the product: truncated SVDs of the blocks give it exactly (Eckart and Young). Every
product of the chain is such a matrix, so each E_s is a lower bound on the best error. The hierarchical algorithm
changes the matrix by e_j in its j-th step, and e_j is at most E_s of the split it makes: that bound is free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.analysis.certificates import Certificate
from sparsefact.analysis.split_blocks import energy_outside
from sparsefact.constraints.chain import Chain
from sparsefact.constraints.kronecker_values import blocks_at, values_on
from sparsefact.products.factorization import Factorization
from sparsefact.products.factors import KroneckerFactor

__all__ = ["ChainCertificate"]

# How far recomputed norms may be from the claimed ones, in units of eps * ||A||.
_SLACK = 200.0


@dataclass(frozen=True, eq=False, repr=False)
class ChainCertificate(Certificate):
    """Bounds on the best error ``inf ||A - K_1 .. K_L||`` over the products of a chainable chain; norms, not squares.

    Attributes
    ----------
    lower_bound : float
        The largest of the step errors, or of the E_s when they were computed, with what no product can reach.
    upper_bound : float
        The error of the factors (`exact`), or a bound on it: the sum of the step errors.
    exact : bool
    norm : float
        ``||A||``, weighted like the errors.
    chain : Chain
        Chainable; of the matrix, or of its transpose (`transposed`).
    transposed : bool
    factors : tuple of KroneckerFactor
    order : tuple of int
        The splits, in the order of the steps.
    step_errors : tuple of float
    split_errors : tuple of float or None
        E_s for s = 1 .. L - 1, with ``certificate="full"``.
    outside : float
        The norm of the entries off the support of the product.
    weights : (n,) array or None
        Of the squared errors in each column, for a diagonal gram.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> A = np.random.default_rng(0).standard_normal((16, 16))
    >>> proof = sf.factorize(A, sf.Chain.butterfly(16)).certificate
    >>> proof.ratio < 3**0.5, proof.verify(A), proof.verify(A + 1)
    (True, True, False)
    """

    exact: bool
    norm: float
    chain: Chain
    transposed: bool
    factors: tuple[KroneckerFactor, ...]
    order: tuple[int, ...]
    step_errors: tuple[float, ...]
    split_errors: tuple[float, ...] | None = None
    outside: float = 0.0
    weights: NDArray[Any] | None = None

    def explain(self) -> str:
        """Return one sentence with both bounds and where they come from."""
        source = "the steps" if self.split_errors is None else "the truncation of each split alone"
        reached = "the error reached" if self.exact else "the sum of the step errors"
        return (
            f"no product of the chain has an error below {self.lower_bound:.6g} (from {source}), and {reached} is "
            f"{self.upper_bound:.6g}: at most {self.ratio:.4g} times the best possible."
        )

    def verify(self, A: Any) -> bool:
        """Check both bounds again, for this matrix, from the factors and the chain alone.

        The residual is formed in full in float64, and the blocks of the split that gives the lower bound (of every
        split, for ``certificate="full"``) are decomposed by LAPACK.

        Parameters
        ----------
        A : (m, n) array

        Returns
        -------
        bool
            False for another matrix, for factors off the chain, and for a certificate that was changed.
        """
        matrix = np.asarray(A)
        shape = self.chain.shape[::-1] if self.transposed else self.chain.shape
        if matrix.shape != shape or matrix.dtype.kind not in "fc" or not np.isfinite(matrix).all():
            return False
        if not self._is_consistent():
            return False
        wide = matrix.astype(np.complex128 if matrix.dtype.kind == "c" else np.float64)
        product = Factorization([factor.astype(wide.dtype) for factor in self.factors]).todense()
        scale = 1.0 if self.weights is None else np.sqrt(np.asarray(self.weights, dtype=np.float64))
        weighted = wide * scale
        norm, residual = float(np.linalg.norm(weighted)), float(np.linalg.norm((wide - product) * scale))
        weighted = weighted.T if self.transposed else weighted
        slack = _SLACK * float(np.finfo(self.factors[0].dtype).eps) * norm
        outside = math.sqrt(energy_outside(np, weighted, self.chain.partial(1, len(self.chain))))
        claims = [abs(norm - self.norm), abs(outside - self.outside), residual - self.upper_bound]
        if self.exact:
            claims.append(self.upper_bound - residual)
        claims += self._excess(weighted, outside)
        return all(claim <= slack for claim in claims)

    def _is_consistent(self) -> bool:
        """Tell whether the bounds follow from the errors, and the factors lie in the chain."""
        chain = Chain([factor.support for factor in self.factors])
        chain = chain.T if self.transposed else chain
        if not chain.is_chainable or self.chain not in (chain, chain.reduced()):
            return False
        errors = [*self.step_errors, *(self.split_errors or ())]
        if not all(math.isfinite(e) and e >= 0 for e in (*errors, self.outside, self.norm, self.upper_bound)):
            return False
        if sorted(self.order) != list(range(1, len(self.chain))) or len(self.step_errors) != len(self.order):
            return False
        bound = lower_bound(self.step_errors, self.split_errors, self.outside)
        return math.isclose(self.lower_bound, min(bound, self.upper_bound) if self.exact else bound)

    def _excess(self, weighted: NDArray[Any], outside: float) -> list[float]:
        """Return by how much step and split errors that matter for the lower bound exceed the exact E_s."""
        claimed: dict[int, list[float]] = {}
        for split, error in zip(self.order, self.step_errors, strict=True):
            claimed.setdefault(split, []).append(math.hypot(outside, error))
        for split, error in enumerate(self.split_errors or (), start=1):
            claimed.setdefault(split, []).append(error)
        largest = max((e for errors in claimed.values() for e in errors), default=0.0)
        values = values_on(weighted, self.chain.partial(1, len(self.chain)))
        excess = []
        for split, errors in claimed.items():
            if self.split_errors is None and max(errors) < largest:
                continue
            blocks = blocks_at(values, self.chain[split].a, self.chain[split - 1].d)
            sigma = np.linalg.svd(blocks.reshape(-1, *blocks.shape[-2:]), compute_uv=False)
            exact = math.hypot(outside, float(np.linalg.norm(sigma[:, self.chain.ranks[split - 1] :])))
            excess.append(max(errors) - exact)
            if self.split_errors is not None:
                excess.append(exact - self.split_errors[split - 1])
        return excess


def lower_bound(step_errors: tuple[float, ...], split_errors: tuple[float, ...] | None, outside: float) -> float:
    """Return the largest lower bound that the errors give; an E_s counts what is outside already."""
    return max(math.hypot(outside, max(step_errors, default=0.0)), max(split_errors or (), default=0.0))
