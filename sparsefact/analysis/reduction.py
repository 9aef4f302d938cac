r"""What is left of a support pair when everything that can be matched exactly is taken away.

F is the set of free cells: whatever stands there can be reproduced exactly, whatever the other cells are. A class P of
p inner indices on the rectangle ``S_P = R_P x C_P`` makes its rectangle free when the cells of ``S_P`` outside F can be
covered by at most p lines (rows or columns): a line is one rank-one matrix inside ``S_P``, and what the lines write
elsewhere on the rectangle is free already. With F empty this is the complete class, ``p >= min(|R_P|, |C_P|)``. By
Konig's theorem the fewest lines are a maximum matching of the bipartite graph of the cells. The rule is applied until
nothing changes; the result does not depend on the order, because fewer cells never need more lines.

What a class that is not free keeps, ``S_P \ F``, is hopefully a disjoint union of rectangles without a common row or
column: then each of them is a block that p rank-one terms approximate on their own, and equal ones of several classes
add their ranks. If the ranks of equal leftovers suffice for their block it is free as well, and the search goes on.

The free cells are at most as many as the entries of the two supports, and a leftover is listed cell by cell only when
it could be covered, so the cost follows the supports' entries and never the m x n cells of the product.

References: complete classes are from Q.-T. Le, E. Riccietti, R. Gribonval, "Spurious valleys, NP-hardness, and
tractability of sparse matrix factorization with fixed support", SIAM J. Matrix Anal. Appl. 2023 (arXiv 2112.00386).
The relative rule, leftovers of several rectangles and their merging are ours; the argument above is their proof.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.sparse.csgraph import maximum_bipartite_matching

from sparsefact.analysis.index_sets import IndexSets, Indices, equal_sets, ranges
from sparsefact.analysis.support_pairs import RankOneClasses, SupportPair

__all__ = ["Cells", "Leftovers", "Reduction", "matched_columns", "reduce_pair"]

# Pairs (cell, class) that are looked at together.
_CHUNK = 1 << 22


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of the product, each with the class that owns it: three equally long index arrays."""

    rows: Indices
    cols: Indices
    owners: Indices


@dataclass(frozen=True, eq=False)
class Leftovers:
    """Rectangles that stay of classes that are not free.

    Attributes
    ----------
    rows, cols : IndexSets
        One rectangle each.
    owners : int64 array
        The class of each.
    """

    rows: IndexSets
    cols: IndexSets
    owners: Indices

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class Reduction:
    """The fixed point of the reduction.

    Attributes
    ----------
    pair : SupportPair
    free : Cells
        The free cells, each once; the owner is the class whose lines will match it.
    absorbed : (classes,) bool array
        Which classes are free: their whole rectangles belong to the free cells.
    joined : dict
        For an owner that is helped by classes with an equal leftover: all of these classes, itself included.
    leftovers : Leftovers
        Of the other classes.
    odd : int64 array
        The other classes whose leftover is not a union of rectangles without common rows and columns.
    first_round : bool
        Whether complete classes, and classes whose cells those cover, were all that was absorbed.
    touched : bool
        Whether two classes share a cell that became free.
    robbed : (classes,) bool array
        Which classes, not complete themselves, hold cells that became free by another class.
    """

    pair: SupportPair
    free: Cells
    absorbed: NDArray[np.bool_]
    joined: dict[int, Indices]
    leftovers: Leftovers
    odd: Indices
    first_round: bool
    touched: bool
    robbed: NDArray[np.bool_]


def reduce_pair(pair: SupportPair) -> Reduction:
    """Absorb classes until a fixed point and return what is left of the others."""
    return _Search(pair).run()


