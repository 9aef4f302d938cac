"""The one place that knows numba: how the kernels of this package are compiled.

Kernels release the interpreter lock, divide as IEEE 754 says, never start threads of their own (the workqueue layer
aborts when two threads enter it, and OpenMP does not survive a fork) and are cached on disk where that is possible.
They are compiled for a dtype when they first meet it. A kernel that calls another lives in the same file, since the
cache is renewed when that file changes and looks at no other; and what it calls is `within` it. A called kernel that
stays a function of its own is compiled once alone and once more inside each that calls it, with sums in another order
perhaps; which of them is called would hang on whether this process compiled them or found them in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

__all__ = ["REASSOCIATE", "jit"]

F = TypeVar("F", bound=Callable[..., Any])

REASSOCIATE = {"contract", "reassoc", "nsz", "arcp"}
"""Licence to vectorise sums; never the flags that assume there is no NaN or infinity."""


def jit(*, fastmath: set[str] | bool = False, inline: bool = False, within: bool = False) -> Callable[[F], F]:
    """Return the decorator that compiles a kernel lazily, per combination of argument types.

    Parameters
    ----------
    fastmath : set of str or False
        LLVM's flags for floating point operations; a sum may be reordered only with `REASSOCIATE`.
    inline : bool
        Whether to write the kernel into those that call it before anything is compiled. A large kernel that only others
        call would be compiled once by itself and again inside each of them.
    within : bool
        Whether other kernels call this one: its machine code becomes part of theirs.
    """

    def decorate(function: F) -> F:
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
        if inline:
            options["inline"] = "always"
        if within:
            options["forceinline"] = True
        try:
            compiled: F = numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no writable place for the cache, neither beside the file nor in the home directory
            compiled = numba.njit(**options)(function)
        return compiled

    return decorate
