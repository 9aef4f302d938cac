"""Ready transforms against scipy's fast ones, their structure against the chains that describe it."""

from __future__ import annotations

import subprocess
import sys

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft, linalg, sparse

import sparsefact as sf
from sparsefact import transforms
from sparsefact.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError
from sparsefact.products.factors import KroneckerFactor
from sparsefact.transforms.convolutions import convolution_size
from sparsefact.transforms.orders import prime_radices
from sparsefact.transforms.roots import roots_of_unity

NORMS = [None, "backward", "ortho", "forward"]
# composite, prime, prime powers, and sizes whose largest prime factor asks for the chirp transform
SIZES = [1, 2, 3, 4, 12, 60, 97, 257, 360, 514, 1000, 1009]
LARGE = [2048, 8191, 8192]
TYPES = [1, 2, 3, 4]


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def vectors(n: int, columns: int = 3) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, columns))


def hartley_of(x: np.ndarray, norm: str | None = None) -> np.ndarray:
    f = fft.fft(x, axis=0, norm=norm)
    return f.real - f.imag


def circulant_of(c: np.ndarray, x: np.ndarray) -> np.ndarray:
    return linalg.matmul_toeplitz((c, np.concatenate([c[:1], c[:0:-1]])), x)


def shapes(factors) -> list[tuple[int, ...]]:
    return [factor.values.shape for factor in factors]


def check_all(n: int, norm: str | None, bound: float, real: str = "float64", compl: str = "complex128") -> None:
    x = vectors(n).astype(real)
    F, inverse = transforms.dft(n, norm=norm, dtype=compl), transforms.idft(n, norm=norm, dtype=compl)
    assert error(F @ x, fft.fft(x, axis=0, norm=norm)) <= bound
    assert error(inverse @ x, fft.ifft(x, axis=0, norm=norm)) <= bound
    assert error(transforms.hartley(n, norm=norm, dtype=real) @ x, hartley_of(x, norm)) <= bound
    for kind in TYPES:
        S = transforms.dst(n, kind, norm=norm, dtype=real)
        assert error(S @ x, fft.dst(x, kind, axis=0, norm=norm)) <= bound
        assert S.dtype == real
        if n > 1 or kind > 1:
            C = transforms.dct(n, kind, norm=norm, dtype=real)
            assert error(C @ x, fft.dct(x, kind, axis=0, norm=norm)) <= bound
            assert (C @ x).dtype == real


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("norm", NORMS)
def test_every_transform_is_the_fast_one(n, norm):
    check_all(n, norm, 2e-15)


@pytest.mark.parametrize("n", LARGE)
def test_large_sizes(n):
    check_all(n, None, 2e-15)


@settings(max_examples=30)
@given(n=st.integers(1, 400), norm=st.sampled_from(NORMS))
def test_any_size(n, norm):
    check_all(n, norm, 2e-15)


@pytest.mark.parametrize("n", [12, 97, 1009, 8192])
def test_single_precision(n):
    check_all(n, "ortho", 1e-6, "float32", "complex64")


@pytest.mark.parametrize("n", [1, 2, 12, 37, 263])
def test_dense_matrices(n):
    eye = np.eye(n)
    assert error(transforms.dft(n).todense(), fft.fft(eye, axis=0)) <= 2e-15
    assert error(transforms.dct(n).todense(), fft.dct(eye, axis=0)) <= 2e-15
    assert error(transforms.dst(n, 4).T.todense(), fft.dst(eye, 4, axis=0).T) <= 2e-15
    assert error((transforms.dft(n, norm="ortho").H @ transforms.dft(n, norm="ortho")).todense(), eye) <= 2e-15


@pytest.mark.parametrize("level", range(9))
def test_hadamard(level):
    n = 2**level
    H = transforms.hadamard(n)
    np.testing.assert_array_equal(H.todense(), linalg.hadamard(n))
    assert error((transforms.hadamard(n, norm="ortho") @ H).todense(), np.sqrt(n) * np.eye(n)) <= 1e-15
    assert error(n * transforms.hadamard(n, norm="forward").todense(), linalg.hadamard(n)) <= 1e-15


