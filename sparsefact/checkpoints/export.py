"""An output turned back into what other programs load: the dense checkpoint of the products."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from sparsefact.analysis.stated import read_record
from sparsefact.checkpoints.output import (
    INDEX_NAME,
    load_matrix,
    read_folder,
    side_files,
)
from sparsefact.errors import ArgumentError, FormatError
from sparsefact.io.atomic import check_target
from sparsefact.io.checkpoint import Checkpoint, open_checkpoint
from sparsefact.io.dtypes import COMPUTABLE, DTYPES
from sparsefact.io.failure import quoted, storage_error
from sparsefact.io.stream import Streamed, of_file, write_streamed, write_text
from sparsefact.io.tensor_file import TensorFile
from sparsefact.products.fields import Fields
from sparsefact.products.storage import read_document

__all__ = ["Factorized", "export_dense"]

_SHARD = 4 << 30  # bytes of one shard
_PANEL = 1 << 22  # entries of a product formed together


class Factorized:
    """The matrices of an output, a folder or one file, read one at a time.

    Parameters
    ----------
    path : path-like
        What ``sparsefact factorize`` has written.

    Attributes
    ----------
    names : tuple of str
        The factorized matrices.

    Examples
    --------
    >>> import tempfile
    >>> import sparsefact as sf
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sf.Factorization([np.eye(2), np.ones((2, 3))]).save(Path(folder) / "one.safetensors", name="w")
    ...     with Factorized(Path(folder) / "one.safetensors") as matrices:
    ...         print(matrices.names, matrices.load("w").shape)
    ('w',) (2, 3)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._opened = ExitStack()
        self._file: TensorFile | None = None
        if self.path.is_dir():
            self.content = read_folder(self.path)
        else:
            self._file = self._opened.enter_context(TensorFile(self.path))
            self.content = read_document(self._file.metadata, str(self.path))
        self.names = tuple(self.content["matrices"])

    def load(self, name: str) -> Any:
        """Return the factorization of a matrix, with every promise of its record checked."""
        if self._file is None:
            return load_matrix(self.path, name, self.content)
        return read_record(self.content["matrices"][name], self._file.read, where=f"{self.path}: {quoted(name)}")

    def stored_dtype(self, name: str) -> str:
        """Return the type in which the matrix stood in the checkpoint, or in which its factors do."""
        record = self.content["matrices"][name]
        code = str(record.get("source_dtype", record.get("dtype")))
        if code not in COMPUTABLE:
            raise FormatError(
                f"{self.path}: the record of {quoted(name)} has the dtype {quoted(code)}, which is not real"
            )
        return code

    def kept(self) -> tuple[str, ...]:
        """Return the names of the tensors that were taken over unchanged."""
        return (*self.content["copied"], *self.content["failed"])

    def close(self) -> None:
        """Give the files back."""
        self._opened.close()

    def __enter__(self) -> Factorized:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def export_dense(
    path: str | os.PathLike[str], output: str | os.PathLike[str], *, on_tensor: Callable[[str], object] | None = None
) -> tuple[int, int]:
    """Write the plain checkpoint in which every factorized matrix is replaced by the product of its factors.

    Parameters
    ----------
    path : path-like
        What ``sparsefact factorize`` has written: a folder or one file.
    output : path-like
        A new folder, which gets shards, their index and the files beside the checkpoint; or one ``.safetensors`` file.
    on_tensor : callable, optional
        Called with the name of each tensor before it is written.

    Returns
    -------
    (int, int)
        How many matrices were multiplied out, and how many tensors copied.

    Raises
    ------
    ArgumentError
        If `output` is there already, or is the input.
    StorageError, FormatError
        If the input cannot be read or the output cannot be written.

    Notes
    -----
    Products are computed in float64, a panel of rows at a time, and rounded once to the type of the checkpoint.
    """
    target = Path(output)
    single = target.suffix == ".safetensors"
    if target.exists():
        raise ArgumentError(f"output is {quoted(str(output))}, which is there already; give a new path")
    check_target(target)
    with Factorized(path) as matrices, open_checkpoint(path) as checkpoint:
        groups = _groups(matrices, checkpoint, single=single)
        if single:
            write_streamed(target, [_tensor(name, matrices, checkpoint) for name in groups[0]], on_tensor=on_tensor)
        else:
            _write_folder(target, groups, matrices, checkpoint, on_tensor)
        return len(matrices.names), len(matrices.kept())


def _write_folder(
    target: Path,
    groups: list[list[str]],
    matrices: Factorized,
    checkpoint: Checkpoint,
    on_tensor: Callable[[str], object] | None,
) -> None:
    try:
        target.mkdir()
    except OSError as error:
        raise storage_error("written", target, error) from error
    written: list[Path] = []
    try:
        weight_map: dict[str, str] = {}
        total = 0
        for number, group in enumerate(groups, 1):
            shard = f"model-{number:05}-of-{len(groups):05}.safetensors"
            tensors = [_tensor(name, matrices, checkpoint) for name in group]
            written.append(target / shard)
            write_streamed(target / shard, tensors, {"format": "pt"}, on_tensor=on_tensor)
            weight_map |= dict.fromkeys(group, shard)
            total += sum(tensor.nbytes for tensor in tensors)
        for beside in side_files(matrices.path):
            written.append(target / beside.name)
            write_text(target / beside.name, beside.read_bytes())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        written.append(target / INDEX_NAME)
        write_text(target / INDEX_NAME, json.dumps(index, indent=1) + "\n")
    except BaseException:
        for file in written:
            file.unlink(missing_ok=True)
        target.rmdir()
        raise


def _groups(matrices: Factorized, checkpoint: Checkpoint, *, single: bool) -> list[list[str]]:
    """Split all tensors into shards of a bounded size."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name in sorted((*matrices.names, *matrices.kept())):
        nbytes = _nbytes(name, matrices) if name in matrices.names else checkpoint.info(name).nbytes
        if not single and groups[-1] and filled + nbytes > _SHARD:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += nbytes
    return groups


def _shape(name: str, matrices: Factorized) -> tuple[int, int]:
    return Fields(matrices.content["matrices"][name], f"{matrices.path}: {quoted(name)}").shape()


def _nbytes(name: str, matrices: Factorized) -> int:
    rows, columns = _shape(name, matrices)
    return rows * columns * DTYPES[matrices.stored_dtype(name)].itemsize


def _tensor(name: str, matrices: Factorized, checkpoint: Checkpoint) -> Streamed:
    if name not in matrices.names:
        return of_file(name, checkpoint.file_of(name))
    code = matrices.stored_dtype(name)

    def pieces() -> Iterator[memoryview]:
        first, *others = (
            factor.tocsr() if hasattr(factor, "tocsr") else factor for factor in matrices.load(name).factors
        )
        right = [other.astype(np.float64) for other in others]
        height = max(1, _PANEL // max(1, *(factor.shape[1] for factor in (first, *others))))
        for start in range(0, first.shape[0], height):
            panel = first[start : start + height].astype(np.float64)
            for other in right:
                panel = panel @ other
            rows = panel.toarray() if hasattr(panel, "toarray") else panel
            with np.errstate(over="ignore"):
                rounded = np.ascontiguousarray(rows.astype(DTYPES[code]))
            yield rounded.reshape(-1).view(np.uint8).data

    return Streamed(name, code, _shape(name, matrices), _nbytes(name, matrices), pieces)
