"""From NumPy arrays to the kernels of the sweep: where the numbers lie, how large a panel is, who runs which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.cpu.sweep_kernels import LANES, sweep_low, sweep_pairs
from sparsefact.backends.cpu.threads import over_ranges

__all__ = ["CHUNK", "Level", "lies_across", "memory_of", "run_panels"]

Level: TypeAlias = tuple[int, int, int, int]
"""One level of a sweep: rows of a block, intervals, vectors kept, residues."""

CHUNK = 64
"""How many neighbouring rows are loaded together where they are closer in memory than columns."""

# Below this share of the largest eigenvalue of B B^H an eigenvector has lost too many digits.
_RESOLVED = 1e-2


def lies_across(x: NDArray[Any]) -> bool:
    """Return whether the entries of a column, down the last axis but one, are closer in memory than those of a row."""
    return min(x.shape[-2:]) > 1 and abs(x.strides[-2]) < abs(x.strides[-1])


def run_panels(
    stack: NDArray[Any],
    levels: Sequence[Level],
    lefts: NDArray[Any],
    starts: NDArray[np.int64],
    rest: NDArray[Any],
    units: NDArray[Any] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Run levels of low blocks over all panels of a stack.

    Parameters
    ----------
    stack : (k, rows, d, w) array
        The rows ``i * d + l`` of each entry at ``[:, i, l]``, for d of the last level.
    levels : sequence of (b, p, r, d)
        The d of each divides the one before.
    lefts : (n,) array
        Takes the bases of the levels, which begin at `starts`.
    rest : (k', r * d, w') array
        Takes what is left after the last level.
    units : (k * d, 1 + r) real array, optional
        With one level of one interval, asks for the SVD of every block: takes a power of two that the block is divided
        by first, and the singular values; `rest` then takes the right singular vectors.

    Returns
    -------
    missed : (tasks, len(levels)) array
        What each task leaves out at each level, squared; the tasks do not depend on the number of threads.
    energy : (tasks,) array
        The squared norm of what each task read.
    """
    real = np.empty(0, stack.dtype).real.dtype
    # complex numbers have a second plane
    twin = 1 if stack.dtype.kind == "c" else None
    memory, offset, strides = memory_of(stack, real)
    entries, _, apart, width = stack.shape
    pairs = units is None and all(level[0] == 2 and level[2] == 1 for level in levels)
    across = min(stack.shape[2:]) > 1 and abs(stack.strides[2]) < abs(stack.strides[3])
    chunk = CHUNK if across else 1
    if not pairs:
        # enough blocks at the first level for all lanes
        chunk = max(chunk, -(-LANES * apart // levels[0][3]))
    chunk = min(chunk, apart)
    place = np.array([offset, *strides, width, lies_across(stack[:, :, 0]) or across], dtype=np.int64)
    still = 2e-6 if real == np.float32 else 1e-13
    limits = np.array([np.finfo(real).tiny, still, _RESOLVED, np.finfo(real).eps], dtype=real)
    tasks = entries * levels[0][1] * -(-apart // chunk)
    missed, energy = np.zeros((tasks, len(levels))), np.zeros(tasks)
    table = np.array(levels, dtype=np.int64)
    scales = np.empty((0, 1), real) if units is None else units
    left, right = lefts.view(real), rest.reshape(-1).view(real)
    kernel = sweep_pairs if pairs else sweep_low

    def work(start: int, stop: int) -> None:
        kernel(memory, place, table, twin, chunk, limits, scales, left, starts, right, missed, energy, start, stop)

    if stack.size:
        over_ranges(work, tasks, grain=1 + (1 << 15) // (1 + stack.size // tasks))
    return missed, energy


class _Reach:
    """The memory between the first and the last entry of an array, as one row of numbers.

    It is only read, and announced as writable so that read-only input needs no kernel of its own.
    """

    def __init__(self, owner: NDArray[Any], address: int, length: int, kind: np.dtype[Any]) -> None:
        self.owner = owner
        self.__array_interface__ = {"version": 3, "shape": (length,), "typestr": kind.str, "data": (address, False)}


def memory_of(x: NDArray[Any], kind: np.dtype[Any]) -> tuple[NDArray[Any], int, tuple[int, ...]]:
    """Return an array's memory as numbers of a kind, the place of its first entry there and its strides.

    The kind is the array's own type or the real one of its precision.
    """
    unit = kind.itemsize
    if not x.flags.aligned or any(stride % unit for stride in x.strides):
        x = np.ascontiguousarray(x)
    if not x.size:
        return np.empty(0, kind), 0, (0,) * x.ndim
    reach = [(n - 1) * stride for n, stride in zip(x.shape, x.strides, strict=True)]
    before = -sum(step for step in reach if step < 0)
    length = (before + sum(step for step in reach if step > 0) + x.itemsize) // unit
    address = x.__array_interface__["data"][0] - before
    return np.asarray(_Reach(x, address, length, kind)), before // unit, tuple(stride // unit for stride in x.strides)
