"""The journal of a run: what has been committed, one checked line for each step, so that a killed run can go on.

Every line is ``<64 hexadecimal digits> <JSON object>``: the digits are the SHA-256 of the digits of the line before
(none for the first) followed by the object. So a flipped bit, a lost line and a line torn by a crash are told apart
from what was committed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsefact.errors import ArgumentError, FormatError, StorageError
from sparsefact.io.failure import quoted, storage_error
from sparsefact.io.stream import write_all, write_text

__all__ = ["JOURNAL_NAME", "Journal", "check_identity", "difference", "read_journal"]

JOURNAL_NAME = "sparsefact.journal"
FORMAT = 1
_MOST = 256_000_000  # bytes of a journal that are read


class Journal:
    """An open journal, to which lines are added; each is on disk when `append` returns.

    Parameters
    ----------
    path : Path
        The file.
    entries : list of dict
        What stands in it.
    digest : str
        The check of its last line.
    size : int
        Bytes of its whole lines; what follows them is torn, and is cut off by the next line.
    """

    def __init__(self, path: Path, entries: list[dict[str, Any]], digest: str, size: int) -> None:
        self.path = path
        self.entries = entries
        self._digest = digest
        self._size = size

    @classmethod
    def begin(cls, path: Path, identity: Mapping[str, Any]) -> Journal:
        """Start a new journal, atomically; what stood at `path` is replaced.

        Parameters
        ----------
        path : Path
            The file.
        identity : mapping
            What a later run must have in common with this one.
        """
        entry = {"kind": "begin", "format": FORMAT, "identity": dict(identity)}
        line, digest = _line("", entry)
        write_text(path, line)
        return cls(path, [entry], digest, len(line))

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Open the journal of an earlier run; a torn last line, which a crash leaves, counts as not written.

        Parameters
        ----------
        path : Path
            The file.

        Raises
        ------
        FormatError
            If anything but the last line is damaged.
        """
        entries, digest, size, torn = _read(path)
        if torn and not _only_torn(path, size):
            raise FormatError(
                f"{path}: line {len(entries) + 1} of the journal is damaged, and lines follow it; the run cannot go on "
                f"from it, so start anew with --resume never"
            )
        return cls(path, entries, digest, size)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add a line; it is on disk when this returns, and not there at all when this raises.

        Parameters
        ----------
        entry : mapping
            JSON-able, with a ``kind``.

        Raises
        ------
        StorageError
            If the operating system refuses.
        """
        line, digest = _line(self._digest, entry)
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise storage_error("written", self.path, error) from error
        try:
            os.ftruncate(descriptor, self._size)
            os.lseek(descriptor, self._size, os.SEEK_SET)
            write_all(descriptor, line)
            os.fsync(descriptor)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, self._size)
            if isinstance(error, OSError):
                raise storage_error("written", self.path, error, len(line)) from error
            raise
        finally:
            os.close(descriptor)
        self._digest, self._size = digest, self._size + len(line)
        self.entries.append(dict(entry))

    @property
    def identity(self) -> dict[str, Any]:
        """What the run that began it was."""
        identity: dict[str, Any] = self.entries[0]["identity"]
        return identity

    @property
    def complete(self) -> dict[str, Any] | None:
        """The line that says that the output is complete, or None."""
        return next((entry for entry in self.entries if entry["kind"] == "complete"), None)


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a journal of which every byte must be right, a torn last line included.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    list of dict

    Raises
    ------
    FormatError
        If any line is damaged.
    StorageError
        If it cannot be read.
    """
    entries, _, _, torn = _read(path)
    if torn:
        raise FormatError(f"{path}: line {len(entries) + 1} of the journal is damaged (its SHA-256 does not fit)")
    return entries


def check_identity(journal: Journal, identity: Mapping[str, Any], shown: Path | None = None) -> None:
    """Refuse to go on with a run that is not the same one, and name what differs.

    Parameters
    ----------
    journal : Journal
        Of the earlier run.
    identity : mapping
        Of the present one.
    shown : Path, optional
        What the sentence calls the place; by default the folder of the journal.

    Raises
    ------
    ArgumentError
        If they differ in any field.
    """
    found = difference(journal.identity, json.loads(json.dumps(dict(identity))))
    if found is not None:
        where, before, now = found
        raise ArgumentError(
            f"{shown or journal.path.parent}: the run begun there had {where} = {before}, and this one has {now}; "
            f"give what it had, another output, or --resume never to start anew"
        )


def difference(before: Any, now: Any, where: str = "") -> tuple[str, str, str] | None:
    """Return the first field in which two JSON values differ, with both of its values in short; None if they agree.

    Parameters
    ----------
    before, now : JSON values
        Dictionaries, lists, texts, numbers, truth values, None.
    where : str, optional
        What the name of the field begins with.

    Returns
    -------
    (str, str, str) or None

    Examples
    --------
    >>> difference({"recipe": {"seed": 0}}, {"recipe": {"seed": 1}})
    ('recipe.seed', '0', '1')
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            place = f"{where}.{key}" if where else key
            if key not in before or key not in now:
                shown = [_short(side[key]) if key in side else "nothing" for side in (before, now)]
                return place, shown[0], shown[1]
            found = difference(before[key], now[key], place)
            if found is not None:
                return found
        return None
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = enumerate(zip(before, now, strict=True))
        return next((d for i, (a, b) in pairs if (d := difference(a, b, f"{where}[{i}]")) is not None), None)
    if type(before) is type(now) and before == now:
        return None
    return where, _short(before), _short(now)


def _short(value: Any) -> str:
    return quoted(value) if isinstance(value, str) else quoted(json.dumps(value))[1:-1]


def _line(digest: str, entry: Mapping[str, Any]) -> tuple[bytes, str]:
    text = json.dumps(dict(entry), sort_keys=True, allow_nan=False, separators=(",", ":"))
    check = hashlib.sha256((digest + text).encode()).hexdigest()
    return f"{check} {text}\n".encode(), check


def _read(path: Path) -> tuple[list[dict[str, Any]], str, int, bool]:
    """Return the sound lines from the beginning, the check and the end of the last one, and whether bytes are left."""
    try:
        size = path.stat().st_size
        if size > _MOST:
            raise FormatError(f"{path}: the journal has {size:,} bytes, and at most {_MOST:,} are read")
        raw = path.read_bytes()
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise storage_error("read", path, error) from error
    entries: list[dict[str, Any]] = []
    digest, at = "", 0
    while at < len(raw):
        end = raw.find(b"\n", at)
        check, _, text = raw[at : max(end, at)].partition(b" ")
        expected = hashlib.sha256(digest.encode() + text).hexdigest()
        entry = _object(text) if end >= 0 and check == expected.encode() else None
        if entry is None:
            break
        entries.append(entry)
        digest, at = expected, end + 1
    if not entries or entries[0].get("kind") != "begin" or not isinstance(entries[0].get("identity"), dict):
        raise FormatError(f"{path}: the journal is damaged from its first line on; start anew with --resume never")
    if entries[0].get("format") != FORMAT:
        raise FormatError(
            f"{path}: the journal has format {_short(entries[0].get('format'))}, but this version reads {FORMAT}; "
            f"upgrade sparsefact"
        )
    return entries, digest, at, at < len(raw)


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get("kind"), str) else None


def _only_torn(path: Path, size: int) -> bool:
    """Whether what follows the sound lines is one line at most, as a crash leaves it."""
    rest = path.read_bytes()[size:]
    return b"\n" not in rest[:-1]
