"""Train the network of `sparsefact demo`: a perceptron 64-256-256-10 on the digits that scikit-learn bundles.

Plain NumPy: mini-batch Adam with a cosine step size. Pixels are divided by 16 during training and that division is
folded into the first layer afterwards (exactly: 16 is a power of two), so the stored network reads raw pixels. Same
seed, machine and BLAS thread count: same bytes.

    OPENBLAS_NUM_THREADS=1 python benchmarks/train_digits.py      # rewrites the two files of sparsefact/data
    python benchmarks/train_digits.py --output /tmp/digits
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

WIDTHS = (64, 256, 256, 10)
HELD_OUT = 449  # a quarter of the 1797 images
EPOCHS = 60
BATCH = 32
STEP = 1e-3
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
SEED = 0

Array = NDArray[Any]


def forward(weights: list[Array], biases: list[Array], inputs: Array) -> list[Array]:
    """Return the input of every layer, then the logits."""
    values = [inputs]
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        out = values[-1] @ weight.T + bias
        values.append(np.maximum(out, 0) if layer < len(weights) - 1 else out)
    return values


def gradients(weights: list[Array], biases: list[Array], inputs: Array, labels: Array) -> list[Array]:
    """Return the gradient of the mean cross-entropy: one array per weight, then one per bias."""
    values = forward(weights, biases, inputs)
    logits = values[-1] - values[-1].max(axis=1, keepdims=True)
    delta = np.exp(logits)
    delta /= delta.sum(axis=1, keepdims=True)
    delta[np.arange(len(labels)), labels] -= 1
    delta /= len(labels)
    grad_weights: list[Array] = []
    grad_biases: list[Array] = []
    for layer in reversed(range(len(weights))):
        grad_weights.append(delta.T @ values[layer])
        grad_biases.append(delta.sum(axis=0))
        if layer:
            delta = (delta @ weights[layer]) * (values[layer] > 0)
    return grad_weights[::-1] + grad_biases[::-1]


def train(inputs: Array, labels: Array, rng: np.random.Generator) -> tuple[list[Array], list[Array]]:
    """Minimise the mean cross-entropy from a He-normal start; return weights (out, in) and biases."""
    shapes = list(zip(WIDTHS[1:], WIDTHS[:-1], strict=True))
    weights = [(rng.standard_normal(s) * np.sqrt(2 / s[1])).astype(np.float32) for s in shapes]
    biases = [np.zeros(s[0], np.float32) for s in shapes]
    parameters = weights + biases
    first = [np.zeros_like(p) for p in parameters]
    second = [np.zeros_like(p) for p in parameters]
    steps = EPOCHS * -(-len(labels) // BATCH)
    count = 0
    for _ in range(EPOCHS):
        order = rng.permutation(len(labels))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            count += 1
            step = np.float32(STEP * 0.5 * (1 + np.cos(np.pi * count / steps)))
            slopes = gradients(weights, biases, inputs[batch], labels[batch])
            for p, g, m, v in zip(parameters, slopes, first, second, strict=True):
                m += np.float32(1 - BETA1) * (g - m)
                v += np.float32(1 - BETA2) * (g * g - v)
                p -= step * (m / (1 - BETA1**count) / (np.sqrt(v / (1 - BETA2**count)) + EPSILON)).astype(np.float32)
    return weights, biases


def main() -> None:
    """Train, measure on the held-out quarter, write both files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = Path(__file__).resolve().parent.parent / "sparsefact" / "data"
    parser.add_argument("--output", type=Path, default=default, help="folder to write to (default: sparsefact/data)")
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)

    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(labels))
    held, kept = order[:HELD_OUT], order[HELD_OUT:]
    inputs = (images / 16).astype(np.float32)
    weights, biases = train(inputs[kept], labels[kept], rng)
    weights[0] /= 16

    accuracy = {}
    for name, rows in (("training", kept), ("heldout", held)):
        logits = forward(weights, biases, images[rows].astype(np.float32))[-1]
        accuracy[name] = round(float(np.mean(logits.argmax(axis=1) == labels[rows])), 4)
        print(f"{name} accuracy {accuracy[name]:.2%} ({len(rows)} images)")

    tensors = {}
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        tensors[f"layers.{layer}.weight"] = np.ascontiguousarray(weight)
        tensors[f"layers.{layer}.bias"] = bias
    # One metadata key each: the package writes several in no fixed order, and equal runs should give equal bytes.
    network = {"activation": "relu", "input": "64 pixels, 0 to 16", "accuracy": accuracy}
    files = [output / "digits_perceptron.safetensors", output / "digits_heldout.safetensors"]
    save_file(tensors, files[0], {"network": json.dumps(network)})
    split = {"images": images[held].astype(np.uint8), "labels": labels[held].astype(np.int64)}
    save_file(split, files[1], {"images": "8x8 pixels, 0 to 16, row by row"})
    for file in files:
        file.chmod(0o644)  # the package writes them for their owner alone
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
