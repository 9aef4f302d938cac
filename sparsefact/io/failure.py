"""Sentences for what the operating system refuses, and names shortened so that a hostile file cannot flood them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from sparsefact.errors import FormatError, StorageError

__all__ = ["pickle_error", "quoted", "storage_error"]

_LONGEST = 120

_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.EACCES: "change its permissions or choose another path",
    errno.EPERM: "change its permissions or choose another path",
    errno.EROFS: "choose a path on a file system that can be written",
    errno.EISDIR: "give the path of a file",
    errno.ENOTDIR: "check the path: one of its parts is a file, not a directory",
    errno.ELOOP: "check the path: its symbolic links form a loop",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ENOSPC: "free space or take another disk",
    errno.EDQUOT: "free space in your quota or take another disk",
    errno.EFBIG: "raise the limit on file sizes or take another disk",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}


def quoted(name: str) -> str:
    """Return `name` quoted on one line, shortened to at most 120 characters.

    Parameters
    ----------
    name : str
        Any text, perhaps from a file that cannot be trusted.

    Returns
    -------
    str
        Printable text without control characters.

    Examples
    --------
    >>> quoted("layer.0")
    "'layer.0'"
    """
    text = repr(name[: _LONGEST + 1])
    return text if len(text) <= _LONGEST else text[: _LONGEST - 4] + "...'"


def storage_error(action: str, path: str | os.PathLike[str], error: OSError, needed: int | None = None) -> StorageError:
    """Return the `StorageError` that tells in one sentence why `path` could not be `action`.

    Parameters
    ----------
    action : str
        A past participle: ``"read"`` or ``"written"``.
    path : path-like
        The file or directory meant.
    error : OSError
        What the operating system said; its ``errno`` is kept.
    needed : int, optional
        How many bytes the file takes, told when the disk is full.

    Returns
    -------
    StorageError
        To be raised by the caller.

    Examples
    --------
    >>> print(storage_error("written", "w.safetensors", OSError(28, "No space"), needed=1000))
    w.safetensors: cannot be written: No space left on device (1,000 bytes are needed); free space or take another disk
    """
    code = error.errno
    reason = (os.strerror(code) if code is not None else str(error)) or type(error).__name__
    if needed is not None and code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        reason += f" ({needed:,} bytes are needed)"
    remedy = _REMEDIES.get(code or 0, "check the path and the disk")
    sentence = StorageError(f"{os.fspath(path)}: cannot be {action}: {reason}; {remedy}")
    sentence.errno = code
    return sentence


def pickle_error(path: Path) -> FormatError:
    """Return the `FormatError` that tells why a pickle is not read, and what to do instead.

    Parameters
    ----------
    path : Path
        The file that is, or by its name should be, a pickle.

    Returns
    -------
    FormatError
        To be raised by the caller.
    """
    return FormatError(
        f"{path}: this is a pickle (a PyTorch .bin, .pt, .pth or .ckpt file), which is not read because loading one "
        f"can run any code; convert it to safetensors first, with safetensors.torch.save_file where you trust it"
    )
