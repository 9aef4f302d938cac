"""Named arrays into one safetensors file: contiguous little-endian bytes, put in place atomically."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, TensorSpec, serialize_file

from sparsefact.errors import ArgumentError, DtypeError, FormatError, StorageError
from sparsefact.io.atomic import atomic_write
from sparsefact.io.dtypes import DTYPES, code_of
from sparsefact.io.failure import quoted
from sparsefact.io.header import MAX_ENTRIES, MAX_METADATA

__all__ = ["write_tensors"]


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays into one safetensors file, atomically (see `sparsefact.io.atomic.atomic_write`).

    Equal tensors and at most one text give equal bytes (the order of several texts is the safetensors package's, and it
    varies). The arrays are not changed, and only those that are not contiguous and little-endian
    are copied, so tensors under a memory map pass through without filling the memory.

    Parameters
    ----------
    path : path-like
        The file to create or replace.
    tensors : mapping of str to ndarray
        Arrays of any shape whose type the format has: floats of 64, 32, 16 and 8 bits, bfloat16, integers of 8 to 64
        bits, bool, complex64.
    metadata : mapping of str to str, optional
        Texts to keep in the header.

    Raises
    ------
    DtypeError
        If a tensor is not a NumPy array or has a type that the format lacks, complex128 for one.
    ArgumentError
        If a tensor has the reserved name ``__metadata__`` or a name or text is not a string of Unicode.
    FormatError
        If the names and texts do not fit a header that can be read again (65,536 tensors, 32 MB of texts).
    StorageError
        If the operating system refuses, for example because the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> from sparsefact.io.tensor_file import TensorFile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "w.safetensors"
    ...     write_tensors(path, {"w": np.arange(6.0).reshape(2, 3).T}, {"origin": "an example"})
    ...     with TensorFile(path) as file:
    ...         print(file.info("w").shape, file.metadata)
    (3, 2) {'origin': 'an example'}
    """
    texts = dict(metadata or {})
    _check_texts(path, tensors, texts)
    arrays = {name: _ready(name, array) for name, array in tensors.items()}
    needed = sum(array.nbytes for array in arrays.values()) + _text_size(arrays, texts)

    def write(temporary: Path) -> None:
        specs = {
            name: TensorSpec(
                dtype=array.dtype.name, shape=array.shape, data_ptr=array.ctypes.data, data_len=array.nbytes
            )
            for name, array in arrays.items()
        }
        try:
            serialize_file(specs, temporary, metadata=texts or None)
        except SafetensorError as error:
            raise _translated(path, error) from error

    atomic_write(path, write, needed=needed)


def _ready(name: str, array: object) -> NDArray[Any]:
    """Return the array as the format stores it: in C order and little-endian, the same object where it already is."""
    if not isinstance(array, np.ndarray):
        raise DtypeError(f"tensor {quoted(name)} is a {type(array).__name__}, and it must be a NumPy array; convert it")
    code = code_of(array.dtype)
    if code is None:
        raise DtypeError(
            f"tensor {quoted(name)} has the dtype {array.dtype}, and a safetensors file holds {', '.join(DTYPES)}; "
            f"cast it first"
        )
    return np.asarray(array, dtype=DTYPES[code], order="C")


def _check_texts(path: str | os.PathLike[str], tensors: Mapping[str, Any], texts: Mapping[str, str]) -> None:
    for what, text in [("tensor's name", name) for name in tensors] + [
        ("metadata text", text) for pair in texts.items() for text in pair
    ]:
        if not isinstance(text, str):
            raise ArgumentError(f"a {what} is {text!r}, and it must be a string")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ArgumentError(f"a {what} is {quoted(text)}, which is not Unicode text; rename it") from None
    if "__metadata__" in tensors:
        raise ArgumentError("a tensor's name is '__metadata__', which the format reserves; rename it")
    counted = max(len(tensors), len(texts))
    size = _text_size({}, texts)
    if counted > MAX_ENTRIES or size > MAX_METADATA:
        raise FormatError(
            f"{os.fspath(path)}: the file would have {counted:,} entries and {size:,} bytes of metadata, and at most "
            f"{MAX_ENTRIES:,} and {MAX_METADATA:,} fit; write fewer tensors into one file"
        )


def _text_size(arrays: Mapping[str, NDArray[Any]], texts: Mapping[str, str]) -> int:
    """Return about how many bytes the header takes: no fewer than it does."""
    listed = sum(len(json.dumps(name)) + 64 + 21 * (array.ndim + 2) for name, array in arrays.items())
    return 64 + listed + sum(len(json.dumps(text).encode()) + 2 for pair in texts.items() for text in pair)


def _translated(path: str | os.PathLike[str], error: SafetensorError) -> Exception:
    """Return what the operating system said through the safetensors package, which keeps only the text."""
    code = re.search(r"\(os error (\d+)\)", str(error))
    if code:
        return OSError(int(code.group(1)), os.strerror(int(code.group(1))))
    return StorageError(f"{os.fspath(path)}: the safetensors package cannot write it: {error}")
