"""The constraints and solvers of recipes and of the command line, made from their names."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Mapping
from typing import Any

from sparsefact.checkpoints.names import CONSTRAINTS, SOLVERS, solvers_for
from sparsefact.checkpoints.pairs import Inner, build_pair
from sparsefact.constraints.base import density_of
from sparsefact.constraints.block_top_k import BlockTopK
from sparsefact.constraints.chain import Chain
from sparsefact.constraints.double_sparse import joint_budget
from sparsefact.constraints.support import Support
from sparsefact.constraints.top_k import TopK
from sparsefact.errors import ArgumentError, BudgetError, ShapeError
from sparsefact.io.failure import quoted

__all__ = ["build_constraint", "build_solver", "density_for", "nonzeros_of"]

_PYTHON_ONLY = "inner"  # the option that is a solver itself


def build_solver(name: str | None, options: Mapping[str, Any], constraint: str = "double-sparse") -> Any:
    """Return the solver of a name with these hyper-parameters, or None for the package's own choice.

    Parameters
    ----------
    name : str or None
        One of `sparsefact.checkpoints.names.SOLVERS`; None with options is the first one of the constraint.
    options : mapping
        Hyper-parameters by the names of their fields.
    constraint : str, optional
        What it is for, one of `sparsefact.checkpoints.names.CONSTRAINTS`.

    Returns
    -------
    solver or None

    Raises
    ------
    ArgumentError
        If there is no such solver, it cannot solve for the constraint, or it has no such hyper-parameter.

    Examples
    --------
    >>> build_solver("alternating", {"effort": "fast"}).effort
    'fast'
    >>> build_solver("htp", {"polish": "swap"}, "single").variant
    'htp'
    """
    if name is None and not options:
        return None
    suitable = solvers_for(constraint)
    name = suitable[0] if name is None and suitable else name
    if name not in SOLVERS:
        raise ArgumentError(f"solver is {quoted(str(name))}, and it must be one of {', '.join(suitable or SOLVERS)}")
    named = SOLVERS[name]
    if constraint not in named.constraints:
        raise ArgumentError(_unsuitable(name, constraint, suitable))
    chosen = getattr(importlib.import_module(named.module), named.name)
    fields = {field.name for field in dataclasses.fields(chosen) if field.init} - {_PYTHON_ONLY, *named.preset}
    for option in options:
        if option not in fields:
            allowed = ", ".join(sorted(fields))
            raise ArgumentError(f"the solver {name!r} has no option {quoted(option)}; it has {allowed}")
    try:
        return chosen(**named.preset, **options)
    except TypeError as error:
        raise ArgumentError(f"the options of the solver {name!r} do not fit: {error}") from None


def _unsuitable(name: str, constraint: str, suitable: tuple[str, ...]) -> str:
    """Say why a solver cannot solve for a constraint."""
    if not suitable:
        return f"the solver {name!r} is given with {constraint!r}, which needs none; leave it out"
    instead = f"take one of {', '.join(suitable)}" if len(suitable) > 1 else f"take {suitable[0]}"
    if SOLVERS[name].constraints == ("single",):
        inside = ""
        if "alternating" in suitable:
            inside = ", or use it inside from Python, as sparsefact.Alternating(inner=...)"
        return f"the solver {name!r} finds one matrix, and {constraint!r} is a product; {instead}{inside}"
    if constraint == "single":
        return f"the solver {name!r} finds a product, and 'single' is one matrix; {instead}"
    return f"the solver {name!r} does not solve for {constraint!r}; {instead}"


def build_constraint(
    name: str,
    shape: tuple[int, int],
    *,
    density: float | None = None,
    block: tuple[int, int] | None = None,
    blocks: tuple[int, int] | None = None,
    rank: int = 1,
    inner: Inner = None,
    support: Support | None = None,
) -> Any:
    """Return the constraint of a name for a matrix of this shape.

    Parameters
    ----------
    name : str
        One of `sparsefact.checkpoints.names.CONSTRAINTS`.
    shape : (int, int)
        Of the matrix.
    density : float, optional
        Of ``double-sparse`` and ``single``.
    block : (int, int), optional
        Of ``single``: whole blocks are kept or dropped.
    blocks : (int, int), optional
        Of ``monarch``.
    rank : int, optional
        Of ``monarch``.
    inner : int, float or "auto", optional
        Of ``double-sparse``: the inner dimension, as a number or as a multiple of the shorter side.
    support : Support, optional
        Of ``double-sparse``: the fixed support of one of the factors.

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
    >>> build_constraint("single", (32, 48), density=0.5, block=(16, 16))
    BlockTopK(block=(16, 16), density=0.5, count=None)
    >>> build_constraint("butterfly", (8, 8)).nnz
    48
    """
    if name not in CONSTRAINTS:
        raise ArgumentError(f"constraint is {quoted(name)}, and it must be one of {', '.join([*CONSTRAINTS, 'copy'])}")
    if name in ("double-sparse", "single"):
        if density is None:
            raise BudgetError(f"density is missing, and the constraint {name!r} needs one, or a tolerance")
        if name == "double-sparse":
            return build_pair(shape, density, inner, support)
        single = TopK(density=density) if block is None else BlockTopK(block, density=density)
        single.count(shape)
        return single
    if name == "monarch":
        return Chain.monarch(shape, blocks=blocks, rank=rank)
    side = shape[0]
    if shape[0] != shape[1] or side < 2 or 2 ** round(math.log2(side)) != side:
        raise ShapeError(
            f"the shape is {shape}, and the constraint 'butterfly' needs as many rows as columns, a power of 2"
        )
    return Chain.butterfly(side)


def nonzeros_of(constraint: Any, shape: tuple[int, int]) -> int:
    """Return the most nonzeros that factors under a constraint store.

    Parameters
    ----------
    constraint : constraint
        What `build_constraint` returned.
    shape : (int, int)
        Of the matrix.

    Returns
    -------
    int

    Examples
    --------
    >>> nonzeros_of(TopK(density=0.5), (20, 30))
    300
    """
    if isinstance(constraint, tuple):
        return sum(int(each.nnz) for each in constraint)
    return int(constraint.nnz if isinstance(constraint, Chain) else constraint.count(shape))


def density_for(count: int, shape: tuple[int, int]) -> float:
    """Return the density that allows exactly `count` nonzeros in a matrix of this shape."""
    density = density_of(count, shape[0] * shape[1])
    while joint_budget(density, shape) < count:  # which multiplies in another order
        density = math.nextafter(density, 1.0)
    return density
