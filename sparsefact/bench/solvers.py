"""The suite `solvers`: whole factorizations, on matrices of which it is known how well it can be done."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sparsefact.bench.cases import Case, Way, Work, eps_of, random_array
from sparsefact.bench.devices import Device, installed
from sparsefact.bench.masks import mask_by_partition, mask_by_torch
from sparsefact.bench.published import published_double_sparse
from sparsefact.constraints.chain import Chain
from sparsefact.constraints.double_sparse import double_sparse
from sparsefact.constraints.top_k import TopK
from sparsefact.factorizers.alternating import Alternating
from sparsefact.factorizers.factorize import factorize
from sparsefact.minimizers.admm import ADMM
from sparsefact.minimizers.minimize import minimize
from sparsefact.objectives.quadratic import Quadratic
from sparsefact.products.factorization import Factorization
from sparsefact.products.factors import KroneckerFactor

__all__ = ["double_sparse_case", "hierarchical_case", "solver_cases"]

_VECTORS = 8
_ITERATIONS = 40
# The most that an error may be of the one of a simple result, which some solvers fall back to.
_AS_GOOD = 1.001


def solver_cases(n: int, dtype: str) -> Iterator[Case]:
    """Yield the cases of one size."""
    yield hierarchical_case(n, dtype)
    yield double_sparse_case(n, dtype, 8)
    yield _minimize_case(n, dtype)


def hierarchical_case(n: int, dtype: str) -> Case:
    """Return the factorization of an n x n butterfly matrix into its log2(n) factors, found again up to rounding."""
    depth, size = n.bit_length() - 1, np.dtype(dtype).itemsize

    def prepare(device: Device) -> Work:
        values = [(random_array((1 << k, 2, 2, n >> k + 1), dtype, k) / 1.5).astype(dtype) for k in range(depth)]
        host = Factorization([KroneckerFactor(v) for v in values]).todense()
        x = random_array((n, _VECTORS), "float64", 99)
        exact = np.concatenate(
            [host[i : i + 512].astype(np.result_type(dtype, np.float64)) @ x for i in range(0, n, 512)]
        )

        def check(read: Callable[[Any], list[Any]], found: Any) -> float:
            y: NDArray[Any] = x.astype(exact.dtype)
            for factor in reversed(read(found)):
                y = factor.astype(y.dtype) @ y
            return float(np.linalg.norm(y - exact) / np.linalg.norm(exact))

        tolerance = 100 * depth * eps_of(dtype)
        chain = Chain.butterfly(n)
        calls = [partial(factorize, a, chain) for a in device.copies(host)]
        work = Work([Way("sparsefact", calls, partial(check, _sparse), tolerance)])
        _peers(device, work, host, check, tolerance)
        return work

    formula = "bytes: n^2 e, the matrix read once; flops: 14 per pair of entries, n^2 - 2 n pairs, times 4 for complex"
    flops = 14 * (4 if np.dtype(dtype).kind == "c" else 1) * (n * n - 2 * n)
    return Case("solvers", "hierarchical", n, dtype, "", n * n * size, flops, formula, prepare)


def _sparse(found: Factorization) -> list[Any]:
    return [_csr(factor) for factor in found.to("cpu").factors]


def _csr(factor: Any) -> Any:
    return factor.tocsr() if hasattr(factor, "tocsr") else sparse.csr_array(factor)


def _peers(device: Device, work: Work, host: NDArray[Any], check: Callable[..., float], tolerance: float) -> None:
    """Add the packages that factorize butterflies, where they are installed; NumPy arrays are read by all of them."""
    n = len(host)
    pattern = [(1 << k, 2, 2, n >> k + 1) for k in range(n.bit_length() - 1)]
    found = device.torch()
    if installed("lazylinop") and found is not None:
        torch_put = found[1]

        def lazylinop() -> Way:
            butterfly = importlib.import_module("lazylinop.butterfly")
            chain, array = butterfly.Chain(pattern), torch_put(host)
            svd = "pytorch_svd_cuda" if device.is_gpu else "pytorch_svd_cpu"
            call = partial(butterfly.ksd, array, chain, ortho=True, order="l2r", svd_backend=svd)

            def read(result: Any) -> list[Any]:
                return [KroneckerFactor(device.host(v)).tocsr() for v in result.ks_values]

            return Way("lazylinop", [call], partial(check, read), tolerance)

        work.attempt("lazylinop", lazylinop)
    if installed("pyfaust") and not device.is_gpu:

        def pyfaust() -> Way:
            fact = importlib.import_module("pyfaust.fact")
            array = np.asfortranarray(host.astype(np.complex128) if host.dtype == np.complex64 else host)

            def read(result: Any) -> list[Any]:
                return [sparse.csr_array(result.factors(j)) for j in range(result.numfactors())]

            return Way("pyfaust", [partial(fact.butterfly, array, type="bbtree")], partial(check, read), tolerance)

        work.attempt("pyfaust", pyfaust)


def double_sparse_case(n: int, dtype: str, outer: int, density: float = 0.3) -> Case:
    """Return the double sparse factorization of a Gaussian matrix in `outer` iterations, and the published one."""
    size = np.dtype(dtype).itemsize

    def prepare(device: Device) -> Work:
        host, work = random_array((n, n), dtype), Work()
        target = host.astype(np.result_type(dtype, np.float64))
        norm, budget = float(np.linalg.norm(target)), int(density * n * n)
        # an identity beside the largest entries: what anything that works does better than, at the same budget
        smallest = np.sort(np.abs(target), axis=None)[: n * n - budget + n]
        pruned = float(np.linalg.norm(smallest)) / norm

        def check(name: str, found: Any) -> float:
            pair = _sparse(found) if isinstance(found, Factorization) else map(device.host, found)
            left, right = (f if isinstance(f, np.ndarray) else f.toarray() for f in pair)
            nnz = np.count_nonzero(left) + np.count_nonzero(right)
            error = float(np.linalg.norm(target - left.astype(target.dtype) @ right.astype(target.dtype))) / norm
            work.notes[f"relative error, {name}"] = error
            return error / pruned if nnz <= budget else math.inf

        a = device.put(host)
        call: Callable[[], Any] = partial(
            factorize, a, double_sparse((n, n), density), Alternating(outer=outer, report_every=outer)
        )
        work.ways.append(Way("sparsefact", [call], partial(check, "sparsefact"), _AS_GOOD))
        if target.dtype.kind == "c" or outer < 4:
            return work
        name = f"published, {device.library}"
        call = partial(published_double_sparse, device.xp, a, density, outer, partial(mask_by_partition, device.xp))
        work.ways.append(Way(name, [call], partial(check, name), _AS_GOOD))
        found = device.torch()
        if found is not None:
            torch, put = found
            moved = put(host)
            for tf32 in (False, True) if device.is_gpu and dtype == "float32" else (False,):
                name = "published, torch" + (" TF32" if tf32 else "")
                call = partial(published_double_sparse, torch, moved, density, outer, partial(mask_by_torch, torch))
                work.ways.append(Way(name, [call], partial(check, name), _AS_GOOD, tf32))
        return work

    formula = (
        "bytes: n^2 e, the matrix read once; flops: per half-step 5 products and 2 inverses, 12 n^3, twice per outer "
        "iteration; times 4 for complex"
    )
    flops = 24 * (4 if np.dtype(dtype).kind == "c" else 1) * outer * n**3
    detail = f"density {density}, {outer} outer"
    return Case("solvers", "double sparse", n, dtype, detail, n * n * size, flops, formula, prepare)


def _minimize_case(n: int, dtype: str) -> Case:
    size = np.dtype(dtype).itemsize

    def prepare(device: Device) -> Work:
        x, truth = random_array((2 * n, n), dtype), random_array((n, n), dtype, 1)
        gram = (x.conj().T @ x) / (2 * n)
        cross = gram @ truth
        wide = gram.astype(np.result_type(dtype, np.float64)), cross.astype(np.result_type(dtype, np.float64))
        constraint = TopK(density=0.1)
        naive = _value(*wide, constraint.project(truth.astype(wide[0].dtype)))

        def check(found: Any) -> float:
            value = device.host(found.value)
            kept = np.count_nonzero(value) <= constraint.count(value.shape)
            # values are negative: the more, the better
            return naive / _value(*wide, value.astype(wide[0].dtype)) if kept else math.inf

        arrays = device.put(gram), device.put(cross)
        solver = ADMM(iterations=_ITERATIONS, report_every=_ITERATIONS)
        call = partial(_minimize, *arrays, constraint, solver)
        return Work([Way("sparsefact", [call], check, _AS_GOOD)])

    complex_ = 4 if np.dtype(dtype).kind == "c" else 1
    formula = f"bytes: 2 n^2 e, both matrices read once; flops: an inverse and {_ITERATIONS} products, each 2 n^3"
    flops = complex_ * 2 * (_ITERATIONS + 1) * n**3
    detail = f"density 0.1, {_ITERATIONS} iterations"
    return Case("solvers", "minimize", n, dtype, detail, 2 * n * n * size, flops, formula, prepare)


def _minimize(gram: Any, cross: Any, constraint: TopK, solver: ADMM) -> Any:
    return minimize(Quadratic(gram, cross), constraint, solver)


def _value(gram: NDArray[Any], cross: NDArray[Any], w: NDArray[Any]) -> float:
    """Return tr(W^H G W) / 2 - Re tr(W^H C)."""
    return float((w.conj() * (gram @ w / 2 - cross)).sum().real)