def test_hadamard_at_8192():
    n = 8192
    x = vectors(n)
    expected = x.reshape(2, *[2] * 12, 3)
    for axis in range(13):
        first, second = np.take(expected, 0, axis), np.take(expected, 1, axis)
        expected = np.stack([first + second, first - second], axis)
    assert error(transforms.hadamard(n) @ x, expected.reshape(n, 3)) <= 1e-15
    assert error(transforms.hadamard(n, dtype="float32") @ x.astype(np.float32), expected.reshape(n, 3)) <= 1e-6


@settings(max_examples=30)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4),
    complex_=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_kronecker(sizes, complex_, seed):
    rng = np.random.default_rng(seed)
    matrices = [rng.integers(-3, 4, size).astype(np.float64) for size in sizes]
    if complex_:
        matrices[-1] = matrices[-1] + 1j * rng.integers(-3, 4, sizes[-1])
    kept = [matrix.copy() for matrix in matrices]
    expected = np.eye(1)
    for matrix in matrices:
        expected = np.kron(expected, matrix)
    F = transforms.kronecker(iter(matrices))
    np.testing.assert_array_equal(F.todense(), expected)
    assert len(F.factors) == len(matrices)
    assert sf.Chain(shapes(F.factors)).is_chainable
    for matrix, before in zip(matrices, kept, strict=True):
        np.testing.assert_array_equal(matrix, before)


@settings(max_examples=30)
@given(n=st.integers(1, 70) | st.sampled_from([128, 257, 263]), complex_=st.booleans(), seed=st.integers(0, 2**32))
def test_circulant(n, complex_, seed):
    rng = np.random.default_rng(seed)
    c = rng.standard_normal(n) + (1j * rng.standard_normal(n) if complex_ else 0)
    before = c.copy()
    C = transforms.circulant(c)
    assert C.dtype == c.dtype
    assert error(C.todense(), linalg.circulant(c)) <= 3e-15
    assert error(transforms.circulant(c, dtype="complex128").todense(), linalg.circulant(c)) <= 3e-15
    np.testing.assert_array_equal(c, before)


@settings(max_examples=30)
@given(m=st.integers(1, 50), n=st.integers(1, 50), complex_=st.booleans(), seed=st.integers(0, 2**32))
def test_toeplitz(m, n, complex_, seed):
    rng = np.random.default_rng(seed)
    c, r = rng.standard_normal(m), rng.standard_normal(n)
    if complex_:
        c = c + 1j * rng.standard_normal(m)
    for row in (r, None):
        T, expected = transforms.toeplitz(c, row), linalg.toeplitz(c, row)
        assert T.shape == expected.shape
        assert T.dtype == expected.dtype
        assert error(T.todense(), expected) <= 3e-15


@pytest.mark.parametrize("n", [4096, 8191, 8192])
def test_large_convolutions(n):
    rng = np.random.default_rng(n)
    c, r, x = rng.standard_normal(n), rng.standard_normal(n), vectors(n)
    for dtype, bound in (("float64", 1e-14), ("float32", 1e-6)):
        y = x.astype(dtype)
        assert error(transforms.circulant(c, dtype=dtype) @ y, circulant_of(c, x)) <= bound
        assert error(transforms.toeplitz(c, r, dtype=dtype) @ y, linalg.matmul_toeplitz((c, r), x)) <= bound


def test_types_of_number_follow_the_input():
    c = np.array([1.0, 2.0, 3.0])
    assert transforms.circulant(c.astype(np.float32)).dtype == np.float32
    assert transforms.circulant(c.astype(np.float16)).dtype == np.float32
    assert transforms.toeplitz(c.astype(np.complex64), c.astype(np.float32)).dtype == np.complex64
    assert transforms.kronecker([c[None].astype(np.float32), c[None]]).dtype == np.float64
    assert transforms.dct(8, dtype="complex64").dtype == np.complex64
    assert transforms.hadamard(8, dtype=np.dtype(">f4")).dtype == np.float32


