"""An output folder checked: every byte of every file against the journal, then what the document claims.

The journal has the SHA-256 of each whole file, headers included, and every line of it checks the ones before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sparsefact.checkpoints.journal import JOURNAL_NAME, read_journal
from sparsefact.checkpoints.output import DOCUMENT_NAME, INDEX_NAME, is_output_folder, is_own
from sparsefact.errors import FormatError, SparsefactError
from sparsefact.io.failure import quoted
from sparsefact.io.lock import LOCK_NAME
from sparsefact.io.stream import file_sha256

__all__ = ["check_files"]

Found = tuple[str, bool, str]


def check_files(folder: Path) -> Iterator[Found]:
    """Compare every file of an output folder with the SHA-256 in the journal.

    Parameters
    ----------
    folder : Path
        What a run has written.

    Yields
    ------
    (str, bool, str)
        A file's name, whether it is as the journal says, and what was found.

    Raises
    ------
    FormatError
        If no run has written into the folder.
    """
    if not is_output_folder(folder):
        raise FormatError(f"{folder}: the folder holds no factors; only what sparsefact wrote can be verified")
    try:
        files = _promised(folder)
    except SparsefactError as error:
        yield JOURNAL_NAME, False, str(error)
        return
    yield JOURNAL_NAME, True, f"every line is as it was written, and it lists {len(files)} files"
    for name, sha256 in files.items():
        path = folder / name
        try:
            same = path.is_file() and file_sha256(path) == sha256
            message = "every byte is as it was written" if same else "its SHA-256 is not the one in the journal"
            yield name, same, message if path.is_file() else "it is in the journal, but not in the folder"
        except SparsefactError as error:
            yield name, False, str(error)
    for path in sorted(folder.iterdir()):
        known = path.name in files or path.name in (JOURNAL_NAME, LOCK_NAME)
        if not known and (is_own(path.name) or path.suffix == ".safetensors"):
            yield path.name, False, "it is in the folder, but not in the journal"


def _promised(folder: Path) -> Mapping[str, str]:
    """Return the SHA-256 of each file that the journal says is there."""
    path = folder / JOURNAL_NAME
    if not path.exists():
        raise FormatError(f"{path}: there is no journal to compare the files with; copy it beside them")
    entries = read_journal(path)
    complete = next((entry for entry in entries if entry["kind"] == "complete"), None)
    if complete is None:
        raise FormatError(f"{path}: the run has not ended; run its command again")
    files: Any = complete.get("files")
    if not isinstance(files, dict) or not all(isinstance(sha256, str) for sha256 in files.values()):
        raise FormatError(f"{path}: its last line lists no files")
    for name in files:
        if "/" in name or "\0" in name or name in ("", ".", ".."):
            raise FormatError(f"{path}: it lists the file {quoted(name)}, and that is none in the folder itself")
    for needed in (DOCUMENT_NAME, INDEX_NAME):
        if needed not in files:
            raise FormatError(f"{path}: it does not list {needed}")
    return files
