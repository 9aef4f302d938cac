"""Training in phases: gradients of the reparametrisations, the schedule, what is kept, and planted blocks."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsefact as sf
from sparsefact.backends.registry import get_backend
from sparsefact.errors import ArgumentError, BudgetError, ShapeError
from sparsefact.minimizers.acdc import Plain
from sparsefact.minimizers.block_grid import BlockGrid, block_grid
from sparsefact.minimizers.phases import phases
from sparsefact.minimizers.powerpropagation import Power
from sparsefact.minimizers.protocol import MinimizeProblem
from sparsefact.minimizers.sequential_attention import Attention

GRID = BlockGrid((2, 3), (4, 2), 3, "matrix")
SOLVERS = [sf.SequentialAttention, sf.ACDC, sf.Powerpropagation]
CPU = get_backend(np.ones(1))


def planted(seed=0, samples=400):
    """Labels that depend on the inputs 4, 5 and 10, 11 of 16."""
    X = np.random.default_rng(seed).standard_normal((samples, 16))
    return X, (X[:, 4] * X[:, 5] + X[:, 10] * X[:, 11] > 0).astype(int)


def kept_blocks(value, block):
    r, c = block
    return int(value.reshape(value.shape[0] // r, r, value.shape[1] // c, c).any(axis=(1, 3)).sum())


@pytest.mark.parametrize(
    "model",
    [Attention(GRID, clip=True), Attention(GRID, clip=False), Plain(GRID), Power(GRID, 2.0), Power(GRID, 3.5)],
    ids=["attention", "unclipped", "plain", "square", "power"],
)
@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_those_of_central_differences(model, seed):
    rng = np.random.default_rng(seed)
    theta, weight = rng.standard_normal((4, 2, 6)), rng.standard_normal((4, 2, 6))
    mask = rng.random((4, 2)) < 0.7
    _, extra = model.begin(theta, CPU, informed=False)
    # spread enough that some attention is clipped
    extra = None if extra is None else extra + rng.standard_normal((4, 2)) * 1.5

    def loss(t, e):
        return float(np.sum(np.sin(model.forward(t, e, mask)[0]) * weight))

    values, kept = model.forward(theta, extra, mask)
    found = model.backward(theta, kept, mask, np.cos(values) * weight)
    for which, (point, gradient) in enumerate(zip((theta, extra), found, strict=True)):
        if point is None:
            assert gradient is None
            continue
        expected = np.zeros_like(point)
        for index in np.ndindex(point.shape):
            pair = []
            for sign in (1, -1):
                moved = [theta, extra]
                moved[which] = point.copy()
                moved[which][index] += sign * 1e-6
                pair.append(loss(*moved))
            expected[index] = (pair[0] - pair[1]) / 2e-6
        np.testing.assert_allclose(gradient, expected, atol=1e-7)


@given(st.integers(0, 2**32 - 1), st.floats(1.2, 4))
@settings(max_examples=30)
def test_powerpropagation_inverts_and_decays_as_a_power_of_the_norms(seed, alpha):
    values = np.random.default_rng(seed).standard_normal((4, 2, 6))
    model, everything = Power(GRID, alpha), np.ones((4, 2), bool)
    theta, _ = model.begin(values, CPU, informed=True)
    np.testing.assert_allclose(model.forward(theta, None, everything)[0], values, rtol=1e-9)
    norms = np.sqrt((values.reshape(4, 2, 2, 3) ** 2).sum(axis=(1, 3)))
    assert np.sum(theta**2) == pytest.approx(np.sum(norms ** (2 / alpha)))


def test_attention_is_a_softmax_of_mean_one_within_its_bounds():
    model, theta, everything = Attention(GRID, clip=True), np.ones((4, 2, 6)), np.ones((4, 2), bool)
    logits = np.array([[5.0, 0], [0, 0], [0, 0], [0, -20]])
    values = model.forward(theta, logits, everything)[0]
    # density 3/8
    assert values.max() == pytest.approx(8 / 3) and values.min() == pytest.approx(3 / 8)
    free = Attention(GRID, clip=False).forward(theta, logits, everything)[0]
    np.testing.assert_allclose(free[::1, 0, ::3], 8 * np.exp(logits) / np.exp(logits).sum())


@pytest.mark.parametrize("clip", [True, False])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_attention_starts_at_given_values_and_orders_their_blocks(seed, clip):
    values = np.random.default_rng(seed).standard_normal((4, 2, 6)) * np.exp(np.arange(4))[:, None, None]
    model, everything = Attention(GRID, clip=clip), np.ones((4, 2), bool)
    for informed in (True, False):
        theta, logits = model.begin(values, CPU, informed=informed)
        np.testing.assert_allclose(model.forward(theta, logits, everything)[0], values, rtol=1e-9)
        if not informed:
            assert not logits.any()
    theta, logits = model.begin(values, CPU, informed=True)
    norms = np.sqrt((values.reshape(4, 2, 2, 3) ** 2).sum(axis=(1, 3))).ravel()
    assert logits.ravel()[norms.argmax()] == logits.max()


@given(
    st.integers(1, 500),
    st.floats(0, 0.5),
    st.floats(0, 0.5),
    st.sampled_from([("sparse", "dense"), ("sparsify", "sparse", "dense")]),
    st.integers(0, 7),
)
def test_phases_follow_each_other_to_the_end(iterations, dense, sparse, cycle, cycles):
    found = phases(iterations, dense, sparse, cycle, cycles)
    assert found[0].start == 0 and found[-1].end == iterations
    assert all(a.end == b.start for a, b in itertools.pairwise(found))
    assert all(phase.end > phase.start for phase in found)
    if iterations >= 100 and cycles and dense + sparse < 0.9:
        last = [phase.kind for phase in found if phase.end <= iterations - round(sparse * iterations)][-1]
        assert last == ("sparsify" if cycle[0] == "sparsify" else "dense")


def test_blocks_go_as_the_exponential_schedule_says():
    X, y = planted()
    f = sf.LogisticRegression(X, y, intercept=False)
    solver = sf.SequentialAttention(iterations=100, dense=0.1, sparse=0.1, cycles=1, batch=None)
    problem = MinimizeProblem(f, sf.BlockTopK((1, 1), count=4), CPU, np.ones((16, 2)))
    state, counts, before = solver.init(problem), [], None
    for step in range(100):
        solver.step(problem, state)
        mask = state.parts[0].mask
        assert before is None or not (mask & ~before).any()
        before = mask.copy()
        counts.append(int(mask.sum()))
        if 10 <= step < 90:
            t = (step + 1 - 10) / 80
            sparsity = (1 - 4 / 32) * (1 - math.exp(-4 * t)) / (1 - math.exp(-4))
            assert abs(counts[-1] - 32 * (1 - sparsity)) <= 0.5 + 1e-9
    assert counts[0] == 32 and counts[89:] == [4] * 11


def test_adam_starts_again_with_every_phase():
    X, y = planted()
    f = sf.LogisticRegression(X, y, intercept=False)
    for reset in (True, False):
        solver = sf.ACDC(iterations=40, dense=0.25, sparse=0.25, cycles=1, batch=None, reset=reset)
        problem = MinimizeProblem(f, sf.TopK(nnz=4), CPU, np.ones((16, 2)))
        state, counts = solver.init(problem), []
        for _ in range(40):
            solver.step(problem, state)
            counts.append(state.count)
        assert counts == (4 * [*range(1, 11)] if reset else list(range(1, 41)))


@pytest.mark.parametrize("solver", SOLVERS)
def test_planted_blocks_of_a_network_are_found(solver):
    X, y = planted()
    f = sf.Perceptron(X, y, hidden=(24,))
    solution = sf.minimize(f, {"weight1": sf.BlockTopK((2, 8), count=6)}, solver(iterations=800), seed=1)
    W = solution.value["weight1"]
    assert kept_blocks(W, (2, 8)) == 6
    found = np.flatnonzero(W.any(axis=1)).tolist()
    # blocks of the first magnitudes may stay with ACDC, beside those that matter
    assert set(found) >= {4, 5, 10, 11} if solver is sf.ACDC else found == [4, 5, 10, 11]
    assert np.mean(f.predict(solution.value) == y) > 0.9
    assert "steps of Adam" in solution.explain()
    # the other matrices are trained, and not sparse
    assert all(solution.value[name].all() for name in ("weight2", "bias1", "bias2"))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "constraint", [sf.BlockTopK((2, 1), count=9), sf.TopK(nnz=2, per="row"), sf.TopK(nnz=5, per="column")], ids=repr
)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_a_quadratic_ends_exact_on_its_support(solver, constraint, dtype):
    rng = np.random.default_rng(0)
    X, Y = (rng.standard_normal((60, n)).astype(dtype) for n in (16, 4))
    if dtype == "complex128":
        Y = Y + 1j * rng.standard_normal(Y.shape)
    f = sf.Quadratic(X.T @ X, X.T @ Y, constant=0.5 * np.linalg.norm(Y) ** 2)
    solution = sf.minimize(f, constraint, solver(iterations=200, learning_rate=1e-2))
    assert solution.value.dtype == dtype and constraint.contains(solution.value)
    assert solution.status is sf.Status.STATIONARY
    exact = sf.minimize(f, sf.Support(solution.value != 0)).objective
    assert solution.objective == pytest.approx(exact, rel=1e-5 if dtype == "float32" else 1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("seed", range(3))
def test_a_quadratic_never_ends_above_the_largest_blocks_of_its_dense_solution(solver, seed):
    rng = np.random.default_rng(seed)
    X = np.sqrt(0.1) * rng.standard_normal((80, 24)) + np.sqrt(0.9) * rng.standard_normal((80, 1))
    f = sf.Quadratic(X.T @ X, X.T @ X @ rng.standard_normal((24, 6)))
    constraint = sf.BlockTopK((3, 3), count=5)
    # columns of the design have their own scale
    scale = np.linalg.norm(X, axis=0)[:, None]
    sizes = constraint.project(np.linalg.solve(f.gram, f.cross) * scale) != 0
    bound = sf.minimize(f, sf.Support(sizes)).objective
    # too few steps to learn anything
    assert sf.minimize(f, constraint, solver(iterations=5)).objective <= bound + 1e-9 * abs(bound)


@pytest.mark.parametrize("solver", SOLVERS)
def test_in_an_orthogonal_design_the_largest_blocks_are_kept(solver):
    """There the best blocks are known: those of the dense solution, in the metric of the design."""
    rng = np.random.default_rng(0)
    X = np.linalg.qr(rng.standard_normal((30, 16)))[0] * rng.uniform(0.5, 2, 16)
    Y = rng.standard_normal((30, 6))
    constraint = sf.BlockTopK((4, 2), count=5)
    found = sf.minimize(sf.LeastSquares(X, Y), constraint, solver(iterations=100)).value
    scale = np.linalg.norm(X, axis=0)[:, None]
    expected = constraint.project(X.T @ Y / scale) / scale
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_dense_matrix_beside_a_budget_of_all():
    X, y = planted()
    f = sf.Perceptron(X, y, hidden=(8,))
    solution = sf.minimize(f, sf.TopK(nnz=40), sf.SequentialAttention(iterations=150))
    assert sum(int(np.count_nonzero(value)) for value in solution.value.values()) <= 40


@pytest.mark.parametrize("stop", ["callback", "time"])
def test_a_run_that_is_ended_early_obeys_the_constraint(stop):
    X, y = planted()
    f = sf.Perceptron(X, y, hidden=(16,))
    options = {"callback": lambda progress: True} if stop == "callback" else {"time_limit": 1e-9}
    solver = sf.SequentialAttention(report_every=30)
    solution = sf.minimize(f, {"weight1": sf.BlockTopK((4, 4), count=3)}, solver, **options)
    assert solution.status in (sf.Status.STOPPED, sf.Status.LIMIT)
    assert kept_blocks(solution.value["weight1"], (4, 4)) <= 3


def test_same_seed_same_bits_and_a_start_is_left_alone():
    X, y = planted(samples=100)
    f = sf.Perceptron(X, y, hidden=(8,))
    constraint, solver = {"weight1": sf.BlockTopK((4, 4), count=3)}, sf.SequentialAttention(iterations=60)
    first, second, other = (sf.minimize(f, constraint, solver, seed=seed).value["weight1"] for seed in (3, 3, 4))
    assert np.array_equal(first, second) and not np.array_equal(first, other)
    start = {name: np.ones(shape) for name, shape in f.shapes.items()}
    sf.minimize(f, constraint, solver, init=start)
    assert all((value == 1).all() for value in start.values())


def test_a_users_objective_whose_gradient_is_its_own_array():
    target = np.arange(12.0).reshape(4, 3)

    class Distance:
        shape = (4, 3)
        gradient_array = np.empty((4, 3))

        def value_and_gradient(self, W):
            np.subtract(W, target, out=self.gradient_array)
            return 0.5 * np.sum(self.gradient_array**2), self.gradient_array

    solver = sf.ACDC(iterations=600, learning_rate=0.1, weight_decay=0.0)
    W = sf.minimize(Distance(), sf.TopK(nnz=3), solver).value
    np.testing.assert_allclose(W, sf.TopK(nnz=3).project(target), atol=0.05)


@pytest.mark.parametrize("solver", SOLVERS)
def test_as_the_inner_solver_of_alternating(solver):
    A = np.random.default_rng(0).standard_normal((16, 20))
    F = sf.factorize(A, sf.double_sparse(A.shape, 0.5), sf.Alternating(inner=solver(), outer=4))
    assert F.nnz <= 160
    F = sf.factorize(A, (sf.Dense(), sf.TopK(density=0.5)), sf.Alternating(inner=solver(), outer=4))
    assert F.error < 0.5


def test_grids_of_constraints():
    grid = block_grid(sf.BlockTopK((2, 3), density=0.5), (4, 9), "it")
    assert (grid.grid, grid.each, grid.count) == ((2, 3), 3, 3)
    grid = block_grid(sf.TopK(nnz=2, per="row"), (4, 9), "it")
    assert (grid.grid, grid.each, grid.count) == ((4, 9), 2, 8)
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    energies = GRID.energies(np.zeros((8, 6)) + 2)
    assert energies.tolist() == [[24.0, 24.0]] * 4
    assert block_grid(sf.BlockTopK((2, 3), count=1), (4, 6), "it").energies(x).sum() == pytest.approx(np.sum(x**2))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "changes",
    [
        {"iterations": 0},
        {"cycles": -1},
        {"batch": 0},
        {"learning_rate": 0.0},
        {"weight_decay": -1.0},
        {"dense": -0.1},
        {"sparse": math.inf},
    ],
)
def test_bad_hyperparameters_get_a_sentence(solver, changes):
    with pytest.raises(ArgumentError, match=f"{next(iter(changes))}=.*is not allowed"):
        solver(**changes)


def test_more_bad_input_gets_a_sentence():
    with pytest.raises(ArgumentError, match="together more than 1"):
        sf.ACDC(dense=0.6, sparse=0.6)
    with pytest.raises(ArgumentError, match=r"alpha=1\.0 is not allowed"):
        sf.Powerpropagation(alpha=1.0)
    with pytest.raises(ArgumentError, match=r"decay_exponent=-1\.0 is not allowed"):
        sf.SequentialAttention(decay_exponent=-1.0)
    X, y = planted(samples=50)
    f = sf.Perceptron(X, y, hidden=(8,))
    with pytest.raises(ShapeError, match="not a whole number of blocks of shape"):
        sf.minimize(f, {"weight1": sf.BlockTopK((3, 4), count=1)}, sf.SequentialAttention())
    with pytest.raises(BudgetError, match="count=9 is more than the 8 blocks"):
        sf.minimize(f, {"weight1": sf.BlockTopK((4, 4), count=9)}, sf.SequentialAttention())
    with pytest.raises(ArgumentError, match="SequentialAttention chooses blocks or entries"):
        sf.minimize(f, {"weight1": sf.NOfM(1, 2)}, sf.SequentialAttention())
    assert dataclasses.replace(sf.SequentialAttention(), cycles=0).cycles == 0
