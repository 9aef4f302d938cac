"""Writing a file so that, whatever happens, its path holds either the whole old file or the whole new one."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from sparsefact.errors import StorageError
from sparsefact.io.failure import storage_error

__all__ = ["atomic_write", "check_target", "sync_directory"]

_log = logging.getLogger(__name__)


def check_target(path: str | os.PathLike[str]) -> Path:
    """Return the real path of a file about to be written, after checking that it can be.

    Parameters
    ----------
    path : path-like
        The file to write. A symbolic link is followed, so that the file it leads to is replaced and the link stays.

    Returns
    -------
    Path
        Absolute, without symbolic links.

    Raises
    ------
    StorageError
        If the path is a directory or another thing that is no regular file, or if its directory is missing, is not a
        directory or may not be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(check_target(Path(folder) / "new.safetensors").name)
    new.safetensors
    """
    try:
        target = Path(path).resolve()
        if target.is_dir():
            raise StorageError(f"{path}: this is a directory where a file is to be written; give the path of a file")
        if target.exists() and not target.is_file():
            raise StorageError(
                f"{path}: this exists and is not a regular file, so it is not replaced; give another path"
            )
        folder = target.parent
        if not folder.exists():
            raise StorageError(f"{path}: the directory {folder} does not exist; create it first")
        if not folder.is_dir():
            raise StorageError(
                f"{path}: {folder} is not a directory, so nothing can be written in it; give another path"
            )
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StorageError(f"{path}: the directory {folder} may not be written; change its permissions")
    except StorageError:
        raise
    except OSError as error:
        raise storage_error("written", path, error) from error
    except (ValueError, RuntimeError) as error:
        raise StorageError(f"{str(path)!r}: this is not a path that can be written ({error}); give another") from None
    return target


def atomic_write(path: str | os.PathLike[str], write: Callable[[Path], None], *, needed: int | None = None) -> None:
    """Write a file through a temporary one beside it, so that it appears whole or not at all.

    Parameters
    ----------
    path : path-like
        The file to create or replace. It gets the mode that the umask gives new files.
    write : callable
        Called once with the path of an empty temporary file in the same directory, with an unpredictable name; it
        fills or replaces that file.
    needed : int, optional
        The size of the file in bytes, told in the sentence when the disk is full.

    Raises
    ------
    StorageError
        If the operating system refuses any step.

    Notes
    -----
    The bytes reach the disk (fsync) before the name changes, and the new name after it. On any exception, an interrupt
    by the user included, the temporary file is removed and what stood at `path` is untouched.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "note.txt"
    ...     atomic_write(path, lambda temporary: temporary.write_text("whole") and None)
    ...     print(path.read_text())
    whole
    """
    target = check_target(path)
    temporary = target.parent / f".sparsefact-{secrets.token_hex(16)}.tmp"
    try:
        # The kernel applies the umask to 0o666; reading it back from the file is the only way without a race.
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise storage_error("written", path, error, needed) from error
    try:
        try:
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
        write(temporary)
        # `write` may have put another file at this path, so it is opened again.
        descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            raise storage_error("written", path, error, needed) from error
        raise
    sync_directory(target.parent)


def sync_directory(folder: Path) -> None:
    """Make a new name durable. The file is already in place and whole, so a refusal is told and no more.

    Parameters
    ----------
    folder : Path
        The directory of the file.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        level = logging.DEBUG if error.errno in (errno.EINVAL, errno.ENOTSUP) else logging.WARNING
        _log.log(level, "%s: the directory could not be synchronised to disk (%s)", folder, error)
