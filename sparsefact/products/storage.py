"""The file format of factorized matrices: pack to tensors and a record, unpack with every promise checked.

One safetensors file, whose only metadata key ``sparsefact`` holds one JSON document; docs/format.md is the
specification. Nothing in a file depends on the time of writing, and nothing in it is code.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsefact import __version__
from sparsefact.errors import ArgumentError, FormatError, SparsefactError
from sparsefact.io.failure import quoted
from sparsefact.io.write import write_tensors
from sparsefact.products.encoding import (
    CODES,
    KINDS,
    decode,
    encode,
    from_storage,
    natural_code,
    parts_of,
    to_storage,
)
from sparsefact.products.factorization import Factorization
from sparsefact.products.factors import stored_values, with_values
from sparsefact.products.fields import Fields
from sparsefact.products.history import decode_history, encode_history
from sparsefact.products.status import Status

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from sparsefact.products.factors import Factor

__all__ = ["FORMAT", "KEY", "document", "pack", "read_document", "read_part", "save", "unpack"]

FORMAT = 2
_READABLE = (1, 2)
KEY = "sparsefact"


def pack(
    F: Factorization,
    name: str,
    *,
    dtype: str | None = None,
    target: Any = None,
    gram: Any = None,
    left_gram: Any = None,
    source_sha256: str | None = None,
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return a product as tensors to write and the record that describes them.

    Parameters
    ----------
    F : Factorization
        The product.
    name : str
        The matrix's name; its tensors are called ``{name}.factors.{j}.{part}``.
    dtype : str, optional
        Storage type of the values: ``"F16"``, ``"BF16"``, ``"F32"``, ``"F64"``, or ``"C64"``, ``"C128"`` for complex
        factors. By default the factors' own, which keeps every bit.
    target, gram, left_gram : arrays, optional
        The matrix that the product stands for and the weights of its loss: when rounding to `dtype` changes a value,
        the recorded errors are measured anew against them, and without them recorded as unknown.
    source_sha256 : str, optional
        SHA-256 of the bytes of the matrix that was factorized.

    Returns
    -------
    tensors : dict of str to array
        Contiguous arrays.
    record : dict
        What `unpack` needs, JSON-able.

    Raises
    ------
    ArgumentError
        `name` is empty, `dtype` is not a storage type, or a value is too large for it.
    DtypeError
        `dtype` is real and the factors are complex, or the other way round.
    """
    if not isinstance(name, str) or not name:
        raise ArgumentError(f"name is {name!r}; the name of a matrix must be a string that is not empty")
    F = F.to("cpu")
    code = natural_code(F.dtype) if dtype is None else dtype
    if code not in CODES:
        raise ArgumentError(f"dtype is {code!r}; factors are stored as one of {', '.join(CODES)}")
    rounded = _rounded(F, code)
    error, frobenius_error = _recorded_errors(F, rounded, target, gram, left_gram)
    tensors: dict[str, NDArray[Any]] = {}

    def listed(part: str, array: NDArray[Any]) -> dict[str, str]:
        tensor = f"{name}.factors.{part}"
        tensors[tensor] = array
        return {"name": tensor, "sha256": _sha256(array)}

    entries = []
    for j, factor in enumerate(rounded.factors):
        fields, arrays = encode(factor, code)
        fields["tensors"] = {part: listed(f"{j}.{part}", array) for part, array in arrays.items()}
        entries.append(fields)
    record: dict[str, Any] = {
        "shape": list(F.shape),
        "dtype": code,
        "nnz": F.nnz,
        "error": error,
        "frobenius_error": frobenius_error,
        "status": F.status.name if F.status is not None else None,
        "constraint": _text(F.constraint),
        "solver": _text(F.solver),
        "seed": F.seed,
        "explanation": F.explanation,
        "source_sha256": source_sha256,
        "factors": entries,
    }
    history = encode_history(F.history)
    if history is not None:
        record["history"] = listed("history", history)
    # what was proved of other values than the stored ones is not said of these
    same = rounded is F and code in (natural_code(F.dtype), "F16", "BF16")
    for key, claim in (("certificate", F.certificate), ("evidence", F.evidence)) if same else ():
        stated = claim.stated_fields(F) if hasattr(claim, "stated_fields") else None
        if stated is not None:
            fields, arrays = stated
            tensors_of = {part: listed(f"{key}.{part}", array) for part, array in arrays.items()}
            record[key] = {**fields, "tensors": tensors_of}
    return tensors, record


