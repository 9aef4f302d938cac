"""Proofs that a matrix is not a product of two factors with given supports, checkable by polynomial arithmetic.

The entries of the factors are unknowns ``x[i, k]`` and ``y[k, j]``; a matrix M is a product exactly when the
polynomials ``f[i, j] = sum_k x[i, k] y[k, j] - M[i, j]`` have a common zero. A *refutation* is a list of polynomials
``g[i, j]`` with

    sum_ij  g[i, j] * f[i, j]  =  1,

which no common zero can satisfy, over any field that contains the coefficients (Hilbert's Nullstellensatz says that one
exists whenever M is not a product over the complex numbers, and bounds nothing useful: the search stops at a degree).

The search exploits that ``x[:, k] -> c x[:, k], y[k, :] -> y[k, :] / c`` changes no ``f``: averaging over c shows that
the ``g`` can be taken invariant too, so only monomials with as many ``x[., k]`` as ``y[k, .]`` for every k are needed.

Symbols: a monomial is a sorted tuple of unknowns, an unknown is ``(0, k, i)`` for ``x[i, k]`` and ``(1, k, j)`` for
``y[k, j]``; a polynomial is a dict from monomials to fractions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import combinations_with_replacement, product

import numpy as np
from numpy.typing import NDArray

__all__ = ["Monomial", "Polynomial", "Refutation", "entry_polynomial", "is_refutation", "refute"]

Monomial = tuple[tuple[int, int, int], ...]
Polynomial = dict[Monomial, Fraction]
Refutation = dict[tuple[int, int], Polynomial]

_PRIME = 2_147_483_647  # products of two residues fit in an int64
_LARGEST_SYSTEM = 900  # rows or columns of the linear system of one degree: about a second


def entry_polynomial(left: NDArray[np.bool_], right: NDArray[np.bool_], value: Fraction, i: int, j: int) -> Polynomial:
    """Return ``f[i, j]``, entry (i, j) of the product of the unknown factors minus `value`."""
    found: Polynomial = {
        ((0, int(k), i), (1, int(k), j)): Fraction(1) for k in np.flatnonzero(left[i, :] & right[:, j])
    }
    if value:
        found[()] = -value
    return found


def is_refutation(
    left: NDArray[np.bool_], right: NDArray[np.bool_], target: Sequence[Sequence[Fraction]], proof: Refutation
) -> bool:
    """Return whether ``sum g[i, j] f[i, j]`` is the constant 1, by multiplying out with exact fractions.

    Parameters
    ----------
    left, right : (m, r) and (r, n) bool arrays
        The supports.
    target : m sequences of n fractions
        The matrix M that is claimed to be no product.
    proof : dict from (i, j) to polynomials
        The multipliers g.

    Returns
    -------
    bool
        True proves that M is no product, over the real and over the complex numbers.
    """
    total: Polynomial = {}
    for (i, j), multiplier in proof.items():
        if not (0 <= i < left.shape[0] and 0 <= j < right.shape[1]):
            return False
        f = entry_polynomial(left, right, Fraction(target[i][j]), i, j)
        for a, b in product(multiplier.items(), f.items()):
            monomial = tuple(sorted(a[0] + b[0]))
            total[monomial] = total.get(monomial, Fraction(0)) + a[1] * b[1]
    return {monomial: value for monomial, value in total.items() if value} == {(): Fraction(1)}


def refute(
    left: NDArray[np.bool_],
    right: NDArray[np.bool_],
    target: Sequence[Sequence[Fraction]],
    cells: Sequence[tuple[int, int]],
    *,
    degree: int = 4,
    largest: int = _LARGEST_SYSTEM,
) -> Refutation | None:
    """Search for a refutation that uses the entries `cells` of the product only.

    Parameters
    ----------
    left, right : (m, r) and (r, n) bool arrays
        The supports.
    target : m sequences of n fractions
        The matrix M.
    cells : sequence of (i, j)
        Entries whose equations may be used; those that other terms can fill freely only make the search slower.
    degree : int
        Largest number of factors ``x y`` in a product ``g f``.
    largest : int
        The search stops where the linear system of a degree has more rows or columns than this.

    Returns
    -------
    dict or None
        None says that nothing was found, not that M is a product.
    """
    entries = {cell: entry_polynomial(left, right, Fraction(target[cell[0]][cell[1]]), *cell) for cell in cells}
    for cell, f in entries.items():
        if set(f) == {()}:
            return {cell: {(): 1 / f[()]}}
    # an entry that is a single monomial is zero wherever it appears, so the search works modulo these monomials
    zero = {cell: next(iter(f)) for cell, f in entries.items() if len(f) == 1}
    live = {cell: f for cell, f in entries.items() if cell not in zero}
    used = sorted({monomial[0][1] for f in entries.values() for monomial in f if monomial})
    rows = {k: sorted({m[0][2] for f in entries.values() for m in f if m and m[0][1] == k}) for k in used}
    cols = {k: sorted({m[1][2] for f in entries.values() for m in f if m and m[0][1] == k}) for k in used}
    pairs = {tuple(monomial) for monomial in zero.values()}
    multipliers: list[Monomial] = [()]
    for d in range(1, degree + 1):
        if d > 1:
            multipliers = multipliers + _invariant(rows, cols, d - 1, pairs)
        proof = _solve(live, multipliers, pairs, largest)
        if proof is None:
            return None
        if proof:
            completed = _complete(entries, zero, proof)
            # the residues mod p become fractions by a guess, so only what multiplies out is returned
            return completed if is_refutation(left, right, target, completed) else None
    return None


def _invariant(
    rows: Mapping[int, Sequence[int]],
    cols: Mapping[int, Sequence[int]],
    degree: int,
    zero: set[tuple[tuple[int, int, int], ...]],
) -> list[Monomial]:
    """Return the monomials with `degree` unknowns of either side, equally many per k, no multiples of a zero."""
    found: list[Monomial] = []
    for terms in combinations_with_replacement(sorted(rows), degree):
        choices = []
        for k in sorted(set(terms)):
            count = terms.count(k)
            choices.append(
                [
                    (*((0, k, i) for i in some_rows), *((1, k, j) for j in some_cols))
                    for some_rows in combinations_with_replacement(rows[k], count)
                    for some_cols in combinations_with_replacement(cols[k], count)
                    if not any(((0, k, i), (1, k, j)) in zero for i in some_rows for j in some_cols)
                ]
            )
        found.extend(tuple(sorted(sum(parts, ()))) for parts in product(*choices))
    return found


def _vanishes(monomial: Monomial, zero: set[tuple[tuple[int, int, int], ...]]) -> bool:
    lefts = [u for u in monomial if u[0] == 0]
    rights = [u for u in monomial if u[0] == 1]
    return any((a, b) in zero for a in lefts for b in rights if a[1] == b[1])


def _solve(
    live: Mapping[tuple[int, int], Polynomial],
    multipliers: Sequence[Monomial],
    zero: set[tuple[tuple[int, int, int], ...]],
    largest: int,
) -> Refutation | None:
    """Return multipliers whose combination of `live` is 1 modulo `zero`; empty if there are none, None if too large."""
    columns: list[tuple[tuple[int, int], Monomial]] = [(cell, g) for cell in live for g in multipliers]
    if len(columns) > largest:
        return None
    place: dict[Monomial, int] = {(): 0}
    entries: list[tuple[int, int, int]] = []
    for column, (cell, g) in enumerate(columns):
        for monomial, value in live[cell].items():
            whole = tuple(sorted(g + monomial))
            if not _vanishes(whole, zero):
                residue = value.numerator * pow(value.denominator, -1, _PRIME) % _PRIME
                entries.append((place.setdefault(whole, len(place)), column, residue))
    system = np.zeros((len(place), len(columns) + 1), dtype=np.int64)
    for row, column, residue in entries:
        system[row, column] = (system[row, column] + residue) % _PRIME
    system[0, -1] = 1
    solution = _solve_modular(system)
    if solution is None:
        return {}
    proof: Refutation = {}
    for column, residue in solution.items():
        cell, g = columns[column]
        proof.setdefault(cell, {})[g] = _fraction(residue)
    return proof


def _solve_modular(system: NDArray[np.int64]) -> dict[int, int] | None:
    """Solve ``system[:, :-1] c = system[:, -1]`` modulo the prime, free unknowns zero; None where impossible."""
    row = 0
    pivots: list[int] = []
    for column in range(system.shape[1] - 1):
        below = np.flatnonzero(system[row:, column])
        if below.size == 0:
            continue
        first = row + int(below[0])
        if first != row:
            system[[row, first]] = system[[first, row]]
        system[row] = system[row] * pow(int(system[row, column]), -1, _PRIME) % _PRIME
        others = np.flatnonzero(system[:, column])
        others = others[others != row]
        if others.size:
            where = np.flatnonzero(system[row])
            block = np.ix_(others, where)
            system[block] = (system[block] - system[others, column][:, None] * system[row, where]) % _PRIME
        pivots.append(column)
        row += 1
        if row == system.shape[0]:
            break
    if np.any(system[row:, -1]):
        return None
    return {column: int(system[i, -1]) for i, column in enumerate(pivots) if system[i, -1]}


def _fraction(residue: int) -> Fraction:
    """Return the fraction of small numerator and denominator with this residue (half of the extended Euclid)."""
    r0, r1, s0, s1 = _PRIME, residue, 0, 1
    while r1 * r1 * 2 > _PRIME:
        quotient = r0 // r1
        r0, r1, s0, s1 = r1, r0 - quotient * r1, s1, s0 - quotient * s1
    return Fraction(r1, s1)


def _complete(
    entries: Mapping[tuple[int, int], Polynomial], zero: Mapping[tuple[int, int], Monomial], proof: Refutation
) -> Refutation:
    """Cancel what `proof` leaves over with the entries that are single monomials."""
    total: Polynomial = {}
    for cell, multiplier in proof.items():
        for a, b in product(multiplier.items(), entries[cell].items()):
            monomial = tuple(sorted(a[0] + b[0]))
            total[monomial] = total.get(monomial, Fraction(0)) + a[1] * b[1]
    completed = {cell: dict(multiplier) for cell, multiplier in proof.items()}
    for monomial, value in total.items():
        if not monomial or not value:
            continue
        for cell, pair in zero.items():
            if all(unknown in monomial for unknown in pair):
                rest = list(monomial)
                for unknown in pair:
                    rest.remove(unknown)
                multiplier = completed.setdefault(cell, {})
                multiplier[tuple(rest)] = multiplier.get(tuple(rest), Fraction(0)) - value
                break
    return completed
