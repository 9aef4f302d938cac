"""The two elementwise steps of an ADMM round, each in one pass over memory where the arrays lie alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.cpu.jit import jit
from sparsefact.backends.cpu.threads import over_ranges

__all__ = ["admm_rhs", "admm_update"]

_GRAIN = 1 << 21


def admm_update(b: NDArray[Any], t: NDArray[Any], mask: NDArray[np.bool_]) -> None:
    """Set ``t = b + where(mask, 0, t)`` in place."""
    flat = _flat(b, t, mask)
    if flat is None:
        np.add(b, np.where(mask, 0, t), out=t)
        return
    x, y, m = flat
    over_ranges(lambda i, j: _update(x[i:j], y[i:j], m[i:j]), x.size, grain=_GRAIN)


def admm_rhs(c: NDArray[Any], t: NDArray[Any], mask: NDArray[np.bool_], rho: float, out: NDArray[Any]) -> None:
    """Set ``out = c + rho * where(mask, t, -t)`` in place."""
    weight = np.finfo(t.dtype).dtype.type(rho)
    flat = _flat(c, t, out, mask)
    if flat is None:
        np.add(c, weight * np.where(mask, t, -t), out=out)
        return
    x, y, z, m = flat
    over_ranges(lambda i, j: _rhs(x[i:j], y[i:j], m[i:j], weight, z[i:j]), x.size, grain=_GRAIN)


def _flat(*arrays: NDArray[Any]) -> tuple[NDArray[Any], ...] | None:
    """Return the arrays as vectors in one common order, without copies, or None; all but the last share a dtype."""
    dtype = arrays[0].dtype
    if not dtype.isnative or any(array.dtype != dtype for array in arrays[1:-1]):
        return None
    if all(array.flags.c_contiguous for array in arrays):
        return tuple(array.reshape(-1) for array in arrays)
    if all(array.flags.f_contiguous for array in arrays):
        return tuple(array.T.reshape(-1) for array in arrays)
    return None


@jit()
def _update(b: NDArray[Any], t: NDArray[Any], mask: NDArray[np.bool_]) -> None:
    zero = t.dtype.type(0)
    for i in range(t.size):
        t[i] = b[i] + (zero if mask[i] else t[i])


@jit()
def _rhs(c: NDArray[Any], t: NDArray[Any], mask: NDArray[np.bool_], rho: Any, out: NDArray[Any]) -> None:
    for i in range(out.size):
        change = rho * t[i]
        out[i] = c[i] + (change if mask[i] else -change)
