"""The product kernels and the plans against dense products in double precision."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import sparsefact as sf
from sparsefact.backends.cpu import chain_product
from sparsefact.backends.cpu.chain_product import prepare_chain
from sparsefact.backends.protocol import Backend
from sparsefact.backends.reference import REFERENCE
from sparsefact.backends.registry import get_backend
from sparsefact.errors import ArgumentError, DtypeError, ShapeError
from sparsefact.products import plan_choice as plans
from sparsefact.products.merge import merged_values
from sparsefact.products.plan_cost import best_groups, merged_block, size_of

DTYPES = ["float32", "float64", "complex64", "complex128"]
dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 2**32 - 1)
batches = st.sampled_from([0, 1, 2, 3, 7, 8, 16, 17, 33, 70])
layouts = st.sampled_from(["C", "F", "strided", "reversed"])


def integers(rng, shape, dtype):
    """Small whole numbers, so that every order of summation gives the same bits."""
    values = rng.integers(-2, 3, shape).astype(dtype)
    return values + (1j * rng.integers(-2, 3, shape)).astype(dtype) if values.dtype.kind == "c" else values


def laid_out(x, layout):
    if layout in ("C", "F"):
        found = np.array(x, order=layout)
    elif layout == "strided":
        room = np.zeros((2 * x.shape[0], 3 * x.shape[1]), x.dtype)
        found = room[::2, ::3]
        found[...] = x
    else:
        found = np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]
    found.flags.writeable = False
    return found


def dense(part):
    if not isinstance(part, np.ndarray):
        return part.toarray() if sparse.issparse(part) else part
    if part.ndim == 2:
        return part
    a, b, c, d = part.shape
    found = np.zeros((a * b * d, a * c * d), part.dtype)
    for i, p, r, q in np.ndindex(*part.shape):
        found[(i * b + p) * d + q, (i * c + r) * d + q] = part[i, p, r, q]
    return found


def product(parts):
    wide = [dense(part).astype(np.result_type(part.dtype, np.float64)) for part in parts]
    found = wide[-1]
    for part in reversed(wide[:-1]):
        found = part @ found
    return found


def random_csr(rng, shape, dtype, density=0.3):
    rows, columns = np.nonzero(rng.random(shape) < density)
    return sparse.csr_array((integers(rng, (len(rows),), dtype), (rows, columns)), shape=shape)


@st.composite
def kronecker_shapes(draw, widest=9):
    """Supports that fit each other, whatever their blocks: most are not chainable."""
    rows = draw(st.sampled_from([1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64]))
    shapes = []
    for _ in range(draw(st.integers(1, 4))):
        b = draw(st.sampled_from([k for k in range(1, widest) if rows % k == 0]))
        a = draw(st.sampled_from([k for k in range(1, rows + 1) if (rows // b) % k == 0]))
        c = draw(st.integers(1, widest - 1))
        shape = (a, b, c, rows // b // a)
        if a * c * shape[3] > 200:
            shape = (a, b, 1, shape[3])
        shapes.append(shape)
        rows = shape[0] * shape[2] * shape[3]
    return shapes


@st.composite
def chains(draw, dtype, kinds=("kronecker", "csr")):
    rng = np.random.default_rng(draw(seeds))
    parts = []
    for shape in draw(kronecker_shapes()):
        a, b, c, d = shape
        kind = draw(st.sampled_from(kinds))
        if kind == "kronecker":
            parts.append(integers(rng, shape, dtype))
        else:
            parts.append(random_csr(rng, (a * b * d, a * c * d), dtype))
    return parts


def wider(dtype, values):
    """The operand types of a chain of this type: its own, and complex ones for a real chain."""
    return (
        st.sampled_from([dtype]) if values.kind == "c" else st.sampled_from([dtype, np.result_type(dtype, "complex64")])
    )


# The backend operations


@given(st.data(), dtypes, batches, st.booleans(), st.booleans(), layouts)
def test_a_prepared_chain_is_the_dense_product(data, name, batch, vectors, rows_first, layout):
    dtype = np.dtype(name)
    parts = data.draw(chains(dtype))
    rng = np.random.default_rng(data.draw(seeds))
    width = dense(parts[-1]).shape[1]
    height = data.draw(st.sampled_from([width, width + 3]))
    rows = data.draw(st.sampled_from([None, rng.integers(0, height, width)]))
    x = integers(rng, (width if rows is None else height, batch), data.draw(wider(dtype, dtype)))
    x = laid_out(x, layout)
    before = x.copy()
    got = get_backend().prepare_chain(parts, dtype, vectors=vectors, rows=rows).apply(x, rows_first=rows_first)
    expected = product(parts) @ (x if rows is None else x[rows])
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(x, before)
    assert got.dtype == x.dtype
    assert (got.T if rows_first else got).flags.c_contiguous
    specified = REFERENCE.prepare_chain(parts, dtype, rows=rows).apply(x, rows_first=rows_first)
    np.testing.assert_array_equal(got, specified)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("b", [1, 2, 3, 4, 5, 7, 8, 16])
@pytest.mark.parametrize("c", [1, 2, 3, 4, 8, 9, 16])
def test_every_block_size(b, c, dtype):
    rng = np.random.default_rng(b * 20 + c)
    for a, d in ((1, 1), (3, 1), (2, 3), (1, 4), (2, 16)):
        values = integers(rng, (a, b, c, d), dtype)
        for batch in (1, 5, 40):
            x = integers(rng, (a * c * d, batch), dtype)
            np.testing.assert_array_equal(get_backend().ks_apply(values, x), dense(values) @ x)
            np.testing.assert_array_equal(REFERENCE.ks_apply(values, x), dense(values) @ x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_is_that_of_the_type(dtype):
    rng = np.random.default_rng(0)
    shapes = [(2**k, 2, 2, 2 ** (8 - k)) for k in range(9)]
    parts = [rng.standard_normal(s) + (1j * rng.standard_normal(s) if dtype[0] == "c" else 0) for s in shapes]
    parts = [part.astype(dtype) for part in parts]
    P = product(parts)
    for batch, vectors in ((1, True), (20, False)):
        x = rng.standard_normal((512, batch)).astype(dtype)
        got = prepare_chain(parts, dtype, vectors=vectors).apply(x)
        assert abs(got - P @ x).max() < 40 * np.finfo(dtype).eps * abs(P @ x).max()


def test_results_do_not_depend_on_threads_or_tiles(monkeypatch):
    rng = np.random.default_rng(1)
    shapes = [(2**k, 2, 2, 2 ** (6 - k)) for k in range(7)]
    parts = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    csr = sparse.random_array((128, 128), density=0.1, rng=rng, dtype=np.float32).tocsr()
    x = rng.standard_normal((128, 200)).astype(np.float32)
    found = []
    for threads, tile, grain, straight in (
        ("1", 1 << 18, 1 << 20, 1 << 22),
        ("3", 1 << 12, 1, 0),
        ("2", 1 << 14, 1, 0),
    ):
        monkeypatch.setenv("SPARSEFACT_NUM_THREADS", threads)
        monkeypatch.setattr(chain_product, "_TILE", tile)
        monkeypatch.setattr(chain_product, "_WIDE_TILE", tile)
        monkeypatch.setattr(chain_product, "_GRAIN", grain)
        monkeypatch.setattr(chain_product, "_STRAIGHT", straight)
        made = [prepare_chain(p, np.float32, vectors=v) for p in (parts, [*parts, csr]) for v in (False, True)]
        found.append([chain.apply(operand) for chain in made for operand in (x, np.asfortranarray(x))])
    for other in found[1:]:
        for got, expected in zip(other, found[0], strict=True):
            np.testing.assert_array_equal(got, expected)


def test_columns_do_not_see_each_other():
    rng = np.random.default_rng(2)
    parts = [rng.standard_normal((4, 2, 2, 4)), rng.standard_normal((8, 2, 2, 2))]
    x = rng.standard_normal((32, 20))
    chain = prepare_chain([parts[1], np.ones((2, 8, 8, 2))], np.float64)
    clean = chain.apply(x)
    x[3, 5] = np.nan
    got = chain.apply(x)
    others = np.arange(20) != 5
    np.testing.assert_array_equal(got[:, others], clean[:, others])
    assert np.isnan(got[:, 5]).any()


def test_a_chain_serves_many_threads_at_once():
    rng = np.random.default_rng(3)
    chain = prepare_chain([rng.standard_normal((2**k, 2, 2, 2 ** (7 - k))) for k in range(8)], np.float64)
    operands = [rng.standard_normal((256, 40)) for _ in range(6)]
    expected = [chain.apply(x) for x in operands]
    found = [[] for _ in operands]

    def repeat(k):
        for _ in range(20):
            found[k].append(chain.apply(operands[k]))

    workers = [threading.Thread(target=repeat, args=(k,)) for k in range(len(operands))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for got, wanted in zip(found, expected, strict=True):
        for y in got:
            np.testing.assert_array_equal(y, wanted)


def test_backends_keep_the_contract():
    assert isinstance(get_backend(), Backend)
    assert isinstance(REFERENCE, Backend)


# Merging


@given(kronecker_shapes(widest=5), seeds, st.sampled_from(["float64", "complex128"]))
def test_merged_values_are_those_of_the_product(shapes, seed, dtype):
    rng = np.random.default_rng(seed)
    parts = [integers(rng, shape, dtype) for shape in shapes]
    merged = merged_values(parts, np.dtype(dtype))
    assert merged.shape == merged_block(shapes)
    np.testing.assert_array_equal(dense(merged), product(parts))


@given(kronecker_shapes())
def test_merging_stays_within_its_limit(shapes):
    # a cost of one per factor asks for a single one
    _, groups = best_groups(shapes, lambda block: 1.0, 8)
    assert [first for first, _ in groups] == [0, *(stop for _, stop in groups[:-1])]
    for first, stop in groups:
        size = size_of(merged_block(shapes[first:stop]))
        parts = sum(size_of(shape) for shape in shapes[first:stop])
        assert stop - first == 1 or size <= 2 * parts or 8 * size <= 1 << 16


def test_the_best_groups_are_the_cheapest_of_all():
    shapes = [(2**k, 2, 2, 2 ** (5 - k)) for k in range(6)]

    def cost(block):
        return size_of(block) ** 1.1 + 40

    def every(first):
        if first == len(shapes):
            return 0.0
        return min(cost(merged_block(shapes[first:stop])) + every(stop) for stop in range(first + 1, len(shapes) + 1))

    assert best_groups(shapes, cost, 8)[0] == pytest.approx(every(0))


# Plans


@st.composite
def products(draw, dtype):
    """Factors of every kind, permutations and diagonals among them."""
    rng = np.random.default_rng(draw(seeds))
    factors = []
    for a, b, c, d in draw(kronecker_shapes()):
        m, n = a * b * d, a * c * d
        kind = draw(st.sampled_from(["kronecker", "kronecker", "csr", "dense", "permutation", "diagonal"]))
        if m == n and kind == "permutation":
            signs = np.ones(n) if draw(st.booleans()) else rng.integers(1, 3, n)
            factors.append(sparse.csr_array((signs.astype(dtype), (np.arange(n), rng.permutation(n))), shape=(n, n)))
        elif m == n and kind == "diagonal":
            factors.append(sparse.csr_array(sparse.diags_array(integers(rng, (n,), dtype))))
        elif kind == "dense":
            factors.append(integers(rng, (m, n), dtype))
        elif kind == "csr":
            factors.append(random_csr(rng, (m, n), dtype))
        else:
            factors.append(sf.KroneckerFactor(integers(rng, (a, b, c, d), dtype)))
    return factors


def matrix(factors):
    return product([f if isinstance(f, np.ndarray) else f.toarray() for f in factors])


KERNELS = ["vector", "tile", "matmul", "dense"]


def prefer(patch, kernel):
    """Make the cost model choose one kernel wherever it can."""
    patch.setattr(plans, "_PLAIN", 0)
    usual = plans._cheapest
    patch.setattr(plans, "_cheapest", lambda found: usual([c for c in found if c[1] == kernel] or found))


@given(st.data(), dtypes, st.sampled_from(KERNELS), batches, layouts)
def test_every_plan_gives_the_dense_product(data, name, kernel, batch, layout):
    dtype = np.dtype(name)
    factors = data.draw(products(dtype))
    P = matrix(factors)
    rng = np.random.default_rng(data.draw(seeds))
    other = data.draw(wider(dtype, dtype))
    with pytest.MonkeyPatch.context() as patch:
        prefer(patch, kernel)
        F = sf.Factorization(factors)
        x = laid_out(integers(rng, (P.shape[1], batch), other), layout)
        y = laid_out(integers(rng, (P.shape[0], batch), other), layout)
        z = laid_out(integers(rng, (batch, P.shape[0]), other), layout)
        for got, expected in (
            (F @ x, P @ x),
            (z @ F, z @ P),
            (F.T @ y, P.T @ y),
            (F.H @ y, P.conj().T @ y),
            (F.conj() @ x, P.conj() @ x),
            (F.rmatmat(y), P.conj().T @ y),
            (F.T.H @ x, P.conj() @ x),
            (F.H.rmatmat(x), P @ x),
            (F @ x[:, :1].copy()[:, 0] if batch else P @ np.zeros(P.shape[1]), P @ (x[:, 0] if batch else 0 * P[0])),
        ):
            np.testing.assert_array_equal(got, expected)
        assert (F @ x).dtype == x.dtype
        assert (F @ x).flags.writeable


def butterfly(n, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    levels = n.bit_length() - 1
    shapes = [(2**k, 2, 2, n >> (k + 1)) for k in range(levels)]
    values = [
        rng.standard_normal(s) + (1j * rng.standard_normal(s) if np.dtype(dtype).kind == "c" else 0) for s in shapes
    ]
    return [sf.KroneckerFactor((v / np.sqrt(2)).astype(dtype)) for v in values]


def test_a_butterfly_is_merged_and_multiplied_in_tiles():
    F = sf.Factorization(butterfly(1024, np.float32))
    plan = F.plan(batch=128)
    assert plan.kernel == "tile"
    assert len(plan.groups) < 10
    assert plan.stored_bytes <= 2 * F.nbytes
    assert plan.flops == 2 * 128 * sum(group.nnz for group in plan.groups)
    assert F.plan(batch=1).kernel == "vector"
    text = plan.explain()
    for part in ("forward", "1024x1024 @ (1024, 128) float32", "tile of columns", "merged", "bytes", "flops"):
        assert part in text
    assert "\n" not in repr(plan)


def test_small_and_dense_products_are_left_to_numpy():
    rng = np.random.default_rng(0)
    assert sf.Factorization([np.eye(3), np.ones((3, 2))]).plan(batch=1).kernel == "plain"
    assert sf.Factorization([rng.standard_normal((300, 300))] * 2).plan(batch=1).kernel in ("matmul", "dense")
    assert sf.Factorization([rng.standard_normal((300, 300))] * 2).plan(batch=2000).kernel == "dense"
    large = [sf.KroneckerFactor(rng.standard_normal((1, 256, 256, 2))), sf.KroneckerFactor(np.ones((2, 256, 256, 1)))]
    assert sf.Factorization(large).plan(batch=512).kernel in ("matmul", "dense")


def test_permutations_and_diagonals_are_recognised():
    rng = np.random.default_rng(0)
    n = 256
    order = sparse.csr_array((np.ones(n), (np.arange(n), rng.permutation(n))), shape=(n, n))
    scaling = sparse.csr_array(sparse.diags_array(rng.standard_normal(n)))
    F = sf.Factorization([scaling, *butterfly(n), order])
    plan = F.plan(batch=32)
    assert [group.kind for group in plan.groups][-1] == "rows"
    assert {group.kind for group in plan.groups[:-1]} == {"Kronecker"}
    x = rng.standard_normal((n, 32))
    np.testing.assert_allclose(F @ x, F.todense() @ x, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(x.T @ F, x.T @ F.todense(), rtol=1e-10, atol=1e-10)


def test_plans_are_kept_shared_and_left_behind_by_pickle():
    F = sf.Factorization(butterfly(256))
    assert F.plan(batch=100) is F.plan(batch=128)
    assert F.plan(batch=100) is not F.plan(batch=100, adjoint=True)
    assert F.plan(batch=100, transposed=True) is F.T.plan(batch=100)
    # a real product's adjoint is its transpose
    assert F.plan(batch=100, adjoint=True) is F.T.plan(batch=100)
    x = np.ones((256, 100))
    before = len(pickle.dumps(F))
    expected = F @ x
    assert len(pickle.dumps(F)) == before
    for G in (pickle.loads(pickle.dumps(F)), copy.copy(F), copy.deepcopy(F), F.T.T):
        np.testing.assert_array_equal(G @ x, expected)
    for batch in range(1, 4000, 97):
        F.plan(batch=batch, dtype="complex64")
    np.testing.assert_array_equal(F @ x, expected)


def test_a_plan_is_made_once_by_many_threads():
    F = sf.Factorization(butterfly(512))
    x = np.random.default_rng(0).standard_normal((512, 64))
    found = []
    workers = [threading.Thread(target=lambda: found.append(F @ x)) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for y in found:
        np.testing.assert_array_equal(y, found[0])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"batch": -1}, ArgumentError),
        ({"adjoint": True, "transposed": True}, ArgumentError),
        ({"dtype": "S3"}, DtypeError),
        ({"dtype": np.longdouble}, DtypeError),
    ],
)
def test_refused_plans(arguments, error):
    with pytest.raises(error, match=r"^[^\n]+$"):
        sf.Factorization(butterfly(16)).plan(**arguments)


def test_operands_of_the_wrong_height():
    F = sf.Factorization(butterfly(512))
    for x in (np.ones((511, 40)), np.ones(513), np.ones((2, 512, 3))):
        with pytest.raises(ShapeError, match=r"^x has shape [^\n]+$"):
            F @ x
    assert (F @ np.ones((512, 0))).shape == (512, 0)
    assert (np.ones((0, 512)) @ F).shape == (0, 512)


def test_a_plan_alone_loads_no_kernels():
    program = (
        "import sys, numpy as np, sparsefact as sf\n"
        "F = sf.Factorization([sf.KroneckerFactor(np.ones((2**k, 2, 2, 2 ** (7 - k)))) for k in range(8)])\n"
        "F.plan(batch=64).explain()\n"
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=600)
