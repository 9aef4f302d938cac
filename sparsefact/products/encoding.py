"""One factor as plain arrays and back: the smallest of several layouts out, nothing taken on trust on the way in.

The layouts are documented in docs/format.md. Decoding checks every structural promise, because files come from
strangers; each broken one is a `FormatError` with one sentence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from scipy import sparse

from sparsefact.errors import ArgumentError, DtypeError, FormatError
from sparsefact.products.factors import KroneckerFactor, stored_values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from sparsefact.products.factors import Factor

# A complex number is stored as two reals along a last axis of length 2: safetensors has no complex double.
_REAL = {
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "C64": np.dtype(np.float32),
    "C128": np.dtype(np.float64),
}
_CODE = {"float32": "F32", "float64": "F64", "complex64": "C64", "complex128": "C128"}
_PARTS = {
    "bitmask": ("bits", "values"),
    "csr": ("indices", "indptr", "values"),
    "dense": ("values",),
    "kronecker": ("values",),
}
CODES = tuple(_REAL)
KINDS = tuple(_PARTS)
_PANEL_ENTRIES = 1 << 22
# Rows without columns take no bytes in a file, but row pointers in memory: a tiny file must not ask for gigabytes.
_MOST_EMPTY_ROWS = 1 << 24


def natural_code(dtype: np.dtype[Any]) -> str:
    """Return the storage code that keeps every bit of a factor's type."""
    return _CODE[dtype.name]


def parts_of(kind: str) -> tuple[str, ...]:
    """Return the names of the arrays that a layout consists of."""
    return _PARTS[kind]


def to_storage(values: NDArray[Any], code: str) -> NDArray[Any]:
    """Return values as they are written: contiguous, rounded to the storage type, complex ones as pairs."""
    if (values.dtype.kind == "c") != code.startswith("C"):
        kind = "complex" if values.dtype.kind == "c" else "real"
        allowed = [c for c in CODES if c.startswith("C") == (kind == "complex")]
        raise DtypeError(f"dtype is {code}, but the factors are {kind}; store them as one of {', '.join(allowed)}")
    real = _REAL[code]
    if values.dtype.kind == "c":
        values = np.ascontiguousarray(values).view(values.real.dtype).reshape(*values.shape, 2)
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(values.astype(real, copy=False))
    if stored.dtype != values.dtype and not np.isfinite(stored).all():
        largest = float(np.abs(values).max())
        raise ArgumentError(
            f"dtype is {code}, which cannot hold the factors' largest value {largest:.3g}; choose a wider type"
        )
    return stored


def from_storage(stored: NDArray[Any], code: str) -> NDArray[Any]:
    """Return a fresh array of stored values in the type they are computed with."""
    if code.startswith("C"):
        pairs = np.array(stored, order="C")
        return pairs.view(np.complex64 if code == "C64" else np.complex128)[..., 0]
    return np.array(stored, dtype=np.float64 if code == "F64" else np.float32, order="C")


