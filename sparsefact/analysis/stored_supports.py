"""The two supports that a claim is about, as a file of factors holds them beside the factors themselves.

A factor often stores fewer entries than its support allows, since zeros are not stored; a claim about the support must
bring the rest along. Where the factor stores all of it, nothing more is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from sparsefact.analysis.support_pairs import SupportPair, as_pair
from sparsefact.errors import FormatError, SparsefactError
from sparsefact.products.encoding import decode_pattern, encode_pattern
from sparsefact.products.factorization import Factorization
from sparsefact.products.factors import KroneckerFactor
from sparsefact.products.fields import Fields

__all__ = ["encode_supports", "read_supports"]

_SIDES = ("left", "right")
_PARTS = {"bitmask": ("bits",), "csr": ("indices", "indptr")}


def encode_supports(
    pair: SupportPair, F: Factorization
) -> tuple[dict[str, dict[str, Any] | None], dict[str, NDArray[Any]]]:
    """Return for each side None, where the factor stores the whole support, or how the support is laid out, and arrays.

    Parameters
    ----------
    pair : SupportPair
    F : Factorization
        Of two factors, with entries on the supports.

    Returns
    -------
    fields : dict
        ``left`` and ``right``: None, or ``kind`` and ``nnz``.
    arrays : dict of str to array
        Called ``left.bits`` and so on.
    """
    fields: dict[str, dict[str, Any] | None] = {}
    arrays: dict[str, NDArray[Any]] = {}
    for side, support, factor in zip(_SIDES, (pair.left.tocsr(), pair.right), F.factors, strict=True):
        support.sort_indices()
        stored = _stored(factor)
        if np.array_equal(stored.indptr, support.indptr) and np.array_equal(stored.indices, support.indices):
            fields[side] = None
            continue
        kind, found = encode_pattern(support)
        fields[side] = {"kind": kind, "nnz": int(support.nnz)}
        arrays |= {f"{side}.{part}": array for part, array in found.items()}
    return fields, arrays


def read_supports(fields: Fields, part: Callable[[str], NDArray[Any]], F: Factorization, where: str) -> SupportPair:
    """Return the pair that `encode_supports` took apart.

    Parameters
    ----------
    fields : Fields
        With ``left`` and ``right``, from a file that cannot be trusted.
    part : callable
        Returns the array of a name.
    F : Factorization
    where : str
        What the sentences of errors begin with.

    Raises
    ------
    FormatError
        They are no supports of these factors.
    """
    if len(F.factors) != 2:
        raise FormatError(f"{where}: it is about two supports, but there are {len(F.factors)} factors")
    supports = []
    for side, factor in zip(_SIDES, F.factors, strict=True):
        listed = fields.optional(side, dict)
        if listed is None:
            supports.append(_stored(factor))
            continue
        told = Fields(listed, f"{where}, {side}")
        kind = told.choice("kind", _PARTS)
        arrays = {name: part(f"{side}.{name}") for name in _PARTS[kind]}
        supports.append(decode_pattern(kind, arrays, factor.shape, told.count("nnz"), f"{where}, {side}"))
    try:
        return as_pair(*supports)
    except SparsefactError as error:
        raise FormatError(f"{where}: {error}") from None


def _stored(factor: Any) -> scipy.sparse.csr_array[Any]:
    """Return where a factor stores entries, as a boolean CSR array."""
    if isinstance(factor, np.ndarray):
        return scipy.sparse.csr_array(np.ones(factor.shape, dtype=bool))
    csr: Any = factor.tocsr() if isinstance(factor, KroneckerFactor) else factor
    return scipy.sparse.csr_array((np.ones(csr.nnz, dtype=bool), csr.indices, csr.indptr), shape=csr.shape)
