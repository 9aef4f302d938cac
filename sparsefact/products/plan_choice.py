"""How a plan is chosen: by a cost model, from the ways that the structure of the factors allows, touching no value.

Neighbouring Kronecker-sparse factors merge into blocks on common sets of rows, for which chainable factors lose nothing
(L. Zheng, E. Riccietti, R. Gribonval: Efficient identification of butterfly sparse matrix factorizations, 2023). What
remains is ranked by `sparsefact.products.plan_cost`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.registry import device_of, get_backend
from sparsefact.errors import ArgumentError
from sparsefact.products import factors as _factors
from sparsefact.products.factors import Factor, KroneckerFactor
from sparsefact.products.plan import Direction, Group, Item, Kernel, Plan
from sparsefact.products.plan_cost import GROWTH, SMALL_BYTES, Block, Setting, best_groups, merged_block, size_of
from sparsefact.products.plan_cost_gpu import GpuSetting

__all__ = ["Plans", "choose"]

# Multiply-adds below which NumPy's and SciPy's own calls, factor by factor, cost less than choosing anything.
_PLAIN = 2048
# Plans kept per product; the one not used for longest is dropped.
_KEPT = 8


class Plans:
    """The plans of a list of factors, chosen when first asked for; shared by a product, its transpose and conjugate."""

    def __init__(self, factors: tuple[Factor, ...]) -> None:
        self._factors = factors
        self._lock = threading.Lock()
        self._plans: OrderedDict[tuple[Any, ...], Plan] = OrderedDict()
        # the same plans by what is asked for exactly: found without the lock and without arithmetic
        self._recent: dict[tuple[Any, ...], Plan] = {}
        self._nnz = sum(_factors.factor_nnz(f) for f in factors)

    def get(self, batch: int, dtype: np.dtype[Any], direction: Direction) -> Plan:
        """Return the plan for a batch like this one.

        Parameters
        ----------
        batch : int
            Columns of the operand; sizes within a factor of two share a plan, one and two columns have their own.
        dtype : numpy.dtype
            Of the operand: the common type of the factors and what they multiply.
        direction : Direction
        """
        asked = batch, dtype.char, direction.transposed, direction.conjugated
        found = self._recent.get(asked)
        if found is not None:
            return found
        if batch < 0:
            raise ArgumentError(f"batch is {batch}; the number of columns of an operand is at least zero")
        bucket = batch if batch <= 2 else 1 << (batch - 1).bit_length()
        small = self._nnz * batch < _PLAIN
        key = (bucket, dtype.char, direction.transposed, direction.conjugated, small)
        with self._lock:
            plan = self._plans.get(key)
            if plan is None:
                plan = self._plans[key] = choose(self._factors, batch, dtype, direction, small=small)
                if len(self._plans) > _KEPT:
                    self._plans.popitem(last=False)
                    self._recent = {}
            else:
                self._plans.move_to_end(key)
            if len(self._recent) >= _KEPT:
                self._recent = {}
            self._recent[asked] = plan
        return plan


def choose(
    factors: Sequence[Factor], batch: int, dtype: np.dtype[Any], direction: Direction, *, small: bool = False
) -> Plan:
    """Return the plan that the cost model prefers.

    Parameters
    ----------
    factors : sequence of factors
        Of the product that `direction` is a direction of.
    batch, dtype, direction : as for `Plans.get`
    small : bool
        Whether the product is too small for anything but the plain calls.
    """
    own = factors[0].dtype
    # a real chain takes complex operands as they are
    values = dtype if own.kind == "c" else np.empty(0, dtype).real.dtype
    real_bytes = np.empty(0, dtype).real.dtype.itemsize
    device = device_of(_factors.stored_values(factors[0]))
    kind = Setting if device == "cpu" else GpuSetting
    setting = kind(max(batch, 1), real_bytes, values.kind == "c", dtype.kind == "c")
    ordered = list(enumerate(factors))
    if direction.transposed:
        ordered.reverse()
    items = [_item(j, factor, direction.transposed) for j, factor in ordered]
    common: dict[str, Any] = {
        "setting": setting,
        "dtype": dtype,
        "values": values,
        "direction": direction,
        "device": device,
    }
    whole = items[0].shape[0], items[-1].shape[1]
    if (small and device == "cpu") or 0 in whole or any(0 in item.shape for item in items):
        return Plan([_group([item]) for item in items], "plain", 0.0, **common)
    total = sum(item.nnz * (values.itemsize + (4 if item.kind == "CSR" else 0)) for item in items)
    found = _recognised(items)
    candidates: list[tuple[float, Kernel, list[Group]]] = []
    if not any(item.kind == "dense" for item in items):
        kernels: tuple[Kernel, ...] = ("tile", "vector") if setting.columns <= 4 and device == "cpu" else ("tile",)
        for kernel in kernels:
            vectors = kernel == "vector"
            groups, cost = _grouped(found, setting, setting.vector if vectors else setting.tile, vectors)
            cost += setting.ends(*whole, vectors=vectors)
            candidates.append((cost, kernel, groups))
    groups, cost = _grouped(found, setting, setting.matmul, False)
    candidates.append((cost, "matmul", groups))
    size = whole[0] * whole[1]
    if len(items) > 1 and size * values.itemsize <= max(GROWTH * total, SMALL_BYTES):
        every = Group(0, len(items), "dense", whole, None, size, tuple(items))
        candidates.append((setting.matmul((1, *whole, 1)), "dense", [every]))
    cost, kernel, groups = _cheapest(candidates)
    return Plan(groups, kernel, cost / 1e9, **common)


def _cheapest(candidates: Sequence[tuple[float, Kernel, list[Group]]]) -> tuple[float, Kernel, list[Group]]:
    return min(candidates, key=lambda candidate: candidate[0])


def _item(index: int, factor: Factor, transposed: bool) -> Item:
    shape = (int(factor.shape[0]), int(factor.shape[1]))
    shape = shape[::-1] if transposed else shape
    nnz = _factors.factor_nnz(factor)
    if isinstance(factor, KroneckerFactor):
        a, b, c, d = factor.values.shape
        return Item(index, "Kronecker", shape, nnz, factor, transposed, (a, c, b, d) if transposed else (a, b, c, d))
    return Item(index, "dense" if _factors.is_dense(factor) else "CSR", shape, nnz, factor, transposed)


def _recognised(items: Sequence[Item]) -> list[Item]:
    """Return the items with selections of rows and scalings told from other CSR factors."""
    found: list[Item] = []
    for j, item in enumerate(items):
        rows = _one_per_row(item) if item.kind == "CSR" else None
        if rows is None:
            found.append(item)
            continue
        diagonal = item.shape[0] == item.shape[1] and bool((rows == np.arange(len(rows))).all())
        ones = bool((_factors.stored_values(item.factor) == 1).all())
        block = _fitting_diagonal(items, j)
        if diagonal and block is not None:
            found.append(Item(item.index, "Kronecker", item.shape, item.nnz, item.factor, item.transposed, block))
        elif j == len(items) - 1 and j > 0 and ones:
            found.append(Item(item.index, "rows", item.shape, item.nnz, item.factor, item.transposed))
        else:
            found.append(item)
    return found


def _one_per_row(item: Item) -> NDArray[Any] | None:
    """Return the column of the single entry of each row, or None where a row has not exactly one."""
    rows, columns = item.shape
    factor = cast("Any", item.factor)
    # the transpose of a matrix with one entry per column has one per row, and then its order is that of the columns
    if item.nnz != rows or (item.transposed and rows != columns):
        return None
    take = get_backend(factor.data).to_host
    if not bool((np.diff(take(factor.indptr)) == 1).all()):
        return None
    indices = take(factor.indices)
    if not item.transposed:
        return indices
    back = np.full(rows, -1, dtype=np.int64)
    back[indices] = np.arange(rows)
    return back if bool((back >= 0).all()) else None


def _fitting_diagonal(items: Sequence[Item], j: int) -> Block | None:
    """Return a diagonal matrix as a Kronecker support that merges with a neighbour without growing it."""
    for k in (j - 1, j + 1):
        if 0 <= k < len(items) and items[k].kind == "Kronecker":
            a, b, c, d = cast("Block", items[k].block)
            return (a * c, 1, 1, d) if k < j else (a * b, 1, 1, d)
    return None


def _group(items: Sequence[Item]) -> Group:
    first, last = items[0], items[-1]
    indices = [item.index for item in items]
    shape = first.shape[0], last.shape[1]
    block = first.block
    if len(items) > 1:
        block = merged_block([cast("Block", item.block) for item in items])
    nnz = size_of(block) if block is not None else first.nnz
    return Group(min(indices), max(indices) + 1, first.kind, shape, block, nnz, tuple(items))


def _grouped(items: Sequence[Item], setting: Setting, cost: Any, vectors: bool) -> tuple[list[Group], float]:
    """Return the groups of the cheapest merging under a cost per Kronecker factor, and their cost."""
    groups: list[Group] = []
    total = 0.0
    start = 0
    while start < len(items):
        stop = start
        while stop < len(items) and items[stop].kind == "Kronecker":
            stop += 1
        if stop > start:
            blocks = [cast("Block", item.block) for item in items[start:stop]]
            best, ranges = best_groups(blocks, cost, setting.value_bytes)
            total += best
            groups += [_group(items[start + i : start + k]) for i, k in ranges]
            start = stop
            continue
        item = items[start]
        groups.append(_group([item]))
        if item.kind == "dense":
            total += setting.matmul((1, *item.shape, 1))
        elif item.kind == "CSR":
            plain = cost == setting.matmul
            total += setting.sparse(item.nnz, item.shape[0], vectors=vectors) * (3.0 if plain else 1.0)
        start += 1
    return groups, total
