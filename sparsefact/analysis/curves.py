"""Divergent curves: factors L(t), R(t) inside the supports whose product tends to a matrix that is no product.

Such a curve proves that the set P of products is not closed, and shows how an optimisation fails: for A equal to the
limit the error tends to 0 while the factors grow without bound, and 0 is not attained. The certificate has two halves,
both checked with exact fractions: the curve is a Laurent polynomial in t, whose product has no positive power of t and
the limit as its constant term; and a refutation (`sparsefact.analysis.refutation`) proves that the limit is no product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sparsefact.analysis.refutation import Refutation, is_refutation
from sparsefact.analysis.support_pairs import SupportPair

__all__ = ["DivergentCurve", "Entry", "Laurent", "block_of", "product_of"]

Laurent = dict[int, Fraction]
Entry = tuple[int, int, int, Fraction]

_TIMES = tuple(10**e for e in range(2, 7))


@dataclass(frozen=True)
class DivergentCurve:
    """A proof that P is not closed, on the block `rows` x `cols` of the product.

    A limit of products of the block, padded with zeros, is a limit of products of the whole pair, and a factorization
    of the padded matrix would restrict to one of the block: so the block's proof is the pair's.

    Parameters
    ----------
    rows, cols : tuple of int
        Rows and columns of the product that form the block.
    left, right : tuple of (i, j, power, coefficient)
        The factors, entry by entry as polynomials in t and 1/t. Left entries are (row, inner), right ones
        (inner, column), all of them indices of the whole supports.
    limit : tuple of tuples of fractions
        The matrix on the block that the products tend to.
    proof : dict
        Multipliers that show that the limit is no product; indices are positions in `rows` and `cols`, and inner
        indices count those that meet the block, in increasing order.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> answer = sf.closedness(np.tri(2, dtype=bool), np.tri(2, dtype=bool).T)
    >>> curve = answer.certificate
    >>> L, R = curve.at(100.0, answer.pair)
    >>> (L @ R).round(2) + 0.0
    array([[0.01, 1.  ],
           [1.  , 0.  ]])
    >>> curve.target(answer.pair)
    array([[0., 1.],
           [1., 0.]])
    """

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    left: tuple[Entry, ...]
    right: tuple[Entry, ...]
    limit: tuple[tuple[Fraction, ...], ...]
    proof: Refutation

    def target(self, pair: SupportPair) -> NDArray[np.float64]:
        """Return the limit as an (m, n) array, zero outside the block: a matrix for which no optimum exists."""
        found = np.zeros(pair.shape)
        found[np.ix_(self.rows, self.cols)] = [[float(v) for v in row] for row in self.limit]
        return found

    def at(self, t: float, pair: SupportPair) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the factors at time t, arrays of shape (m, r) and (r, n)."""
        left, right = np.zeros((pair.shape[0], pair.inner)), np.zeros((pair.inner, pair.shape[1]))
        for factor, entries in ((left, self.left), (right, self.right)):
            for i, j, power, value in entries:
                factor[i, j] += float(value) * t**power
        return left, right

    def verify(self, pair: SupportPair) -> bool:
        """Return whether the certificate proves that the pair is not closed.

        The factors are checked against the supports; the product's coefficients are multiplied out, and once more
        evaluated at t = 1e2, ..., 1e6, where the distance to the limit must fall to zero and the factors must grow;
        the refutation of the limit is multiplied out. All of it in exact fractions.
        """
        m, n = pair.shape
        if not (self.rows and self.cols and _within(self.rows, m) and _within(self.cols, n)):
            return False
        if len(self.limit) != len(self.rows) or any(len(row) != len(self.cols) for row in self.limit):
            return False
        inside = all(
            i in self.rows and 0 <= k < pair.inner and bool(np.any(pair.rows[k] == i)) for i, k, *_ in self.left
        ) and all(j in self.cols and 0 <= k < pair.inner and bool(np.any(pair.cols[k] == j)) for k, j, *_ in self.right)
        if not inside or not self._converges() or not self._approaches():
            return False
        left, right, _ = block_of(pair, self.rows, self.cols)
        return is_refutation(left, right, self.limit, self.proof)

    def _converges(self) -> bool:
        """Whether the product has no positive power of t, and the limit as its constant coefficient."""
        product = product_of(self.left, self.right)
        for a, i in enumerate(self.rows):
            for b, j in enumerate(self.cols):
                entry = product.get((i, j), {})
                if any(value for power, value in entry.items() if power > 0):
                    return False
                if entry.get(0, Fraction(0)) != self.limit[a][b]:
                    return False
        return True

    def _approaches(self) -> bool:
        """Whether the distance to the limit falls like 1/t or faster and the factors grow, at t = 1e2, ..., 1e6."""
        errors, sizes = [], []
        for t in _TIMES:
            left, right = _evaluate(self.left, t), _evaluate(self.right, t)
            sizes.append(sum(v * v for v in left.values()) * sum(v * v for v in right.values()))
            worst = Fraction(0)
            for a, i in enumerate(self.rows):
                for b, j in enumerate(self.cols):
                    reached = sum((v * right.get((k, j), 0) for (h, k), v in left.items() if h == i), Fraction(0))
                    worst = max(worst, abs(reached - self.limit[a][b]))
            errors.append(worst)
        falling = all(0 < late * 5 <= early for early, late in pairwise(errors))
        return falling and all(early < late for early, late in pairwise(sizes))

    def explain(self) -> str:
        """Return the proof in words."""
        lines = [
            "Products tend to a matrix that is not one, "
            f"on rows {_listed(self.rows)} and columns {_listed(self.cols)}:",
            *("    " + "  ".join(f"{v!s:>4}" for v in row) for row in self.limit),
            "along the factors (entries not named are zero)",
            "    " + ", ".join(_formula("L", self.left)),
            "    " + ", ".join(_formula("R", self.right)),
            "as t grows. That the limit is no product follows from "
            f"{sum(map(len, self.proof.values()))} polynomial multipliers, which verify() multiplies out.",
        ]
        return "\n".join(lines)


