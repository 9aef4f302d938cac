"""What can be said of one block of a support pair: the reduction of its terms and the rules for what is left.

The set in question is P = {L R : supp L, supp R inside the supports}. A *term* is one inner index k with its rectangle
of cells; an *item* is a set of cells with p members, and stands for all sums of p matrices (x y^T) restricted to them.

The reduction (all steps leave P = P' x {everything on the free cells}, so that P is closed exactly when P' is):

* an item whose cells are covered by at most p lines fills them freely: they become free and leave every other item;
* an item that falls apart into pieces with no row and no column in common is as good as p members on every piece;
* items with the same cells are one item.

Rules for a connected group of the items that remain. Closed: a single rectangle (matrices of rank at most p);
rectangles that are *cross-nested* in pairs (a QR gauge bounds the factors, so bounded products have bounded factors); a
*filled* group, where one generic factor, some of whose columns are read off the target, reaches every matrix on the
cells. Not closed: a single item of one member that is no rectangle; two rectangles of one member each in the exact
table for r = 2.

Sets of rows or columns are integers used as bit masks: bit i is set when i belongs to the set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

__all__ = [
    "Absorbed",
    "Item",
    "Reduction",
    "Ruling",
    "bits",
    "groups",
    "line_cover",
    "reduce_items",
    "rule",
    "transpose_items",
]


def bits(mask: int) -> Iterator[int]:
    """Yield the elements of the set `mask` in increasing order."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


@dataclass(frozen=True)
class Item:
    """Sums of ``len(members)`` matrices (x y^T) restricted to cells.

    Parameters
    ----------
    cells : tuple of int
        For every row of the block, the set of columns.
    members : tuple of int
        Inner indices of the block; an inner index may serve several items, which then share no row and no column.
    """

    cells: tuple[int, ...]
    members: tuple[int, ...]

    @property
    def rows(self) -> int:
        """The rows with a cell."""
        return sum(1 << i for i, columns in enumerate(self.cells) if columns)

    @property
    def cols(self) -> int:
        """The columns with a cell."""
        union = 0
        for columns in self.cells:
            union |= columns
        return union

    @property
    def is_rectangle(self) -> bool:
        """Whether all rows with a cell have the same columns."""
        return len({columns for columns in self.cells if columns}) == 1


@dataclass(frozen=True)
class Absorbed:
    """An item that fills its cells: at most one line, a row or a column, for every member.

    `lines` pairs ("row" or "column", its index); the cells of a column line that a row line covers belong to the row.
    """

    item: Item
    lines: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Reduction:
    """What is left of the terms, and the absorbed items in the order in which they became free."""

    items: tuple[Item, ...]
    absorbed: tuple[Absorbed, ...]


@dataclass(frozen=True)
class Ruling:
    """The verdict on a connected group of items, and the rule that gave it.

    `side` and `forced` belong to the rule "filled": the factor that is chosen first ("left" or "right"), and which of
    its columns (item number) is read off which column of the target. `witness` belongs to "not closed": the rows and
    columns of the smallest block that shows it.
    """

    closed: bool | None
    name: str
    side: str = "left"
    forced: Mapping[int, int] = field(default_factory=dict)
    witness: tuple[int, int] = (0, 0)


def line_cover(cells: Sequence[int], at_most: int) -> tuple[tuple[str, int], ...] | None:
    """Return at most `at_most` rows and columns that contain all cells, or None where there are none (Konig)."""
    row_of: dict[int, int] = {}

    def augment(i: int, seen: set[int]) -> bool:
        for j in bits(cells[i]):
            if j not in seen:
                seen.add(j)
                if j not in row_of or augment(row_of[j], seen):
                    row_of[j] = i
                    return True
        return False

    for i, columns in enumerate(cells):
        if columns:
            augment(i, set())
            if len(row_of) > at_most:
                return None
    # the rows reached from unmatched ones by alternating paths stay out of the cover, the columns reached enter it
    matched = set(row_of.values())
    reached = [i for i, columns in enumerate(cells) if columns and i not in matched]
    outside, columns_in = set(reached), set()
    while reached:
        for j in bits(cells[reached.pop()]):
            columns_in.add(j)
            if row_of[j] not in outside:
                outside.add(row_of[j])
                reached.append(row_of[j])
    rows = [("row", i) for i, columns in enumerate(cells) if columns and i not in outside]
    return tuple(rows + [("column", j) for j in sorted(columns_in)])


