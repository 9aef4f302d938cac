"""Closedness of products of N factors with fixed supports: what follows from chains and from pairs.

Closed: a chain of Kronecker supports in which every two neighbours are chainable. From left to right, a QR
factorization of the blocks that face each other makes every factor but the last one orthonormal on its blocks, so that
the last one is as large as the product, and bounded products have bounded factors.

By reduction to a pair: where all factors but two are patterns with at most one entry in every row and
column, the set is that of the pair with rows and columns moved, so that the verdict of the pair is the verdict of the
product. This also serves on some rows of the first factor and columns of the last, where a verdict "not closed" is one
for the whole product (limits padded with zeros).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, Literal

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from sparsefact.analysis.closedness import Closedness, closedness
from sparsefact.analysis.support_pairs import as_pair
from sparsefact.constraints.kronecker_support import KroneckerSupport
from sparsefact.constraints.support import Support
from sparsefact.errors import ArgumentError, ShapeError

__all__ = ["DeepClosedness", "deep_closedness"]

_MOST_BLOCKS = 2000

Pattern = scipy.sparse.csr_array


@dataclass(frozen=True)
class DeepClosedness:
    """Whether the products of N factors with given supports form a closed set.

    Attributes
    ----------
    verdict : {"closed", "not closed", "unknown"}
    reason : str
        One sentence.
    rows, cols : tuple of int
        Rows of the first and columns of the last factor that the pair was taken from; empty where it is all of them.
    pair : Closedness or None
        The verdict on the pair that the product was reduced to, which carries the proof.
    """

    verdict: Literal["closed", "not closed", "unknown"]
    reason: str
    rows: tuple[int, ...] = ()
    cols: tuple[int, ...] = ()
    pair: Closedness | None = None


def deep_closedness(supports: Sequence[Any]) -> DeepClosedness:
    """Say whether ``min ||A - F_1 F_2 ... F_N||`` over factors inside N supports has a solution for every A.

    Parameters
    ----------
    supports : sequence of Support, KroneckerSupport, boolean arrays or scipy.sparse arrays
        From left to right, at least one.

    Returns
    -------
    DeepClosedness

    Raises
    ------
    ArgumentError, DtypeError, ShapeError
        If there is no support, one is not boolean or has no entry, or neighbours do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> from sparsefact.analysis.deep_closedness import deep_closedness
    >>> deep_closedness([sf.KroneckerSupport(1, 2, 2, 4), sf.KroneckerSupport(2, 2, 2, 2),
    ...                  sf.KroneckerSupport(4, 2, 2, 1)]).verdict
    'closed'
    >>> lower = np.tri(3, dtype=bool)
    >>> deep_closedness([lower, np.eye(3, dtype=bool), lower.T]).verdict
    'not closed'
    """
    listed = list(supports)
    if not listed:
        raise ArgumentError("supports is empty; give the support of every factor, from left to right")
    patterns = [_pattern(support) for support in listed]
    for position, (a, b) in enumerate(pairwise(patterns)):
        if a.shape[1] != b.shape[0]:
            raise ShapeError(
                f"supports[{position}] has shape {a.shape} and supports[{position + 1}] has shape {b.shape}; "
                "neighbours must agree on the inner dimension"
            )
    if len(patterns) == 1:
        return DeepClosedness("closed", "One factor: its support is a coordinate subspace.")
    if all(isinstance(support, KroneckerSupport) for support in listed) and all(
        _chainable(a, b) for a, b in pairwise(listed)
    ):
        return DeepClosedness(
            "closed", "A chainable chain of Kronecker supports: an orthonormal gauge bounds the factors."
        )
    whole = _as_one_pair(patterns)
    if whole is not None:
        answer = closedness(*whole)
        reason = "All factors but two only move rows and columns, so that the pair decides."
        return DeepClosedness(answer.verdict, reason, pair=answer)
    for rows, cols in _blocks(patterns[0].shape[0], patterns[-1].shape[1]):
        part = _restrict(patterns, rows, cols)
        small = _as_one_pair(part) if part else None
        if small is None:
            continue
        answer = closedness(*small)
        if answer.verdict == "not closed":
            reason = (
                "On some rows and columns all factors but two only move rows and columns, and the pair that "
                "is left is not closed."
            )
            return DeepClosedness("not closed", reason, rows, cols, answer)
    return DeepClosedness("unknown", "Not a chainable chain, and no block of it reduces to a pair that is not closed.")


def _pattern(support: Any) -> Any:
    made = support if isinstance(support, (Support, KroneckerSupport)) else Support(support)
    if isinstance(made, KroneckerSupport):
        return as_pair(made, np.eye(made.shape[1], dtype=bool)).left.tocsr()
    return made.tocsr()


def _chainable(a: KroneckerSupport, b: KroneckerSupport) -> bool:
    """Whether ``a1 c1 / a2 = b2 d2 / d1`` is an integer, a1 divides a2 and d2 divides d1."""
    divides = b.a % a.a == 0 and a.d % b.d == 0
    rank, rest = divmod(a.a * a.c, b.a)
    return divides and rest == 0 and rank * a.d == b.b * b.d


def _moves(pattern: Any) -> bool:
    """Whether there is at most one entry in every row and column."""
    return bool(
        np.diff(pattern.tocsr().indptr).max(initial=0) <= 1 and np.diff(pattern.tocsc().indptr).max(initial=0) <= 1
    )


def _as_one_pair(patterns: Sequence[Any]) -> tuple[Any, Any] | None:
    """Return the pair with the same set of products, up to moved rows and columns, where there is one."""
    moving = [_moves(pattern) for pattern in patterns]
    full = [position for position, moves in enumerate(moving) if not moves]
    if len(full) > 2:
        return None
    cut = full[1] if len(full) == 2 else min((full[0] if full else 0) + 1, len(patterns) - 1)
    left, right = patterns[0], patterns[cut]
    for pattern in patterns[1:cut]:
        left = (left @ pattern).tocsr()
    for pattern in patterns[cut + 1 :]:
        right = (right @ pattern).tocsr()
    if left.nnz == 0 or right.nnz == 0:
        return None
    return left.astype(bool), right.astype(bool)


def _restrict(patterns: Sequence[Any], rows: Sequence[int], cols: Sequence[int]) -> list[Any] | None:
    """Return the patterns on some rows and columns of the product, without the inner indices that neither reaches."""
    parts = [patterns[0][list(rows)], *patterns[1:]]
    parts[-1] = parts[-1].tocsc()[:, list(cols)].tocsr()
    forward = np.ones(len(rows), dtype=bool)
    reached: list[NDArray[np.bool_]] = []
    for part in parts[:-1]:
        forward = np.asarray(part.T.astype(np.int64) @ forward.astype(np.int64)) > 0
        reached.append(forward)
    backward = np.ones(len(cols), dtype=bool)
    for position in range(len(parts) - 1, 0, -1):
        backward = np.asarray(parts[position].astype(np.int64) @ backward.astype(np.int64)) > 0
        reached[position - 1] = reached[position - 1] & backward
    for position, keep in enumerate(reached):
        if not keep.any():
            return None
        parts[position] = parts[position].tocsc()[:, keep].tocsr()
        parts[position + 1] = parts[position + 1].tocsr()[keep]
    return parts


def _blocks(m: int, n: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield the first blocks of 2 or 3 rows and columns."""
    count = 0
    for height, width in ((2, 2), (2, 3), (3, 2), (3, 3)):
        for rows in combinations(range(m), height):
            for cols in combinations(range(n), width):
                count += 1
                if count > _MOST_BLOCKS:
                    return
                yield rows, cols
