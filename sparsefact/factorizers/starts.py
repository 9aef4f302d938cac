"""Where to start with a pair of fixed supports, and how to leave a saddle: block by block.

Rank-one terms with one rectangle of allowed cells form a class, and the best sum of terms of one class for a matrix is
a truncated SVD of the block. Where rectangles overlap, three starts compete:

* the tractable surrogate: every cell goes to one class, the class with the largest block energy first;
* deflation: classes in order of block energy, each from what the earlier ones left;
* Gaussian entries on the supports, scaled so that the product has the norm of the matrix on the cells it reaches.

A zero pair of a column and a row is a critical point, so none is left zero.

Symbols: A matrix (m, n), X left factor transposed (k, m), Y right factor (k, n), E residual (m, n).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TermClass", "classes", "deflation", "exchange", "gaussian", "leading", "surrogate", "without_zeros"]

Pair = tuple[NDArray[Any], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class TermClass:
    """The rank-one terms that share one rectangle: its rows, its columns, and the inner indices of the terms."""

    rows: NDArray[np.intp]
    cols: NDArray[np.intp]
    members: NDArray[np.intp]


def classes(left: NDArray[np.bool_], right: NDArray[np.bool_]) -> list[TermClass]:
    """Group the rank-one terms by their rectangles, in order of their first terms.

    Parameters
    ----------
    left : (k, m) bool array
        The support of the left factor, transposed.
    right : (k, n) bool array

    Returns
    -------
    list of TermClass
        Terms with an empty rectangle are in none.
    """
    groups: dict[bytes, list[int]] = {}
    keys = np.packbits(np.concatenate([left, right], axis=1), axis=1)
    for index in np.flatnonzero(left.any(axis=1) & right.any(axis=1)):
        groups.setdefault(keys[index].tobytes(), []).append(int(index))
    return [
        TermClass(np.flatnonzero(left[members[0]]), np.flatnonzero(right[members[0]]), np.array(members))
        for members in groups.values()
    ]


def leading(block: NDArray[Any], count: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the largest singular triplets of a block, to the accuracy that a start needs.

    Parameters
    ----------
    block : (b, c) array
    count : int
        How many; at most min(b, c) are returned.

    Returns
    -------
    u : (b, q), s : (q,), vh : (q, c) arrays
    """
    short = min(block.shape)
    count = min(count, short)
    if short <= 24 or 4 * count >= short:
        u, s, vh = np.linalg.svd(block, full_matrices=False)
        return u[:, :count], s[:count], vh[:count]
    # A fixed seed: a start depends on the seed of the problem only where it says so.
    basis = np.random.default_rng(0).standard_normal((block.shape[1], count + 4)).astype(block.real.dtype)
    left = block @ basis
    for _ in range(4):
        left = block @ (block.conj().T @ np.linalg.qr(left)[0])
    left = np.linalg.qr(left)[0]
    u, s, vh = np.linalg.svd(left.conj().T @ block, full_matrices=False)
    return (left @ u)[:, :count], s[:count], vh[:count]


def surrogate(matrix: NDArray[Any], groups: list[TermClass], inner: int) -> Pair:
    """Return the best factors when each cell is given to one class, the class of largest block energy first.

    The classes are then independent: one truncated SVD for each (the disjoint case, solved exactly).
    """
    x, y = _zeros(matrix, inner)
    free = np.ones(matrix.shape, dtype=bool)
    for group in _by_energy(matrix, groups):
        cells = _cells(group.rows, group.cols)
        _place(x, y, group, np.where(free[cells], matrix[cells], 0))
        free[cells] = False
    return x, y


def deflation(matrix: NDArray[Any], groups: list[TermClass], inner: int) -> Pair:
    """Return factors found class by class, in order of block energy, each from the residual of those before."""
    x, y = _zeros(matrix, inner)
    residual = matrix.copy()
    for group in _by_energy(matrix, groups):
        cells = _cells(group.rows, group.cols)
        residual[cells] -= _place(x, y, group, residual[cells])
    return x, y


def gaussian(matrix: NDArray[Any], left: NDArray[np.bool_], right: NDArray[np.bool_], seed: int | list[int]) -> Pair:
    """Return random factors on the supports (k, m) and (k, n), whose product is as large as the matrix they reach."""
    rng = np.random.default_rng(seed)
    x, y = (np.where(mask, _normal(rng, mask.shape, matrix.dtype), 0) for mask in (left, right))
    reached = float(np.linalg.norm(matrix * _reached(left, right)))
    product = float(np.linalg.norm(x.T @ y))
    scale = matrix.real.dtype.type((reached / product) ** 0.5 if product > 0 and reached > 0 else 1.0)
    return x * scale, y * scale


