"""The benchmark of inner solvers and patterns: it runs, the counts are the budget, table and picture are made."""

from __future__ import annotations

import json

import matplotlib
import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib import pyplot

import sparsefact as sf
from benchmarks import ablation, pictures, tables

matplotlib.use("svg")


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    path = tmp_path_factory.mktemp("ablation") / "result.json"
    done = CliRunner().invoke(ablation.main, ["--quick", "-o", str(path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(path.read_text())


def test_every_cell_is_there(document):
    rows = document["results"]["rows"]
    cells = {(row["pattern"], row["solver"]) for row in rows}
    assert cells >= {(pattern.name, solver) for pattern in ablation.PATTERNS for solver in ablation.SOLVERS}
    for row in rows:
        assert ("error" in row) + ("absent" in row) + ("refused" in row) == 1, row
        if "nnz" in row:
            assert sum(row["nnz"]) <= row["budget"]
            assert row["csr_bytes"] > 4 * sum(row["nnz"]) and row["bitmask_bytes"] >= 4 * sum(row["nnz"])
            assert 0 < row["error"] < 1
    known = {solver for solver, (public, _) in ablation.SOLVERS.items() if public in sf.__all__}
    assert "ADMM" in known
    assert {row["solver"] for row in rows if "absent" in row} == set(ablation.SOLVERS) - known


@pytest.mark.parametrize("n", [128, 384])
@pytest.mark.parametrize("density", ablation.DENSITIES)
def test_patterns_spend_the_whole_budget(n, density):
    for pattern in ablation.PATTERNS:
        constraints = pattern.make(n, density)
        if constraints is None or isinstance(constraints, sf.DoubleSparse):
            continue
        spent = sum(constraint.count((n, n)) for constraint in constraints)
        assert 0.995 * density * n * n <= spent <= density * n * n, pattern.name


def test_storage_counts_bytes_by_hand():
    mask = sf.Support(np.tile(np.arange(8) < 3, (4, 1)))
    F = sf.factorize(np.ones((4, 8), np.float32), (sf.Support(np.eye(4, dtype=bool)), mask))
    # 4 and 12 values of 4 bytes, 4 for each column index and row pointer; positions of fixed supports are free
    assert ablation.storage(F.factors, F.constraint) == (4 * (4 + 4 + 5) + 4 * (12 + 12 + 5), 4 * 16)
    assert ablation.storage(F.factors, (mask, sf.TopK(nnz=12)))[1] == 4 * 16 + 4


def test_table(document):
    text = tables.ablation(document)
    assert text.startswith("Gaussian 32, density 0.5; one sparse matrix 0.")
    cells = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in cells}) == 1
    named = {line.split("|")[1].strip() for line in cells}
    assert {pattern.name for pattern in ablation.PATTERNS} <= named
    row = next(row for row in document["results"]["rows"] if row["pattern"] == "anywhere" and row["solver"] == "ADMM")
    line = next(line for line in cells if line.startswith("| anywhere |"))
    assert line.split("|")[2].strip().rstrip("*") == f"{row['error']:.4f}"


def test_picture(document):
    figure = pictures.ablation(document)
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()][: len(ablation.PATTERNS)] == [
        pattern.name for pattern in ablation.PATTERNS
    ]
    pyplot.close(figure)
