"""Multiplying by factors: a butterfly, two sparse matrices, and the discrete Fourier transform."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import matmul
from typing import Any

import numpy as np
import scipy.fft
import scipy.sparse
from numpy.typing import NDArray

import sparsefact as sf
from benchmarks.peers.case import Attempt, Case, Verdict, Way, Wrong
from benchmarks.peers.layers import Layers
from benchmarks.peers.libraries import LAZYLINOP
from benchmarks.products import Run, as_csr, by_sixteen, chain, lazylinop, one_by_one, pyfaust

CHAINS = {"small": 256, "medium": 1024, "large": 4096}
PAIRS = {"small": 512, "medium": 1024, "large": 2048}
BATCH, PAIR_BATCH, PAIR_DENSITY = 32, 128, 0.3
# what is off by more is wrong, and what is off by less than the second is rounding
TOLERANCE, ROUNDING = 1e-4, 1e-5


@dataclass(frozen=True)
class Product:
    """Factors (values of Kronecker factors, or CSR arrays), what they multiply, and the result in wide precision."""

    factors: list[Any]
    operand: NDArray[Any]
    expected: NDArray[Any]

    @property
    def dense(self) -> NDArray[Any]:
        """The product of the factors."""
        return sf.Factorization(self.kinds).todense()

    @property
    def kinds(self) -> list[Any]:
        """The factors as ours takes them."""
        return [sf.KroneckerFactor(each) if isinstance(each, np.ndarray) else each for each in self.factors]

    @property
    def csr(self) -> list[Any]:
        """The factors as scipy takes them."""
        return [as_csr(each) if isinstance(each, np.ndarray) else each for each in self.factors]


def operand(n: int, batch: int, dtype: str) -> NDArray[Any]:
    """Return Gaussian columns."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((n, batch))
    return (x + 1j * rng.standard_normal((n, batch)) if np.dtype(dtype).kind == "c" else x).astype(dtype)


def butterfly(n: int) -> Callable[[Layers], Product]:
    """Return what makes a random radix-2 chain, float32."""

    def make(layers: Layers) -> Product:
        values, x = chain(n, "float32"), operand(n, BATCH, "float32")
        return Product(list(values), x, one_by_one([as_csr(each).astype(float) for each in values], x.astype(float))())

    return make


def pair(n: int) -> Callable[[Layers], Product]:
    """Return what makes two random sparse matrices, float32."""

    def make(layers: Layers) -> Product:
        rng = np.random.default_rng(0)
        factors = [
            scipy.sparse.random_array((n, n), density=PAIR_DENSITY / 2, rng=rng, dtype=np.float32).tocsr()
            for _ in range(2)
        ]
        x = operand(n, PAIR_BATCH, "float32")
        return Product(factors, x, one_by_one([each.astype(float) for each in factors], x.astype(float))())

    return make


def fourier(n: int) -> Callable[[Layers], Product]:
    """Return what makes an operand of the DFT, complex64."""

    def make(layers: Layers) -> Product:
        x = operand(n, BATCH, "complex64")
        return Product([], x, scipy.fft.fft(x.astype(np.complex128), axis=0))

    return make


def judge(problem: Product, found: Any) -> Verdict:
    """Return the relative error of the result; what is wrong is no answer."""
    if found.shape != problem.expected.shape:
        raise Wrong(f"a result of shape {found.shape} instead of {problem.expected.shape}")
    error = float(np.linalg.norm(found - problem.expected) / np.linalg.norm(problem.expected))
    if not error < TOLERANCE:
        raise Wrong(f"the result is off by {error:.3g}")
    return Verdict(error)


def reads(run: Run) -> Attempt:
    """Return the attempt whose result is the product."""
    return Attempt(run, np.asarray)


def solve(problem: Product) -> Attempt:
    """Prepare ours."""
    return reads(partial(matmul, sf.Factorization(problem.kinds), problem.operand))


def named(make: Callable[[Product], dict[str, Run]], name: str) -> Callable[[Product], Attempt]:
    """Return what prepares one of several runs."""

    def prepare(problem: Product) -> Attempt:
        # those that fail are left out, with a line that says why
        with contextlib.redirect_stdout(io.StringIO()) as said:
            runs = make(problem)
        if name not in runs:
            why = [line for line in said.getvalue().splitlines() if line.startswith(f"{name}:")]
            raise LookupError(why[0] if why else f"{name} does not run here")
        return reads(runs[name])

    return prepare


