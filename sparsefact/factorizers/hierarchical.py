"""The hierarchical algorithm for a chain of Kronecker supports: one split after another, with proofs of the error.

    min  || A - K_1 K_2 ... K_L ||     subject to   supp(K_j) in I_{a_j} (x) 1_{b_j x c_j} (x) I_{d_j}

For a chainable chain a split s cuts the matrix into blocks (rows of one residue mod d_s, columns of one of a_{s+1}
intervals) of rank at most r_s, and the products of a chain without redundant pairs are exactly the matrices that have
such ranks at all splits. Truncating the blocks of a split by their SVDs is therefore the projection P_s on a set that
contains all products. The algorithm does this for one split after another, on the factors found so far instead of the
matrix; with their bases orthonormal the result is P_{s_{L-1}} ... P_{s_1} A. Writing E_s for || A - P_s A || and e_j
for what step j changes,

    max_j e_j <= max_s E_s <= inf || A - P || <= || A - result || <= sum_j e_j <= (L - 1) inf || A - P ||

since no projection raises another E_s. From left to right, or from right to left, the steps are orthogonal to each
other: the error is exactly sqrt(sum e_j^2), at most sqrt(L - 1) times the best possible one. All e_j fall out of the
steps.

A diagonal gram diag(w) weights the columns of A: the problem is the same for ``A diag(sqrt w)``, with sqrt(w) divided
out of the last factor.

References: L. Zheng, E. Riccietti, R. Gribonval, "Efficient identification of butterfly sparse matrix factorizations",
SIAM J. Math. Data Sci. 5 (2023); Q.-T. Le, L. Zheng, E. Riccietti, R. Gribonval, "Butterfly factorization with error
guarantees", arXiv:2411.04506 (orthonormalised steps, chainable chains, redundancy). The bounds from the steps are ours.

Symbols: A matrix (m, n), L factors, s split, (a, b, c, d) Kronecker support, r rank, e step error, w weights (n,).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparsefact.analysis.chain_certificate import ChainCertificate, lower_bound
from sparsefact.analysis.split_blocks import energy_outside, split_errors
from sparsefact.constraints.chain import Chain
from sparsefact.constraints.kronecker_support import KroneckerSupport
from sparsefact.constraints.kronecker_values import values_on
from sparsefact.errors import ArgumentError
from sparsefact.factorizers.chain_sweep import improve
from sparsefact.factorizers.elements import levelled
from sparsefact.factorizers.panels import split_panels
from sparsefact.factorizers.problem import FactorizationProblem, diagonal_of
from sparsefact.factorizers.split_pass import Pass, split_in_order
from sparsefact.minimizers.parameters import check_count
from sparsefact.minimizers.protocol import Outcome, Report
from sparsefact.products.factors import KroneckerFactor
from sparsefact.products.sources import Source
from sparsefact.products.status import Status

__all__ = ["Hierarchical", "chain_or_refuse"]

_ORDERS = ("left-to-right", "right-to-left", "balanced")
# An error below this many eps * ||A|| is rounding as much as anything else: the factors are then exact.
_ROUNDING = 30.0
# Above this many eps * ||A|| the rounding of the factors does not show in four digits of the error.
_CLEAR = 3e3


@dataclass(frozen=True)
class Hierarchical:
    """Truncated SVDs of the blocks of one split after another, for a chainable chain of Kronecker supports.

    Parameters
    ----------
    order : "left-to-right", "right-to-left", "balanced" or sequence of int
        In which order the splits are made; split s (1-based) lies between factors s and s + 1, and a sequence names
        every one of them once. From left to right is the fastest. Every order recovers a matrix that is exactly of the
        chain; the two one-sided ones have the better guarantee, and their error is known without measuring it.
    tolerance : float, optional
        Choose the ranks (those of the chain are ignored): the smallest that keep the relative error at most this.
        ``Chain([f.support for f in result.factors])`` is then the chain found.
    certificate : "free" or "full"
        The lower bound on the best error: from the steps themselves, or, for the price of a pass over the matrix for
        each split, the largest E_s, which is at least as good.
    sweeps : int
        Sweeps of alternating least squares that improve the result afterwards, each factor in turn optimal for the
        others; the error never rises. They end early when it stops falling.
    memory : int, optional
        For a matrix that is read in parts: bytes for the part at hand and what is left of the parts before; a quarter
        of the matrix, at most 1 GiB, unless given.

    Raises
    ------
    ArgumentError
        If a parameter is not one of these.

    Notes
    -----
    The steps compute leading singular triples only, so every order takes O(m n) operations while ranks and sizes of
    blocks stay bounded.

    A memory-mapped array, a `LinearOperator` or `sparsefact.Entries` is read in panels of rows, every entry once, and
    is never in memory as a whole. This takes the order from left to right, ranks that are given, the free certificate
    and no sweeps; a memory-mapped array is otherwise treated like any other array.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> hadamard = np.array([[1.0]])
    >>> for _ in range(4):
    ...     hadamard = np.kron(hadamard, [[1, 1], [1, -1]])
    >>> F = sf.factorize(hadamard, sf.Chain.butterfly(16), sf.Hierarchical(order="balanced"))
    >>> len(F.factors), F.nnz, F.error < 1e-14, F.status.name
    (4, 128, True, 'OPTIMAL')
    """

    order: Literal["left-to-right", "right-to-left", "balanced"] | Sequence[int] = "left-to-right"
    tolerance: float | None = None
    certificate: Literal["free", "full"] = "free"
    sweeps: int = 0
    memory: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.order, str):
            try:
                object.__setattr__(self, "order", tuple(self.order))
            except TypeError:
                raise _bad_order(self.order) from None
        elif self.order not in _ORDERS:
            raise _bad_order(self.order)
        number = isinstance(self.tolerance, (int, float)) and not isinstance(self.tolerance, bool)
        if self.tolerance is not None and not (number and 0 < self.tolerance < 1):
            raise ArgumentError(
                f"tolerance={self.tolerance!r} is not allowed; pass a relative error between 0 and 1, or None to keep "
                "the ranks of the chain"
            )
        if self.certificate not in ("free", "full"):
            raise ArgumentError(f"certificate={self.certificate!r} is not allowed; pass 'free' or 'full'")
        check_count("sweeps", self.sweeps, 0)
        if self.memory is not None:
            check_count("memory", self.memory)

    @property
    def in_parts(self) -> bool:
        """Whether one pass over panels of rows is enough, so that the matrix need not be in memory."""
        return self.order != "balanced" and self.tolerance is None and self.certificate == "free" and self.sweeps == 0

    @property
    def iterations(self) -> int:
        """The pass over the splits, and the sweeps of improvement."""
        return 1 + self.sweeps

    @property
    def report_every(self) -> int:
        """One."""
        return 1

    def init(self, problem: FactorizationProblem, warm: Any = None) -> _State:
        """Check the chain and the order.

        Raises
        ------
        ArgumentError
            If the constraints are not a chainable chain, the order does not fit it, or the gram is not diagonal.
        """
        return _State(self, problem)

    def step(self, problem: FactorizationProblem, state: _State) -> None:
        """Find the factors; later, improve them."""
        if state.values is None:
            state.split()
        else:
            state.sweep()

    def report(self, problem: FactorizationProblem, state: _State) -> Report:
        """Return the objective and the relative error, or bounds on them."""
        reached = state.reached * state.scale
        # the square of a large error may leave the range of a float, which is no reason to stop
        objective = min(0.5 * reached * reached, sys.float_info.max) if reached < math.inf else reached
        return Report(objective, state.relative_error, converged=state.settled)

    def finish(self, problem: FactorizationProblem, state: _State) -> Outcome:
        """Return Kronecker factors with their certificate."""
        return state.outcome()


class _State:
    """The factors, and what each step left out.

    Norms are of the matrix at work: A divided by a power of two where its squares would leave the range of its type,
    its columns weighted; `scale` leads back.
    """

    def __init__(self, solver: Hierarchical, problem: FactorizationProblem) -> None:
        self.solver, self.problem, self.backend = solver, problem, problem.backend
        self.asked, self.transposed = chain_or_refuse(problem.constraints, "Hierarchical")
        order = _numbers(solver.order, len(self.asked) - 1, self.transposed)
        self.chain = self.asked
        if solver.tolerance is None and self.asked.is_redundant:
            self.chain = self.asked.reduced()
            number = {old: new for new, old in enumerate(self.asked.kept_splits, start=1)}
            order = tuple(number[split] for split in order if split in number)
            if isinstance(solver.order, str):
                order = _numbers(solver.order, len(self.chain) - 1, self.transposed)
        self.order = order
        self.source = self._parts() if isinstance(problem.matrix, Source) else None
        self.weights = diagonal_of(problem.gram, "Hierarchical", "sparsefact.PALM()")
        self.unit = 1.0
        self.values: list[NDArray[Any]] | None = None
        self.step_errors: tuple[float, ...] = ()
        self.norm = self.outside = self.reached = 0.0
        self.exact = list(order) in (sorted(order), sorted(order, reverse=True))
        self.swept = self.settled = False

    @property
    def scale(self) -> float:
        """What norms of the matrix at work are multiplied with."""
        return self.unit * (1.0 if self.weights is None else math.sqrt(float(self.weights.max())))

    @property
    def relative_error(self) -> float:
        """The error reached, or the bound on it, relative to the matrix."""
        return self.reached / self.norm if self.norm > 0 else 0.0

    @property
    def rounding(self) -> float:
        """What an error of the size of rounding is."""
        eps = float(np.finfo(self.problem.matrix.dtype).eps)
        return _ROUNDING * eps * math.sqrt(len(self.asked)) * self.norm

    def _parts(self) -> Source:
        """Return what reads the matrix at work, or refuse what panels of rows cannot give."""
        source: Source = self.problem.matrix.T if self.transposed else self.problem.matrix
        if not self.solver.in_parts or list(self.order) != sorted(self.order):
            way = "right-to-left" if self.transposed else "left-to-right"
            raise ArgumentError(
                f"solver={self.solver!r} needs the whole matrix in memory, but A is a {source.kind}, which is read in "
                f"panels; pass sparsefact.Hierarchical(order={way!r}) with no tolerance, sweeps or full certificate, "
                "or an array"
            )
        return source

    def _matrix(self) -> NDArray[Any]:
        """Return the matrix at work."""
        matrix: NDArray[Any] = self.problem.matrix
        if self.unit != 1.0:
            matrix = matrix / matrix.dtype.type(self.unit)
        if self.weights is not None:
            matrix = matrix * self._roots()
        return matrix.T if self.transposed else matrix

    def _roots(self) -> NDArray[Any]:
        """Return the square roots of the weights, the largest being one."""
        assert self.weights is not None
        roots: NDArray[Any] = self.backend.xp.sqrt(self.weights / self.weights.max())
        cast: NDArray[Any] = roots.astype(np.finfo(self.problem.matrix.dtype).dtype)
        return cast

    def split(self) -> None:
        """Make all splits; once more on a rescaled matrix where squares of its entries left the range of its type."""
        self._split()
        limits = np.finfo(self.problem.matrix.dtype)
        safe = math.sqrt(float(limits.tiny)) / float(limits.eps) * math.sqrt(self.problem.matrix.size)
        if not safe < self.norm < math.inf:
            largest = float(abs(self.problem.matrix).max()) if self.source is None else self.source.largest()
            if largest > 0:
                self.unit = math.ldexp(1.0, math.frexp(largest)[1] - 1)
                self._split()

    def _split(self) -> None:
        if self.source is not None:
            scale = 1 / self.unit if self.weights is None else self.backend.to_host(self._roots()) / self.unit
            found, off = split_panels(self.backend, self.source, self.chain, self.solver.memory, scale)
            self._take(found, math.sqrt(off))
            return
        matrix = self._matrix()
        whole = self.chain.partial(1, len(self.chain))
        outside = math.sqrt(energy_outside(self.backend.xp, matrix, whole))
        with np.errstate(over="ignore", invalid="ignore"):
            found = split_in_order(
                self.backend, values_on(matrix, whole), self.chain, self.order, self.solver.tolerance
            )
        self._take(found, outside)

    def _take(self, found: Pass, outside: float) -> None:
        self.values, self.step_errors, self.outside = found.values, found.step_errors, outside
        self.norm = math.hypot(found.norm, self.outside)
        total = math.hypot(*found.step_errors) if self.exact else math.fsum(found.step_errors)
        self.reached = math.hypot(total, self.outside)

    def sweep(self) -> None:
        """Improve every factor in turn; what does not lower the error is dropped."""
        assert self.values is not None
        core = values_on(self._matrix(), self.chain.partial(1, len(self.chain)))
        found, missed = improve(self.backend, core, self.values)
        reached = math.hypot(missed, self.outside)
        known = self.exact or self.swept
        eps = float(np.finfo(core.dtype).eps)
        self.settled = known and not reached < self.reached * (1 - 4 * eps)
        if not known or reached < self.reached:
            self.values, self.reached = found, reached
        self.exact = self.swept = True

    def outcome(self) -> Outcome:
        """Return the factors in the shapes that were asked for, with the certificate."""
        assert self.values is not None
        values = self._on_host(self.values)
        values = values if self.chain is self.asked else self.asked.restore(values)
        values = levelled(values, self.unit)
        if self.transposed:
            values = [v.transpose(0, 2, 1, 3) for v in reversed(values)]
        if self.weights is not None:
            values[-1] = self._unweighted(values[-1])
        certificate = self._certificate(tuple(KroneckerFactor(np.ascontiguousarray(v)) for v in values))
        optimal = self.reached <= self.rounding or (self.exact and certificate.ratio == 1.0)
        clear = self.exact and self.reached > _CLEAR / _ROUNDING * self.rounding
        return Outcome(
            certificate.factors,
            Status.OPTIMAL if optimal else Status.STATIONARY,
            certificate,
            self._explanation(),
            error=self.relative_error if clear or self.source is not None else None,
        )

    def _on_host(self, values: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the factors as NumPy arrays, by one transfer."""
        if all(isinstance(v, np.ndarray) for v in values):
            return values
        together = self.backend.to_host(self.backend.xp.concatenate([v.reshape(-1) for v in values]))
        ends = np.cumsum([v.size for v in values])[:-1]
        return [part.reshape(v.shape) for part, v in zip(np.split(together, ends), values, strict=True)]

    def _unweighted(self, last: NDArray[Any]) -> NDArray[Any]:
        """Return the last factor with its columns divided by the roots of the weights; zero where a weight is zero."""
        roots = self.backend.to_host(self._roots())
        inverse = np.where(roots > 0, 1 / np.where(roots > 0, roots, 1), 0)
        a, _, c, d = last.shape
        unweighted: NDArray[Any] = last * inverse.reshape(a, 1, c, d)
        return unweighted

    def _certificate(self, factors: tuple[KroneckerFactor, ...]) -> ChainCertificate:
        chain = Chain([factor.support for factor in factors])
        order, inner = self.order, self.chain
        if self.solver.tolerance is not None:
            inner = chain.T if self.transposed else chain
        errors = None
        if self.solver.certificate == "full":
            errors = tuple(self.scale * e for e in split_errors(self._matrix(), inner, self.backend))
        steps = tuple(self.scale * e for e in self.step_errors)
        outside = self.scale * self.outside
        lower, upper = lower_bound(steps, errors, outside), self.scale * self.reached
        # what rounding made of equal numbers
        lower = min(lower, upper) if self.exact else lower
        return ChainCertificate(
            lower,
            upper,
            exact=self.exact,
            norm=self.scale * self.norm,
            chain=inner,
            transposed=self.transposed,
            factors=factors,
            order=order,
            step_errors=steps,
            split_errors=errors,
            outside=outside,
            weights=None if self.weights is None else self.backend.to_host(self.weights),
        )

    def _explanation(self) -> str:
        ways = "order " + " ".join(map(str, self.order)) if len(self.order) < 9 else f"{len(self.order)} splits"
        text = f"Truncated SVDs of the blocks of each split, {ways}."
        if self.solver.tolerance is not None:
            assert self.values is not None
            ranks = [v.shape[1] * v.shape[3] // u.shape[3] for u, v in pairwise(self.values)]
            text += f" The tolerance {self.solver.tolerance:g} led to the ranks {ranks}."
        elif len(self.chain) < len(self.asked):
            text += f" Redundant pairs were merged for it, which left {len(self.chain)} of {len(self.asked)} factors."
        if self.transposed:
            text += " The matrix was transposed for it, since the transposed chain is the chainable one."
        if self.swept:
            text += " Alternating least squares followed."
        return text


def chain_or_refuse(constraints: Any, solver: str) -> tuple[Chain, bool]:
    """Return the chain to solve, and whether it is that of the transposed matrix.

    Raises
    ------
    ArgumentError
        If the constraints are no chain of Kronecker supports, or neither it nor its transpose is chainable.
    """
    if not isinstance(constraints, tuple) or not all(isinstance(c, KroneckerSupport) for c in constraints):
        raise ArgumentError(
            f"{solver} needs a chain of Kronecker supports, but constraints is {constraints!r}; pass for instance "
            "sparsefact.Chain.butterfly(n), or use sparsefact.PALM()"
        )
    chain = Chain(constraints)
    obstacle = chain.obstacle()
    if obstacle is None:
        return chain, False
    if chain.T.is_chainable:
        return chain.T, True
    raise ArgumentError(f"constraints are not a chainable chain, which {solver} needs: {obstacle}")


def _numbers(order: Any, splits: int, transposed: bool) -> tuple[int, ...]:
    """Return the splits in order, as numbers of the chain that is solved."""
    if order == "balanced":
        return _balanced(1, splits + 1)
    ascending = tuple(range(1, splits + 1))
    if order in ("left-to-right", "right-to-left"):
        return ascending if (order == "left-to-right") != transposed else ascending[::-1]
    numbers = tuple(order)
    if not all(isinstance(s, (int, np.integer)) for s in numbers) or tuple(sorted(numbers)) != ascending:
        raise ArgumentError(
            f"order={list(numbers)!r} does not fit a chain of {splits + 1} factors; name each of the splits "
            f"1 to {splits} once"
        )
    return tuple(splits + 1 - int(s) if transposed else int(s) for s in numbers)


def _balanced(first: int, last: int) -> tuple[int, ...]:
    """Return the splits of factors `first` to `last`: the middle one, then those of both halves."""
    if first == last:
        return ()
    middle = (first + last - 1) // 2
    return middle, *_balanced(first, middle), *_balanced(middle + 1, last)


def _bad_order(order: Any) -> ArgumentError:
    return ArgumentError(
        f"order={order!r} is not allowed; pass 'left-to-right', 'right-to-left', 'balanced', or a list with every "
        "split once, such as [2, 1, 3]"
    )
