"""The joint fit of two factors on their supports, and the exchange of entries, for products and for one matrix."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsefact as sf
from sparsefact.backends.registry import get_backend
from sparsefact.factorizers.joint_polish import JointFit
from sparsefact.minimizers.exchange import exchange
from sparsefact.minimizers.refit import refit


def _problem(seed, kind, weighted, m=7, k=5, n=9):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        x = rng.standard_normal(shape)
        return x + 1j * rng.standard_normal(shape) if kind == "c" else x

    inputs = draw(20, n)
    gram = inputs.conj().T @ inputs if weighted else None
    masks = [rng.random((k, m)) < 0.6, rng.random((k, n)) < 0.6]
    values = [draw(k, m) * masks[0], draw(k, n) * masks[1]]
    return draw(m, n), gram, values, masks


def _fit(matrix, gram, values, masks):
    return JointFit(matrix, gram, values, masks, get_backend(matrix))


def _loss(matrix, gram, values):
    residual = matrix - values[0].T @ values[1]
    return np.trace(residual @ (np.eye(matrix.shape[1]) if gram is None else gram) @ residual.conj().T).real


@given(st.integers(0, 2**32 - 1), st.sampled_from("rc"), st.booleans())
@settings(max_examples=12, deadline=None)
def test_it_ends_where_no_entry_of_either_support_can_improve(seed, kind, weighted):
    matrix, gram, values, masks = _problem(seed, kind, weighted)
    fit = _fit(matrix, gram, values, masks)
    assert fit.loss == pytest.approx(_loss(matrix, gram, values))
    losses = [fit.loss]
    for _ in range(15):
        fit.fit(4, 30, 0.0)
        losses.append(fit.loss)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == pytest.approx(_loss(matrix, gram, fit.values), rel=1e-9, abs=1e-9)
    for side in (0, 1):
        assert not fit.values[side][~masks[side]].any()
        # the oracle: exact least squares in one factor alone gains nothing more
        other, metric = fit.values[1 - side], np.eye(matrix.shape[1]) if gram is None else gram
        if side == 0:
            problem = sf.Quadratic(other.conj() @ metric.T @ other.T, other.conj() @ metric.T @ matrix.T)
        else:
            problem = sf.Quadratic(other.conj() @ other.T, other.conj() @ matrix @ metric, gram)
        alone = list(fit.values)
        alone[side] = refit(problem, masks[side], alone[side], get_backend(matrix), iterations=300, tolerance=1e-12)
        assert _loss(matrix, gram, alone) >= losses[-1] * (1 - 2e-2)


def test_a_joint_step_goes_further_than_refits_in_turn():
    rng = np.random.default_rng(3)
    masks = [rng.random((12, 12)) < 0.5, rng.random((12, 16)) < 0.5]
    truth = [rng.standard_normal(mask.shape) * mask for mask in masks]
    matrix = truth[0].T @ truth[1]
    start = [value + 0.3 * rng.standard_normal(value.shape) * mask for value, mask in zip(truth, masks, strict=True)]
    fit = _fit(matrix, None, start, masks)
    fit.fit(15, 200, 0.0)
    turns, backend = [value.copy() for value in start], get_backend(matrix)
    for _ in range(15):
        for side, target in ((0, matrix.T), (1, matrix)):
            other = turns[1 - side]
            turns[side] = refit(sf.Quadratic(other @ other.T, other @ target), masks[side], turns[side], backend)
    assert fit.loss < 1e-3 * _loss(matrix, None, turns)


@pytest.mark.parametrize("weighted", [False, True])
def test_an_entry_at_the_wrong_place_is_exchanged(weighted):
    matrix, gram, values, masks = _problem(5, "r", weighted, m=10, k=6, n=12)
    matrix = values[0].T @ values[1]
    strongest = np.unravel_index(abs(values[1]).argmax(), values[1].shape)
    wrong = np.argwhere(~masks[1])[0]
    masks[1][strongest], masks[1][tuple(wrong)] = False, True
    fit = _fit(matrix, gram, [values[0], values[1] * masks[1]], masks)
    fit.fit(1, 30)
    before, counts = fit.loss, [int(mask.sum()) for mask in masks]
    choose = [sf.TopK(nnz=count) for count in counts]
    exchanged = fit.exchange(lambda together, scores: [c.mask(s) for c, s in zip(choose, scores, strict=True)], 6, 30)
    assert exchanged and fit.masks[1][strongest] and fit.loss < 0.5 * before
    assert [int(mask.sum()) for mask in fit.masks] == counts


def _best(f, k):
    """The least objective over all supports of k entries, by brute force."""
    p, n = f.shape
    right = np.eye(n) if f.right_gram is None else f.right_gram
    system = np.kron(f.gram, right)
    cross, best = f.cross.ravel(), 0.0
    for support in combinations(range(p * n), k):
        on = list(support)
        best = min(best, -0.5 * cross[on] @ np.linalg.solve(system[np.ix_(on, on)], cross[on]))
    return best


@pytest.mark.parametrize("two_sided", [False, True])
def test_exchanges_of_one_matrix_only_lower_the_objective(two_sided):
    rng, reached, started = np.random.default_rng(0), 0, 0
    backend = get_backend(np.zeros(1))
    for _ in range(20):
        X, Y = rng.standard_normal((12, 4)), rng.standard_normal((12, 3))
        f = sf.Quadratic(X.T @ X, rng.standard_normal((4, 3)) * 9, Y.T @ Y if two_sided else None)
        best = _best(f, 4)
        mask = sf.TopK(nnz=4).mask(rng.random((4, 3)))
        start = refit(f, mask, np.zeros((4, 3)), backend)
        value, kept, count = exchange(f, sf.TopK(nnz=4), start, mask, backend, rounds=10)
        assert f.value(value) <= f.value(start) + 1e-12 and kept.sum() == 4 and not value[~kept].any()
        assert (count > 0) == (f.value(value) < f.value(start))
        assert f.value(value) >= best - 1e-9
        reached += f.value(value) <= best * (1 - 1e-3)
        started += f.value(start) <= best * (1 - 1e-3)
    assert reached >= 10 > 3 >= started


def test_minimize_is_at_the_brute_force_optimum_for_most_small_problems():
    rng, hits = np.random.default_rng(1), 0
    for _ in range(20):
        X = rng.standard_normal((12, 4))
        f = sf.Quadratic(X.T @ X, X.T @ rng.standard_normal((12, 3)))
        hits += sf.minimize(f, sf.TopK(nnz=5)).objective <= _best(f, 5) + 1e-9
    assert hits >= 14
