"""A checkpoint as it comes: one safetensors file, or a directory of them with an index, read as one set of tensors."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from sparsefact.errors import ArgumentError, FormatError, SparsefactError, StorageError
from sparsefact.io.failure import pickle_error, quoted, storage_error
from sparsefact.io.tensor_file import TensorFile, TensorInfo, is_pickle_name

__all__ = ["Checkpoint", "check_inside", "open_checkpoint"]

_log = logging.getLogger(__name__)

_INDEX_SUFFIX = ".safetensors.index.json"
_MAX_INDEX = 32_000_000  # bytes
_MAX_COMMAS = 1_000_000  # bounds what the JSON parser builds
_LISTED = 5


class Checkpoint:
    """The tensors of one or several safetensors files under their names; made by `open_checkpoint`.

    Parameters
    ----------
    path : Path
        What was opened.
    opened : iterable of TensorFile
        The open files; closing the checkpoint closes them.
    files : mapping of str to TensorFile
        For each tensor, the file among them that holds it.

    Attributes
    ----------
    path : Path
        What was opened.
    """

    def __init__(self, path: Path, opened: Iterable[TensorFile], files: Mapping[str, TensorFile]) -> None:
        self.path = path
        self._opened = tuple(opened)
        self._files = dict(files)

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names, in the order of the file or of the index."""
        return tuple(self._files)

    @property
    def files(self) -> tuple[Path, ...]:
        """The paths of the safetensors files, each once."""
        return tuple(file.path for file in self._opened)

    def info(self, name: str) -> TensorInfo:
        """Return the type, shape and size of a tensor.

        Parameters
        ----------
        name : str
            One of `names`.

        Returns
        -------
        TensorInfo
            What the header of its file says.

        Raises
        ------
        ArgumentError
            If there is no tensor of that name.
        """
        return self._of(name).info(name)

    def read(self, name: str) -> NDArray[Any]:
        """Return a tensor as a read-only array over the file's bytes (see `TensorFile.read`).

        Parameters
        ----------
        name : str
            One of `names`.

        Returns
        -------
        ndarray
            Of the tensor's shape.

        Raises
        ------
        ArgumentError
            If there is no tensor of that name.
        """
        return self._of(name).read(name)

    def file_of(self, name: str) -> TensorFile:
        """Return the open file that holds a tensor.

        Parameters
        ----------
        name : str
            One of `names`.

        Returns
        -------
        TensorFile
            Closed with the checkpoint.

        Raises
        ------
        ArgumentError
            If there is no tensor of that name.
        """
        return self._of(name)

    def sha256(self, name: str) -> str:
        """Return the SHA-256 of a tensor's bytes as they stand in its file.

        Parameters
        ----------
        name : str
            One of `names`.

        Returns
        -------
        str
            64 hexadecimal digits.

        Raises
        ------
        ArgumentError
            If there is no tensor of that name.
        """
        return self._of(name).sha256(name)

    def close(self) -> None:
        """Close every file; arrays that were read stay valid."""
        for file in self._opened:
            file.close()

    def _of(self, name: str) -> TensorFile:
        try:
            return self._files[name]
        except KeyError:
            raise ArgumentError(f"name is {quoted(name)}, and {self.path} has no tensor of that name") from None

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, {len(self._files)} tensors in {len(self._opened)} files)"


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint for reading; tensors are mapped into memory, never read as a whole.

    Parameters
    ----------
    path : path-like
        A safetensors file; an index file (``*.safetensors.index.json``); or a directory with
        ``model.safetensors.index.json``, with ``model.safetensors``, or with exactly one ``*.safetensors`` file.

    Returns
    -------
    Checkpoint
        A context manager with ``names``, ``info``, ``read`` and ``sha256``.

    Raises
    ------
    StorageError
        If the path or a shard is missing or may not be read, or the directory holds no checkpoint.
    FormatError
        If a file is a pickle or lies about its contents, if the index is malformed, names a shard outside its
        directory or promises a tensor that its shard lacks, or if the directory leaves the choice open.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sparsefact.io.write import write_tensors
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(Path(folder) / "model.safetensors", {"w": np.eye(2)})
    ...     with open_checkpoint(folder) as checkpoint:
    ...         print(checkpoint.names, checkpoint.read("w")[1])
    ('w',) [0. 1.]
    """
    place = Path(path)
    try:
        found = _choose(place) if place.is_dir() else place
    except SparsefactError:
        raise
    except OSError as error:
        raise storage_error("read", place, error) from error
    except ValueError as error:
        raise StorageError(f"{quoted(str(path))}: this is not a path ({error}); give that of a checkpoint") from None
    if found.name.endswith(_INDEX_SUFFIX):
        return _open_shards(place, found)
    if found is not place:
        check_inside(found, place, "the directory")
    file = TensorFile(found)
    return Checkpoint(place, [file], dict.fromkeys(file.names, file))


def _choose(folder: Path) -> Path:
    """Return the index or the one file that is the checkpoint in a directory."""
    for name in ("model" + _INDEX_SUFFIX, "model.safetensors"):
        if (folder / name).exists():
            return folder / name
    listed = sorted(entry.name for entry in folder.iterdir())
    for suffix in (_INDEX_SUFFIX, ".safetensors"):
        fitting = [name for name in listed if name.endswith(suffix)]
        if len(fitting) == 1:
            return folder / fitting[0]
        if fitting:
            raise FormatError(
                f"{folder}: the directory has {len(fitting)} *{suffix} files ({_some(fitting)}) and none of the name "
                f"model{suffix} to choose by; give the path of the one that is meant"
            )
    pickles = [name for name in listed if is_pickle_name(name)]
    if pickles:
        raise pickle_error(folder / pickles[0])
    raise StorageError(
        f"{folder}: the directory has no *.safetensors file and no model{_INDEX_SUFFIX}; give that of a checkpoint"
    )


def _open_shards(place: Path, index: Path) -> Checkpoint:
    """Open every shard that the index names, and check that it has what the index promises."""
    shards = _read_index(index)
    folder = index.parent
    names = list(dict.fromkeys(shards.values()))
    for shard in names:
        _check_plain(shard, index)
    missing = [shard for shard in names if not (folder / shard).exists()]
    if missing:
        raise StorageError(
            f"{index}: the index names {len(missing)} shards that are missing from {folder} ({_some(missing)}); "
            f"download them again"
        )
    with ExitStack() as opened:
        files: dict[str, TensorFile] = {}
        for shard in names:
            check_inside(folder / shard, folder, "the index")
            files[shard] = opened.enter_context(TensorFile(folder / shard))
        lacking = [name for name, shard in shards.items() if name not in files[shard]]
        if lacking:
            first = lacking[0]
            raise FormatError(
                f"{index}: the index promises {len(lacking)} tensors that their shards lack, the first of them "
                f"{quoted(first)} in {shards[first]}; the index and the shards are not of one checkpoint"
            )
        ignored = sum(len(file.names) for file in files.values()) - len(shards)
        if ignored:
            _log.warning("%s: %d tensors in the shards are not in the index and are left out", index, ignored)
        opened.pop_all()
        return Checkpoint(place, files.values(), {name: files[shard] for name, shard in shards.items()})


def _read_index(index: Path) -> dict[str, str]:
    """Return the index's ``weight_map``: for each tensor, the file name of its shard."""
    try:
        with index.open("rb") as file:
            raw = file.read(_MAX_INDEX + 1)
    except OSError as error:
        raise storage_error("read", index, error) from error
    if len(raw) > _MAX_INDEX or raw.count(b",") > _MAX_COMMAS:
        raise FormatError(
            f"{index}: the index has more than {_MAX_INDEX:,} bytes or {_MAX_COMMAS:,} entries, the most that is read"
        )
    try:
        document = json.loads(raw.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{index}: the index is not valid JSON in UTF-8 ({quoted(str(error))}); download it again"
        ) from None
    shards = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(shards, dict) or not shards or not all(isinstance(shard, str) for shard in shards.values()):
        raise FormatError(
            f"{index}: the index must be a JSON object whose 'weight_map' is an object that gives for each tensor the "
            f"file name of its shard; download it again"
        )
    return shards


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {quoted(twice)} stands there twice")
    return fields