def _rounded(F: Factorization, code: str) -> Factorization:
    """Return the product of the values as they are stored: F itself when storing changes none of them."""
    if code == natural_code(F.dtype):
        return F
    values = [stored_values(f) for f in F.factors]
    stored = [from_storage(to_storage(v, code), code) for v in values]
    if all(np.array_equal(s, v) for s, v in zip(stored, values, strict=True)):
        return F
    return Factorization([with_values(f, s) for f, s in zip(F.factors, stored, strict=True)])


def _recorded_errors(
    F: Factorization, rounded: Factorization, target: Any, gram: Any, left_gram: Any
) -> tuple[float | None, float | None]:
    if target is None:
        errors = F.known_errors() if rounded is F else (None, None)
    else:
        errors = rounded.errors_against(target, gram, left_gram)
    # JSON has no infinity.
    error, frobenius_error = (e if e is not None and math.isfinite(e) else None for e in errors)
    return error, frobenius_error


def unpack(record: Any, read: Callable[[str], NDArray[Any]], *, where: str = "matrix") -> Factorization:
    """Return the product that a record describes, every promise of it checked.

    Parameters
    ----------
    record : dict
        What `pack` returned, perhaps by way of a file that cannot be trusted.
    read : callable
        Returns the tensor of a name, read-only if it likes: what is kept of it is copied.
    where : str, optional
        What the sentences of errors begin with.

    Returns
    -------
    Factorization
        With its history, but without certificate and evidence: `sparsefact.analysis.stated.read_record` gives these
        too. Half-precision values have become float32.

    Raises
    ------
    FormatError
        A field that is missing or of the wrong type, a tensor that is missing or whose bytes are not those
        recorded, or arrays that are not what a factor consists of; the sentence says which.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> tensors, record = pack(sf.Factorization([np.eye(2), np.ones((2, 3))]), "w")
    >>> unpack(record, tensors.__getitem__)
    Factorization(2x3 float64, 2 factors, nnz=10, density=1.667)
    """
    fields = Fields(record, where)
    code = fields.choice("dtype", CODES)
    error, frobenius_error = fields.error("error"), fields.error("frobenius_error")
    status = None if fields.optional("status", str) is None else fields.choice("status", Status.__members__)
    entries = fields.required("factors", list)
    factors = [_unpack_factor(entry, code, read, f"{where}, factor {j}") for j, entry in enumerate(entries)]
    history = fields.optional("history", dict)
    steps = () if history is None else decode_history(read_part(history, read, f"{where}, history"), where)
    try:
        result = Factorization(
            factors,
            history=steps,
            status=Status[status] if status is not None else None,
            solver=fields.optional("solver", str),
            constraint=fields.optional("constraint", str),
            seed=fields.optional("seed", int),
            explanation=fields.optional("explanation", str) or "",
        ).with_errors(error, frobenius_error)
    except SparsefactError as caught:
        raise FormatError(f"{where}: {caught}") from None
    shape, nnz = fields.shape(), fields.count("nnz")
    if result.shape != shape or result.nnz != nnz:
        raise FormatError(
            f"{where}: the factors make {_by(result.shape)} with {result.nnz} entries, but the record says "
            f"{_by(shape)} with {nnz}"
        )
    return result


def _unpack_factor(entry: Any, code: str, read: Callable[[str], NDArray[Any]], where: str) -> Factor:
    fields = Fields(entry, where)
    kind = fields.choice("kind", KINDS)
    known = {"kind": kind, "shape": fields.shape(), "nnz": fields.count("nnz")}
    known["sparse"] = fields.optional("sparse", bool)
    tensors = Fields(fields.required("tensors", dict), where)
    arrays = {part: read_part(tensors.required(part, dict), read, f"{where}, {part}") for part in parts_of(kind)}
    return decode(known, arrays, code, where)


