"""sparsefact: a matrix as a product of sparse ones.

The public names are loaded on first use, so that ``import sparsefact`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsefact import transforms as transforms
    from sparsefact.analysis.certificates import Certificate
    from sparsefact.analysis.closedness import Closedness, closedness
    from sparsefact.analysis.deep_closedness import deep_closedness
    from sparsefact.analysis.landscape import Landscape, landscape
    from sparsefact.analysis.probe_closedness import probe_closedness
    from sparsefact.analysis.relu import relu_training_wellposed
    from sparsefact.analysis.tractability import Tractability, tractability
    from sparsefact.checkpoints.factor_file import load
    from sparsefact.constraints.block_top_k import BlockTopK
    from sparsefact.constraints.chain import Chain
    from sparsefact.constraints.dense import Dense
    from sparsefact.constraints.double_sparse import DoubleSparse, double_sparse
    from sparsefact.constraints.kronecker_support import KroneckerSupport
    from sparsefact.constraints.low_rank import LowRank
    from sparsefact.constraints.n_of_m import NOfM
    from sparsefact.constraints.sparse_plus_low_rank import SparsePlusLowRank, sparse_plus_low_rank
    from sparsefact.constraints.support import Support
    from sparsefact.constraints.top_k import TopK
    from sparsefact.factorizers.als import AlternatingLeastSquares
    from sparsefact.factorizers.alternating import Alternating
    from sparsefact.factorizers.alternating_sum import AlternatingSum
    from sparsefact.factorizers.block_coordinate import BlockCoordinateDescent
    from sparsefact.factorizers.butterfly_permutations import butterfly_with_permutations
    from sparsefact.factorizers.cross import CrossApproximation
    from sparsefact.factorizers.factorize import factorize
    from sparsefact.factorizers.hierarchical import Hierarchical
    from sparsefact.factorizers.hierarchical_palm import HierarchicalPALM
    from sparsefact.factorizers.palm import PALM
    from sparsefact.factorizers.probe_landscape import LandscapeProbe, probe_landscape
    from sparsefact.factorizers.submatrix_svd import SubmatrixSVD
    from sparsefact.minimizers.acdc import ACDC
    from sparsefact.minimizers.admm import ADMM
    from sparsefact.minimizers.conjugate_gradient import ConjugateGradient
    from sparsefact.minimizers.deep_weight_factorization import DeepWeightFactorization
    from sparsefact.minimizers.gradient import Gradient
    from sparsefact.minimizers.iht import IHT
    from sparsefact.minimizers.matching_pursuit import MatchingPursuit
    from sparsefact.minimizers.minimize import Solution, minimize
    from sparsefact.minimizers.powerpropagation import Powerpropagation
    from sparsefact.minimizers.proximal_gradient import ProximalGradient
    from sparsefact.minimizers.reduced_rank import ReducedRank
    from sparsefact.minimizers.regularization_path import regularization_path
    from sparsefact.minimizers.sequential_attention import SequentialAttention
    from sparsefact.objectives.least_squares import LeastSquares
    from sparsefact.objectives.logistic_regression import LogisticRegression
    from sparsefact.objectives.perceptron import Perceptron
    from sparsefact.objectives.protocol import Objective
    from sparsefact.objectives.quadratic import Quadratic
    from sparsefact.products.entries import Entries
    from sparsefact.products.factorization import Factorization
    from sparsefact.products.factors import KroneckerFactor
    from sparsefact.products.status import Status

__version__ = "0.1.0"

_HOME = {
    "ACDC": "sparsefact.minimizers.acdc",
    "ADMM": "sparsefact.minimizers.admm",
    "Alternating": "sparsefact.factorizers.alternating",
    "AlternatingLeastSquares": "sparsefact.factorizers.als",
    "AlternatingSum": "sparsefact.factorizers.alternating_sum",
    "BlockCoordinateDescent": "sparsefact.factorizers.block_coordinate",
    "BlockTopK": "sparsefact.constraints.block_top_k",
    "Certificate": "sparsefact.analysis.certificates",
    "Chain": "sparsefact.constraints.chain",
    "Closedness": "sparsefact.analysis.closedness",
    "ConjugateGradient": "sparsefact.minimizers.conjugate_gradient",
    "CrossApproximation": "sparsefact.factorizers.cross",
    "DeepWeightFactorization": "sparsefact.minimizers.deep_weight_factorization",
    "Dense": "sparsefact.constraints.dense",
    "DoubleSparse": "sparsefact.constraints.double_sparse",
    "Entries": "sparsefact.products.entries",
    "Factorization": "sparsefact.products.factorization",
    "Gradient": "sparsefact.minimizers.gradient",
    "Hierarchical": "sparsefact.factorizers.hierarchical",
    "HierarchicalPALM": "sparsefact.factorizers.hierarchical_palm",
    "IHT": "sparsefact.minimizers.iht",
    "KroneckerFactor": "sparsefact.products.factors",
    "KroneckerSupport": "sparsefact.constraints.kronecker_support",
    "Landscape": "sparsefact.analysis.landscape",
    "LandscapeProbe": "sparsefact.factorizers.probe_landscape",
    "LeastSquares": "sparsefact.objectives.least_squares",
    "LogisticRegression": "sparsefact.objectives.logistic_regression",
    "MatchingPursuit": "sparsefact.minimizers.matching_pursuit",
    "LowRank": "sparsefact.constraints.low_rank",
    "NOfM": "sparsefact.constraints.n_of_m",
    "Objective": "sparsefact.objectives.protocol",
    "PALM": "sparsefact.factorizers.palm",
    "Perceptron": "sparsefact.objectives.perceptron",
    "Powerpropagation": "sparsefact.minimizers.powerpropagation",
    "ProximalGradient": "sparsefact.minimizers.proximal_gradient",
    "Quadratic": "sparsefact.objectives.quadratic",
    "ReducedRank": "sparsefact.minimizers.reduced_rank",
    "SequentialAttention": "sparsefact.minimizers.sequential_attention",
    "Solution": "sparsefact.minimizers.minimize",
    "SparsePlusLowRank": "sparsefact.constraints.sparse_plus_low_rank",
    "Status": "sparsefact.products.status",
    "SubmatrixSVD": "sparsefact.factorizers.submatrix_svd",
    "Support": "sparsefact.constraints.support",
    "TopK": "sparsefact.constraints.top_k",
    "Tractability": "sparsefact.analysis.tractability",
    "butterfly_with_permutations": "sparsefact.factorizers.butterfly_permutations",
    "closedness": "sparsefact.analysis.closedness",
    "deep_closedness": "sparsefact.analysis.deep_closedness",
    "double_sparse": "sparsefact.constraints.double_sparse",
    "factorize": "sparsefact.factorizers.factorize",
    "landscape": "sparsefact.analysis.landscape",
    "load": "sparsefact.checkpoints.factor_file",
    "minimize": "sparsefact.minimizers.minimize",
    "probe_closedness": "sparsefact.analysis.probe_closedness",
    "probe_landscape": "sparsefact.factorizers.probe_landscape",
    "regularization_path": "sparsefact.minimizers.regularization_path",
    "relu_training_wellposed": "sparsefact.analysis.relu",
    "sparse_plus_low_rank": "sparsefact.constraints.sparse_plus_low_rank",
    "tractability": "sparsefact.analysis.tractability",
}

__all__ = [
    "ACDC",
    "ADMM",
    "IHT",
    "PALM",
    "Alternating",
    "AlternatingLeastSquares",
    "AlternatingSum",
    "BlockCoordinateDescent",
    "BlockTopK",
    "Certificate",
    "Chain",
    "Closedness",
    "ConjugateGradient",
    "CrossApproximation",
    "DeepWeightFactorization",
    "Dense",
    "DoubleSparse",
    "Entries",
    "Factorization",
    "Gradient",
    "Hierarchical",
    "HierarchicalPALM",
    "KroneckerFactor",
    "KroneckerSupport",
    "Landscape",
    "LandscapeProbe",
    "LeastSquares",
    "LogisticRegression",
    "LowRank",
    "MatchingPursuit",
    "NOfM",
    "Objective",
    "Perceptron",
    "Powerpropagation",
    "ProximalGradient",
    "Quadratic",
    "ReducedRank",
    "SequentialAttention",
    "Solution",
    "SparsePlusLowRank",
    "Status",
    "SubmatrixSVD",
    "Support",
    "TopK",
    "Tractability",
    "__version__",
    "butterfly_with_permutations",
    "closedness",
    "deep_closedness",
    "double_sparse",
    "factorize",
    "landscape",
    "load",
    "minimize",
    "probe_closedness",
    "probe_landscape",
    "regularization_path",
    "relu_training_wellposed",
    "sparse_plus_low_rank",
    "tractability",
    "transforms",
]


def __getattr__(name: str) -> Any:
    if name == "transforms":  # a room of its own names, which importing it makes an attribute
        return importlib.import_module("sparsefact.transforms")
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'sparsefact' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
