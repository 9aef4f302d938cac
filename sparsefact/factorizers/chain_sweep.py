"""Alternating least squares on a chain: one sweep in which every factor becomes optimal for the others.

With the centre of the product at factor l, all factors left of it have orthonormal columns in the blocks of their right
interfaces, and those right of it orthonormal rows. The least squares problem for K_l then has the identity for its
normal matrix, and its solution is ``X^H A Y^H`` on the support of K_l, with X = K_1 .. K_{l-1} and Y = K_{l+1} .. K_L.
Contracting A factor by factor, from the left once for the whole sweep, it takes about four passes over A.
"""

from __future__ import annotations

import math

from sparsefact.analysis.split_blocks import squares
from sparsefact.backends.protocol import Backend
from sparsefact.factorizers.elements import Values, contract_left, contract_right, lean_left, lean_right, multiply

__all__ = ["improve"]


def improve(backend: Backend, core: Values, values: list[Values]) -> tuple[list[Values], float]:
    """Return the factors after one sweep from left to right, and the norm of their residual.

    Parameters
    ----------
    backend : Backend
    core : (a, b, c, d) array
        The values of the matrix on the support of the product.
    values : list of (a, b, c, d) arrays
        Of the factors of a chainable chain; not modified.
    """
    found = list(values)
    for at in range(len(found) - 1, 0, -1):
        found[at - 1], found[at] = lean_left(backend, found[at - 1], found[at])
    rest = core
    for at in range(len(found)):
        target = rest
        for other in range(len(found) - 1, at, -1):
            target = contract_right(found[other], target, found[other - 1].shape[3])
        found[at] = target
        if at + 1 < len(found):
            found[at], found[at + 1] = lean_right(backend, found[at], found[at + 1])
            rest = contract_left(found[at], rest, found[at + 1].shape[0])
    product = found[0]
    for factor in found[1:]:
        product = multiply(product, factor)
    return found, math.sqrt(squares(backend.xp, core - product))
