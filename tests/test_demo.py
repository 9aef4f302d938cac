"""The demo: the data it ships, the network's arithmetic, and the whole command."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file

from sparsefact.checkpoints.factor_file import load
from sparsefact.cli import digits
from sparsefact.cli.app import app
from sparsefact.cli.demo import DENSITIES
from sparsefact.io.tensor_file import TensorFile

DATA = Path(str(resources.files("sparsefact"))) / "data"


@pytest.fixture(scope="module")
def network() -> dict[str, NDArray[Any]]:
    with digits.network_file() as path:
        return digits.read_network(path)


def test_data_is_small_and_has_the_shapes_it_promises(network: dict[str, NDArray[Any]]) -> None:
    assert sum(file.stat().st_size for file in DATA.iterdir()) < 1_000_000
    images, labels = digits.held_out()
    assert images.shape == (449, 64) and images.dtype == np.uint8 and images.max() == 16
    assert labels.shape == (449,) and set(labels.tolist()) == set(range(10))
    shapes = {name: array.shape for name, array in network.items()}
    assert shapes == {
        "layers.0.weight": (256, 64),
        "layers.0.bias": (256,),
        "layers.1.weight": (256, 256),
        "layers.1.bias": (256,),
        "layers.2.weight": (10, 256),
        "layers.2.bias": (10,),
    }
    assert {array.dtype for array in network.values()} == {np.dtype(np.float32)}


def test_read_network_agrees_with_the_safetensors_package(network: dict[str, NDArray[Any]]) -> None:
    expected = load_file(DATA / "digits_perceptron.safetensors")
    assert network.keys() == expected.keys()
    assert all(np.array_equal(network[name], expected[name]) for name in expected)


def test_held_out_images_are_those_of_the_bundled_data_set() -> None:
    from sklearn.datasets import load_digits

    known = {
        (*image.astype(int).tolist(), int(label)) for image, label in zip(*load_digits(return_X_y=True), strict=True)
    }
    images, labels = digits.held_out()
    held = [(*image.tolist(), int(label)) for image, label in zip(images, labels, strict=True)]
    assert set(held) <= known and len(set(held)) == len(held)


def test_dense_accuracy_is_the_recorded_one(network: dict[str, NDArray[Any]]) -> None:
    with digits.network_file() as path, TensorFile(path) as file:
        recorded = json.loads(file.metadata["network"])["accuracy"]["heldout"]
    assert recorded >= 0.98
    assert digits.accuracy(network, *digits.held_out()) >= recorded - 1 / 449  # rounding may turn one image


def test_accuracy_equals_a_plain_loop(network: dict[str, NDArray[Any]]) -> None:
    images, labels = (part[:25] for part in digits.held_out())
    right = 0
    for image, label in zip(images, labels, strict=True):
        values = [float(pixel) for pixel in image]
        for layer in range(3):
            weight = network[f"layers.{layer}.weight"].tolist()
            bias = network[f"layers.{layer}.bias"].tolist()
            values = [
                sum(w * v for w, v in zip(row, values, strict=True)) + b for row, b in zip(weight, bias, strict=True)
            ]
            if layer < 2:
                values = [max(value, 0.0) for value in values]
        right += values.index(max(values)) == label
    assert digits.accuracy(network, images, labels) == right / 25


@example(m=5, n=9, density=1 / 3, seed=0)
@given(m=st.integers(2, 12), n=st.integers(2, 12), density=st.floats(0.05, 1), seed=st.integers(0, 9))
def test_baselines_keep_within_the_budget_and_are_best_of_their_kind(m: int, n: int, density: float, seed: int) -> None:
    matrix = np.random.default_rng(seed).standard_normal((m, n))
    budget = min(int(density * (m * n)), int(density * m * n), int(density * n * m))  # as for the two factors
    low_rank, parameters = digits.truncated_svd(matrix, density)
    assert parameters <= budget < parameters + m + n
    tail = np.linalg.svd(matrix, compute_uv=False)[parameters // (m + n) :]  # Eckart-Young
    assert np.isclose(np.linalg.norm(matrix - low_rank), np.linalg.norm(tail))
    if budget >= 1:
        pruned, parameters = digits.largest_entries(matrix, density)
        assert parameters == budget == np.count_nonzero(pruned)
        lost = np.sort(np.abs(matrix), axis=None)[: m * n - budget]
        assert np.isclose(np.linalg.norm(matrix - pruned), np.linalg.norm(lost))


def test_demo_writes_what_it_says(tmp_path: Path, network: dict[str, NDArray[Any]]) -> None:
    folder = tmp_path / "made here"
    code = "import sys; from sparsefact.cli import main; sys.argv = ['sparsefact', 'demo', '-o', sys.argv[1]]; main()"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "two sparse factors" in done.stdout and str(folder) in done.stdout
    files = {density: f"digits-{density}.safetensors" for density in DENSITIES}
    assert {file.name for file in folder.iterdir()} == {"results.json", *files.values()}

    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["verified"] is True and results["images"] == 449 and results["parameters"] == 81920
    images, labels = digits.held_out()
    for density, name in files.items():
        factors, magnitude, svd = (trial for trial in results["trials"] if trial["density"] == density)
        assert [t["method"] for t in (factors, magnitude, svd)] == ["two sparse factors", "magnitude pruning", "SVD"]
        assert all(t["parameters"] <= density * 81920 for t in (factors, magnitude, svd))
        assert factors["error"] < magnitude["error"] < svd["error"]
        # The accuracy again, from the dense product of the factors in the file.
        dense = {**network, **{weight: load(folder / name, weight).todense() for weight in digits.SHRUNK}}
        assert abs(digits.accuracy(dense, images, labels) - factors["accuracy"]) <= 1 / 449
        assert factors["accuracy"] > magnitude["accuracy"] - 0.02


def test_demo_refuses_a_file_as_its_folder(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine", encoding="utf-8")
    done = CliRunner().invoke(app, ["demo", "-o", str(taken)])
    assert done.exit_code == 2 and "Traceback" not in done.output and "taken" in done.stderr
    assert taken.read_text(encoding="utf-8") == "mine"
