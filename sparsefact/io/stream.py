"""A safetensors file written piece by piece, so that no more than one piece of a tensor is ever in memory.

The bytes are those that `sparsefact.io.write.write_tensors` writes for the same tensors: sorted by their type in the
order of the safetensors package, large elements first, then by name, behind a header that is padded to 8 bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.errors import ArgumentError, FormatError, StorageError
from sparsefact.io.atomic import atomic_write
from sparsefact.io.dtypes import DTYPES, code_of
from sparsefact.io.failure import quoted, storage_error
from sparsefact.io.header import MAX_ENTRIES, MAX_METADATA

if TYPE_CHECKING:
    from sparsefact.io.tensor_file import TensorFile

__all__ = ["Streamed", "file_sha256", "of_array", "of_file", "write_all", "write_streamed", "write_text"]

_CHUNK = 1 << 24
_ORDER = (
    *("U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16"),
    *("F8_E5M2FNUZ", "F8_E4M3FNUZ", "F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"),
)


@dataclass(frozen=True, slots=True)
class Streamed:
    """A tensor to be written: what its header entry says, and where its bytes come from.

    Attributes
    ----------
    name : str
        Its name in the file.
    dtype : str
        Its safetensors code.
    shape : tuple of int
        Its shape.
    nbytes : int
        How many bytes `pieces` gives.
    pieces : callable
        Returns its bytes, in order and in pieces.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    pieces: Callable[[], Iterable[bytes | memoryview]]


def of_array(name: str, array: NDArray[Any]) -> Streamed:
    """Return an array in memory as a tensor to be written.

    Parameters
    ----------
    name : str
        Its name in the file.
    array : ndarray
        Of a type that the format has.

    Returns
    -------
    Streamed

    Examples
    --------
    >>> of_array("w", np.eye(2, dtype="float32")).nbytes
    16
    """
    code = code_of(array.dtype)
    if code is None:
        raise ArgumentError(f"tensor {quoted(name)} has the dtype {array.dtype}, which safetensors files do not hold")
    ready = np.asarray(array, dtype=DTYPES[code], order="C")
    return Streamed(name, code, ready.shape, ready.nbytes, lambda: (ready.reshape(-1).view(np.uint8).data,))


def of_file(name: str, file: TensorFile) -> Streamed:
    """Return a tensor of an open file as one to be written, byte for byte.

    Parameters
    ----------
    name : str
        Its name, in both files.
    file : TensorFile
        Must stay open until it is written.

    Returns
    -------
    Streamed
    """
    info = file.info(name)
    return Streamed(name, info.dtype, info.shape, info.nbytes, lambda: file.pieces(name))


def write_streamed(
    path: str | os.PathLike[str],
    tensors: Sequence[Streamed],
    metadata: Mapping[str, str] | None = None,
    *,
    on_tensor: Callable[[str], object] | None = None,
) -> tuple[str, int]:
    """Write a safetensors file atomically, a piece at a time.

    Parameters
    ----------
    path : path-like
        The file to create or replace.
    tensors : sequence of Streamed
        Of distinct names, in any order.
    metadata : mapping of str to str, optional
        Texts to keep in the header.
    on_tensor : callable, optional
        Called with the name of each tensor before it is written; what it raises ends the writing.

    Returns
    -------
    sha256 : str
        Of the whole file, the header included.
    nbytes : int
        The size of the file.

    Raises
    ------
    ArgumentError
        If a name comes twice or is reserved.
    FormatError
        If the header would be larger than what is read.
    StorageError
        If the operating system refuses, or a source gives another number of bytes than it promised.

    Examples
    --------
    >>> import tempfile
    >>> from sparsefact.io.tensor_file import TensorFile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sha256, nbytes = write_streamed(Path(folder) / "w.safetensors", [of_array("w", np.arange(3.0))])
    ...     with TensorFile(Path(folder) / "w.safetensors") as file:
    ...         print(file.read("w"), nbytes == (Path(folder) / "w.safetensors").stat().st_size)
    [0. 1. 2.] True
    """
    ordered = sorted(tensors, key=lambda tensor: (_ORDER.index(tensor.dtype), tensor.name))
    header = _header(path, ordered, metadata or {})
    total = len(header) + sum(tensor.nbytes for tensor in ordered)
    digest = hashlib.sha256()

    def write(temporary: Path) -> None:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            write_all(descriptor, header)
            digest.update(header)
            for tensor in ordered:
                if on_tensor is not None:
                    on_tensor(tensor.name)
                written = 0
                for piece in tensor.pieces():
                    write_all(descriptor, piece)
                    digest.update(piece)
                    written += len(piece)
                if written != tensor.nbytes:
                    raise StorageError(
                        f"{os.fspath(path)}: tensor {quoted(tensor.name)} came with {written:,} bytes instead of "
                        f"{tensor.nbytes:,}; its source was changed while it was read, so run again"
                    )
        finally:
            os.close(descriptor)

    atomic_write(path, write, needed=total)
    return digest.hexdigest(), total


def _header(path: str | os.PathLike[str], tensors: Sequence[Streamed], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for tensor in tensors:
        if tensor.name in entries or tensor.name == "__metadata__":
            raise ArgumentError(f"the tensor {quoted(tensor.name)} would stand in one file twice; rename it")
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    texts = sum(len(json.dumps(text)) for pair in metadata.items() for text in pair)
    if len(tensors) > MAX_ENTRIES or texts > MAX_METADATA:
        raise FormatError(
            f"{os.fspath(path)}: the file would have {len(tensors):,} tensors and {texts:,} bytes of metadata, and at "
            f"most {MAX_ENTRIES:,} and {MAX_METADATA:,} fit; write a folder (an output without .safetensors)"
        )
    try:
        text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise ArgumentError(f"{os.fspath(path)}: a name or text is not Unicode text; rename it") from None
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write every byte to an open file; `os.write` may take fewer at a time.

    Parameters
    ----------
    descriptor : int
        Open for writing.
    data : bytes or memoryview
        What to write.
    """
    view = memoryview(data)
    while len(view):
        view = view[os.write(descriptor, view[:_CHUNK]) :]


def write_text(path: str | os.PathLike[str], text: str | bytes) -> str:
    """Write a text in UTF-8, or bytes, into a file atomically, and return the SHA-256 of its bytes.

    Parameters
    ----------
    path : path-like
        The file to create or replace.
    text : str or bytes
        What stands in it.

    Returns
    -------
    str
        64 hexadecimal digits.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_text(Path(folder) / "a.txt", "a")[:8]
    'ca978112'
    """
    raw = text.encode() if isinstance(text, str) else text

    def write(temporary: Path) -> None:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            write_all(descriptor, raw)
        finally:
            os.close(descriptor)

    atomic_write(path, write, needed=len(raw))
    return hashlib.sha256(raw).hexdigest()


def file_sha256(path: str | os.PathLike[str], on_piece: Callable[[], object] | None = None) -> str:
    """Return the SHA-256 of a whole file, read in pieces.

    Parameters
    ----------
    path : path-like
        A regular file.
    on_piece : callable, optional
        Called before each piece; what it raises ends the reading.

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    StorageError
        If it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb", buffering=0) as file:
            while piece := file.read(_CHUNK):
                if on_piece is not None:
                    on_piece()
                digest.update(piece)
    except OSError as error:
        raise storage_error("read", path, error) from error
    return digest.hexdigest()