def without_zeros(pair: Pair, right: NDArray[np.bool_], seed: int | list[int]) -> Pair:
    """Return factors of the same product in which no row of the right one is zero where its support allows entries.

    The right row of such a term becomes random and the left column zero, so the product stays and the next solve for
    the left factor can use the term.
    """
    x, y = pair
    dead = right.any(axis=1) & ~y.any(axis=1)
    if not dead.any():
        return pair
    x, y = x.copy(), y.copy()
    norms = np.linalg.norm(y, axis=1)
    typical = norms[norms > 0].mean() if norms.any() else 1.0
    fresh = np.where(right[dead], _normal(np.random.default_rng(seed), (int(dead.sum()), y.shape[1]), y.dtype), 0)
    y[dead] = fresh * (typical / np.linalg.norm(fresh, axis=1, keepdims=True)).astype(fresh.real.dtype)
    x[dead] = 0
    return x, y


def exchange(pair: Pair, residual: NDArray[Any], groups: list[TermClass], margin: float = 1e-3) -> Pair | None:
    """Leave the saddles whose descent direction is known, or return None where there is none.

    At a critical point the residual block of a class is orthogonal to the class's own terms. When its largest singular
    value exceeds the smallest of the class, s < sigma, the second derivative along the new triplet, shared with the
    term of s, is negative (-2 (sigma - s)), and putting the new triplet in the place of the old one lowers
    ||E||^2 by sigma^2 - s^2. Every exchange is taken only where the block's residual falls.

    Parameters
    ----------
    pair : (k, m) and (k, n) arrays
        Not modified.
    residual : (m, n) array
        A minus the product; overwritten by that of the result.
    groups : list of TermClass
    margin : float
        How much larger sigma must be, relatively.

    Returns
    -------
    pair of arrays, or None
    """
    x, y = pair[0].copy(), pair[1].copy()
    changed = False
    for group in groups:
        cells = _cells(group.rows, group.cols)
        block = residual[cells]
        before = float(np.linalg.norm(block))
        u, s, vh = leading(block, 1)
        terms = _cells(group.members, group.rows), _cells(group.members, group.cols)
        weakest, left, right = _singular_form(x[terms[0]], y[terms[1]])
        if not s[0] > (1 + margin) * weakest or not before > 0:
            continue
        old = np.outer(left[-1], right[-1])
        root = np.sqrt(s[0])
        left[-1], right[-1] = u[:, 0] * root, vh[0] * root
        block = block + old - np.outer(left[-1], right[-1])
        if float(np.linalg.norm(block)) < before * (1 - 1e-6):
            x[terms[0]], y[terms[1]] = left, right
            residual[cells] = block
            changed = True
    return (x, y) if changed else None


def _singular_form(x: NDArray[Any], y: NDArray[Any]) -> tuple[float, NDArray[Any], NDArray[Any]]:
    """Return the smallest singular value of ``x^T y`` and balanced factors of it along its triplets, largest first."""
    if x.shape[0] == 1:
        first, second = float(np.linalg.norm(x)), float(np.linalg.norm(y))
        balance = x.real.dtype.type((second / first) ** 0.5 if first > 0 and second > 0 else 0)
        return first * second, x * balance, y / balance if balance else 0 * y
    qx, rx = np.linalg.qr(x.T)
    qy, ry = np.linalg.qr(y.T)
    u, s, vh = np.linalg.svd(rx @ ry.T, full_matrices=False)
    left, right = np.zeros_like(x), np.zeros_like(y)
    left[: s.size], right[: s.size] = (qx @ u * np.sqrt(s)).T, np.sqrt(s)[:, None] * (vh @ qy.T)
    return float(s[-1]) if s.size == x.shape[0] else 0.0, left, right


def _cells(rows: NDArray[np.intp], cols: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return indices of a block; `np.ix_` checks them again, which takes longer than a small block."""
    return rows[:, None], cols[None, :]


def _zeros(matrix: NDArray[Any], inner: int) -> Pair:
    m, n = matrix.shape
    return np.zeros((inner, m), dtype=matrix.dtype), np.zeros((inner, n), dtype=matrix.dtype)


def _by_energy(matrix: NDArray[Any], groups: list[TermClass]) -> list[TermClass]:
    energies = [float(np.linalg.norm(matrix[_cells(group.rows, group.cols)])) for group in groups]
    return [groups[i] for i in np.argsort([-energy for energy in energies], kind="stable")]


def _place(x: NDArray[Any], y: NDArray[Any], group: TermClass, block: NDArray[Any]) -> NDArray[Any]:
    """Give the terms of a class the largest triplets of a block, balanced, and return their sum."""
    u, s, vh = leading(block, group.members.size)
    members, root = group.members[: s.size], np.sqrt(s)
    x[_cells(members, group.rows)] = (u * root).T
    y[_cells(members, group.cols)] = root[:, None] * vh
    placed: NDArray[Any] = (u * s) @ vh
    return placed


def _reached(left: NDArray[np.bool_], right: NDArray[np.bool_]) -> NDArray[np.bool_]:
    reached: NDArray[np.bool_] = left.T.astype(np.float32) @ right.astype(np.float32) > 0
    return reached


def _normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    draw = rng.standard_normal(shape)
    if dtype.kind == "c":
        return (draw + 1j * rng.standard_normal(shape)).astype(dtype)
    return draw.astype(dtype)