@settings(max_examples=30)
@given(n=st.integers(4, 400).filter(lambda n: len(prime_radices(n)) > 1))
def test_permuted_transform_is_the_butterfly_chain(n):
    F, chain = transforms.dft(n, permuted=True), sf.Chain.butterfly(n)
    assert shapes(F.factors) == [(s.a, s.b, s.c, s.d) for s in chain]
    assert error(F.todense(), fft.fft(np.eye(n), axis=0)[:, transforms.digit_reversal(n)]) <= 2e-15
    assert F.nnz == chain.nnz == n * sum(prime_radices(n))
    inverse = transforms.idft(n, permuted=True)
    assert error(inverse.todense(), fft.ifft(np.eye(n), axis=0)[:, transforms.digit_reversal(n)]) <= 2e-15


@settings(max_examples=30)
@given(n=st.sampled_from([1, 8, 12, 36, 60, 64, 210, 263]), data=st.data())
def test_radices(n, data):
    radices, rest = [], n
    while rest > 1:
        p = data.draw(st.sampled_from([d for d in range(2, rest + 1) if rest % d == 0]))
        radices.append(p)
        rest //= p
    F = transforms.dft(n, radices=radices or [1])
    assert error(F.todense(), fft.fft(np.eye(n), axis=0)) <= 2e-15
    permuted = transforms.dft(n, radices=radices or [1], permuted=True)
    assert [shape[1] for shape in shapes(permuted.factors)] == (radices or [1])


def test_monarch_transform():
    n = 4096
    F = transforms.dft(n, radices=(64, 64))
    monarch = sf.Chain.monarch((n, n), blocks=(64, 64))
    assert shapes(F.factors[:-1]) == [(s.a, s.b, s.c, s.d) for s in monarch]
    x = vectors(n)
    assert error(F @ x, fft.fft(x, axis=0)) <= 1e-14