def _pieces(cells: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the connected pieces: no two share a row or a column."""
    rest = list(cells)
    found = []
    for first in range(len(rest)):
        if not rest[first]:
            continue
        columns, before = rest[first], 0
        while columns != before:
            before = columns
            for row in rest:
                if row & columns:
                    columns |= row
        found.append(tuple(row if row & columns else 0 for row in rest))
        rest = [0 if row & columns else row for row in rest]
    return found


def reduce_items(terms: Sequence[Item]) -> Reduction:
    """Bring the terms of a block to their reduced form.

    Parameters
    ----------
    terms : sequence of Item
        Usually rectangles, one per equivalence class.

    Returns
    -------
    Reduction
    """
    absorbed: list[Absorbed] = []
    items = list(terms)
    while True:
        merged: dict[tuple[int, ...], tuple[int, ...]] = {}
        for item in items:
            for piece in _pieces(item.cells):
                merged[piece] = merged.get(piece, ()) + item.members
        items = [Item(cells, members) for cells, members in sorted(merged.items())]
        for item in items:
            lines = line_cover(item.cells, len(item.members))
            if lines is not None:
                absorbed.append(Absorbed(item, lines))
                items = [
                    Item(tuple(a & ~b for a, b in zip(other.cells, item.cells, strict=True)), other.members)
                    for other in items
                ]
                break
        else:
            return Reduction(tuple(items), tuple(absorbed))


def groups(items: Sequence[Item]) -> list[tuple[Item, ...]]:
    """Return the items in groups that share no cell; P is closed exactly when the set of every group is."""
    waiting = list(items)
    found = []
    while waiting:
        group = [waiting.pop(0)]
        for item in group:  # grows while it is walked
            near = [o for o in waiting if any(a & b for a, b in zip(o.cells, item.cells, strict=True))]
            group.extend(near)
            waiting = [o for o in waiting if o not in near]
        found.append(tuple(group))
    return found


def rule(group: Sequence[Item]) -> Ruling:
    """Apply the rules to one connected group of reduced items; ``closed`` is None where none applies."""
    if len(group) == 1:
        item = group[0]
        if item.is_rectangle:
            return Ruling(True, "rectangle")
        if len(item.members) == 1:
            return Ruling(False, "odd", witness=_missing_corner(item))
    elif all(item.is_rectangle for item in group):
        if all(_cross_nested(a, b) for a, b in combinations(group, 2)):
            return Ruling(True, "cross-nested")
        if len(group) == 2 and all(len(item.members) == 1 for item in group):
            witness = _pair_witness(*group)
            if witness is not None:
                return Ruling(False, "pair", witness=witness)
    for side, seen in (("left", list(group)), ("right", transpose_items(group))):
        forced = _filling(seen)
        if forced is not None:
            return Ruling(True, "filled", side=side, forced=forced)
    return Ruling(None, "open")


def transpose_items(items: Sequence[Item]) -> list[Item]:
    """Return the items with rows and columns exchanged."""
    width = max(item.cols for item in items).bit_length()
    return [
        Item(tuple(sum(1 << i for i, row in enumerate(item.cells) if row >> j & 1) for j in range(width)), item.members)
        for item in items
    ]


def _cross_nested(a: Item, b: Item) -> bool:
    """Whether the rectangles are disjoint, or one is the taller and the other the wider (weakly)."""
    if not a.rows & b.rows or not a.cols & b.cols:
        return True
    first = a.rows & ~b.rows == 0 and b.cols & ~a.cols == 0
    return first or (b.rows & ~a.rows == 0 and a.cols & ~b.cols == 0)


def _missing_corner(item: Item) -> tuple[int, int]:
    """Return rows and columns of a 2 x 2 block of a connected item with exactly one cell missing."""
    filled = [(i, row) for i, row in enumerate(item.cells) if row]
    # a connected item of which every two rows with a common column are equal is a rectangle, so there is such a pair
    i, h = next((i, h) for (i, a), (h, b) in combinations(filled, 2) if a & b and a != b)
    a, b = item.cells[i], item.cells[h]
    return 1 << i | 1 << h, _low(a & b) | _low(a ^ b)


def _low(mask: int) -> int:
    return mask & -mask


def _pair_witness(a: Item, b: Item) -> tuple[int, int] | None:
    """Return rows and columns of a block that is not closed, for two overlapping rectangles of one member each.

    The exact table for r = 2: not closed when one rectangle sticks out of the other in both directions, or when they
    have the same two or more columns and each has a row of its own, or that with rows and columns exchanged.
    """
    rows, cols = a.rows & b.rows, a.cols & b.cols
    for one, other in ((a, b), (b, a)):
        own_rows, own_cols = one.rows & ~other.rows, one.cols & ~other.cols
        if own_rows and own_cols:
            return _low(own_rows) | _low(rows), _low(own_cols) | _low(cols)
    if a.cols == b.cols and cols.bit_count() >= 2 and a.rows & ~b.rows and b.rows & ~a.rows:
        return _low(rows) | _low(a.rows & ~b.rows) | _low(b.rows & ~a.rows), _low(cols) | _low(cols & (cols - 1))
    if a.rows == b.rows and rows.bit_count() >= 2 and a.cols & ~b.cols and b.cols & ~a.cols:
        return _low(rows) | _low(rows & (rows - 1)), _low(cols) | _low(a.cols & ~b.cols) | _low(b.cols & ~a.cols)
    return None


def _filling(group: Sequence[Item]) -> dict[int, int] | None:
    """Return which columns of the left factor are read off which column of the target, if that fills the group.

    A column of the target that meets a single member, in all the rows of that member, fixes it up to scale: it is read
    off there. All other columns of the left factor are generic. Every column j of the target is then reached when the
    part of the left factor that meets it has full row rank. For generic columns that is a matching of the rows; one
    column read off may help, and since all we know of it is that it is not zero, the matching must exist whichever of
    its rows it is matched to (the minors belonging to different rows have no monomial in common, so none cancel).
    """
    width = max(item.cols for item in group).bit_length()
    met = [[(k, rows) for k, item in enumerate(group) if (rows := _column(item, j))] for j in range(width)]
    forced: dict[int, int] = {}
    for j, present in enumerate(met):
        if len(present) == 1:
            k, rows = present[0]
            if len(group[k].members) == 1 and rows == group[k].rows and k not in forced:
                forced[k] = j
    for j, present in enumerate(met):
        if not present or j in forced.values():
            continue
        union = 0
        for _, rows in present:
            union |= rows
        generic = [rows for k, rows in present if k not in forced for _ in group[k].members]
        if _saturated(union, generic):
            continue
        if not any(
            k in forced and rows == group[k].rows and all(_saturated(union & ~(1 << i), generic) for i in bits(rows))
            for k, rows in present
        ):
            return None
    return forced


def _column(item: Item, j: int) -> int:
    return sum(1 << i for i, row in enumerate(item.cells) if row >> j & 1)


def _saturated(rows: int, terms: Sequence[int]) -> bool:
    """Whether every row can be matched to a term of its own that contains it."""
    mate: dict[int, int] = {}

    def augment(i: int, seen: set[int]) -> bool:
        for k, term in enumerate(terms):
            if term >> i & 1 and k not in seen:
                seen.add(k)
                if k not in mate or augment(mate[k], seen):
                    mate[k] = i
                    return True
        return False

    return all(augment(i, set()) for i in bits(rows))
