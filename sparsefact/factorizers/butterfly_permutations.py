"""Butterfly factorization of a matrix whose rows and columns come in an unknown order.

    min  || A - P K_1 K_2 ... K_L Q ||     over permutations P, Q and factors K_l of a butterfly chain

With the permutations known this is `Hierarchical` on the reordered matrix. They matter only through two binary trees:
classes of rows and of columns that belong together at each split (3 trees for 4 rows, 315 for 8, about 10^24 for 32).
`find_cluster_trees` finds them; here they become the first and the last factor.

The problem, and alternating between row classes and column classes to solve it, are from L. Zheng, G. Puy,
E. Riccietti, P. Perez, R. Gribonval, "Butterfly factorization by algorithmic identification of rank-one blocks"
(GRETSI 2023, arXiv:2307.00820); `balanced_clustering` and `tree_refinement` say what is done differently.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from sparsefact.constraints.base import as_matrix, check_int
from sparsefact.constraints.chain import Chain
from sparsefact.errors import ArgumentError, DeviceError, ShapeError
from sparsefact.factorizers.cluster_trees import ClusterTrees, find_cluster_trees
from sparsefact.factorizers.factorize import factorize
from sparsefact.factorizers.hierarchical import Hierarchical
from sparsefact.minimizers.loop import check_limits
from sparsefact.products.factorization import Factorization

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sparsefact.minimizers.protocol import Callback

__all__ = ["butterfly_with_permutations"]


def butterfly_with_permutations(
    A: Any,
    solver: Hierarchical | None = None,
    *,
    restarts: int = 6,
    seed: int = 0,
    callback: Callback | None = None,
    time_limit: float | None = None,
) -> Factorization:
    """Factorize a matrix that is a butterfly up to unknown orders of its rows and columns.

    Parameters
    ----------
    A : array of shape (n, n)
        n a power of two, at least 4; real or complex, finite. Not modified. The search runs in float64 on the CPU.
    solver : Hierarchical, optional
        How the reordered matrix is factorized; unless given, from the side on which the trees fit better.
    restarts : int
        Searches from different starts at most, the best of which counts. They end sooner when one is exact or two
        agree; up to n = 8 every pair of trees is tried, so there is nothing to start again but the side.
    seed : int
        For what is drawn at random; the same seed gives the same factors.
    callback : callable, optional
        Receives a `Progress` after every search, with the least error so far (its objective is half the squared error
        of A scaled to norm one); returning True ends the search.
    time_limit : float, optional
        In seconds; the first search cuts itself short after it, and no other starts.

    Returns
    -------
    Factorization
        ``P @ K_1 @ ... @ K_L @ Q``: a permutation (CSR), the Kronecker factors of ``Chain.butterfly(n)``, and another.
        The orders are ``rows = numpy.argsort(F.factors[0].indices)`` and ``cols = F.factors[-1].indices``, for which
        ``A[rows][:, cols]`` is the (nearly) butterfly matrix. They are determined by A at most up to what changes no
        class of the two trees.

    Raises
    ------
    ShapeError
        A is not square, or its size is not a power of two of at least 4.
    DtypeError, NonFiniteError
        A is not a finite floating matrix.
    ArgumentError
        A parameter is out of its range.
    DeviceError
        A lives on a GPU.

    Notes
    -----
    The time grows with n^3; a shuffled Fourier transform of size 256 takes about a second. The orders of an exact
    butterfly prove themselves by their error. With noise nothing proves that they are the best ones, except that every
    pair of trees is tried up to n = 8; ``explain()`` says how often they were found.

    Examples
    --------
    A discrete Fourier transform with shuffled rows and columns:

    >>> import numpy as np
    >>> import sparsefact as sf
    >>> rng = np.random.default_rng(0)
    >>> A = np.fft.fft(np.eye(32))[rng.permutation(32)][:, rng.permutation(32)]
    >>> F = sf.butterfly_with_permutations(A)
    >>> F.error < 1e-14, len(F.factors), F.nnz
    (True, 7, 384)
    >>> rows, cols = np.argsort(F.factors[0].indices), F.factors[-1].indices
    >>> sf.Chain.butterfly(32).contains(A[rows][:, cols], rtol=1e-12)
    True
    """
    started = time.perf_counter()
    matrix = _check_matrix(A)
    check_int("seed", seed, 0)
    check_int("restarts", restarts)
    if solver is not None and not isinstance(solver, Hierarchical):
        raise ArgumentError(
            f"solver={solver!r} is not allowed; pass sparsefact.Hierarchical(...) or None, and other solvers to "
            "sparsefact.factorize on the reordered matrix"
        )
    check_limits(callback, time_limit)
    wide = matrix.astype(np.complex128 if matrix.dtype.kind == "c" else np.float64)
    trees = find_cluster_trees(wide, restarts=restarts, seed=seed, callback=callback, time_limit=time_limit)
    chain = Chain.butterfly(len(matrix))
    ordered = factorize(matrix[np.ix_(trees.rows, trees.cols)], chain, solver or Hierarchical(order=trees.order))
    return Factorization(
        [_permutation(trees.rows, ordered.dtype).T, *ordered.factors, _permutation(trees.cols, ordered.dtype)],
        error=ordered.error,
        status=trees.status,
        history=trees.history,
        solver=ordered.solver,
        constraint=f"{chain!r} with rows and columns in any order",
        seed=seed,
        seconds=time.perf_counter() - started,
        explanation=_story(trees) + (f"\n{ordered.explanation}" if ordered.explanation else ""),
    )


def _check_matrix(A: Any) -> NDArray[Any]:
    matrix = as_matrix("A", A)
    if not isinstance(matrix, np.ndarray):
        raise DeviceError(f"A is a {type(A).__name__}; the orders are searched on the CPU, so pass a NumPy array")
    m, n = matrix.shape
    if m != n or n < 4 or n & (n - 1):
        raise ShapeError(
            f"A has shape {matrix.shape}; rows and columns are put in order for square matrices whose size is a power "
            "of two of at least 4, so pad A with zeros to one, or use sparsefact.factorize if its order is known"
        )
    return matrix if matrix.dtype.itemsize > 2 else matrix.astype(np.float32)


def _permutation(order: NDArray[np.intp], dtype: np.dtype[Any]) -> sparse.csr_array[Any, Any]:
    """Return the matrix Q with ``(X @ Q)[:, order] = X``, for any X."""
    n = len(order)
    return sparse.csr_array((np.ones(n, dtype=dtype), order, np.arange(n + 1)), shape=(n, n))


def _story(trees: ClusterTrees) -> str:
    n, count = len(trees.rows), len(trees.history)
    if n <= 8:
        how = "all pairs of trees were tried"
    elif count == 1:
        how = "one search"
    else:
        how = f"{count} searches from different starts, {trees.again} more of which came within 1 % of the best error"
    return (
        f"The first and the last factor put rows and columns in order, by {n.bit_length() - 2} nested levels of two "
        f"binary trees: {how}; the trees fit best {trees.order.replace('-', ' ')}, with relative error "
        f"{trees.error:.3g}."
    )
