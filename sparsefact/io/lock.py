"""A folder held by one writer at a time; the lock of a process that has died is no lock.

The lock is the kernel's (flock) on a file in the folder, so it ends with its process however that ends. What stands in
the file says only whom to blame.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from sparsefact.errors import StorageError
from sparsefact.io.failure import quoted, storage_error

__all__ = ["LOCK_NAME", "FolderLock"]

LOCK_NAME = "sparsefact.lock"
_MOST = 4096  # bytes read of what the holder says of itself
_BUSY = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK)


class FolderLock:
    """A context in which no other process writes into a folder.

    Parameters
    ----------
    folder : Path
        An existing directory.

    Raises
    ------
    StorageError
        On entering, if another process holds the folder (the sentence names it), or the file system has no locks.

    Notes
    -----
    A file left by a killed process is taken over, since the kernel dropped its lock. On shared storage the file system
    must forward locks between hosts, as NFS 4 does.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with FolderLock(Path(folder)):
    ...         print([path.name for path in Path(folder).iterdir()])
    ...     print(list(Path(folder).iterdir()))
    ['sparsefact.lock']
    []
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_NAME
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        while True:
            try:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            except OSError as error:
                raise storage_error("written", self.path, error) from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The one who held it may have removed the file between our two steps: then we hold a file of no name.
                if os.path.samestat(os.fstat(descriptor), self.path.stat()):
                    break
            except FileNotFoundError:
                pass
            except OSError as error:
                holder = _holder(descriptor)
                os.close(descriptor)
                if error.errno in _BUSY:
                    raise StorageError(
                        f"{self.path.parent}: {holder} is writing into this folder; wait for it, or give another output"
                    ) from None
                raise storage_error("locked", self.path, error) from error
            os.close(descriptor)
        self._descriptor = descriptor
        own = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, own, 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            # Removed while it is still held, so that nobody can take a file that is about to go.
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


def _holder(descriptor: int) -> str:
    """Return who holds the lock, as far as the file tells."""
    try:
        told = json.loads(os.pread(descriptor, _MOST, 0))
        return f"process {int(told['pid'])} on {quoted(str(told['host']))}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"
