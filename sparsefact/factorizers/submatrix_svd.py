"""The exact solution for two fixed supports that are tractable: SVDs of submatrices, then the free cells line by line.

    min 1/2 || A - L R ||^2     subject to   supp(L) in I,  supp(R) in J

The plan comes from `sparsefact.analysis.tractability`. Each leftover rectangle Q of rank p gets the p leading singular
triples of A[Q], one for each of its inner indices; blocks of one shape are decomposed together. Then whatever stands on
a free cell, less what the first phase wrote there, is copied by the line that owns it: a one in one factor, the values
in the other. Every inner index writes only inside its own cells, so the order of the lines does not matter. At the end
both sides of every rank-one term get the same norm.

A diagonal gram diag(w) weights the columns of A: the problem is the same for ``A diag(sqrt w)``, whose right factor is
divided by sqrt(w) afterwards. A full gram couples the blocks and is refused.

References: see `sparsefact.analysis.tractability`. The absorb phase with line covers is ours.

Symbols: A matrix (m, n), L left factor (m, r), R right factor (r, n), w weights (n,), E the residual A - L R.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from sparsefact.analysis.certificates import PairCertificate
from sparsefact.analysis.index_sets import Indices
from sparsefact.analysis.split_blocks import squares
from sparsefact.analysis.support_pairs import as_pair
from sparsefact.analysis.tractability import Plan, Tractability, tractability_of
from sparsefact.constraints.kronecker_support import KroneckerSupport
from sparsefact.constraints.support import Support
from sparsefact.errors import ArgumentError
from sparsefact.factorizers.problem import FactorizationProblem, diagonal_of
from sparsefact.minimizers.protocol import Outcome, Report
from sparsefact.products.status import Status

__all__ = ["SubmatrixSVD"]

# A tail of singular values below this share of the energy is not taken as a difference, which would lose its digits.
_CANCELS = 1e-3


@dataclass(frozen=True)
class SubmatrixSVD:
    """The exact optimum for two fixed supports that are tractable (see `sparsefact.tractability`).

    There is nothing to choose. Supports that are not known to be tractable, and a gram that is not diagonal, are
    refused with the solver to use instead.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> A = np.random.default_rng(0).standard_normal((6, 6))
    >>> blocks = np.kron(np.eye(2, dtype=bool), np.ones((3, 1), dtype=bool))
    >>> F = sf.factorize(A, (sf.Support(blocks), sf.Support(blocks.T)), sf.SubmatrixSVD())
    >>> F.status.name, F.certificate.ratio
    ('OPTIMAL', 1.0)
    """

    @property
    def iterations(self) -> int:
        """One: the solution is direct."""
        return 1

    @property
    def report_every(self) -> int:
        """One."""
        return 1

    def init(self, problem: FactorizationProblem, warm: Any = None) -> _State:
        """Make the plan, or refuse.

        Raises
        ------
        ArgumentError
            If the constraints are not two fixed supports, the supports are not known to be tractable, or the gram is
            not diagonal.
        """
        return _State(problem)

    def step(self, problem: FactorizationProblem, state: _State) -> None:
        """Compute the factors."""
        state.decompose()
        state.absorb()
        state.measure()
        state.unscale()

    def report(self, problem: FactorizationProblem, state: _State) -> Report:
        """Return the objective and the relative error reached."""
        error = state.residual / state.norm if state.norm > 0 else 0.0
        return Report(0.5 * state.residual**2, error, converged=True)

    def finish(self, problem: FactorizationProblem, state: _State) -> Outcome:
        """Return the factors with the certificate of their optimality."""
        certificate = state.certificate()
        explanation = (
            f"{state.answer.explain()} The optimal value from the singular values is {certificate.lower_bound:.6g} and "
            f"the error of the factors is {certificate.residual:.6g}."
        )
        return Outcome((state.left, state.right), Status.OPTIMAL, certificate, explanation)


class _State:
    """The factors under construction, with the sums of squares that the certificate needs.

    A is divided by `unit`, a power of two, when the squares of its entries could leave the range of its type; norms
    come in units of `loss_unit`, which has the scale of the weights as well.
    """

    def __init__(self, problem: FactorizationProblem) -> None:
        self.problem, self.xp, self.host = problem, problem.backend.xp, problem.backend.to_host
        self.weights = diagonal_of(problem.gram, "SubmatrixSVD", "sparsefact.AlternatingLeastSquares()")
        self.answer: Tractability = _plan_or_refuse(problem)
        assert self.answer.plan is not None
        self.plan: Plan = self.answer.plan
        matrix = problem.matrix
        largest = float(abs(matrix).max())
        self.unit = 1.0 if 1e-6 < largest < 1e6 or largest == 0 else math.ldexp(1.0, math.frexp(largest)[1])
        scaled = matrix if self.unit == 1 else matrix / matrix.dtype.type(self.unit)
        self.roots, self.loss_unit = None, self.unit
        if self.weights is not None:
            top = float(self.weights.max())
            self.loss_unit *= math.sqrt(top)
            self.roots = self.xp.sqrt(self.weights / top).astype(matrix.real.dtype)
            scaled = scaled * self.roots
        self.matrix = scaled
        self.left = self.xp.zeros(problem.shapes[0], dtype=matrix.dtype)
        self.right = self.xp.zeros(problem.shapes[1], dtype=matrix.dtype)
        self.norm = self.optimum = self.residual = 0.0
        self.tail = self.missed = 0.0

    def decompose(self) -> None:
        """Put the leading singular triples of every rectangle in place."""
        blocks = self.plan.rectangles
        shapes = np.stack((blocks.rows.lengths, blocks.cols.lengths, blocks.members.lengths), axis=1)
        if not len(blocks):
            return
        kinds, kind_of = np.unique(shapes, axis=0, return_inverse=True)
        order = np.argsort(kind_of.reshape(-1), kind="stable")
        ends = np.cumsum(np.bincount(kind_of.reshape(-1)))
        for (height, width, rank), which in zip(kinds, np.split(order, ends[:-1]), strict=True):
            rows = blocks.rows.take(which).idx.reshape(-1, height)
            cols = blocks.cols.take(which).idx.reshape(-1, width)
            inner = blocks.members.take(which).idx.reshape(-1, rank)
            self._decompose_equal(rows, cols, inner[:, : min(height, width)])

    def _decompose_equal(self, rows: Indices, cols: Indices, inner: Indices) -> None:
        """Decompose blocks of one shape; inner indices beyond their rank stay zero."""
        rank = inner.shape[1]
        block = self.matrix[rows[:, :, None], cols[:, None, :]]
        u, s, v = self.problem.backend.rank_r(block, rank)
        root = self.xp.sqrt(s)
        self.left[rows[:, :, None], inner[:, None, :]] = u * root[:, None, :]
        self.right[inner[:, :, None], cols[:, None, :]] = v * root[:, :, None]
        energy = _block_squares(self.xp, block)
        tail = energy - (s.astype(np.float64) ** 2).sum(axis=1)
        lost = np.flatnonzero(tail < _CANCELS * energy)
        if lost.size and rank < min(block.shape[1:]):
            wide = block[lost].astype(np.result_type(block.dtype, np.float64))
            sigma = self.xp.linalg.svd(wide, compute_uv=False)[:, rank:]
            tail[lost] = (sigma**2).sum(axis=1)
        elif lost.size:
            tail[lost] = 0
        self.tail += float(tail.sum())
        block -= (u * s[:, None, :]) @ v
        self.missed += squares(self.xp, block)

    def absorb(self) -> None:
        """Match the free cells exactly, and level the two sides of the terms that do."""
        lines = self.plan.lines
        if not lines.rows.size:
            return
        values = self.matrix[lines.rows, lines.cols]
        if self.plan.spills:
            written = self._sparse_product().tocsr()[lines.rows, lines.cols]
            values = values - self.problem.backend.asarray(written)
        along = lines.along_row
        rows, cols, inner = lines.rows, lines.cols, lines.inner
        self.left[rows[along], inner[along]] = 1
        self.right[inner[along], cols[along]] = values[along]
        down = ~along
        self.right[inner[down], cols[down]] = 1
        self.left[rows[down], inner[down]] = values[down]
        self._balance(np.unique(lines.inner))

    def _sparse_product(self) -> Any:
        """Return the product of the factors, as a scipy.sparse array."""
        return scipy.sparse.csr_array(self.host(self.left)) @ scipy.sparse.csr_array(self.host(self.right))

    def _balance(self, inner: Indices) -> None:
        """Give both sides of some rank-one terms the same norm."""
        sides = self.left[:, inner], self.right[inner]
        norms = [self.xp.linalg.norm(side, axis=axis) for axis, side in enumerate(sides)]
        alive = (norms[0] > 0) & (norms[1] > 0)
        ratio = self.xp.where(alive, norms[1] / self.xp.where(alive, norms[0], 1), 0)
        root = self.xp.sqrt(ratio)
        self.left[:, inner] = sides[0] * root
        self.right[inner] = sides[1] * self.xp.where(alive, 1 / self.xp.where(alive, root, 1), 0)[:, None]

    def measure(self) -> None:
        """Sum up, still in the scaled problem: the norm of A, the closed formula, and the residual."""
        blocks, lines = self.plan.rectangles, self.plan.lines
        reached = int((blocks.rows.lengths * blocks.cols.lengths).sum()) + lines.rows.size
        outside = self._outside() if reached < self.matrix.size else 0.0
        self.optimum = math.sqrt(self.tail + outside) * self.loss_unit
        if lines.rows.size:
            product = self.problem.backend.asarray(self._sparse_product().toarray())
            missed = squares(self.xp, self.matrix - product)
        else:
            missed = self.missed + outside
        self.residual = math.sqrt(missed) * self.loss_unit
        self.norm = math.sqrt(squares(self.xp, self.matrix)) * self.loss_unit

    def _outside(self) -> float:
        """Sum the squares of the cells that no rank-one support reaches."""
        blocks, lines = self.plan.rectangles, self.plan.lines
        rest = self.matrix.copy()
        rest[lines.rows, lines.cols] = 0
        for rows, cols in zip(blocks.rows, blocks.cols, strict=True):
            rest[rows[:, None], cols] = 0
        return squares(self.xp, rest)

    def unscale(self) -> None:
        """Undo the scaling of A: its unit, and the weights of its columns in the right factor."""
        if self.roots is not None:
            self.right *= self.xp.where(self.roots > 0, 1 / self.xp.where(self.roots > 0, self.roots, 1), 0)
            self._balance(np.arange(self.left.shape[1]))
        if self.unit != 1:
            root = self.matrix.real.dtype.type(math.sqrt(self.unit))
            self.left *= root
            self.right *= root

    def certificate(self) -> PairCertificate:
        """Return the two bounds, which are one number, with the factors that reach it."""
        pair = self.answer.pair
        factors = (
            _on_pattern(self.host(self.left), pair.left.tocsr()),
            _on_pattern(self.host(self.right), pair.right),
        )
        weights = None if self.weights is None else self.host(self.weights)
        return PairCertificate(self.optimum, self.optimum, self.residual, pair, self.plan.rectangles, factors, weights)


def _plan_or_refuse(problem: FactorizationProblem) -> Tractability:
    constraints = problem.constraints
    if not isinstance(constraints, tuple) or len(constraints) != 2:
        raise ArgumentError(
            f"SubmatrixSVD needs two fixed supports, but constraints is {constraints!r}; pass a pair of "
            "sparsefact.Support or sparsefact.KroneckerSupport, or use sparsefact.Alternating()"
        )
    for name, constraint in zip(("left", "right"), constraints, strict=True):
        if not isinstance(constraint, (Support, KroneckerSupport)):
            raise ArgumentError(
                f"SubmatrixSVD needs two fixed supports, but the {name} constraint is {constraint!r}; pass "
                "sparsefact.Support(mask), or use sparsefact.Alternating()"
            )
    answer = problem.answer or tractability_of(as_pair(*constraints))
    if answer.plan is None:
        raise ArgumentError(
            f"constraints are supports that SubmatrixSVD cannot solve exactly; pass "
            f"solver=sparsefact.AlternatingLeastSquares() for a local solution. {answer.explain()}"
        )
    return answer


def _on_pattern(factor: NDArray[Any], pattern: scipy.sparse.csr_array[Any]) -> scipy.sparse.csr_array[Any]:
    """Return a factor's values on a CSR pattern."""
    rows = np.repeat(np.arange(pattern.shape[0]), np.diff(pattern.indptr))
    values = factor[rows, pattern.indices]
    return scipy.sparse.csr_array((values, pattern.indices, pattern.indptr), shape=pattern.shape)


def _block_squares(xp: Any, blocks: NDArray[Any]) -> NDArray[Any]:
    """Return the sum of squared magnitudes of each block, accumulated in float64."""
    count = blocks.shape[0]
    parts = xp.ascontiguousarray(blocks).reshape(count, -1)
    parts = parts.view(parts.real.dtype)
    sums: NDArray[Any] = xp.einsum("ij,ij->i", parts, parts, dtype=np.float64)
    return sums
