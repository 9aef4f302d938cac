"""The regularisers of decayed masks: closed forms against minimisation over the mask, and what subadditivity gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from sparsefact.objectives.mask_penalties import GroupLassoMask, LogSumMask, TwoThirdsMask

PENALTIES = [GroupLassoMask(), TwoThirdsMask(), LogSumMask()]
SUBADDITIVE = [penalty for penalty in PENALTIES if penalty.subadditive]
NORMS = st.floats(1e-3, 1e3)


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda penalty: type(penalty).__name__)
@given(norm=NORMS)
def test_value_is_the_cheapest_way_to_write_a_block(penalty, norm):
    norm = np.array(norm)
    # over the logarithm of the mask value, where each cost has one valley
    found = minimize_scalar(
        lambda t: float(penalty.cost(np.exp(np.array(t)), norm)), bracket=(-1.0, 1.0), options={"xtol": 1e-10}
    )
    assert penalty.value(norm) == pytest.approx(found.fun, rel=1e-9)
    assert penalty.mask(norm) == pytest.approx(np.exp(found.x), rel=1e-4)


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda penalty: type(penalty).__name__)
@given(norm=NORMS)
def test_inverse_increase_and_zero(penalty, norm):
    norm = np.array(norm)
    assert penalty.inverse(penalty.value(norm)) == pytest.approx(norm, rel=1e-9)
    assert penalty.value(1.01 * norm) > penalty.value(norm)
    assert penalty.value(np.zeros(())) == 0 == penalty.inverse(np.zeros(()))


@pytest.mark.parametrize("penalty", SUBADDITIVE, ids=lambda penalty: type(penalty).__name__)
@given(norms=st.lists(st.just(0.0) | st.floats(1e-6, 1e3), min_size=1, max_size=6))
def test_a_subadditive_penalty_favours_one_block(penalty, norms):
    norms = np.array(norms)
    joint = penalty.inverse(penalty.value(norms).sum())
    assert joint >= norms.sum() * (1 - 1e-9)
    assert penalty.inverse(penalty.value(norms[:1]).sum()) == pytest.approx(norms[0], rel=1e-9)


def test_the_exponential_mask_spreads_small_blocks():
    penalty, halves = LogSumMask(), np.array([0.05, 0.05])
    assert penalty.inverse(penalty.value(halves).sum()) < 0.8 * halves.sum()
    # far away it does favour one block
    assert penalty.inverse(penalty.value(1e3 * halves).sum()) > 1.2 * 1e3 * halves.sum()


def _one_block_lasso(seed):
    """Data, lambda just below where the group lasso becomes nonzero, and its solution, by proximal gradient."""
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((40, 12)), rng.standard_normal(40)
    groups = np.repeat(np.arange(4), 3)

    def norms(beta):
        return np.sqrt(np.bincount(groups, weights=beta**2))

    tops = np.sort(norms(X.T @ y))
    strength = 0.5 * (tops[-1] + tops[-2]) if tops[-2] > 0.98 * tops[-1] else 0.98 * tops[-1]
    beta, step = np.zeros(12), 1 / np.linalg.norm(X, 2) ** 2
    for _ in range(4000):
        moved = beta - step * X.T @ (X @ beta - y)
        beta = moved * np.maximum(0, 1 - step * strength / norms(moved))[groups]
    return X, y, strength, norms, beta


@pytest.mark.parametrize("penalty", SUBADDITIVE, ids=lambda penalty: type(penalty).__name__)
@pytest.mark.parametrize("seed", range(4))
def test_a_one_block_solution_of_the_group_lasso_solves_the_nonconvex_problem(penalty, seed):
    X, y, strength, norms, beta = _one_block_lasso(seed)
    sizes = norms(beta)
    assert np.count_nonzero(sizes) == 1
    # the block is that of the largest gradient: one step of matching pursuit
    assert sizes.argmax() == norms(X.T @ y).argmax()

    def objective(b):
        return 0.5 * np.sum((X @ b - y) ** 2) + strength * penalty.inverse(penalty.value(norms(b)).sum())

    best, rng = objective(beta), np.random.default_rng(seed)
    others = [np.linalg.lstsq(X, y, rcond=None)[0], np.zeros(12)]
    others += [rng.standard_normal(12) * 10.0 ** rng.uniform(-3, 1) for _ in range(200)]
    others += [beta + rng.standard_normal(12) * 10.0 ** rng.uniform(-6, -1) for _ in range(400)]
    assert min(map(objective, others)) > best