# Block ranks at the splits of a size-32 transform, counted from dense matrices.
@pytest.mark.parametrize(
    ("F", "ranks"),
    [
        (transforms.hadamard(32), (1, 1, 1, 1)),
        (transforms.hartley(32, permuted=True), (1, 2, 2, 1)),
        (transforms.dct(32, permuted=True), (2, 2, 2, 1)),
        (transforms.dst(32, permuted=True), (2, 2, 2, 1)),
        (transforms.dct(32, 4, permuted=True), (2, 2, 2, 2)),
        (transforms.dst(32, 4, permuted=True), (2, 2, 2, 2)),
    ],
)
def test_real_transforms_are_chains_of_the_ranks_of_their_blocks(F, ranks):
    chain = sf.Chain(shapes(F.factors))
    assert chain.is_chainable
    assert chain.ranks == ranks
    A = F.todense()
    for s, rank in enumerate(ranks, 1):
        residues, intervals = 32 >> s, 2**s
        blocks = [
            A[i::residues, j * 32 // intervals : (j + 1) * 32 // intervals]
            for i in range(residues)
            for j in range(intervals)
        ]
        assert max(np.linalg.matrix_rank(block, tol=1e-10) for block in blocks) == rank


@pytest.mark.parametrize("make", [transforms.dct, transforms.dst])
@pytest.mark.parametrize("n", [1, 2, 9, 16, 60])
@pytest.mark.parametrize("kind", [2, 3, 4])
def test_permuted_cosines_and_sines(make, n, kind):
    order = transforms.makhoul_order(n)[transforms.digit_reversal(n)]
    A = {transforms.dct: fft.dct, transforms.dst: fft.dst}[make](np.eye(n), kind, axis=0)
    F = make(n, kind, permuted=True)
    assert error(F.todense(), A[order] if kind == 3 else A[:, order]) <= 2e-15
    assert all(isinstance(factor, KroneckerFactor) for factor in F.factors)
    # type III is the transpose, so its transpose is the chain
    assert sf.Chain(shapes((F.T if kind == 3 else F).factors)).is_chainable


@pytest.mark.parametrize("n", [4, 12, 60, 64])
def test_complex_circulant_is_a_kaleidoscope(n):
    F = transforms.circulant(vectors(n)[:, 0], dtype="complex128")
    assert shapes(F.factors) == [(s.a, s.b, s.c, s.d) for s in sf.Chain.kaleidoscope(n)]


@pytest.mark.parametrize("n", [60, 1009, 1024])
def test_factors_are_sparse_and_stored_in_n_log_n(n):
    c = vectors(n)[:, 0]
    log = np.log2(n)
    for F, bound in [
        (transforms.dft(n), 24),
        (transforms.hartley(n), 80),
        *((transforms.dct(n, kind), 80) for kind in TYPES),
        *((transforms.dst(n, kind), 80) for kind in TYPES),
        (transforms.circulant(c), 80),
        (transforms.toeplitz(c), 80),
    ]:
        assert F.nnz <= bound * n * log
        for factor in F.factors:
            assert isinstance(factor, KroneckerFactor | sparse.csr_array)
            if isinstance(factor, sparse.csr_array):  # permutations and selections
                assert factor.nnz <= 2 * n
                assert np.bincount(factor.indices).max() == 1


def test_documented_counts():
    n, radices = 360, 2 + 2 + 2 + 3 + 3 + 5
    c = vectors(n)[:, 0]
    assert transforms.dft(n).nnz == n * radices + n
    assert transforms.circulant(c, dtype="complex128").nnz == 2 * n * radices
    assert transforms.hadamard(256).nnz == 2 * 256 * 8
    for F in (transforms.hartley(n), transforms.dct(n), transforms.dct(n, 3), transforms.dst(n, 4)):
        assert F.nnz <= 4 * n * radices + n


def test_results_are_factorizations(tmp_path):
    F = transforms.dct(24, norm="ortho")
    F.save(tmp_path / "dct.safetensors")
    np.testing.assert_array_equal(sf.load(tmp_path / "dct.safetensors").todense(), F.todense())
    np.testing.assert_array_equal(transforms.dct(24, norm="ortho").todense(), F.todense())
    assert "cosine transform of type 2 and size 24" in F.explain()
    assert "chirp" in transforms.dft(257).explain()
    assert "chirp" not in transforms.dft(257, permuted=True).explain()


@given(n=st.integers(1, 500))
def test_orders_are_permutations(n):
    for order in (transforms.digit_reversal(n), transforms.makhoul_order(n)):
        np.testing.assert_array_equal(np.sort(order), np.arange(n))
    if n & (n - 1) == 0:
        bits = n.bit_length() - 1
        expected = [int(f"{k:0{bits}b}"[::-1], 2) if bits else 0 for k in range(n)]
        np.testing.assert_array_equal(transforms.bit_reversal(n), expected)


@given(order=st.integers(1, 10**6), exponents=st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=20))
def test_roots_of_unity(order, exponents):
    found = roots_of_unity(exponents, order)
    for e, root in zip(exponents, found, strict=True):
        with mpmath.workdps(40):
            exact = mpmath.expjpi(-2 * mpmath.mpf(e) / order)
            assert abs(mpmath.mpc(root) - exact) <= 3e-16
    np.testing.assert_array_equal(roots_of_unity([0, 1, 2, 3], 4), [1, -1j, -1, 1j])
    np.testing.assert_array_equal(roots_of_unity(-np.array(exponents), order), found.conj())


