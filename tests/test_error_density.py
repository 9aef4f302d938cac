"""The benchmarks of forms and of growth: they run, what is counted is the budget, tables and pictures are made."""

from __future__ import annotations

import json

import matplotlib
import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib import pyplot
from safetensors.numpy import save_file

from benchmarks import error_density, growth, pictures, tables
from benchmarks import published_double_sparse as published

matplotlib.use("svg")


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("forms"), np.random.default_rng(0)
    name = published.LAYERS["q384"]
    inputs = rng.standard_normal((150, 64)) @ rng.standard_normal((64, 64))
    layer = {
        name: rng.standard_normal((48, 64)).astype(np.float32),
        name.removesuffix("weight") + "gram": (inputs.T @ inputs).astype(np.float32),
    }
    save_file(layer, folder / "layer.safetensors")
    arguments = ["--checkpoint", str(folder / "layer.safetensors"), "--quick", "-o", str(folder / "result.json")]
    done = CliRunner().invoke(error_density.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads((folder / "result.json").read_text())


def test_every_form_is_measured_within_the_budget(document):
    rows = document["results"]["rows"]
    assert {(row["form"], row["density"], row["gram"]) for row in rows} == {
        (form, density, weighted)
        for form in (*error_density.FORMS, "published sum")
        for density in error_density.QUICK
        for weighted in (False, True)
    }
    for row in rows:
        assert row["nnz"] <= row["density"] * 48 * 64 and 0 < row["error"] <= 1
    errors = {(row["form"], row["density"], row["gram"]): row["error"] for row in rows}
    for density in error_density.QUICK:
        for weighted in (False, True):
            alone = errors["one sparse", density, weighted], errors["SVD", density, weighted]
            assert errors["sparse + low rank", density, weighted] <= min(alone) * (1 + 1e-4)


def test_chains_fill_the_budget():
    for shape, budget in (((24, 32), 300), ((384, 1536), 60000)):
        found = [*error_density.monarchs(shape, budget), *error_density.triples(shape, budget)]
        assert found
        for chain in found:
            assert chain.shape == shape and 0 < chain.nnz <= budget and chain.is_chainable
            assert chain.nnz == chain.reduced().nnz


def test_published_sum_of_a_sum_is_exact():
    rng = np.random.default_rng(1)
    low, sparse = np.outer(rng.uniform(1, 2, 20), rng.uniform(1, 2, 30)), np.zeros((20, 30))
    sparse.reshape(-1)[rng.choice(600, 10, replace=False)] = 6
    # rank one, which is the least, and ten entries
    found = error_density.thresholds(low + sparse, None, 60)
    assert np.linalg.norm(found - low - sparse) < 1e-6 * np.linalg.norm(low)


def test_table_and_picture(document):
    text = tables.error_density(document)
    cells = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in cells}) == 1 and text.count("**") >= 2 * 2 * len(error_density.QUICK)
    figure = pictures.error_density(document)
    lines = figure.axes[0].get_lines()
    assert len(figure.axes) == 2 and len(lines) == len(error_density.FORMS)
    rows = document["results"]["rows"]
    expected = [row["error"] for row in rows if row["form"] == "two sparse" and not row["gram"]]
    np.testing.assert_array_equal(lines[0].get_ydata(), expected)
    pyplot.close(figure)


def test_growth_measures_what_is_above_the_input(tmp_path):
    row = growth.measure(96, "fast", True)
    assert row["nnz"] <= 0.3 * 96 * 96 and row["peak_bytes"] >= row["bytes_before"] > 0 and 0 < row["error"] < 1
    document = {
        "results": {"rows": [row]},
        "environment": {"cpu": "x", "cores": 1, "threads": dict.fromkeys(["OPENBLAS_NUM_THREADS"])},
    }
    (line,) = (line for line in tables.growth(document).splitlines() if line.startswith("| 96 "))
    assert f"{row['error']:.4f}" in line and "| yes |" in line