def read_part(listed: Any, read: Callable[[str], NDArray[Any]], where: str) -> NDArray[Any]:
    """Return a tensor that a record lists by name and SHA-256, after a look at its bytes.

    Raises
    ------
    FormatError
        It is not listed in this way, is missing, or has other bytes.
    """
    fields = Fields(listed, where)
    tensor = fields.required("name", str)
    try:
        array = np.asarray(read(tensor))
    except (KeyError, ArgumentError, FormatError):
        raise FormatError(f"{where}: the tensor {quoted(tensor)} is missing or damaged") from None
    if _sha256(array) != fields.required("sha256", str):
        raise FormatError(f"{where}: the bytes of the tensor {quoted(tensor)} are not those that were recorded")
    return array


def _by(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else repr(value)


def _sha256(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


def document(
    matrices: Mapping[str, Mapping[str, Any]],
    *,
    source: str = "",
    copied: Iterable[str] = (),
    failed: Mapping[str, str] | None = None,
    sha256: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return a file's metadata: the one key and its JSON document.

    Parameters
    ----------
    matrices : mapping of str to record
        The records that `pack` made.
    source : str, optional
        The name of the file or directory that the matrices come from.
    copied : iterable of str, optional
        Names of the tensors that were taken over unchanged.
    failed : mapping of str to str, optional
        Names of the matrices that could not be factorized, with the sentence that says why.
    sha256 : mapping of str to str, optional
        The SHA-256 of every tensor that was taken over unchanged.

    Returns
    -------
    dict of str to str
        Equal arguments give equal bytes.

    Examples
    --------
    >>> json.loads(document({}, source="model.safetensors")["sparsefact"])["source"]
    'model.safetensors'
    """
    content = {
        "format": FORMAT,
        "version": __version__,
        "source": source,
        "matrices": dict(matrices),
        "copied": list(copied),
        "failed": dict(failed or {}),
    }
    if sha256 is not None:
        content["sha256"] = dict(sha256)
    return {KEY: json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":"))}


def read_document(metadata: Mapping[str, str], where: str) -> dict[str, Any]:
    """Return the JSON document of a file's metadata, its outline checked (the records are checked by `unpack`).

    Parameters
    ----------
    metadata : mapping of str to str
        The metadata of a safetensors file.
    where : str
        The file's name, which the sentences of errors begin with.

    Returns
    -------
    dict
        With the keys that `document` writes.

    Raises
    ------
    FormatError
        There is no document, it is not JSON, it is of a later format, or a part of it is of the wrong type.
    """
    if KEY not in metadata:
        raise FormatError(
            f"{where}: the file has no {KEY!r} metadata, so it holds no factors; "
            "only files that sparsefact wrote can be loaded"
        )
    try:
        content = json.loads(metadata[KEY])
    except (ValueError, RecursionError):
        raise FormatError(f"{where}: the {KEY!r} metadata is not valid JSON") from None
    fields = Fields(content, where)
    version = fields.required("format", int)
    if version not in _READABLE:
        raise FormatError(
            f"{where}: the file has format {version}, but this version reads {' and '.join(map(str, _READABLE))}; "
            "upgrade sparsefact"
        )
    for key, kind in (("version", str), ("source", str), ("matrices", dict), ("copied", list), ("failed", dict)):
        fields.required(key, kind)
    if not all(isinstance(text, str) for text in (*content["copied"], *content["failed"].values())):
        raise FormatError(f"{where}: 'copied' and 'failed' must hold strings only")
    return dict(content)


def save(F: Factorization, path: str | os.PathLike[str], *, name: str = "matrix") -> None:
    """Write one product to a file that `sparsefact.load` reads; `Factorization.save` calls this."""
    tensors, record = pack(F, name)
    write_tensors(Path(path), tensors, document({name: record}))
