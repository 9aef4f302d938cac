"""What `sparsefact.report.figures` draws of matrices: where they store entries, and their values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from sparsefact.constraints.chain import Chain
from sparsefact.constraints.chain_plot import Panel, chain_panels
from sparsefact.constraints.kronecker_support import KroneckerSupport
from sparsefact.errors import ArgumentError
from sparsefact.products.factorization import Factorization
from sparsefact.products.factors import KroneckerFactor, factor_nnz
from sparsefact.report.style import COLOURS

__all__ = ["overlap_panels", "support_panels", "value_panels"]

_SHADES = 6
_CELLS = 128
_PALE = 0.2


def value_panels(matrix: NDArray[Any], product: Factorization) -> list[Panel]:
    """Return a panel with the values of a real matrix, and one for each factor of its product."""
    factors = product.to("cpu").factors
    stored = [matrix.size, *map(factor_nnz, factors)]
    panels = []
    for number, (values, count) in enumerate(zip([matrix, *map(_dense, factors)], stored, strict=True)):
        m, n = values.shape
        # most entries are small: an image that is scaled to the largest one is empty
        most = float(np.quantile(np.abs(values[values != 0]), 0.98)) if np.any(values) else 1.0
        name = f"F_{{{number}}}" if number else "A"
        label = f"{m} × {n}\n{count:,} {'stored' if number else 'numbers'}"
        panels.append(Panel(name, label, (m, n), np.ma.masked_equal(values, 0), 1, _two_sided(), (-most, most)))
    return panels


def support_panels(product: Any, cells: int) -> tuple[list[Panel], bool]:
    """Return a panel for each factor, of a chain of Kronecker supports also one of the product."""
    factors = list(product.to("cpu").factors if isinstance(product, Factorization) else product)
    if not factors:
        raise ArgumentError("product has no factors, so there is nothing to draw; pass at least one")
    patterns = [factor.support if isinstance(factor, KroneckerFactor) else factor for factor in factors]
    if all(isinstance(pattern, KroneckerSupport) for pattern in patterns):
        chain = Chain(patterns)
        whole = chain.product if chain.is_chainable and len(chain) > 1 else None
        return chain_panels(chain.factors, whole), whole is not None
    # a cell of which little is stored is still to be seen
    shades = tuple(f"{COLOURS[0]}{round(255 * (shade / _SHADES) ** 0.5):02x}" for shade in range(1, _SHADES + 1))
    panels = []
    for number, factor in enumerate(factors, 1):
        shares, cell, stored = _shares(factor, cells, max(max(factor.shape) for factor in factors))
        m, n = factor.shape
        image = np.ma.masked_equal(np.ceil(shares * _SHADES), 0)
        panels.append(
            Panel(f"F_{{{number}}}", f"{m} × {n}\n{stored:,} stored", (m, n), image, cell, shades, (1, _SHADES))
        )
    return panels, False


def overlap_panels(left: Any, right: Any) -> list[Panel]:
    """Return a panel of a product, with how many rank-one supports reach each cell, and those of its two supports."""
    (first, second), _ = support_panels([left, right], _CELLS)
    counts = (left.tocsr().astype(np.int32) @ right.tocsr().astype(np.int32)).tocoo()
    m, n = counts.shape
    cell = max(1, -(-max(m, n, left.shape[1]) // _CELLS))
    reached = np.zeros((-(-m // cell), -(-n // cell)))
    np.maximum.at(reached, (counts.row // cell, counts.col // cell), counts.data)
    most = max(1, int(reached.max(initial=0)))
    label = f"{m} × {n}\n{most} at most in a cell"
    product = Panel("A", label, (m, n), np.ma.masked_equal(reached, 0), cell, _shaded(), (0, most))
    return [product, replace(first, name="L"), replace(second, name="R")]


def _shares(factor: Any, cells: int, longest: int) -> tuple[NDArray[np.float64], int, int]:
    """Return the share of the entries in each cell that are stored, the side of a cell, and how many there are."""
    m, n = factor.shape
    cell = max(1, -(-longest // cells))
    rows, columns = -(-m // cell), -(-n // cell)
    full = np.outer(np.minimum(cell, m - cell * np.arange(rows)), np.minimum(cell, n - cell * np.arange(columns)))
    if isinstance(factor, np.ndarray) and factor.dtype != bool:
        return np.ones((rows, columns)), cell, factor.size
    stored = factor.mask() if isinstance(factor, KroneckerSupport) else factor
    entries = scipy.sparse.coo_array(stored.tocsr() if hasattr(stored, "tocsr") else stored)
    y, x = entries.row.astype(np.int64) // cell, entries.col.astype(np.int64) // cell
    counts = np.bincount(y * columns + x, minlength=rows * columns).reshape(rows, columns)
    return counts / full, cell, len(y)


def _dense(factor: Any) -> NDArray[Any]:
    return factor if isinstance(factor, np.ndarray) else cast(NDArray[Any], factor.toarray())


def _shaded() -> Any:
    """Return a colour map from nothing at all to one colour."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    colour = to_rgba(COLOURS[0])
    return LinearSegmentedColormap.from_list("shaded", [(*colour[:3], 0.0), colour])


def _two_sided() -> Any:
    """Return a colour map from one colour to another, pale between them; what is masked is not drawn at all."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    low, high = (to_rgba(colour) for colour in COLOURS[:2])
    middle = 0.5 - 1e-9, 0.5 + 1e-9
    colours = [(0.0, low), (middle[0], (*low[:3], _PALE)), (middle[1], (*high[:3], _PALE)), (1.0, high)]
    return LinearSegmentedColormap.from_list("two-sided", colours)