def torch_dense(problem: Product) -> Attempt:
    """Prepare one dense product in PyTorch."""
    torch = importlib.import_module("torch")
    return reads(partial(matmul, torch.from_numpy(problem.dense), torch.from_numpy(problem.operand)))


def torch_sparse(problem: Product) -> Attempt:
    """Prepare two products in PyTorch's CSR layout."""
    torch = importlib.import_module("torch")
    left, right = (
        torch.sparse_csr_tensor(each.indptr, each.indices, each.data, size=each.shape) for each in problem.csr
    )
    x = torch.from_numpy(problem.operand)
    return reads(lambda: left @ (right @ x))


def lazy_dft(problem: Product) -> Attempt:
    """Prepare lazylinop's DFT, permutation included, which is unitary."""
    n = len(problem.operand)
    operator = importlib.import_module("lazylinop.butterfly").dft(n, dtype="complex64")
    return reads(partial(matmul, operator, problem.operand * np.float32(np.sqrt(n))))


def faust_dft(problem: Product) -> Attempt:
    """Prepare pyfaust's DFT, which is complex128."""
    transform = importlib.import_module("pyfaust").dft(len(problem.operand), normed=False)
    x = np.asfortranarray(problem.operand.astype(np.complex128))
    return reads(lambda: transform @ x)


def torch_fft(problem: Product) -> Attempt:
    """Prepare PyTorch's FFT."""
    torch = importlib.import_module("torch")
    return reads(partial(torch.fft.fft, torch.from_numpy(problem.operand), dim=0))


def lazy(name: str, label: str, *modules: str) -> Way:
    """Return one of lazylinop's products; a label says that the chain was fused by hand."""
    fused = by_sixteen if label else list

    def make(problem: Product) -> dict[str, Run]:
        return lazylinop(fused(problem.factors), problem.operand, label)

    return Way("lazylinop", f"{name}{label}", named(make, f"lazylinop {name}{label}"), (*LAZYLINOP, *modules))


def cases() -> list[Case]:
    """Return the cases."""
    first = (
        Way("sparsefact", "", solve),
        Way("scipy", "CSR", lambda problem: reads(one_by_one(problem.csr, problem.operand))),
        Way("numpy", "dense", lambda problem: reads(partial(matmul, problem.dense, problem.operand))),
        Way("torch", "dense", torch_dense, ("torch",)),
    )
    of_chain = (
        *first,
        lazy("numpy", ""),
        lazy("torch", "", "torch"),
        lazy("torch", ", fused by hand to 16", "torch"),
        Way("pyfaust", "", named(lambda problem: pyfaust(problem.factors, problem.operand), "pyfaust"), ("pyfaust",)),
    )
    of_pair = (*first, Way("torch", "CSR", torch_sparse, ("torch",)))
    of_fourier = (
        Way(
            "sparsefact",
            "",
            lambda problem: reads(
                partial(matmul, sf.transforms.dft(len(problem.operand), dtype="complex64"), problem.operand)
            ),
        ),
        Way("scipy", "fft", lambda problem: reads(partial(scipy.fft.fft, problem.operand, axis=0))),
        Way("numpy", "fft", lambda problem: reads(partial(np.fft.fft, problem.operand, axis=0))),
        Way("torch", "fft", torch_fft, ("torch",)),
        Way("lazylinop", "butterfly.dft", lazy_dft, LAZYLINOP),
        Way("pyfaust", "dft, complex128", faust_dft, ("pyfaust",)),
    )
    return [
        Case(family, size, title.format(n), "relative error of the product", make(n), judge, ways, ROUNDING)
        for family, title, make, sizes, ways in (
            ("product-chain", f"butterfly of {{0}}, float32, {BATCH} columns", butterfly, CHAINS, of_chain),
            (
                "product-pair",
                f"two {{0}} x {{0}} CSR, {PAIR_DENSITY:.0%} together, float32, {PAIR_BATCH} columns",
                pair,
                PAIRS,
                of_pair,
            ),
            ("transform", f"DFT of {{0}}, complex64, {BATCH} columns", fourier, CHAINS, of_fourier),
        )
        for size, n in sizes.items()
    ]
