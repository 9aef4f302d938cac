"""What a record of a factor file says beside its factors: the tensors of its history and claims, and a certificate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.analysis.stated import read_record
from sparsefact.io.checkpoint import Checkpoint
from sparsefact.io.tensor_file import TensorFile

__all__ = ["certificate_holds", "claim_parts"]


def claim_parts(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what a record lists as tensors beside those of the factors, each with a name for it."""
    if record.get("history") is not None:
        yield "history", record["history"]
    for key in ("certificate", "evidence"):
        claim = record.get(key)
        if claim is None:
            continue
        listed = claim.get("tensors") if isinstance(claim, dict) else None
        if not isinstance(listed, dict):
            yield key, None
            continue
        for part, entry in listed.items():
            yield f"{key}, {part}", entry


def certificate_holds(name: str, record: Mapping[str, Any], file: TensorFile | Checkpoint, A: NDArray[Any]) -> str:
    """Check the certificate of a record against the matrix.

    Parameters
    ----------
    name : str
        Of the matrix.
    record : mapping
    file : TensorFile or Checkpoint
        With the factors.
    A : (m, n) array

    Returns
    -------
    str
        "holds", "does not hold", or nothing where the record has none that speaks about a matrix.

    Raises
    ------
    FormatError
        The factors or the certificate cannot be read.
    """
    certificate = read_record(record, file.read, where=name).certificate
    if not hasattr(certificate, "lower_bound"):
        return ""
    # half precision was factorized in float32
    wide = A if A.dtype in (np.float32, np.float64, np.complex64, np.complex128) else A.astype(np.float32)
    return "holds" if certificate.verify(wide) else "does not hold"
