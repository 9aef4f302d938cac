"""The plan of a product: which factors are merged, and which kernel multiplies them.

A plan belongs to one size of batch, one type of operand and one direction. `sparsefact.products.plan_choice` chooses
it; merged values are computed on the first product and kept.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.registry import get_backend, rounds_to_tf32
from sparsefact.products import factors as _factors
from sparsefact.products.factors import Factor, KroneckerFactor
from sparsefact.products.merge import merged_values
from sparsefact.products.plan_cost import Block, Setting

__all__ = ["Direction", "Group", "Item", "Kernel", "Plan"]

Kernel: TypeAlias = Literal["plain", "vector", "tile", "matmul", "dense"]

_SAID = {
    "plain": "factor by factor with NumPy and SciPy",
    "vector": "all factors on one vector after the other, neighbouring rows side by side",
    "tile": "all factors on a tile of columns that stays in cache",
    "matmul": "batched BLAS products on views, factor by factor",
    "dense": "one BLAS product with the dense matrix",
}
_SAID_ON_GPU = {
    "plain": "factor by factor",
    "tile": "as many factors in one pass over memory as a tile of columns in shared memory allows",
    "matmul": "batched cuBLAS products on views, factor by factor",
    "dense": "one cuBLAS product with the dense matrix",
}


@dataclass(frozen=True)
class Direction:
    """Which of F, its transpose, its conjugate and its adjoint multiplies."""

    transposed: bool = False
    conjugated: bool = False

    @property
    def name(self) -> str:
        """The word for it."""
        if self.transposed:
            return "adjoint" if self.conjugated else "transposed"
        return "conjugate" if self.conjugated else "forward"

    def then(self, transposed: bool, conjugated: bool) -> Direction:
        """Return the direction of the transpose or conjugate of what this is a direction of."""
        return Direction(self.transposed != transposed, self.conjugated != conjugated)


@dataclass(frozen=True, eq=False)
class Item:
    """A factor as the plan sees it, already in the plan's direction.

    `kind` is ``"Kronecker"``, ``"CSR"``, ``"dense"`` or ``"rows"``; a Kronecker item has a `block`, the (a, b, c, d) of
    its support.
    """

    index: int
    kind: str
    shape: tuple[int, int]
    nnz: int
    factor: Factor
    transposed: bool
    block: Block | None = None

    def values(self) -> NDArray[Any]:
        """Return the values on `block`, as a four-way array."""
        if isinstance(self.factor, KroneckerFactor):
            return self.factor.values.transpose(0, 2, 1, 3) if self.transposed else self.factor.values
        return _factors.stored_values(self.factor).reshape(cast("Block", self.block))

    def matrix(self) -> Factor:
        """Return the factor in the plan's direction."""
        return _factors.transposed(self.factor) if self.transposed else self.factor


@dataclass(frozen=True, eq=False)
class Group:
    """Neighbouring factors that are multiplied as one.

    Attributes
    ----------
    first, stop : int
        The range of the factors, counted from 0 in the product's own order.
    kind : str
        ``"Kronecker"``, ``"CSR"``, ``"dense"`` or ``"rows"`` (a selection of rows, done while reading).
    shape : (int, int)
    block : (a, b, c, d) or None
        The support of a Kronecker group, ``I_a (x) 1_{b x c} (x) I_d``.
    nnz : int
        Entries that are multiplied.
    """

    first: int
    stop: int
    kind: str
    shape: tuple[int, int]
    block: Block | None
    nnz: int
    items: tuple[Item, ...]


