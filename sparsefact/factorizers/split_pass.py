"""One pass over the splits of a chain in a given order, with orthonormal bases: truncated SVDs of blocks, nothing else.

A split leaves orthonormal singular vectors on its left and the rest of the product on its right, so splits that go
from left to right are one sweep of the backend, which does several of them while the data is in a cache. From right to
left it is the same sweep on the mirror image: the matrix transposed, with the digits of its indices in reverse order.

Symbols: see `sparsefact.factorizers.elements`; an element covers the factors `first` to `last`, split s lies between
factors s and s + 1, with a_{s+1} intervals of the columns and d_s residues of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.analysis.split_blocks import missed_energy, squares
from sparsefact.backends.protocol import Backend
from sparsefact.constraints.chain import Chain
from sparsefact.constraints.kronecker_support import KroneckerSupport
from sparsefact.constraints.kronecker_values import blocks_at
from sparsefact.factorizers.elements import Values, join_left, join_right, lean_left, lean_right

__all__ = ["Pass", "split_further", "split_in_order", "sweep_levels"]

# The ranks that a tolerance needs are looked for among this many triples, then among twice as many, and so on.
_FIRST_RANKS = 4


@dataclass(frozen=True)
class Pass:
    """What a pass over the splits found.

    Attributes
    ----------
    values : list of (a, b, c, d) arrays
        Of the factors; their product has the norm of one of them, all others being orthonormal.
    step_errors : tuple of float
        The Frobenius norm of what each step changed, in the order of the steps.
    norm : float
        Of the matrix on the support of the product; infinite when squares overflow, NaN when it holds NaN.
    """

    values: list[Values]
    step_errors: tuple[float, ...]
    norm: float


@dataclass
class _Element:
    first: int
    last: int
    values: Values


def split_in_order(
    backend: Backend, core: Values, chain: Chain, order: tuple[int, ...], tolerance: float | None = None
) -> Pass:
    """Return the factors of a chain from the values of a matrix on the support of its product.

    Parameters
    ----------
    backend : Backend
    core : (a, b, c, d) array
        Not modified.
    chain : Chain
        Chainable; without redundant pairs unless there is a tolerance.
    order : tuple of int
        Every split once.
    tolerance : float, optional
        Choose the ranks: the smallest that keep the error, relative to the norm of the core, at most this.
    """
    last = len(chain)
    mirrored = len(order) > 1 and tolerance is None and list(order) == sorted(order, reverse=True)
    if mirrored:
        core, chain, order = _mirror_core(backend, core, chain), _mirror(chain), tuple(last - split for split in order)
    work = _Work(backend, [_Element(1, last, core)], chain, order, tolerance)
    while work.todo:
        work.advance()
    step_errors, norm = work.read()
    values = [element.values for element in work.elements]
    if mirrored:
        digits = [_digits(chain, factor) for factor in range(1, last + 1)]
        values = [
            found.reshape(shape).T.reshape(found.shape[::-1]) for found, shape in zip(values, digits, strict=True)
        ][::-1]
    return Pass(values, step_errors, norm)


def split_further(
    backend: Backend, elements: Sequence[tuple[int, Values]], chain: Chain, order: tuple[int, ...]
) -> Pass:
    """Return the factors of a chain from a product in which some splits have been made already.

    Parameters
    ----------
    backend : Backend
    elements : sequence of (int, (a, b, c, d) array)
        From left to right: the last factor that an element covers, and its values. Any values: their bases are made
        orthonormal here. Not modified.
    chain : Chain
        Chainable, without redundant pairs.
    order : tuple of int
        Every split between the factors of an element once.
    """
    firsts = [1, *(last + 1 for last, _ in elements)]
    made = [_Element(first, last, values) for first, (last, values) in zip(firsts, elements, strict=False)]
    work = _Work(backend, made, chain, order, None)
    work.gather()
    while work.todo:
        work.advance()
    return Pass([element.values for element in work.elements], *work.read())


def sweep_levels(
    chain: Chain, splits: Sequence[int], rows: int, intervals: int, unit: int
) -> list[tuple[int, int, int, int]]:
    """Return the levels (b, p, r, d) of a sweep over ascending splits, for `Backend.sweep`.

    Parameters
    ----------
    chain : Chain
    splits : sequence of int
    rows, intervals : int
        Rows of each matrix of the stack, and how many intervals of the columns the stack stands for, at first.
    unit : int
        Residues of the rows that are taken apart beforehand.
    """
    levels, ranks = [], chain.ranks
    for split in splits:
        rank, finer, residues = ranks[split - 1], chain[split].a, chain[split - 1].d // unit
        levels.append((rows // residues, finer // intervals, rank, residues))
        rows, intervals = rank * residues, finer
    return levels


class _Work:
    def __init__(
        self,
        backend: Backend,
        elements: list[_Element],
        chain: Chain,
        order: tuple[int, ...],
        tolerance: float | None,
    ) -> None:
        self.backend, self.chain, self.tolerance = backend, chain, tolerance
        self.todo = list(order)
        self.one_sided = list(order) in (sorted(order), sorted(order, reverse=True))
        self.elements = elements
        self.centre = 0
        self.step_errors: list[float] = []
        self.norm = math.nan
        # what sweeps measured, left where it is until the end, so that a device is not waited for
        self.missed: list[Any] = []
        self.energy: Any = None
        if tolerance is not None or not order:
            self.norm = math.sqrt(squares(backend.xp, elements[0].values))

    def gather(self) -> None:
        """Move the centre to where the first split is made, from elements whose bases are any."""
        where = self._holding(self.todo[0]) if self.todo else 0
        self._move_centre(where)
        self.centre = len(self.elements) - 1
        self._move_centre(where)
        self.norm = math.sqrt(squares(self.backend.xp, self.elements[where].values))

    def read(self) -> tuple[tuple[float, ...], float]:
        """Return the step errors and the norm of the matrix."""
        if self.missed:
            xp = self.backend.xp
            *missed, energy = self.backend.to_host(xp.concatenate([*self.missed, self.energy.reshape(1)])).tolist()
            self.step_errors.extend(math.sqrt(e) for e in missed)
            self.norm = math.sqrt(energy) if math.isnan(self.norm) else self.norm
        return tuple(self.step_errors), self.norm

    def advance(self) -> None:
        """Make the next split, or as many as one sweep can."""
        where = self._holding(self.todo[0])
        self._move_centre(where)
        if self.tolerance is None:
            self._sweep(where)
        else:
            self._split(where)

    def _holding(self, split: int) -> int:
        return next(i for i, element in enumerate(self.elements) if element.first <= split < element.last)

    def _move_centre(self, to: int) -> None:
        while self.centre < to:
            left, right = self.elements[self.centre : self.centre + 2]
            left.values, right.values = lean_right(self.backend, left.values, right.values)
            self.centre += 1
        while self.centre > to:
            left, right = self.elements[self.centre - 1 : self.centre + 1]
            left.values, right.values = lean_left(self.backend, left.values, right.values)
            self.centre -= 1

    def _sweep(self, where: int) -> None:
        """Make the next splits of an element, as long as they go from left to right."""
        element = self.elements[where]
        splits = [self.todo.pop(0)]
        while self.todo and splits[-1] < self.todo[0] < element.last:
            splits.append(self.todo.pop(0))
        a, b, c, d = element.values.shape
        levels = sweep_levels(self.chain, splits, b, a, d)
        stack = element.values.transpose(3, 0, 1, 2).reshape(d * a, b, c)
        lefts, rest, missed, energy = self.backend.sweep(stack, levels)
        self.missed.append(missed)
        self.energy = energy if self.energy is None else self.energy
        firsts = [element.first, *(split + 1 for split in splits)]
        self.elements[where : where + 1] = [
            *(
                _Element(first, split, _unstack(left, d))
                for first, split, left in zip(firsts, splits, lefts, strict=False)
            ),
            _Element(firsts[-1], element.last, rest.reshape(d, -1, *rest.shape[1:]).transpose(1, 2, 3, 0)),
        ]
        self.centre = where + len(splits)

    def _split(self, where: int) -> None:
        """Make one split, with the smallest rank that the tolerance allows."""
        split = self.todo.pop(0)
        element = self.elements[where]
        blocks = blocks_at(element.values, self.chain[split].a, self.chain[split - 1].d)
        u, s, v, missed = self._within(blocks.reshape(-1, *blocks.shape[-2:]), self._allowance())
        self.step_errors.append(math.sqrt(missed))
        v = s[:, :, None] * v
        self.elements[where : where + 1] = [
            _Element(element.first, split, join_left(u.reshape(*blocks.shape[:4], *u.shape[1:]))),
            _Element(split + 1, element.last, join_right(v.reshape(*blocks.shape[:4], *v.shape[1:]))),
        ]
        self.centre = where + 1

    def _allowance(self) -> float:
        """Return the squared error that the next step may make: an equal share of what is left.

        Squares of errors add up for one-sided orders, errors themselves for others.
        """
        assert self.tolerance is not None
        allowed, left = self.tolerance * self.norm, len(self.todo) + 1
        if self.one_sided:
            return max(0.0, allowed**2 - math.fsum(e * e for e in self.step_errors)) / left
        return (max(0.0, allowed - math.fsum(self.step_errors)) / left) ** 2

    def _within(self, flat: Values, allowance: float) -> tuple[Values, Values, Values, float]:
        """Return the triples of the smallest rank that leaves out at most this energy, and what they leave out."""
        full = min(flat.shape[1:])
        tried = min(_FIRST_RANKS, full)
        while True:
            u, s, v = self.backend.rank_r(flat, tried)
            rest = missed_energy(self.backend.xp, flat, u, s, v)
            if rest <= allowance or tried == full:
                break
            tried = min(2 * tried, full)
        energies = [float(e) for e in (s.astype(np.float64) ** 2).sum(axis=0)]
        rank = tried
        while rank > 1 and rest + energies[rank - 1] <= allowance:
            rank -= 1
            rest += energies[rank]
        return u[:, :, :rank], s[:, :rank], v[:, :rank, :], rest


def _unstack(left: Values, d: int) -> Values:
    """Return the values of a factor from a stack whose first index was (d, a): back to where d comes last."""
    count, b, c, residues = left.shape
    return left.reshape(d, count // d, b, c, residues).transpose(1, 2, 3, 4, 0).reshape(count // d, b, c, residues * d)


def _mirror(chain: Chain) -> Chain:
    """Return the chain of the transposed matrices with the digits of all indices in reverse order: chainable again."""
    return Chain([KroneckerSupport(k.d, k.c, k.b, k.a) for k in reversed(chain)])


def _mirror_core(backend: Backend, core: Values, chain: Chain) -> Values:
    """Return the values of the mirror image: its digits are (b_1, d_1 / d_2, ..) and (a_2 / a_1, .., c_L)."""
    rows = [chain[0].b, *(x.d // y.d for x, y in pairwise(chain))]
    columns = [*(y.a // x.a for x, y in pairwise(chain)), chain[-1].c]
    a, b, c, d = core.shape
    # in the order in which the sweep reads a stack
    stack = core.transpose(0, 3, 1, 2).reshape(a * d, b, c)
    turned = backend.mirrored(stack, _reversed_digits(rows), _reversed_digits(columns))
    return turned.reshape(a, d, c, b).transpose(1, 2, 3, 0)


def _reversed_digits(sizes: list[int]) -> NDArray[np.intp]:
    return np.arange(math.prod(sizes)).reshape(sizes).T.reshape(-1)


def _digits(chain: Chain, factor: int) -> list[int]:
    """Return the sizes of the digits of a factor's a, b, c and d: interfaces cut them the same way on both sides."""
    here = chain[factor - 1]
    intervals = [chain[0].a, *(y.a // x.a for x, y in pairwise(chain))]
    residues = [*(x.d // y.d for x, y in pairwise(chain)), chain[-1].d]
    b, c = [here.b], [here.c]
    if factor > 1:
        b = [here.b // residues[factor - 2], residues[factor - 2]]
    if factor < len(chain):
        c = [intervals[factor], here.c // intervals[factor]]
    return [*intervals[:factor], *b, *c, *residues[factor - 1 :]]
