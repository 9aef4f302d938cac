"""The suite `product`: chains of Kronecker-sparse factors and pairs of sparse matrices times dense columns.

Results are compared with float64 products, factor by factor, on some of the columns.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Sequence
from functools import partial
from operator import matmul
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sparsefact.bench.cases import Case, Way, Work, eps_of, random_array
from sparsefact.bench.devices import Device, installed
from sparsefact.products.factorization import Factorization
from sparsefact.products.factors import KroneckerFactor

__all__ = ["chain_case", "product_cases"]

_BATCHES = (1, 32, 512)
_CHECKED = 16
_TF32 = 2e-3
# A dense matrix of more rows than this is not formed.
_DENSE = 8192


def product_cases(n: int, dtype: str) -> Iterator[Case]:
    """Yield the cases of one size."""
    for batch in _BATCHES:
        yield chain_case(n, dtype, batch)
    for batch in (1, 512):
        yield _pair_case(n, dtype, batch)


def chain_case(n: int, dtype: str, batch: int) -> Case:
    """Return the product of a random radix-2 chain of order n with `batch` columns."""
    depth, size = n.bit_length() - 1, np.dtype(dtype).itemsize

    def prepare(device: Device) -> Work:
        values = [
            random_array((1 << k, 2, 2, n >> k + 1), dtype, k) / np.dtype(dtype).type(math.sqrt(2)).real
            for k in range(depth)
        ]
        values = [v.astype(dtype, copy=False) for v in values]
        matrices = [_csr(v) for v in values]
        return _ways(device, Work(), values, matrices, values, n, dtype, batch, 30 * depth)

    complex_ = 4 if np.dtype(dtype).kind == "c" else 1
    formula = "bytes: (2 n log2 n + 2 n batch) e; flops: 4 n log2 n batch, times 4 for complex"
    nbytes = (2 * n * depth + 2 * n * batch) * size
    flops = complex_ * 4 * n * depth * batch
    return Case("product", "butterfly chain", n, dtype, f"batch {batch}", nbytes, flops, formula, prepare)


def _pair_case(n: int, dtype: str, batch: int) -> Case:
    size, density = np.dtype(dtype).itemsize, 0.05
    nnz = max(1, int(density * n * n))

    def prepare(device: Device) -> Work:
        matrices = [_random_csr(n, nnz, dtype, seed) for seed in (1, 2)]
        return _ways(device, Work(), matrices, matrices, None, n, dtype, batch, 30 * math.sqrt(density * n + 1))

    complex_ = 4 if np.dtype(dtype).kind == "c" else 1
    formula = "bytes: 2 nnz (e + 4) + 2 n batch e with nnz of each factor; flops: 4 nnz batch, times 4 for complex"
    nbytes = 2 * nnz * (size + 4) + 2 * n * batch * size
    detail = f"density {density}, batch {batch}"
    return Case("product", "sparse pair", n, dtype, detail, nbytes, complex_ * 4 * nnz * batch, formula, prepare)


def _ways(
    device: Device,
    work: Work,
    parts: Sequence[Any],
    matrices: Sequence[Any],
    values: Sequence[NDArray[Any]] | None,
    n: int,
    dtype: str,
    batch: int,
    unit: float,
) -> Work:
    """Fill in all ways to multiply; `values` are those of Kronecker-sparse factors."""
    host = random_array((n, batch), dtype, 99)
    some = np.linspace(0, batch - 1, min(batch, _CHECKED)).astype(int)
    exact: NDArray[Any] = host[:, some].astype(np.result_type(dtype, np.float64))
    for matrix in reversed(matrices):
        exact = matrix.astype(exact.dtype) @ exact
    scale = float(np.abs(exact).max())

    def check(found: Any) -> float:
        return float(np.abs(device.host(found)[:, some] - exact).max()) / scale

    tolerance = unit * eps_of(dtype)
    xs = device.copies(host)
    whole = Factorization([KroneckerFactor(part) if isinstance(part, np.ndarray) else part for part in parts])
    there = whole.to(device.name)
    work.notes["plan"] = there.plan(batch=batch).explain()
    work.ways.append(Way("sparsefact", [partial(matmul, there, x) for x in xs], check, tolerance))
    dense = whole.todense() if n <= _DENSE else None
    if dense is None:
        work.left_out["dense"] = f"a dense matrix of more than {_DENSE} rows is not formed"
    else:
        w = device.put(dense)
        calls = [partial(matmul, w, x) for x in xs]
        work.ways.append(Way(f"{device.library} dense", calls, check, tolerance * 4))
    work.attempt(*_library_csr(device, matrices, xs, check, tolerance))
    _torch_ways(device, work, dense, values, xs, check, tolerance)
    if not device.is_gpu and values is not None:
        _peers(work, values, matrices, host, check, tolerance)
    return work


def _library_csr(
    device: Device, matrices: Sequence[Any], xs: Sequence[Any], check: Any, tolerance: float
) -> tuple[str, Any]:
    name = "cupyx CSR" if device.is_gpu else "scipy CSR"

    def make() -> Way:
        held = [_on_device(device, matrix) for matrix in matrices]
        return Way(name, [partial(_one_by_one, held, x) for x in xs], check, tolerance)

    return name, make


def _torch_ways(
    device: Device,
    work: Work,
    dense: NDArray[Any] | None,
    values: Sequence[NDArray[Any]] | None,
    xs: Sequence[Any],
    check: Any,
    tolerance: float,
) -> None:
    found = device.torch()
    if found is None:
        return
    torch, put = found
    moved = [put(device.host(x)) for x in xs]
    if dense is not None:
        w = put(dense)
        calls = [partial(torch.matmul, w, x) for x in moved]
        work.attempt("torch dense", lambda: Way("torch dense", calls, check, 4 * tolerance))
        if device.is_gpu and dense.dtype == np.float32:
            work.attempt("torch dense TF32", lambda: Way("torch dense TF32", calls, check, _TF32, tf32=True))
    if values is not None:
        held = [put(v) for v in values]
        steps = [partial(_einsums, torch.einsum, held, x) for x in moved]
        work.attempt("torch einsum", lambda: Way("torch einsum", steps, check, tolerance))


def _einsums(einsum: Any, values: Sequence[Any], x: Any) -> Any:
    for w in reversed(values):
        a, b, c, d = tuple(w.shape)
        x = einsum("ipkq,ikqn->ipqn", w, x.reshape(a, c, d, -1)).reshape(a * b * d, -1)
    return x


def _peers(
    work: Work,
    values: Sequence[NDArray[Any]],
    matrices: Sequence[Any],
    host: NDArray[Any],
    check: Any,
    tolerance: float,
) -> None:
    """Add the packages that multiply such chains, where they are installed."""
    if installed("lazylinop"):

        def lazylinop() -> Way:
            ksm = importlib.import_module("lazylinop.butterfly").ksm
            operator = ksm([np.ascontiguousarray(v) for v in values], ksm_args={"backend": "scipy", "params": None})
            return Way("lazylinop", [partial(matmul, operator, host)], check, tolerance)

        work.attempt("lazylinop", lazylinop)
    if installed("pyfaust") and host.dtype != np.complex64:

        def pyfaust() -> Way:
            product = importlib.import_module("pyfaust").Faust([sparse.csr_matrix(matrix) for matrix in matrices])
            return Way("pyfaust", [partial(matmul, product, np.asfortranarray(host))], check, tolerance)

        work.attempt("pyfaust", pyfaust)


def _csr(values: NDArray[Any]) -> Any:
    """Return a Kronecker-sparse factor as a CSR array with indices of 32 bits."""
    a, b, c, d = values.shape
    i, p, k, q = np.ix_(*map(np.arange, values.shape))
    rows = np.broadcast_to((i * b + p) * d + q, values.shape).reshape(-1)
    columns = np.broadcast_to((i * c + k) * d + q, values.shape).reshape(-1)
    found = sparse.coo_array((values.reshape(-1), (rows, columns)), shape=(a * b * d, a * c * d)).tocsr()
    return _narrow(found)


def _random_csr(n: int, nnz: int, dtype: str, seed: int) -> Any:
    cells = np.random.default_rng(seed).choice(n * n, nnz, replace=False)
    values = random_array((nnz,), dtype, seed)
    return _narrow(sparse.coo_array((values, (cells // n, cells % n)), shape=(n, n)).tocsr())


def _narrow(matrix: Any) -> Any:
    matrix.sort_indices()
    indices, indptr = matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32)
    return sparse.csr_array((matrix.data, indices, indptr), shape=matrix.shape)


def _on_device(device: Device, matrix: Any) -> Any:
    """Return a CSR array in the library of the device."""
    if not device.is_gpu:
        return matrix
    arrays = tuple(device.put(part) for part in (matrix.data, matrix.indices, matrix.indptr))
    return device.module("cupyx.scipy.sparse").csr_matrix(arrays, shape=matrix.shape)


def _one_by_one(matrices: Sequence[Any], x: Any) -> Any:
    for matrix in reversed(matrices):
        x = matrix @ x
    return x
