"""Matrices read in parts: panels of rows against the pass in memory, and cross approximation against the truth."""

from __future__ import annotations

import functools
import pickle

import numpy as np
import pytest
import scipy.fft
from chain_strategies import chains, random_values, to_dense
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import sparsefact as sf
from sparsefact.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError
from sparsefact.factorizers.panels import plan
from sparsefact.products.entries import described
from sparsefact.products.sources import as_source

seeds = st.integers(0, 2**32 - 1)


def gaussian(shape, seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(shape)
    return (a + 1j * rng.standard_normal(shape)).astype(dtype) if np.dtype(dtype).kind == "c" else a.astype(dtype)


def entries_of(a):
    return sf.Entries(a.shape, a.dtype, lambda rows, cols: a[np.ix_(rows, cols)])


def mapped(a, path, mode="r"):
    a.tofile(path)
    return np.memmap(path, a.dtype, mode, shape=a.shape)


def member(chain, seed=0, dtype=np.float64):
    return functools.reduce(np.matmul, [to_dense(v) for v in random_values(chain, seed, dtype)])


def norm(a):
    return float(np.linalg.norm(a))


def reversed_dft(n):
    """The DFT with columns in bit-reversed order, by its entries."""
    bits = n.bit_length() - 1
    reverse = np.array([int(f"{i:0{bits}b}"[::-1], 2) for i in range(n)])
    roots = np.exp(-2j * np.pi / n * np.arange(n))
    return sf.Entries((n, n), np.complex128, lambda rows, cols: roots[np.outer(rows, reverse[cols]) % n]), reverse


# panels


@settings(max_examples=60)
@given(chains(min_splits=1, max_splits=5, max_size=32), seeds, st.sampled_from(["d", "D", "f"]), st.integers(0, 3))
def test_panels_give_what_the_pass_in_memory_gives(chain, seed, dtype, generous):
    a = gaussian(chain.shape, seed, dtype)
    eps = float(np.finfo(a.dtype).eps)
    memory = None
    reduced = chain.reduced()
    if len(reduced) > 1 and generous:
        # what the most frugal plan needs, and more
        memory = int(_least_memory(reduced, a.itemsize) * (1 + generous / 2))
    expected = sf.factorize(a, chain)
    F = sf.factorize(entries_of(a), chain, sf.Hierarchical(memory=memory))
    # nearly equal singular values amplify rounding
    assert norm(F.todense() - expected.todense()) <= 1e5 * eps * norm(a)
    assert [f.support for f in F.factors] == list(chain)
    assert F.error == pytest.approx(norm(a - F.todense()) / norm(a), rel=1e-3, abs=100 * eps)
    steps = expected.certificate.step_errors
    assert F.certificate.step_errors == pytest.approx(steps, rel=1e-3, abs=100 * eps * norm(a))
    assert F.certificate.norm == pytest.approx(norm(a), rel=10 * eps)
    assert F.certificate.outside == pytest.approx(expected.certificate.outside, rel=1e-3, abs=eps * norm(a))
    assert F.certificate.verify(a) and not F.certificate.verify(a + 1)
    assert F.certificate.verify(entries_of(a)) and not F.certificate.verify(entries_of(a + 1))
    assert F.error_against(entries_of(a)) == pytest.approx(F.error_against(a))


def _least_memory(chain, itemsize):
    with pytest.raises(ArgumentError, match="pass at least") as caught:
        plan(chain, itemsize, 1)
    return int(str(caught.value).rsplit(" ", 1)[1])


def test_at_least_three_splits_are_fused():
    chain = sf.Chain.butterfly(1 << 16)
    fused, residues = plan(chain, 4)
    assert fused >= 3 and residues >= 1
    rest, panel = 4 * (1 << 32 - fused), 4 * residues * (1 << 16 + fused)
    assert rest + panel <= 1 << 30
    assert plan(chain, 4, 1 << 34)[0] == 3


@pytest.mark.parametrize("dtype", ["float32", "complex128", "float16", ">f8"])
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_a_memory_mapped_array_is_read_in_panels(tmp_path, dtype, mode):
    chain = sf.Chain.from_ranks((4, 2, 4, 2), (2, 4, 2, 4), (2, 2, 1))
    a = gaussian(chain.shape, 1, np.dtype(dtype).newbyteorder("=")).astype(dtype)
    mm = mapped(a, tmp_path / "a", mode)
    if mode == "c":  # what is written here exists in memory only, and may not be lost with its pages
        mm[0, 0] = 3
        a[0, 0] = 3
    F = sf.factorize(mm, chain)
    wide = a.astype(np.complex128 if a.dtype.kind == "c" else np.float64)
    expected = sf.factorize(wide, chain).todense()
    assert F.dtype == (np.float32 if dtype == "float16" else np.dtype(dtype).newbyteorder("="))
    assert norm(F.todense() - expected) <= 1e-5 * norm(wide)
    np.testing.assert_array_equal(np.asarray(mm), a)
    # any other order takes it like an array
    G = sf.factorize(mm[:, :], chain, sf.Hierarchical(order="right-to-left"))
    assert G.error == pytest.approx(norm(wide - G.todense()) / norm(wide), rel=1e-3)


def test_pages_are_given_back_but_not_those_of_private_maps(tmp_path):
    a = gaussian((8, 8), 0)
    assert as_source(mapped(a, tmp_path / "r"))._map is not None
    assert as_source(mapped(a, tmp_path / "c", "c"))._map is None


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_a_linear_operator_gives_its_rows(dtype):
    chain = sf.Chain.butterfly(32)
    a = gaussian((32, 32), 2, dtype)
    expected = sf.factorize(a, chain)
    F = sf.factorize(aslinearoperator(a), chain)
    assert norm(F.todense() - expected.todense()) <= 1e-12 * norm(a)
    # a product is an operator too, and one of the chain is found again
    G = sf.factorize(expected, chain)
    assert G.error < 1e-14 and norm(G.todense() - expected.todense()) <= 1e-13 * norm(a)
    cross = sf.factorize(expected, chain, sf.CrossApproximation())
    assert norm(cross.todense() - expected.todense()) <= 1e-10 * norm(a)


def test_the_transposed_chain_reads_columns():
    chain = sf.Chain.from_ranks((2, 3, 2), (3, 2, 2), (1, 1))
    assert not chain.T.is_chainable
    a = gaussian(chain.shape, 3, np.complex128)
    expected = sf.factorize(a.T, chain.T, sf.Hierarchical(order="right-to-left"))
    for A in (entries_of(np.ascontiguousarray(a.T)), aslinearoperator(a.T)):
        F = sf.factorize(A, chain.T, sf.Hierarchical(order="right-to-left"))
        assert norm(F.todense() - expected.todense()) <= 1e-12 * norm(a)
        assert F.certificate.verify(A) and not F.certificate.verify(aslinearoperator(2 * a.T))
        assert not F.certificate.verify(aslinearoperator(np.ones((3, 3))))
        with pytest.raises(ArgumentError, match="right-to-left"):
            sf.factorize(A, chain.T)


def test_a_diagonal_gram_weights_panels():
    chain = sf.Chain.butterfly(16)
    a, weights = gaussian((16, 16), 4), np.random.default_rng(0).uniform(0, 3, 16)
    F = sf.factorize(entries_of(a), chain, gram=np.diag(weights))
    G = sf.factorize(a, chain, gram=np.diag(weights))
    assert norm(F.todense() - G.todense()) <= 1e-12 * norm(a)
    assert F.error == pytest.approx(G.error)
    assert F.certificate.verify(entries_of(a)) and not F.certificate.verify(entries_of(a + 1e-3))


@pytest.mark.parametrize(("dtype", "scale"), [("f", 1e-30), ("f", 1e25), ("d", 1e-170), ("d", 1e-250)])
def test_the_scale_of_a_matrix_in_parts_does_not_matter(dtype, scale):
    a = gaussian((16, 16), 5)
    b = member(sf.Chain.butterfly(16), 5)
    F = sf.factorize(entries_of((a * scale).astype(dtype)), sf.Chain.butterfly(16))
    assert F.error == pytest.approx(sf.factorize(a, sf.Chain.butterfly(16)).error, rel=1e-4)
    G = sf.factorize(entries_of((b * scale).astype(dtype)), sf.Chain.butterfly(16), sf.CrossApproximation())
    eps = float(np.finfo(dtype).eps)
    assert norm(G.todense().astype(float) / scale - b) <= 1e4 * eps * norm(b)


def test_every_entry_is_read_once_and_a_zero_matrix_is_a_product():
    count = 0

    def f(rows, cols):
        nonlocal count
        count += len(rows) * len(cols)
        return np.ones((len(rows), len(cols)))

    F = sf.factorize(sf.Entries((64, 64), np.float32, f), sf.Chain.butterfly(64))
    assert count == 64 * 64 and F.error < 1e-6 and F.status is sf.Status.OPTIMAL
    zero = sf.Entries((16, 16), np.float64, lambda rows, cols: np.zeros((len(rows), len(cols)), dtype=bool))
    for solver in (None, sf.CrossApproximation()):
        Z = sf.factorize(zero, sf.Chain.butterfly(16), solver)
        assert not any(f.values.any() for f in Z.factors)


# cross approximation


def test_a_dft_is_found_from_few_entries():
    n = 1 << 12
    A, reverse = reversed_dft(n)
    count = 0

    def f(rows, cols):
        nonlocal count
        count += len(rows) * len(cols)
        return A.f(rows, cols)

    F = sf.factorize(sf.Entries(A.shape, A.dtype, f), sf.Chain.butterfly(n), sf.CrossApproximation())
    assert F.evidence.entries_read == count <= 2.7 * n**1.5
    assert F.evidence.relative < 1e-14 and F.evidence.unresolved == 0
    x = gaussian((n,), 0, np.complex128)
    exact = scipy.fft.fft(x[np.argsort(reverse)])  # reversing bits is an involution
    assert norm(F @ x - exact) <= 1e-13 * norm(exact)
    assert F.certificate is None and F.status is sf.Status.STATIONARY
    assert "not a proof" in F.explain()
    with pytest.raises(ArgumentError, match="error_against"):
        _ = F.error


@settings(max_examples=60)
@given(
    chains(min_splits=1, max_splits=5, max_size=48, block_diagonal=False),
    seeds,
    st.sampled_from([np.float64, np.complex128]),
)
def test_cross_approximation_finds_products_of_a_chain(chain, seed, dtype):
    if len(chain.reduced()) == 1:
        return
    a = member(chain, seed, dtype)
    F = sf.factorize(a, chain, sf.CrossApproximation(oversampling=2), seed=seed % 1000)
    assert norm(F.todense() - a) <= 1e-6 * norm(a)
    assert [f.support for f in F.factors] == list(chain)
    assert F.evidence.relative <= 1e-5


def test_the_transposed_chain_is_sampled_too():
    chain = sf.Chain.from_ranks((2, 3, 4), (3, 2, 4), (1, 2))
    a = member(chain, 1)
    F = sf.factorize(entries_of(np.ascontiguousarray(a.T)), chain.T, sf.CrossApproximation(oversampling=1))
    assert norm(F.todense() - a.T) <= 1e-10 * norm(a)


def test_noise_costs_a_small_factor():
    chain = sf.Chain.from_ranks((4,) * 4, (4,) * 4, (2, 2, 2))
    a = member(chain, 0)
    noise = gaussian(a.shape, 1) * (1e-5 * norm(a) / a.shape[0])
    best = norm(sf.factorize(a + noise, chain).todense() - a - noise)
    F = sf.factorize(entries_of(a + noise), chain, sf.CrossApproximation(tolerance=3e-4, oversampling=4))
    assert norm(F.todense() - a - noise) <= 5 * best
    assert F.evidence.relative == pytest.approx(norm(F.todense() - a - noise) / norm(a), rel=0.5)


def test_a_smooth_oscillatory_kernel():
    n = 1 << 10
    x, k = np.arange(n) / n, np.arange(n) - n / 2
    reverse = np.array([int(f"{i:010b}"[::-1], 2) for i in range(n)])

    def kernel(rows, cols):
        # rows in the order in which residues are intervals of x
        at = x[reverse[rows]][:, None]
        phase = at * k[cols] + (2 + np.sin(2 * np.pi * at)) / 8 * abs(k[cols])
        return np.exp(2j * np.pi * phase)

    chain = sf.Chain.from_ranks((8, 2, 2, 2, 2, 8), (8, 2, 2, 2, 2, 8), (8,) * 5)
    F = sf.factorize(
        sf.Entries((n, n), np.complex128, kernel), chain, sf.CrossApproximation(tolerance=1e-3, oversampling=2)
    )
    exact = kernel(np.arange(n), np.arange(n))
    error = norm(F.todense() - exact) / norm(exact)
    assert F.evidence.relative == pytest.approx(error, rel=0.3)
    assert error < 1e-3


def spoiled(n, change):
    """A product of a chain, in which `change` alters entries."""
    chain = sf.Chain.butterfly(n)
    a = member(chain, 3)
    return chain, change(a / abs(a).mean())


def test_blocks_with_zero_rows_and_columns_are_seen():
    """In some blocks of the middle split only one row, or one entry of a row class, is left."""
    n = 256

    def change(a):
        for residue, interval in ((0, 0), (3, 5), (7, 7)):
            block = a[residue::16, 16 * interval : 16 * interval + 16].copy()
            a[residue::16, 16 * interval : 16 * interval + 16] = 0
            row = 11
            a[residue + 16 * row, 16 * interval : 16 * interval + 16] = 50 * block[row]
        return a

    chain, a = spoiled(n, change)
    best = sf.factorize(a, chain, sf.Hierarchical(order="balanced")).error
    for seed in range(5):
        F = sf.factorize(entries_of(a), chain, sf.CrossApproximation(tolerance=1e-6), seed=seed)
        assert norm(F.todense() - a) / norm(a) <= 1.5 * best + 1e-9 or F.evidence.unresolved


def test_a_part_that_checks_see_is_read_in_full():
    n = 256

    def change(a):
        u, v = gaussian((16, 1), 1), gaussian((1, 16), 2)
        u[:4] = 0  # whatever rows are read first, some of them tell nothing
        a[5::16, 32:48] = 30 * u @ v
        return a

    chain, a = spoiled(n, change)
    target = norm(sf.factorize(a, chain, sf.Hierarchical(order="balanced")).todense() - a)
    for seed in range(5):
        F = sf.factorize(entries_of(a), chain, sf.CrossApproximation(tolerance=1e-8), seed=seed)
        assert F.evidence.unresolved == 0 or F.evidence.relative > 1e-8
        assert norm(F.todense() - a) <= 2 * target + 1e-9 * norm(a)


def test_a_spike_that_nothing_saw_is_not_denied():
    n = 1024

    def change(a):
        a[513, 700] += 1e4
        return a

    chain, a = spoiled(n, change)
    F = sf.factorize(entries_of(a), chain, sf.CrossApproximation(tolerance=1e-6))
    missed = norm(F.todense() - a) / norm(a)
    evidence = F.evidence
    saw = evidence.relative > 1e-6 or evidence.unresolved
    assert missed > 1e-2  # no product of the chain has this spike
    assert saw or (evidence.unseen > 1 / a.size and "nothing is said about those" in evidence.explain())


def test_a_matrix_off_the_chain_is_reported_within_the_budget():
    n = 256
    a = gaussian((n, n), 8)
    F = sf.factorize(entries_of(a), sf.Chain.butterfly(n), sf.CrossApproximation())
    true = norm(F.todense() - a) / norm(a)
    assert F.evidence.relative == pytest.approx(true, rel=0.5) and true > 0.5
    assert F.evidence.unresolved > 100
    assert F.evidence.entries_read <= 18 * n**1.5
    assert "not of this chain" in F.explain()


def test_same_seed_same_bits_and_it_pickles():
    A, _ = reversed_dft(64)
    F, G = (sf.factorize(A, sf.Chain.butterfly(64), sf.CrossApproximation(), seed=7) for _ in range(2))
    assert all(np.array_equal(f.values, g.values) for f, g in zip(F.factors, G.factors, strict=True))
    assert pickle.loads(pickle.dumps(F)).evidence == F.evidence == G.evidence
    assert F.T.evidence is None


def test_the_estimate_covers_the_truth():
    """The share of worse entries is below the bound in at least 95 % of the draws, here in all but a few of 60."""
    from sparsefact.analysis.sampled_residual import sample_residual

    a = abs(gaussian((200, 200), 0)) ** 4
    zero = np.zeros_like(a)
    worse = 0
    for seed in range(60):
        relative, largest, typical, samples, independent = sample_residual(
            lambda i, j: a[np.ix_(i, j)], lambda i, j: zero[np.ix_(i, j)], a.shape, 64, 10**6, seed
        )
        assert relative == 1 and samples == 2 * 32 * 32 and independent == 64
        worse += np.mean(a > largest * typical) > 1 - 0.05 ** (1 / independent)
    assert worse <= 6


# bad input


def with_nan(rows, cols):
    block = np.ones((len(rows), len(cols)))
    block[(rows[:, None] == 9) & (cols == 4)] = np.nan
    return block


def no_adjoint():
    return LinearOperator((16, 16), matvec=lambda x: x, dtype=np.float64)


class OwnOperator(LinearOperator):
    def _matvec(self, x):
        return x


BAD_ENTRIES = {
    "shape": (lambda i, j: np.ones((len(j) + 1, len(i))), ShapeError, "of shape (17, "),
    "scalar": (lambda i, j: 1.0, ShapeError, "columns 0 to 15"),
    "NaN": (with_nan, NonFiniteError, "first at row 9, column 4"),
    "complex": (lambda i, j: np.ones((len(i), len(j)), complex), DtypeError, "declared float64"),
    "text": (lambda i, j: np.full((len(i), len(j)), "a"), DtypeError, "must return numbers"),
}


@pytest.mark.parametrize("solver", [sf.Hierarchical(), sf.CrossApproximation(checks=16)], ids=["panels", "cross"])
@pytest.mark.parametrize("kind", BAD_ENTRIES)
def test_a_bad_entry_function_is_refused_with_the_block(kind, solver):
    f, error, words = BAD_ENTRIES[kind]
    if isinstance(solver, sf.CrossApproximation) and kind in ("shape", "scalar"):
        words = "column"
    with pytest.raises(error) as caught:
        sf.factorize(sf.Entries((16, 16), np.float64, f), sf.Chain.butterfly(16), solver)
    assert words in str(caught.value) and "row" in str(caught.value)


def test_nan_in_a_file_names_its_rows(tmp_path):
    a = gaussian((64, 64), 0, np.float32)
    a[37, 5] = np.nan
    with pytest.raises(NonFiniteError, match=r"memory-mapped array, holds 1 NaN .* first at row 37, column 5"):
        sf.factorize(mapped(a, tmp_path / "a"), sf.Chain.butterfly(64))
    off = sf.Chain.block_diagonal(sf.Chain.butterfly(32), 2, 1)
    with pytest.raises(NonFiniteError, match="row 37, column 5"):
        sf.factorize(mapped(a, tmp_path / "b"), off)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda A: sf.factorize(no_adjoint(), sf.Chain.butterfly(16)), ArgumentError, "without rmatvec"),
        (lambda A: sf.factorize(OwnOperator(float, (16, 16)), sf.Chain.butterfly(16)), ArgumentError, "rmatvec"),
        (lambda A: sf.factorize(A, sf.Chain.butterfly(16), sf.PALM()), ArgumentError, "pass an array"),
        (lambda A: sf.factorize(A, sf.Chain.kaleidoscope(16)), ArgumentError, "pass an array"),
        (lambda A: sf.factorize(A, sf.double_sparse((16, 16), 0.5)), ArgumentError, "pass an array"),
        (lambda A: sf.factorize(A, sf.Chain.butterfly(8)), ShapeError, "chain of shape (8, 8)"),
        (lambda A: sf.factorize(A, sf.Chain.butterfly(16), sf.Hierarchical(order="balanced")), ArgumentError, "panels"),
        (lambda A: sf.factorize(A, sf.Chain.butterfly(16), sf.Hierarchical(order=[2, 1, 3])), ArgumentError, "panels"),
        (lambda A: sf.factorize(A, sf.Chain.butterfly(16), sf.Hierarchical(tolerance=0.1)), ArgumentError, "panels"),
        (lambda A: sf.factorize(A, sf.Chain.butterfly(16), sf.Hierarchical(sweeps=1)), ArgumentError, "panels"),
        (lambda A: sf.factorize(A, sf.Chain.butterfly(16), sf.Hierarchical(memory=100)), ArgumentError, "at least"),
        (lambda A: sf.Hierarchical(memory=0), ArgumentError, "at least 1"),
        (lambda A: sf.factorize(A, (sf.TopK(nnz=3), sf.Dense()), sf.CrossApproximation()), ArgumentError, "Cross"),
        (
            lambda A: sf.factorize(A, sf.Chain.block_diagonal(sf.Chain.butterfly(8), 2, 1), sf.CrossApproximation()),
            ArgumentError,
            "block-diagonal",
        ),
        (
            lambda A: sf.factorize(A, sf.Chain.butterfly(16), sf.CrossApproximation(), gram=np.eye(16)),
            ArgumentError,
            "gram",
        ),
        (lambda A: sf.CrossApproximation(tolerance=2), ArgumentError, "between 0 and 1"),
        (lambda A: sf.CrossApproximation(checks=0), ArgumentError, "at least 1"),
        (lambda A: sf.Entries((16, -1), float, A.f), ShapeError, "rows, columns"),
        (lambda A: sf.Entries((16, 16), int, A.f), DtypeError, "int64"),
        (lambda A: sf.Entries((16, 16), "no", A.f), DtypeError, "np.float32"),
        (lambda A: sf.Entries((16, 16), float, 3), ArgumentError, "f(rows, cols)"),
        (lambda A: sf.factorize(sf.Entries((0, 16), float, A.f), sf.Chain.butterfly(16)), ShapeError, "at least one"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, error, words):
    with pytest.raises(error) as caught:
        call(entries_of(gaussian((16, 16), 0)))
    assert words in str(caught.value)


def test_memory_mapped_arrays_of_other_shapes_and_types(tmp_path):
    with pytest.raises(ShapeError, match="2-D"):
        sf.factorize(mapped(np.ones(8), tmp_path / "a"), sf.Chain.butterfly(8))
    with pytest.raises(DtypeError, match="astype"):
        sf.factorize(mapped(np.ones((8, 8), int), tmp_path / "b"), sf.Chain.butterfly(8))


def test_rows_are_described_in_few_words():
    assert described("row", np.array([3])) == "row 3"
    assert described("row", np.array([3, 9])) == "rows 3, 9"
    assert described("row", np.arange(5, 50)) == "rows 5 to 49"
    assert described("row", np.arange(5, 50, 4)) == "rows 5 to 49 in steps of 4"
    assert described("row", np.array([1, 5, 2, 40, 9])) == "5 rows between 1 and 40"
