"""Gram matrices from safetensors files.

``<layer>.gram`` weighs the columns of the tensor ``<layer>.weight``, and ``<layer>.left_gram`` its rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sparsefact.errors import ArgumentError, ShapeError
from sparsefact.io.failure import quoted
from sparsefact.io.tensor_file import TensorFile

__all__ = ["check_gram_entry", "gram_names", "read_grams"]


def gram_names(name: str, kind: str = "gram") -> tuple[str, str]:
    """Return the names under which a Gram matrix of a tensor may stand, the usual one first.

    Parameters
    ----------
    name : str
        Of the tensor.
    kind : {"gram", "left_gram"}

    Returns
    -------
    (str, str)

    Examples
    --------
    >>> gram_names("layers.0.q.weight")
    ('layers.0.q.gram', 'layers.0.q.weight.gram')
    """
    return f"{name.removesuffix('.weight')}.{kind}", f"{name}.{kind}"


def check_gram_entry(file: TensorFile, name: str, shape: tuple[int, int], kind: str = "gram") -> str:
    """Return the name of a tensor's Gram matrix in a file, or refuse one that is missing or does not fit.

    Parameters
    ----------
    file : TensorFile
        Of Gram matrices.
    name : str
        Of the tensor.
    shape : (int, int)
        Of the tensor.
    kind : {"gram", "left_gram"}

    Returns
    -------
    str

    Raises
    ------
    ArgumentError, ShapeError
        If the file has none for it, or one of another shape or type.
    """
    size = shape[0 if kind == "left_gram" else 1]
    usual, full = gram_names(name, kind)
    found = usual if usual in file else full
    if found not in file:
        raise ArgumentError(f"{file.path}: the file has no {quoted(usual)} for the tensor {quoted(name)}; collect it")
    info = file.info(found)
    if info.shape != (size, size) or info.dtype not in ("F32", "F64"):
        raise ShapeError(
            f"{file.path}: {quoted(found)} is {info.dtype} of shape {info.shape}, and for {quoted(name)} it must be "
            f"F32 or F64 of shape ({size}, {size})"
        )
    return found


def read_grams(paths: Mapping[str, str], name: str, shape: tuple[int, int]) -> dict[str, Any]:
    """Read the Gram matrices of a tensor.

    Parameters
    ----------
    paths : mapping of str to str
        The file of each kind that there is, as the property `grams` of a rule gives them.
    name : str
        Of the tensor.
    shape : (int, int)
        Of the tensor.

    Returns
    -------
    dict of str to array
        By kind, as `sparsefact.factorize` takes them.

    Raises
    ------
    ArgumentError, ShapeError, StorageError, FormatError
        If one is not there.
    """
    found: dict[str, Any] = {}
    for kind, path in paths.items():
        with TensorFile(path) as file:
            found[kind] = np.array(file.read(check_gram_entry(file, name, shape, kind)))
    return found
