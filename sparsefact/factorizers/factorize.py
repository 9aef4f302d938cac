"""``factorize``: a matrix as a product of factors, each inside its constraint."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sparsefact.analysis.tractability import Tractability, tractability
from sparsefact.backends.registry import device_of, get_backend, on_gpu
from sparsefact.constraints.base import Constraint, as_matrix, check_int, is_constraint
from sparsefact.constraints.chain import Chain
from sparsefact.constraints.dense import Dense
from sparsefact.constraints.double_sparse import DoubleSparse, double_sparse
from sparsefact.constraints.kronecker_support import KroneckerSupport
from sparsefact.constraints.kronecker_values import values_on
from sparsefact.constraints.low_rank import LowRank
from sparsefact.constraints.sparse_plus_low_rank import SparsePlusLowRank
from sparsefact.constraints.support import Support
from sparsefact.errors import ArgumentError, ShapeError
from sparsefact.factorizers.als import AlternatingLeastSquares
from sparsefact.factorizers.alternating import Alternating
from sparsefact.factorizers.alternating_sum import AlternatingSum
from sparsefact.factorizers.block_coordinate import BlockCoordinateDescent
from sparsefact.factorizers.cross import CrossApproximation
from sparsefact.factorizers.grams import checked_gram, is_diagonal
from sparsefact.factorizers.hierarchical import Hierarchical
from sparsefact.factorizers.hierarchical_palm import HierarchicalPALM
from sparsefact.factorizers.one_matrix import OneMatrix
from sparsefact.factorizers.palm import PALM
from sparsefact.factorizers.problem import FactorizationProblem
from sparsefact.factorizers.submatrix_svd import SubmatrixSVD
from sparsefact.minimizers.admm import ADMM
from sparsefact.minimizers.loop import run
from sparsefact.minimizers.minimize import check_solver, precision_of
from sparsefact.minimizers.protocol import Callback, Outcome, Solver
from sparsefact.minimizers.reduced_rank import ReducedRank
from sparsefact.products.csr_factor import CsrFactor
from sparsefact.products.factorization import Factorization
from sparsefact.products.factors import KroneckerFactor, moved, stored_values
from sparsefact.products.sources import as_source

__all__ = ["factorize"]

_Checked: TypeAlias = tuple[Constraint, ...] | DoubleSparse | SparsePlusLowRank

_FIXED = (Support, KroneckerSupport)
_PAIRS = (Alternating, AlternatingLeastSquares, SubmatrixSVD, AlternatingSum)
_PRODUCTS = (*_PAIRS, Hierarchical, HierarchicalPALM, CrossApproximation, BlockCoordinateDescent, PALM)
# These take the rows apart, so none may be coupled; the names are of solvers that take a left_gram.
_ROWS_APART: dict[type, str] = {
    AlternatingLeastSquares: "Alternating",
    SubmatrixSVD: "Alternating",
    Hierarchical: "PALM",
    CrossApproximation: "PALM",
}


def factorize(
    A: Any,
    constraints: Any,
    solver: Solver | None = None,
    *,
    gram: Any = None,
    left_gram: Any = None,
    inner: int | None = None,
    init: Any = None,
    device: str | None = None,
    seed: int = 0,
    callback: Callback | None = None,
    time_limit: float | None = None,
) -> Factorization:
    """Factorize ``A ~ F_1 @ F_2 @ ... @ F_L``, each factor inside its constraint.

    Parameters
    ----------
    A : (m, n) array, LinearOperator or Entries
        float32, float64, complex64 or complex128; float16 and bfloat16 are computed in float32. Not modified. What is
        not an array, and a memory-mapped one, is read in parts by `Hierarchical` and `CrossApproximation`.
    constraints : DoubleSparse, SparsePlusLowRank, Chain or tuple of constraints
        What may be nonzero: ``sf.double_sparse(A.shape, density)`` for one joint budget, a chain of Kronecker supports
        such as ``sf.Chain.butterfly(n)``, or a constraint per factor; one alone for one sparse matrix;
        ``sf.sparse_plus_low_rank(A.shape, density)`` for a sum, which comes as a product of one or two factors.
    solver : Solver, optional
        Unless given: `Hierarchical` for a chainable chain, `SubmatrixSVD` for two fixed supports that are tractable,
        `AlternatingLeastSquares` for two that are not known to be, `BlockCoordinateDescent` where a factor is of low
        rank, `Alternating` for other pairs, `PALM` for more
        factors, `ADMM` for one. ``explain()`` of the result says which and why.
    gram : (n, n) array, optional
        Hermitian positive semi-definite, such as X^H X of calibration inputs: the loss is then
        ``tr((A - P) gram (A - P)^H)``; without it the Frobenius norm.
    left_gram : (m, m) array, optional
        The same for the rows, such as Y^H Y of the gradients at the outputs: ``tr(left_gram (A - P) gram (A - P)^H)``.
        With or without `gram`; `Alternating`, `PALM`, `HierarchicalPALM`, `BlockCoordinateDescent` and the solvers of
        one matrix take it.
    inner : int, optional
        The dimension between two factors, where the constraints do not say it; ``min(m, n)`` unless given.
    init : tuple of arrays or Factorization, optional
        Factors to start from.
    device : str, optional
        Where to compute; None follows `A`. The factors are where `A` is: CuPy arrays for a CuPy array.
    seed : int
        For what is drawn at random.
    callback : callable, optional
        Receives a `Progress` every few iterations; returning True stops the search, which still ends properly.
    time_limit : float, optional
        In seconds; the search stops after the iteration that exceeds it, and the refit follows.

    Returns
    -------
    Factorization

    Raises
    ------
    DtypeError, ShapeError, NonFiniteError
        If `A`, `gram`, `left_gram` or `init` are not finite floating matrices that fit.
    BudgetError, ArgumentError
        If the constraints cannot be met, or are not constraints.
    DeviceError
        If the device is not there.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> A = np.random.default_rng(0).standard_normal((40, 60))
    >>> F = sf.factorize(A, sf.double_sparse(A.shape, density=0.5))
    >>> F.nnz <= 0.5 * A.size, F.error < 0.25
    (True, True)
    >>> bool(np.allclose(F @ np.ones(60), F.todense() @ np.ones(60)))
    True
    """
    source = as_source(A)
    if source is not None and isinstance(A, np.memmap) and not _reads_parts(solver, constraints):
        source = None
    matrix = as_matrix("A", A) if source is None else source
    if isinstance(matrix, np.ndarray) and matrix.dtype.itemsize == 2:
        matrix = matrix.astype(np.float32)
    if 0 in matrix.shape:
        raise ShapeError(f"A has shape {matrix.shape}; a matrix with at least one row and one column is expected")
    check_int("seed", seed, 0)
    given = [] if source is not None else [matrix]
    starts = [stored_values(f) for f in init.factors] if isinstance(init, Factorization) else init
    given += [x for x in (gram, left_gram, *(starts if isinstance(starts, (tuple, list)) else ())) if x is not None]
    backend = get_backend(*given, device=device)
    checked, shapes = _check_constraints(constraints, matrix.shape, inner)
    chain = constraints if isinstance(constraints, Chain) else None
    weights = checked_gram("gram", gram, matrix), checked_gram("left_gram", left_gram, matrix)
    reason, answer = "", None
    if solver is None:
        solver, reason = _choose(checked, *weights, chain)
        if solver is None:
            answer = tractability(*checked)  # type: ignore[misc]
            solver, reason = _by_tractability(answer)
    _check_solver(solver, len(shapes), chain)
    if left_gram is not None and type(solver) in _ROWS_APART:
        raise ArgumentError(
            f"left_gram is given, but {type(solver).__name__} does not weigh rows; pass "
            f"solver=sparsefact.{_ROWS_APART[type(solver)]}(), or leave left_gram out"
        )
    if isinstance(checked, SparsePlusLowRank) and not isinstance(solver, AlternatingSum):
        raise ArgumentError(f"solver={solver!r} finds no sum; use sparsefact.AlternatingSum() or leave it out")
    if source is not None and not isinstance(solver, (Hierarchical, CrossApproximation)):
        raise ArgumentError(
            f"A is a {source.kind}, which {solver!r} cannot read in parts; pass an array (A @ np.eye(n) of a "
            "LinearOperator), or a chainable chain with sparsefact.Hierarchical() or sparsefact.CrossApproximation()"
        )
    start = _check_init(init, shapes, matrix.dtype)
    with backend.active():
        problem = FactorizationProblem(
            backend.asarray(matrix) if source is None else matrix,
            checked,
            shapes,
            None if weights[0] is None else backend.asarray(weights[0]),
            backend,
            None if start is None else tuple(backend.asarray(factor) for factor in start),
            seed,
            None if weights[1] is None else backend.asarray(weights[1]),
            answer,
        )
        driven = solver if len(shapes) > 1 or isinstance(solver, _PRODUCTS) else OneMatrix(solver)
        finished = run(driven, problem, callback=callback, time_limit=time_limit)
        outcome: Outcome = finished.outcome
        each = checked if isinstance(checked, tuple) else (None,) * len(outcome.value)
        factors = [_as_factor(value, constraint) for value, constraint in zip(outcome.value, each, strict=True)]
        # where A is, whatever computed them
        place = device_of(*given)
        factors = [moved(factor, place) for factor in factors]
    return Factorization(
        factors,
        target=None if source is not None or isinstance(solver, CrossApproximation) else matrix,
        gram=weights[0],
        left_gram=weights[1],
        error=outcome.error,
        status=outcome.status,
        history=finished.history,
        certificate=outcome.certificate,
        evidence=outcome.evidence,
        solver=solver,
        constraint=checked if chain is None else chain,
        seed=seed,
        seconds=finished.seconds,
        explanation=reason + outcome.explanation + precision_of(backend, matrix.dtype),
    )


def _reads_parts(solver: Any, constraints: Any) -> bool:
    """Return whether an array in a file is better read in parts: by a solver that does, in its natural order."""
    if isinstance(solver, CrossApproximation):
        return True
    if solver is not None and not (isinstance(solver, Hierarchical) and solver.in_parts):
        return False
    if solver is not None and solver.order != "left-to-right":
        return False
    return isinstance(constraints, Chain) and constraints.is_chainable


def _choose(
    constraints: _Checked,
    gram: NDArray[Any] | None,
    left_gram: NDArray[Any] | None,
    chain: Chain | None,
) -> tuple[Solver | None, str]:
    """Return the solver for these constraints, and a sentence that says why; None where tractability decides."""
    if isinstance(constraints, SparsePlusLowRank):
        return AlternatingSum(), ""
    if isinstance(constraints, DoubleSparse):
        return Alternating(), ""
    if len(constraints) == 1 and chain is None:
        if isinstance(constraints[0], LowRank):
            return ReducedRank(), "ReducedRank was chosen, since there is one factor, of low rank. "
        return ADMM(), "ADMM was chosen, since there is one factor. "
    diagonal = is_diagonal(gram) and left_gram is None
    coupled = "there is a left_gram." if left_gram is not None else "the gram is not diagonal."
    supports = [constraint for constraint in constraints if isinstance(constraint, KroneckerSupport)]
    if chain is None and len(supports) == len(constraints) > 2:
        chain = Chain(supports)
    if chain is not None and (chain.is_chainable or chain.T.is_chainable) and diagonal:
        return Hierarchical(), "Hierarchical was chosen, since the chain is chainable. "
    if chain is not None and len(chain) > 2:
        why = chain.obstacle() if diagonal else coupled
        return PALM(), f"PALM was chosen, since {why} "
    if any(isinstance(constraint, LowRank) for constraint in constraints):
        return BlockCoordinateDescent(), "BlockCoordinateDescent was chosen, since a factor is of low rank. "
    if len(constraints) > 2:
        return PALM(), f"PALM was chosen, since there are {len(constraints)} factors. "
    if not all(isinstance(constraint, _FIXED) for constraint in constraints):
        return Alternating(), ""
    if left_gram is not None:
        return Alternating(), f"Alternating was chosen, since {coupled} "
    if not diagonal:
        return AlternatingLeastSquares(), f"AlternatingLeastSquares was chosen, since {coupled} "
    return None, ""


def _by_tractability(answer: Tractability) -> tuple[Solver, str]:
    """Return the solver for two fixed supports, and a sentence that says why."""
    if answer.tractable:
        return SubmatrixSVD(), f"SubmatrixSVD was chosen, since the supports are tractable ({answer.rule}). "
    return (
        AlternatingLeastSquares(),
        "AlternatingLeastSquares was chosen, since the supports are not known to be tractable. ",
    )


def _check_solver(solver: Any, factors: int, chain: Chain | None) -> None:
    check_solver(solver)
    if factors == 1:
        if isinstance(solver, _PRODUCTS) and chain is None:
            raise ArgumentError(f"solver={solver!r} finds a product, and there is one factor; use sparsefact.ADMM()")
    elif type(solver).__module__.startswith("sparsefact.minimizers."):
        raise ArgumentError(
            f"solver={solver!r} finds one matrix, not a product; use it inside, as sparsefact.Alternating(inner=...)"
        )
    if factors != 2 and isinstance(solver, _PAIRS):
        raise ArgumentError(f"solver={solver!r} takes two factors, and there are {factors}; use sparsefact.PALM()")


def _check_constraints(
    constraints: Any, shape: tuple[int, int], inner: int | None
) -> tuple[_Checked, tuple[tuple[int, int], ...]]:
    """Return the constraints with the factors' shapes, or refuse what does not fit the matrix."""
    if inner is not None:
        inner = check_int("inner", inner)
    if isinstance(constraints, DoubleSparse):
        return _check_joint(constraints, shape, inner)
    if isinstance(constraints, SparsePlusLowRank):
        return _check_sum(constraints, shape, inner)
    if isinstance(constraints, Chain):
        return _check_chain(constraints, shape, inner)
    each = tuple(constraints) if isinstance(constraints, (tuple, list)) else (constraints,)
    for constraint in each:
        if not is_constraint(constraint):
            raise ArgumentError(
                f"constraints holds {constraint!r}, which is not a constraint; pass for instance "
                "sparsefact.double_sparse(A.shape, 0.3), or a pair (sparsefact.TopK(density=0.2), sparsefact.Dense())"
            )
    if not each:
        raise ArgumentError("constraints is empty; pass one for each factor, such as sparsefact.TopK(density=0.2)")
    shapes = _shapes(each, shape, inner)
    for constraint, expected in zip(each, shapes, strict=True):
        constraint.count(expected)
    return each, shapes


