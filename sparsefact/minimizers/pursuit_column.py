"""Matching pursuit over the entries of one column: sparse regression, without a fit from scratch for any support.

    f(w) = 1/2 w^H G w - Re w^H c,        w one column with few nonzeros

For samples X and targets y, G = X^H X and c = X^H y. With an orthonormal basis Q of the chosen columns of X everything
about the support S is in three arrays, one row of V for each chosen column:

    V = Q^H X  (kept as X^H Q),    r = X^H (y - Q Q^H y),    d_i = G_ii - sum_k |V_ki|^2

    adding i       needs column i of G:   v = (G_i - V^T conj(V_i)) / sqrt(d_i),   r -= v z,   z = r_i / sqrt(d_i)
    dropping j     turns Q so that one basis vector a is orthogonal to the other chosen columns (a reflection),
                   and gives that one back:   r += t b_j / sqrt(A_j),   d += |t|^2,   t = V^T a

This is the progressive Cholesky factorization of batch matching pursuit (R. Rubinstein, M. Zibulevsky, M. Elad, 2008),
here with whole rows, so that it also knows what every exchange of a kept j for a dropped i changes, exactly:

    [ c_j^2 - e_i^2 - 2 Re(conj(b_j) / sqrt(A_j) conj(t_ji) r_i / d_i) ] / [ 2 (1 + |t_ji|^2 / d_i) ]

    b the values,  A_j = (G_SS^-1)_jj,  c_j = |b_j| / sqrt(A_j),  e_i = |r_i| / sqrt(d_i)

The bracket on the left decides the sign. Since |t_ji|^2 <= G_ii - d_i, it is positive wherever

    c_j >= h_i + sqrt(h_i^2 + e_i^2),    h_i = |r_i| sqrt(G_ii - d_i) / d_i

so that few columns of V are looked at, and yet every exchange is. (Both are the swept matrix of
`sparsefact.minimizers.swap` in other words; the bound is ours.)

Of a `LeastSquares` only the columns of G that are chosen are formed. Which ones these will be is guessed on a few
candidates, so that one pass over the samples forms many; a wrong guess costs time, never the result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.analysis.pursuit_certificate import PursuitCertificate
from sparsefact.constraints.base import Constraint
from sparsefact.constraints.top_k import TopK
from sparsefact.minimizers.gram_columns import ScaledGram, gram_columns
from sparsefact.minimizers.protocol import MinimizeProblem
from sparsefact.minimizers.ranked import largest_first
from sparsefact.objectives.least_squares import LeastSquares
from sparsefact.objectives.quadratic import Quadratic

__all__ = ["ColumnPursuit", "is_column"]

# Entries that are guessed ahead, and candidates for them.
_AHEAD = 8
_CANDIDATES = 32
# Roundings, relative to a column, that may be left of one that the kept ones explain.
_DEPENDENT = 1e3
# Exchanges before the basis is formed anew.
_EXCHANGES = 64


def is_column(objective: Any, constraint: Constraint) -> bool:
    """Return whether this is least squares of one column of which a `TopK` leaves some entries."""
    user = getattr(objective, "user", objective)
    return (
        (isinstance(user, LeastSquares) or (isinstance(user, Quadratic) and user.right_gram is None))
        and isinstance(constraint, TopK)
        and constraint.per != "row"
        and objective.shape[1] == 1
    )


class ColumnPursuit:
    """The support, the basis of its columns, and what it leaves of all others."""

    def __init__(self, problem: MinimizeProblem, *, rescale: bool) -> None:
        self.backend = problem.backend
        xp = self.backend.xp
        self.columns = gram_columns(getattr(problem.objective, "user", problem.objective), self.backend)
        self.count = problem.constraint.count(problem.objective.shape)
        self.dtype = problem.objective.dtype
        cross, self.unit, self.constant = self.columns.start()
        self.scale = xp.where(self.unit > 0, self.unit, 1) ** 0.5 if rescale else xp.ones_like(self.unit)
        self.cross, self.unit = cross / self.scale, self.unit / self.scale**2
        self.shrink = 1 / self.scale
        self.chosen: NDArray[np.bool_] = np.zeros(len(cross), dtype=bool)
        self.per_step, self.trials, self.settled = 1, 0, False
        self.exchanges = 0
        eps = float(np.finfo(self.dtype).eps)
        # Of a column of which no more than this is left the kept ones are a combination.
        self.tolerance, self.least = max(1e-12, 4 * eps), _DEPENDENT * eps * self.unit
        self._restart()
        (size,) = self.backend.floats(xp.linalg.norm(self.cross))
        # What is left of a gradient of this size is rounding.
        self.floor = eps * size

    def _restart(self) -> None:
        """Begin with an empty basis."""
        xp = self.backend.xp
        self.basis = xp.empty((max(1, min(self.count, 16)), len(self.cross)), dtype=self.cross.dtype)
        self.parts = xp.empty(len(self.basis), dtype=self.cross.dtype)
        self.size = 0
        self.rest, self.left = self.cross.copy(), self.unit.copy()

    @property
    def units(self) -> int:
        """How many parts of the column have a count of their own."""
        return 1

    @property
    def missing(self) -> int:
        """How many entries may still join."""
        return self.count - self.size

    def adopt(self, start: NDArray[Any]) -> None:
        """Take the nonzero entries of `start`, the largest ones as far as they are allowed."""
        sizes = self.backend.to_host(abs(start[:, 0] * self.scale)).astype(np.float64)
        kept = largest_first(np.where(sizes > 0, sizes, -np.inf), self.count)
        self._join(sorted(kept))

    def _join(self, kept: list[int]) -> None:
        """Put several entries into the support, without those that the others explain."""
        self.columns.form(kept)
        for index in kept:
            self._add(index)

    def add(self) -> bool:
        """Add the entries of largest gradient where there is room; return whether there was any to add."""
        room = min(self.per_step, self.missing)
        if room == 0:
            return False
        scores = abs(self.rest)
        best = int(scores.argmax())
        size, left, least = self.backend.floats(scores[best], self.left[best], self.least[best])
        new = [best] if size > self.floor else []
        if room > 1 or not left > least:
            scores *= self.left > self.least
            host = self.backend.to_host(scores)
            new = largest_first(np.where(host > self.floor, host, -np.inf), room)
        if self.columns.absent(new):
            self.columns.form(new + self._guess(scores))
        added = [self._add(index) for index in new]
        return any(added)

    def _guess(self, scores: NDArray[Any]) -> list[int]:
        """Return which columns are likely to join from here: the pursuit among the few of largest score."""
        ahead = min(_AHEAD, self.missing)
        if ahead == 1 or not self.columns.together:
            return []
        xp = self.backend.xp
        few = np.sort(largest_first(self.backend.to_host(scores), _CANDIDATES))
        where = self.backend.asarray(few)
        shrink, seen = self.shrink[where], self.basis[: self.size][:, where]
        gram = self.columns.between(where)
        gram *= shrink[:, None]
        gram *= shrink
        gram -= seen.T @ seen.conj()
        rest, left, least, taken = self.rest[where], self.left[where], self.least[where], []
        rows = xp.empty((ahead, len(few)), dtype=gram.dtype)
        for count in range(min(ahead, len(few))):
            best = int(abs(rest).argmax())
            taken.append(int(few[best]))
            row = gram[best].conj()
            row -= rows[:count, best].conj() @ rows[:count]
            root = xp.maximum(left[best], least[best]) ** -0.5
            row *= root
            rest -= row * (rest[best] * root)
            left -= _squares(row)
            rest[best] = 0
            rows[count] = row
        return taken

    def _add(self, index: int) -> bool:
        """Take an entry into the support; return False for a column that the kept ones explain."""
        xp = self.backend.xp
        left, least = self.backend.floats(self.left[index], self.least[index])
        if not left > least:
            return False
        if self.size == len(self.basis):
            self.basis = xp.concatenate([self.basis, xp.empty_like(self.basis)])
            self.parts = xp.concatenate([self.parts, xp.empty_like(self.parts)])
        row = self.columns.take(index)
        row *= self.shrink
        row *= self.shrink[index]
        if self.size:
            seen = self.basis[: self.size]
            row -= seen[:, index].conj() @ seen
        # what is left of the column, from itself: a sum with less rounding than the differences before
        left = row[index].real.copy()
        row *= left**-0.5
        part = self.rest[index] / left**0.5
        self.rest -= row * part
        self.left -= _squares(row)
        self.rest[index], self.left[index] = 0, 0
        self.basis[self.size], self.parts[self.size] = row, part
        self.size += 1
        self.chosen[index] = True
        return True

    def replace(self, candidates: int) -> bool:
        """Do the exchange that lowers the objective most; return whether one does. All are looked at."""
        if self.size == 0 or self.size == len(self.chosen):
            return False
        if self.exchanges == _EXCHANGES:
            self.exchanges = 0
            self._restart()
            again = [int(index) for index in np.flatnonzero(self.chosen)]
            self.chosen[:] = False
            self._join(again)
        backend, xp = self.backend, self.backend.xp
        kept = np.flatnonzero(self.chosen)
        seen, parts = self.basis[: self.size], self.parts[: self.size]
        inverse = xp.linalg.inv(seen[:, backend.asarray(kept)].conj())
        values = inverse @ parts
        spread = _squares(inverse).sum(axis=1) ** 0.5
        directions = inverse.conj() / spread[:, None]
        shares = values / spread
        costs, usable = abs(shares), self.left > self.least
        left = xp.where(usable, self.left, 1)
        slope = xp.where(usable, self.rest / left, 0)
        gains = (self.rest * slope.conj()).real
        reach = abs(slope) * xp.maximum(self.unit - self.left, 0) ** 0.5
        reach += (reach**2 + gains) ** 0.5
        few, dear = (np.flatnonzero(backend.to_host(x)) for x in (reach > costs.min(), costs < reach.max()))
        if not few.size or not dear.size:
            return False
        where, which = backend.asarray(few), backend.asarray(dear)
        turned = directions[which] @ seen[:, where]
        net = turned.conj() * (shares.conj()[which][:, None] * slope[where][None, :])
        net = costs[which][:, None] ** 2 - gains[where][None, :] - 2 * net.real
        net /= 2 * (1 + _squares(turned) / left[where][None, :])
        best = int(net.argmin())
        change, energy = backend.floats(net.reshape(-1)[best], _squares(parts).sum())
        if not change < -self.tolerance * energy / 2:
            return False
        self.trials += 1
        self.exchanges += 1
        drop, new = int(dear[best // few.size]), int(few[best % few.size])
        self.columns.form([new])
        self._drop(int(kept[drop]), directions[drop], shares[drop])
        self._add(new)
        return True

    def _drop(self, index: int, direction: NDArray[Any], share: Any) -> None:
        """Give up an entry: the basis is turned until its last vector is orthogonal to the other kept columns."""
        xp, seen = self.backend.xp, self.basis[: self.size]
        row = direction @ seen
        last = direction[-1]
        # the reflection that takes the direction to the last axis, with the sign that does not cancel
        sign = last / abs(last) if abs(last) > 0 else xp.ones_like(last)
        normal = direction.copy()
        normal[-1] += sign
        normal /= (1 + abs(last)) ** 0.5
        parts = self.parts[: self.size]
        parts -= normal * (normal.conj() @ parts)
        seen -= normal.conj()[:, None] * (normal @ seen)[None, :]
        self.rest += row * share
        self.left += _squares(row)
        self.size -= 1
        self.chosen[index] = False

    def loss(self) -> float:
        """Return the objective at the present support."""
        parts = self.parts[: self.size]
        (energy,) = self.backend.floats(_squares(parts).sum())
        return self.constant - energy / 2

    def value(self) -> NDArray[Any]:
        """Return the minimiser on the support in the variables of the problem, a new array."""
        return self._fitted()[0]

    def finished(self) -> tuple[NDArray[Any], PursuitCertificate]:
        """Return the minimiser on the support, and what is known about the support."""
        value, gradient = self._fitted()
        xp, kept = self.backend.xp, self.backend.asarray(np.flatnonzero(self.chosen))
        outside = xp.where(self.backend.asarray(~self.chosen), abs(self.rest), 0).max()
        sizes = abs(value[kept, 0] * self.scale[kept]) if kept.size else xp.full(1, np.inf)
        on, off, least = self.backend.floats(gradient.max(), outside, sizes.min())
        matrix = ScaledGram(self.columns, self.scale, self.backend)
        return value, PursuitCertificate(
            self.chosen[:, None], (1, 1), on, off, least, self.trials, self.settled, matrix
        )

    def _fitted(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the minimiser, from the data and not from the basis, and the size of the scaled gradient there."""
        kept = self.backend.asarray(np.flatnonzero(self.chosen))
        found = self.backend.xp.zeros((len(self.cross), 1), dtype=self.dtype)
        if not self.size:
            return found, self.rest.real[:1] * 0
        few = self.columns.on(kept)
        mask = self.backend.xp.ones((self.size, 1), dtype=bool)
        solved = self.backend.masked_lsq(few.gram, few.cross, mask)
        found[kept] = solved.astype(self.dtype, copy=False)
        return found, abs(few.gradient(solved)[:, 0]) / self.scale[kept]

    def release(self) -> None:
        """Drop what a warm start does not need."""
        del self.basis, self.rest, self.left


def _squares(x: NDArray[Any]) -> NDArray[Any]:
    """Return the squared magnitudes."""
    squares: NDArray[Any] = x * x if x.dtype.kind != "c" else (x * x.conj()).real
    return squares
