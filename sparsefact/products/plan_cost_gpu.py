"""What a product costs on a GPU: a model in nanoseconds from the rates of a large one, to rank ways of computing it.

Each way is bound by the slowest of what it asks for: arithmetic, global memory, shared memory, the cache from which
values come again for every tile of columns. The rates are rounded ones of an H200; no product was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparsefact.products.plan_cost import Block, Setting, size_of

__all__ = ["GpuSetting"]

_FLOPS = {4: 60e3, 8: 30e3}  # real operations per ns, by bytes of a real number
_MEMORY, _CACHE, _SHARED = 4.3e3, 7e3, 2e4  # bytes per ns
_LAUNCH, _BARRIER = 4000.0, 300.0  # ns
_OWN = 0.5  # share of the arithmetic that the package's kernels for large blocks reach, where cuBLAS reaches all
_ROOM = 227 << 10  # bytes of shared memory
_LARGE = 32


@dataclass(frozen=True)
class GpuSetting(Setting):
    """What a product is computed with on a GPU; costs as for `Setting`, estimated for a large one."""

    def tile(self, block: Block) -> float:
        """Return the cost of a Kronecker-sparse factor in a chain."""
        a, b, c, d = block
        arithmetic = self.flops(size_of(block)) / _FLOPS[self.real_bytes]
        moved = a * d * (b + c) * self.batch * self.item_bytes
        values = size_of(block) * self.value_bytes
        if min(b, c) >= _LARGE:
            return _LAUNCH + max(arithmetic / _OWN, (moved + values) / _MEMORY)
        # bytes of a tile's rows; a chain too tall for 32 of them is cut into passes over fewer rows
        line = _ROOM // max(1, a * max(b, c) * d)
        line = 128 if line < 32 else min(128, line)
        tiles = -(-self.batch * self.item_bytes // line)
        in_place = b == c and b in (2, 4, 8)
        shared = moved if in_place else a * d * (b + c * -(-b // 4)) * self.batch * self.item_bytes
        return _BARRIER + max(arithmetic, shared / _SHARED, values * tiles / _CACHE)

    def vector(self, block: Block) -> float:
        """Return the cost of a Kronecker-sparse factor in a chain: vectors have no way of their own."""
        return self.tile(block)

    def matmul(self, block: Block) -> float:
        """Return the cost of a Kronecker-sparse factor as a batch of cuBLAS products."""
        a, b, c, d = block
        arithmetic = self.flops(size_of(block)) / _FLOPS[self.real_bytes]
        # rows that lie d apart are copied together before and apart after
        moved = a * d * (b + c) * self.batch * self.item_bytes * (3 if d > 1 else 1)
        return _LAUNCH * (3 if d > 1 else 1) + max(arithmetic, (moved + size_of(block) * self.value_bytes) / _MEMORY)

    def sparse(self, nnz: int, rows: int, *, vectors: bool) -> float:
        """Return the cost of a CSR factor: its columns come from the cache."""
        read = nnz * (self.value_bytes + 4 + self.batch * self.item_bytes)
        return _LAUNCH + read / _CACHE + 2 * rows * self.batch * self.item_bytes / _MEMORY

    def ends(self, rows: int, columns: int, *, vectors: bool) -> float:
        """Return the cost of reading the operand and writing the result, once per pass."""
        passes = 1 if max(rows, columns) * 32 <= _ROOM else 2
        return passes * (_LAUNCH + (rows + columns) * self.batch * self.item_bytes / _MEMORY)