def _check_chain(
    chain: Chain, shape: tuple[int, int], inner: int | None
) -> tuple[tuple[Constraint, ...], tuple[tuple[int, int], ...]]:
    if chain.shape != shape:
        raise ShapeError(
            f"constraints is a chain of shape {chain.shape}, but A has shape {shape}; build a chain for A, for "
            "instance with sparsefact.Chain.monarch(A.shape)"
        )
    if inner is not None:
        raise ShapeError(f"inner={inner} is not needed, since a chain says all of its dimensions; leave it out")
    return tuple(chain), tuple(support.shape for support in chain)


def _check_joint(
    joint: DoubleSparse, shape: tuple[int, int], inner: int | None
) -> tuple[DoubleSparse, tuple[tuple[int, int], ...]]:
    if joint.shape != shape:
        raise ShapeError(
            f"constraints is for a matrix of shape {joint.shape}, but A has shape {shape}; "
            f"use sparsefact.double_sparse(A.shape, {joint.density})"
        )
    k = joint.left_shape[1]
    if inner is not None and inner != k:
        raise ShapeError(f"inner={inner} contradicts the constraint's inner={k}; give it in one place only")
    # Built by hand, a constraint may still be one that double_sparse refuses.
    double_sparse(shape, joint.density, joint.left_density, k)
    return joint, (joint.left_shape, joint.right_shape)


