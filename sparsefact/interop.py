"""A `Factorization` as the operator of another library, and back: lazylinop, pyfaust.

Orders of factors, of axes and of indices are the same on both sides, so values are handed over as they are: what comes
back has the same bits. SciPy needs no function here, since a `Factorization` is a linear operator; PyTorch is in
`sparsefact.torch`. The other library is imported when it is asked for.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sparsefact.backends.registry import on_gpu
from sparsefact.errors import ArgumentError, DeviceError, DtypeError
from sparsefact.products.factorization import Factorization
from sparsefact.products.factors import KroneckerFactor, is_dense

__all__ = ["from_lazylinop", "from_pyfaust", "to_lazylinop", "to_pyfaust"]

# lazylinop.butterfly imports three packages that lazylinop does not ask for
_INSTALL = {"lazylinop": "lazylinop pandas einops psutil", "pyfaust": "pyfaust"}


def to_lazylinop(F: Factorization) -> Any:
    """Return a factorization as an operator of lazylinop.

    Parameters
    ----------
    F : Factorization
        Its factors on the CPU.

    Returns
    -------
    lazylinop.LazyLinOp of shape (m, n)
        Where all factors are `KroneckerFactor` a ``KsmLazyLinOp``: its ``ks_values[j]`` are ``F.factors[j].values``,
        and it multiplies by lazylinop's own means. Otherwise an operator that multiplies by `F`.

    Raises
    ------
    ArgumentError
        If lazylinop is not installed, or `F` is no factorization.
    DeviceError
        If the factors are on a GPU.

    Notes
    -----
    Checked against lazylinop 1.24, whose function ``ksm`` documents the same order of indices.

    Examples
    --------
    >>> import sparsefact as sf
    >>> from sparsefact.interop import to_lazylinop
    >>> F = sf.transforms.hadamard(8)
    >>> L = to_lazylinop(F)  # doctest: +SKIP
    >>> [values.shape for values in L.ks_values]  # doctest: +SKIP
    [(1, 2, 2, 4), (2, 2, 2, 2), (4, 2, 2, 1)]
    """
    _check(F, "lazylinop")
    if not all(isinstance(factor, KroneckerFactor) for factor in F.factors):
        return _peer("lazylinop").aslazylinop(F)
    # ksm warns of arrays that are not contiguous, such as those of a transpose
    values = [np.ascontiguousarray(cast("KroneckerFactor", factor).values) for factor in F.factors]
    return _peer("lazylinop", ".butterfly").ksm(values)


def from_lazylinop(operator: Any) -> Factorization:
    """Return the factorization that an operator of lazylinop holds.

    Parameters
    ----------
    operator : lazylinop.butterfly.KsmLazyLinOp, or sequence of arrays of shape (a, b, c, d)
        What lazylinop's ``ksm`` and ``ksd`` return, transposes, products and multiples of it, or its ``ks_values``:
        NumPy or CuPy arrays, or PyTorch tensors on the CPU.

    Returns
    -------
    Factorization
        Of `KroneckerFactor`, in the same order.

    Raises
    ------
    DtypeError
        If the operator is of another kind and has no ``ks_values``, or they cannot be read as arrays.
    ShapeError
        If they are not four-dimensional, or neighbours do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsefact.interop import from_lazylinop
    >>> F = from_lazylinop([np.ones((1, 2, 3, 2)), np.ones((3, 2, 1, 1))])
    >>> F.todense()
    array([[1., 1., 1.],
           [1., 1., 1.],
           [1., 1., 1.],
           [1., 1., 1.]])
    """
    values = getattr(operator, "ks_values", operator)
    if not isinstance(values, Sequence):
        raise DtypeError(
            f"operator is a {type(operator).__name__} without ks_values; give what lazylinop's ksm or ksd returns, or "
            "pass any other operator to sparsefact.factorize"
        )
    return Factorization([KroneckerFactor(_readable(array, j)) for j, array in enumerate(values)])


def to_pyfaust(F: Factorization) -> Any:
    """Return a factorization as a ``pyfaust.Faust``.

    Parameters
    ----------
    F : Factorization
        Its factors on the CPU. They are copied.

    Returns
    -------
    pyfaust.Faust of shape (m, n)
        With as many factors: sparse and Kronecker ones as CSR matrices with all stored entries, dense ones as arrays.
        There is no complex64 in pyfaust, so that becomes complex128, with the same values.

    Raises
    ------
    ArgumentError
        If pyfaust is not installed, or `F` is no factorization.
    DeviceError
        If the factors are on a GPU.

    Notes
    -----
    Checked against pyfaust 3.41, which refuses a sparse factor without any entry: such a one gets one stored zero.

    Examples
    --------
    >>> import sparsefact as sf
    >>> from sparsefact.interop import to_pyfaust
    >>> P = to_pyfaust(sf.transforms.hadamard(8))  # doctest: +SKIP
    >>> P.shape, P.numfactors()  # doctest: +SKIP
    ((8, 8), 3)
    """
    _check(F, "pyfaust")
    faust = _peer("pyfaust").Faust
    dtype = np.result_type(F.dtype, np.complex128) if F.dtype.kind == "c" else F.dtype
    return faust([_writable(factor, dtype) for factor in F.factors])


def from_pyfaust(faust: Any) -> Factorization:
    """Return the factorization that a ``pyfaust.Faust`` holds.

    Parameters
    ----------
    faust : pyfaust.Faust
        On the CPU. Its factors are copied.

    Returns
    -------
    Factorization
        With as many factors: dense ones as arrays, sparse ones of any format as CSR arrays.

    Raises
    ------
    DtypeError
        If `faust` is of another kind.

    Examples
    --------
    >>> import numpy as np
    >>> import pyfaust  # doctest: +SKIP
    >>> from sparsefact.interop import from_pyfaust
    >>> F = from_pyfaust(pyfaust.wht(8, normed=False))  # doctest: +SKIP
    >>> F.shape, F.nnz  # doctest: +SKIP
    ((8, 8), 48)
    """
    if not (hasattr(faust, "numfactors") and hasattr(faust, "factors")):
        raise DtypeError(f"faust is a {type(faust).__name__}; give a pyfaust.Faust")
    return Factorization([faust.factors(j) for j in range(faust.numfactors())])


def _peer(package: str, module: str = "") -> Any:
    """Return a module of another library, or the whole."""
    try:
        with warnings.catch_warnings():  # lazylinop.butterfly switches all warnings of the process on
            importlib.import_module(package)
            return importlib.import_module(package + module)
    except ImportError as missing:
        raise ArgumentError(
            f"{package} cannot be imported here ({missing}); install it with `pip install {_INSTALL[package]}`"
        ) from missing


def _check(F: Any, package: str) -> None:
    if not isinstance(F, Factorization):
        raise ArgumentError(f"F is a {type(F).__name__}; give a sparsefact.Factorization")
    if F.device != "cpu":
        raise DeviceError(f"F is on {F.device!r}, and {package} gets NumPy arrays; move it with F.to('cpu')")


def _readable(array: Any, j: int) -> Any:
    """Return what a library calls an array as one that NumPy reads; a CuPy array stays where it is."""
    if on_gpu(array):
        return array
    try:
        return np.asarray(array)
    except (TypeError, RuntimeError) as error:  # a tensor on a GPU, with a gradient, of eight bits
        raise DtypeError(
            f"ks_values[{j}] cannot be read by NumPy ({error}); give arrays, or tensors on the CPU without gradient"
        ) from error


def _writable(factor: Any, dtype: np.dtype[Any]) -> sparse.csr_matrix[Any] | NDArray[Any]:
    """Return a copy in one of the forms that pyfaust takes, whose arrays must not be read-only."""
    if is_dense(factor):
        return factor.astype(dtype)
    csr = factor.tocsr()
    arrays = csr.data.astype(dtype), csr.indices.astype(np.int32), csr.indptr.astype(np.int32)
    if not csr.nnz:
        arrays = np.zeros(1, dtype), np.zeros(1, np.int32), np.minimum(np.arange(csr.shape[0] + 1, dtype=np.int32), 1)
    return sparse.csr_matrix(arrays, shape=csr.shape)
