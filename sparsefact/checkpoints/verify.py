"""A factor file checked claim by claim, by another way than the one it was written and is loaded by.

What is checked is docs/format.md: the factors are decoded from its description alone, and errors recomputed in float64.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sparsefact.checkpoints.output import read_folder
from sparsefact.checkpoints.verify_claims import certificate_holds, claim_parts
from sparsefact.checkpoints.verify_folder import check_files
from sparsefact.constraints.double_sparse import joint_budget
from sparsefact.errors import SparsefactError
from sparsefact.io.checkpoint import Checkpoint, open_checkpoint
from sparsefact.io.dtypes import code_of
from sparsefact.io.failure import quoted
from sparsefact.io.tensor_file import TensorFile
from sparsefact.products.storage import read_document

__all__ = ["Finding", "VerifyReport", "verify"]

_Tensors = TensorFile | Checkpoint
_RELATIVE, _ABSOLUTE = 1e-6, 1e-12
_PANEL = 1 << 21  # entries of the residual formed together
_PARTS = {"bitmask": {"bits", "values"}, "csr": {"indptr", "indices", "values"}}
_KINDS = ("bitmask", "csr", "dense", "kronecker")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
        The matrix, the tensor or the file.
    ok : bool
        Whether it is as the file says.
    message : str
        What was found.
    """

    name: str
    ok: bool
    message: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Everything that `verify` found.

    Attributes
    ----------
    findings : tuple of Finding
        One for each matrix and tensor that is sound, and one for each thing that is wrong.
    """

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(finding.ok for finding in self.findings)


class _Wrong(Exception):
    """A promise of the file that does not hold; what depends on it is not looked at."""


def verify(path: str | os.PathLike[str], *, against: str | os.PathLike[str] | None = None) -> VerifyReport:
    """Check every claim in a file of factors or an output folder, and go on after what is wrong.

    Of each matrix: its tensors are there and have the recorded SHA-256, its factors are well formed, finite, chained to
    its shape and within the budget of nonzeros. Of each copied tensor: its SHA-256. Of the file: no tensor is
    unaccounted for. Of a folder: every byte of every file, by the SHA-256 of its journal.

    Parameters
    ----------
    path : path-like
        The file of factors, or the folder that a run has written.
    against : path-like, optional
        The checkpoint it came from: its matrices must be the ones that were factorized (SHA-256), the errors,
        recomputed in float64, must agree with the recorded ones (to 1e-6 of their size plus 1e-12), certificates of
        errors must hold, copied tensors must be the same to the byte, and nothing may be missing.

    Returns
    -------
    VerifyReport
        All findings, good and bad.

    Raises
    ------
    FormatError
        If `path` is not a file of factors at all, or one of a later version of the format.
    StorageError
        If a file is missing or may not be read.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "one.safetensors"
    ...     sf.Factorization([np.eye(2), np.ones((2, 3))]).save(path)
    ...     report = verify(path)
    >>> report.ok, report.findings[0].message
    (True, '10 nonzeros in 2 factors')
    """
    with ExitStack() as opened:
        source = None if against is None else opened.enter_context(open_checkpoint(against))
        if Path(path).is_dir():
            return VerifyReport(tuple(_folder_findings(Path(path), source)))
        file = opened.enter_context(TensorFile(path))
        return VerifyReport(tuple(_findings(file, read_document(file.metadata, str(path)), source)))


def _folder_findings(folder: Path, source: Checkpoint | None) -> Iterator[Finding]:
    for name, ok, message in check_files(folder):
        yield Finding(name, ok, message)
    try:
        content = read_folder(folder)
        with open_checkpoint(folder) as checkpoint:
            yield from _findings(checkpoint, content, source)
    except (SparsefactError, MemoryError) as error:
        yield Finding(folder.name, False, str(error) or "there is not enough memory to check it")


def _findings(file: _Tensors, content: Mapping[str, Any], source: Checkpoint | None) -> Iterator[Finding]:
    records: dict[str, Any] = content["matrices"]
    used: set[str] = set()
    for name, record in records.items():
        yield from _matrix(name, record, file, source, used)
    failed: dict[str, str] = content["failed"]
    checksums = content.get("sha256")
    kept = [*content["copied"], *failed]
    for name in kept:
        try:
            message = _kept(name, file, source, checksums if isinstance(checksums, dict) else {})
            yield Finding(name, True, f"{message}; not factorized: {failed[name]}" if name in failed else message)
        except (_Wrong, SparsefactError) as wrong:
            yield Finding(name, False, str(wrong))
    for name in dict.fromkeys(kept):
        if name in records:
            yield Finding(name, False, "it is listed both as factorized and as taken over unchanged")
    used |= set(kept)
    for name in file.names:
        if name not in used:
            yield Finding(name, False, "it is in the file, but nothing in the record accounts for it")
    used |= set(records)
    for name in source.names if source else ():
        if name not in used:
            yield Finding(name, False, "it is in the checkpoint, but neither it nor its factors are in the file")


def _kept(name: str, file: _Tensors, source: Checkpoint | None, checksums: Mapping[str, Any]) -> str:
    """Check a tensor that was taken over unchanged."""
    if name not in file:
        raise _Wrong("it is listed as taken over, but it is not in the file")
    found = file.sha256(name)
    if name in checksums and checksums[name] != found:
        raise _Wrong("its bytes have another SHA-256 than the recorded one")
    if source is None:
        return "taken over unchanged" if name in checksums else "taken over, without a recorded SHA-256"
    if name not in source:
        raise _Wrong("it is listed as taken over, but it is not in the checkpoint")
    ours, theirs = file.info(name), source.info(name)
    if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        raise _Wrong(
            f"it is {ours.dtype} of shape {ours.shape}, but {theirs.dtype} of {theirs.shape} in the checkpoint"
        )
    if source.sha256(name) != found:
        raise _Wrong("its bytes are not those in the checkpoint")
    return "the same bytes as in the checkpoint"


def _matrix(name: str, record: Any, file: _Tensors, source: Checkpoint | None, used: set[str]) -> Iterator[Finding]:
    """Check one record; several things may be wrong with it at once."""
    wrong: list[str] = []
    message = ""
    try:
        shape = _shape(record, "the record")
        entries = _get(record, "factors", list, "the record")
        if not entries:
            raise _Wrong("the record lists no factor")
        factors = [_factor(entry, j, record, file, used, wrong) for j, entry in enumerate(entries)]
        for what, part in claim_parts(record):
            used |= {part["name"]} if isinstance(part, dict) and isinstance(part.get("name"), str) else set()
            _tensor(part, f"the {what}", file)
        whole = [factor for factor in factors if factor is not None]
        if len(whole) == len(factors):
            _check_chain(whole, shape)
            nnz = sum(int(entry["nnz"]) for entry in entries)
            noun = "factor" if len(whole) == 1 else "factors"
            message = f"{nnz:,} nonzeros in {len(whole)} {noun}" + _check_budget(record, shape, nnz)
            if source is not None and not wrong:
                message += _check_source(name, record, shape, whole, source, file)
    except (_Wrong, SparsefactError) as caught:
        wrong.append(str(caught))
    except MemoryError:
        wrong.append("there is not enough memory to check it")
    for problem in wrong:
        yield Finding(name, False, problem)
    if not wrong:
        yield Finding(name, True, message)


def _get(fields: Any, key: str, kind: type, where: str) -> Any:
    if not isinstance(fields, dict):
        raise _Wrong(f"{where} is not a JSON object")
    value = fields.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise _Wrong(f"{where} has no {key!r} of the right kind")
    return value


def _number(fields: Any, key: str, where: str) -> float:
    value = _get(fields, key, int if isinstance(fields.get(key), int) else float, where)
    if not abs(value) < math.inf or value > 1e300:
        raise _Wrong(f"{where} has {key!r} outside the numbers that it can be")
    return float(value)


def _shape(fields: Any, where: str) -> tuple[int, int]:
    shape = _get(fields, "shape", list, where)
    if len(shape) != 2 or not all(type(side) is int and 0 <= side <= 2**32 for side in shape):
        raise _Wrong(f"{where} has the shape {quoted(str(shape))}, and it must be two integers from 0 to 2**32")
    # Rows without columns take no bytes in the file, but row pointers in memory.
    if not shape[1] and shape[0] > 2**24:
        raise _Wrong(f"{where} has {shape[0]} rows without columns, and at most 2**24 are read")
    return shape[0], shape[1]


def _factor(
    entry: Any, j: int, record: Any, file: _Tensors, used: set[str], wrong: list[str]
) -> sparse.csr_array | NDArray[Any] | None:
    """Decode one factor, or say in `wrong` why it cannot be."""
    where = f"factor {j}"
    try:
        kind, listed = _get(entry, "kind", str, where), _get(entry, "tensors", dict, where)
        used |= {
            part["name"] for part in listed.values() if isinstance(part, dict) and isinstance(part.get("name"), str)
        }
        parts = {part: _tensor(listed[part], f"{where}, {quoted(str(part))}", file) for part in listed}
        if kind not in _KINDS or parts.keys() != _PARTS.get(kind, {"values"}):
            raise _Wrong(
                f"{where} is of kind {quoted(kind)} with the parts {quoted(', '.join(parts))}, which is no kind"
            )
        shape, nnz = _shape(entry, where), _get(entry, "nnz", int, where)
        values = _values(parts["values"], _get(record, "dtype", str, "the record"), where)
        factor = _decode(kind, parts, values, shape, where, bool(entry.get("sparse")))
        stored = factor.nnz if isinstance(factor, sparse.csr_array) else factor.size
        if stored != nnz:
            raise _Wrong(f"{where} stores {stored} entries, and the record says {nnz}")
        return factor
    except _Wrong as caught:
        wrong.append(str(caught))
        return None


def _tensor(listed: Any, where: str, file: _Tensors) -> NDArray[Any]:
    name, sha256 = _get(listed, "name", str, where), _get(listed, "sha256", str, where)
    if name not in file:
        raise _Wrong(f"{where}: the tensor {quoted(name)} is not in the file")
    if file.sha256(name) != sha256:
        raise _Wrong(f"{where}: the tensor {quoted(name)} has another SHA-256 than the recorded one")
    return file.read(name)


def _values(stored: NDArray[Any], code: str, where: str) -> NDArray[Any]:
    """Return values in the type they are computed with, checked for NaN and infinity."""
    real = {"C64": "F32", "C128": "F64"}.get(code, code)
    if real not in ("F64", "F32", "F16", "BF16") or code_of(stored.dtype) != real:
        raise _Wrong(f"{where} has values of {code_of(stored.dtype)}, and the record says {quoted(code)}")
    values = stored if real in ("F64", "F32") else stored.astype(np.float32)
    if real != code:
        if values.ndim == 0 or values.shape[-1] != 2:
            raise _Wrong(f"{where} has values of shape {values.shape}, and complex ones come in pairs")
        values = values[..., 0] + 1j * values[..., 1]
    if not np.isfinite(values).all():
        raise _Wrong(f"{where} has values that are NaN or infinite")
    return values


def _decode(
    kind: str,
    parts: Mapping[str, NDArray[Any]],
    values: NDArray[Any],
    shape: tuple[int, int],
    where: str,
    of_nonzeros: bool,
) -> sparse.csr_array | NDArray[Any]:
    rows, columns = shape
    if kind == "dense":
        if values.shape != shape:
            raise _Wrong(f"{where} has values of shape {values.shape}, and the record says {shape}")
        return sparse.csr_array(values) if of_nonzeros else values
    if kind == "kronecker":
        if values.ndim != 4:
            raise _Wrong(f"{where} has values of shape {values.shape}, and a Kronecker factor has four axes")
        a, b, c, d = values.shape
        if (a * b * d, a * c * d) != shape:
            raise _Wrong(f"{where} has values of shape {values.shape}, which do not make the shape {shape}")
        i, p, r, q = (axis.reshape(-1) for axis in np.indices(values.shape))
        where_to = ((i * b + p) * d + q, (i * c + r) * d + q)
        return sparse.csr_array((values.reshape(-1), where_to), shape=shape)
    if values.ndim != 1:
        raise _Wrong(f"{where} has values of shape {values.shape}, and they must be one row of numbers")
    if kind == "bitmask":
        bits = parts["bits"]
        if bits.dtype != np.uint8 or bits.shape != (-(-rows * columns // 8),):
            raise _Wrong(f"{where} has bits of shape {bits.shape}, which is not one bit for each entry of {shape}")
        support = np.unpackbits(bits, bitorder="little")
        flat = np.flatnonzero(support)
        if support[rows * columns :].any() or flat.size != values.size:
            raise _Wrong(f"{where} has {flat.size} bits set for {values.size} values in the shape {shape}")
        indptr = np.searchsorted(flat, np.arange(rows + 1) * columns)
        return sparse.csr_array((values, flat % columns, indptr), shape=shape)
    indptr, indices = parts["indptr"], parts["indices"]
    if {indptr.dtype.kind, indices.dtype.kind} != {"u"} or indptr.shape != (rows + 1,) or indices.shape != values.shape:
        raise _Wrong(f"{where} has indptr and indices of other types or shapes than the shape {shape} asks for")
    ends = indptr.astype(np.int64)
    if ends[0] != 0 or ends[-1] != values.size or (np.diff(ends) < 0).any():
        raise _Wrong(f"{where} has an indptr that does not rise from 0 to the {values.size} values")
    if values.size and int(indices.max()) >= columns:
        raise _Wrong(f"{where} has the column index {indices.max()}, and there are {columns} columns")
    place = np.repeat(np.arange(rows), np.diff(ends)) * columns + indices
    if (np.diff(place) <= 0).any():
        raise _Wrong(f"{where} has column indices that do not ascend within a row")
    return sparse.csr_array((values, indices.astype(np.int64), ends), shape=shape)


def _check_chain(factors: list[sparse.csr_array | NDArray[Any]], shape: tuple[int, int]) -> None:
    shapes = [tuple(int(side) for side in factor.shape) for factor in factors]
    for j in range(1, len(shapes)):
        if shapes[j - 1][1] != shapes[j][0]:
            raise _Wrong(f"factors {j - 1} and {j} have the shapes {shapes[j - 1]} and {shapes[j]}, which do not chain")
    if (shapes[0][0], shapes[-1][1]) != shape:
        raise _Wrong(f"the factors make {(shapes[0][0], shapes[-1][1])}, and the record says {shape}")


def _check_budget(record: Any, shape: tuple[int, int], nnz: int) -> str:
    if _get(record, "nnz", int, "the record") != nnz:
        raise _Wrong(f"the factors store {nnz} entries, and the record says {record['nnz']}")
    if "density" not in record and "budget" not in record:
        return ""
    budget, density = _get(record, "budget", int, "the record"), _number(record, "density", "the record")
    if not 0 < density <= 1 or budget != joint_budget(density, shape):
        raise _Wrong(f"the record has the budget {budget} at density {density}, which do not fit the shape {shape}")
    if nnz > budget:
        raise _Wrong(f"the factors store {nnz:,} entries, more than the budget of {budget:,}")
    return f", within the budget of {budget:,}"


def _check_source(
    name: str,
    record: Any,
    shape: tuple[int, int],
    factors: list[sparse.csr_array | NDArray[Any]],
    source: Checkpoint,
    file: _Tensors,
) -> str:
    if name not in source:
        raise _Wrong("it is not in the checkpoint")
    if source.info(name).shape != shape:
        raise _Wrong(f"its shape is {shape}, but {source.info(name).shape} in the checkpoint")
    recorded = record.get("source_sha256")
    if recorded is not None and source.sha256(name) != recorded:
        raise _Wrong("the checkpoint holds another matrix than the one that was factorized (SHA-256)")
    A, message = source.read(name), ", of no recorded error"
    if record.get("frobenius_error") is not None:
        error = _number(record, "frobenius_error", "the record")
        found = _relative_error(A, factors)
        if not abs(found - error) <= _RELATIVE * error + _ABSOLUTE:
            raise _Wrong(f"its relative error is {found:.9g}, and the record says {error:.9g}")
        message = f", relative error {found:.6g} as recorded"
    verdict = certificate_holds(name, record, file, A) if record.get("certificate") is not None else ""
    if verdict == "does not hold":
        raise _Wrong("its certificate does not hold for the matrix in the checkpoint")
    return message + (f", its certificate {verdict}" if verdict else "")


def _relative_error(A: NDArray[Any], factors: list[sparse.csr_array | NDArray[Any]]) -> float:
    """Return ||A - P|| / ||A|| in double precision, a panel of rows at a time; scaled, so that no square overflows."""
    wide = np.complex128 if any(factor.dtype.kind == "c" for factor in factors) else np.float64
    first, *rest = factors
    others = [factor.astype(wide) for factor in rest]
    height = max(1, _PANEL // max(1, *(factor.shape[1] for factor in factors)))
    panels = range(0, A.shape[0], height)
    sizes = [float(np.abs(A[start : start + height].astype(wide)).max(initial=0.0)) for start in panels]
    # The reciprocal of a subnormal number would overflow.
    scale = max(*sizes, 1e-300) if any(sizes) else 1.0
    residual = norm = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in panels:
            a = A[start : start + height].astype(wide) / scale
            p: Any = first[start : start + height].astype(wide) / scale
            for other in others:
                p = p @ other
            r = a - (p.toarray() if isinstance(p, sparse.csr_array) else p)
            residual += float(np.vdot(r, r).real)
            norm += float(np.vdot(a, a).real)
    if norm == 0.0:
        return 0.0 if residual == 0.0 else math.inf
    return math.sqrt(residual / norm)
