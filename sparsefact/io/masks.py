"""Reading a mask, the pattern of a support, from the file formats that numerical people have."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from sparsefact.errors import DtypeError, FormatError
from sparsefact.io.failure import quoted, storage_error
from sparsefact.io.tensor_file import TensorFile

__all__ = ["read_mask"]

_FORMATS = ".npy, .npz (scipy.sparse), .mtx (Matrix Market) or .safetensors"


def read_mask(path: str | Path) -> Any:
    """Return a boolean array or a scipy.sparse matrix.

    Parameters
    ----------
    path : path-like
        ``.npy``: a boolean array. ``.npz``: what `scipy.sparse.save_npz` wrote. ``.mtx``: Matrix Market, dense or
        sparse. ``.safetensors``: a boolean tensor, or one of zeros and ones; ``file.safetensors:NAME`` names the tensor
        where there are several.

    Returns
    -------
    array or scipy.sparse matrix
        Of a sparse matrix the nonzero entries are the pattern.

    Raises
    ------
    StorageError
        If the file cannot be read.
    FormatError
        If it is of none of these formats, or damaged.
    DtypeError
        If a dense array is neither boolean nor of zeros and ones only.
    """
    text = str(path)
    stem, colon, name = text.partition(".safetensors:")
    file = stem + ".safetensors" if colon else text
    suffix = Path(file).suffix
    if suffix == ".safetensors":
        return _pattern(text, _tensor(file, name))
    if suffix not in (".npy", ".npz", ".mtx"):
        raise FormatError(f"{text}: the suffix {quoted(suffix)} is not one of a mask; pass a {_FORMATS} file")
    try:
        if suffix == ".npy":
            return _pattern(text, np.load(file, allow_pickle=False))
        if suffix == ".npz":
            from scipy import sparse

            return sparse.load_npz(file)
        from scipy.io import mmread

        return _pattern(text, mmread(file))
    except OSError as error:
        raise storage_error("read", file, error) from error
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise FormatError(f"{text}: this is not a readable {suffix} file ({error}); pass a {_FORMATS} file") from error


def _tensor(path: str, name: str) -> Any:
    with TensorFile(path) as file:
        names = [name] if name else [other for other in file.names if len(file.info(other).shape) == 2]
        if len(names) != 1:
            listed = ", ".join(quoted(other) for other in names[:8])
            raise FormatError(f"{path}: the file has {len(names)} matrices ({listed}); choose one as {path}:NAME")
        if names[0] not in file.names:
            raise FormatError(f"{path}: the file has no tensor {quoted(names[0])}; it has {', '.join(file.names[:8])}")
        return np.array(file.read(names[0]))


def _pattern(name: str, array: Any) -> Any:
    if hasattr(array, "tocsr") or array.dtype == bool:
        return array
    if array.dtype.kind in "uif" and np.isin(array, (0, 1)).all():
        return array != 0
    raise DtypeError(
        f"{name}: the array has dtype {array.dtype} and other values than 0 and 1; save the mask as booleans, "
        "array != 0"
    )
