"""A sparse matrix plus one of low rank: minimise ||A - S - U V|| over nnz(S) <= k and r columns of U.

Each of the two terms is found with the other one fixed, in turn.

**The term of low rank** takes one step of subspace iteration from where it stood: U spans what R G V^H spans,
R = A - S, which is the best U for the V at hand, and V = U^H R is the best one for it. Both are exact, so the loss
never rises, and no decomposition of a whole matrix is needed until the last rounds.

**The sparse term** is, without a gram, the largest entries of A - U V; its target is extrapolated as in Nesterov's
method, and starts again without momentum where the loss has risen. With a gram it takes one step of ADMM, whose dual
variable goes on while its target moves with the other term and its penalty grows; at the end it is refitted on its
support, and entries are exchanged for better ones.

**The rank**, where it is open, is the best of short trials on a ladder of steps of sqrt(2): first an eighth of the
largest, then whichever neighbour is better. Without a gram the best rank is run from two starts, the matrix of low rank
and the sparse one. The result is then compared with a sparse matrix alone and a matrix of low
rank alone, which the budget also holds.

References: T. Zhou, D. Tao, "GoDec: randomized low-rank and sparse matrix decomposition in noisy case", ICML 2011 (the
two exact steps in turn); S. Zhang, V. Papyan, "OATS: outlier-aware pruning through sparse and low rank decomposition",
ICLR 2025 (the same for layers, weighted by the diagonal of the gram); M. Makni, K. Behdin, Z. Xu, N. Ponomareva,
R. Mazumder, "A unified framework for sparse plus low-rank matrix decomposition for LLMs", CPAL 2025 (with the gram in
full); M. Makni, X. Meng, R. Mazumder, "3BASiL: an algorithmic framework for sparse plus low-rank compression of LLMs",
NeurIPS 2025 (a step of ADMM for each step of the term of low rank). Ours are the extrapolation, the subspace step that
needs no root of the gram, and the choice of the rank.

Symbols: A matrix (m, n), G gram (n, n), S sparse (m, n), U (m, r), V (r, n), R = A - S, B = S^H, k nnz of S.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from sparsefact.constraints.sparse_plus_low_rank import SparsePlusLowRank
from sparsefact.errors import ArgumentError
from sparsefact.factorizers.problem import FactorizationProblem
from sparsefact.factorizers.sum_terms import Alone, Known, Projected, SumLoss, Terms, Weighted, polished
from sparsefact.minimizers.admm import ADMM
from sparsefact.minimizers.parameters import check_count
from sparsefact.minimizers.protocol import Outcome, Report
from sparsefact.products.status import Status

__all__ = ["AlternatingSum"]

# A trial of a rank takes this part of the steps.
_TRIAL = 4
# The ladder of ranks has this many steps of sqrt(2) at most, and is entered six of them below the largest.
_LONGEST = 12
_ENTRY = 6


@dataclass(frozen=True)
class AlternatingSum:
    """Alternating minimisation over the two terms of a sum, one sparse and one of low rank.

    Parameters
    ----------
    inner : ADMM
        Its ridge and its exchanges are those of the sparse term, under a gram; a sparse matrix alone is all its own.
    steps : int
        Of each term in turn, at most; a trial of a rank takes a quarter of them.
    polish : int
        Rounds of exact steps of both terms at the end, at most.
    report_every : int
        Steps between two measurements of the error.

    Raises
    ------
    ArgumentError
        If a parameter is outside its range; by its methods, if the constraint is not `SparsePlusLowRank`, or both sides
        of the loss are weighted.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> rng = np.random.default_rng(0)
    >>> A = rng.standard_normal((60, 80)) + rng.standard_normal((60, 3)) @ rng.standard_normal((3, 80))
    >>> F = sf.factorize(A, sf.sparse_plus_low_rank(A.shape, 0.3), sf.AlternatingSum(steps=60))
    >>> S = sf.factorize(A, sf.TopK(density=0.3))
    >>> bool(F.error < S.error)
    True
    """

    inner: ADMM = field(default_factory=ADMM)
    steps: int = 120
    polish: int = 10
    report_every: int = 10

    def __post_init__(self) -> None:
        if not isinstance(self.inner, ADMM):
            raise ArgumentError(f"inner={self.inner!r} is not possible here; pass a sparsefact.ADMM()")
        check_count("steps", self.steps)
        check_count("polish", self.polish, 0)
        check_count("report_every", self.report_every)

    @property
    def iterations(self) -> int:
        """Steps at most, with those of all trials."""
        return 2 * self.steps + self.inner.iterations + _LONGEST * max(1, self.steps // _TRIAL)

    def init(self, problem: FactorizationProblem, warm: Any = None) -> _State:
        """Check the constraint, and start the first run."""
        if not isinstance(problem.constraints, SparsePlusLowRank):
            raise ArgumentError(
                f"constraints={problem.constraints!r} is no sum, which AlternatingSum finds; pass "
                "sparsefact.sparse_plus_low_rank(A.shape, density)"
            )
        if problem.start is not None:
            raise ArgumentError("init is given, but AlternatingSum starts from the matrix itself; leave it out")
        if problem.gram is not None and problem.left_gram is not None:
            raise ArgumentError(
                "gram and left_gram are given, and AlternatingSum weighs one side; leave one of them out"
            )
        return _State(problem, problem.constraints, self)

    def step(self, problem: FactorizationProblem, state: _State) -> None:
        """Find both terms once; after the last step of a run, go on to the next one."""
        if not state.run.done:
            state.run.advance()
        if state.run.done:
            state.choose_run()

    def report(self, problem: FactorizationProblem, state: _State) -> Report:
        """Measure the relative error of the present run."""
        loss = state.run.loss()
        return Report(0.5 * loss * state.unit**2, state.loss.relative(loss), converged=state.ended)

    def finish(self, problem: FactorizationProblem, state: _State) -> Outcome:
        """Polish the best run, compare it with each of its terms alone, and return the factors of the sum."""
        terms, settled, text = state.best()
        return Outcome(state.factors(terms), Status.STATIONARY if settled else Status.LIMIT, None, text)


class _State:
    """The runs: a trial for each rank of the ladder that is tried, the best rank in full, a sparse matrix alone."""

    def __init__(self, problem: FactorizationProblem, constraint: SparsePlusLowRank, solver: AlternatingSum) -> None:
        self.constraint, self.solver, self.backend = constraint, solver, problem.backend
        # Squares of what is larger or smaller than this could leave the range of float32.
        largest = float(abs(problem.matrix).max())
        self.unit = 1.0 if 1e-6 < largest < 1e6 or largest == 0 else 4.0 ** round(math.log(largest, 4))
        matrix = problem.matrix if self.unit == 1 else problem.matrix / problem.matrix.dtype.type(self.unit)
        gram = problem.gram
        # A loss that is weighted on the left is one on the right of the transposes.
        self.transposed = problem.left_gram is not None
        if problem.left_gram is not None:
            matrix, gram = matrix.T, problem.left_gram.T
        self.loss = SumLoss(matrix, gram, problem.backend)
        most = constraint.largest_rank if constraint.rank is None else constraint.rank
        self.basis = self.loss.leading(matrix, most) if most else None
        self.ladder = _ladder(constraint)
        self.place = max(0, len(self.ladder) - 1 - _ENTRY)
        self.trying = len(self.ladder) > 1
        self.trials: dict[int, float] = {}
        self.found: Projected | Weighted | None = None
        self.ended = False
        self.run: Projected | Weighted | Alone | Known
        if self.ladder:
            self.run = self._run()
        elif constraint.rank:
            assert self.basis is not None
            self.run = Known(self.loss.low_rank(self.basis))
        else:
            self.run = self._alone()

    def _run(self) -> Projected | Weighted:
        assert self.basis is not None
        steps = max(1, self.solver.steps // _TRIAL) if self.trying else self.solver.steps
        rank = self.ladder[self.place]
        basis, nnz = self.basis[:, :rank], self.constraint.sparse_nnz(rank)
        if self.loss.gram is None:
            return Projected(self.loss, None if self.found else basis, rank, nnz, steps)
        return Weighted(self.loss, basis, nnz, steps, self.solver.inner)

    def _alone(self) -> Alone:
        return Alone(self.loss, self.constraint.budget, self.solver.inner)

    def choose_run(self) -> None:
        """Go on to the next trial, then to the best rank in full (from both starts), then to a sparse matrix alone."""
        if isinstance(self.run, (Alone, Known)):
            self.ended = True
        elif not self.trying:
            again = self.found is None and self.loss.gram is None
            if self.found is None or self.run.loss() < self.found.loss():
                self.found = self.run
            self.ended = not again and self.constraint.rank is not None
            if not self.ended:
                self.run = self._run() if again else self._alone()
        else:
            self.trials[self.place] = self.run.loss()
            fresh = _next_place(self.trials, len(self.ladder))
            self.trying = fresh is not None
            self.place = min(self.trials, key=lambda place: self.trials[place]) if fresh is None else fresh
            self.run = self._run()

    def best(self) -> tuple[Terms, bool, str]:
        """Return the best terms, whether the polish has settled, and sentences about them."""
        constraint, loss = self.constraint, self.loss
        found = self.found
        if found is None and isinstance(self.run, (Projected, Weighted)):
            found = self.run  # ended early
        choices: list[tuple[Terms, str]] = []
        settled, text = True, ""
        if found is not None:
            rank = found.basis.shape[1]
            nnz = constraint.sparse_nnz(rank)
            before = found.terms()
            terms, count, settled = polished(before, loss, nnz, self.solver.polish, self.solver.inner.exchanges)
            text = (
                f"A sparse matrix of {nnz} nonzeros plus one of rank {rank}"
                + (f", which was the best of {len(self.trials)} trials" if self.trials else "")
                + f": the search reached a relative error of {loss.relative(before.loss):.5g}, exact steps "
                f"{loss.relative(terms.loss):.5g}" + (f", with {count} entries exchanged. " if count else ". ")
            )
            choices.append((terms, "The sum"))
        if isinstance(self.run, Alone):
            choices.append((self.run.terms(), "A sparse matrix alone"))
        if self.basis is not None and (constraint.rank is None or isinstance(self.run, Known)):
            choices.append((loss.low_rank(self.basis), f"A matrix of rank {self.basis.shape[1]} alone"))
        best, name = min(choices, key=lambda choice: choice[0].loss)
        if len(choices) > 1:
            others = ", ".join(f"{each} {loss.relative(terms.loss):.5g}" for terms, each in choices)
            text += f"Relative errors at this budget: {others}. {name} was taken. "
        return best, settled, text.strip()

    def factors(self, terms: Terms) -> tuple[NDArray[Any], ...]:
        """Return the factors of the product that the sum is, in the scale of the problem."""
        xp, half = self.backend.xp, math.sqrt(self.unit)
        real = self.loss.matrix.real.dtype.type
        if terms.basis is None or terms.rows is None:
            assert terms.sparse is not None
            return (self._upright(terms.sparse) * real(self.unit),)
        sizes = xp.linalg.norm(terms.rows, axis=1)
        roots = xp.sqrt(sizes + (sizes == 0))
        left, right = terms.basis * (roots * real(half)), terms.rows * (real(half) / roots)[:, None]
        if self.transposed:
            left, right = right.T, left.T
        if terms.sparse is None:
            return left, right
        m, n = self.constraint.shape
        eye, sparse = xp.eye(min(m, n), dtype=left.dtype), self._upright(terms.sparse) * real(self.unit)
        first, second = (eye, sparse) if m <= n else (sparse, eye)
        return xp.concatenate([first, left], axis=1), xp.concatenate([second, right], axis=0)

    def _upright(self, matrix: NDArray[Any]) -> NDArray[Any]:
        return matrix.T if self.transposed else matrix


def _ladder(constraint: SparsePlusLowRank) -> list[int]:
    """Return the ranks that may be tried, ascending, each of which leaves something for the sparse term."""
    if constraint.rank is not None:
        return [constraint.rank] if constraint.rank and constraint.sparse_nnz(constraint.rank) else []
    (m, n), room = constraint.shape, constraint.budget - min(constraint.shape) - 1
    most = min(max(0, room // (m + n)), m, n)
    return sorted({round(most * 2 ** (-step / 2)) for step in range(_LONGEST)} - {0})


def _next_place(losses: dict[int, float], length: int) -> int | None:
    """Return the place to try next: two steps from the best one, then one step; None when no neighbour is open."""
    best = min(losses, key=lambda place: losses[place])
    near = (best + step for step in (-2, 2, -1, 1))
    return next((place for place in near if 0 <= place < length and place not in losses), None)
