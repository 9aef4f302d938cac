"""One level of a butterfly whose rows and columns come shuffled: which rows pair up, which columns go together.

A stack ``x`` of k matrices shares its R rows; each has w columns of its own. Wanted are R / 2 pairs of rows, the same
in every matrix, and per matrix a halving of its columns, such that the two rows of a pair are nearly proportional on
each half: the sum, over matrices, halves and pairs, of the squared distance of a 2 x w/2 block to rank one is to be
small.

Every column of two rows is a point b on a sphere (`pair_blocks`), of length n, and a block of columns has the squared
distance ``(sum n - |sum b|) / 2`` to rank one. So everything below is arithmetic on sums of such points:

* given the pairs, a halving is a clustering of the columns into equal parts: mean directions of the two parts and the
  best equal halving for these directions (a sort) in turn;
* given the halvings, the cost of any two rows is a closed formula, and the pairs are a matching of small weight;
* a start needs neither. Two rows that belong together have their points at two places of the sphere only: the
  principal axis of the points tells the places apart, and trying all partners of a row tells the right one. The
  halvings that several such pairs suggest vote, again by a principal axis.

The alternation gets stuck: wrong pairs hold wrong columns in place, and these hold the pairs. So it starts again from
the halving that some of the pairs vote for, many times, and keeps what is better; some choice has few wrong ones.

Finding a butterfly's row and column classes by alternating between the two is the method of L. Zheng, G. Puy,
E. Riccietti, P. Perez, R. Gribonval, "Butterfly factorization by algorithmic identification of rank-one blocks"
(GRETSI 2023, arXiv:2307.00820), by spectral clustering for each level on its own; working down the levels on merged
rows, points on the sphere, matchings and votes are this file's.

    k matrices, R rows, w columns (R may differ from w), g pairs, c coordinates of a point: 2 for real, 3 for complex
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsefact.factorizers.pair_blocks import best_row, sphere_points
from sparsefact.factorizers.row_pairs import match_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Clustering", "cluster_level", "measured", "merge_pairs"]

_SEEDS = 8
_REPEATS = 24
_PATIENCE = 10
_EXACT = 1e-13
_POWER_STEPS = 40
_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class Clustering:
    """Pairs of rows and halves of columns, and what they miss.

    Attributes
    ----------
    pairs : int array of shape (R / 2, 2)
    halves : bool array of shape (k, w)
        True for the columns of the first half.
    cost : float
        The sum of the squared distances of all blocks to rank one.
    worst : float
        The largest cost of one pair relative to the squared norm of its two rows.
    """

    pairs: NDArray[np.intp]
    halves: NDArray[np.bool_]
    cost: float
    worst: float

    @property
    def exact(self) -> bool:
        """Whether every block has rank one up to rounding."""
        return self.worst <= _EXACT


def cluster_level(x: NDArray[Any], rng: np.random.Generator, late: Callable[[], bool]) -> Clustering:
    """Return pairs of rows and halves of columns of small cost.

    Parameters
    ----------
    x : float64 or complex128 array of shape (k, R, w)
        R and w even, and at least 4.
    rng : numpy.random.Generator
        Draws the rows to start from and the pairs that vote.
    late : callable
        Asked between improvements; True ends the search with the best so far.

    Returns
    -------
    Clustering
    """
    seeds = _seed_pairs(x, rng)
    # The votes of one pair agree with themselves: where many halvings are equally right (Hadamard), seeds contradict.
    best = _improved(x, seeds[:1], rng)
    if len(seeds) > 1 and not best.exact:
        best = min(best, _improved(x, seeds, rng), key=_cost)
    failures = 0
    for repeat in range(_REPEATS):
        if best.exact or failures == _PATIENCE or late():
            break
        if repeat % 2:
            voters = best.pairs[rng.random(len(best.pairs)) < 0.5]
        else:
            trusted = np.argsort(_distrust(x, best), kind="stable")
            voters = best.pairs[trusted[: max(1, round(len(trusted) * rng.uniform(0.1, 0.9)))]]
        if not len(voters):
            continue
        found = _improved(x, voters, rng)
        failures = 0 if found.cost < best.cost * (1 - 1e-9) else failures + 1
        best = min(best, found, key=_cost)
    return best


def _cost(found: Clustering) -> float:
    return found.cost


def _first_half(score: NDArray[np.float64], among_equals: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return the half of the columns with the largest score, along the last axis; of equal ones, the first listed."""
    width = score.shape[-1]
    order = among_equals[np.argsort(-score[..., among_equals], axis=-1, kind="stable")]
    halves = np.zeros(score.shape, dtype=bool)
    np.put_along_axis(halves, order[..., : width // 2], True, axis=-1)
    return halves


def _sums(points: NDArray[np.float64], halves: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sums over both halves of points (..., f, w) with halves (..., w); each is (..., f)."""
    first = (points @ halves[..., None].astype(np.float64))[..., 0]
    return first, (points @ (~halves)[..., None].astype(np.float64))[..., 0]


def _norms(sums: NDArray[np.float64], c: int) -> NDArray[np.float64]:
    """Return the lengths (..., g) of the sums (..., g * c)."""
    folded = sums.reshape(*sums.shape[:-1], -1, c)
    lengths: NDArray[np.float64] = np.sqrt((folded * folded).sum(axis=-1))
    return lengths


def _settle(
    points: NDArray[np.float64], c: int, halves: NDArray[np.bool_], rounds: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Alternate between the mean directions of the halves and the best equal halving; points are (..., g * c, w)."""
    # Two opposite points in one half cancel to no direction at all, and would stay together for ever without a nudge.
    among_equals = rng.permutation(points.shape[-1])
    nudges = rng.standard_normal((2, *points.shape[:-1])) * (1e-9 * abs(points).max(axis=-1))
    for _ in range(rounds):
        directions = []
        for total, nudge in zip(_sums(points, halves), nudges, strict=True):
            nudged = total + nudge
            length = np.maximum(_norms(nudged, c), _TINY)[..., None]
            directions.append((nudged.reshape(*length.shape[:-1], c) / length).reshape(total.shape))
        score = ((directions[0] - directions[1])[..., None, :] @ points)[..., 0, :]
        settled = _first_half(score, among_equals)
        if np.array_equal(settled, halves):
            break
        halves = settled
    return halves


def _principal(
    points: NDArray[np.float64], lengths: NDArray[np.float64], c: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Return the halving by the principal axis of the columns' directions, weighted by their lengths.

    For points at two places b and b' of the sphere the axis is along b - b', and the sign of a point's component along
    b - b' is the place it is at.
    """
    root = np.repeat(np.sqrt(lengths), c, axis=-2)
    scaled = points / np.maximum(root, _TINY)
    mean = points.sum(axis=-1) / np.maximum(np.repeat(lengths.sum(axis=-1), c, axis=-1), _TINY)
    scaled = scaled - mean[..., None] * root
    if scaled.shape[-2] <= 2 * c:
        axis = np.linalg.eigh(scaled @ scaled.swapaxes(-1, -2))[1][..., -1:]
    else:  # a vote need not be counted to the last digit
        axis = rng.standard_normal((*scaled.shape[:-1], 1))
        for _ in range(_POWER_STEPS):
            axis = scaled @ (scaled.swapaxes(-1, -2) @ axis)
            axis /= np.maximum(np.sqrt((axis * axis).sum(axis=-2, keepdims=True)), _TINY)
    axis = axis[..., 0]
    return _first_half((axis[..., None, :] @ points)[..., 0, :], rng.permutation(points.shape[-1]))


def _seed_pairs(x: NDArray[Any], rng: np.random.Generator) -> NDArray[np.intp]:
    """Return a few pairs that look right on their own, the most trustworthy first.

    The cost of a pair is judged relative to what its rows have in common: two rows that live in different columns have
    points at two places as well, and mean nothing by it.
    """
    rows = x.shape[1]
    energy = (x.real**2).sum(axis=(0, 2)) + (x.imag**2).sum(axis=(0, 2))
    total = energy.sum()
    if total == 0:
        return np.array([[0, 1]])
    chosen = rng.choice(rows, min(_SEEDS, int(np.count_nonzero(energy))), replace=False, p=energy / total)
    found = []
    for row in chosen:
        others = rng.permutation(np.delete(np.arange(rows), row))
        lengths, points = sphere_points(x[:, row], x[:, others].swapaxes(0, 1))  # (R - 1, k, w), (R - 1, k, c, w)
        c = points.shape[-2]
        halves = _settle(points, c, _principal(points, lengths[..., None, :], c, rng), 5, rng)
        sums = _sums(points, halves)
        size = lengths.sum(axis=(1, 2))
        cost = (size - sum(_norms(half, c).sum(axis=(1, 2)) for half in sums)) / 2
        common = sum(np.sqrt((half[..., 1:] ** 2).sum(axis=-1)).sum(axis=1) for half in sums)
        doubt = (cost + 1e-12 * size) / np.maximum(common, _TINY)
        at = int(doubt.argmin())
        found.append((float(doubt[at]), *sorted((int(row), int(others[at])))))
    return np.array([pair for _, *pair in sorted(set(found))])


def _stacked_points(
    x: NDArray[Any], pairs: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return lengths (k, g, w), points (k, g, c, w), and a view of the points as (k, g * c, w)."""
    lengths, points = sphere_points(x[:, pairs[:, 0]], x[:, pairs[:, 1]])
    return lengths, points, points.reshape(len(x), -1, x.shape[2])


def _improved(x: NDArray[Any], voters: NDArray[np.intp], rng: np.random.Generator) -> Clustering:
    """Start from the halvings that some pairs vote for, and alternate until the cost stops falling."""
    lengths, points, flat = _stacked_points(x, voters)
    halves = _principal(flat, lengths, points.shape[-2], rng)
    best: Clustering | None = None
    while True:
        pairs = match_rows(_pair_costs(x, halves))
        _, points, flat = _stacked_points(x, pairs)
        halves = _settle(flat, points.shape[-2], halves, 20, rng)
        found = measured(x, pairs, halves)
        if best is not None and not found.cost < best.cost * (1 - 1e-9):
            return min(best, found, key=_cost)
        best = found


def _pair_sums(
    lengths: NDArray[np.float64], flat: NDArray[np.float64], c: int, halves: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return per pair its squared norm, its cost, and what its rows have in common; each is (g,)."""
    size = lengths.sum(axis=(0, 2))
    double, common = size.copy(), np.zeros_like(size)
    for half in _sums(flat, halves):
        double -= _norms(half, c).sum(axis=0)
        inner = half.reshape(len(half), -1, c)[..., 1:]
        common += np.sqrt((inner * inner).sum(axis=-1)).sum(axis=0)
    return size, np.maximum(double, 0) / 2, common


def measured(x: NDArray[Any], pairs: NDArray[np.intp], halves: NDArray[np.bool_]) -> Clustering:
    """Return these pairs and halves with their cost."""
    lengths, points, flat = _stacked_points(x, pairs)
    size, cost, _ = _pair_sums(lengths, flat, points.shape[-2], halves)
    return Clustering(pairs, halves, float(cost.sum()), float((cost / np.maximum(size, _TINY)).max()))


def _pair_costs(x: NDArray[Any], halves: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the (R, R) costs of pairing any two rows under these halvings: smaller eigenvalues of 2 x 2 Grams."""
    k, rows, width = x.shape
    cost = np.zeros((rows, rows))
    for which in (halves, ~halves):
        half = x.swapaxes(1, 2)[which].reshape(k, width // 2, rows).swapaxes(1, 2)
        gram = half @ half.conj().swapaxes(1, 2)
        size = np.diagonal(gram, axis1=1, axis2=2).real
        both, gap = size[:, :, None] + size[:, None, :], size[:, :, None] - size[:, None, :]
        cost += (both - np.sqrt(gap * gap + 4 * (gram * gram.conj()).real)).sum(axis=0) / 2
    return cost


def _distrust(x: NDArray[Any], found: Clustering) -> NDArray[np.float64]:
    """Return per pair its cost relative to what its two rows have in common."""
    lengths, points, flat = _stacked_points(x, found.pairs)
    size, cost, common = _pair_sums(lengths, flat, points.shape[-2], found.halves)
    return cost / (common + 1e-12 * size + _TINY)


def merge_pairs(x: NDArray[Any], found: Clustering) -> tuple[NDArray[Any], float]:
    """Replace every pair of rows, on each half of the columns, by the one row that spans its best rank-one block.

    Parameters
    ----------
    x : array of shape (k, R, w)
    found : Clustering

    Returns
    -------
    merged : array of shape (2 k, R / 2, w / 2)
        First and second half of the columns of the first matrix, of the second, and so on; the norm of a row is that
        of its rank-one block, and its direction the block's right singular vector.
    missed : float
        The squared norm of what the rank-one blocks leave out, from the residual rows.
    """
    k, rows, width = x.shape
    merged = np.empty((k, 2, rows // 2, width // 2), dtype=x.dtype)
    missed = 0.0
    for side, which in enumerate((found.halves, ~found.halves)):
        half = x.swapaxes(1, 2)[which].reshape(k, width // 2, rows).swapaxes(1, 2)
        merged[:, side], left_out = best_row(half[:, found.pairs[:, 0]], half[:, found.pairs[:, 1]])
        missed += left_out
    return merged.reshape(2 * k, rows // 2, width // 2), missed