def _check_plain(shard: str, index: Path) -> None:
    """Refuse a shard name that is more than the name of a file beside the index."""
    if shard in ("", ".", "..") or any(mark in shard for mark in "/\\\0") or Path(shard).is_absolute():
        raise FormatError(
            f"{index}: the index names the shard {quoted(shard)}, and a shard must be the plain name of a file in the "
            f"index's own directory; the index is damaged or hostile"
        )
    if is_pickle_name(shard):
        raise pickle_error(index.parent / shard)


def check_inside(file: Path, folder: Path, who: str) -> None:
    """Refuse a symbolic link that leads out of a directory.

    The cache of the Hugging Face hub is the exception: its snapshots/<revision>/ holds links to ../../blobs/ and
    nothing else.

    Parameters
    ----------
    file : Path
        Perhaps a link.
    folder : Path
        The directory it must stay in.
    who : str
        What leads to it, for the sentence.

    Raises
    ------
    FormatError
        If it leads out.
    StorageError
        If it leads nowhere.
    """
    try:
        real, home = file.resolve(strict=True), folder.resolve(strict=True)
    except OSError as error:
        raise storage_error("read", file, error) from error
    except RuntimeError:
        raise StorageError(f"{file}: cannot be read: its symbolic links form a loop; check the path") from None
    cached = home.parent.name == "snapshots" and real.parent == home.parent.parent / "blobs"
    if not real.is_relative_to(home) and not cached:
        raise FormatError(
            f"{file}: {who} leads through a symbolic link to {real}, outside of {folder}; copy the file into the "
            f"directory, or give its own path"
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(quoted(name) for name in names[:_LISTED])
    return shown + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
