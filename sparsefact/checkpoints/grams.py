"""Gram matrices from a safetensors file: ``<layer>.gram`` weighs the loss of the tensor ``<layer>.weight``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.errors import ArgumentError, ShapeError
from sparsefact.io.failure import quoted
from sparsefact.io.tensor_file import TensorFile

__all__ = ["check_gram_entry", "gram_names", "read_gram"]


def gram_names(name: str) -> tuple[str, str]:
    """Return the names under which the Gram matrix of a tensor may stand, the usual one first.

    Parameters
    ----------
    name : str
        Of the tensor.

    Returns
    -------
    (str, str)

    Examples
    --------
    >>> gram_names("layers.0.q.weight")
    ('layers.0.q.gram', 'layers.0.q.weight.gram')
    """
    return f"{name.removesuffix('.weight')}.gram", f"{name}.gram"


def check_gram_entry(file: TensorFile, name: str, columns: int) -> str:
    """Return the name of a tensor's Gram matrix in a file, or refuse one that is missing or does not fit.

    Parameters
    ----------
    file : TensorFile
        Of Gram matrices.
    name : str
        Of the tensor.
    columns : int
        How many columns it has.

    Returns
    -------
    str

    Raises
    ------
    ArgumentError, ShapeError
        If the file has none for it, or one of another shape or type.
    """
    usual, full = gram_names(name)
    found = usual if usual in file else full
    if found not in file:
        raise ArgumentError(f"{file.path}: the file has no {quoted(usual)} for the tensor {quoted(name)}; collect it")
    info = file.info(found)
    if info.shape != (columns, columns) or info.dtype not in ("F32", "F64"):
        raise ShapeError(
            f"{file.path}: {quoted(found)} is {info.dtype} of shape {info.shape}, and for {quoted(name)} it must be "
            f"F32 or F64 of shape ({columns}, {columns})"
        )
    return found


def read_gram(path: str, name: str, columns: int) -> NDArray[Any]:
    """Read the Gram matrix of a tensor.

    Parameters
    ----------
    path : str
        A file of Gram matrices.
    name : str
        Of the tensor.
    columns : int
        How many columns it has.

    Returns
    -------
    (columns, columns) array

    Raises
    ------
    ArgumentError, ShapeError, StorageError, FormatError
        If it is not there.
    """
    with TensorFile(path) as file:
        return np.array(file.read(check_gram_entry(file, name, columns)))
