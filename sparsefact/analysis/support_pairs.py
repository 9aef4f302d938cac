"""A pair of fixed supports, looked at as its rank-one supports: what every question about supports starts from.

Inner index k contributes ``L[:, k] R[k, :]``, which lives on the rectangle ``S_k = R_k x C_k``: the rows allowed in
column k of the left factor times the columns allowed in row k of the right one. Inner indices with equal rectangles
form a class. Everything is sparse: nothing here is as large as the product.

=======  ====================================================
``m n``  shape of the product
``R_k``  rows of the left factor's column k
``C_k``  columns of the right factor's row k
``P``    a class, the inner indices that share one rectangle
=======  ====================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, overload

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from sparsefact.analysis.index_sets import IndexSets, Indices, equal_sets
from sparsefact.constraints.kronecker_support import KroneckerSupport
from sparsefact.constraints.support import Support
from sparsefact.errors import ArgumentError, DtypeError, ShapeError

__all__ = ["RankOneClass", "RankOneClasses", "SupportPair", "as_pair"]


class RankOneClass(NamedTuple):
    """The inner indices `members` that share the rectangle `rows` x `cols`; all three are increasing index arrays."""

    rows: Indices
    cols: Indices
    members: Indices


class RankOneClasses(Sequence[RankOneClass]):
    """The equivalence classes of the rank-one supports, by smallest member; each is made when asked for.

    Attributes
    ----------
    rows, cols, members : IndexSets
        One set per class.
    """

    __slots__ = ("cols", "members", "rows")

    def __init__(self, rows: IndexSets, cols: IndexSets, members: IndexSets) -> None:
        self.rows, self.cols, self.members = rows, cols, members

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, i: int) -> RankOneClass: ...
    @overload
    def __getitem__(self, i: slice) -> tuple[RankOneClass, ...]: ...
    def __getitem__(self, i: int | slice) -> RankOneClass | tuple[RankOneClass, ...]:
        if isinstance(i, slice):
            return tuple(self[j] for j in range(*i.indices(len(self))))
        if not -len(self) <= i < len(self):
            raise IndexError(f"class {i} of {len(self)}")
        i %= len(self)
        return RankOneClass(self.rows[i], self.cols[i], self.members[i])

    def __iter__(self) -> Iterator[RankOneClass]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"RankOneClasses(<{len(self)} classes of {self.members.idx.size} rank-one supports>)"


@dataclass(frozen=True, eq=False)
class SupportPair:
    """Two supports whose product is asked about; build it with `as_pair`.

    Attributes
    ----------
    shape : (int, int)
        Of the product, (m, n).
    inner : int
        Columns of the left support, rows of the right one.
    rows, cols : IndexSets
        ``rows[k]`` and ``cols[k]`` of every inner index; both are empty for one that was dropped.
    dropped : int64 array
        The inner indices with an empty column or row: they contribute nothing.
    """

    shape: tuple[int, int]
    inner: int
    rows: IndexSets
    cols: IndexSets
    dropped: Indices

    @cached_property
    def left(self) -> scipy.sparse.csc_array[Any]:
        """The left pattern without what was dropped, a boolean (m, inner) CSC array."""
        data = np.ones(self.rows.idx.size, dtype=bool)
        return scipy.sparse.csc_array((data, self.rows.idx, self.rows.ptr), shape=(self.shape[0], self.inner))

    @cached_property
    def right(self) -> scipy.sparse.csr_array[Any]:
        """The right pattern without what was dropped, a boolean (inner, n) CSR array."""
        data = np.ones(self.cols.idx.size, dtype=bool)
        return scipy.sparse.csr_array((data, self.cols.idx, self.cols.ptr), shape=(self.inner, self.shape[1]))

    @cached_property
    def classes(self) -> RankOneClasses:
        """The equivalence classes of the rank-one supports."""
        alive = np.flatnonzero(self.rows.lengths)
        rows, cols = self.rows.take(alive), self.cols.take(alive)
        representative = equal_sets((rows, cols))
        first = np.flatnonzero(representative == np.arange(alive.size))
        order = np.argsort(representative, kind="stable")
        members = IndexSets.of(np.bincount(representative, minlength=alive.size)[first], alive[order])
        return RankOneClasses(rows.take(first), cols.take(first), members)


def as_pair(left: Any, right: Any) -> SupportPair:
    """Return the supports of two factors as one checked pair.

    Parameters
    ----------
    left : Support, KroneckerSupport, boolean array or scipy.sparse array of shape (m, r)
        What may be nonzero in the left factor.
    right : the same, of shape (r, n)
        What may be nonzero in the right factor.

    Returns
    -------
    SupportPair

    Raises
    ------
    DtypeError
        If a dense mask is not boolean, or a constraint is not a fixed support.
    ShapeError
        If a mask is not 2-D, or the inner dimensions differ.
    ArgumentError
        If a support has no entry at all.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsefact.analysis.support_pairs import as_pair
    >>> pair = as_pair(np.tri(3, dtype=bool), np.tri(3, dtype=bool).T)
    >>> pair.shape, len(pair.classes)
    ((3, 3), 3)
    >>> pair.classes[1]
    RankOneClass(rows=array([1, 2]), cols=array([1, 2]), members=array([1]))
    """
    left, right = _as_support("left", left), _as_support("right", right)
    (m, inner), (below, n) = left.shape, right.shape
    if inner != below:
        raise ShapeError(
            f"left has shape {(m, inner)} and right has shape {(below, n)}; the left support must have as many columns "
            "as the right one has rows, transpose one of them"
        )
    rows, cols = _rows_of(left.T), _rows_of(right)
    alive = (rows.lengths > 0) & (cols.lengths > 0)
    dropped = np.flatnonzero(~alive)
    if dropped.size:
        rows, cols = _without(rows, alive), _without(cols, alive)
    return SupportPair((m, n), inner, rows, cols, dropped)


def _as_support(name: str, given: Any) -> Support | KroneckerSupport:
    """Return a fixed support, or say what a fixed support is."""
    if isinstance(given, (Support, KroneckerSupport)):
        return given
    if hasattr(given, "project"):
        raise DtypeError(
            f"{name} is {given!r}, whose positions depend on the matrix; pass a fixed support such as "
            "sparsefact.Support(mask) or a boolean array"
        )
    try:
        return Support(given)
    except (ArgumentError, DtypeError, ShapeError) as error:
        raise type(error)(f"{name}: {error}") from None


def _rows_of(support: Support | KroneckerSupport) -> IndexSets:
    """Return the columns of every row."""
    if isinstance(support, Support):
        return IndexSets(support.indptr.astype(np.int64), support.indices.astype(np.int64))
    a, b, c, d = support.a, support.b, support.c, support.d
    # row (i, beta, q) of the a diagonal blocks holds the columns (i, gamma, q), gamma = 0 ... c - 1
    idx = np.empty((a, b, d, c), dtype=np.int64)
    idx[...] = c * d * np.arange(a)[:, None, None, None] + np.arange(d)[:, None] + d * np.arange(c)
    return IndexSets.of(np.full(a * b * d, c, dtype=np.int64), idx.reshape(-1))


def _without(sets: IndexSets, keep: NDArray[np.bool_]) -> IndexSets:
    """Return the family with the sets not kept made empty."""
    return IndexSets.of(np.where(keep, sets.lengths, 0), sets.idx[keep[sets.owners]])
