"""The landscape probe, against finite differences, exact optima, known saddles and descents by scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize

import sparsefact as sf
from sparsefact.errors import ArgumentError, NonFiniteError, ShapeError
from sparsefact.factorizers.probe_landscape import _classified, _End, _Landscape, probe_landscape


def draw(rng, shape, is_complex):
    return rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if is_complex else 0)


@pytest.mark.parametrize("is_complex", [False, True])
def test_derivatives(is_complex):
    rng = np.random.default_rng(0)
    landscape = _Landscape(draw(rng, (4, 5), is_complex), rng.random((3, 4)) < 0.7, rng.random((3, 5)) < 0.7)
    t = rng.standard_normal(landscape.count * (1 + is_complex))
    step = 1e-6 * np.eye(t.size)
    slopes = [(landscape.loss(t + e) - landscape.loss(t - e)) / 2e-6 for e in step]
    np.testing.assert_allclose(landscape.gradient(t), slopes, atol=1e-7)
    curves = [(landscape.gradient(t + e) - landscape.gradient(t - e)) / 2e-6 for e in step]
    np.testing.assert_allclose(landscape.hessian(t), curves, atol=1e-7)


@pytest.mark.parametrize("is_complex", [False, True])
def test_gauge_of_a_class_and_of_nested_supports(is_complex):
    rng = np.random.default_rng(0)
    left = np.ones((4, 2), dtype=bool)
    full = _Landscape(draw(rng, (4, 5), is_complex), left.T, np.ones((2, 5), dtype=bool))
    point = rng.standard_normal(full.count * (1 + is_complex))
    assert full.gauge_rank(point) == 4 * (1 + is_complex)
    nested_right = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], dtype=bool)
    nested = _Landscape(draw(rng, (4, 5), is_complex), left.T, nested_right)
    # one scale per term, and the term of the wide row can go into the other
    assert nested.gauge_rank(rng.standard_normal(nested.count * (1 + is_complex))) == 3 * (1 + is_complex)


@pytest.mark.parametrize("is_complex", [False, True])
def test_one_class_is_benign(is_complex):
    matrix = draw(np.random.default_rng(1), (5, 5), is_complex)
    probe = probe_landscape(matrix, np.ones((5, 2), dtype=bool), np.ones((2, 5), dtype=bool), starts=10)
    tail = np.linalg.svd(matrix, compute_uv=False)[2:]
    assert probe.proven and probe.optimum == pytest.approx(np.linalg.norm(tail))
    assert probe.counts == {
        "global": 10, "saddle": 0, "spurious": 0, "degenerate": 0, "diverging": 0, "unsettled": 0,
    }  # fmt: skip
    assert "not prove" in probe.explain()


@pytest.mark.parametrize("is_complex", [False, True])
def test_a_known_saddle_is_recognised(is_complex):
    matrix = draw(np.random.default_rng(0), (5, 6), is_complex)
    matrix /= np.linalg.norm(matrix)
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    landscape = _Landscape(matrix, np.ones((1, 5), dtype=bool), np.ones((1, 6), dtype=bool))
    root = np.sqrt(s[1])
    point = landscape.pack(u[:, 1:2].T * root, vh[1:2] * root)
    values = np.linalg.eigvalsh(landscape.hessian(point))
    # along the larger triplet the second derivative is sigma_s - sigma_m
    assert values[0] == pytest.approx(s[1] - s[0])
    best = 0.5 * np.sum(s[1:] ** 2)
    end = _classified(
        _End(landscape, point, landscape.loss(point), landscape.relative_gradient(point), False), best, 1.0
    )
    assert end.kind == "saddle" and end.lowest < 0


def test_spurious_minima_are_certified_and_real():
    found = None
    for seed in range(40):
        rng = np.random.default_rng(seed)
        left, right = rng.random((4, 3)) < 0.6, rng.random((3, 4)) < 0.6
        matrix = rng.standard_normal((4, 4))
        probe = probe_landscape(matrix, left, right, starts=6)
        if probe.spurious:
            found = probe.spurious[0]
            break
    assert found is not None
    assert probe.counts["spurious"] == len(probe.spurious)
    assert found.zeros == found.gauge and found.gradient < 1e-9 and found.lowest > -1e-6
    assert np.linalg.norm(matrix - found.left @ found.right) == pytest.approx(found.error)
    assert found.error > probe.optimum * (1 + 1e-6)
    assert "spurious local minima" in probe.explain()
    p = int(left.sum())

    def loss(t):
        x, y = np.zeros((4, 3)), np.zeros((3, 4))
        x[left], y[right] = t[:p], t[p:]
        return 0.5 * np.sum((matrix - x @ y) ** 2)

    here = np.concatenate([found.left[left], found.right[right]])
    for _ in range(10):
        nearby = here + 1e-3 * rng.standard_normal(here.size)
        assert loss(nearby) >= loss(here) - 1e-12
        assert scipy.optimize.minimize(loss, nearby).fun == pytest.approx(loss(here), rel=1e-5)


def test_lu_is_seen_diverging():
    anti = np.array([[0.0, 1.0], [1.0, 0.0]])
    probe = probe_landscape(anti, np.tri(2, dtype=bool), np.tri(2, dtype=bool).T, starts=4)
    assert probe.counts["diverging"] == 4 and not probe.proven
    assert "not attained" in probe.explain()


def test_same_seed_same_points_and_scale():
    rng = np.random.default_rng(0)
    left, right = rng.random((4, 3)) < 0.6, rng.random((3, 4)) < 0.6
    matrix = rng.standard_normal((4, 4))
    one, two = (probe_landscape(matrix, sf.Support(left), sf.Support(right), starts=5, seed=3) for _ in range(2))
    large = probe_landscape(matrix * 1e12, left, right, starts=5, seed=3)
    assert [end.error for end in one.endpoints] == [end.error for end in two.endpoints]
    assert one.counts == large.counts
    assert large.optimum == pytest.approx(1e12 * one.optimum)


def test_bad_input():
    left, right = np.ones((3, 2), dtype=bool), np.ones((2, 3), dtype=bool)
    with pytest.raises(ShapeError):
        probe_landscape(np.ones((3, 4)), left, right)
    with pytest.raises(ShapeError):
        probe_landscape(np.ones((3, 3)), left, left)
    with pytest.raises(NonFiniteError):
        probe_landscape(np.full((3, 3), np.nan), left, right)
    with pytest.raises(ArgumentError, match="starts"):
        probe_landscape(np.ones((3, 3)), left, right, starts=0)
    with pytest.raises(ArgumentError, match="unknowns"):
        probe_landscape(np.ones((100, 100)), np.ones((100, 50), dtype=bool), np.ones((50, 100), dtype=bool))
    zero = probe_landscape(np.zeros((3, 3)), left, right, starts=2)
    assert zero.optimum == 0 and zero.counts["global"] == 2
