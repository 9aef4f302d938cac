"""A second opinion on refutations: Groebner bases, through sympy, an optional extra imported when it is needed.

The equations ``(L R)[i, j] = M[i, j]`` have no common solution over the complex numbers exactly when the reduced
Groebner basis of their ideal is {1}. It shares no code with the search for multipliers in
`sparsefact.analysis.refutation`, and has no degree to stop at, but its time grows fast with the number of unknowns.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from sparsefact.analysis.curves import DivergentCurve, block_of
from sparsefact.analysis.support_pairs import SupportPair, as_pair
from sparsefact.errors import ArgumentError, ShapeError

__all__ = ["agrees", "excludes"]


def excludes(left: Any, right: Any, target: Sequence[Sequence[Fraction]]) -> bool:
    """Return whether a matrix is no product of complex factors inside two supports.

    Parameters
    ----------
    left, right : (m, r) and (r, n) supports
        As in `sparsefact.closedness`; small ones, a dozen entries each.
    target : m sequences of n fractions or integers
        The matrix.

    Returns
    -------
    bool
        True proves that the matrix is no product of real factors either; False says that complex factors exist.

    Raises
    ------
    ShapeError
        If the target does not have the shape of the product.
    ArgumentError
        If sympy is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsefact.analysis.groebner import excludes
    >>> lower = np.tri(2, dtype=bool)
    >>> excludes(lower, lower.T, [[0, 1], [1, 0]]), excludes(lower, lower.T, [[1, 1], [1, 0]])
    (True, False)
    """
    pair = as_pair(left, right)
    m, n = pair.shape
    if len(target) != m or any(len(row) != n for row in target):
        raise ShapeError(f"target must have the shape {pair.shape} of the product; it has {len(target)} rows")
    return _excludes(pair.left.toarray(), pair.right.toarray(), target)


def agrees(curve: DivergentCurve, pair: SupportPair) -> bool:
    """Return whether the limit of a divergent curve is no product on its block, by a Groebner basis."""
    left, right, _ = block_of(pair, curve.rows, curve.cols)
    return _excludes(left, right, curve.limit)


def _excludes(left: Any, right: Any, target: Sequence[Sequence[Fraction]]) -> bool:
    try:
        sympy: Any = importlib.import_module("sympy")
    except ImportError as error:
        raise ArgumentError("a Groebner basis needs sympy, which is not installed; pip install sympy") from error
    xs = {(int(i), int(k)): sympy.Symbol(f"x{i}_{k}") for i, k in zip(*np.nonzero(left), strict=True)}
    ys = {(int(k), int(j)): sympy.Symbol(f"y{k}_{j}") for k, j in zip(*np.nonzero(right), strict=True)}
    equations = []
    for i in range(left.shape[0]):
        for j in range(right.shape[1]):
            value = Fraction(target[i][j])
            inner = [int(k) for k in np.flatnonzero(left[i] & right[:, j])]
            if not inner and value:
                return True
            if inner:
                number = sympy.Rational(value.numerator, value.denominator)
                equations.append(sum(xs[i, k] * ys[k, j] for k in inner) - number)
    if not equations:
        return False
    return bool(sympy.groebner(equations, *xs.values(), *ys.values(), order="grevlex").exprs == [1])
