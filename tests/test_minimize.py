"""`minimize` and ADMM: closed forms where there are some, a textbook ADMM where there are none, and the shared loop."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import least_squares

import sparsefact as sf
from sparsefact.backends.registry import get_backend
from sparsefact.errors import ArgumentError, BudgetError, NonFiniteError, ShapeError
from sparsefact.minimizers.loop import run
from sparsefact.minimizers.protocol import MinimizeProblem, Outcome, Report, Solver


@given(st.integers(0, 2**32 - 1), st.sampled_from("rc"))
@settings(max_examples=20, deadline=None)
def test_a_fixed_support_is_solved_exactly(seed, kind):
    F, A, f = least_squares(seed, n=5, kind=kind)
    mask = np.random.default_rng(seed + 1).random(f.shape) < 0.5
    mask[0, 0] = True
    solution = sf.minimize(f, sf.Support(mask))
    assert solution.status is sf.Status.STATIONARY
    for j in range(f.shape[1]):
        on = mask[:, j]
        expected = np.linalg.lstsq(F[:, on], A[:, j], rcond=None)[0]
        np.testing.assert_allclose(solution.value[on, j], expected, rtol=1e-6, atol=1e-9)
    assert not solution.value[~mask].any()


@given(st.integers(0, 2**32 - 1), st.integers(1, 39), st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_diagonal_gram_is_hard_thresholding_in_its_own_metric(seed, k, two_sided):
    rng = np.random.default_rng(seed)
    d, e, C = rng.uniform(0.1, 9, 8), rng.uniform(0.1, 9, 5), rng.standard_normal((8, 5))
    f = sf.Quadratic(np.diag(d), C, np.diag(e) if two_sided else None)
    curvature = d[:, None] * (e[None, :] if two_sided else 1.0)
    # Keeping entry (i, j) lowers f by c^2 / (2 curvature): the best support keeps the largest of these.
    gains = C**2 / curvature
    best = np.sort(gains.ravel())[::-1][:k].sum() / 2
    solution = sf.minimize(f, sf.TopK(nnz=k))
    assert solution.objective == pytest.approx(-best, rel=1e-9)
    assert np.count_nonzero(solution.value) == k


def test_steps_are_those_of_textbook_admm():
    _, _, f = least_squares(3, n=5)
    solver = sf.ADMM(iterations=6, selections=6, rho=0.7, rho_start=0.7, first_rho=0.7, ridge=0.05, refit=False)
    constraint = sf.TopK(nnz=17)
    start = np.random.default_rng(0).standard_normal(f.shape)
    problem = MinimizeProblem(f, constraint, get_backend(start), start)
    state = solver.init(problem)
    for _ in range(6):
        solver.step(problem, state)
    # The same in the plain three-variable form, with numpy's general solver.
    s = np.sqrt(np.diag(f.gram))[:, None]
    G = f.gram / s / s.T + (0.05 + 0.7) * np.eye(8)
    Z, U = start * s, np.zeros(f.shape)
    for _ in range(6):
        B = np.linalg.solve(G, f.cross / s + 0.7 * (Z - U))
        Z = constraint.project(B + U)
        U = U + B - Z
    np.testing.assert_allclose(solver.finish(problem, state).value, Z / s, rtol=1e-10, atol=1e-12)


def test_two_sided_steps_are_those_of_textbook_admm():
    rng = np.random.default_rng(5)
    X = rng.standard_normal((9, 5))
    _, _, one = least_squares(4, n=5)
    f = sf.Quadratic(one.gram, one.cross, X.T @ X)
    solver = sf.ADMM(iterations=5, selections=5, rho=0.4, rho_start=0.4, first_rho=0.4, ridge=0.02, refit=False)
    start, constraint = rng.standard_normal(f.shape), sf.TopK(density=0.4)
    problem = MinimizeProblem(f, constraint, get_backend(start), start)
    state = solver.init(problem)
    for _ in range(5):
        solver.step(problem, state)
    s, w = np.sqrt(np.diag(f.gram))[:, None], np.sqrt(np.diag(f.right_gram))[None, :]
    G, H = f.gram / s / s.T + 0.02 * np.eye(8), f.right_gram / w / w.T + 0.02 * np.eye(5)
    system = np.kron(G, H) + 0.4 * np.eye(40)
    Z, U = start * s * w, np.zeros(f.shape)
    for _ in range(5):
        B = np.linalg.solve(system, (f.cross / s / w + 0.4 * (Z - U)).ravel()).reshape(f.shape)
        Z = constraint.project(B + U)
        U = U + B - Z
    np.testing.assert_allclose(solver.finish(problem, state).value, Z / s / w, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    "constraint", [sf.TopK(density=0.3), sf.TopK(nnz=2, per="column"), sf.NOfM(1, 2, axis=0), sf.Dense()]
)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_every_constraint_and_type(constraint, dtype):
    _, _, f = least_squares(1, n=5, kind="c" if dtype[0] == "c" else "r")
    f = sf.Quadratic(f.gram.astype(dtype), f.cross.astype(dtype), constant=f.constant)
    before = f.gram.copy(), f.cross.copy()
    solution = sf.minimize(f, constraint)
    assert constraint.contains(solution.value) and solution.value.dtype == dtype
    assert np.array_equal(f.gram, before[0]) and np.array_equal(f.cross, before[1])
    projected = constraint.project(np.linalg.solve(f.gram, f.cross))
    assert solution.objective <= float(f.value(projected)) * (1 + 1e-5)


def test_inputs_without_curvature_are_left_at_zero():
    f = sf.Quadratic(np.diag([1.0, 0.0, 2.0]), np.array([[1.0], [0.0], [4.0]]))
    np.testing.assert_allclose(sf.minimize(f, sf.Dense()).value, [[1.0], [0.0], [2.0]])


def test_callback_history_and_early_stop():
    _, _, f = least_squares(0, n=5)
    seen = []
    full = sf.minimize(f, sf.TopK(nnz=9), sf.ADMM(iterations=20, report_every=4), callback=seen.append)
    assert [p.iteration for p in full.history] == [4, 8, 12, 16, 20] and tuple(seen) == full.history
    assert all(p.total == 20 and p.error is None and p.seconds >= 0 for p in seen)
    stopped = sf.minimize(f, sf.TopK(nnz=9), callback=lambda progress: True)
    assert stopped.status is sf.Status.STOPPED and len(stopped.history) == 1
    limited = sf.minimize(f, sf.TopK(nnz=9), time_limit=1e-9)
    assert limited.status is sf.Status.LIMIT and len(limited.history) == 1
    for solution in (stopped, limited):
        assert np.count_nonzero(solution.value) <= 9


def test_same_call_same_bits():
    _, _, f = least_squares(0, n=5)
    first, second = (sf.minimize(f, sf.TopK(nnz=13)).value for _ in range(2))
    assert np.array_equal(first, second)


def test_init_is_used_and_checked():
    _, _, f = least_squares(0, n=5)
    start = np.ones(f.shape)
    sf.minimize(f, sf.TopK(nnz=9), init=start)
    assert (start == 1).all()
    with pytest.raises(ShapeError, match=r"init has shape \(2, 2\)"):
        sf.minimize(f, sf.TopK(nnz=9), init=np.ones((2, 2)))
    with pytest.raises(NonFiniteError, match="init"):
        sf.minimize(f, sf.TopK(nnz=9), init=np.full(f.shape, np.inf))


def test_bad_input_gets_a_sentence():
    _, _, f = least_squares(0, n=5)
    with pytest.raises(ArgumentError, match=r"pass a sparsefact\.Quadratic"):
        sf.minimize("f", sf.TopK(nnz=9))
    with pytest.raises(ArgumentError, match="constraint is a float"):
        sf.minimize(f, 0.3)
    with pytest.raises(ArgumentError, match=r"pass an instance such as ADMM\(\)"):
        sf.minimize(f, sf.TopK(nnz=9), sf.ADMM)
    with pytest.raises(BudgetError):
        sf.minimize(f, sf.TopK(nnz=f.cross.size + 1))
    with pytest.raises(ArgumentError, match="time_limit=0"):
        sf.minimize(f, sf.TopK(nnz=9), time_limit=0)


@pytest.mark.parametrize(
    "changes", [{"iterations": 0}, {"selections": 1.5}, {"rho": 0.0}, {"rho_start": np.nan}, {"ridge": -1.0}]
)
def test_bad_hyperparameters_get_a_sentence(changes):
    with pytest.raises(ArgumentError, match=f"{next(iter(changes))}=.*is not allowed"):
        sf.ADMM(**changes)


@dataclasses.dataclass(frozen=True)
class _Diverging:
    iterations: int = 10
    report_every: int = 1

    def init(self, problem, warm=None):
        return [1.0]

    def step(self, problem, state):
        state[0] = state[0] * 1e200

    def report(self, problem, state):
        return Report(state[0])

    def finish(self, problem, state):
        return Outcome(state[0], sf.Status.LIMIT)


def test_the_loop_stops_what_diverges():
    assert isinstance(_Diverging(), Solver)
    with pytest.raises(NonFiniteError, match="non-finite objective at iteration 2 of 10"):
        run(_Diverging(), None)
