"""Butterfly factors from a few entries of the matrix, for one that is known to be a product of the chain, nearly.

At one split in the middle every block has a small rank, and is found from few of its rows and columns
(`sparsefact.factorizers.cross_blocks`): for a dyadic butterfly of order N these are 2 N^1.5 entries. Two factors are
known then, and the other splits are made on them, in memory.

What was not read cannot be known, so every block is checked:

1. its approximation must fit the samples themselves and some random entries of it, to the tolerance;
2. where too many do not, their classes of rows are read again with twice as many samples, other random numbers, and
   columns that are chosen for the classes that went wrong most;
3. blocks that still do not fit are read in full, the worst first, as long as that reads no more than was read before.

At the end, fresh random entries give an estimate of the error, as evidence. A spike in an entry that nothing looked at
is invisible to any such method; the evidence says how many entries may be like that.

Symbols: d residue classes of b rows, a intervals of w columns at the split s, r its rank; left (1, b, a r, d) and
right (a, r d, w, 1) values of the two factors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.analysis.sampled_residual import SampledResidual, sample_residual
from sparsefact.errors import ArgumentError, DeviceError
from sparsefact.factorizers.cross_blocks import basis, coefficients, mean_squares, pivots, truncate
from sparsefact.factorizers.elements import Values, levelled, multiply
from sparsefact.factorizers.hierarchical import chain_or_refuse
from sparsefact.factorizers.problem import FactorizationProblem
from sparsefact.factorizers.split_pass import split_further
from sparsefact.minimizers.parameters import check_count
from sparsefact.minimizers.protocol import Outcome, Report
from sparsefact.products.factors import KroneckerFactor
from sparsefact.products.sources import Source, from_array
from sparsefact.products.status import Status

__all__ = ["CrossApproximation"]

Index = NDArray[np.intp]

# Residue classes from whose rows the columns are chosen.
_PILOTS = 8
# Bytes of samples that are at work at once.
_CHUNK = 1 << 26


@dataclass(frozen=True)
class CrossApproximation:
    """Factors of a chainable chain from O(N^1.5) entries, for a matrix that is nearly such a product.

    It takes an array, a memory-mapped one, a `LinearOperator` or `sparsefact.Entries`.

    Parameters
    ----------
    tolerance : float, optional
        How far the matrix may be from the chain: a block does not fit when its approximation is off by more than this,
        in the root mean square over its samples or its checks, relative to that of all entries. The square root of the
        machine epsilon unless given.
    oversampling : int
        Rows and columns of each block that are read beyond its rank; a few of them lower the error for noisy matrices.
    checks : int
        Random rows and columns of each block at whose crossings it is checked.
    retries : int
        How often all is repeated with more samples while too many blocks do not fit to read them in full.
    samples : int
        Independent random entries for the final estimate of the error.

    Raises
    ------
    ArgumentError
        If a parameter is outside its range.

    Notes
    -----
    ``result.evidence`` is a `SampledResidual`: evidence, not a proof. ``result.certificate`` is None, and
    ``result.error`` is not known. From a `LinearOperator` whole rows and columns are read, and counted.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> n = 1 << 12
    >>> reverse = sf.transforms.bit_reversal(n)
    >>> A = sf.Entries((n, n), np.complex128, lambda i, j: np.exp(-2j * np.pi / n * (np.outer(i, reverse[j]) % n)))
    >>> F = sf.factorize(A, sf.Chain.butterfly(n), sf.CrossApproximation())
    >>> F.evidence.relative < 1e-13, F.evidence.entries_read < 3 * n**1.5
    (True, True)
    """

    tolerance: float | None = None
    oversampling: int = 0
    checks: int = 4
    retries: int = 1
    samples: int = 1 << 11

    def __post_init__(self) -> None:
        number = isinstance(self.tolerance, (int, float)) and not isinstance(self.tolerance, bool)
        if self.tolerance is not None and not (number and 0 < self.tolerance < 1):
            raise ArgumentError(
                f"tolerance={self.tolerance!r} is not allowed; pass a relative error between 0 and 1, or None"
            )
        for name, least in (("oversampling", 0), ("checks", 1), ("retries", 0), ("samples", 1)):
            check_count(name, getattr(self, name), least)

    @property
    def iterations(self) -> int:
        """One."""
        return 1

    @property
    def report_every(self) -> int:
        """One."""
        return 1

    def init(self, problem: FactorizationProblem, warm: Any = None) -> _State:
        """Check the chain, and choose the split at which blocks are sampled.

        Raises
        ------
        ArgumentError
            If the constraints are not a chainable chain with dense products and a split, or there is a gram.
        DeviceError
            On a GPU.
        """
        return _State(self, problem)

    def step(self, problem: FactorizationProblem, state: _State) -> None:
        """Find the factors, and sample their error."""
        state.sample()
        state.finish_factors()
        state.measure()

    def report(self, problem: FactorizationProblem, state: _State) -> Report:
        """Return estimates of the objective and of the relative error."""
        reached = state.evidence.relative * state.typical * math.sqrt(state.source.size)
        return Report(0.5 * reached * reached, state.evidence.relative, converged=True)

    def finish(self, problem: FactorizationProblem, state: _State) -> Outcome:
        """Return Kronecker factors with the evidence."""
        return state.outcome()


class _State:
    evidence: SampledResidual
    typical: float

    def __init__(self, solver: CrossApproximation, problem: FactorizationProblem) -> None:
        self.solver, self.backend, self.seed = solver, problem.backend, problem.seed
        self.asked, self.transposed = chain_or_refuse(problem.constraints, "CrossApproximation")
        self.chain = self.asked.reduced()
        whole = self.chain.partial(1, len(self.chain))
        if len(self.chain) == 1 or whole.a * whole.d > 1:
            reason = "has no split that restricts the matrix" if len(self.chain) == 1 else "has block-diagonal products"
            raise ArgumentError(
                f"the chain {self.asked!r} {reason}, and CrossApproximation needs blocks of low rank in a dense "
                "matrix; use sparsefact.Hierarchical()"
            )
        if problem.backend.xp is not np:
            raise DeviceError(
                "CrossApproximation reads a few entries at a time on the host and does not run on a GPU; pass a NumPy "
                "array and leave device out, or use sparsefact.Hierarchical()"
            )
        if problem.gram is not None:
            raise ArgumentError(
                "gram is given, but CrossApproximation knows too little of the matrix to minimise a weighted loss; "
                "leave it out, or use sparsefact.Hierarchical() for a diagonal one"
            )
        source = problem.matrix if isinstance(problem.matrix, Source) else from_array(problem.matrix)
        self.source: Source = source.T if self.transposed else source
        m, n = self.source.shape
        ranks, cuts = self.chain.ranks, range(1, len(self.chain))
        self.split = min(cuts, key=lambda s: ranks[s - 1] * (self.chain[s].a * m + self.chain[s - 1].d * n))
        self.rank, self.d, self.a = ranks[self.split - 1], self.chain[self.split - 1].d, self.chain[self.split].a
        self.b, self.w = m // self.d, n // self.a
        tolerance = math.sqrt(float(np.finfo(self.source.dtype).eps)) if solver.tolerance is None else solver.tolerance
        self.tolerance = float(tolerance)
        self.unit = 1.0
        self.left = np.zeros((self.b, self.a, self.rank, self.d), dtype=self.source.dtype)
        self.right = np.zeros((self.a, self.rank, self.d, self.w), dtype=self.source.dtype)
        # mean squared errors of the blocks where they were looked at, and what they are compared with
        self.misfit = np.full((self.d, self.a), np.inf)
        self.scale = 0.0
        self.rounds = self.refined = 0
        self.step_errors: tuple[float, ...] = ()

    # reading

    def _read(self, rows: Index, cols: Index | None) -> Values:
        block = self.source.block(rows, cols)
        return block if self.unit == 1.0 else block / block.dtype.type(self.unit)

    def _rows(self, classes: Index, rows: Index) -> Index:
        """Return the numbers of rows (g, k) of some classes (g,)."""
        return (rows * self.d + classes[:, None]).reshape(-1)

    def _cols(self, cols: Index) -> Index:
        """Return the numbers of columns (a, k) of the intervals."""
        return (np.arange(self.a)[:, None] * self.w + cols).reshape(-1)

    def _blocks(self, rows: Values, classes: int, width: int) -> Values:
        """Return rows (classes * t, a * width) as blocks (classes, a, t, width)."""
        return rows.reshape(classes, -1, self.a, width).transpose(0, 2, 1, 3)

    # the blocks of the split

    def sample(self) -> None:
        """Approximate all blocks; again where they do not fit, and in full where that is still so."""
        self._round(np.arange(self.d), first=True)
        spent = self.source.entries_read
        for _ in range(self.solver.retries):
            failing = self._failing()
            if len(failing) * self.b * self.w <= spent:
                break
            self._round(np.unique(failing // self.a), first=False)
        self._read_in_full(self._failing()[: spent // (self.b * self.w)])

    def _failing(self) -> Index:
        """Return the blocks that do not fit, as flat numbers of the grid (d, a), the worst first."""
        flat = self.misfit.reshape(-1)
        worst = np.argsort(-flat, kind="stable")
        limit = max(self.tolerance**2 * self.scale, float(np.finfo(np.float64).tiny))
        return worst[flat[worst] > limit]

    def _round(self, classes: Index, first: bool) -> None:
        """Approximate the blocks of some classes of rows; keep what fits better than before."""
        self.rounds += 1
        rng = np.random.default_rng([self.seed, self.rounds])
        k = self.rank * self.rounds + self.solver.oversampling
        columns = self._choose_columns(rng, classes, min(k, self.w))
        checks = min(self.solver.checks, self.w)
        checked_cols = np.sort(rng.random((self.a, self.w)).argpartition(checks - 1, axis=1)[:, :checks])
        energies = []
        for part in self._parts(classes, k):
            g = len(part)
            sampled = self._blocks(self._read(self._rows_of(part), self._cols(columns)), g, columns.shape[1])
            q = basis(self.backend, sampled)
            rows = pivots(q, min(k, self.b))
            read = self._blocks(self._read(self._rows(part, rows), None), g, self.w)
            at = np.arange(g)[:, None]
            known = q[at, :, rows].transpose(0, 2, 1, 3)
            left, right = truncate(self.backend, q, coefficients(known, read), self.rank)
            height = min(self.solver.checks, self.b)
            checked_rows = np.sort(rng.random((g, self.b)).argpartition(height - 1, axis=1)[:, :height])
            crossings = self._read(self._rows(part, checked_rows), self._cols(checked_cols))
            truth = self._blocks(crossings, g, checks)
            energies.append(mean_squares(truth).sum())
            misfit = _misfits(left, right, (sampled, columns), (read, rows), (truth, checked_rows, checked_cols))
            self._keep(part, left, right, misfit)
        if first:
            self.scale = math.fsum(energies) / (self.d * self.a)

    def _keep(self, classes: Index, left: Values, right: Values, misfit: NDArray[np.float64]) -> None:
        better = misfit < self.misfit[classes]
        if better.all() and int(classes[-1] - classes[0]) == len(classes) - 1:
            part = slice(int(classes[0]), int(classes[-1]) + 1)
            self.left[..., part] = left.transpose(2, 1, 3, 0)
            self.right[:, :, part] = right.transpose(1, 2, 0, 3)
            self.misfit[part] = misfit
            return
        at, interval = np.nonzero(better)
        self.left[:, interval, :, classes[at]] = left[at, interval]
        self.right[interval, :, classes[at]] = right[at, interval]
        self.misfit[classes[at], interval] = misfit[at, interval]

    def _choose_columns(self, rng: np.random.Generator, classes: Index, count: int) -> Index:
        """Return columns (a, count) of the intervals that are good for the blocks in a few classes of rows.

        Later rounds look at the classes with the most blocks that did not fit.
        """
        wrong = np.bincount(self._failing() // self.a, minlength=self.d) if self.rounds > 1 else np.zeros(self.d)
        order = rng.permutation(classes)
        pilots = order[np.argsort(-wrong[order], kind="stable")][:_PILOTS]
        height = min(count, self.b)
        rows = rng.random((len(pilots), self.b)).argpartition(height - 1, axis=1)[:, :height]
        read = self._read(self._rows(pilots, rows), None)
        largest = float(abs(read).max(initial=0))
        if self.rounds == 1 and 0 < largest and not 1e-6 < largest < 1e6:
            self.unit = math.ldexp(1.0, math.frexp(largest)[1] - 1)
            read = read / read.dtype.type(self.unit)
        blocks = self._blocks(read, len(pilots), self.w).transpose(1, 0, 3, 2)
        return pivots(basis(self.backend, blocks), count)

    def _parts(self, classes: Index, k: int) -> Iterator[Index]:
        """Cut classes of rows into parts whose samples fit the memory; an operator reads whole columns, all at once."""
        width = (self.b * self.a + self.w * self.a) * k * self.source.dtype.itemsize
        step = len(classes) if self.source.whole_lines else max(1, _CHUNK // width)
        for start in range(0, len(classes), step):
            yield classes[start : start + step]

    def _rows_of(self, classes: Index) -> Index:
        """Return all rows of some classes, one class after another."""
        return self._rows(classes, np.broadcast_to(np.arange(self.b), (len(classes), self.b)))

    def _read_in_full(self, blocks: Index) -> None:
        """Replace some blocks of the grid by their truncated SVDs."""
        self.refined = len(blocks)
        of_class, intervals = np.divmod(np.sort(blocks), self.a)
        for residue in np.unique(of_class):
            chosen = intervals[of_class == residue]
            cols = (chosen[:, None] * self.w + np.arange(self.w)).reshape(-1)
            read = self._read(self._rows_of(np.array([residue])), cols)
            exact = read.reshape(self.b, len(chosen), self.w).transpose(1, 0, 2)
            u, s, v = self.backend.rank_r(exact, min(self.rank, self.b, self.w))
            left, right = truncate(self.backend, u, s[:, :, None].astype(v.dtype) * v, self.rank)
            self.left[:, chosen, :, residue] = left
            self.right[chosen, :, residue] = right
            self.misfit[residue, chosen] = mean_squares(exact - left @ right)

    # the factors

    def finish_factors(self) -> None:
        """Make the other splits, on the two factors that are known."""
        a, b, r, d = self.a, self.b, self.rank, self.d
        elements = [
            (self.split, self.left.reshape(1, b, a * r, d)),
            (len(self.chain), self.right.reshape(a, r * d, self.w, 1)),
        ]
        del self.left, self.right
        order = (*range(1, self.split), *range(self.split + 1, len(self.chain)))
        found = split_further(self.backend, elements, self.chain, order)
        self.values, self.step_errors, self.norm = found.values, found.step_errors, found.norm

    def measure(self) -> None:
        """Compare the product of the factors with fresh random entries of the matrix."""
        left, right = self.values[0], self.values[self.split]
        for values in self.values[1 : self.split]:
            left = multiply(left, values)
        for values in self.values[self.split + 1 :]:
            right = multiply(right, values)
        left = left.reshape(self.b, self.a, self.rank, self.d)
        right = right.reshape(self.a, self.rank, self.d, self.w)

        def product(rows: Index, cols: Index) -> Values:
            (p, q), (i, at) = np.divmod(rows[:, None], self.d), np.divmod(cols[None, :], self.w)
            found: Values = (left[p, i, :, q] * right[i, :, q, at]).sum(axis=-1)
            return found

        # a fraction of what the factors took, which matters for small matrices only
        most = self.source.entries_read // 4
        relative, largest, self.typical, samples, independent = sample_residual(
            self._read, product, self.source.shape, self.solver.samples, most, self.seed
        )
        self.typical *= self.unit
        read, unresolved = self.source.entries_read, len(self._failing())
        self.evidence = SampledResidual(relative, largest, samples, independent, read, unresolved, self.seed)

    def outcome(self) -> Outcome:
        """Return the factors in the shapes that were asked for."""
        values = self.values if self.chain is self.asked else self.asked.restore(self.values)
        values = levelled(values, self.unit)
        if self.transposed:
            values = [v.transpose(0, 2, 1, 3) for v in reversed(values)]
        samples = self.rank * self.rounds + self.solver.oversampling
        changed = math.fsum(self.step_errors) / self.norm if self.norm > 0 else 0.0
        text = (
            f"The blocks of split {self.split} were found from {samples} of their rows and columns each, and "
            f"{self.refined} of {self.d * self.a} from all of them; the other splits changed the product by "
            f"{changed:.3g}, relatively."
        )
        factors = tuple(KroneckerFactor(np.ascontiguousarray(v)) for v in values)
        return Outcome(factors, Status.STATIONARY, None, text, evidence=self.evidence)


def _misfits(
    left: Values,
    right: Values,
    columns: tuple[Values, Index],
    rows: tuple[Values, Index],
    crossings: tuple[Values, Index, Index],
) -> NDArray[np.float64]:
    """Return the largest of the mean squared errors of blocks (g, a) on sampled columns, rows and random crossings."""
    groups, intervals = left.shape[:2]
    g, i = np.arange(groups)[:, None, None], np.arange(intervals)[None, :, None]

    def of_left(index: Index) -> Values:
        return left[g, i, index[:, None, :]]

    def of_right(index: Index) -> Values:
        return right.swapaxes(-1, -2)[g, i, index[None, :, :]].swapaxes(-1, -2)

    errors = [
        mean_squares(columns[0] - left @ of_right(columns[1])),
        mean_squares(rows[0] - of_left(rows[1]) @ right),
        mean_squares(crossings[0] - of_left(crossings[1]) @ of_right(crossings[2])),
    ]
    largest: NDArray[np.float64] = np.maximum.reduce(errors)
    return largest