def encode(factor: Factor, code: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the fields of a factor's record and its arrays, in the smallest layout that keeps the support exactly."""
    values = to_storage(stored_values(factor), code)
    rows, columns = (int(n) for n in factor.shape)
    fields: dict[str, Any] = {"shape": [rows, columns], "nnz": int(stored_values(factor).size)}
    if isinstance(factor, KroneckerFactor):
        return {"kind": "kronecker", **fields}, {"values": values}
    if isinstance(factor, np.ndarray):
        return {"kind": "dense", "sparse": False, **fields}, {"values": values}
    index, pointer = _index_types(columns, factor.nnz)
    sizes = {
        "bitmask": -(-rows * columns // 8),
        "csr": factor.nnz * index.itemsize + (rows + 1) * pointer.itemsize,
    }
    nonzero = values.any(axis=-1) if code.startswith("C") else values != 0
    if nonzero.all():
        # The support can be read off the zeros only when no stored entry is one.
        sizes["dense"] = (rows * columns - factor.nnz) * values.dtype.itemsize * (2 if code.startswith("C") else 1)
    kind = min(sizes, key=lambda k: sizes[k])
    if kind == "dense":
        dense = np.zeros((rows, columns, *values.shape[1:]), dtype=values.dtype)
        dense[np.repeat(np.arange(rows), np.diff(factor.indptr)), factor.indices] = values
        return {"kind": "dense", "sparse": True, **fields}, {"values": dense}
    if kind == "bitmask":
        return {"kind": "bitmask", **fields}, {"bits": _pack_bits(factor), "values": values}
    arrays = {"indices": factor.indices.astype(index), "indptr": factor.indptr.astype(pointer), "values": values}
    return {"kind": "csr", **fields}, arrays


def decode(fields: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], code: str, where: str) -> Factor:
    """Return the factor that `encode` took apart.

    Parameters
    ----------
    fields : mapping
        ``kind``, ``shape`` and ``nnz``, already of the right types; ``sparse`` for a dense one.
    arrays : mapping
        The parts that `parts_of` names.
    code : str
        The storage type of the values.
    where : str
        What the sentences of errors begin with.

    Raises
    ------
    FormatError
        The arrays are not what a factor of this kind, shape and count consists of.
    """
    kind, (rows, columns), nnz = fields["kind"], fields["shape"], fields["nnz"]
    values = arrays["values"]
    pair = (2,) if code.startswith("C") else ()
    if values.dtype != _REAL[code]:
        raise FormatError(f"{where}: values have dtype {values.dtype}, but the record says {code}")
    if kind == "kronecker":
        if values.ndim != 4 + len(pair) or values.shape[4:] != pair:
            raise FormatError(f"{where}: values have shape {values.shape}, but a Kronecker factor has four axes")
        a, b, c, d = values.shape[:4]
        if (a * b * d, a * c * d, a * b * c * d) != (rows, columns, nnz):
            raise FormatError(
                f"{where}: values of shape {values.shape[:4]} do not make {rows}x{columns} with {nnz} entries"
            )
        return KroneckerFactor(from_storage(values, code))
    expected = (rows, columns, *pair) if kind == "dense" else (nnz, *pair)
    if values.shape != expected:
        raise FormatError(f"{where}: values have shape {values.shape}, but the record says {expected}")
    if not columns and rows > _MOST_EMPTY_ROWS:
        raise FormatError(
            f"{where}: the factor has {rows} rows but no columns, and at most {_MOST_EMPTY_ROWS} such are read"
        )
    if kind == "dense":
        return _dense(values, code, bool(fields.get("sparse", False)), nnz, where)
    if kind == "bitmask":
        indptr, indices = _unpack_bits(arrays["bits"], rows, columns, nnz, where)
    else:
        indptr, indices = _checked_csr(arrays["indptr"], arrays["indices"], rows, columns, nnz, where)
    return _csr(from_storage(values, code), indices, indptr, (rows, columns))


def encode_pattern(pattern: Any) -> tuple[str, dict[str, NDArray[Any]]]:
    """Return the positions that a CSR array stores in the smaller of two layouts, its name first."""
    rows, columns = pattern.shape
    index, pointer = _index_types(columns, pattern.nnz)
    listed = pattern.nnz * index.itemsize + (rows + 1) * pointer.itemsize
    if listed < -(-rows * columns // 8):
        return "csr", {"indices": pattern.indices.astype(index), "indptr": pattern.indptr.astype(pointer)}
    return "bitmask", {"bits": _pack_bits(pattern)}


def decode_pattern(
    kind: str, arrays: Mapping[str, NDArray[Any]], shape: tuple[int, int], nnz: int, where: str
) -> sparse.csr_array[Any, Any]:
    """Return the positions that `encode_pattern` took apart, as a boolean CSR array.

    Raises
    ------
    FormatError
        The arrays are not so many positions in a matrix of this shape.
    """
    if kind == "bitmask":
        indptr, indices = _unpack_bits(arrays["bits"], *shape, nnz, where)
    else:
        indptr, indices = _checked_csr(arrays["indptr"], arrays["indices"], *shape, nnz, where)
    return _csr(np.ones(nnz, dtype=bool), indices, indptr, shape)


def _index_types(columns: int, nnz: int) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """Return the types in which column indices and row pointers are stored."""
    index = np.dtype(np.uint16 if columns <= 1 << 16 else np.uint32)
    return index, np.dtype(np.uint32 if nnz < 1 << 32 else np.uint64)


def _csr(
    values: NDArray[Any], indices: NDArray[Any], indptr: NDArray[Any], shape: tuple[int, int]
) -> sparse.csr_array[Any, Any]:
    result = sparse.csr_array((values, indices, indptr), shape=shape)
    result.has_canonical_format = True
    return result


def _dense(values: NDArray[Any], code: str, is_sparse: bool, nnz: int, where: str) -> Factor:
    dense = from_storage(values, code)
    count = int(np.count_nonzero(dense)) if is_sparse else dense.size
    if count != nnz:
        raise FormatError(f"{where}: {count} entries are stored, but the record says {nnz}")
    return sparse.csr_array(dense) if is_sparse else dense


def _index_dtype(rows: int, columns: int, nnz: int) -> type[np.signedinteger[Any]]:
    return np.int32 if max(rows, columns, nnz) < 1 << 31 else np.int64


def _panel_rows(columns: int) -> int:
    """Return how many rows to expand at a time: a multiple of 8, so that every panel starts on a whole byte."""
    return max(8, _PANEL_ENTRIES // max(1, columns) // 8 * 8)


def _pack_bits(factor: Any) -> NDArray[Any]:
    rows, columns = factor.shape
    bits = np.empty(-(-rows * columns // 8), dtype=np.uint8)
    height = _panel_rows(columns)
    for first in range(0, rows, height):
        pointers = factor.indptr[first : first + height + 1].astype(np.int64)
        starts = np.arange(len(pointers) - 1) * columns
        flat = np.repeat(starts, np.diff(pointers)) + factor.indices[pointers[0] : pointers[-1]]
        panel = np.zeros(len(starts) * columns, dtype=bool)
        panel[flat] = True
        packed = np.packbits(panel, bitorder="little")
        start = first * columns // 8
        bits[start : start + len(packed)] = packed
    return bits


def _unpack_bits(
    bits: NDArray[Any], rows: int, columns: int, nnz: int, where: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    total = rows * columns
    if bits.dtype != np.uint8 or bits.shape != (-(-total // 8),):
        raise FormatError(
            f"{where}: bits are {bits.dtype} of shape {bits.shape}, but {rows}x{columns} entries need uint8 of shape "
            f"({-(-total // 8)},)"
        )
    # An int64 sum of the bytes' counts; also what bounds the memory taken below by what the file really holds.
    count = int(np.bitwise_count(bits).sum(dtype=np.int64))
    if count != nnz:
        raise FormatError(f"{where}: {count} bits are set, but there are {nnz} values")
    if total % 8 and int(bits[-1]) >> total % 8:
        raise FormatError(f"{where}: bits are set beyond the last entry")
    dtype = _index_dtype(rows, columns, nnz)
    indptr, indices = np.zeros(rows + 1, dtype=dtype), np.empty(nnz, dtype=dtype)
    height, filled = _panel_rows(columns), 0
    for first in range(0, rows, height) if columns else ():
        tall = min(height, rows - first)
        start = first * columns // 8
        packed = bits[start : start + -(-tall * columns // 8)]
        panel = np.unpackbits(packed, count=tall * columns, bitorder="little").view(bool)
        flat = np.flatnonzero(panel)
        counts = np.count_nonzero(panel.reshape(tall, columns), axis=1)
        indices[filled : filled + len(flat)] = flat - np.repeat(np.arange(tall) * columns, counts)
        filled += len(flat)
        indptr[first + 1 : first + tall + 1] = counts
    np.cumsum(indptr, out=indptr)
    return indptr, indices


def _checked_csr(
    indptr: NDArray[Any], indices: NDArray[Any], rows: int, columns: int, nnz: int, where: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    if indptr.dtype not in (np.uint32, np.uint64) or indptr.shape != (rows + 1,):
        raise FormatError(
            f"{where}: indptr is {indptr.dtype} of shape {indptr.shape}, but {rows} rows need uint32 or "
            f"uint64 of shape ({rows + 1},)"
        )
    if indices.dtype not in (np.uint16, np.uint32) or indices.shape != (nnz,):
        raise FormatError(
            f"{where}: indices are {indices.dtype} of shape {indices.shape}, but {nnz} values need uint16 or "
            f"uint32 of shape ({nnz},)"
        )
    if int(indptr[0]) != 0 or int(indptr[-1]) != nnz:
        raise FormatError(f"{where}: indptr runs from {indptr[0]} to {indptr[-1]}, but it must run from 0 to {nnz}")
    if (indptr[1:] < indptr[:-1]).any():
        raise FormatError(f"{where}: indptr decreases, but row boundaries must not")
    if nnz and int(indices.max()) >= columns:
        raise FormatError(f"{where}: column index {indices.max()} is outside a factor with {columns} columns")
    ascending = indices[1:] > indices[:-1]
    starts = indptr[1:-1]
    ascending[starts[(starts > 0) & (starts < nnz)] - 1] = True
    if not ascending.all():
        raise FormatError(f"{where}: column indices of a row are not strictly ascending")
    dtype = _index_dtype(rows, columns, nnz)
    return indptr.astype(dtype), indices.astype(dtype)
