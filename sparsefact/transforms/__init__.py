"""Ready factorizations of the fast transforms, loaded on first use.

Nothing is solved here: every factor is written down in closed form, its entries rounded once, and the product equals
the transform to machine precision. All of them are `sparsefact.Factorization` objects, so they multiply, transpose,
save and load like any other.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsefact.transforms.fourier import dft, hartley, idft
    from sparsefact.transforms.kronecker_products import hadamard, kronecker
    from sparsefact.transforms.orders import bit_reversal, digit_reversal, makhoul_order
    from sparsefact.transforms.shift_invariant import circulant, toeplitz
    from sparsefact.transforms.trigonometric import dct, dst

_HOME = {
    "bit_reversal": "sparsefact.transforms.orders",
    "circulant": "sparsefact.transforms.shift_invariant",
    "dct": "sparsefact.transforms.trigonometric",
    "dft": "sparsefact.transforms.fourier",
    "digit_reversal": "sparsefact.transforms.orders",
    "dst": "sparsefact.transforms.trigonometric",
    "hadamard": "sparsefact.transforms.kronecker_products",
    "hartley": "sparsefact.transforms.fourier",
    "idft": "sparsefact.transforms.fourier",
    "kronecker": "sparsefact.transforms.kronecker_products",
    "makhoul_order": "sparsefact.transforms.orders",
    "toeplitz": "sparsefact.transforms.shift_invariant",
}

__all__ = [
    "bit_reversal",
    "circulant",
    "dct",
    "dft",
    "digit_reversal",
    "dst",
    "hadamard",
    "hartley",
    "idft",
    "kronecker",
    "makhoul_order",
    "toeplitz",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'sparsefact.transforms' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