def matched_columns(owners: Indices, rows: Indices, cols: Indices) -> tuple[Indices, Indices, Indices, Indices]:
    """Match rows to columns, in the union of one bipartite graph per owner.

    Parameters
    ----------
    owners, rows, cols : int64 arrays
        One edge each; the edges of an owner are among its own rows and columns.

    Returns
    -------
    row_vertex, col_vertex : int64 arrays
        The ends of each edge in the union.
    match : int64 array
        For each row vertex the column vertex it is matched to, or -1.
    row_owner : int64 array
        The owner of each row vertex.
    """
    row_vertex, row_first = _numbered(owners, rows)
    col_vertex, _ = _numbered(owners, cols)
    shape = (row_first.size, int(col_vertex.max(initial=-1)) + 1)
    if not row_vertex.size:
        return row_vertex, col_vertex, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    graph: Any = scipy.sparse.csr_array((np.ones(row_vertex.size, dtype=bool), (row_vertex, col_vertex)), shape=shape)
    match = maximum_bipartite_matching(graph, perm_type="column").astype(np.int64)
    return row_vertex, col_vertex, match, owners[row_first]


def _numbered(owners: Indices, index: Indices) -> tuple[Indices, Indices]:
    """Return a number for each different (owner, index), and where each number comes first."""
    width = int(index.max(initial=-1)) + 1
    _, first, number = np.unique(owners * width + index, return_index=True, return_inverse=True)
    return number.astype(np.int64), first.astype(np.int64)


