"""The element types of safetensors, and the NumPy types that stand for them."""

from __future__ import annotations

import ml_dtypes
import numpy as np

__all__ = ["COMPUTABLE", "DTYPES", "code_of"]

# Little-endian is what the format stores; the 8-bit floats can be copied but are not computed with.
DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
    "C64": np.dtype("<c8"),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
}

COMPUTABLE = ("F64", "F32", "F16", "BF16")

_CODES = {dtype.newbyteorder("="): code for code, dtype in DTYPES.items()}


def code_of(dtype: np.dtype) -> str | None:
    """Return the safetensors code of a NumPy type, in any byte order, or None if the format has none.

    Parameters
    ----------
    dtype : numpy.dtype
        The type to look up.

    Returns
    -------
    str or None
        For example ``"F32"``.

    Examples
    --------
    >>> import numpy as np
    >>> code_of(np.dtype(">f8")), code_of(np.dtype("c16"))
    ('F64', None)
    """
    return _CODES.get(dtype.newbyteorder("="))