def _check_sum(
    terms: SparsePlusLowRank, shape: tuple[int, int], inner: int | None
) -> tuple[SparsePlusLowRank, tuple[tuple[int, int], ...]]:
    if terms.shape != shape:
        raise ShapeError(
            f"constraints is for a matrix of shape {terms.shape}, but A has shape {shape}; "
            f"use sparsefact.sparse_plus_low_rank(A.shape, {terms.density})"
        )
    if inner is not None:
        raise ShapeError(f"inner={inner} is not needed, since the rank of a sum says it; leave it out")
    between = min(shape) + (terms.largest_rank if terms.rank is None else terms.rank)
    return terms, ((shape[0], between), (between, shape[1]))


def _shapes(
    constraints: tuple[Constraint, ...], shape: tuple[int, int], inner: int | None
) -> tuple[tuple[int, int], ...]:
    """Return the shapes of the factors: fixed supports say theirs, what they leave open is `inner` or min(m, n)."""
    lengths: list[int | None] = [shape[0], *([None] * (len(constraints) - 1)), shape[1]]
    for i, constraint in enumerate(constraints):
        if isinstance(constraint, _FIXED):
            for at, length in zip((i, i + 1), constraint.shape, strict=True):
                if lengths[at] not in (None, length):
                    raise ShapeError(
                        f"the support of factor {i + 1} has shape {constraint.shape}, which does not fit "
                        f"{'A of shape ' + str(shape) if at in (0, len(constraints)) else 'its neighbour'}: "
                        f"{length} is not {lengths[at]}; pass a support of the factor's shape"
                    )
                lengths[at] = length
    if inner is not None:
        if None not in lengths and inner not in lengths[1:-1]:
            raise ShapeError(
                f"inner={inner} contradicts the supports, whose inner dimension is {lengths[1]}; leave it out"
            )
    open_length = min(shape) if inner is None else inner
    filled = [open_length if length is None else length for length in lengths]
    return tuple(pairwise(filled))