class _Search:
    """The reduction under way.

    Cells of a class are also known by their place in its rectangle, ``row position * |C_P| + column position``.
    """

    def __init__(self, pair: SupportPair) -> None:
        self.pair = pair
        self.classes: RankOneClasses = pair.classes
        self.rows, self.cols = self.classes.rows, self.classes.cols
        self.tall, self.wide, self.sizes = self.rows.lengths, self.cols.lengths, self.classes.members.lengths
        count = len(self.classes)
        self.n = pair.shape[1]
        self.absorbed = np.zeros(count, dtype=bool)
        self.free: list[Cells] = []
        self.joined: dict[int, Indices] = {}
        # for each class that is not absorbed: the places of its free cells
        self.lost_class: Indices = np.zeros(0, dtype=np.int64)
        self.lost_place: Indices = np.zeros(0, dtype=np.int64)
        self.first_round, self.touched = True, False
        self.robbed = np.zeros(count, dtype=bool)

    def run(self) -> Reduction:
        self._absorb_complete()
        while True:
            while self._absorb_covered():
                pass
            leftovers, odd = self._leftovers()
            if not self._absorb_joined(leftovers):
                break
            self.first_round = False
        free = [np.concatenate([getattr(c, name) for c in self.free]) for name in ("rows", "cols", "owners")]
        return Reduction(
            self.pair,
            Cells(*free),
            self.absorbed,
            self.joined,
            leftovers,
            odd,
            self.first_round,
            self.touched,
            self.robbed,
        )

    def _absorb_complete(self) -> None:
        complete = np.flatnonzero(self.sizes >= np.minimum(self.tall, self.wide))
        self.absorbed[complete] = True
        self._add(*self._rectangles(complete))

    def _rectangles(self, which: Indices) -> tuple[Indices, Indices, Indices]:
        """List the cells of the rectangles of some classes: the class and the places of row and column."""
        cells = self.tall[which] * self.wide[which]
        owners = np.repeat(which, cells)
        place = ranges(np.zeros(which.size, dtype=np.int64), cells)
        width = self.wide[owners]
        return owners, place // width, place % width

    def _add(self, owners: Indices, row_place: Indices, col_place: Indices) -> None:
        """Make cells free that are not free yet; the first class that lists a cell owns it."""
        rows = self.rows.idx[self.rows.ptr[owners] + row_place]
        cols = self.cols.idx[self.cols.ptr[owners] + col_place]
        first = np.unique(rows * self.n + cols, return_index=True)[1]
        self.touched |= first.size < rows.size
        first.sort()
        cells = Cells(rows[first], cols[first], owners[first])
        self.free.append(cells)
        kept = ~self.absorbed[self.lost_class]
        lost = [(self.lost_class[kept], self.lost_place[kept]), *self._inside(cells)]
        self.lost_class = np.concatenate([c for c, _ in lost])
        self.lost_place = np.concatenate([p for _, p in lost])
        self.touched |= self.lost_class.size > 0
        self.robbed[self.lost_class] = True

    def _inside(self, cells: Cells) -> list[tuple[Indices, Indices]]:
        """Find the new free cells inside the rectangles of the classes that are not absorbed."""
        active = np.flatnonzero(~self.absorbed)
        if not active.size or not cells.rows.size:
            return []
        active_rows, active_cols = self.rows.take(active), self.cols.take(active)
        holders, stands = active_rows.transposed(self.pair.shape[0])
        keys = active_cols.owners * self.n + active_cols.idx
        per_cell = holders.lengths[cells.rows]
        found = []
        for chunk in _chunks(per_cell, _CHUNK):
            many = per_cell[chunk]
            at = ranges(holders.ptr[cells.rows[chunk]], many)
            owner = holders.idx[at]
            wanted = owner * self.n + np.repeat(cells.cols[chunk], many)
            position = np.searchsorted(keys, wanted)
            hit = np.flatnonzero(keys[np.minimum(position, keys.size - 1)] == wanted)
            owner = owner[hit]
            row_place = stands[at[hit]] - active_rows.ptr[owner]
            col_place = position[hit] - active_cols.ptr[owner]
            owner = active[owner]
            found.append((owner, row_place * self.wide[owner] + col_place))
        return found

    def _lost(self) -> Indices:
        return np.bincount(self.lost_class, minlength=self.absorbed.size)

    def _absorb_covered(self) -> bool:
        """Absorb the classes whose leftover has a cover of few enough lines; tell whether there was one."""
        lost = self._lost()
        left = self.tall * self.wide - lost
        # a line has at most max(|R|, |C|) cells: fewer lines than that bound cannot do
        maybe = ~self.absorbed & (lost > 0) & (left <= self.sizes * np.maximum(self.tall, self.wide))
        candidates = np.flatnonzero(maybe)
        if not candidates.size:
            return False
        owners, row_place, col_place = self._remaining(candidates)
        _, _, match, row_owner = matched_columns(owners, row_place, col_place)
        lines = np.bincount(row_owner[match >= 0], minlength=self.absorbed.size)
        accepted = candidates[lines[candidates] <= self.sizes[candidates]]
        if not accepted.size:
            return False
        self.first_round &= not lines[accepted].any()
        self.absorbed[accepted] = True
        chosen = self.absorbed[owners]
        self._add(owners[chosen], row_place[chosen], col_place[chosen])
        return True

    def _remaining(self, which: Indices) -> tuple[Indices, Indices, Indices]:
        """List the cells of the rectangles of some classes that are not free."""
        owners, row_place, col_place = self._rectangles(which)
        starts = np.full(self.absorbed.size, -1, dtype=np.int64)
        cells = self.tall[which] * self.wide[which]
        starts[which] = np.cumsum(cells) - cells
        mine = starts[self.lost_class] >= 0
        remains = np.ones(owners.size, dtype=bool)
        remains[starts[self.lost_class[mine]] + self.lost_place[mine]] = False
        return owners[remains], row_place[remains], col_place[remains]

    def _leftovers(self) -> tuple[Leftovers, Indices]:
        """Split what is left of each class into rectangles without common rows or columns; name those where it fails.

        Rows of a class that lost the same columns belong together, and two such groups must keep disjoint columns.
        """
        lost = self._lost()
        whole = np.flatnonzero(~self.absorbed & (lost == 0))
        partial = np.flatnonzero(~self.absorbed & (lost > 0))
        parts, odd = self._split(partial) if partial.size else (None, partial)
        rows, cols, owners = self.rows.take(whole), self.cols.take(whole), whole
        if parts is not None:
            rows = IndexSets.of(np.concatenate((rows.lengths, parts.rows.lengths)), _join(rows.idx, parts.rows.idx))
            cols = IndexSets.of(np.concatenate((cols.lengths, parts.cols.lengths)), _join(cols.idx, parts.cols.idx))
            owners = _join(owners, parts.owners)
        return Leftovers(rows, cols, owners), odd

    def _split(self, partial: Indices) -> tuple[Leftovers, Indices]:
        tall, wide = self.tall[partial], self.wide[partial]
        local = np.full(self.absorbed.size, -1, dtype=np.int64)
        local[partial] = np.arange(partial.size)
        # every row of every partial class, with the columns that it lost
        row_starts = np.cumsum(tall) - tall
        row_owner = np.repeat(np.arange(partial.size), tall)
        mine = local[self.lost_class]
        row = row_starts[mine] + self.lost_place // self.wide[self.lost_class]
        col = self.lost_place % self.wide[self.lost_class]
        order = np.lexsort((col, row))
        gone = IndexSets.of(np.bincount(row, minlength=row_owner.size), col[order])
        representative = equal_sets((gone,), row_owner)
        group_of = np.cumsum(representative == np.arange(representative.size)) - 1
        group_of = group_of[representative]
        first = np.flatnonzero(representative == np.arange(representative.size))
        owner = row_owner[first]
        keeps = wide[owner] - gone.lengths[first]
        total = np.bincount(owner, weights=keeps, minlength=partial.size).astype(np.int64)
        odd = total > wide
        # list the columns kept only where they can be disjoint: then they are at most |C_P|
        fine = np.flatnonzero((keeps > 0) & ~odd[owner])
        kept = _complements(gone.take(first[fine]), wide[owner[fine]])
        keys = owner[fine][kept.owners] * self.n + kept.idx
        unique, counts = np.unique(keys, return_counts=True)
        odd[unique[counts > 1] // self.n] = True
        good = np.flatnonzero(~odd[owner[fine]])
        chosen = fine[good]
        kept = kept.take(good)
        cols = IndexSets(kept.ptr, self.cols.idx[self.cols.ptr[partial[owner[chosen]]][kept.owners] + kept.idx])
        by_group = np.argsort(group_of, kind="stable")
        members = IndexSets.of(np.bincount(group_of, minlength=first.size), by_group).take(chosen)
        in_class = members.idx - row_starts[row_owner[members.idx]]
        rows = IndexSets(members.ptr, self.rows.idx[self.rows.ptr[partial[row_owner[members.idx]]] + in_class])
        return Leftovers(rows, cols, partial[owner[chosen]]), partial[odd]

    def _absorb_joined(self, leftovers: Leftovers) -> bool:
        """Absorb classes that keep one equal rectangle and together have its rank; tell whether there were any."""
        pieces = np.bincount(leftovers.owners, minlength=self.absorbed.size)
        single = np.flatnonzero(pieces[leftovers.owners] == 1)
        if not single.size:
            return False
        rows, cols, owners = leftovers.rows.take(single), leftovers.cols.take(single), leftovers.owners[single]
        representative = equal_sets((rows, cols))
        rank = np.bincount(representative, weights=self.sizes[owners], minlength=single.size).astype(np.int64)
        enough = np.flatnonzero((rank > 0) & (rank >= np.minimum(rows.lengths, cols.lengths)))
        if not enough.size:
            return False
        order = np.argsort(representative, kind="stable")
        groups = IndexSets.of(np.bincount(representative, minlength=single.size), owners[order]).take(enough)
        heads = groups.idx[groups.ptr[:-1]]
        for i, head in enumerate(heads):
            self.joined[int(head)] = groups[i]
        self.absorbed[groups.idx] = True
        owner, row_place, col_place = self._remaining(heads)
        self._add(owner, row_place, col_place)
        return True


def _join(a: Indices, b: Indices) -> Indices:
    return np.concatenate((a, b))


def _complements(sets: IndexSets, sizes: Indices) -> IndexSets:
    """Return what each set lacks of ``range(size)``."""
    starts = np.cumsum(sizes) - sizes
    lacks = np.ones(int(sizes.sum()), dtype=bool)
    lacks[starts[sets.owners] + sets.idx] = False
    idx = ranges(np.zeros(sizes.size, dtype=np.int64), sizes)[lacks]
    return IndexSets.of(sizes - sets.lengths, idx)


def _chunks(weights: Indices, limit: int) -> list[slice]:
    """Return consecutive slices whose weights add up to about `limit` at most."""
    ends = np.cumsum(weights)
    if not ends.size or ends[-1] == 0:
        return []
    cuts = np.searchsorted(ends, np.arange(limit, int(ends[-1]) + limit, limit), side="left") + 1
    cuts = np.unique(np.concatenate((np.zeros(1, dtype=np.int64), np.minimum(cuts, weights.size))))
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(cuts)]
