"""Is the fixed-support problem one that can be solved exactly? The verdict, its reason, and the plan of the solver.

Theorem used: when every two rank-one supports are disjoint or equal, the loss is a sum of independent low-rank
approximations and one truncated SVD per class solves it (Eckart and Young). It extends to complete classes, which match
their cells exactly and so may overlap anything, and to the relatively complete ones of `sparsefact.analysis.reduction`:
if all leftovers are rectangles, pairwise disjoint or equal, then

    min ||A - L R||^2 = sum over cells outside every S_k of |A_ij|^2
                      + sum over leftover rectangles Q of rank p_Q of sum_(i > p_Q) sigma_i(A[Q])^2,

since every product has rank at most p_Q on Q (no other rank-one support meets it) and is zero outside. The solver
attains it: truncated SVDs on the leftovers first, then the free cells from what is left there, line by line.

References: L. Zheng, Q.-T. Le, E. Riccietti, R. Gribonval, "Fast learning of fast transforms, with guarantees", ICASSP
2022 (disjoint or equal); Q.-T. Le, E. Riccietti, R. Gribonval, arXiv 2112.00386 (complete classes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from scipy.sparse.csgraph import breadth_first_order

from sparsefact.analysis.index_sets import IndexSets, Indices, equal_sets, ranges
from sparsefact.analysis.reduction import Cells, Leftovers, Reduction, matched_columns, reduce_pair
from sparsefact.analysis.support_pairs import RankOneClasses, SupportPair, as_pair

__all__ = ["Lines", "Plan", "Rectangles", "Tractability", "tractability", "tractability_of"]

DISJOINT = "disjoint or identical"
COMPLETE = "complete classes"
RELATIVE = "relatively complete classes"
NONE = "none"

# Pairs of rectangles looked at together, at first and at most: most overlaps are found at once.
_FEW_PAIRS, _MANY_PAIRS = 1 << 14, 1 << 22
# Overlaps are found by listing cells when there are no more than this.
_CELLS = 1 << 24


@dataclass(frozen=True, eq=False)
class Rectangles:
    """Disjoint blocks of A, each approximated by its own truncated SVD.

    Attributes
    ----------
    rows, cols : IndexSets
        Of each block.
    members : IndexSets
        The inner indices that hold its rank-one terms, as many as its rank.
    """

    rows: IndexSets
    cols: IndexSets
    members: IndexSets

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class Lines:
    """How the free cells are matched: every cell belongs to a row or a column of some inner index.

    Attributes
    ----------
    rows, cols : int64 arrays
        The cells, each once.
    inner : int64 array
        The inner index that matches each cell.
    along_row : bool array
        Whether the line is a row: then the left factor holds a one at (row, inner), else the right one at (inner, col).
    """

    rows: Indices
    cols: Indices
    inner: Indices
    along_row: Any


@dataclass(frozen=True, eq=False)
class Plan:
    """What the solver does: truncated SVDs on the rectangles, then the free cells, line by line.

    Attributes
    ----------
    rectangles : Rectangles
    lines : Lines
    spills : bool
        Whether an inner index serves two rectangles, and so writes on free cells between them too.
    """

    rectangles: Rectangles
    lines: Lines
    spills: bool


@dataclass(frozen=True, eq=False)
class Tractability:
    """The answer of `tractability`.

    Attributes
    ----------
    tractable : bool
        Whether the package solves every problem with these supports exactly.
    rule : str
        Which condition holds: "disjoint or identical", "complete classes", "relatively complete classes", or "none".
    classes : sequence of RankOneClass
        The groups of equal rank-one supports: `rows`, `cols` and `members` (inner indices) of each.
    plan : Plan or None
        What `SubmatrixSVD` will do; None when it cannot.
    obstacle : (int, int) or None
        The first pair of inner indices whose rank-one supports break the condition.
    pair : SupportPair
        The supports asked about.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> sf.tractability(np.eye(2, dtype=bool), np.eye(2, dtype=bool))
    Tractability(tractable, rule='disjoint or identical', 2 classes, product 2 x 2)
    """

    tractable: bool
    rule: str
    classes: RankOneClasses
    plan: Plan | None
    obstacle: tuple[int, int] | None
    pair: SupportPair
    _reduction: Reduction

    def __bool__(self) -> bool:
        return self.tractable

    def __repr__(self) -> str:
        m, n = self.pair.shape
        verdict = "tractable" if self.tractable else "not known to be tractable"
        return f"Tractability({verdict}, rule={self.rule!r}, {len(self.classes)} classes, product {m} x {n})"

    @property
    def partial(self) -> bool:
        """Whether a class that is not complete shares cells with another class."""
        reduction = self._reduction
        sizes, tall, wide = (sets.lengths for sets in (self.classes.members, self.classes.rows, self.classes.cols))
        return bool(np.any(reduction.robbed & (sizes < np.minimum(tall, wide)))) or not self.tractable

    def explain(self) -> str:
        """Return the verdict in a few sentences: what was found, which rule applied, or the pair that breaks it.

        Returns
        -------
        str
        """
        pair, reduction = self.pair, self._reduction
        m, n = pair.shape
        sentences = [
            f"The supports allow {_many(pair.inner - pair.dropped.size, 'rank-one term')} in a {m} x {n} product, on "
            f"{_many(len(self.classes), 'different rectangle')} (rows of a left column times columns of a right row)."
        ]
        if pair.dropped.size:
            sentences.append(
                f"{_many(pair.dropped.size, 'inner index', 'inner indices')} (first {pair.dropped[0]}) with an empty "
                "column or row can only be zero and were left out."
            )
        absorbed = int(np.count_nonzero(reduction.absorbed))
        if absorbed and self.rule != DISJOINT:
            sentences.append(
                f"{_many(absorbed, 'rectangle')} can match whatever stands there exactly, which makes "
                f"{_many(reduction.free.rows.size, 'cell')} free."
            )
        sentences.append(self._reason())
        return " ".join(sentences)

    def _reason(self) -> str:
        if self.plan is not None:
            blocks = _many(len(self.plan.rectangles), "block")
            how = {
                DISJOINT: "Every two rectangles are disjoint or equal",
                COMPLETE: "What is left of the other rectangles beside the free cells are disjoint or equal blocks",
                RELATIVE: "After absorbing rectangles one after the other, what is left are disjoint or equal blocks",
            }[self.rule]
            return (
                f"{how}, so the problem is solved exactly: a truncated SVD of {blocks} of the matrix, and exact values "
                "on the free cells (solver SubmatrixSVD)."
            )
        assert self.obstacle is not None
        k, other = self.obstacle
        pair = f"The rectangles of inner indices {k} and {other} break the condition: "
        if self._reduction.odd.size:
            why = (
                "the second one makes cells of the first one free, and what remains of the first one is no union of "
                "rectangles without common rows and columns, nor can its few terms match it exactly."
            )
        else:
            why = (
                "beside the free cells they overlap without being equal, so neither block can be approximated on its "
                "own."
            )
        return (
            pair
            + why
            + " No exact method is known for such supports (the general problem is NP-hard); use the local solver "
            "AlternatingLeastSquares."
        )


def tractability(left: Any, right: Any) -> Tractability:
    """Tell whether the best product of two factors with these supports can be computed exactly, for every matrix.

    "Tractable" is a proof, with the plan that `SubmatrixSVD` follows. "Not tractable" says that no rule known to the
    package applies; the general problem is NP-hard. The cost follows the number of nonzeros of the two supports; the
    m x n cells of the product are never listed.

    Parameters
    ----------
    left : Support, KroneckerSupport, boolean array or scipy.sparse array of shape (m, r)
    right : the same, of shape (r, n)

    Returns
    -------
    Tractability

    Raises
    ------
    DtypeError, ShapeError, ArgumentError
        If they are not two fixed supports that fit together.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsefact import tractability
    >>> blocks = np.kron(np.eye(2, dtype=bool), np.ones((3, 1), dtype=bool))
    >>> tractability(blocks, blocks.T).rule
    'disjoint or identical'
    >>> lower = np.tri(2, dtype=bool)
    >>> answer = tractability(lower, lower.T)
    >>> answer.tractable, answer.obstacle
    (False, (0, 1))
    """
    return tractability_of(as_pair(left, right))


def tractability_of(pair: SupportPair) -> Tractability:
    """Answer `tractability` for a pair that is checked already."""
    reduction = reduce_pair(pair)
    rectangles, obstacle = None, None
    if reduction.odd.size:
        obstacle = _odd_pair(reduction)
    else:
        merged = _merged(reduction.leftovers, pair.classes.members)
        obstacle = _first_overlap(merged)
        rectangles = merged if obstacle is None else None
    if rectangles is None:
        return Tractability(False, NONE, pair.classes, None, obstacle, pair, reduction)
    if not reduction.touched:
        rule = DISJOINT
    else:
        rule = COMPLETE if reduction.first_round and _whole(reduction.leftovers) else RELATIVE
    plan = Plan(rectangles, _lines(reduction), not _whole(reduction.leftovers))
    return Tractability(True, rule, pair.classes, plan, None, pair, reduction)


def _many(count: int, noun: str, plural: str | None = None) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"


def _whole(leftovers: Leftovers) -> bool:
    """Tell whether every class has at most one leftover rectangle."""
    return bool(np.unique(leftovers.owners).size == leftovers.owners.size)


def _merged(leftovers: Leftovers, members: IndexSets) -> Rectangles:
    """Merge equal leftovers; their inner indices add up. Rectangles are ordered by their first inner index."""
    representative = equal_sets((leftovers.rows, leftovers.cols))
    held = members.take(leftovers.owners)
    group = representative[held.owners]
    order = np.lexsort((held.idx, group))
    first = np.flatnonzero(representative == np.arange(representative.size))
    together = IndexSets.of(np.bincount(group, minlength=len(leftovers))[first], held.idx[order])
    by_inner = np.argsort(together.idx[together.ptr[:-1]], kind="stable")
    first = first[by_inner]
    return Rectangles(leftovers.rows.take(first), leftovers.cols.take(first), together.take(by_inner))


def _odd_pair(reduction: Reduction) -> tuple[int, int]:
    """Name the first class whose leftover has no rectangular shape, and the first one that takes cells from it."""
    members = reduction.pair.classes.members
    first = members.idx[members.ptr[:-1]]
    odd = int(reduction.odd[np.argmin(first[reduction.odd])])
    of_class = reduction.pair.classes[odd]
    free = reduction.free
    inside = np.isin(free.rows, of_class.rows) & np.isin(free.cols, of_class.cols)
    return int(first[odd]), int(first[free.owners[inside]].min())


def _first_overlap(rectangles: Rectangles) -> tuple[int, int] | None:
    """Return the first inner indices of the first two rectangles (in their order) that share a cell."""
    rows, cols = rectangles.rows, rectangles.cols
    if len(rows) < 2:
        return None
    first = rectangles.members.idx[rectangles.members.ptr[:-1]]
    rows, cols = _distinguished(rows), _distinguished(cols)
    cells = int((rows.lengths * cols.lengths).sum())
    by_row, by_col = (int((np.bincount(sets.idx) ** 2).sum()) for sets in (rows, cols))
    if cells <= min(_CELLS, 4 * min(by_row, by_col)):
        found = _overlap_by_cells(rows, cols)
    else:
        found = _overlap_by_pairs(rows, cols) if by_row <= by_col else _overlap_by_pairs(cols, rows)
    return None if found is None else (int(first[found[0]]), int(first[found[1]]))


def _distinguished(sets: IndexSets) -> IndexSets:
    """Keep one of the indices that lie in the same sets: the others cannot tell two sets apart."""
    holders, stands = sets.transposed(int(sets.idx.max()) + 1)
    representative = equal_sets((holders,))
    keep = np.zeros(sets.idx.size, dtype=bool)
    keep[stands] = (representative == np.arange(representative.size))[holders.owners]
    return IndexSets.of(np.bincount(sets.owners[keep], minlength=len(sets)), sets.idx[keep])


def _overlap_by_cells(rows: IndexSets, cols: IndexSets) -> tuple[int, int] | None:
    """Find the first two rectangles with a common cell by listing all cells."""
    width = int(cols.idx.max()) + 1
    sizes = rows.lengths * cols.lengths
    owner = np.repeat(np.arange(len(rows)), sizes)
    place = ranges(np.zeros(sizes.size, dtype=np.int64), sizes)
    wide = cols.lengths[owner]
    keys = rows.idx[rows.ptr[owner] + place // wide] * width + cols.idx[cols.ptr[owner] + place % wide]
    order = np.argsort(keys, kind="stable")
    again = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    if not again.size:
        return None
    # equal cells stand together with increasing owners, so the smallest pair stands side by side somewhere
    a, b = owner[order[again]], owner[order[again + 1]]
    best = np.lexsort((b, a))[0]
    return int(a[best]), int(b[best])


def _overlap_by_pairs(near: IndexSets, far: IndexSets) -> tuple[int, int] | None:
    """Find the first two rectangles with a common cell: pairs that meet on the near side, tested on the far one."""
    holders, stands = near.transposed(int(near.idx.max()) + 1)
    rank = np.empty(near.idx.size, dtype=np.int64)
    rank[stands] = ranges(np.zeros(len(holders), dtype=np.int64), holders.lengths)
    # a set meets those that follow it in the list of each of its indices
    after = holders.lengths[near.idx] - rank - 1
    starts = holders.ptr[near.idx] + rank + 1
    per_set = np.bincount(near.owners, weights=after, minlength=len(near)).astype(np.int64)
    width = int(far.idx.max()) + 1
    keys = far.owners * width + far.idx
    ends = np.cumsum(per_set)
    begin, few = 0, _FEW_PAIRS
    while begin < len(near):
        end = begin + max(1, int(np.searchsorted(ends[begin:] - ends[begin] + per_set[begin], few)))
        few = min(4 * few, _MANY_PAIRS)
        part = slice(near.ptr[begin], near.ptr[min(end, len(near))])
        one = np.repeat(near.owners[part], after[part])
        other = holders.idx[ranges(starts[part], after[part])]
        pairs = np.unique(one * len(near) + other)
        one, other = pairs // len(near), pairs % len(near)
        smaller = np.where(far.lengths[one] <= far.lengths[other], one, other)
        larger = one + other - smaller
        hit = _met(far, keys, width, smaller, larger)
        if hit is not None:
            return int(one[hit]), int(other[hit])
        begin = end
    return None


def _met(far: IndexSets, keys: Indices, width: int, smaller: Indices, larger: Indices) -> int | None:
    """Return the first pair whose sets share an index, looking at some pairs at a time."""
    ends = np.cumsum(far.lengths[smaller])
    begin, few = 0, _FEW_PAIRS
    while begin < smaller.size:
        step = max(1, int(np.searchsorted(ends[begin:] - (ends[begin - 1] if begin else 0), few)))
        few = min(4 * few, _MANY_PAIRS)
        part = slice(begin, begin + step)
        lengths = far.lengths[smaller[part]]
        index = far.idx[ranges(far.ptr[smaller[part]], lengths)]
        wanted = np.repeat(larger[part], lengths) * width + index
        position = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
        hits = np.flatnonzero(keys[position] == wanted)
        if hits.size:
            return begin + int(np.repeat(np.arange(lengths.size), lengths)[hits[0]])
        begin += step
    return None


def _lines(reduction: Reduction) -> Lines:
    """Cover the free cells of every absorbed class by rows and columns, one inner index each."""
    free = reduction.free
    members = _members_with_joined(reduction)
    row_lines, by_row = _line_numbers(free.owners, free.rows, len(members))
    col_lines, by_col = _line_numbers(free.owners, free.cols, len(members))
    rows_do = by_row <= members.lengths
    cols_do = ~rows_do & (by_col <= members.lengths)
    along_row = rows_do[free.owners]
    line = np.where(along_row, row_lines, col_lines)
    rest = np.flatnonzero(~(rows_do | cols_do)[free.owners])
    if rest.size:
        cells = Cells(free.rows[rest], free.cols[rest], free.owners[rest])
        along_row[rest] = in_rows = _konig(cells)
        index = np.where(in_rows, cells.rows, reduction.pair.shape[0] + cells.cols)
        line[rest], _ = _line_numbers(cells.owners, index, len(members))
    return Lines(free.rows, free.cols, members.idx[members.ptr[free.owners] + line], along_row)


def _members_with_joined(reduction: Reduction) -> IndexSets:
    members = reduction.pair.classes.members
    if not reduction.joined:
        return members
    sets = [members[i] for i in range(len(members))]
    for head, group in reduction.joined.items():
        sets[head] = np.concatenate([members[int(i)] for i in group])
    return IndexSets.of(np.array([s.size for s in sets], dtype=np.int64), np.concatenate(sets))


def _line_numbers(owners: Indices, index: Indices, count: int) -> tuple[Indices, Indices]:
    """Return a number for each entry, counting the different indices of its owner, and how many those are."""
    width = int(index.max(initial=0)) + 1
    unique, inverse = np.unique(owners * width + index, return_inverse=True)
    many = np.bincount(unique // width, minlength=count)
    return inverse - (np.cumsum(many) - many)[owners], many


def _konig(cells: Cells) -> Any:
    """Tell for each cell whether a row of the smallest line cover holds it; the others lie in a column of it.

    From the rows that a maximum matching leaves alone, walk along any edge to a column and along its matched edge back;
    the cover is the rows not reached and the columns reached (Konig).
    """
    row, col, match, _ = matched_columns(cells.owners, cells.rows, cells.cols)
    height, width = match.size, int(col.max()) + 1
    matched = np.flatnonzero(match >= 0)
    alone = np.flatnonzero(match < 0)
    source = height + width
    tails = np.concatenate((row, height + match[matched], np.full(alone.size, source, dtype=np.int64)))
    heads = np.concatenate((height + col, matched, alone))
    graph: Any = scipy.sparse.csr_array(
        (np.ones(tails.size, dtype=bool), (tails, heads)), shape=(source + 1, source + 1)
    )
    reached = np.zeros(source + 1, dtype=bool)
    reached[breadth_first_order(graph, source, return_predecessors=False)] = True
    return ~reached[row]
