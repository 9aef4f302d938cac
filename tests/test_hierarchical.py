"""The hierarchical algorithm against the composition of dense truncated SVDs, and its certificate against both."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
import scipy.fft
import scipy.linalg
from chain_strategies import chains, random_values, to_dense
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsefact as sf
from sparsefact.analysis.split_blocks import split_errors
from sparsefact.backends.registry import get_backend
from sparsefact.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError

seeds = st.integers(0, 2**32 - 1)
named_orders = st.sampled_from(["left-to-right", "right-to-left", "balanced"])


def target(shape, seed, is_complex=False, spread=1.0):
    """A matrix whose entries differ in size by some orders of magnitude."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(shape) * 10.0 ** rng.uniform(-spread, spread, shape)
    return a + 1j * rng.standard_normal(shape) if is_complex else a


@functools.lru_cache(1)
def blocks(chain):
    """The rows and the columns of the blocks of every split, one line for each block."""
    whole, found = chain.partial(1, len(chain)), []
    rows, cols = np.arange(chain.shape[0]), np.arange(chain.shape[1])
    for left, right in itertools.pairwise(chain):
        block_rows, block_cols = [], []
        for i, residue in itertools.product(range(right.a), range(left.d)):
            # rows of one residue and columns of one interval, inside one diagonal block and residue of the product
            at_cols = cols[cols // (len(cols) // right.a) == i]
            at_rows = rows[rows % left.d == residue]
            outer = at_cols[0] // (len(cols) // whole.a)
            block_rows.append(at_rows[at_rows // (len(rows) // whole.a) == outer])
            block_cols.append(at_cols[at_cols % whole.d == residue % whole.d])
        found.append((np.array(block_rows)[:, :, None], np.array(block_cols)[:, None, :]))
    return found


def truncated(a, chain, split):
    """P_s A: every block of the split truncated by a dense SVD, zero off the support of the product."""
    out, r = np.zeros_like(a), chain.ranks[split - 1]
    at = blocks(chain)[split - 1]
    u, s, v = np.linalg.svd(a[at], full_matrices=False)
    out[at] = (u[..., :r] * s[..., None, :r]) @ v[..., :r, :]
    return out


def composed(a, chain, order):
    """The result as the definition has it: one dense projection after another."""
    a = np.where(chain.partial(1, len(chain)).mask(), a, 0)
    for split in order:
        a = truncated(a, chain, split)
    return a


def product(matrices):
    return functools.reduce(np.matmul, matrices)


def norm(a):
    return float(np.linalg.norm(a))


@settings(max_examples=60)
@given(st.data(), chains(min_splits=1, max_splits=4, max_size=24, redundant=False), seeds, st.booleans())
def test_equals_the_composition_of_dense_projections(data, chain, seed, is_complex):
    order = data.draw(st.permutations(range(1, len(chain))))
    a = target(chain.shape, seed, is_complex)
    expected = composed(a, chain, order)
    F = sf.factorize(a, chain, sf.Hierarchical(order=order, certificate="full"))
    assert norm(F.todense() - expected) <= 1e-11 * norm(a)
    assert [f.support for f in F.factors] == list(chain)
    exact_splits = [norm(a - truncated(a, chain, s)) for s in range(1, len(chain))]
    np.testing.assert_allclose(F.certificate.split_errors, exact_splits, rtol=1e-6, atol=1e-12 * norm(a))
    error, best = norm(a - expected), max(exact_splits, default=norm(a - expected))
    assert error <= F.certificate.upper_bound + 1e-12 * norm(a)
    assert best == pytest.approx(F.certificate.lower_bound, abs=1e-12 * norm(a))
    assert F.certificate.upper_bound <= (len(chain) - 1) * best + 1e-12 * norm(a) or len(chain) == 1


def test_every_order_of_five_splits():
    chain = sf.Chain.from_ranks((2, 4, 2, 2, 2, 2), (2, 2, 2, 4, 2, 2), (1, 2, 2, 1, 1))
    assert not chain.is_redundant
    a = target(chain.shape, 5, spread=2.0)
    worst = 0.0
    for order in itertools.permutations(range(1, 6)):
        F = sf.factorize(a, chain, sf.Hierarchical(order=order))
        worst = max(worst, norm(F.todense() - composed(a, chain, order)) / norm(a))
        assert F.certificate.lower_bound <= norm(a - F.todense()) <= F.certificate.upper_bound * (1 + 1e-12)
    assert worst <= 1e-11


@given(
    chains(min_splits=1, max_splits=4, redundant=False),
    st.sampled_from(["left-to-right", "right-to-left"]),
    seeds,
    st.booleans(),
)
def test_one_sided_orders_know_their_error(chain, order, seed, is_complex):
    a = target(chain.shape, seed, is_complex)
    F = sf.factorize(a, chain, sf.Hierarchical(order=order))
    measured = norm(a - F.todense())
    assert F.certificate.upper_bound == pytest.approx(measured, rel=1e-9, abs=1e-13 * norm(a))
    assert F.error == pytest.approx(measured / norm(a), rel=1e-9, abs=1e-13)
    errors = split_errors(a, chain, get_backend(a)) or (measured,)
    assert measured <= math.hypot(*errors) + 1e-12 * norm(a)


@given(chains(min_splits=0, max_splits=4), named_orders, seeds, st.booleans())
def test_a_product_of_the_chain_is_found_exactly(chain, order, seed, is_complex):
    dtype = np.complex128 if is_complex else np.float64
    a = product(to_dense(v) for v in random_values(chain, seed, dtype))
    F = sf.factorize(a, chain, sf.Hierarchical(order=order))
    assert norm(F.todense() - a) <= 1e-13 * norm(a)
    assert [f.support for f in F.factors] == list(chain)
    assert F.status is sf.Status.OPTIMAL
    assert F.error <= 1e-13


@given(chains(min_splits=1, max_splits=4, redundant=True), st.data(), seeds)
def test_redundant_pairs_change_nothing_but_the_shapes(chain, data, seed):
    order = data.draw(st.permutations(range(1, len(chain))))
    a = target(chain.shape, seed)
    F = sf.factorize(a, chain, sf.Hierarchical(order=order))
    kept = {old: new for new, old in enumerate(chain.kept_splits, 1)}
    expected = composed(a, chain.reduced(), [kept[s] for s in order if s in kept])
    assert norm(F.todense() - expected) <= 1e-11 * norm(a)
    assert [f.support for f in F.factors] == list(chain)
    assert F.certificate.verify(a)


@given(chains(min_splits=1, max_splits=4), named_orders, seeds, st.sampled_from(["free", "full"]))
def test_the_certificate_holds_and_notices_changes(chain, order, seed, kind):
    a = target(chain.shape, seed)
    proof = sf.factorize(a, chain, sf.Hierarchical(order=order, certificate=kind)).certificate
    assert proof.verify(a)
    assert not proof.verify(a + 0.01 * abs(a).max())
    assert not proof.verify(a[:, :-1])
    for change in (
        {"lower_bound": proof.lower_bound * 1.01 + 1e-3 * proof.norm},
        {"upper_bound": proof.upper_bound * 0.5 - 1e-3 * proof.norm},
        {"factors": tuple(sf.KroneckerFactor(f.values * (1.01 if proof.exact else 10)) for f in proof.factors)},
        {"chain": sf.Chain([sf.KroneckerSupport(1, *chain.shape, 1)])} if len(chain.reduced()) > 1 else {"norm": 0.0},
    ):
        fields = {name: getattr(proof, name) for name in proof.__dataclass_fields__}
        assert not type(proof)(**{**fields, **change}).verify(a), change


@settings(max_examples=40)
@given(chains(min_splits=1, max_splits=4), named_orders, seeds, st.floats(0.01, 0.9))
def test_a_tolerance_is_kept_with_small_ranks(chain, order, seed, tolerance):
    a = np.where(chain.partial(1, len(chain)).mask(), target(chain.shape, seed), 0)
    F = sf.factorize(a, chain, sf.Hierarchical(order=order, tolerance=tolerance))
    assert norm(a - F.todense()) <= tolerance * norm(a)
    found = sf.Chain([f.support for f in F.factors])
    assert [(f.a, f.d) for f in found] == [(f.a, f.d) for f in chain]
    assert F.certificate.verify(a)
    # the ranks of the first split are no larger than its singular values ask for
    if len(chain) == 2:
        smaller = found.ranks[0] - 1
        if smaller:
            left, right = chain[0], chain[1]
            reach = sf.Chain(
                [
                    (left.a, left.b, right.a // left.a * smaller, left.d),
                    (right.a, smaller * left.d // right.d, right.c, right.d),
                ]
            )
            assert norm(a - composed(a, reach, (1,))) > tolerance * norm(a)


def test_a_tolerance_finds_the_rank_two_chain_of_a_sum():
    chain = sf.Chain.butterfly(64)
    rng = np.random.default_rng(0)
    parts = [product(to_dense(v) for v in random_values(chain, seed)) for seed in (1, 2)]
    a = parts[0] + parts[1] + 1e-7 * rng.standard_normal((64, 64))
    F = sf.factorize(a, chain, sf.Hierarchical(tolerance=1e-4))
    assert sf.Chain([f.support for f in F.factors]).ranks == (2, 2, 2, 2, 2)
    assert F.error <= 1e-4


@settings(max_examples=30)
@given(chains(min_splits=1, max_splits=4), named_orders, seeds, st.booleans())
def test_sweeps_never_raise_the_error(chain, order, seed, is_complex):
    a = target(chain.shape, seed, is_complex)
    plain = sf.factorize(a, chain, sf.Hierarchical(order=order))
    better = sf.factorize(a, chain, sf.Hierarchical(order=order, sweeps=4))
    start, end = norm(a - plain.todense()), norm(a - better.todense())
    assert end <= start * (1 + 1e-12) + 1e-13 * norm(a)
    assert better.certificate.upper_bound == pytest.approx(end, rel=1e-9, abs=1e-12 * norm(a))
    assert better.certificate.verify(a)
    errors = [record.objective for record in better.history[1:]]
    assert all(later <= earlier * (1 + 1e-12) + 1e-20 * norm(a) ** 2 for earlier, later in itertools.pairwise(errors))


@settings(max_examples=20)
@given(chains(min_splits=1, max_splits=3, redundant=False), seeds)
def test_a_sweep_makes_the_last_factor_optimal(chain, seed):
    """Least squares over the last factor alone, from the dense normal equations, finds nothing better."""
    a = target(chain.shape, seed)
    F = sf.factorize(a, chain, sf.Hierarchical(sweeps=1))
    *others, last = [f.toarray() for f in F.factors]
    left = product([np.eye(a.shape[0]), *others])
    best = 0.0
    for j in range(a.shape[1]):
        allowed = chain[-1].mask()[:, j]
        best += norm(a[:, j] - left[:, allowed] @ np.linalg.lstsq(left[:, allowed], a[:, j])[0]) ** 2
    assert norm(a - left @ last) == pytest.approx(math.sqrt(best), rel=1e-7, abs=1e-12 * norm(a))


@pytest.mark.parametrize("order", ["left-to-right", "right-to-left", "balanced"])
@pytest.mark.parametrize(("dtype", "limit"), [("float64", 1e-13), ("float32", 2e-6)])
def test_hadamard_and_dft_are_found(order, dtype, limit):
    n = 256
    chain = sf.Chain.butterfly(n)
    hadamard = scipy.linalg.hadamard(n).astype(dtype)
    F = sf.factorize(hadamard, chain, sf.Hierarchical(order=order))
    assert norm(F.todense() - hadamard) <= limit * norm(hadamard)
    reverse = [int(f"{i:08b}"[::-1], 2) for i in range(n)]
    dft = scipy.fft.fft(np.eye(n))[:, reverse].astype(np.result_type(dtype, np.complex64))
    F = sf.factorize(dft, chain, sf.Hierarchical(order=order))
    assert F.dtype == dft.dtype
    assert norm(F.todense() - dft) <= limit * norm(dft)


@given(chains(min_splits=1, max_splits=3), seeds, named_orders)
def test_the_transposed_chain_takes_the_transposed_matrix(chain, seed, order):
    a = target(chain.shape, seed)
    F = sf.factorize(a.T, chain.T, sf.Hierarchical(order=order))
    turned = {"left-to-right": "right-to-left", "right-to-left": "left-to-right"}.get(order, order)
    G = sf.factorize(a, chain, sf.Hierarchical(order=turned))
    assert [f.support for f in F.factors] == list(chain.T)
    assert F.certificate.verify(a.T)
    if order != "balanced":
        assert norm(F.todense() - G.todense().T) <= 1e-11 * norm(a)


@given(chains(min_splits=1, max_splits=3), seeds)
def test_a_diagonal_gram_weights_the_columns(chain, seed):
    a = target(chain.shape, seed)
    weights = np.random.default_rng(seed).uniform(0.1, 5, a.shape[1])
    F = sf.factorize(a, chain, gram=np.diag(weights))
    G = sf.factorize(a * np.sqrt(weights), chain)
    assert norm(F.todense() * np.sqrt(weights) - G.todense()) <= 1e-11 * norm(a) * math.sqrt(weights.max())
    assert F.error == pytest.approx(G.error, rel=1e-9, abs=1e-12)
    assert F.frobenius_error == pytest.approx(norm(a - F.todense()) / norm(a), rel=1e-9, abs=1e-12)
    assert F.certificate.verify(a)


@pytest.mark.parametrize("scale", [1e-40, 1e-25, 1e25, 1e38])
def test_the_scale_of_a_matrix_does_not_matter(scale):
    a = target((16, 16), 3).astype(np.float32)
    a /= abs(a).max()
    F = sf.factorize(a, sf.Chain.butterfly(16))
    G = sf.factorize((a.astype(np.float64) * scale).astype(np.float32), sf.Chain.butterfly(16))
    assert G.error == pytest.approx(F.error, rel=1e-3)


def test_the_zero_matrix_has_zero_factors():
    F = sf.factorize(np.zeros((8, 8), np.float32), sf.Chain.butterfly(8))
    assert F.error == 0 and not any(f.values.any() for f in F.factors)
    assert F.status is sf.Status.OPTIMAL
    assert F.certificate.verify(np.zeros((8, 8)))


def test_inputs_of_any_layout_stay_untouched():
    a = target((24, 36), 1)
    chain = sf.Chain.from_ranks((4, 6), (6, 6), (2,))
    expected = sf.factorize(a, chain).todense()
    wide = np.zeros((48, 72))
    wide[::2, ::2] = a
    for layout in (np.asfortranarray(a), wide[::2, ::2], a[::-1, ::-1].copy()[::-1, ::-1]):
        layout.flags.writeable = False
        before = layout.copy()
        np.testing.assert_allclose(sf.factorize(layout, chain).todense(), expected, atol=1e-12)
        np.testing.assert_array_equal(layout, before)


def test_half_precision_is_computed_in_single():
    F = sf.factorize(np.eye(8, dtype=np.float16), sf.Chain.butterfly(8))
    assert F.dtype == np.float32 and F.error < 1e-6


def test_solvers_are_chosen_by_the_chain():
    a = target((8, 8), 0)
    assert isinstance(sf.factorize(a, sf.Chain.butterfly(8)).solver, sf.Hierarchical)
    assert isinstance(sf.factorize(a, list(sf.Chain.butterfly(8))).solver, sf.Hierarchical)
    K = sf.factorize(a, sf.Chain.kaleidoscope(8))
    assert isinstance(K.solver, sf.PALM)
    assert "not chainable" in K.explain()
    assert K.error <= sf.factorize(a, sf.Chain.butterfly(8)).error


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda a: sf.factorize(a, sf.Chain.butterfly(16)), ShapeError, "chain of shape (16, 16)"),
        (lambda a: sf.factorize(a, sf.Chain.kaleidoscope(8), sf.Hierarchical()), ArgumentError, "PALM"),
        (lambda a: sf.factorize(a, (sf.TopK(nnz=3), sf.Dense()), sf.Hierarchical()), ArgumentError, "Chain.butterfly"),
        (lambda a: sf.factorize(a, sf.Chain.butterfly(8), sf.Hierarchical(order=[1])), ArgumentError, "1 to 2 once"),
        (lambda a: sf.factorize(a, sf.Chain.butterfly(8), sf.Hierarchical(order=[1, 1])), ArgumentError, "once"),
        (lambda a: sf.factorize(a * np.nan, sf.Chain.butterfly(8)), NonFiniteError, "64 NaN"),
        (lambda a: sf.factorize(a.astype(int), sf.Chain.butterfly(8)), DtypeError, "astype"),
        (lambda a: sf.factorize(a, sf.Chain.butterfly(8), sf.Hierarchical(), gram=a.T @ a), ArgumentError, "PALM"),
        (lambda a: sf.factorize(a, sf.Chain.butterfly(8), inner=8), ShapeError, "leave it out"),
        (lambda a: sf.Hierarchical(order="middle"), ArgumentError, "'balanced'"),
        (lambda a: sf.Hierarchical(order=3), ArgumentError, "list"),
        (lambda a: sf.Hierarchical(tolerance=0), ArgumentError, "between 0 and 1"),
        (lambda a: sf.Hierarchical(certificate="some"), ArgumentError, "'full'"),
        (lambda a: sf.Hierarchical(sweeps=-1), ArgumentError, "at least 0"),
        (lambda a: sf.Chain.butterfly(7), ArgumentError, "monarch"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, error, words):
    with pytest.raises(error) as caught:
        call(target((8, 8), 0))
    assert words in str(caught.value)
    assert isinstance(caught.value, (ValueError, TypeError))
