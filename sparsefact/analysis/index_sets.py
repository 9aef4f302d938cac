"""Many sorted sets of indices in two arrays, and the few operations on them that the analysis of supports is made of.

Set i is ``idx[ptr[i]:ptr[i + 1]]``, as the rows of a CSR pattern. Everything here costs about the number of entries: a
support pair may have a hundred thousand sets of ten entries, or ten sets of a hundred thousand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["IndexSets", "Indices", "equal_sets", "ranges"]

Indices = NDArray[np.int64]


def ranges(starts: Indices, lengths: Indices) -> Indices:
    """Return ``start, start + 1, ...`` for every start, each as long as asked, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if ends.size else 0
    listed: Indices = np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - lengths), lengths)
    return listed


@dataclass(frozen=True, eq=False)
class IndexSets:
    """A family of sorted index sets.

    Attributes
    ----------
    ptr : (count + 1,) int64 array
        Where each set begins.
    idx : int64 array
        The elements, set by set and increasing in each.
    """

    ptr: Indices
    idx: Indices

    @classmethod
    def of(cls, lengths: Indices, idx: Indices) -> IndexSets:
        """Build a family from the sets' sizes and their elements."""
        return cls(np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64))), idx)

    def __len__(self) -> int:
        return int(self.ptr.size - 1)

    def __getitem__(self, i: int) -> Indices:
        return self.idx[self.ptr[i] : self.ptr[i + 1]]

    def __iter__(self) -> Iterator[Indices]:
        return (self[i] for i in range(len(self)))

    @cached_property
    def lengths(self) -> Indices:
        """How many elements each set has."""
        return np.diff(self.ptr)

    @cached_property
    def owners(self) -> Indices:
        """The set that each element belongs to."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def take(self, which: Indices) -> IndexSets:
        """Return the family of the chosen sets, in the order given."""
        lengths = self.lengths[which]
        return IndexSets.of(lengths, self.idx[ranges(self.ptr[which], lengths)])

    def transposed(self, count: int) -> tuple[IndexSets, Indices]:
        """Return, for each index below `count`, the sets that hold it, and where their elements stand in `idx`."""
        order = np.argsort(self.idx, kind="stable")
        return IndexSets.of(np.bincount(self.idx, minlength=count), self.owners[order]), order


def equal_sets(families: tuple[IndexSets, ...], also: Indices | None = None) -> Indices:
    """Return, for each i, the first i' whose sets are equal to those of i in every family (and whose `also` is equal).

    Sets are found by random 64-bit sums and compared element by element, so the answer does not rest on the sums.
    """
    count = len(families[0])
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    seed = 0
    while True:
        rng = np.random.default_rng(seed)
        key = np.zeros(count, dtype=np.uint64) if also is None else also.astype(np.uint64)
        for sets in families:
            largest = int(sets.idx.max(initial=-1)) + 1
            weights = rng.integers(1, 2**64, size=largest, dtype=np.uint64)
            sums = np.concatenate((np.zeros(1, dtype=np.uint64), np.cumsum(weights[sets.idx], dtype=np.uint64)))
            odd = rng.integers(1, 2**64, dtype=np.uint64) | np.uint64(1)
            key = key * odd + sums[sets.ptr[1:]] - sums[sets.ptr[:-1]] + sets.lengths.astype(np.uint64)
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        representative = first[inverse].astype(np.int64)
        if _really_equal(families, also, representative):
            return representative
        seed += 1


def _really_equal(families: tuple[IndexSets, ...], also: Indices | None, representative: Indices) -> bool:
    if also is not None and not np.array_equal(also, also[representative]):
        return False
    other = np.flatnonzero(representative != np.arange(representative.size))
    for sets in families:
        if not np.array_equal(sets.lengths[other], sets.lengths[representative[other]]):
            return False
        if not np.array_equal(sets.take(other).idx, sets.take(representative[other]).idx):
            return False
    return True
