"""SubmatrixSVD: the optimum of the closed formula, reached, certified, and not beaten by alternating least squares."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsefact as sf
from sparsefact.analysis.landscape import landscape
from sparsefact.analysis.tractability import tractability
from sparsefact.backends.registry import get_backend
from sparsefact.errors import ArgumentError
from sparsefact.factorizers.problem import FactorizationProblem
from sparsefact.factorizers.submatrix_svd import SubmatrixSVD
from sparsefact.minimizers.loop import run
from sparsefact.products.status import Status


def solve(A, left, right, gram=None, device=None):
    pair = tuple(sf.Support(x) if isinstance(x, np.ndarray) else x for x in (left, right))
    shapes = tuple(x.shape for x in pair)
    return run(SubmatrixSVD(), FactorizationProblem(A, pair, shapes, gram, get_backend(A, device=device)))


def gaussian(rng, shape, field):
    A = rng.standard_normal(shape)
    return A + 1j * rng.standard_normal(shape) if field == "complex" else A


def instances(seed, count, low=2, high=13):
    """Random tractable supports, no more than a third of them of one rule."""
    rng = np.random.default_rng(seed)
    found, rules = [], {}
    while len(found) < count:
        m, n, r = rng.integers(low, high, 3)
        density = rng.choice([0.2, 0.35, 0.5, 0.7])
        E, G = rng.random((m, r)) < density, rng.random((r, n)) < density
        if not (E.any() and G.any()):
            continue
        answer = tractability(E, G)
        if answer.tractable and rules.get(answer.rule, 0) <= count / 3:
            rules[answer.rule] = rules.get(answer.rule, 0) + 1
            found.append((E, G, answer))
    return found


def closed_formula(answer, A):
    left, right = answer.pair.left.toarray(), answer.pair.right.toarray()
    total = np.sum(np.abs(A[(left.astype(int) @ right.astype(int)) == 0]) ** 2)
    blocks = answer.plan.rectangles
    for rows, cols, members in zip(blocks.rows, blocks.cols, blocks.members, strict=True):
        total += np.sum(np.linalg.svd(A[np.ix_(rows, cols)], compute_uv=False)[members.size :] ** 2)
    return total


def alternating(A, E, G, rng, sweeps):
    """Plain alternating least squares, row by row, from a random start."""
    X = np.where(E, gaussian(rng, E.shape, "complex" if np.iscomplexobj(A) else "real"), 0)
    Y = np.where(G, gaussian(rng, G.shape, "complex" if np.iscomplexobj(A) else "real"), 0)
    for _ in range(sweeps):
        for i in range(E.shape[0]):
            s = E[i]
            X[i, s] = np.linalg.lstsq(Y[s].T, A[i], rcond=None)[0]
        for j in range(G.shape[1]):
            s = G[:, j]
            Y[s, j] = np.linalg.lstsq(X[:, s], A[:, j], rcond=None)[0]
    return np.linalg.norm(A - X @ Y) ** 2


def check_optimal(field, count, starts, sweeps, seed=0):
    rng = np.random.default_rng(seed + 1)
    for E, G, answer in instances(seed, count):
        A = gaussian(rng, (E.shape[0], G.shape[1]), field)
        before = A.copy()
        outcome = solve(A, E, G).outcome
        left, right = outcome.value
        np.testing.assert_array_equal(A, before)
        assert not left[~E].any() and not right[~G].any()
        assert left.dtype == right.dtype == A.dtype
        best = closed_formula(answer, A)
        reached = np.linalg.norm(A - left @ right) ** 2
        assert abs(reached - best) <= 1e-12 * (1 + best)
        certificate = outcome.certificate
        assert abs(certificate.lower_bound**2 - best) <= 1e-12 * (1 + best)
        assert abs(certificate.residual**2 - best) <= 1e-12 * (1 + best)
        assert certificate.lower_bound == certificate.upper_bound and certificate.ratio == 1
        norms = np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1)
        np.testing.assert_allclose(*norms, rtol=1e-6, atol=1e-12)
        for _ in range(starts):
            assert alternating(A, E, G, rng, sweeps) >= best - 1e-9 * (1 + best)


@pytest.mark.parametrize("field", ["real", "complex"])
def test_optimal_on_random_tractable_supports(field):
    check_optimal(field, count=60, starts=1, sweeps=4)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_every_dtype_and_backend(dtype, device):
    rng = np.random.default_rng(3)
    for E, G, answer in instances(5, 12):
        A = gaussian(rng, (E.shape[0], G.shape[1]), "complex" if dtype[0] == "c" else "real").astype(dtype)
        outcome = solve(A, E, G, device=device).outcome
        left, right = outcome.value
        assert left.dtype == right.dtype == dtype
        best = np.sqrt(closed_formula(answer, A))
        tolerance = 50 * np.finfo(dtype).eps * np.linalg.norm(A)
        assert abs(np.linalg.norm(A - left @ right) - best) <= tolerance
        assert outcome.certificate.verify(A)


@given(st.integers(0, 10**6), st.sampled_from([1e-30, 1e-12, 1.0, 1e12, 1e30]))
@settings(max_examples=25, deadline=None)
def test_scale_does_not_matter(seed, scale):
    ((E, G, _),) = instances(seed, 1, high=7)
    A = np.random.default_rng(seed).standard_normal((E.shape[0], G.shape[1])).astype(np.float32)
    one, other = solve(A, E, G).outcome, solve(A * np.float32(scale), E, G).outcome
    assert np.isclose(one.certificate.lower_bound * scale, other.certificate.lower_bound, rtol=1e-4, atol=1e-6 * scale)
    assert np.isfinite(other.value[0]).all() and np.isfinite(other.value[1]).all()
    assert other.certificate.verify(A * np.float32(scale))


def test_exact_targets_are_reproduced_to_rounding():
    """The bound must not be a difference of large numbers."""
    rng = np.random.default_rng(0)
    left, right = sf.KroneckerSupport(4, 4, 4, 1), sf.KroneckerSupport(1, 4, 4, 4)
    A = np.where(left.mask(), rng.standard_normal(left.shape), 0) @ np.where(
        right.mask(), rng.standard_normal(right.shape), 0
    )
    outcome = solve(A, left, right).outcome
    assert np.linalg.norm(A - outcome.value[0] @ outcome.value[1]) <= 1e-14 * np.linalg.norm(A)
    assert outcome.certificate.lower_bound <= 1e-14 * np.linalg.norm(A)


def test_zero_matrix_and_unused_indices():
    E, G = np.ones((4, 3), dtype=bool), np.ones((3, 4), dtype=bool)
    outcome = solve(np.zeros((4, 4)), E, G).outcome
    assert not outcome.value[0].any() and outcome.certificate.upper_bound == 0 and outcome.certificate.ratio == 1
    E[:, 1] = False
    A = np.random.default_rng(0).standard_normal((4, 4))
    left, right = solve(A, E, G).outcome.value
    assert not left[:, 1].any() and not right[1].any()
    assert np.isclose(np.linalg.norm(A - left @ right), np.linalg.norm(np.linalg.svd(A, compute_uv=False)[2:]))


@pytest.mark.parametrize("field", ["real", "complex"])
def test_a_diagonal_gram_weights_the_columns(field):
    rng = np.random.default_rng(1)
    for E, G, answer in instances(2, 15):
        A = gaussian(rng, (E.shape[0], G.shape[1]), field)
        weights = rng.uniform(0.1, 10, G.shape[1])
        weights[0] = 0
        outcome = solve(A, E, G, gram=np.diag(weights).astype(A.dtype)).outcome
        left, right = outcome.value
        best = closed_formula(answer, A * np.sqrt(weights))
        assert abs(np.linalg.norm((A - left @ right) * np.sqrt(weights)) ** 2 - best) <= 1e-11 * (1 + best)
        assert not left[~E].any() and not right[~G].any()
        assert outcome.certificate.verify(A) and not outcome.certificate.verify(A * np.linspace(1, 2, A.shape[1]))


def test_refusals_name_the_solver_to_use():
    lower = np.tri(3, dtype=bool)
    with pytest.raises(ArgumentError, match=r"AlternatingLeastSquares.*inner indices 0 and"):
        solve(np.eye(3), lower, lower.T)
    full = np.ones((3, 1), dtype=bool)
    with pytest.raises(ArgumentError, match=r"gram of shape \(3, 3\) has entries off its diagonal.*AlternatingLeast"):
        solve(np.eye(3), full, full.T, gram=np.ones((3, 3)))
    with pytest.raises(ArgumentError, match="needs two fixed supports, but the right constraint is TopK"):
        solve(np.eye(3), full, _Shaped(sf.TopK(nnz=2), (1, 3)))


class _Shaped:
    """A constraint that is no support, with the shape that the test's problem wants."""

    def __init__(self, constraint, shape):
        self.constraint, self.shape = constraint, shape

    def __repr__(self):
        return repr(self.constraint)


