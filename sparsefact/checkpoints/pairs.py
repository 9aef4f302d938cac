"""Two sparse factors as a recipe asks for them: their inner dimension, and a support that several matrices share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from sparsefact.constraints.base import check_density, check_int, density_of
from sparsefact.constraints.double_sparse import DoubleSparse, double_sparse, joint_budget
from sparsefact.constraints.support import Support
from sparsefact.constraints.top_k import TopK
from sparsefact.errors import ArgumentError, BudgetError, ShapeError
from sparsefact.io.failure import quoted
from sparsefact.io.masks import read_mask

__all__ = ["Inner", "build_pair", "check_inner", "held_density", "inner_of", "read_support", "support_file"]

Inner = int | float | Literal["auto"] | None
Shape = tuple[int, int]


def check_inner(inner: Any) -> Inner:
    """Return an inner dimension as a recipe may have it, or refuse it.

    Parameters
    ----------
    inner : int, float or str, optional
        A number of rows, a multiple of the shorter side (a number with a fraction or a point), or ``"auto"``.

    Returns
    -------
    int, float, str or None

    Raises
    ------
    ArgumentError
        If it is none of them.

    Examples
    --------
    >>> check_inner(1.25)
    1.25
    """
    if inner is None:
        return None
    if isinstance(inner, str) and inner == "auto":
        return "auto"
    if isinstance(inner, float) and 0 < inner <= 64:
        return inner
    if isinstance(inner, int) and not isinstance(inner, bool):
        return check_int("inner", inner)
    raise ArgumentError(
        f"inner is {quoted(str(inner))}, and it must be 'auto', a whole number such as 512, or a multiple of the "
        f"shorter side above 0 and at most 64, such as 1.25"
    )


def inner_of(inner: Inner, shape: Shape, density: float = 1.0) -> int:
    """Return the inner dimension for a matrix of this shape; the widest one for ``"auto"`` without a density.

    Parameters
    ----------
    inner : int, float, "auto" or None
        As `check_inner` returns it.
    shape : (int, int)
        Of the matrix.
    density : float, optional
        On which "auto" depends.

    Returns
    -------
    int

    Examples
    --------
    >>> inner_of(1.25, (100, 40)), inner_of(None, (100, 40))
    (50, 40)
    """
    if inner == "auto":
        return int(double_sparse(shape, density, inner="auto").inner or min(shape))
    if isinstance(inner, float):
        return max(1, round(inner * min(shape)))
    return min(shape) if inner is None else inner


def held_density(density: float, shape: Shape, inner: Inner) -> float:
    """Return a density, or the largest that the two factors can hold where that is less.

    Parameters
    ----------
    density : float
    shape : (int, int)
        Of the matrix.
    inner : int, float, "auto" or None

    Returns
    -------
    float

    Examples
    --------
    >>> held_density(0.9, (100, 100), 25)
    0.5
    """
    entries = inner_of(inner, shape) * sum(shape)
    if joint_budget(density, shape) <= entries:
        return density
    held = entries / (shape[0] * shape[1])
    while joint_budget(held, shape) > entries:
        held = math.nextafter(held, 0.0)
    return held


def build_pair(
    shape: Shape, density: float, inner: Inner = None, support: Support | None = None
) -> DoubleSparse | tuple[Support | TopK, Support | TopK]:
    """Return the constraint of two sparse factors.

    Parameters
    ----------
    shape : (int, int)
        Of the matrix.
    density : float
        Both factors hold at most ``floor(density * m * n)`` nonzeros.
    inner : int, float, "auto" or None, optional
        As `check_inner` returns it.
    support : Support, optional
        Of the left factor if it has its shape, else of the right one; the other has what is left of the budget.

    Returns
    -------
    constraint
        One for both, or a pair with a support.

    Raises
    ------
    BudgetError
        If the density cannot be met.
    ShapeError
        If the support has the shape of neither factor.

    Examples
    --------
    >>> import numpy as np
    >>> build_pair((20, 30), 0.5, support=Support(np.eye(20, dtype=bool)))
    (Support(<20 x 20, 20 nonzeros>), TopK(density=None, nnz=280, per='matrix'))
    """
    if support is None:
        width = inner_of(inner, shape) if isinstance(inner, float) else inner
        return double_sparse(shape, density, inner=width)
    density = check_density("density", density)
    width = inner_of(inner, shape, density)
    left, right = (shape[0], width), (width, shape[1])
    if support.shape not in (left, right):
        raise ShapeError(
            f"the support has the shape {support.shape}, and the factors of a {shape[0]} x {shape[1]} matrix have the "
            f"shapes {left} and {right}; give a mask of one of them, or another inner"
        )
    first = support.shape == left
    rows, columns = right if first else left
    budget = joint_budget(density, shape)
    kept = min(budget - support.nnz, rows * columns)
    if kept < rows:
        raise BudgetError(
            f"density={density} of shape {shape} is a budget of {budget}, of which the support takes {support.nnz}, "
            f"and the other factor has {rows} rows that need one each; pass a density of at least "
            f"{density_of(support.nnz + rows, shape[0] * shape[1])}, or a sparser mask"
        )
    other = TopK(nnz=kept)
    return (support, other) if first else (other, support)


def support_file(path: str) -> str:
    """Return the file of a support, whose path may name a tensor in it.

    Parameters
    ----------
    path : str
        A file, or ``file.safetensors:NAME``.

    Returns
    -------
    str

    Examples
    --------
    >>> support_file("masks.safetensors:left")
    'masks.safetensors'
    """
    stem, colon, _ = path.partition(".safetensors:")
    return stem + ".safetensors" if colon else path


def read_support(path: str | Path) -> Support:
    """Read the mask of a support.

    Parameters
    ----------
    path : path-like
        As `sparsefact.io.masks.read_mask` takes it.

    Returns
    -------
    Support

    Raises
    ------
    StorageError, FormatError, DtypeError, ShapeError, ArgumentError
        If there is no mask with an entry in it; the sentence has the path.
    """
    mask = read_mask(path)
    try:
        return Support(mask)
    except (ArgumentError, ShapeError) as error:
        raise type(error)(f"{path}: {error}") from None
