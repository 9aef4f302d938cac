"""The other libraries' ways that more than one case takes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.case import Attempt, plain
from benchmarks.worker import Make

LAZYLINOP = ("lazylinop", "pandas", "einops", "psutil", "array_api_compat")


def of_path(make: Make, name: str) -> Callable[[Any], Attempt]:
    """Return what prepares the path of that name; the input has a `matrix` and the `patterns` of a chain."""

    def prepare(problem: Any) -> Attempt:
        paths = {path.name: path for path in make(problem.matrix, problem.patterns)}
        if name not in paths:
            raise LookupError(f"{name} does not take this chain")
        return Attempt(paths[name].solve, paths[name].factors)

    return prepare


def palm(A: NDArray[Any], projections: Callable[[Any], Sequence[Any]], iterations: int) -> Attempt:
    """Return pyfaust's palm4msa (backend 2020) with one projection for each factor, left to right.

    ``projections(pyfaust.proj)`` makes them.
    """
    fact, proj = importlib.import_module("pyfaust.fact"), importlib.import_module("pyfaust.proj")
    factparams = importlib.import_module("pyfaust.factparams")
    parameters = factparams.ParamsPalm4MSA(list(projections(proj)), factparams.StoppingCriterion(num_its=iterations))
    return Attempt(lambda: fact.palm4msa(A, parameters, backend=2020), factors_of_faust)


def factors_of_faust(faust: Any) -> list[Any]:
    """Return the factors of a Faust as CSR arrays."""
    return [plain(faust.factors(j)) for j in range(faust.numfactors())]


def low_rank(U: Any, s: Any, Vh: Any) -> list[Any]:
    """Return two dense factors of a truncated SVD as CSR arrays, the singular values in the left one."""
    return [plain(np.asarray(U) * np.asarray(s)), plain(np.asarray(Vh))]
