"""The suite `kernels`: single operations of the backends beside the libraries' own.

Each result is compared with the float64 reference (`sparsefact.backends.reference`), on the whole operand or, where
that would take minutes, on some of its blocks or columns. e is the size of an entry, n the size of the case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from sparsefact.backends.reference import REFERENCE
from sparsefact.bench.cases import Case, Way, Work, eps_of, random_array
from sparsefact.bench.devices import Device
from sparsefact.bench.masks import mask_by_partition, mask_by_torch
from sparsefact.bench.sparse_kernels import sparse_kernel_cases

__all__ = ["kernel_cases", "kth_case", "sweep_case"]

# Blocks whose triples are compared with float64 SVDs, and columns of least squares with float64 solutions.
_SAMPLE = 512
# Batched SVDs of more bytes than this take the libraries minutes.
_LARGEST_SVD = 1 << 27


def kernel_cases(n: int, dtype: str) -> Iterator[Case]:
    """Yield the cases of one size."""
    yield kth_case(n, dtype)
    yield _mask_case(n, dtype)
    for b in (2, 16):
        yield _rank_one_case(n, dtype, b)
    yield sweep_case(n, dtype)
    yield _admm_case(n, dtype)
    yield _inverse_case(n, dtype)
    yield _least_squares_case(n, dtype)
    yield from sparse_kernel_cases(n, dtype)


def kth_case(n: int, dtype: str, count: int | None = None) -> Case:
    """Return the selection of the k-th largest magnitude of `count` numbers, n * n unless given, k a tenth of it."""
    total = n * n if count is None else count
    k = max(1, total // 10)

    def prepare(device: Device) -> Work:
        host = random_array((1, total), dtype)
        exact = float(REFERENCE.kth_largest_abs(host, k)[0])
        xs = device.copies(host)

        def check(found: Any) -> float:
            return float(float(device.host(found).reshape(-1)[0]) != exact)

        # the host reads the threshold once, after all calls: nothing waits for it in between
        calls = [partial(_first, device.backend.kth_largest_abs, x, k) for x in xs]
        work = Work([Way("sparsefact", calls, check, 0.0)])
        name = f"{device.library} partition"
        work.ways.append(Way(name, [partial(_partitioned, device.xp, x, k) for x in xs], check, 0.0))
        found = device.torch()
        if found is not None:
            torch, put = found
            pairs = [put(device.host(x)).reshape(-1) for x in xs]
            calls = [partial(_torch_kth, torch, x, k) for x in pairs]
            work.attempt("torch topk", lambda: Way("torch topk", calls, check, 0.0))
        return work

    formula = "bytes: every number read once, e each; no flops are counted"
    return Case("kernels", "k-th magnitude", n, dtype, "", total * np.dtype(dtype).itemsize, 0, formula, prepare)


def _first(select: Callable[..., Any], x: Any, k: int) -> Any:
    return select(x, k)[0]


def _partitioned(xp: Any, x: Any, k: int) -> Any:
    flat = xp.abs(x).reshape(-1)
    return xp.partition(flat, flat.size - k)[flat.size - k]


def _torch_kth(torch: Any, x: Any, k: int) -> Any:
    return torch.topk(x.abs(), k, sorted=False).values.min()


def _mask_case(n: int, dtype: str) -> Case:
    k, size = max(1, n * n // 10), np.dtype(dtype).itemsize

    def prepare(device: Device) -> Work:
        host = random_array((n, n), dtype)
        exact, magnitudes = REFERENCE.topk_mask(host, k), np.abs(host)
        kept = float(magnitudes[exact].sum(dtype=np.float64))
        xs = device.copies(host)

        def same(found: Any) -> float:
            return float(np.count_nonzero(device.host(found) != exact))

        def as_good(found: Any) -> float:
            mask = device.host(found).reshape(n, n)
            off = abs(int(mask.sum()) - k)
            return off + abs(float(magnitudes[mask].sum(dtype=np.float64)) / kept - 1)

        work = Work([Way("sparsefact", [partial(device.backend.topk_mask, x, k) for x in xs], same, 0.0)])
        name = f"{device.library} argpartition"
        work.ways.append(Way(name, [partial(mask_by_partition, device.xp, x, k) for x in xs], as_good, 1e-9))
        found = device.torch()
        if found is not None:
            torch, put = found
            calls = [partial(mask_by_torch, torch, put(device.host(x)), k) for x in xs]
            work.attempt("torch topk", lambda: Way("torch topk", calls, as_good, 1e-9))
        return work

    formula = "bytes: n^2 (e + 1), the matrix read and the mask written; no flops are counted"
    return Case("kernels", "top-k mask", n, dtype, "density 0.1", n * n * (size + 1), 0, formula, prepare)


def _rank_one_case(n: int, dtype: str, b: int) -> Case:
    count, size = n * n // (b * b), np.dtype(dtype).itemsize
    real = np.dtype(dtype).type(0).real.itemsize

    def prepare(device: Device) -> Work:
        host = random_array((count, b, b), dtype)
        sample = np.linspace(0, count - 1, min(count, _SAMPLE)).astype(int)
        blocks = host[sample].astype(np.complex128)
        singular = np.linalg.svd(blocks, compute_uv=False)
        tails, norms = np.sqrt((singular[:, 1:] ** 2).sum(axis=1)), np.linalg.norm(singular, axis=1)

        def check(found: Any) -> float:
            u, s, v = (device.host(part)[sample].astype(np.complex128) for part in found)
            rest = np.linalg.norm(blocks - (u * s[:, None])[:, :, None] * v[:, None, :], axis=(1, 2))
            return float(max(((rest - tails) / norms).max(), (np.abs(s - singular[:, 0]) / norms).max()))

        xs = device.copies(host)
        tolerance = max(300 * eps_of(dtype), 1e-5 if size // real * 4 == size else 1e-9)
        work = Work([Way("sparsefact", [partial(device.backend.rank1, x) for x in xs], check, tolerance)])
        if host.nbytes > _LARGEST_SVD:
            work.left_out[f"{device.library} svd"] = work.left_out["torch svd"] = "would take minutes"
            return work
        calls = [partial(_leading, device.xp.linalg.svd, x) for x in xs]
        work.ways.append(Way(f"{device.library} svd", calls, check, tolerance))
        found = device.torch()
        if found is not None:
            torch, put = found
            calls = [partial(_leading, torch.linalg.svd, put(device.host(x))) for x in xs[:1]]
            work.attempt("torch svd", lambda: Way("torch svd", calls, check, tolerance))
        return work

    formula = "bytes: n^2 e read, and per block (2 b) e + the size of a real number written; no flops are counted"
    nbytes = n * n * size + count * (2 * b * size + real)
    return Case("kernels", f"rank one of {b} x {b} blocks", n, dtype, "", nbytes, 0, formula, prepare)


def _leading(svd: Callable[..., Any], x: Any) -> tuple[Any, Any, Any]:
    u, s, v = svd(x, full_matrices=False)
    return u[:, :, 0], s[:, 0], v[:, 0, :]


def sweep_case(n: int, dtype: str) -> Case:
    """Return all splits of an n x n dyadic butterfly from left to right, on a matrix that is none."""
    levels = [(2, 2, 1, n >> i + 1) for i in range(n.bit_length() - 2)]
    size = np.dtype(dtype).itemsize

    def prepare(device: Device) -> Work:
        host = random_array((1, n, n), dtype)
        _, rest, missed, energy = REFERENCE.sweep(host, levels)
        expected = np.sqrt(np.array([*missed, float((np.abs(rest) ** 2).sum(dtype=np.float64))]) / energy)

        def check(found: Any) -> float:
            _, stack, lost, squares = found
            host_lost = [float(e) for e in device.host(lost)]
            total = float((np.abs(device.host(stack).astype(np.complex128)) ** 2).sum())
            parts = np.sqrt(np.array([*host_lost, total]) / energy)
            return float(max(np.abs(parts - expected).max(), abs(float(device.host(squares)) / energy - 1)))

        xs = device.copies(host)
        tolerance = 300 * eps_of(dtype)
        work = Work([Way("sparsefact", [partial(device.backend.sweep, x, levels) for x in xs], check, tolerance)])
        calls = [partial(_gram_sweep, device.xp, x, len(levels)) for x in xs]
        work.ways.append(Way(f"{device.library} level by level", calls, check, tolerance))
        found = device.torch()
        if found is not None:
            torch, put = found
            calls = [partial(_gram_sweep, torch, put(device.host(x)), len(levels)) for x in xs]
            work.attempt("torch level by level", lambda: Way("torch level by level", calls, check, tolerance))
        return work

    lefts = 2 * n * len(levels)
    formula = (
        "bytes: n^2 e read, (2 n levels + 2 n) e written; flops: 14 per pair of entries, n^2 - 2 n pairs in all, "
        "times 4 for complex"
    )
    flops = 14 * (4 if np.dtype(dtype).kind == "c" else 1) * (n * n - 2 * n)
    name = "butterfly sweep"
    return Case("kernels", name, n, dtype, "", (n * n + lefts + 2 * n) * size, flops, formula, prepare)


def _gram_sweep(xp: Any, x: Any, count: int) -> tuple[Any, Any, Any, Any]:
    """Peel rank-one levels of two rows off a stack, each by the closed form of a 2 x 2 Gram matrix.

    The names of functions are those that NumPy, CuPy and torch share.
    """
    stack = x
    energy = (xp.abs(stack) ** 2).sum()
    lefts, missed = [], []
    for _ in range(count):
        k, rows, w = stack.shape
        # (k, 2, d, 2, w / 2): rows l and l + d, left and right half
        pairs = stack.reshape(k, 2, rows // 2, 2, w // 2)
        top, low = pairs[:, 0], pairs[:, 1]
        upper, lower = (xp.abs(top) ** 2).sum(-1), (xp.abs(low) ** 2).sum(-1)
        cross = (top * low.conj()).sum(-1)
        half = (upper - lower) / 2
        size = xp.abs(cross)
        root = xp.sqrt(half * half + size * size)
        phase = cross.conj() / xp.where(size > 0, size, size + 1)
        first = xp.where(half >= 0, half + root, size)
        second = xp.where(half >= 0, size, root - half)
        norm = xp.sqrt(first * first + second * second)
        first = first / norm
        second = second / norm * phase
        kept = first[..., None] * top + second.conj()[..., None] * low
        rest = first[..., None] * low - second[..., None] * top
        missed.append((xp.abs(rest) ** 2).sum())
        lefts.append((first, second))
        # next[2 i + q, l] for the interval q
        stack = xp.swapaxes(kept, 1, 2).reshape(2 * k, rows // 2, w // 2)
    return lefts, stack, xp.stack(missed), energy


def _admm_case(n: int, dtype: str) -> Case:
    size = np.dtype(dtype).itemsize

    def prepare(device: Device) -> Work:
        b, t, c = (random_array((n, n), dtype, seed) for seed in range(3))
        mask = random_array((n, n), "float32", 3) > 0.5
        put = [device.put(x) for x in (b, t, mask, c)]
        wide = t.astype(np.result_type(dtype, np.float64))
        REFERENCE.admm_update(b, wide, mask)
        exact = wide.copy()
        REFERENCE.admm_rhs(c, wide, mask, 0.5, exact)
        scale = float(np.abs(exact).max())

        def check(found: Any) -> float:
            return float(np.abs(device.host(found) - exact).max()) / scale

        tolerance, out = 8 * eps_of(dtype), device.xp.empty_like(put[0])
        call = partial(_ours_admm, device.backend, put, out)
        work = Work([Way("sparsefact", [call], check, tolerance)])
        call = partial(_plain_admm, device.xp.where, *put)
        work.ways.append(Way(f"{device.library} expressions", [call], check, tolerance))
        found = device.torch()
        if found is not None:
            torch, to = found
            moved = [to(x) for x in (b, t, mask, c)]
            call = partial(_plain_admm, torch.where, *moved)
            work.attempt("torch expressions", lambda: Way("torch expressions", [call], check, tolerance))
        return work

    formula = (
        "bytes: n^2 (6 e + 2): b, t, mask read and t written, then c, t, mask read and the right-hand side written"
    )
    return Case("kernels", "ADMM step", n, dtype, "", n * n * (6 * size + 2), 3 * n * n, formula, prepare)


def _ours_admm(backend: Any, arrays: list[Any], out: Any) -> Any:
    b, t, mask, c = arrays
    t = t.copy()  # each call begins with the same numbers; a pass of its own, in every way
    backend.admm_update(b, t, mask)
    backend.admm_rhs(c, t, mask, 0.5, out)
    return out


def _plain_admm(where: Callable[..., Any], b: Any, t: Any, mask: Any, c: Any) -> Any:
    t = 1 * t
    zero = 0 * t[:1, :1]
    t = b + where(mask, zero, t)
    return c + 0.5 * where(mask, t, -t)


def _inverse_case(n: int, dtype: str) -> Case:
    def prepare(device: Device) -> Work:
        x = random_array((2 * n, n), dtype)
        host = (x.conj().T @ x) / (2 * n)
        some = np.linspace(0, n - 1, min(n, 64)).astype(int)
        unit = np.eye(n)[:, some]

        def check(found: Any) -> float:
            wide = host.astype(np.result_type(dtype, np.float64))
            return float(np.abs(wide @ device.host(found)[:, some] - unit).max())

        gs, tolerance = device.copies(host), 100 * math.sqrt(n) * eps_of(dtype)
        work = Work([Way("sparsefact", [partial(device.backend.spd_inverse, g) for g in gs], check, tolerance)])
        calls = [partial(device.xp.linalg.inv, g) for g in gs]
        work.ways.append(Way(f"{device.library} inv", calls, check, tolerance))
        found = device.torch()
        if found is not None:
            torch, put = found
            calls = [partial(_torch_inverse, torch, put(device.host(g))) for g in gs]
            work.attempt("torch Cholesky", lambda: Way("torch Cholesky", calls, check, tolerance))
        return work

    factor = 4 if np.dtype(dtype).kind == "c" else 1
    formula = "bytes: 2 n^2 e; flops: n^3 (Cholesky and the inverse of its factor), four times that for complex numbers"
    nbytes = 2 * n * n * np.dtype(dtype).itemsize
    return Case("kernels", "inverse", n, dtype, "Hermitian", nbytes, factor * n**3, formula, prepare)


def _torch_inverse(torch: Any, g: Any) -> Any:
    return torch.cholesky_inverse(torch.linalg.cholesky(g))


def _least_squares_case(n: int, dtype: str) -> Case:
    p = max(4, min(n // 4, 512))
    s, size = p // 4, np.dtype(dtype).itemsize

    def prepare(device: Device) -> Work:
        f = random_array((2 * p, p), dtype)
        g, r = (f.conj().T @ f) / (2 * p), random_array((p, n), dtype, 1)
        mask = np.argsort(random_array((p, n), "float32", 2), axis=0) < s
        some = np.linspace(0, n - 1, min(n, 32)).astype(int)
        exact = REFERENCE.masked_lsq(g, r[:, some], mask[:, some])
        scale = float(np.abs(exact).max())

        def check(found: Any) -> float:
            return float(np.abs(device.host(found)[:, some] - exact).max()) / scale

        arrays, tolerance = [device.put(x) for x in (g, r, mask)], 2000 * eps_of(dtype)
        work = Work([Way("sparsefact", [partial(device.backend.masked_lsq, *arrays)], check, tolerance)])
        if n * s * s * size > _LARGEST_SVD * 8:
            work.left_out[f"{device.library} batched solve"] = "its systems would take more than 1 GiB"
            return work
        rows = device.put(np.argsort(~mask, axis=0, kind="stable")[:s].T.copy())
        call = partial(_gathered, device.xp, arrays[0], arrays[1], rows)
        work.ways.append(Way(f"{device.library} batched solve", [call], check, tolerance))
        return work

    factor = 4 if np.dtype(dtype).kind == "c" else 1
    formula = (
        "p = min(n/4, 512), s = p/4: bytes: p^2 e + p n (2 e + 1); flops: n (s^3 / 3 + 2 s^2), times 4 for complex"
    )
    nbytes = p * p * size + p * n * (2 * size + 1)
    flops = factor * n * (s**3 // 3 + 2 * s * s)
    name = "least squares on supports"
    return Case("kernels", name, n, dtype, f"{p} unknowns, {s} kept", nbytes, flops, formula, prepare)


def _gathered(xp: Any, g: Any, r: Any, rows: Any) -> Any:
    """Solve one system per column, gathered to a batch; `rows` (n, s) are the supports."""
    systems = g[rows[:, :, None], rows[:, None, :]]
    columns = xp.arange(r.shape[1])[:, None]
    found = xp.linalg.solve(systems, r[rows, columns][:, :, None])[:, :, 0]
    out = xp.zeros_like(r)
    out[rows, columns] = found
    return out
