"""Where a run writes: the folder that is its output, or the folder of work beside the one file that is."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from sparsefact.checkpoints.journal import JOURNAL_NAME, Journal
from sparsefact.checkpoints.output import ASSEMBLED_NAME, is_own
from sparsefact.errors import ArgumentError, FormatError, StorageError
from sparsefact.io.atomic import check_target, sync_directory
from sparsefact.io.checkpoint import Checkpoint
from sparsefact.io.failure import quoted, storage_error
from sparsefact.io.lock import LOCK_NAME
from sparsefact.io.tensor_file import is_pickle_name

__all__ = ["Place"]

_PARTIAL = ".partial"


@dataclass
class Place:
    """The output of a run, and the folder it works in.

    Attributes
    ----------
    output : Path
        As it was given.
    target : Path
        The same without symbolic links.
    folder : Path
        Where shards and the journal are.
    single : bool
        Whether the output is one file.
    finished : bool
        Whether the one file has taken its place, so that the folder of work can go.
    created : bool
        Whether the folder was not there before.
    """

    output: Path
    target: Path
    folder: Path
    single: bool
    finished: bool = False
    created: bool = False

    @classmethod
    def of(cls, output: str | os.PathLike[str], checkpoint: Checkpoint) -> Place:
        """Refuse what could not be written, or would overwrite the input, before any work is done.

        Parameters
        ----------
        output : path-like
            A folder, or a file of suffix ``.safetensors``.
        checkpoint : Checkpoint
            The input.

        Returns
        -------
        Place
            Nothing has been created yet.

        Raises
        ------
        ArgumentError, StorageError
            If it will not do; the sentence says why.
        """
        path = Path(output)
        if path.suffix == ".safetensors":
            target = check_target(path)
            for file in checkpoint.files:
                if target == file.resolve() or (target.exists() and target.samefile(file)):
                    raise ArgumentError(
                        f"output is {quoted(str(path))}, which is {file}, a file of the checkpoint itself; give "
                        f"another path"
                    )
            return cls(path, target, target.with_name(target.name + _PARTIAL), single=True)
        if is_pickle_name(path.name):
            raise ArgumentError(
                f"output is {quoted(str(path))}, and it must be the path of a .safetensors file or a folder; rename it"
            )
        try:
            target = path.resolve()
            if target.exists() and not target.is_dir():
                raise StorageError(f"{path}: this is a file where a folder is to be written; give another path")
            if target in {file.resolve().parent for file in checkpoint.files}:
                raise ArgumentError(
                    f"output is {quoted(str(path))}, the folder of the checkpoint itself; give another path"
                )
            if not target.exists():
                check_target(path)
            elif not (target / JOURNAL_NAME).exists():
                strange = sorted(entry.name for entry in target.iterdir() if not is_own(entry.name))
                if strange:
                    raise ArgumentError(
                        f"output is {quoted(str(path))}, a folder that holds {quoted(strange[0])} and no run of "
                        f"sparsefact; give a new or an empty folder"
                    )
        except (ArgumentError, StorageError):
            raise
        except OSError as error:
            raise storage_error("written", path, error) from error
        return cls(path, target, target, single=False)

    @property
    def shown(self) -> Path:
        """The folder, named as the output was given."""
        return self.output.with_name(self.folder.name) if self.single else self.output

    def create(self) -> None:
        """Make the folder, unless it is there."""
        try:
            self.created = not self.folder.exists()
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise storage_error("written", self.folder, error) from error

    def remove_temporary(self) -> None:
        """Remove what killed writers have left half-written."""
        for path in self.folder.glob(".sparsefact-*.tmp"):
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the files of an earlier run; the journal goes last, so that the folder is known until then."""
        try:
            journal = self.folder / JOURNAL_NAME
            for name in self._written(journal):
                (self.folder / name).unlink(missing_ok=True)
            for path in list(self.folder.iterdir()):
                if is_own(path.name) and path.name not in (JOURNAL_NAME, LOCK_NAME):
                    path.unlink(missing_ok=True)
            journal.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error("written", self.folder, error) from error

    def _written(self, journal: Path) -> list[str]:
        """Return the names of all files that an earlier run says it has written in the folder."""
        with contextlib.suppress(FormatError, StorageError):
            complete = Journal.open(journal).complete or {}
            names = [name for name in complete.get("files", {}) if isinstance(name, str)]
            return [name for name in names if "/" not in name and name not in (JOURNAL_NAME, LOCK_NAME)]
        return []

    @property
    def assembled(self) -> Path:
        """Where a single file is made, on the file system of the output."""
        return self.folder / ASSEMBLED_NAME

    def publish(self) -> None:
        """Put the assembled file in its place, unless that has been done.

        Raises
        ------
        StorageError
            If the operating system refuses; what stood there before then still does.
        """
        try:
            if self.assembled.exists():
                self.assembled.replace(self.target)
                sync_directory(self.target.parent)
        except OSError as error:
            raise storage_error("written", self.output, error) from error
        self.finished = True

    def sweep(self, *, committed: bool) -> None:
        """At the end of a run, under its lock, leave nothing half-written and no work that nobody needs.

        Parameters
        ----------
        committed : bool
            Whether a matrix, or anything else that took time, has been committed.
        """
        with contextlib.suppress(OSError):
            self.remove_temporary()
            if not committed or self.finished:
                self.clear()

    def leave(self) -> None:
        """Remove the folder again if it is empty, after the lock in it has been given back."""
        if self.created or self.single:
            with contextlib.suppress(OSError):
                self.folder.rmdir()