@given(least=st.integers(1, 3000))
def test_convolution_size(least):
    size = convolution_size(least)
    assert least <= size <= 2 * least
    assert max(prime_radices(size)) <= 5


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda: transforms.dft(0), ArgumentError, "n=0 is too small"),
        (lambda: transforms.idft(-3), ArgumentError, "n=-3 is too small"),
        (lambda: transforms.dct(8.0), ArgumentError, "n=8.0 is not an integer"),
        (lambda: transforms.dst(True), ArgumentError, "not an integer"),
        (lambda: transforms.hartley("8"), ArgumentError, "not an integer"),
        (lambda: transforms.hadamard(12), ArgumentError, "n=12 is not a power of two.*pass for instance 8 or 16"),
        (lambda: transforms.bit_reversal(12), ArgumentError, "n=12 is not a power of two.*digit_reversal"),
        (lambda: transforms.dct(8, 5), ArgumentError, "type=5 is unknown; pass 1, 2, 3 or 4"),
        (lambda: transforms.dst(8, "2"), ArgumentError, "type='2' is unknown"),
        (lambda: transforms.dct(8, True), ArgumentError, "type=True is unknown"),
        (lambda: transforms.dct(1, 1), ArgumentError, "n=1 is too small"),
        (lambda: transforms.dct(8, 1, permuted=True), ArgumentError, "permuted=True has no meaning for type=1"),
        (lambda: transforms.dft(8, norm="unitary"), ArgumentError, "norm='unitary' is unknown.*'ortho'"),
        (lambda: transforms.dct(8, norm=["ortho"]), ArgumentError, "norm=.* is unknown"),
        (lambda: transforms.dft(8, radices=(2, 3)), ArgumentError, r"radices=\(2, 3\) have the product 6.*n=8"),
        (lambda: transforms.dft(8, radices=()), ArgumentError, "at least one integer"),
        (lambda: transforms.dft(8, radices=4), ArgumentError, "radices=4 is not a sequence"),
        (lambda: transforms.dft(8, radices=(8, 1)), ArgumentError, r"radices\[1\]=1 is too small"),
        (lambda: transforms.digit_reversal(8, (2, 2)), ArgumentError, "product 4"),
        (lambda: transforms.makhoul_order(0), ArgumentError, "too small"),
        (lambda: transforms.dft(8, dtype="float64"), DtypeError, "float64, but a Fourier transform is complex"),
        (lambda: transforms.dft(8, dtype=None), DtypeError, "dtype=None is not a type of number"),
        (lambda: transforms.dct(8, dtype="float16"), DtypeError, "dtype is float16; pass one of float32, float64"),
        (lambda: transforms.hadamard(8, dtype=int), DtypeError, "dtype is int64"),
        (lambda: transforms.hartley(8, dtype="nonsense"), DtypeError, "'nonsense' is not a type of number"),
        (lambda: transforms.circulant([]), ShapeError, r"c has shape \(0,\); pass a vector with at least one entry"),
        (lambda: transforms.toeplitz(np.ones(3), []), ShapeError, r"r has shape \(0,\)"),
        (lambda: transforms.circulant(np.ones((2, 2))), ShapeError, r"c has shape \(2, 2\)"),
        (lambda: transforms.circulant(np.arange(3)), DtypeError, r"c has dtype int64.*c.astype"),
        (lambda: transforms.circulant(np.array([1.0, np.nan])), NonFiniteError, "c holds 1 NaN"),
        (lambda: transforms.toeplitz(np.ones(2), np.array([1.0, np.inf])), NonFiniteError, "r holds 1 NaN"),
        (lambda: transforms.circulant(np.ones(3) * 1j, dtype="float64"), DtypeError, "but the matrix is complex"),
        (lambda: transforms.circulant(np.ones(3), dtype="float16"), DtypeError, "dtype is float16"),
        (lambda: transforms.kronecker([]), ArgumentError, "matrices is empty"),
        (lambda: transforms.kronecker(3), ArgumentError, "matrices is of type int"),
        (lambda: transforms.kronecker([np.ones(3)]), ShapeError, r"matrices\[0\] has shape \(3,\)"),
        (lambda: transforms.kronecker([np.ones((3, 0))]), ShapeError, r"matrices\[0\] has shape \(3, 0\)"),
        (lambda: transforms.kronecker([np.eye(2, dtype=int)]), DtypeError, r"matrices\[0\] has dtype int64"),
        (lambda: transforms.kronecker([np.eye(2) * np.inf]), NonFiniteError, r"matrices\[0\] holds"),
        (lambda: transforms.kronecker([np.eye(2) * 1j], dtype="float32"), DtypeError, "matrices has complex entries"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # inf * 0 in the line that makes the bad input
def test_bad_input(call, kind, said):
    with pytest.raises(kind, match=said):
        call()


def test_the_front_is_light():
    program = "import sys, sparsefact.transforms\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=600)
    assert not {name.split(".")[0] for name in done.stdout.split()} & {"numpy", "numba", "scipy"}
    for name in transforms.__all__:
        assert callable(getattr(transforms, name))
    assert set(transforms.__all__) <= set(dir(transforms))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = transforms.nothing