def _within(indices: Sequence[int], size: int) -> bool:
    return len(set(indices)) == len(indices) and all(0 <= i < size for i in indices)


def _listed(indices: Sequence[int]) -> str:
    return ", ".join(map(str, indices))


def _formula(name: str, entries: Sequence[Entry]) -> Iterator[str]:
    cells: dict[tuple[int, int], list[str]] = {}
    for i, j, power, value in entries:
        factor = "" if power == 0 else "t" if power == 1 else f"t^{power}"
        number = f"{value}" if not factor else "" if value == 1 else "-" if value == -1 else f"{value} "
        cells.setdefault((i, j), []).append(number + factor)
    for (i, j), parts in sorted(cells.items()):
        yield f"{name}[{i},{j}] = {' + '.join(parts)}"


def _evaluate(entries: Sequence[Entry], t: int) -> dict[tuple[int, int], Fraction]:
    found: dict[tuple[int, int], Fraction] = {}
    for i, j, power, value in entries:
        found[i, j] = found.get((i, j), Fraction(0)) + value * Fraction(t) ** power
    return found


def product_of(left: Sequence[Entry], right: Sequence[Entry]) -> dict[tuple[int, int], Laurent]:
    """Return the entries of the product of two factors given by their entries, as polynomials in t and 1/t."""
    by_inner: dict[int, list[Entry]] = {}
    for entry in right:
        by_inner.setdefault(entry[0], []).append(entry)
    found: dict[tuple[int, int], Laurent] = {}
    for i, k, p, a in left:
        for _, j, q, b in by_inner.get(k, ()):
            cell = found.setdefault((i, j), {})
            cell[p + q] = cell.get(p + q, Fraction(0)) + a * b
    return found


def block_of(
    pair: SupportPair, rows: Sequence[int], cols: Sequence[int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], tuple[int, ...]]:
    """Return the supports of the block, dense, over the inner indices that meet it, and these indices."""
    left, right = pair.left.tocsr()[list(rows)], pair.right.tocsc()[:, list(cols)]
    inner = np.intersect1d(np.unique(left.indices), np.unique(right.indices))
    dense = left.tocsc()[:, inner].toarray().astype(bool), right.tocsr()[inner].toarray().astype(bool)
    return dense[0], dense[1], tuple(inner.tolist())
