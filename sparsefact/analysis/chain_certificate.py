"""The proof of an error on a chain: no product of the chain can be nearer than what one split alone leaves out.

For a chainable chain let E_s be the distance of A to the matrices whose blocks at split s have rank at most r_s, and
which are zero off the support of the product: truncated SVDs of the blocks give it exactly (Eckart and Young). Every
product of the chain is such a matrix, so each E_s is a lower bound on the best error. The hierarchical algorithm
changes the matrix by e_j in its j-th step, and e_j is at most E_s of the split it makes: that bound is free.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.analysis.certificates import Certificate
from sparsefact.analysis.split_blocks import energy_outside
from sparsefact.constraints.chain import Chain
from sparsefact.constraints.kronecker_values import blocks_at, values_on
from sparsefact.errors import NonFiniteError
from sparsefact.products.factorization import Factorization
from sparsefact.products.factors import KroneckerFactor
from sparsefact.products.residual import panels, rows_of
from sparsefact.products.sources import Source, as_source

__all__ = ["MOST_SPLITS", "ChainCertificate"]

MOST_SPLITS = 512
"""Splits of the longest chain whose certificate is kept in a file."""

# How far recomputed norms may be from the claimed ones, in units of eps * ||A||.
_SLACK = 200.0
# Entries of blocks that are decomposed at once.
_PANEL = 1 << 20


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
            + (" A file states this; verify(A) checks it again." if self.stated else "")
        )

    def stated_fields(self, F: Factorization) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
        """Return what a file of factors holds of it: all numbers, and the weights where there are some."""
        numbers = {
            "lower_bound": float(self.lower_bound),
            "upper_bound": float(self.upper_bound),
            "norm": float(self.norm),
            "outside": float(self.outside),
        }
        steps = [float(e) for e in self.step_errors]
        splits = None if self.split_errors is None else [float(e) for e in self.split_errors]
        if len(F.factors) > MOST_SPLITS or not all(map(math.isfinite, (*numbers.values(), *steps, *(splits or ())))):
            return None
        whole = Chain([factor.support for factor in self.factors])
        return {
            "kind": "chain",
            **numbers,
            "exact": self.exact,
            "transposed": self.transposed,
            "reduced": self.chain != (whole.T if self.transposed else whole),
            "order": [int(split) for split in self.order],
            "step_errors": steps,
            "split_errors": splits,
            "weighted": self.weights is not None,
        }, {} if self.weights is None else {"weights": np.asarray(self.weights, dtype=np.float64)}

    def verify(self, A: Any) -> bool:
        """Check both bounds again, for this matrix, from the factors and the chain alone.

        The residual is formed in full in float64, and the blocks of the split that gives the lower bound (of every
        split, for ``certificate="full"``) are decomposed by LAPACK.

        Parameters
        ----------
        A : (m, n) array, LinearOperator or Entries
            What is not an array, and a memory-mapped one, is read in parts, twice at least.

        Returns
        -------
        bool
            False for another matrix, for factors off the chain, and for a certificate that was changed.
        """
        no_matrix = isinstance(A, np.ndarray) and (A.ndim != 2 or A.dtype.kind not in "fc")
        source = None if no_matrix else as_source(A)
        if source is not None:
            return self._verify_parts(source)
        matrix = np.asarray(A)
        shape = self.chain.shape[::-1] if self.transposed else self.chain.shape
        if matrix.shape != shape or matrix.dtype.kind not in "fc" or not np.isfinite(matrix).all():
            return False
        if not self.is_consistent():
            return False
        wide = matrix.astype(np.complex128 if matrix.dtype.kind == "c" else np.float64)
        product = Factorization([factor.astype(wide.dtype) for factor in self.factors]).todense()
        scale = 1.0 if self.weights is None else np.sqrt(np.asarray(self.weights, dtype=np.float64))
        weighted = wide * scale
        norm, residual = float(np.linalg.norm(weighted)), float(np.linalg.norm((wide - product) * scale))
        weighted = weighted.T if self.transposed else weighted
        whole = self.chain.partial(1, len(self.chain))
        outside = math.sqrt(energy_outside(np, weighted, whole))
        values = values_on(weighted, whole)

        def tail(split: int) -> float:
            blocks = blocks_at(values, self.chain[split].a, self.chain[split - 1].d)
            return _tail(blocks.reshape(-1, *blocks.shape[-2:]), self.chain.ranks[split - 1])

        return self._holds(norm, residual, outside, tail)

    def _verify_parts(self, source: Source) -> bool:
        """Check a matrix that is read in parts: rows for the residual, then the blocks of one split."""
        whole = self.chain.partial(1, len(self.chain))
        if source.shape != (self.chain.shape[::-1] if self.transposed else self.chain.shape):
            return False
        if not self.is_consistent():
            return False
        weights = None if self.weights is None else np.asarray(self.weights, dtype=np.float64)
        scale = 1.0 if weights is None else np.sqrt(weights)
        turned = source.T if self.transposed else source
        try:
            if whole.a * whole.d > 1:
                return self.verify(source.block(np.arange(source.shape[0])))
            norms = [
                [float(np.linalg.norm(part * scale)) for part in (a, a - rows_of(self.factors, rows))]
                for rows in panels(source, self.factors)
                for a in (rows_of(source, rows),)
            ]

            def tail(split: int) -> float:
                return self._tail_in_parts(turned, scale, split)

            norm, residual = (math.hypot(*of_panels) for of_panels in zip(*norms, strict=True))
            return self._holds(norm, residual, 0.0, tail)
        except NonFiniteError:
            return False

    def _tail_in_parts(self, source: Source, scale: Any, split: int) -> float:
        """Return what the truncation of a split leaves out, from one residue of the rows after another."""
        apart, width = self.chain[split - 1].d, source.shape[1] // self.chain[split].a
        height = source.shape[0] // apart
        step = max(1, _PANEL // (height * width)) * width
        tails = []
        for residue in range(apart):
            rows = np.arange(residue, source.shape[0], apart)
            for start in range(0, source.shape[1], step):
                cols = np.arange(start, min(start + step, source.shape[1]))
                part = source.block(rows, cols)
                part = part.astype(np.complex128 if part.dtype.kind == "c" else np.float64)
                if self.weights is not None:
                    part = part * (scale[rows][:, None] if self.transposed else scale[cols])
                blocks = part.reshape(height, -1, width).transpose(1, 0, 2)
                tails.append(_tail(blocks, self.chain.ranks[split - 1]))
            source.release()
        return math.hypot(*tails)

    def _holds(self, norm: float, residual: float, outside: float, tail: Callable[[int], float]) -> bool:
        """Tell whether the claims agree with what was computed again, up to rounding."""
        slack = _SLACK * float(np.finfo(self.factors[0].dtype).eps) * norm
        claims = [abs(norm - self.norm), abs(outside - self.outside), residual - self.upper_bound]
        if self.exact:
            claims.append(self.upper_bound - residual)
        claims += self._excess(tail, outside)
        return all(claim <= slack for claim in claims)

    def is_consistent(self) -> bool:
        """Return whether the bounds follow from the errors, and the factors lie in the chain."""
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

    def _excess(self, tail: Callable[[int], float], outside: float) -> list[float]:
        """Return by how much step and split errors that matter for the lower bound exceed the exact E_s."""
        claimed: dict[int, list[float]] = {}
        for split, error in zip(self.order, self.step_errors, strict=True):
            claimed.setdefault(split, []).append(math.hypot(outside, error))
        for split, error in enumerate(self.split_errors or (), start=1):
            claimed.setdefault(split, []).append(error)
        largest = max((e for errors in claimed.values() for e in errors), default=0.0)
        excess = []
        for split, errors in claimed.items():
            if self.split_errors is None and max(errors) < largest:
                continue
            exact = math.hypot(outside, tail(split))
            excess.append(max(errors) - exact)
            if self.split_errors is not None:
                excess.append(exact - self.split_errors[split - 1])
        return excess


def _tail(blocks: NDArray[Any], rank: int) -> float:
    """Return the norm of all singular values of blocks (n, b, c) after the first `rank` of each."""
    return float(np.linalg.norm(np.linalg.svd(blocks, compute_uv=False)[:, rank:]))


def lower_bound(step_errors: tuple[float, ...], split_errors: tuple[float, ...] | None, outside: float) -> float:
    """Return the largest lower bound that the errors give; an E_s counts what is outside already."""
    return max(math.hypot(outside, max(step_errors, default=0.0)), max(split_errors or (), default=0.0))
