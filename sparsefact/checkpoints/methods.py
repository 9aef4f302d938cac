"""The names that recipes and the command line give to constraints and solvers: one table of each.

A new solver or constraint becomes available to both by its line here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from sparsefact.constraints.base import density_of
from sparsefact.constraints.chain import Chain
from sparsefact.constraints.double_sparse import double_sparse
from sparsefact.errors import ArgumentError, BudgetError, ShapeError
from sparsefact.factorizers.als import AlternatingLeastSquares
from sparsefact.factorizers.alternating import Alternating
from sparsefact.factorizers.hierarchical import Hierarchical
from sparsefact.factorizers.palm import PALM
from sparsefact.io.failure import quoted

__all__ = ["CONSTRAINTS", "SOLVERS", "build_constraint", "build_solver", "density_for", "nonzeros_of"]

SOLVERS: dict[str, Any] = {
    "alternating": Alternating,
    "als": AlternatingLeastSquares,
    "hierarchical": Hierarchical,
    "palm": PALM,
}
"""Solvers by name; their options are the fields of the dataclass."""

CONSTRAINTS: dict[str, tuple[str, ...]] = {
    "double-sparse": ("density", "tolerance"),
    "monarch": ("blocks", "rank"),
    "butterfly": (),
}
"""Constraints by name, with the keys of a rule that belong to them."""


def build_solver(name: str | None, options: Mapping[str, Any]) -> Any:
    """Return the solver of a name with these hyper-parameters, or None for the package's own choice.

    Parameters
    ----------
    name : str or None
        One of `SOLVERS`.
    options : mapping
        Hyper-parameters by the names of their fields.

    Returns
    -------
    solver or None

    Raises
    ------
    ArgumentError
        If there is no such solver, or it has no such hyper-parameter.

    Examples
    --------
    >>> build_solver("alternating", {"effort": "fast"}).effort
    'fast'
    """
    if name is None and not options:
        return None
    chosen = SOLVERS.get(name or "alternating")
    if chosen is None:
        raise ArgumentError(f"solver is {quoted(str(name))}, and it must be one of {', '.join(SOLVERS)}")
    fields = {field.name for field in dataclasses.fields(chosen) if field.init}
    for option in options:
        if option not in fields or option == "inner":
            allowed = ", ".join(sorted(fields - {"inner"}))
            raise ArgumentError(f"the solver {name!r} has no option {quoted(option)}; it has {allowed}")
    try:
        return chosen(**options)
    except TypeError as error:
        raise ArgumentError(f"the options of the solver {name!r} do not fit: {error}") from None


def build_constraint(
    name: str,
    shape: tuple[int, int],
    *,
    density: float | None = None,
    blocks: tuple[int, int] | None = None,
    rank: int = 1,
) -> Any:
    """Return the constraint of a name for a matrix of this shape.

    Parameters
    ----------
    name : str
        One of `CONSTRAINTS`.
    shape : (int, int)
        Of the matrix.
    density : float, optional
        Of ``double-sparse``.
    blocks : (int, int), optional
        Of ``monarch``.
    rank : int, optional
        Of ``monarch``.

    Returns
    -------
    constraint

    Raises
    ------
    ArgumentError
        If there is no such constraint.
    BudgetError
        If the density cannot be met.
    ShapeError
        If no matrix of this shape can have the constraint.

    Examples
    --------
    >>> build_constraint("double-sparse", (20, 30), density=0.5).budget
    300
    >>> build_constraint("butterfly", (8, 8)).nnz
    48
    """
    if name not in CONSTRAINTS:
        raise ArgumentError(f"constraint is {quoted(name)}, and it must be one of {', '.join([*CONSTRAINTS, 'copy'])}")
    if name == "double-sparse":
        if density is None:
            raise BudgetError("density is missing, and the constraint 'double-sparse' needs one, or a tolerance")
        return double_sparse(shape, density)
    if name == "monarch":
        return Chain.monarch(shape, blocks=blocks, rank=rank)
    side = shape[0]
    if shape[0] != shape[1] or side < 2 or 2 ** round(math.log2(side)) != side:
        raise ShapeError(
            f"the shape is {shape}, and the constraint 'butterfly' needs as many rows as columns, a power of 2"
        )
    return Chain.butterfly(side)


def nonzeros_of(constraint: Any) -> int:
    """Return the most nonzeros that factors under a constraint store.

    Parameters
    ----------
    constraint : constraint
        What `build_constraint` returned.

    Returns
    -------
    int
    """
    count = getattr(constraint, "budget", None)
    return int(constraint.nnz if count is None else count)


def density_for(count: int, shape: tuple[int, int]) -> float:
    """Return the density that allows exactly `count` nonzeros in a matrix of this shape."""
    return density_of(count, shape[0] * shape[1])