def _check_init(
    init: Any, shapes: tuple[tuple[int, int], ...], dtype: np.dtype[Any]
) -> tuple[NDArray[Any], ...] | None:
    if init is None:
        return None
    factors = init.factors if isinstance(init, Factorization) else init
    if not isinstance(factors, (tuple, list)) or len(factors) != len(shapes):
        raise ArgumentError(
            f"init must be a tuple of {len(shapes)} factors or a Factorization of as many; pass (F1, F2, ...)"
        )
    start = []
    for i, (factor, shape) in enumerate(zip(factors, shapes, strict=True)):
        array = as_matrix(f"init[{i}]", factor.toarray() if hasattr(factor, "toarray") else factor)
        if array.shape != shape:
            raise ShapeError(f"init[{i}] has shape {array.shape}; factor {i + 1} has shape {shape}")
        start.append(array.astype(dtype))
    return tuple(start)


def _as_factor(value: Any, constraint: Constraint | None) -> Any:
    """Return a factor in the form that its constraint calls for: dense, Kronecker, or CSR."""
    if isinstance(value, KroneckerFactor):
        return value
    if isinstance(constraint, (Dense, LowRank)):
        return get_backend(value).xp.ascontiguousarray(value)
    if isinstance(constraint, KroneckerSupport):
        return KroneckerFactor(get_backend(value).xp.ascontiguousarray(values_on(value, constraint)))
    if on_gpu(value):
        return CsrFactor.from_dense(value)
    if isinstance(constraint, Support) and isinstance(value, np.ndarray):
        rows = np.repeat(np.arange(value.shape[0]), np.diff(constraint.indptr))
        kept = value[rows, constraint.indices]
        # where all of the support is used, it need not be found again
        if kept.all() and np.count_nonzero(value) == kept.size:
            return sparse.csr_array((kept, constraint.indices.copy(), constraint.indptr.copy()), shape=value.shape)
    return sparse.csr_array(value)
