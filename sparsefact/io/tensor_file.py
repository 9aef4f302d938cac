"""One safetensors file, read through a memory map that is opened only after its header has been found true."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sparsefact.errors import ArgumentError, FormatError, StorageError
from sparsefact.io.dtypes import DTYPES
from sparsefact.io.failure import pickle_error, quoted, storage_error
from sparsefact.io.header import TensorInfo, parse_header, string_at

__all__ = ["TensorFile", "TensorInfo", "is_pickle_name"]

_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_CHUNK = 1 << 24


class TensorFile:
    """A safetensors file under a read-only memory map, its header fully validated.

    Opening reads the header alone; `read` maps a tensor without copying it. Arrays stay valid after `close`: the map
    goes with the last of them.

    Parameters
    ----------
    path : path-like
        The file. Pickles (``.bin``, ``.pt``, ``.pth``, ``.ckpt``) are refused, since reading one can run any code.

    Attributes
    ----------
    path : Path
        The file, as it was given.

    Raises
    ------
    StorageError
        If the file is missing, is not a regular file or may not be read.
    FormatError
        If its bytes are not what the format promises (see `sparsefact.io.header.parse_header`).

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from sparsefact.io.write import write_tensors
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name) / "small.safetensors"
    >>> write_tensors(path, {"w": np.eye(2, dtype="float32")}, {"made by": "an example"})
    >>> with TensorFile(path) as file:
    ...     print(file.names, file.info("w").dtype, file.info("w").shape, file.read("w").sum())
    ('w',) F32 (2, 2) 2.0
    >>> folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._map: mmap.mmap | None = None
        buffer = _map_file(self.path)
        try:
            self._header = parse_header(buffer, self.path)
        except FormatError:
            if _is_pickle(self.path, buffer[:8]):
                raise pickle_error(self.path) from None
            raise
        # A file without a data byte still has a header, so the buffer is a map here.
        self._map = buffer if isinstance(buffer, mmap.mmap) else None

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names, in the order of the header."""
        return tuple(self._header.tensors)

    @property
    def metadata(self) -> dict[str, str]:
        """The texts under ``__metadata__``, decoded at each access (at most 32 MB of them are read)."""
        buffer = self._open()
        return {key: string_at(buffer, *span) for key, span in self._header.metadata.items()}

    def info(self, name: str) -> TensorInfo:
        """Return the type, shape and size of a tensor.

        Parameters
        ----------
        name : str
            One of `names`.

        Returns
        -------
        TensorInfo
            What the header says.

        Raises
        ------
        ArgumentError
            If the file has no tensor of that name.
        """
        try:
            return self._header.tensors[name]
        except KeyError:
            raise ArgumentError(f"name is {quoted(name)}, and {self.path} has no tensor of that name") from None

    def read(self, name: str) -> NDArray[Any]:
        """Return a tensor as a read-only array over the file's bytes.

        Parameters
        ----------
        name : str
            One of `names`.

        Returns
        -------
        ndarray
            Of the tensor's shape; bfloat16 and the 8-bit floats have the types of ``ml_dtypes``. It is a view, without
            a copy, unless the file puts the tensor at an address its type may not have.

        Raises
        ------
        ArgumentError
            If the file has no tensor of that name.
        StorageError
            If the file has been closed.
        """
        info = self.info(name)
        buffer = self._open()
        array: NDArray[Any]
        if info.nbytes == 0:
            array = np.empty(info.shape, DTYPES[info.dtype])
        else:
            array = np.ndarray(info.shape, DTYPES[info.dtype], buffer=buffer, offset=info.offset)
            if not array.flags.aligned:
                array = array.copy()
        array.flags.writeable = False
        return array

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a tensor in pieces of at most 16 MiB.

        Parameters
        ----------
        name : str
            One of `names`.

        Yields
        ------
        bytes
            Consecutive pieces, as they stand in the file.
        """
        info = self.info(name)
        buffer = self._open()
        for begin in range(info.offset, info.offset + info.nbytes, _CHUNK):
            end = min(begin + _CHUNK, info.offset + info.nbytes)
            yield buffer[begin:end]
            # What has passed by need not count as this process's memory; the kernel may still cache it.
            start = begin - begin % mmap.PAGESIZE
            buffer.madvise(mmap.MADV_DONTNEED, start, end - start)

    def sha256(self, name: str) -> str:
        """Return the SHA-256 of a tensor's bytes as they stand in the file.

        Parameters
        ----------
        name : str
            One of `names`.

        Returns
        -------
        str
            64 hexadecimal digits.
        """
        digest = hashlib.sha256()
        for piece in self.pieces(name):
            digest.update(piece)
        return digest.hexdigest()

    def close(self) -> None:
        """Give the file back; arrays that were read stay valid, and a second call does nothing."""
        # Arrays hold references to the map but do not lock it: closing it under them would be a crash.
        self._map = None

    def _open(self) -> mmap.mmap:
        if self._map is None:
            raise StorageError(f"{self.path}: the file has been closed; read from it before that, or open it again")
        return self._map

    def __contains__(self, name: object) -> bool:
        return name in self._header.tensors

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"TensorFile({str(self.path)!r}, {len(self._header.tensors)} tensors)"


def _map_file(path: Path) -> mmap.mmap | bytes:
    """Map a regular file; an empty one, which cannot be mapped, gives b""."""
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise StorageError(
                f"{path}: this is a directory where a safetensors file is wanted; give the path of a file"
            )
        # Opening a pipe would wait for its writer.
        if not stat.S_ISREG(found.st_mode):
            raise StorageError(f"{path}: this is not a regular file; give the path of a safetensors file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""
    except StorageError:
        raise
    except OSError as error:
        raise storage_error("read", path, error) from error
    except ValueError as error:
        raise StorageError(f"{quoted(str(path))}: this is not a path ({error}); give the path of a file") from None


def _is_pickle(path: Path, head: bytes) -> bool:
    """Whether a file that is no safetensors file is a pickle by its first bytes (plain or zipped) or its suffix."""
    plain = head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    return plain or head[:4] == b"PK\x03\x04" or is_pickle_name(path.name)


def is_pickle_name(name: str) -> bool:
    """Return whether a file's name says that it is a pickle.

    Parameters
    ----------
    name : str
        A file name.

    Returns
    -------
    bool
        True for the suffixes .bin, .pt, .pth, .ckpt, .pkl and .pickle.

    Examples
    --------
    >>> is_pickle_name("pytorch_model.bin"), is_pickle_name("model.safetensors")
    (True, False)
    """
    return Path(name).suffix.lower() in _PICKLE_SUFFIXES
