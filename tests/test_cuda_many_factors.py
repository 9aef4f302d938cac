"""Many factors and low rank on the emulated GPU: nothing slips to the host, and the CPU's results."""

from __future__ import annotations

from itertools import pairwise

import fake_cupy as cp
import numpy as np
import pytest
from emulated import install

import sparsefact as sf
from sparsefact.backends.registry import get_backend
from sparsefact.constraints.low_rank import LowRank
from sparsefact.constraints.presets import blocks_around_n_of_m
from sparsefact.factorizers.block_coordinate import BlockCoordinateDescent
from sparsefact.factorizers.hierarchical_palm import HierarchicalPALM
from sparsefact.factorizers.problem import FactorizationProblem
from sparsefact.minimizers.loop import run
from sparsefact.minimizers.reduced_rank import ReducedRank

RNG = np.random.default_rng(0)
A = RNG.standard_normal((12, 16))
INPUTS = RNG.standard_normal((40, 16))
GRAM = INPUTS.T @ INPUTS
ROWS = sf.TopK(nnz=4, per="row")


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    return install(monkeypatch)


def both(solver, constraints, lengths, gram=None, matrix=A, start=None):
    found = []
    for put in (np.asarray, cp.asarray):
        moved = [None if x is None else put(x) for x in (matrix, gram)]
        first = None if start is None else tuple(map(put, start))
        shapes = tuple(pairwise(lengths))
        found.append(
            run(solver, FactorizationProblem(moved[0], constraints, shapes, moved[1], get_backend(moved[0]), first))
        )
    expected, device = found
    assert all(type(value) is cp.ndarray for value in device.outcome.value)
    assert device.outcome.status is expected.outcome.status
    assert device.history[-1].error == pytest.approx(expected.history[-1].error, rel=0.02, abs=1e-12)


@pytest.mark.parametrize("gram", [None, GRAM], ids=["plain", "gram"])
@pytest.mark.parametrize(
    ("constraints", "lengths"),
    [
        (blocks_around_n_of_m((12, 16), 4, 2, 4), (12, 12, 16, 16)),
        ((sf.TopK(density=0.5), ROWS), (12, 12, 16)),
        ((sf.KroneckerSupport(1, 3, 3, 4), sf.Dense()), (12, 12, 16)),
        ((LowRank(5), sf.TopK(density=0.4)), (12, 12, 16)),
    ],
    ids=["three", "pair", "kronecker", "low rank"],
)
def test_block_coordinate_descent(constraints, lengths, gram):
    both(BlockCoordinateDescent(iterations=4), constraints, lengths, gram)


def test_block_coordinate_descent_from_a_start_and_of_a_zero_matrix():
    start = RNG.standard_normal((12, 10)), RNG.standard_normal((10, 16))
    sets = sf.TopK(density=0.5), sf.BlockTopK((2, 4), density=0.5)
    both(BlockCoordinateDescent(iterations=3), sets, (12, 10, 16), start=start)
    both(BlockCoordinateDescent(iterations=2), sets, (12, 10, 16), matrix=0 * A)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("gram", [None, GRAM], ids=["plain", "gram"])
def test_hierarchical_palm(side, gram):
    palm = sf.PALM(iterations=10)
    both(
        HierarchicalPALM(palm=palm, refine=palm, split=sf.Alternating(outer=3), side=side),
        (ROWS,) * 3,
        (12, 12, 12, 16),
        gram,
    )


def test_hierarchical_palm_of_supports_and_low_rank():
    palm = sf.PALM(iterations=10)
    chain = tuple(sf.KroneckerSupport(a, 2, 2, 4 // a) for a in (1, 2, 4))
    few = sf.AlternatingLeastSquares(iterations=2)
    both(HierarchicalPALM(palm=palm, refine=palm, split=few), chain, (8,) * 4, matrix=A[:8, :8])
    # every projection on a low rank is a Jacobi iteration, which the emulator takes its time for
    palm = sf.PALM(iterations=1)
    both(HierarchicalPALM(palm=palm, split=palm), (LowRank(3), ROWS), (12, 6, 16))


@pytest.mark.parametrize("right", [None, GRAM], ids=["one", "two"])
def test_reduced_rank(right):
    gram, cross = INPUTS[:, :12].T @ INPUTS[:, :12], A if right is None else A @ GRAM
    expected = sf.minimize(sf.Quadratic(gram, cross, right), LowRank(3), ReducedRank())
    moved = [None if x is None else cp.asarray(x) for x in (gram, cross, right)]
    found = sf.minimize(sf.Quadratic(*moved), LowRank(3), ReducedRank())
    assert type(found.value) is cp.ndarray
    np.testing.assert_allclose(found.value.get(), expected.value, atol=1e-8)


def test_low_rank_projects_on_the_device():
    found = LowRank(2).project(cp.asarray(A))
    assert type(found) is cp.ndarray
    np.testing.assert_allclose(found.get(), LowRank(2).project(A), atol=1e-10)
