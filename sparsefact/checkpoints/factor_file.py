"""`sparsefact.load`: one product from one file, whoever wrote it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparsefact.analysis.stated import read_record
from sparsefact.errors import ArgumentError, FormatError
from sparsefact.io.failure import quoted
from sparsefact.io.tensor_file import TensorFile
from sparsefact.products.factorization import Factorization
from sparsefact.products.storage import read_document

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

__all__ = ["load"]


def load(path: str | os.PathLike[str], name: str | None = None) -> Factorization:
    """Read a product from a file that `Factorization.save` or ``sparsefact factorize`` wrote.

    Parameters
    ----------
    path : str or path
        The file.
    name : str, optional
        Which matrix to read, when the file holds several.

    Returns
    -------
    Factorization
        The factors with the recorded errors, status, solver and constraint (as text); every tensor's bytes were
        compared with their recorded SHA-256. The history is there without its times, and certificate and evidence as
        the file states them: ``F.certificate.verify(A)`` checks them again.

    Raises
    ------
    StorageError
        The file cannot be read.
    FormatError
        The file is not a sparsefact file, or is damaged; the sentence says where.
    ArgumentError
        `name` is needed or not in the file; the sentence lists the names.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> F = sf.Factorization([np.eye(2), np.ones((2, 3))])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     F.save(pathlib.Path(folder) / "ones.safetensors")
    ...     G = sf.load(pathlib.Path(folder) / "ones.safetensors")
    >>> bool((G.todense() == F.todense()).all())
    True
    """
    where = str(path)
    with TensorFile(path) as file:
        matrices = read_document(file.metadata, where)["matrices"]
        if not matrices:
            raise FormatError(f"{where}: the file holds no factorized matrix")
        if name is None and len(matrices) > 1:
            raise ArgumentError(
                f"{where}: name is None, but the file holds several matrices; choose {_listed(matrices)}"
            )
        chosen = next(iter(matrices)) if name is None else name
        if chosen not in matrices:
            raise ArgumentError(f"{where}: name is {chosen!r}, but the file holds {_listed(matrices)}")
        return read_record(matrices[chosen], file.read, where=f"{where}: {quoted(chosen)}")


def _listed(names: Iterable[str]) -> str:
    shown = [quoted(name) for name in names]
    return " or ".join(shown) if len(shown) <= 10 else ", ".join(shown[:10]) + f" and {len(shown) - 10} more"
