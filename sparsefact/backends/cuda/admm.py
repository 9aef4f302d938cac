"""The two elementwise steps of an ADMM round, each in one pass over memory where the arrays lie alike."""

from __future__ import annotations

from typing import Any

from sparsefact.backends.cuda.launcher import Launcher

__all__ = ["admm_rhs", "admm_update"]

_THREADS = 256


def admm_update(launcher: Launcher, b: Any, t: Any, mask: Any) -> None:
    """Set ``t = b + where(mask, 0, t)`` in place."""
    flat = _flat(b, t, mask)
    if flat is None:
        t[...] = b + launcher.xp.where(mask, 0, t)
    elif t.size:
        (x, y, kept), lanes = flat
        launcher.launch("admm", "update", x.dtype, _grid(x.size), _THREADS, (x, y, kept, x.size, lanes))


def admm_rhs(launcher: Launcher, c: Any, t: Any, mask: Any, rho: float, out: Any) -> None:
    """Set ``out = c + rho * where(mask, t, -t)`` in place."""
    flat = _flat(c, t, out, mask)
    if flat is None:
        weight = t.real.dtype.type(rho)
        out[...] = c + weight * launcher.xp.where(mask, t, -t)
    elif out.size:
        (x, y, z, kept), lanes = flat
        launcher.launch("admm", "rhs", x.dtype, _grid(x.size), _THREADS, (x, y, kept, float(rho), z, x.size, lanes))


def _grid(size: int) -> int:
    return -(-size // (4 * _THREADS))


def _flat(*arrays: Any) -> tuple[tuple[Any, ...], int] | None:
    """Return real vectors in one common order, without copies, and the numbers per entry; or None.

    The last array is the mask; complex ones become vectors of their parts.
    """
    numbers, dtype = arrays[:-1], arrays[0].dtype
    if any(array.dtype != dtype for array in numbers):
        return None
    if all(array.flags.c_contiguous for array in arrays):
        flat = [array.reshape(-1) for array in arrays]
    elif all(array.flags.f_contiguous for array in arrays):
        flat = [array.T.reshape(-1) for array in arrays]
    else:
        return None
    lanes = 2 if dtype.kind == "c" else 1
    if lanes == 2:
        flat[:-1] = [array.view(array.real.dtype) for array in flat[:-1]]
    return tuple(flat), lanes
