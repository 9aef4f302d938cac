"""What a run leaves: a folder of shards with an index and a document, or one file; and how both are read again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparsefact.analysis.stated import read_record
from sparsefact.checkpoints.journal import JOURNAL_NAME
from sparsefact.checkpoints.recipe import RECIPE_NAME
from sparsefact.errors import ArgumentError, FormatError, SparsefactError, StorageError
from sparsefact.io.checkpoint import Checkpoint, check_inside
from sparsefact.io.failure import quoted, storage_error
from sparsefact.io.lock import LOCK_NAME
from sparsefact.io.stream import Streamed, file_sha256, of_file, write_streamed, write_text
from sparsefact.io.tensor_file import TensorFile
from sparsefact.products.factorization import Factorization
from sparsefact.products.fields import Fields
from sparsefact.products.storage import KEY, document, read_document

__all__ = [
    "ASSEMBLED_NAME",
    "DOCUMENT_NAME",
    "INDEX_NAME",
    "committed_sha256",
    "finish_folder",
    "finish_single",
    "is_output_folder",
    "is_own",
    "load_matrix",
    "read_folder",
    "shard_name",
    "shard_of",
    "side_files",
]

INDEX_NAME = "model.safetensors.index.json"
DOCUMENT_NAME = "sparsefact.json"
ASSEMBLED_NAME = "assembled.safetensors"
_SHARD = 4 << 30  # bytes of one shard of copied tensors
_SHARD_TENSORS = 10_000
_SIDE = {".json", ".txt", ".model", ".tiktoken", ".jinja", ".md"}
_MOST_SIDE = 64 << 20  # bytes of a file that is taken along
_MOST_DOCUMENT = 256_000_000


def shard_name(index: int, total: int) -> str:
    """Return the name of the file that holds the factors of a matrix.

    Examples
    --------
    >>> shard_name(0, 12)
    'factors-00001-of-00012.safetensors'
    """
    return f"factors-{index + 1:05}-of-{total:05}.safetensors"


def is_own(name: str) -> bool:
    """Return whether a file of this name in an output folder is one that a run writes there.

    Examples
    --------
    >>> is_own("factors-00001-of-00002.safetensors"), is_own("notes.txt")
    (True, False)
    """
    shard = name.startswith(("factors-", "copied-")) and name.endswith(".safetensors") and "-of-" in name
    temporary = name.startswith(".sparsefact-") and name.endswith(".tmp")
    return (
        shard or temporary or name in (ASSEMBLED_NAME, INDEX_NAME, DOCUMENT_NAME, RECIPE_NAME, JOURNAL_NAME, LOCK_NAME)
    )


def is_output_folder(path: Path) -> bool:
    """Return whether a path is a folder that a run has begun to fill."""
    return path.is_dir() and ((path / JOURNAL_NAME).is_file() or (path / DOCUMENT_NAME).is_file())


def finish_folder(
    folder: Path,
    checkpoint: Checkpoint,
    *,
    factors: Mapping[str, tuple[str, str]],
    copied: Sequence[str],
    failed: Mapping[str, str],
    source: Path,
    on_tensor: Callable[[str], object],
) -> dict[str, str]:
    """Write all that is not factors: the copied tensors, the files beside the checkpoint, the document, the index.

    Parameters
    ----------
    folder : Path
        Holds the shards of factors already.
    checkpoint : Checkpoint
        Where the copied tensors come from.
    factors : mapping of str to (str, str)
        For each factorized matrix its shard and the SHA-256 of that file.
    copied, failed
        Names of tensors that are taken over, and why the failed ones are.
    source : Path
        The checkpoint's path.
    on_tensor : callable
        Called before each copied tensor; what it raises ends the writing.

    Returns
    -------
    dict of str to str
        The SHA-256 of every file of the output but the journal.
    """
    files = dict(factors.values())
    weight_map: dict[str, str] = {}
    records: dict[str, Any] = {}
    sha256: dict[str, str] = {}
    total = 0
    for name, (shard, _) in factors.items():
        with TensorFile(folder / shard) as file:
            records[name] = {**read_document(file.metadata, str(folder / shard))["matrices"][name], "file": shard}
            weight_map |= dict.fromkeys(file.names, shard)
            total += sum(file.info(tensor).nbytes for tensor in file.names)
    kept = [*copied, *failed]
    groups = _groups([(name, checkpoint.info(name).nbytes) for name in kept])
    for number, group in enumerate(groups):
        shard = f"copied-{number + 1:05}-of-{len(groups):05}.safetensors"
        tensors = [_hashed(of_file(name, checkpoint.file_of(name)), sha256) for name in group]
        files[shard], _ = write_streamed(folder / shard, tensors, on_tensor=on_tensor)
        weight_map |= dict.fromkeys(group, shard)
        total += sum(tensor.nbytes for tensor in tensors)
    for path in side_files(source):
        files[path.name] = _copy_file(path, folder / path.name)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    content = json.loads(
        document(
            records,
            source=source.resolve().name,
            copied=copied,
            failed=failed,
            sha256=sha256,
        )[KEY]
    )
    content["files"] = dict(sorted(files.items()))
    text = json.dumps(content, sort_keys=True, allow_nan=False, indent=1) + "\n"
    files[DOCUMENT_NAME] = write_text(folder / DOCUMENT_NAME, text)
    # The index comes last: without it the folder is not taken for a checkpoint.
    files[INDEX_NAME] = write_text(folder / INDEX_NAME, json.dumps(index, indent=1) + "\n")
    return files


def finish_single(
    folder: Path,
    checkpoint: Checkpoint,
    *,
    factors: Mapping[str, tuple[str, str]],
    copied: Sequence[str],
    failed: Mapping[str, str],
    source: Path,
    on_tensor: Callable[[str], object],
) -> str:
    """Put the shards of factors and the copied tensors into one file, still in the folder of work.

    Parameters
    ----------
    folder, checkpoint, factors, copied, failed, source, on_tensor
        As in `finish_folder`.

    Returns
    -------
    str
        The SHA-256 of the file.
    """
    with ExitStack() as opened:
        tensors: list[Streamed] = []
        records: dict[str, Any] = {}
        for name, (shard, _) in factors.items():
            file = opened.enter_context(TensorFile(folder / shard))
            records[name] = read_document(file.metadata, str(folder / shard))["matrices"][name]
            tensors += [of_file(tensor, file) for tensor in file.names]
        kept = [*copied, *failed]
        tensors += [of_file(name, checkpoint.file_of(name)) for name in kept]
        metadata = document(
            records,
            source=source.resolve().name,
            copied=copied,
            failed=failed,
            sha256={name: checkpoint.sha256(name) for name in kept},
        )
        sha256, _ = write_streamed(folder / ASSEMBLED_NAME, tensors, metadata, on_tensor=on_tensor)
        return sha256


def _hashed(tensor: Streamed, found: dict[str, str]) -> Streamed:
    """Return a tensor whose SHA-256 is entered in a dictionary while it is written, so that it is read only once."""

    def pieces() -> Iterator[bytes | memoryview]:
        digest = hashlib.sha256()
        for piece in tensor.pieces():
            digest.update(piece)
            yield piece
        found[tensor.name] = digest.hexdigest()

    return replace(tensor, pieces=pieces)


def _groups(sizes: Iterable[tuple[str, int]]) -> list[list[str]]:
    """Split names into shards of a bounded size, in order."""
    groups: list[list[str]] = []
    filled = 0
    for name, nbytes in sizes:
        if not groups or (filled + nbytes > _SHARD and groups[-1]) or len(groups[-1]) >= _SHARD_TENSORS:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += nbytes
    return groups


def side_files(source: Path) -> list[Path]:
    """Return the small files beside a checkpoint's shards that its users need: configuration and tokenizer.

    Parameters
    ----------
    source : Path
        The checkpoint; beside a single file nothing is taken along.

    Returns
    -------
    list of Path
        Sorted by name. Code and pickles are never among them.
    """
    if not source.is_dir():
        return []
    found = []
    for path in sorted(source.iterdir()):
        if path.suffix not in _SIDE or path.name.endswith(".index.json") or is_own(path.name):
            continue
        try:
            check_inside(path, source, "the directory")
            if path.is_file() and path.stat().st_size <= _MOST_SIDE:
                found.append(path)
        except (SparsefactError, OSError):
            continue
    return found


def _copy_file(path: Path, target: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise storage_error("read", path, error) from error
    return write_text(target, raw)


def read_folder(folder: Path) -> dict[str, Any]:
    """Return the document of an output folder, its outline checked as that of a factor file.

    Parameters
    ----------
    folder : Path
        What a run has written.

    Returns
    -------
    dict
        As `sparsefact.products.storage.read_document` returns it, with ``files`` besides.

    Raises
    ------
    StorageError
        If the document is missing: the run is not complete.
    FormatError
        If it is not what it should be.
    """
    path = folder / DOCUMENT_NAME
    if not path.exists():
        raise StorageError(
            f"{folder}: the folder has no {DOCUMENT_NAME}, so the run that fills it has not ended; run it again"
        )
    try:
        if path.stat().st_size > _MOST_DOCUMENT:
            raise FormatError(f"{path}: the document has more than {_MOST_DOCUMENT:,} bytes, the most that is read")
        text = path.read_bytes().decode()
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise storage_error("read", path, error) from error
    except UnicodeDecodeError:
        raise FormatError(f"{path}: the document is not UTF-8 text") from None
    content = read_document({KEY: text}, str(path))
    files = content.get("files")
    if not isinstance(files, dict) or not all(isinstance(value, str) for value in files.values()):
        raise FormatError(f"{path}: 'files' must be an object of texts")
    for name in files:
        if "/" in name or name in ("", ".", "..") or "\0" in name:
            raise FormatError(f"{path}: 'files' names {quoted(name)}, and it must be a file in the folder itself")
    return content


def load_matrix(folder: Path, name: str, content: Mapping[str, Any] | None = None) -> Factorization:
    """Read the factors of one matrix from an output folder, with everything checked.

    Parameters
    ----------
    folder : Path
        What a run has written.
    name : str
        Of the matrix.
    content : mapping, optional
        What `read_folder` returned.

    Returns
    -------
    Factorization

    Raises
    ------
    ArgumentError
        If the folder has no factors of that name.
    StorageError, FormatError
        If a file is missing or damaged.
    """
    matrices = (read_folder(folder) if content is None else content)["matrices"]
    if name not in matrices:
        raise ArgumentError(f"{folder}: name is {quoted(name)}, and no matrix of that name is factorized there")
    with TensorFile(folder / shard_of(folder, name, matrices[name])) as file:
        return read_record(matrices[name], file.read, where=f"{folder}: {quoted(name)}")


def shard_of(folder: Path, name: str, record: Any) -> str:
    """Return the file name of a record's shard, which must lie in the folder itself."""
    shard = Fields(record, f"{folder}: {quoted(name)}").required("file", str)
    if "/" in shard or not is_own(shard):
        raise FormatError(f"{folder}: the record of {quoted(name)} names the file {quoted(shard)}, which is no shard")
    return str(shard)


def committed_sha256(path: Path, nbytes: int, on_piece: Callable[[], object]) -> str | None:
    """Return the SHA-256 of a committed file, or None if it is gone or of another size."""
    try:
        if path.stat().st_size != nbytes:
            return None
        return file_sha256(path, on_piece)
    except OSError:
        return None
