"""Recipes, shared budgets, tolerances and Gram matrices; what a plan says it will take, against what it takes."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.linalg import norm
from safetensors.numpy import load_file
from scipy.optimize import linprog

import sparsefact as sf
from sparsefact.checkpoints import estimate as estimate_module
from sparsefact.checkpoints.budget import Curve, allocate, hull, probe_densities
from sparsefact.checkpoints.estimate import Estimate, disk_of, estimate, shortages
from sparsefact.checkpoints.export import Factorized, export_dense
from sparsefact.checkpoints.journal import JOURNAL_NAME, read_journal
from sparsefact.checkpoints.memory import PROCESS, memory_of
from sparsefact.checkpoints.methods import build_constraint, build_solver, density_for, nonzeros_of
from sparsefact.checkpoints.names import CONSTRAINTS, SOLVERS, solvers_for
from sparsefact.checkpoints.plan import plan
from sparsefact.checkpoints.recipe import Recipe, Rule, matches, read_recipe
from sparsefact.checkpoints.run import run
from sparsefact.checkpoints.threads import threads_here
from sparsefact.checkpoints.verify import verify
from sparsefact.constraints.double_sparse import joint_budget
from sparsefact.errors import ArgumentError, BudgetError, FormatError, ShapeError, StorageError
from sparsefact.io.write import write_tensors
from sparsefact.report.page import page

RNG = np.random.default_rng(3)
MODEL = {
    "layers.0.q.weight": RNG.standard_normal((20, 16)).astype("float32"),
    "layers.0.up.weight": RNG.standard_normal((24, 20)).astype("float32"),
    "layers.1.q.weight": RNG.standard_normal((16, 16)).astype("float32"),
    "lm_head.weight": RNG.standard_normal((40, 16)).astype("float32"),
    "norm": np.ones(16),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_tensors(tmp_path / "model.safetensors", MODEL)
    return tmp_path / "model.safetensors"


# text

PATTERNS = st.lists(st.text(max_size=6) | st.just("re:a+"), min_size=1, max_size=3).map(
    lambda found: tuple("x" + text if not text.startswith("re:") else text for text in found)
)
DENSITIES = st.floats(1e-6, 1.0, exclude_min=True)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    constraint = draw(st.sampled_from(["double-sparse", "double-sparse", "single", "monarch", "butterfly", "copy"]))
    fields: dict[str, Any] = {
        "targets": draw(PATTERNS),
        "ignore": draw(PATTERNS | st.just(())),
        "constraint": constraint,
    }
    if constraint == "double-sparse":
        fields[draw(st.sampled_from(["density", "tolerance"]))] = draw(st.floats(1e-6, 0.999))
        fields["options"] = draw(st.sampled_from([{}, {"effort": "fast"}, {"outer": 7, "refits": 0}]))
        fields["gram"] = draw(st.none() | st.just('/tmp/gr"am\x7f.safetensors'))
        fields["left_gram"] = draw(st.none() | st.just("/tmp/left.safetensors"))
        fields["inner"] = draw(st.none() | st.just("auto") | st.integers(1, 99) | st.floats(0.01, 64))
        if "density" in fields:
            fields["support"] = draw(
                st.none() | st.sampled_from(["/tmp/mask.safetensors", "/tmp/m.safetensors:a/..:b"])
            )
    if constraint == "single":
        fields[draw(st.sampled_from(["density", "tolerance"]))] = draw(st.floats(1e-6, 0.999))
        fields["block"] = draw(st.none() | st.just((2, 4)))
        fields["solver"] = draw(st.sampled_from([None, *solvers_for("single")]))
    if constraint == "monarch":
        fields |= {"blocks": draw(st.none() | st.just((2, 4))), "rank": draw(st.integers(1, 3))}
    return Rule(**fields)


@given(
    listed=st.lists(rules(), min_size=1, max_size=3),
    seed=st.integers(0, 9),
    device=st.none() | st.just("cpu"),
    threads=st.none() | st.integers(1, 4),
    total=st.none() | DENSITIES,
)
def test_what_a_recipe_writes_it_reads_back(tmp_path_factory, listed, seed, device, threads, total):
    recipe = Recipe(tuple(listed), total=total, seed=seed, device=device, threads_per_job=threads)
    path = tmp_path_factory.getbasetemp() / "recipe.toml"
    path.write_text(recipe.as_toml(), encoding="utf-8")
    assert read_recipe(path) == recipe
    assert tomllib.loads(recipe.as_toml()) == recipe.as_dict()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rules = 3", "rules is '3', and it must be of type list"),
        ("x = [", "not valid TOML"),
        ("", "rules is empty"),
        ("[[rules]]\ndensity = 0.5\ndensty = 0.3", "rule 1 has the key 'densty', and there may be"),
        ("[[rules]]\ndensity = 2", r"rule 1: density=2\.0 is outside"),
        ("[[rules]]\ndensity = 'half'", "rule 1: density is 'half', and it must be of type float"),
        ("[[rules]]\ntargets = '*'", "rule 1 has neither density nor tolerance"),
        ("[[rules]]\ndensity = 0.5\ntolerance = 0.1", "density and tolerance are both given"),
        ("[[rules]]\nconstraint = 'magic'", "constraint is 'magic', and it must be one of double-sparse"),
        ("[[rules]]\nconstraint = 'butterfly'\ndensity = 0.5", "density does not belong to the constraint 'butterfly'"),
        ("[[rules]]\ndensity = 0.5\nsolver = 'magic'", "solver is 'magic', and it must be one of alternating"),
        ("[[rules]]\nconstraint = 'single'", "rule 1 has neither density nor tolerance, and"),
        (
            "[budget]\ntotal = 0.5\n[[rules]]\nconstraint = 'single'",
            "rule 1 has neither .* shared by 'double-sparse' matrices only",
        ),
        ("[[rules]]\ndensity = 0.5\nblock = [4, 4]", "block does not belong to the constraint 'double-sparse'"),
        ("[[rules]]\nconstraint = 'single'\ndensity = 0.5\nblock = [4]", "block must be two integers"),
        ("[[rules]]\nconstraint = 'single'\ndensity = 0.5\nblock = [4, 0]", r"block\[1\]"),
        (
            "[[rules]]\nconstraint = 'single'\ndensity = 0.5\nsolver = 'palm'",
            "the solver 'palm' finds a product, and 'single' is one matrix; take one of admm, iht",
        ),
        (
            "[[rules]]\ndensity = 0.5\nsolver = 'iht'",
            r"'iht' finds one matrix, .* take alternating, or use it inside from Python, as sparsefact\.Alternating",
        ),
        (
            "[[rules]]\nconstraint = 'single'\ndensity = 0.5\nsolver = 'htp'\noptions.variant = 'normalized'",
            "the solver 'htp' has no option 'variant'",
        ),
        ("[[rules]]\ndensity = 0.5\noptions.effort = 'none'", "effort='none' is not known"),
        ("[[rules]]\ndensity = 0.5\noptions.magic = 1", "has no option 'magic'"),
        ("[[rules]]\ndensity = 0.5\ntargets = ['re:(']", r"'re:\(' is no regular expression"),
        ("[[rules]]\ndensity = 0.5\ntargets = []", "targets must be a pattern"),
        ("[[rules]]\nconstraint = 'monarch'\nblocks = [1]", "blocks must be two integers"),
        ("[[rules]]\ndensity = 0.5\ninner = 'wide'", "inner is 'wide', and it must be 'auto', a whole number"),
        ("[[rules]]\ndensity = 0.5\ninner = true", "inner is 'True', and it must be 'auto'"),
        ("[[rules]]\ndensity = 0.5\ninner = -1.5", r"inner is '-1\.5', and it must be 'auto'"),
        ("[[rules]]\ndensity = 0.5\ninner = nan", "inner is 'nan', and it must be 'auto'"),
        ("[[rules]]\ndensity = 0.5\ninner = 0", "inner=0"),
        ("[[rules]]\nconstraint = 'butterfly'\ninner = 8", "inner does not belong to the constraint 'butterfly'"),
        ("[[rules]]\ndensity = 0.5\nsupport = 3", "support is '3', and it must be of type str"),
        ("[[rules]]\ntolerance = 0.5\nsupport = 'm.safetensors'", "rule 1: support needs a density"),
        ("format = 2\n[[rules]]\ndensity = 0.5", "format 2, but this version reads 1"),
        ("[budget]\ntotal = 0.0\n[[rules]]\ntargets = '*'", r"total=0\.0 is outside"),
        ("seed = -1\n[[rules]]\ndensity = 0.5", "seed"),
    ],
)
def test_every_mistake_in_a_recipe_is_told_with_its_place(tmp_path, text, words):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(FormatError, match=words) as caught:
        read_recipe(tmp_path / "r.toml")
    assert str(caught.value).startswith(str(tmp_path / "r.toml"))


def test_patterns():
    assert matches("a[0]", "a[0]") and matches("a0", "a[0]") and not matches("A0", "a?")
    assert matches("l.10.w", r"re:l\.\d+\.w") and not matches("xl.10.w", r"re:l\.\d+\.w")
    assert not matches("l.10.w.x", r"re:l\.\d+\.w")


# rules


def test_the_first_rule_that_takes_a_tensor_counts(source):
    recipe = Recipe(
        (
            Rule(targets=("lm_head.weight",), constraint="copy"),
            Rule(targets=("*.q.weight",), ignore=("layers.1.*",), density=0.5),
            Rule(targets=(r"re:layers\.\d\.q\.weight",), constraint="butterfly", solver="hierarchical"),
            Rule(targets=("*up*",), density=0.3, options={"effort": "fast"}),
        )
    )
    work = plan(source, recipe=recipe)
    assert {target.name: recipe.rules.index(target.rule) for target in work.targets} == {
        "layers.0.q.weight": 1,
        "layers.1.q.weight": 2,
        "layers.0.up.weight": 3,
    }
    assert {tensor.name: tensor.reason for tensor in work.copied} == {
        "lm_head.weight": "rule 1 copies it",
        "norm": "it matches no targets pattern",
    }
    assert {t.name: t.budget for t in work.targets} == {
        "layers.0.q.weight": 160,
        "layers.1.q.weight": 2 * 16 * 4,
        "layers.0.up.weight": 144,
    }
    report = run(work, source.with_name("out"))
    assert report.failed == () and verify(source.with_name("out"), against=source).ok
    found = {matrix.name: matrix.nnz for matrix in report.matrices}
    assert found["layers.1.q.weight"] == 128 and found["layers.0.up.weight"] <= 144
    assert read_recipe(source.with_name("out") / "recipe.toml").rules == recipe.rules
    with pytest.raises(ShapeError, match="as many rows as columns"):
        plan(source, recipe=Recipe((Rule(targets=("layers.0.q.weight",), constraint="butterfly"),)))
    odd = plan(source, recipe=Recipe((Rule(constraint="butterfly"),)))
    assert {t.reason for t in odd.copied if t.name != "norm"} == {"its shape does not fit the constraint 'butterfly'"}


def test_every_solver_of_the_table_solves_for_its_constraints_and_no_other():
    A = MODEL["layers.1.q.weight"]
    X = np.random.default_rng(0).standard_normal((40, 16))
    for name, named in SOLVERS.items():
        for constraint, keys in CONSTRAINTS.items():
            fields: dict[str, Any] = {"density": 0.5} if "density" in keys else {}
            if constraint not in named.constraints:
                with pytest.raises(
                    ArgumentError, match=rf"the solver '{name}' .*; take .*{solvers_for(constraint)[0]}"
                ):
                    Rule(constraint=constraint, solver=name, **fields)
                continue
            rule = Rule(constraint=constraint, solver=name, **fields)
            solver = build_solver(name, rule.options, constraint)
            E = build_constraint(constraint, A.shape, **fields)
            F = sf.factorize(A, E, solver, gram=None if name == "hierarchical" else X.T @ X)
            assert F.nnz <= nonzeros_of(E, A.shape) and F.solver is solver and F.error < 1


# one sparse matrix


def largest_blocks(A: Any, block: tuple[int, int], density: float) -> Any:
    """Keep the blocks of largest norm, by a loop over all of them."""
    (b, c), kept = block, np.zeros_like(A)
    corners = [(i, j) for i in range(0, A.shape[0], b) for j in range(0, A.shape[1], c)]
    corners.sort(key=lambda at: -float((A[at[0] : at[0] + b, at[1] : at[1] + c].astype("float64") ** 2).sum()))
    for i, j in corners[: int(density * len(corners))]:
        kept[i : i + b, j : j + c] = A[i : i + b, j : j + c]
    return kept


def test_without_a_gram_one_sparse_matrix_is_the_projection(source):
    (source.with_name("r.toml")).write_text(
        "[[rules]]\ntargets = '*.q.weight'\nconstraint = 'single'\ndensity = 0.5\nblock = [4, 8]\n"
        "solver = 'sequential-attention'\noptions.iterations = 100\n"
        "[[rules]]\ntargets = '*.up.weight'\nconstraint = 'single'\ntolerance = 0.5\n"
    )
    recipe = read_recipe(source.with_name("r.toml"))
    work = plan(source, recipe=recipe)
    assert {target.name: target.budget for target in work.targets} == {
        "layers.0.q.weight": 160,
        "layers.0.up.weight": None,
        "layers.1.q.weight": 128,
    }
    assert len(work.notes) == 1 and "whatever the solver" in work.notes[0]
    out = source.with_name("out")
    report = run(work, out)
    assert report.failed == ()
    found = {matrix.name: matrix for matrix in report.matrices}
    with Factorized(out) as matrices:
        for name in ("layers.0.q.weight", "layers.1.q.weight"):
            F = matrices.load(name)
            assert len(F.factors) == 1 and F.nnz == F.factors[0].nnz == found[name].nnz
            assert np.array_equal(F.todense(), largest_blocks(MODEL[name], (4, 8), 0.5))
            # what a FactorizedLinear multiplies by, without PyTorch
            one, x = F.factors[0].tocsr(), RNG.standard_normal((3, 16))
            columns, data, ends = one.indices, one.data, one.indptr
            rows = [(data[a:b] * x[:, columns[a:b]]).sum(axis=1) for a, b in pairwise(ends)]
            assert np.allclose(np.stack(rows, axis=1), x @ F.todense().T)
        A = MODEL["layers.0.up.weight"].astype("float64")
        F = matrices.load("layers.0.up.weight")
        squares = np.sort(A**2, None)
        smallest = min(k for k in range(1, 21) if np.sqrt(squares[: A.size - k * 24].sum()) <= 0.5 * norm(A))
        assert F.nnz == smallest * 24 and found["layers.0.up.weight"].error <= 0.5
    told = verify(out, against=source)
    assert told.ok and any("160 nonzeros in 1 factor, within the budget of 160" in f.message for f in told.findings)
    export_dense(out, source.with_name("dense.safetensors"))
    dense = load_file(source.with_name("dense.safetensors"))
    assert np.array_equal(dense["layers.1.q.weight"], largest_blocks(MODEL["layers.1.q.weight"], (4, 8), 0.5))
    assert read_recipe(out / "recipe.toml").rules == recipe.rules
    assert "layers.0.q.weight" in page(out)


def test_with_a_gram_a_solver_chooses_the_blocks_of_one_matrix(source, tmp_path):
    X = RNG.standard_normal((60, 16)) @ RNG.standard_normal((16, 16))
    write_tensors(tmp_path / "grams.safetensors", {"layers.1.q.gram": X.T @ X})
    A = MODEL["layers.1.q.weight"].astype("float64")
    kept = largest_blocks(A, (4, 4), 0.25)
    for solver in solvers_for("single"):
        rule = Rule(
            targets=("layers.1.q.weight",),
            constraint="single",
            density=0.25,
            block=(4, 4),
            solver=solver,
            gram=str(tmp_path / "grams.safetensors"),
        )
        work = plan(source, recipe=Recipe((rule,)))
        assert work.notes == () and work.density == 0.25
        (matrix,) = run(work, tmp_path / solver).matrices
        W = sf.load(tmp_path / solver / "factors-00001-of-00001.safetensors").todense()
        assert np.count_nonzero(np.abs(W).reshape(4, 4, 4, 4).sum(axis=(1, 3))) <= 4 and matrix.nnz <= 64
        expected = norm((A - W) @ X.T) / norm(A @ X.T)
        assert np.isclose(matrix.weighted_error, expected, rtol=1e-4)
        if solver != "deep-weight-factorization":  # which decays entries and is cut to the blocks at its end
            assert expected < norm((A - kept) @ X.T) / norm(A @ X.T)
        assert verify(tmp_path / solver, against=source).ok


def test_blocks_that_do_not_divide_a_matrix_are_told(source):
    rule = Rule(constraint="single", density=0.5, block=(16, 8))
    work = plan(source, recipe=Recipe((rule,)))
    assert [target.name for target in work.targets] == ["layers.1.q.weight"]
    reasons = {tensor.name: tensor.reason for tensor in work.copied}
    assert reasons["lm_head.weight"] == "blocks of 16 x 8 do not divide it"
    with pytest.raises(ShapeError, match=r"tensor 'lm_head\.weight': shape \(40, 16\) is not a whole number of blocks"):
        plan(source, recipe=Recipe((replace(rule, targets=("lm_head.weight",)),)))
    with pytest.raises(ShapeError, match="not a whole number of blocks"):
        plan(source, recipe=Recipe((replace(rule, block=(7, 7)),)))


@given(m=st.integers(1, 400), n=st.integers(1, 400), share=st.floats(0, 1))
def test_the_density_of_a_count_allows_exactly_that_count(m, n, share):
    count = max(1, int(share * m * n))
    density = density_for(count, (m, n))
    assert 0 < density <= 1 and joint_budget(density, (m, n)) == count


def test_a_tolerance_finds_the_smallest_density_of_its_grid(source):
    work = plan(source, recipe=Recipe((Rule(targets=("layers.0.q.weight",), tolerance=0.2),)))
    assert work.targets[0].budget is None
    (matrix,) = run(work, source.with_name("out")).matrices
    A = MODEL[matrix.name]
    errors = {step: sf.factorize(A, sf.double_sparse(A.shape, step / 20)).error for step in range(5, 20)}
    smallest = min(step for step, error in errors.items() if error <= 0.2)
    assert matrix.nnz == int(smallest / 20 * A.size) and matrix.error <= 0.2
    hopeless = plan(source, recipe=Recipe((Rule(targets=("layers.0.q.weight",), tolerance=1e-9),)))
    (matrix,) = run(hopeless, source.with_name("none")).failed
    assert "above the tolerance 1e-09 at every density" in matrix.message


# budgets


def test_a_total_is_spread_to_the_last_nonzero(source):
    recipe = Recipe((Rule(targets=("layers.*",)), Rule(targets=("lm_head.*",), density=0.3)), total=0.4)
    work = plan(source, recipe=recipe)
    assert [target.budget for target in work.targets if target.name != "lm_head.weight"] == [None] * 3
    report = run(work, source.with_name("out"))
    shared = [matrix for matrix in report.matrices if matrix.name != "lm_head.weight"]
    entries = sum(MODEL[matrix.name].size for matrix in shared)
    with (source.with_name("out") / "sparsefact.json").open() as file:
        records = json.load(file)["matrices"]
    assert sum(records[matrix.name]["budget"] for matrix in shared) == int(0.4 * entries)
    assert records["lm_head.weight"]["budget"] == int(0.3 * 640)
    curves = [e for e in read_journal(source.with_name("out") / JOURNAL_NAME) if e["kind"] == "curve"]
    assert sorted(entry["name"] for entry in curves) == sorted(matrix.name for matrix in shared)
    for entry in curves:
        size = MODEL[entry["name"]].size
        assert [nnz for nnz, _ in entry["points"]] == [int(d * size) for d in probe_densities(0.4)]
    assert verify(source.with_name("out"), against=source).ok


def test_a_matrix_that_cannot_be_measured_does_not_spoil_the_budget(source):
    tensors = dict(MODEL)
    tensors["layers.1.q.weight"] = np.full((16, 16), np.nan, "float32")
    write_tensors(source, tensors)
    report = run(plan(source, recipe=Recipe((Rule(targets=("layers.*",)),), total=0.5)), source.with_name("out"))
    assert [matrix.name for matrix in report.failed] == ["layers.1.q.weight"]
    assert sum(m.nnz for m in report.matrices if m.status != "failed") <= int(0.5 * (320 + 480))


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    entries = draw(st.integers(10, 60))
    counts = draw(st.lists(st.integers(1, entries), min_size=1, max_size=5, unique=True))
    return Curve(entries, [(count, draw(st.floats(0, 1, width=16))) for count in sorted(counts)])


@given(listed=st.lists(curves(), min_size=1, max_size=4), share=st.floats(0, 1))
def test_the_allocation_is_that_of_the_linear_program(listed, share):
    named = {str(i): curve for i, curve in enumerate(listed)}
    least = sum(hull(curve)[0][0] for curve in listed)
    most = sum(curve.entries for curve in listed)
    count = least + int(share * (most - least))
    given_out = allocate(named, count)
    assert sum(given_out.values()) == count
    value = 0.0
    costs, bounds = [], []
    for name, curve in named.items():
        points = hull(curve)
        at = given_out[name]
        assert points[0][0] <= at <= curve.entries
        value += float(np.interp(at, *zip(*points, strict=True)))
        for (n0, e0), (n1, e1) in pairwise(points):
            costs.append((e1 - e0) / (n1 - n0))
            bounds.append((0, n1 - n0))
        # a hull is convex, and below every point that was measured
        for nnz, error in curve.points:
            assert np.interp(nnz, *zip(*points, strict=True)) <= error * error + 1e-12
    start = sum(hull(curve)[0][1] for curve in listed)
    if costs:
        # HiGHS takes slopes below its tolerance for zero, so they are scaled up
        scaled, tight = 1e4 * np.array(costs), {"dual_feasibility_tolerance": 1e-10}
        best = linprog(scaled, A_eq=[[1] * len(costs)], b_eq=[count - least], bounds=bounds, options=tight)
        assert np.isclose(value, start + 1e-4 * best.fun, atol=1e-9)
    for wrong in (least - 1, most + 1):
        with pytest.raises(BudgetError, match="outside what"):
            allocate(named, wrong)


# Gram matrices


def test_gram_matrices_weigh_the_loss(source, tmp_path):
    X = RNG.standard_normal((50, 16)) * np.linspace(0.1, 3, 16)
    grams = {"layers.0.q.gram": X.T @ X, "layers.1.q.weight.gram": (X.T @ X).astype("float32")}
    write_tensors(tmp_path / "grams.safetensors", grams)
    (tmp_path / "r.toml").write_text(
        "[[rules]]\ntargets = '*.q.weight'\ndensity = 0.4\ngram = 'grams.safetensors'\noptions.effort = 'fast'\n"
    )
    recipe = read_recipe(tmp_path / "r.toml")
    report = run(plan(source, recipe=recipe), tmp_path / "out")
    plain = run(plan(source, recipe=Recipe((replace(recipe.rules[0], gram=None),))), tmp_path / "plain")
    for matrix, other in zip(report.matrices, plain.matrices, strict=True):
        index = report.matrices.index(matrix) + 1
        A = MODEL[matrix.name].astype("float64")

        def weighted(folder: str, index: int = index, A: Any = A) -> float:
            R = A - sf.load(tmp_path / folder / f"factors-{index:05}-of-00002.safetensors").todense()
            return float(np.linalg.norm(R @ X.T) / np.linalg.norm(A @ X.T))

        assert np.isclose(matrix.weighted_error, weighted("out"), rtol=1e-4)
        assert weighted("out") < weighted("plain") and other.weighted_error is None
    assert verify(tmp_path / "out", against=source).ok
    with pytest.raises(ArgumentError, match=r"the file has no 'lm_head\.gram' for the tensor"):
        plan(source, recipe=Recipe((replace(recipe.rules[0], targets=("lm_head.weight",)),)))
    write_tensors(tmp_path / "grams.safetensors", {"layers.0.q.gram": np.eye(3)})
    with pytest.raises(ShapeError, match=r"F64 of shape \(3, 3\), and for 'layers\.0\.q\.weight' it must be"):
        plan(source, recipe=Recipe((replace(recipe.rules[0], targets=("layers.0.q.weight",)),)))


def test_both_gram_matrices_weigh_the_loss(source, tmp_path):
    name = "layers.0.q.weight"
    A = MODEL[name].astype("float64")
    X, Y = (RNG.standard_normal((60, size)) * np.linspace(0.2, 2, size) for size in (A.shape[1], A.shape[0]))
    write_tensors(tmp_path / "in.safetensors", {"layers.0.q.gram": X.T @ X})
    write_tensors(tmp_path / "out.safetensors", {"layers.0.q.left_gram": (Y.T @ Y).astype("float32")})
    (tmp_path / "r.toml").write_text(
        f"[[rules]]\ntargets = '{name}'\ndensity = 0.4\ngram = 'in.safetensors'\nleft_gram = 'out.safetensors'\n"
        "options.effort = 'fast'\n"
    )
    recipe = read_recipe(tmp_path / "r.toml")
    (tmp_path / "again.toml").write_text(recipe.as_toml())
    assert read_recipe(tmp_path / "again.toml") == recipe
    (matrix,) = run(plan(source, recipe=recipe), tmp_path / "both").matrices
    run(plan(source, recipe=Recipe((replace(recipe.rules[0], left_gram=None),))), tmp_path / "one")

    def weighted(folder: str) -> float:
        R = A - sf.load(next((tmp_path / folder).glob("factors-*.safetensors"))).todense()
        return float(np.linalg.norm(Y @ R @ X.T) / np.linalg.norm(Y @ A @ X.T))

    assert np.isclose(matrix.weighted_error, weighted("both"), rtol=1e-4)
    assert weighted("both") < weighted("one")
    assert verify(tmp_path / "both", against=source).ok
    # what weighs is part of what a run is: with another file it is another run
    write_tensors(tmp_path / "out.safetensors", {"layers.0.q.left_gram": np.eye(A.shape[0])})
    with pytest.raises(ArgumentError):
        run(plan(source, recipe=recipe), tmp_path / "both", resume="required")
    write_tensors(tmp_path / "out.safetensors", {"layers.0.q.left_gram": np.eye(3)})
    with pytest.raises(ShapeError, match=rf"'layers\.0\.q\.left_gram' is .* F64 of shape \({A.shape[0]}, "):
        plan(source, recipe=recipe)
    write_tensors(tmp_path / "out.safetensors", {"layers.0.q.gram": np.eye(3)})
    with pytest.raises(ArgumentError, match=r"the file has no 'layers\.0\.q\.left_gram' for the tensor"):
        plan(source, recipe=recipe)


# the inner dimension, and a mask that matrices share


def inner_dimensions(folder: Path) -> dict[str, int]:
    found = {}
    for path in folder.glob("factors-*.safetensors"):
        F = sf.load(path)
        found[read_names(path)] = F.factors[0].shape[1]
    return found


def read_names(path: Path) -> str:
    (name,) = {key.partition(".factors.")[0] for key in load_file(path)}
    return name


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ("24", {"layers.0.q.weight": 24, "lm_head.weight": 24}),
        ("1.5", {"layers.0.q.weight": 24, "lm_head.weight": 24}),
        ("0.5", {"layers.0.q.weight": 8, "lm_head.weight": 8}),
        ("'auto'", {"layers.0.q.weight": 16, "lm_head.weight": 20}),
    ],
)
def test_the_inner_dimension_of_a_rule_is_that_of_the_factors(source, tmp_path, inner, expected):
    (tmp_path / "r.toml").write_text(
        f"[[rules]]\ntargets = ['layers.0.q.weight', 'lm_head.weight']\ndensity = 0.5\ninner = {inner}\n"
        "options.effort = 'fast'\n"
    )
    work = plan(source, recipe=read_recipe(tmp_path / "r.toml"))
    assert {target.name: target.inner for target in work.targets} == expected
    report = run(work, tmp_path / "out")
    assert inner_dimensions(tmp_path / "out") == expected
    assert read_recipe(tmp_path / "out" / "recipe.toml").rules == work.recipe.rules
    assert verify(tmp_path / "out", against=source).ok
    for matrix, target in zip(report.matrices, work.targets, strict=True):
        assert matrix.nnz <= 0.5 * target.shape[0] * target.shape[1]
        assert matrix.bytes_after <= disk_of(target)


@pytest.mark.parametrize("how", ["tolerance = 0.5", "total"])
def test_a_search_for_the_density_keeps_to_what_narrow_factors_hold(source, tmp_path, how):
    text = "[budget]\ntotal = 0.9\n[[rules]]\n" if how == "total" else f"[[rules]]\n{how}\n"
    (tmp_path / "r.toml").write_text(text + "targets = '*q.weight'\ninner = 6\noptions.outer = 4\n")
    report = run(plan(source, recipe=read_recipe(tmp_path / "r.toml")), tmp_path / "out")
    assert report.matrices and not report.failed
    assert set(inner_dimensions(tmp_path / "out").values()) == {6}
    for matrix in report.matrices:
        assert matrix.nnz <= 6 * sum(matrix.shape)
        if how != "total":
            assert matrix.error <= 0.5


def masks(folder: Path, **named: Any) -> str:
    write_tensors(folder / "masks.safetensors", {name: mask.astype("uint8") for name, mask in named.items()})
    return "masks.safetensors"


@pytest.mark.parametrize(("side", "shape"), [(0, (40, 16)), (1, (16, 16))])
def test_one_mask_is_that_of_a_factor_of_every_matrix_it_fits(source, tmp_path, side, shape):
    mask = np.random.default_rng(0).random(shape) < 0.2
    mask[: shape[0], 0] = True
    path = masks(tmp_path, left=mask, other=np.eye(3))
    (tmp_path / "r.toml").write_text(
        f"[[rules]]\ntargets = '*.weight'\ndensity = 0.5\nsupport = '{path}:left'\noptions.effort = 'fast'\n"
    )
    recipe = read_recipe(tmp_path / "r.toml")
    work = plan(source, recipe=recipe)
    expected = {"lm_head.weight"} if side == 0 else {"layers.0.q.weight", "layers.1.q.weight", "lm_head.weight"}
    assert {target.name for target in work.targets} == expected
    reasons = {tensor.name: tensor.reason for tensor in work.copied}
    assert reasons["layers.0.up.weight"] == (
        f"the support has the shape {shape}, and the factors of a 24 x 20 matrix have the shapes (24, 20) and (20, 20)"
    )
    report = run(work, tmp_path / "out")
    assert not report.failed
    support = sf.Support(mask)
    for file in (tmp_path / "out").glob("factors-*.safetensors"):
        F = sf.load(file)
        place = 0 if F.factors[0].shape == shape else 1
        assert support.contains(F.factors[place])
        assert F.nnz <= 0.5 * F.shape[0] * F.shape[1]
    for matrix, target in zip(report.matrices, work.targets, strict=True):
        assert matrix.bytes_after <= disk_of(target)
    assert verify(tmp_path / "out", against=source).ok
    assert read_recipe(tmp_path / "out" / "recipe.toml").rules == recipe.rules
    assert not run(work, tmp_path / "out", resume="required").failed
    # the same path with another mask is another run
    mask[-1, -1] ^= True
    masks(tmp_path, left=mask, other=np.eye(3))
    with pytest.raises(ArgumentError, match=r"supports.*masks\.safetensors"):
        run(plan(source, recipe=recipe), tmp_path / "out", resume="required")


def test_masks_that_do_not_fit_are_told(source, tmp_path):
    def planned(mask: Any, name: str = "layers.0.up.weight", **more: Any) -> None:
        masks(tmp_path, left=mask)
        rule = Rule((name,), density=0.3, support=str(tmp_path / "masks.safetensors"), **more)
        plan(source, recipe=Recipe((rule,)))

    planned(np.eye(24, 20))
    planned(np.eye(24, 30), inner=30)
    planned(np.eye(24, 25), inner=1.25)
    for name in ("layers.0.up.weight", "layers.0.*.weight"):
        with pytest.raises(
            ShapeError, match=r"support has the shape \(3, 3\), and the factors of a 2. x .* or another"
        ):
            planned(np.eye(3), name)
    with pytest.raises(ShapeError, match=r"\(24, 20\), and .* shapes \(24, 30\) and \(30, 20\)"):
        planned(np.eye(24, 20), inner=30)
    with pytest.raises(BudgetError, match=r"budget of 144, of which the support takes 130, and .* has 20 rows"):
        planned(np.arange(480).reshape(24, 20) < 130)
    with pytest.raises(ArgumentError, match=r"masks\.safetensors: mask of shape \(24, 20\) has no True entry"):
        planned(np.zeros((24, 20)))
    with pytest.raises(StorageError, match="missing"):
        plan(source, recipe=Recipe((Rule(density=0.3, support=str(tmp_path / "missing.safetensors")),)))


# what it takes

MEASURE = """
import sys, json
from pathlib import Path
import sparsefact as sf
from sparsefact.checkpoints.plan import plan
from sparsefact.checkpoints.run import run
work = plan(Path(sys.argv[1]), density=0.3)
run(work, Path(sys.argv[2]), solver=sf.Alternating(outer=3))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_memory_and_disk_are_never_more_than_the_plan_says_and_not_much_less(tmp_path):
    rng = np.random.default_rng(0)
    write_tensors(tmp_path / "model.safetensors", {"w": rng.standard_normal((1000, 700)).astype("float32")})
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "model.safetensors", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=True,
    )
    needs = estimate(plan(tmp_path / "model.safetensors", density=0.3), tmp_path / "new")
    memory = int(done.stdout) * 1024
    disk = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert memory <= needs.memory <= 1.3 * memory, (memory, needs)
    assert disk <= needs.disk <= 1.3 * disk, (disk, needs)