def test_the_protocol():
    A = np.random.default_rng(0).standard_normal((4, 4))
    full = np.ones((4, 2), dtype=bool)
    finished = solve(A, full, full.T)
    assert finished.outcome.status is Status.OPTIMAL and len(finished.history) == 1
    error = np.linalg.norm(np.linalg.svd(A, compute_uv=False)[2:])
    assert np.isclose(finished.history[0].error, error / np.linalg.norm(A))
    assert np.isclose(finished.history[0].objective, error**2 / 2)
    assert "truncated SVD" in finished.outcome.explanation
    assert SubmatrixSVD() == SubmatrixSVD() and SubmatrixSVD().iterations == 1


def test_certificates_do_not_take_anything():
    rng = np.random.default_rng(0)
    for E, G, _ in instances(8, 10):
        A = rng.standard_normal((E.shape[0], G.shape[1]))
        certificate = solve(A, E, G).outcome.certificate
        assert certificate.verify(A)
        assert not certificate.verify(A + 1e-6)
        assert not certificate.verify(A[:-1]) and not certificate.verify(np.full_like(A, np.nan))
        for change in (
            {"lower_bound": certificate.lower_bound + 1e-6},
            {"upper_bound": certificate.upper_bound * 0.999 - 1e-6},
            {"lower_bound": 1.0 + certificate.lower_bound, "upper_bound": 1.0 + certificate.upper_bound},
            {"residual": np.nan},
            {"factors": (certificate.factors[0] * 1.01 + 0, certificate.factors[1] * 1.01)},
            {"factors": certificate.factors[::-1]},
        ):
            changed = dataclasses.replace(certificate, **change)
            if "factors" in change and not any(f.nnz for f in certificate.factors):
                continue
            assert not changed.verify(A), change


