"""The part of the suite `kernels` on sparse factors: products with one, its gradient, products on a support.

Results are compared with float64 products, on some of their columns or entries. e is the size of an entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from sparsefact.bench.cases import Case, Way, Work, eps_of, random_array
from sparsefact.bench.devices import Device

__all__ = ["sparse_kernel_cases"]

_COLUMNS = 512


def sparse_kernel_cases(n: int, dtype: str) -> Iterator[Case]:
    """Yield the cases of one size."""
    yield _factor_case(n, dtype)
    yield _gradient_case(n, dtype)
    yield _sampled_case(n, dtype)


def _factor_case(n: int, dtype: str) -> Case:
    a = 1 << (n.bit_length() - 1) // 2
    d, batch, size = n // (2 * a), min(n, _COLUMNS), np.dtype(dtype).itemsize

    def prepare(device: Device) -> Work:
        values, host = random_array((a, 2, 2, d), dtype), random_array((n, batch), dtype, 1)
        some = np.linspace(0, batch - 1, min(batch, 8)).astype(int)
        exact = _by_einsum(np, values.astype(np.result_type(dtype, np.float64)), host[:, some])
        scale = float(np.abs(exact).max())

        def check(found: Any) -> float:
            return float(np.abs(device.host(found)[:, some] - exact).max()) / scale

        w, xs, tolerance = device.put(values), device.copies(host), 30 * eps_of(dtype)
        work = Work([Way("sparsefact", [partial(device.backend.ks_apply, w, x) for x in xs], check, tolerance)])
        calls = [partial(_by_einsum, device.xp, w, x) for x in xs]
        work.ways.append(Way(f"{device.library} einsum", calls, check, tolerance))
        found = device.torch()
        if found is not None:
            torch, put = found
            calls = [partial(_by_einsum, torch, put(values), put(device.host(x))) for x in xs]
            work.attempt("torch einsum", lambda: Way("torch einsum", calls, check, tolerance))
        return work

    complex_ = 4 if np.dtype(dtype).kind == "c" else 1
    formula = "bytes: (4 a d + 2 n batch) e; flops: 8 a d batch, times 4 for complex"
    nbytes = (4 * a * d + 2 * n * batch) * size
    flops = complex_ * 8 * a * d * batch
    return Case("kernels", "one factor", n, dtype, f"batch {batch}", nbytes, flops, formula, prepare)


def _by_einsum(xp: Any, w: Any, x: Any) -> Any:
    a, b, c, d = w.shape
    return xp.einsum("ipkq,ikqn->ipqn", w, x.reshape(a, c, d, -1)).reshape(a * b * d, -1)


def _gradient_case(n: int, dtype: str) -> Case:
    a = 1 << (n.bit_length() - 1) // 2
    pattern, batch, size = (a, 2, 2, n // (2 * a)), min(n, _COLUMNS), np.dtype(dtype).itemsize

    def prepare(device: Device) -> Work:
        x, gy = random_array((n, batch), dtype), random_array((n, batch), dtype, 1)
        exact = _gradient(np, pattern, *(array.astype(np.result_type(dtype, np.float64)) for array in (x, gy)))
        scale = float(np.abs(exact).max())

        def check(found: Any) -> float:
            return float(np.abs(device.host(found) - exact).max()) / scale

        xs, there = device.copies(x), device.put(gy)
        tolerance = 10 * batch**0.5 * eps_of(dtype)
        calls = [partial(device.backend.ks_grad, pattern, each, there) for each in xs]
        work = Work([Way("sparsefact", calls, check, tolerance)])
        calls = [partial(_gradient, device.xp, pattern, each, there) for each in xs]
        work.ways.append(Way(f"{device.library} einsum", calls, check, tolerance))
        found = device.torch()
        if found is not None:
            torch, put = found
            calls = [partial(_gradient, torch, pattern, put(device.host(each)), put(gy)) for each in xs]
            work.attempt("torch einsum", lambda: Way("torch einsum", calls, check, tolerance))
        return work

    complex_ = 4 if np.dtype(dtype).kind == "c" else 1
    formula = "bytes: (2 n batch + 2 n) e; flops: 4 n batch, times 4 for complex"
    nbytes = (2 * n * batch + 2 * n) * size
    flops = complex_ * 4 * n * batch
    return Case("kernels", "gradient of a factor", n, dtype, f"batch {batch}", nbytes, flops, formula, prepare)


def _gradient(xp: Any, pattern: tuple[int, int, int, int], x: Any, gy: Any) -> Any:
    a, b, c, d = pattern
    return xp.einsum("ipqn,irqn->iprq", gy.reshape(a, b, d, -1), x.reshape(a, c, d, -1).conj())


def _sampled_case(n: int, dtype: str) -> Case:
    inner, size, nnz = min(n, _COLUMNS), np.dtype(dtype).itemsize, max(1, n * n // 20)

    def prepare(device: Device) -> Work:
        x, y = random_array((n, inner), dtype), random_array((inner, n), dtype, 1)
        cells = np.sort(np.random.default_rng(2).choice(n * n, nnz, replace=False))
        rows, columns = cells // n, cells % n
        indptr = np.searchsorted(rows, np.arange(n + 1)).astype(np.int64)
        some = np.linspace(0, nnz - 1, min(nnz, 4096)).astype(int)
        wide = [array.astype(np.result_type(dtype, np.float64)) for array in (x[rows[some]], y[:, columns[some]].T)]
        exact = (wide[0] * wide[1]).sum(axis=1)
        scale = float(np.abs(exact).max())

        def check(found: Any) -> float:
            return float(np.abs(device.host(found)[some] - exact).max()) / scale

        starts, inside = device.put(indptr), device.put(columns)
        xs, there, where = device.copies(x), device.put(y), device.put(rows)
        tolerance = 10 * inner**0.5 * eps_of(dtype)
        calls = [partial(device.backend.sddmm, starts, inside, each, there) for each in xs]
        work = Work([Way("sparsefact", calls, check, tolerance)])
        calls = [partial(_picked, device.xp.matmul, where, inside, each, there) for each in xs]
        work.ways.append(Way(f"{device.library} dense", calls, check, tolerance))
        found = device.torch()
        if found is not None:
            torch, put = found
            held = put(rows), put(columns)
            calls = [partial(_picked, torch.matmul, *held, put(device.host(each)), put(y)) for each in xs]
            work.attempt("torch dense", lambda: Way("torch dense", calls, check, tolerance))
        return work

    complex_ = 4 if np.dtype(dtype).kind == "c" else 1
    formula = "k = min(n, 512), nnz = n^2 / 20: bytes: 2 n k e + nnz (e + 8); flops: 2 nnz k, times 4 for complex"
    nbytes = 2 * n * inner * size + nnz * (size + 8)
    flops = complex_ * 2 * nnz * inner
    detail = f"density 0.05, inner {inner}"
    return Case("kernels", "product on a support", n, dtype, detail, nbytes, flops, formula, prepare)


def _picked(matmul: Callable[..., Any], rows: Any, columns: Any, x: Any, y: Any) -> Any:
    """Form the whole product, and keep what is asked for."""
    return matmul(x, y)[rows, columns]
