"""What a factorization is compared with: the time of a dense product, the error of magnitude pruning."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.products.factorization import Factorization

__all__ = ["magnitude_error", "product_times"]

_MOST = 50  # products timed
_PANEL = 1 << 22  # entries squared together


def product_times(A: NDArray[Any], F: Factorization, *, batch: int = 128, seconds: float = 0.04) -> tuple[float, float]:
    """Return the median times of ``A @ x`` and of ``F @ x`` for a block of vectors, in milliseconds.

    Parameters
    ----------
    A : array of shape (m, n)
        The dense matrix.
    F : Factorization of shape (m, n)
        Its factors.
    batch : int, optional
        How many columns x has.
    seconds : float, optional
        How long each of the two is measured; a single product may take longer.

    Returns
    -------
    (float, float)
        Wall times, dense and factorized. They depend on the machine and on what else it does.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> dense_ms, factor_ms = product_times(np.eye(8), sf.Factorization([np.eye(8)]), batch=4, seconds=0.001)
    >>> dense_ms > 0 and factor_ms > 0
    True
    """
    x = np.random.default_rng(0).standard_normal((A.shape[1], batch)).astype(A.dtype)
    return _median_ms(lambda: A @ x, seconds), _median_ms(lambda: F @ x, seconds)


def _median_ms(multiply: Callable[[], Any], seconds: float) -> float:
    multiply()  # pays for the plan of the product, for kernels that are compiled on first use and for cold caches
    times: list[float] = []
    begin = time.perf_counter()
    while not times or (time.perf_counter() - begin < seconds and len(times) < _MOST):
        start = time.perf_counter()
        multiply()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def magnitude_error(A: NDArray[Any], count: int) -> float:
    """Return the relative Frobenius error of keeping only the entries of largest magnitude.

    Parameters
    ----------
    A : array of shape (m, n)
        A finite real matrix.
    count : int
        How many entries are kept.

    Returns
    -------
    float
        ``||A - A_kept|| / ||A||``, summed in float64; 0 for the zero matrix.

    Examples
    --------
    >>> import numpy as np
    >>> round(magnitude_error(np.array([[3.0, -4.0], [0.0, 12.0]]), 2), 6)
    0.230769
    """
    sizes = np.abs(A).reshape(-1)
    largest = float(sizes.max(initial=0.0))
    dropped = sizes.size - count
    if largest == 0.0 or dropped <= 0:
        return 0.0
    sizes.partition(dropped - 1)
    lost, rest = (_sum_of_squares(part, largest) for part in (sizes[:dropped], sizes[dropped:]))
    return float(np.sqrt(lost / (lost + rest)))


def _sum_of_squares(values: NDArray[Any], scale: float) -> float:
    return sum(
        float(np.square(values[start : start + _PANEL].astype(np.float64) / scale).sum())
        for start in range(0, values.size, _PANEL)
    )
