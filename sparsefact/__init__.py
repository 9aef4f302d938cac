"""sparsefact: a matrix as a product of sparse ones.

The public names are loaded on first use, so that ``import sparsefact`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsefact.constraints.block_top_k import BlockTopK
    from sparsefact.constraints.dense import Dense
    from sparsefact.constraints.double_sparse import DoubleSparse, double_sparse
    from sparsefact.constraints.kronecker_support import KroneckerSupport
    from sparsefact.constraints.n_of_m import NOfM
    from sparsefact.constraints.support import Support
    from sparsefact.constraints.top_k import TopK
    from sparsefact.factorizers.alternating import Alternating
    from sparsefact.factorizers.factorize import factorize
    from sparsefact.minimizers.admm import ADMM
    from sparsefact.minimizers.minimize import Solution, minimize
    from sparsefact.objectives.quadratic import Quadratic
    from sparsefact.products.factorization import Factorization
    from sparsefact.products.factors import KroneckerFactor
    from sparsefact.products.status import Status
    from sparsefact.products.storage import load

__version__ = "0.1.0"

_HOME = {
    "ADMM": "sparsefact.minimizers.admm",
    "Alternating": "sparsefact.factorizers.alternating",
    "BlockTopK": "sparsefact.constraints.block_top_k",
    "Dense": "sparsefact.constraints.dense",
    "DoubleSparse": "sparsefact.constraints.double_sparse",
    "Factorization": "sparsefact.products.factorization",
    "KroneckerFactor": "sparsefact.products.factors",
    "KroneckerSupport": "sparsefact.constraints.kronecker_support",
    "NOfM": "sparsefact.constraints.n_of_m",
    "Quadratic": "sparsefact.objectives.quadratic",
    "Solution": "sparsefact.minimizers.minimize",
    "Status": "sparsefact.products.status",
    "Support": "sparsefact.constraints.support",
    "TopK": "sparsefact.constraints.top_k",
    "double_sparse": "sparsefact.constraints.double_sparse",
    "factorize": "sparsefact.factorizers.factorize",
    "load": "sparsefact.products.storage",
    "minimize": "sparsefact.minimizers.minimize",
}

__all__ = [
    "ADMM",
    "Alternating",
    "BlockTopK",
    "Dense",
    "DoubleSparse",
    "Factorization",
    "KroneckerFactor",
    "KroneckerSupport",
    "NOfM",
    "Quadratic",
    "Solution",
    "Status",
    "Support",
    "TopK",
    "__version__",
    "double_sparse",
    "factorize",
    "load",
    "minimize",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'sparsefact' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