class Plan:
    """How a product is computed for one batch size, type and direction.

    `Factorization.plan` returns it. It is a value: right for every operand of its type, chosen for one size of batch,
    and safe to use from several threads.

    Attributes
    ----------
    shape : (int, int)
        Of what multiplies, in the direction of the plan.
    batch : int
        Columns of the operand that the plan was chosen for.
    dtype : numpy.dtype
        Of the operand and of the result.
    direction : str
        ``"forward"``, ``"transposed"``, ``"adjoint"`` or ``"conjugate"``.
    kernel : str
        ``"plain"``, ``"vector"``, ``"tile"``, ``"matmul"`` or ``"dense"``.
    device : str
        Where the factors are and operands must be, ``"cpu"`` or ``"cuda:0"``.
    groups : tuple of Group
        Left to right.
    flops : int
        Real additions and multiplications of one product.
    bytes : int
        Predicted traffic with memory: operand and result, the values, and intermediate products that leave the cache.
    stored_bytes : int
        Of the groups' values and indices; merging keeps them under twice those it replaces, or 64 KiB.
    seconds : float
        What the model predicts on one core; on a GPU what the rates of a large one would allow, which nobody measured.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> F = sf.Factorization([sf.KroneckerFactor(np.ones((2**k, 2, 2, 2 ** (7 - k)))) for k in range(8)])
    >>> F.plan(batch=64)
    Plan(forward 256x256 @ (256, 64) float64: tile, 4 groups)
    """

    def __init__(
        self,
        groups: Sequence[Group],
        kernel: Kernel,
        seconds: float,
        *,
        setting: Setting,
        dtype: np.dtype[Any],
        values: np.dtype[Any],
        direction: Direction,
        device: str = "cpu",
    ) -> None:
        self.device = device
        self.shape = groups[0].shape[0], groups[-1].shape[1]
        self.batch, self.dtype, self.direction = setting.batch, dtype, direction.name
        self.kernel, self.groups, self.seconds = kernel, tuple(groups), seconds
        self._values, self._conjugated = values, direction.conjugated
        self._lock = threading.Lock()
        self._ready: Any = None
        self.flops = setting.flops(sum(group.nnz for group in groups if group.kind != "rows"))
        self.stored_bytes = sum(_stored(group, values) for group in groups)
        ends = (self.shape[0] + self.shape[1]) * setting.batch * dtype.itemsize
        between = sum(group.shape[0] for group in groups[1:]) * setting.batch * dtype.itemsize
        self.bytes = ends + self.stored_bytes + (2 * between if kernel in ("plain", "matmul") else 0)

    def explain(self) -> str:
        """Return a few lines: the kernel, the groups, the predicted operations and bytes."""
        m, n = self.shape
        said = (_SAID if self.device == "cpu" else _SAID_ON_GPU)[self.kernel]
        lines = [f"{self.direction} product, {m}x{n} @ ({n}, {self.batch}) {self.dtype}{self._where()}: {said}"]
        for group in self.groups:
            several = group.stop - group.first > 1
            span = f"factors {group.first + 1} to {group.stop}, merged" if several else f"factor {group.first + 1}"
            support = "" if group.block is None else " (a, b, c, d) = " + str(group.block)
            lines.append(f"  {span}: {group.shape[0]}x{group.shape[1]} {group.kind}{support}, {group.nnz} entries")
        if self._by_tf32():
            lines.append("  cuBLAS rounds the operands of these products to TF32, since CUPY_TF32 is set")
        floor = (m + n) * self.batch * self.dtype.itemsize
        lines.append(
            f"  predicted: {self.flops} flops, {self.bytes} bytes ({floor} of them operand and result), "
            f"{self.stored_bytes} bytes of values, {1e6 * self.seconds:.0f} us "
            + ("on one core" if self.device == "cpu" else "if the GPU reaches the rates of an H200")
        )
        return "\n".join(lines)

    def __repr__(self) -> str:
        m, n = self.shape
        groups = f"{len(self.groups)} group{'' if len(self.groups) == 1 else 's'}"
        return (
            f"Plan({self.direction} {m}x{n} @ ({n}, {self.batch}) {self.dtype}{self._where()}: {self.kernel}, {groups})"
        )

    def _where(self) -> str:
        return "" if self.device == "cpu" else f" on {self.device}"

    def _by_tf32(self) -> bool:
        return self.kernel in ("matmul", "dense") and rounds_to_tf32(self.device, self.dtype)

    def apply(self, x: NDArray[Any], *, rows_first: bool = False) -> NDArray[Any]:
        """Return the product with an ``(n, B)`` array of type `dtype`, as a new ``(m, B)`` array.

        Parameters
        ----------
        x : (n, B) array
            In any memory layout, where the factors are.
        rows_first : bool
            Whether the result lies in memory column by column, so that its transpose is C-contiguous.
        """
        if type(x) is not np.ndarray or self.device != "cpu":
            _factors.check_together(_factors.stored_values(self.groups[0].items[0].factor), x)
        ready = self._ready
        if ready is None:
            with self._lock:
                if self._ready is None:
                    self._ready = self._prepare()
                ready = self._ready
        if self.kernel in ("vector", "tile"):
            product: NDArray[Any] = ready.apply(x, rows_first=rows_first)
            return product
        if self.kernel == "plain":
            # a conjugate of the factors would be formed again and again: of a small operand it is nothing
            x = x.conj() if self._conjugated else x
            for item in ready:
                multiply = _factors.multiply_transposed if item.transposed else _factors.multiply
                x = multiply(item.factor, x)
            x = x.conj() if self._conjugated else x
        else:
            for part in ready:
                x = x[part] if getattr(part, "ndim", 2) == 1 else part @ x
        xp = np if self.device == "cpu" else get_backend(x).xp
        product = xp.asfortranarray(x) if rows_first else xp.ascontiguousarray(x)
        return product

    def _prepare(self) -> Any:
        if self.kernel == "plain":
            return [group.items[0] for group in reversed(self.groups)]
        backend = get_backend(_factors.stored_values(self.groups[0].items[0].factor))
        parts: list[Any] = []
        rows = None
        for group in self.groups:
            if group.kind == "rows":
                rows = cast("Any", group.items[0].matrix()).indices
                continue
            if group.kind == "Kronecker":
                part: Any = merged_values([item.values() for item in group.items], self._values)
            elif self.kernel == "dense":
                part = _product([item.matrix() for item in group.items], self._values)
            else:
                part = _cast(group.items[0].matrix(), self._values)
            parts.append(_factors.conjugated(part) if self._conjugated else part)
        if self.kernel in ("vector", "tile"):
            return backend.prepare_chain(parts, self._values, vectors=self.kernel == "vector", rows=rows)
        found = [KroneckerFactor(part) if getattr(part, "ndim", 0) == 4 else part for part in reversed(parts)]
        return found if rows is None else [backend.asarray(rows), *found]


def _cast(factor: Factor, dtype: np.dtype[Any]) -> Factor:
    return factor if factor.dtype == dtype else factor.astype(dtype)


def _stored(group: Group, values: np.dtype[Any]) -> int:
    if group.kind == "rows":
        return 4 * group.nnz
    return group.nnz * (values.itemsize + (4 if group.kind == "CSR" else 0))


def _product(found: Sequence[Factor], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the dense product of some factors, formed in double precision."""
    wide = np.result_type(dtype, np.float64)
    product = _factors.dense_factor(found[-1]).astype(wide)
    for factor in reversed(found[:-1]):
        product = _factors.multiply(factor, product)
    return product.astype(dtype)
