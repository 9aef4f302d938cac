"""What a product costs: a model in nanoseconds of one core, precise enough to rank the ways of computing it.

A line is 64 bytes of neighbouring columns. The kernels multiply and add one line per cycle and pay a little for every
block of a Kronecker-sparse factor; BLAS is as fast on large blocks and pays a call for every block. The constants were
measured on an x86-64 machine with AVX2; their ratios matter, not their values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["GROWTH", "SMALL_BYTES", "Block", "Setting", "best_groups"]

GROWTH = 2.0
"""Merged factors may hold at most this many times the entries of what they replace ..."""
SMALL_BYTES = 1 << 16
"""... or this many bytes."""

Block: TypeAlias = tuple[int, int, int, int]
"""(a, b, c, d) of the support ``I_a (x) 1_{b x c} (x) I_d``."""

_CYCLE = 0.32  # ns
_CALL = 300.0  # of np.matmul, per block
_START = 8000.0  # of any product through a kernel
_BYTE = 0.08  # ns per byte to or from memory
_UNROLLED = (2, 4, 8)


@dataclass(frozen=True)
class Setting:
    """What a product is computed with.

    Attributes
    ----------
    batch : int
        Columns of the operand.
    real_bytes : int
        Bytes of a real number of the working precision.
    complex_values, complex_operand : bool
        Whether the factors, and the operand, are complex.
    """

    batch: int
    real_bytes: int
    complex_values: bool
    complex_operand: bool

    @property
    def columns(self) -> int:
        """Columns as the kernels see them: a real chain takes a complex column as two."""
        return self.batch * (2 if self.complex_operand and not self.complex_values else 1)

    @property
    def planes(self) -> int:
        """Real numbers per number of a factor."""
        return 2 if self.complex_values else 1

    @property
    def lines(self) -> int:
        """Lines of columns."""
        return -(-self.columns * self.real_bytes // 64)

    @property
    def value_bytes(self) -> int:
        """Bytes of one value of a factor."""
        return self.real_bytes * self.planes

    @property
    def item_bytes(self) -> int:
        """Bytes of one entry of the operand."""
        return self.real_bytes * (2 if self.complex_operand else 1)

    def flops(self, entries: int) -> int:
        """Return the real operations of a product with so many entries."""
        per = 8 if self.complex_values else 4 if self.complex_operand else 2
        return per * entries * self.batch

    def tile(self, block: Block) -> float:
        """Return the cost of a Kronecker-sparse factor on tiles of columns."""
        a, b, c, d = block
        work = b * c * self.planes**2
        unrolled = b in _UNROLLED and c in _UNROLLED
        overhead = 4 + (b + c) * self.planes / 2 if unrolled else 12 + 3 * b + 0.3 * work
        # every tile of four lines streams the values again
        values = a * b * c * d * self.value_bytes * 0.02 * -(-self.lines // 4)
        return a * d * self.lines * (work + overhead) * _CYCLE + values

    def vector(self, block: Block) -> float:
        """Return the cost of a Kronecker-sparse factor on one vector after the other."""
        a, b, c, d = block
        line = 64 // self.real_bytes
        lanes = next((n for n in (line, 4) if d % n == 0 or (d == 1 and b % n == 0)), 1)
        steps = a * b * d / lanes
        each = (1.2 if (b, c) in ((2, 2), (4, 4)) and d > 1 else 2.5) + c * self.planes**2 * lanes / line * 0.5
        return self.columns * (steps * max(each, 1.0) + a * b * c * d * self.value_bytes * 0.03)

    def matmul(self, block: Block) -> float:
        """Return the cost of a Kronecker-sparse factor as a batch of BLAS products on views."""
        a, b, c, d = block
        if self.columns <= 2:
            # one matrix-vector product is bound by the reading of the values, many small ones by the calls
            calls = 2000.0 if a * d == 1 else 8000.0 + 2 * _CALL * a * d
            return self.columns * (calls + size_of(block) * self.value_bytes * 0.025)
        share = 1 / (1 + 16 / b + 16 / c + 16 / self.columns)
        multiply = a * d * self.lines * b * c * self.planes**2 * _CYCLE / share
        moved = (a * b * d + a * c * d) * self.batch * self.item_bytes * _BYTE * (2 if d > 1 else 1)
        return a * d * _CALL + multiply + size_of(block) * self.value_bytes * 0.01 + moved + 2000

    def sparse(self, nnz: int, rows: int, *, vectors: bool) -> float:
        """Return the cost of a CSR factor."""
        if vectors:
            return 6000 + self.columns * (nnz * 0.4 * (1.6 if self.planes > 1 else 1.0) + rows * 2.0)
        return nnz * (0.4 + self.lines * self.planes * (1.5 if self.planes > 1 else 1.0)) + rows * self.lines * 2.0

    def ends(self, rows: int, columns: int, *, vectors: bool) -> float:
        """Return the cost of reading the operand and writing the result of a chain."""
        if vectors:
            return _START + self.columns * (rows + columns) * 0.5
        return _START + (rows + columns) * self.lines * self.planes * 2.0


def merged_block(blocks: Sequence[Block]) -> Block:
    """Return the support of the product of some factors, left to right: blocks on common sets of rows."""
    a, d = math.gcd(*(block[0] for block in blocks)), math.gcd(*(block[3] for block in blocks))
    high, wide = blocks[0][0] * blocks[0][1] * blocks[0][3], blocks[-1][0] * blocks[-1][2] * blocks[-1][3]
    return (a, high // (a * d), wide // (a * d), d) if a * d else blocks[0]


def size_of(block: Block) -> int:
    """Return how many entries a support has."""
    return math.prod(block)


def best_groups(
    blocks: Sequence[Block], cost: Callable[[Block], float], value_bytes: int
) -> tuple[float, list[tuple[int, int]]]:
    """Return the cheapest way to merge neighbours, and its cost.

    Parameters
    ----------
    blocks : sequence of (a, b, c, d)
        Left to right.
    cost : callable
        Of one factor.
    value_bytes : int
        Of one entry: what is merged may hold `GROWTH` times the entries of its parts, or `SMALL_BYTES`.

    Returns
    -------
    cost : float
    groups : list of (first, stop)
        Ranges of `blocks`, left to right.
    """
    best: list[tuple[float, int]] = [(0.0, 0)]
    for stop in range(1, len(blocks) + 1):
        found = (math.inf, stop - 1)
        parts = 0
        for first in range(stop - 1, -1, -1):
            parts += size_of(blocks[first])
            merged = merged_block(blocks[first:stop])
            size = size_of(merged)
            if stop - first > 1 and size > GROWTH * parts and size * value_bytes > SMALL_BYTES:
                continue
            # at equal cost fewer merges
            found = min(found, (best[first][0] + cost(merged), first), key=lambda pair: (pair[0], -pair[1]))
        best.append(found)
    groups = []
    stop = len(blocks)
    while stop:
        first = best[stop][1]
        groups.append((first, stop))
        stop = first
    return best[-1][0], groups[::-1]