@given(
    rows=st.integers(2, 40),
    columns=st.integers(2, 40),
    density=st.floats(0.05, 1.0),
    dtype=st.sampled_from(["float32", "float64", "float16"]),
)
def test_factors_never_take_more_disk_than_planned(tmp_path_factory, rows, columns, density, dtype):
    A = np.random.default_rng(0).standard_normal((rows, columns)).astype(dtype)
    path = tmp_path_factory.getbasetemp() / "disk.safetensors"
    write_tensors(path, {"w": A})
    try:
        (target,) = plan(path, density=density).targets
    except (BudgetError, ValueError):
        return
    F = sf.factorize(A, target.constraint, sf.Alternating(outer=1))
    from sparsefact.products.storage import pack

    tensors, _ = pack(F, "w", dtype=target.dtype, target=A)
    assert sum(array.nbytes for array in tensors.values()) <= disk_of(target)


def test_what_will_not_fit_is_refused(source, monkeypatch):
    needs = estimate(plan(source), source.with_name("out"), jobs=3, probe=True)
    assert needs.seconds > 0 and not shortages(needs) and needs.largest in MODEL
    assert needs.memory > estimate(plan(source), None).memory
    # another number of threads than this process has is another process
    apart = [estimate(plan(source), None, threads_per_job=threads_here() + more).memory for more in (0, 1)]
    assert apart == [estimate(plan(source), None).memory, estimate(plan(source), None).memory + PROCESS]
    assert estimate(plan(source), source.with_name("a.safetensors")).disk > needs.disk
    assert shortages(replace(needs, disk_free=10))[0].startswith("the run would take")
    monkeypatch.setattr(estimate_module, "free_memory", lambda: 1 << 20)
    with pytest.raises(StorageError, match="bytes of memory, most of it for"):
        estimate_module.refuse_what_will_not_fit(estimate(plan(source), None))
    assert isinstance(needs, Estimate) and memory_of(plan(source).targets[0]) > 0
