"""The reproductions run: a small part of each, and their figures; and the oracle of the iris study is right."""

from __future__ import annotations

import importlib
import json

import matplotlib
import numpy as np
import pytest
from scipy.optimize import minimize

from benchmarks.reproduce import iris

matplotlib.use("svg")
STUDIES = ["block_digits", "digits_dwf", "group_lasso_simulation", "iris", "matching_pursuit"]


@pytest.mark.parametrize("name", STUDIES)
def test_a_small_part_of_a_study_runs_and_is_drawn(name, tmp_path):
    study = importlib.import_module(f"benchmarks.reproduce.{name}")
    results = json.loads(json.dumps(study.measure(True)))
    study.figure(results).savefig(tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").stat().st_size > 1000
    if name == "matching_pursuit":
        (row,) = results["rows"]
        assert row["rates"]["additions and replacements"] == 1.0 > row["rates"]["additions"]
    if name == "iris":
        assert all(row["stable"] == row["runs"] and not row["rising"] for row in results["protocol"])
        for row in results["against_optima"]:
            assert row["gaps"]["hard thresholding pursuit, exchanges"] == pytest.approx(0, abs=1e-9)
            assert min(row["gaps"].values()) > -1e-9


def test_the_optima_of_the_iris_study_are_those_of_another_optimizer():
    f = iris.problem()
    optimum = iris.global_optima((1,))[1]
    found = []
    for index in range(15):

        def value(t, index=index):
            W = np.zeros(15)
            W[index] = t[0]
            return float(f.value(W.reshape(5, 3)))

        found.append(minimize(value, [0.0], tol=1e-12).fun)
    assert optimum == pytest.approx(min(found), abs=1e-8)
    everything = minimize(lambda w: float(f.value(w.reshape(5, 3))), np.zeros(15), tol=1e-12).fun
    assert iris.global_optima((15,))[15] == pytest.approx(everything, abs=1e-6)
