"""The pass from left to right over a matrix that does not fit in memory: panels of rows, several splits at once.

Split s sees the rows of one residue mod d_s, and d_t divides d_s for t > s. So the rows of one residue mod d_t are a
problem of their own for all of the first t splits: they are read once, go through all these splits, and leave
r_t rows of the next, much smaller matrix (a 2^t-th of the size for a dyadic butterfly). What is left after the
last panel fits in memory, where the other splits follow.

Symbols: see `sparsefact.factorizers.split_pass`; t fused splits, rho residue mod d_t, h rows of it in each part of a
block-diagonal product.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.analysis.split_blocks import energy_outside, squares
from sparsefact.backends.protocol import Backend
from sparsefact.constraints.chain import Chain
from sparsefact.constraints.kronecker_values import values_on
from sparsefact.errors import ArgumentError
from sparsefact.factorizers.split_pass import Pass, split_in_order, sweep_levels
from sparsefact.products.sources import Source

__all__ = ["plan", "split_panels"]

# Splits that a panel goes through at least, if there are as many.
_FUSED = 3
# How often what is left, and a panel, are in memory at once, with all that the sweep makes of them.
_COPIES_OF_REST, _COPIES_OF_PANEL = 2, 3
_DEFAULT_MEMORY = 1 << 30


def plan(chain: Chain, itemsize: int, memory: int | None = None) -> tuple[int, int]:
    """Return how many splits a panel goes through, and how many residues it holds.

    Parameters
    ----------
    chain : Chain
        Chainable, with at least one split.
    itemsize : int
        Bytes of an entry.
    memory : int, optional
        Bytes for the panel and for what is left of the matrix; a quarter of the matrix, at most 1 GiB, unless given.

    Raises
    ------
    ArgumentError
        If nothing fits the memory that was given.
    """
    m, n = chain.shape
    splits = len(chain) - 1
    budget = min(m * n * itemsize // 4, _DEFAULT_MEMORY) if memory is None else memory
    needed = {}
    for fused in range(min(_FUSED, splits), splits + 1):
        apart, rank = chain[fused - 1].d, chain.ranks[fused - 1]
        rest = _COPIES_OF_REST * rank * apart * (n // chain[-1].d) * itemsize
        panel = _COPIES_OF_PANEL * (m // apart) * n * itemsize
        if rest + panel <= budget:
            return fused, min(apart, (budget - rest) // panel)
        needed[fused] = rest + panel
    least = min(needed, key=lambda fused: needed[fused])
    if memory is not None:
        raise ArgumentError(
            f"memory={memory} bytes are too few for panels of this chain and what is left of the matrix after them; "
            f"pass at least {needed[least]}"
        )
    return least, 1


def split_panels(
    backend: Backend,
    source: Source,
    chain: Chain,
    memory: int | None = None,
    scale: NDArray[Any] | float = 1.0,
) -> tuple[Pass, float]:
    """Return the factors of a chain, split from left to right, and the squared norm of what lies off its support.

    Parameters
    ----------
    backend : Backend
    source : Source
        Every entry is read once.
    chain : Chain
        Chainable, without redundant pairs. One factor alone is the matrix, which is then read as a whole.
    memory : int, optional
        As for `plan`.
    scale : float or (n,) array
        What entries are multiplied with, or the entries of each column.

    Returns
    -------
    Pass, float
        The norm is infinite, and there are no values, when squares of entries overflow.

    Raises
    ------
    NonFiniteError
        If a panel holds NaN or infinity; the sentence names its rows.
    """
    whole = chain.partial(1, len(chain))
    if len(chain) == 1:
        matrix = source.block(np.arange(source.shape[0])) * np.asarray(scale, dtype=source.dtype.type(0).real.dtype)
        found = split_in_order(backend, backend.asarray(values_on(matrix, whole)), chain, ())
        return found, energy_outside(np, matrix, whole)
    fused, count = plan(chain, source.dtype.itemsize, memory)
    apart, rank, after = chain[fused - 1].d, chain.ranks[fused - 1], chain[fused]
    levels = sweep_levels(chain, range(1, fused + 1), whole.b * whole.d // apart, whole.a, apart)
    factors = [np.empty((k.a, k.b, k.c, k.d), dtype=source.dtype) for k in chain.factors[:fused]]
    width = whole.a * whole.c // after.a
    rest = np.empty((after.a, rank, apart, width), dtype=source.dtype)
    missed: list[list[float]] = []
    energies: list[float] = []
    outside: list[float] = []
    for start in range(0, apart, count):
        stop = min(apart, start + count)
        panel = source.residue_rows(apart, start, stop)
        if not (isinstance(scale, float) and scale == 1.0):
            panel = panel * np.asarray(scale, dtype=source.dtype.type(0).real.dtype)
        stack, off = _on_support(panel, whole, start, stop)
        # panels come from the host and what is left of them goes back to it: a GPU holds one at a time
        lefts, left_over, lost, total = backend.sweep(backend.asarray(stack), levels)
        left_over = backend.to_host(left_over)
        *lost, energy = backend.to_host(backend.xp.concatenate([lost, total.reshape(1)])).tolist()
        if not math.isfinite(energy) or not math.isfinite(off):
            source.check_rows(panel, apart, start, stop)
            return Pass([], (), math.inf), 0.0
        for values, left in zip(factors, map(backend.to_host, lefts), strict=True):
            a, b, c, d = values.shape
            values.reshape(a, b, c, d // apart, apart)[..., start:stop] = left.reshape(
                stop - start, a, b, c, d // apart
            ).transpose(1, 2, 3, 4, 0)
        rest[:, :, start:stop] = left_over.reshape(stop - start, after.a, rank, width).transpose(1, 2, 0, 3)
        missed.append(lost)
        energies.append(energy)
        outside.append(off)
        del panel, stack, left_over
        source.release()
    # rows of the rest are (rank, residue); of a block-diagonal product the last digit of the residue is its own axis
    core = rest.reshape(after.a, rank * (apart // whole.d), whole.d, width).transpose(0, 1, 3, 2)
    then = split_in_order(backend, backend.asarray(core), chain[fused:], tuple(range(1, len(chain) - fused)))
    errors = [math.sqrt(math.fsum(lost)) for lost in zip(*missed, strict=True)]
    norm = math.sqrt(math.fsum(energies))
    return Pass([*factors, *map(backend.to_host, then.values)], (*errors, *then.step_errors), norm), math.fsum(outside)


def _on_support(panel: NDArray[Any], whole: Any, start: int, stop: int) -> tuple[NDArray[Any], float]:
    """Return the stack of the problems in a panel (count * a, h, c), and the energy off the support of the product."""
    a, c, d = whole.a, whole.c, whole.d
    if a == d == 1:
        return panel.transpose(1, 0, 2), 0.0
    count = stop - start
    grid = np.array(panel).reshape(a, -1, count, a, c, d)
    i, j, q = np.arange(a)[None, :], np.arange(count)[:, None], np.arange(start, stop)[:, None] % d
    stack = grid[i, :, j, i, :, q]
    grid[i, :, j, i, :, q] = 0
    return stack.reshape(count * a, -1, c), squares(np, grid)
