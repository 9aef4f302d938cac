"""The other libraries that factorize a chain of Kronecker supports on a CPU, each way they offer as one `Path`.

    pip install lazylinop pandas einops psutil torch==2.13.0 pyfaust

Whatever of it is installed is measured. Inputs are handed over in the form that a library likes best (a PyTorch tensor,
a Fortran-ordered array) and chains are built beforehand, so that only the factorization is timed. Ways that are in a
library's documentation but fail (`scipy_svds_arpack` on blocks with two rows, `pytorch_svds_cpu`) are asked all the
same: what they say is recorded in place of a time.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from benchmarks.worker import Path, Pattern, sparse_factor

PACKAGES = ("lazylinop", "torch", "pyfaust", "array-api-compat", "einops", "pandas")
# The SVDs that lazylinop's ksd takes for each kind of array on a CPU.
TORCH_SVDS = ("pytorch_svd_cpu", "pytorch_svds_cpu")
NUMPY_SVDS = ("numpy_svd", "scipy_svd", "scipy_svds_arpack", "scipy_svds_lobpcg", "scipy_svds_propack")


def installed(*names: str) -> bool:
    """Return whether all these packages can be imported."""
    return all(importlib.util.find_spec(name) is not None for name in names)


def torch_threads() -> int | None:
    """Return how many threads PyTorch takes by itself, or None where it is not installed."""
    return int(importlib.import_module("torch").get_num_threads()) if installed("torch") else None


def _ksd(array: Any, patterns: Sequence[Pattern], svds: Sequence[str], orthos: Sequence[bool]) -> list[Path]:
    butterfly = importlib.import_module("lazylinop.butterfly")
    chain = butterfly.Chain([tuple(pattern) for pattern in patterns])
    # two factors have one split, hence one order, and nothing to orthonormalise
    orders, orthos = (("l2r", "balanced"), orthos) if len(patterns) > 2 else (("l2r",), (True,))

    def path(svd: str, order: str, ortho: bool) -> Path:
        return Path(
            f"lazylinop {svd} {order}" + ("" if ortho else " without orthonormalisation"),
            lambda: butterfly.ksd(array, chain, ortho=ortho, order=order, svd_backend=svd),
            lambda found: [sparse_factor(values) for values in found.ks_values],
        )

    return [path(svd, order, ortho) for svd in svds for order in orders for ortho in orthos]


def lazylinop_torch(A: NDArray[Any], patterns: Sequence[Pattern]) -> list[Path]:
    """Return lazylinop's ``ksd`` on PyTorch tensors, with and without its orthonormalisation.

    Without, it is faster, has no bound on the error, and the error of an inexact target is larger.
    """
    if not installed("lazylinop", "pandas", "einops", "psutil", "torch"):
        return []
    tensor = importlib.import_module("torch").from_numpy(A)
    return _ksd(tensor, patterns, TORCH_SVDS, (True, False))


def lazylinop_numpy(A: NDArray[Any], patterns: Sequence[Pattern]) -> list[Path]:
    """Return lazylinop's ``ksd`` on NumPy arrays."""
    if not installed("lazylinop", "pandas", "einops", "psutil"):
        return []
    return _ksd(A, patterns, NUMPY_SVDS, (True,))


def pyfaust(A: NDArray[Any], patterns: Sequence[Pattern]) -> list[Path]:
    """Return pyfaust's ``butterfly`` with every type of tree and its ``fdb``, for the square dyadic chain only.

    ``butterfly`` refuses complex64 and gets complex128.
    """
    n = A.shape[0]
    levels = n.bit_length() - 1
    dyadic = [(2**level, 2, 2, n >> level + 1) for level in range(levels)]
    if not installed("pyfaust") or [tuple(pattern) for pattern in patterns] != dyadic:
        return []
    fact = importlib.import_module("pyfaust.fact")
    taken = np.asfortranarray(A.astype(np.complex128) if A.dtype == np.complex64 else A)

    def read(faust: Any) -> list[Any]:
        wide = np.complex128 if A.dtype.kind == "c" else np.float64
        return [scipy.sparse.csr_array(faust.factors(j)).astype(wide) for j in range(faust.numfactors())]

    def tree(kind: str) -> Path:
        return Path(f"pyfaust butterfly {kind}", lambda: fact.butterfly(taken, type=kind), read)

    def bounded(order: str) -> Path:
        return Path(
            f"pyfaust fdb {order}",
            lambda: fact.fdb(A, n_factors=levels, rank=1, hierarchical_order=order),
            read,
        )

    trees = [tree(kind) for kind in ("bbtree", "left", "right")]
    return trees + [bounded(order) for order in ("left-to-right", "balanced")]


LIBRARIES = (lazylinop_torch, lazylinop_numpy, pyfaust)
