"""Does an optimum exist for every matrix? Whether the products of factors with given supports form a closed set.

The infimum of ``||A - L R||`` over factors inside two supports is attained for every A exactly when the set P of the
products is closed: where a limit of products is no product, take it for A. Otherwise solvers diverge: the error creeps
down while the factors grow.

The question is decidable (a first-order sentence over the real numbers), but no fast algorithm is known; Q.-T. Le,
E. Riccietti, R. Gribonval, "Does a sparse ReLU network training problem always admit an optimum?" (NeurIPS 2023, arXiv
2306.02666) give the sentence and a sufficient test for two columns. Here a cascade of rules answers, each with a proof
that `Closedness.verify` re-checks by another path, and what they leave open is called "unknown":

1. split into parts that share no cell; reduce each (`closedness_rules`); a rule for every group that is left: closed;
2. blocks of few rows and columns, one row or column or two of each pattern: a block that is not closed makes the whole
   not closed, and comes with a divergent curve and a refutation of its limit (`curves`);
3. a search for such a curve on blocks that no rule decides.

All rules hold over the real and over the complex numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from sparsefact.analysis.closed_proofs import BlockProof, ClosedProof, TractableProof
from sparsefact.analysis.closedness_rules import Item, Reduction, groups, reduce_items, rule
from sparsefact.analysis.curve_search import find_curve
from sparsefact.analysis.curves import DivergentCurve
from sparsefact.analysis.stored_supports import encode_supports
from sparsefact.analysis.support_pairs import RankOneClass, SupportPair, as_pair
from sparsefact.analysis.tractability import tractability_of
from sparsefact.constraints.base import check_int
from sparsefact.products.factorization import Factorization

__all__ = ["Closedness", "closedness"]

_LARGEST_BLOCK = 10_000  # rows times classes, of a block that is reduced as a whole
_SMALL_BLOCK = 2000  # the same, of a block that is reduced before its corners are looked at
_FIRST_LOOK = 500  # blocks of each size in that first look
_MOST_PAIRS = 20_000_000  # pairs of classes that share a row: above this the parts are not told apart
_MOST_SLOW_PAIRS = 20_000  # the same where columns must be compared pair by pair
_WINDOWS = 5  # corners of a larger part that are looked at
_WINDOW_SIDE = 12  # rows and columns of a corner of a larger part
_MOST_CLASSES = 1500  # of a connected part that is looked at as a whole
_CURVE_BLOCK = 5  # rows and columns of the largest block in which curves are searched
_CURVE_TERMS = 8


@dataclass(frozen=True)
class Closedness:
    """Whether an optimum exists for every matrix, with the proof.

    Attributes
    ----------
    verdict : {"closed", "not closed", "unknown"}
        "closed": the infimum is attained for every matrix. "not closed": there is a matrix for which it is not, and
        the certificate holds one. "unknown": no rule decided.
    certificate : ClosedProof, TractableProof, DivergentCurve or None
        The proof; None when the verdict is "unknown".
    pair : SupportPair
        The supports it is about.
    open_blocks : tuple of (rows, cols)
        For "unknown", the parts that no rule decided, by their representative rows and columns.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> answer = sf.closedness(np.ones((3, 1), dtype=bool), np.ones((1, 3), dtype=bool))
    >>> answer.verdict, answer.verify()
    ('closed', True)
    """

    verdict: Literal["closed", "not closed", "unknown"]
    certificate: ClosedProof | TractableProof | DivergentCurve | None
    pair: SupportPair = field(repr=False, compare=False)
    open_blocks: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = field(default=(), repr=False)

    def verify(self) -> bool:
        """Return whether the certificate proves the verdict; "unknown" claims nothing and is always in order."""
        if self.verdict == "unknown":
            return self.certificate is None
        wanted = (ClosedProof, TractableProof) if self.verdict == "closed" else (DivergentCurve,)
        return isinstance(self.certificate, wanted) and self.certificate.verify(self.pair)

    def stated_fields(self, F: Factorization) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
        """Return what a file of factors holds of it: the verdict and the supports, from which it is proved again."""
        if self.verdict != "not closed" or len(F.factors) != 2:
            return None
        fields, arrays = encode_supports(self.pair, F)
        return {"kind": "closedness", "verdict": self.verdict, **fields}, arrays

    def explain(self) -> str:
        """Return the verdict and its reason in words."""
        if self.certificate is not None:
            head = {
                "closed": "Closed: for every matrix an optimum exists.",
                "not closed": "Not closed: there are matrices for which no optimum exists.",
            }[self.verdict]
            return f"{head}\n{self.certificate.explain()}"
        places = "; ".join(f"{len(rows)} rows x {len(cols)} columns" for rows, cols in self.open_blocks)
        return (
            f"Unknown: no rule decides the part of the supports represented by {places}, and no divergent curve was "
            "found. sparsefact.probe_closedness looks for numerical evidence."
        )


def closedness(left: Any, right: Any, *, blocks: int = 4000, tries: int = 400) -> Closedness:
    """Say whether ``min ||A - L R||`` over factors inside two supports has a solution for every matrix A.

    Parameters
    ----------
    left : Support, KroneckerSupport, boolean array or scipy.sparse array of shape (m, r)
        What may be nonzero in L.
    right : the same, of shape (r, n)
        What may be nonzero in R.
    blocks : int, optional
        How many blocks of 2 or 3 rows and columns to look at, for each undecided part; all of them when they are fewer.
    tries : int, optional
        How many random divergent curves to try on each block that no rule decides.

    Returns
    -------
    Closedness

    Raises
    ------
    DtypeError, ShapeError, ArgumentError
        If the supports are not boolean, have different inner dimensions or no entry, or a count is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> lower = np.tri(2, dtype=bool)
    >>> print(sf.closedness(lower, lower.T).explain())
    Not closed: there are matrices for which no optimum exists.
    Products tend to a matrix that is not one, on rows 0, 1 and columns 0, 1:
           0     1
           1     0
    along the factors (entries not named are zero)
        L[0,0] = t^-1, L[1,0] = 1, L[1,1] = 1
        R[0,0] = 1, R[0,1] = t, R[1,1] = -t
    as t grows. That the limit is no product follows from 3 polynomial multipliers, which verify() multiplies out.
    >>> full = np.ones((2, 2), dtype=bool)
    >>> answer = sf.closedness(full, full)
    >>> answer.verdict, answer.verify()
    ('closed', True)
    """
    check_int("blocks", blocks)
    check_int("tries", tries)
    pair = as_pair(left, right)
    separate: list[int] = []
    proofs: list[BlockProof] = []
    parts: list[tuple[int, ...]] = []
    unknown: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for chosen in _parts(pair):
        if len(chosen) == 1:
            separate.extend(pair.classes[chosen[0]].members.tolist())
            continue
        if len(chosen) > _MOST_CLASSES:
            # too many to reduce here: a corner may show that it is not closed, or the sparse analysis that it is closed
            for window in _windows(pair, chosen):
                answer = _Part(window).decide(pair, blocks, tries)
                if isinstance(answer, DivergentCurve):
                    return Closedness("not closed", answer, pair)
            if tractability_of(pair).tractable:
                return Closedness("closed", TractableProof(), pair)
            part = _Part(window)
            unknown.append((part.rows, part.cols))
            continue
        part = _Part([pair.classes[c] for c in chosen])
        answer = part.decide(pair, blocks, tries)
        if isinstance(answer, DivergentCurve):
            return Closedness("not closed", answer, pair)
        if answer is None:
            unknown.append((part.rows, part.cols))
        else:
            proofs.append(answer)
            parts.append(tuple(sorted(k for c in chosen for k in pair.classes[c].members.tolist())))
    if unknown:
        return Closedness("unknown", None, pair, tuple(unknown))
    return Closedness("closed", ClosedProof(tuple(sorted(separate)), tuple(proofs), tuple(parts)), pair)


def _parts(pair: SupportPair) -> list[list[int]]:
    """Return the classes in parts whose rectangles share no cell with those of other parts."""
    classes = pair.classes
    count = len(classes)
    if count == 0:
        return []
    incidence = []
    pairs = []
    for sets, width in ((classes.rows, pair.shape[0]), (classes.cols, pair.shape[1])):
        data = np.ones(sets.idx.size, dtype=np.int32)
        incidence.append(scipy.sparse.csr_array((data, sets.idx, sets.ptr), shape=(count, width)))
        met = np.bincount(sets.idx, minlength=width).astype(float)
        pairs.append(float(met @ met))
    if min(pairs) > _MOST_PAIRS:
        return [list(range(count))]
    one, two = incidence if pairs[0] <= pairs[1] else incidence[::-1]
    near = (one @ one.T).tocoo()
    upper = near.row < near.col
    a, b = near.row[upper], near.col[upper]
    if max(pairs) <= _MOST_PAIRS:
        other = (two @ two.T).tocsr()
        meets = np.asarray(other[a, b]).ravel() > 0 if a.size else np.zeros(0, dtype=bool)
    elif a.size > _MOST_SLOW_PAIRS:
        return [list(range(count))]
    else:
        meets = np.array(
            [two[i : i + 1].multiply(two[j : j + 1]).nnz > 0 for i, j in zip(a, b, strict=True)], dtype=bool
        )
    graph = scipy.sparse.coo_array(
        (np.ones(int(meets.sum()), dtype=np.int8), (a[meets], b[meets])), shape=(count, count)
    )
    _, labels = scipy.sparse.csgraph.connected_components(graph, directed=False)
    order = np.argsort(labels, kind="stable")
    return [group.tolist() for group in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)]


def _windows(pair: SupportPair, chosen: Sequence[int]) -> list[list[RankOneClass]]:
    """Return small blocks of a large part, around rows met by few classes, as the classes cut down to the block."""
    classes = [pair.classes[c] for c in chosen]
    met_rows = np.bincount(np.concatenate([c.rows for c in classes]), minlength=pair.shape[0])
    met_cols = np.bincount(np.concatenate([c.cols for c in classes]), minlength=pair.shape[1])
    starts = np.argsort(np.where(met_rows > 0, met_rows, np.iinfo(np.int64).max), kind="stable")[:_WINDOWS]
    found = []
    for start in starts[: int(np.count_nonzero(met_rows))]:
        near = [c for c in classes if np.any(c.rows == start)]
        kept = []
        for sets, met in (([c.rows for c in near], met_rows), ([c.cols for c in near], met_cols)):
            reached = np.unique(np.concatenate(sets))
            inside = np.zeros(met.size, dtype=bool)
            inside[reached[np.argsort(met[reached], kind="stable")[:_WINDOW_SIDE]]] = True
            kept.append(inside)
        cut = [RankOneClass(c.rows[kept[0][c.rows]], c.cols[kept[1][c.cols]], c.members) for c in classes]
        found.append([c for c in cut if c.rows.size and c.cols.size])
    return found


class _Part:
    """A connected part of the classes, seen through representatives of its rows and columns."""

    def __init__(self, classes: Sequence[RankOneClass]) -> None:
        self.members = [members.tolist() for _, _, members in classes]
        self.rows, self.in_rows = _representatives([rows for rows, _, _ in classes], self.members)
        self.cols, self.in_cols = _representatives([cols for _, cols, _ in classes], self.members)

    def decide(self, pair: SupportPair, blocks: int, tries: int) -> BlockProof | DivergentCurve | None:
        """Return the proof, or None where no rule decides."""
        undecided: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        everything = tuple(range(len(self.rows))), tuple(range(len(self.cols)))
        if len(self.rows) * len(self.members) > _SMALL_BLOCK:
            # reducing a large part takes seconds, and most of those that are not closed show it in a corner
            curve = self.scan(pair, self.blocks(_FIRST_LOOK, light_only=True), tries, [])
            if curve is not None:
                return curve
        if len(self.rows) * len(self.members) <= _LARGEST_BLOCK:
            reduction = reduce_items(self.terms(*everything))
            ruled = [(group, rule(group)) for group in groups(reduction.items)]
            for _, ruling in ruled:
                if ruling.closed is False:
                    rows, cols = (tuple(i for i in range(w.bit_length()) if w >> i & 1) for w in ruling.witness)
                    curve = self.curve(pair, rows, cols, tries)
                    if curve is not None:
                        return curve
            if all(ruling.closed for _, ruling in ruled):
                return self.proof(reduction, tuple(ruled))
        curve = self.scan(pair, self.blocks(blocks), tries, undecided)
        if curve is not None:
            return curve
        small = max(len(self.rows), len(self.cols)) <= _CURVE_BLOCK and everything not in undecided
        for rows, cols in (*undecided, *((everything,) if small else ())):
            curve = self.curve(pair, rows, cols, tries)
            if curve is not None:
                return curve
        return None

    def scan(
        self,
        pair: SupportPair,
        blocks: Iterator[tuple[tuple[int, ...], tuple[int, ...]]],
        tries: int,
        undecided: list[tuple[tuple[int, ...], tuple[int, ...]]],
    ) -> DivergentCurve | None:
        """Return the divergent curve of the first block that a rule calls not closed; list those no rule decides."""
        seen: dict[tuple[tuple[int, int, int], ...], bool | None] = {}
        for rows, cols in blocks:
            signature = self.signature(rows, cols)
            if signature in seen:
                continue
            ruled = [(g, rule(g)) for g in groups(reduce_items(_terms(signature, len(rows))).items)]
            seen[signature] = (
                False if any(r.closed is False for _, r in ruled) else all(r.closed for _, r in ruled) or None
            )
            if seen[signature] is False:
                curve = self.curve(pair, rows, cols, tries)
                if curve is not None:
                    return curve
            elif seen[signature] is None:
                undecided.append((rows, cols))
        return None

    def signature(self, rows: Sequence[int], cols: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
        """Return the classes of a small block as (row set, column set, members), merged and sorted."""
        row_sets = self.in_rows[:, list(rows)] @ (1 << np.arange(len(rows), dtype=np.int64))
        col_sets = self.in_cols[:, list(cols)] @ (1 << np.arange(len(cols), dtype=np.int64))
        merged: dict[tuple[int, int], int] = {}
        for c in np.flatnonzero((row_sets > 0) & (col_sets > 0)):
            key = int(row_sets[c]), int(col_sets[c])
            merged[key] = merged.get(key, 0) + len(self.members[c])
        return tuple((a, b, min(p, len(rows), len(cols))) for (a, b), p in sorted(merged.items()))

    def terms(self, rows: Sequence[int], cols: Sequence[int]) -> list[Item]:
        """Return the classes of a block as items; members are positions among the inner indices that meet it."""
        present = []
        for c, members in enumerate(self.members):
            row_set = sum(1 << a for a, i in enumerate(rows) if self.in_rows[c, i])
            col_set = sum(1 << b for b, j in enumerate(cols) if self.in_cols[c, j])
            if row_set and col_set:
                present.append((row_set, col_set, members))
        place = {k: position for position, k in enumerate(sorted(k for *_, members in present for k in members))}
        return [
            Item(tuple(b if a >> i & 1 else 0 for i in range(len(rows))), tuple(place[k] for k in members))
            for a, b, members in present
        ]

    def inner(self, rows: Sequence[int], cols: Sequence[int]) -> tuple[int, ...]:
        """Return the inner indices that meet a block, in increasing order."""
        meets = self.in_rows[:, list(rows)].any(axis=1) & self.in_cols[:, list(cols)].any(axis=1)
        return tuple(sorted(k for c in np.flatnonzero(meets) for k in self.members[c]))

    def proof(self, reduction: Reduction, ruled: Any) -> BlockProof:
        """Return the proof that the whole part is closed."""
        everything = range(len(self.rows)), range(len(self.cols))
        return BlockProof(self.rows, self.cols, self.inner(*everything), reduction.absorbed, ruled)

    def curve(self, pair: SupportPair, rows: Sequence[int], cols: Sequence[int], tries: int) -> DivergentCurve | None:
        """Search a block for a divergent curve."""
        reduction = reduce_items(self.terms(rows, cols))
        if sum(len(item.members) for item in reduction.items) > _CURVE_TERMS:
            return None
        where = [self.rows[i] for i in rows], [self.cols[j] for j in cols]
        return find_curve(pair, *where, reduction, self.inner(rows, cols), tries=tries)

    def blocks(self, at_most: int, *, light_only: bool = False) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Yield blocks of 2 or 3 rows and columns, smallest first: all, or at most twice `at_most` of every size.

        Where they are too many, all blocks of the rows and columns met by the fewest inner indices come first, for
        there fewest terms interfere, and then a fixed random choice.
        """
        rows, cols = self._lightest(self.in_rows), self._lightest(self.in_cols)
        rng = np.random.default_rng(0)
        for height, width in ((2, 2), (2, 3), (3, 2), (3, 3)):
            if len(rows) < height or len(cols) < width:
                continue
            h, w, complete = len(rows), len(cols), True
            while math.comb(h, height) * math.comb(w, width) > at_most:
                h, w, complete = (h - 1, w, False) if h >= w else (h, w - 1, False)
            for some in combinations(rows[:h], height):
                yield from ((tuple(sorted(some)), tuple(sorted(others))) for others in combinations(cols[:w], width))
            if not complete and not light_only:
                yield from (self._random_block(height, width, rng) for _ in range(at_most))

    def _lightest(self, inside: NDArray[np.bool_]) -> list[int]:
        """Return at most two indices of every pattern, those in the fewest terms first."""
        weights = np.array([len(members) for members in self.members]) @ inside
        return sorted(_few(inside), key=lambda i: (int(weights[i]), i))

    def _random_block(
        self, height: int, width: int, rng: np.random.Generator
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return rows and columns of two classes that share a cell, if the draw finds them, and one cell in common."""
        c = int(rng.integers(len(self.members)))
        i = int(rng.choice(np.flatnonzero(self.in_rows[c])))
        j = int(rng.choice(np.flatnonzero(self.in_cols[c])))
        other = int(rng.choice(np.flatnonzero(self.in_rows[:, i] & self.in_cols[:, j])))
        found = []
        for first, size, sets in ((i, height, self.in_rows), (j, width, self.in_cols)):
            pool = np.flatnonzero(sets[c] | sets[other])
            pool = pool[pool != first]
            if pool.size < size - 1:
                pool = np.delete(np.arange(sets.shape[1]), first)
            found.append(tuple(sorted([first, *rng.choice(pool, size - 1, replace=False).tolist()])))
        return found[0], found[1]


def _representatives(
    sets: Sequence[NDArray[np.int64]], members: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], NDArray[np.bool_]]:
    """Return indices that stand for all that occur in the sets, and which set contains which of them.

    Indices that lie in the same sets are interchangeable; as many are kept as inner indices meet them, and one more.
    """
    owners = np.repeat(np.arange(len(sets)), [s.size for s in sets])
    index = np.concatenate(list(sets))
    order = np.argsort(index, kind="stable")
    values, starts = np.unique(index[order], return_index=True)
    kept: list[int] = []
    patterns: list[NDArray[np.int64]] = []
    count: dict[bytes, int] = {}
    for value, pattern in zip(values.tolist(), np.split(owners[order], starts[1:]), strict=True):
        key = pattern.tobytes()
        so_far = count.get(key, 0)
        if so_far == 0 or so_far <= sum(len(members[c]) for c in pattern):
            count[key] = so_far + 1
            kept.append(value)
            patterns.append(pattern)
    inside = np.zeros((len(sets), len(kept)), dtype=bool)
    for column, pattern in enumerate(patterns):
        inside[pattern, column] = True
    return tuple(kept), inside


def _terms(signature: Sequence[tuple[int, int, int]], height: int) -> list[Item]:
    found, start = [], 0
    for a, b, p in signature:
        found.append(Item(tuple(b if a >> i & 1 else 0 for i in range(height)), tuple(range(start, start + p))))
        start += p
    return found


def _few(inside: NDArray[np.bool_]) -> list[int]:
    """Return at most two indices of every pattern."""
    count: dict[bytes, int] = {}
    kept = []
    for i in range(inside.shape[1]):
        key = inside[:, i].tobytes()
        count[key] = count.get(key, 0) + 1
        if count[key] <= 2:
            kept.append(i)
    return kept