def test_a_tampered_block_is_seen():
    """Claiming a block with a smaller rank than the supports give it raises the bound, and is refused."""
    A = np.random.default_rng(0).standard_normal((4, 4))
    full = np.ones((4, 2), dtype=bool)
    certificate = solve(A, full, full.T).outcome.certificate
    blocks = certificate.rectangles
    fewer = dataclasses.replace(blocks, members=type(blocks.members)(np.array([0, 1]), blocks.members.idx[:1]))
    bound = float(np.linalg.norm(np.linalg.svd(A, compute_uv=False)[1:]))
    assert not dataclasses.replace(
        certificate, rectangles=fewer, lower_bound=bound, upper_bound=bound, residual=bound
    ).verify(A)


def test_benign_landscapes_trap_no_descent():
    """Where the landscape is said to be benign, alternating least squares finds the optimum from random starts."""
    rng = np.random.default_rng(4)
    seen = 0
    for E, G, answer in instances(6, 30, high=6):
        if landscape(E, G).benign:
            seen += 1
            A = rng.standard_normal((E.shape[0], G.shape[1]))
            best = closed_formula(answer, A)
            assert min(alternating(A, E, G, rng, 60) for _ in range(2)) <= best + 0.02 * (1 + best)
    assert seen > 5


def test_supports_are_looked_at_once(monkeypatch):
    from sparsefact.analysis import tractability as module

    asked = []
    monkeypatch.setattr(
        module, "reduce_pair", lambda pair, reduce=module.reduce_pair: (asked.append(pair), reduce(pair))[1]
    )
    blocks = sf.Support(np.kron(np.eye(3, dtype=bool), np.ones((4, 1), dtype=bool)))
    A = np.random.default_rng(0).standard_normal((12, 12))
    chosen = sf.factorize(A, (blocks, blocks.T))
    assert len(asked) == 1
    named = sf.factorize(A, (blocks, blocks.T), sf.SubmatrixSVD())
    assert len(asked) == 2 and chosen.error == named.error
