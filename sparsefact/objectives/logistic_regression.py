"""Multinomial logistic regression: the mean cross-entropy of a softmax, with a ridge.

    f(W) = -1/n sum_i log softmax(x_i W)[label_i] + l2/2 ||W||_F^2

The intercept is the last row of W, for a feature that is 1 everywhere, and is regularised like the rest.

The Hessian of log-sum-exp at probabilities p is diag(p) - p p^T, at most 1/2 in norm, so the gradient's Lipschitz
constant is at most ``1/2 lambda_max(X^T X / n) + l2`` with the feature of ones included (D. Bohning, "Multinomial
logistic regression algorithm", 1992).

Symbols: X (n, p) samples with the feature of ones, W (p, c), P (n, c) probabilities, T (n, c) one-hot labels.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.constraints.base import Shape
from sparsefact.errors import ArgumentError
from sparsefact.objectives.protocol import Smooth, class_labels, features, log_softmax, module_of

__all__ = ["LogisticRegression"]


@dataclass(frozen=True, eq=False)
class LogisticRegression(Smooth):
    """Mean cross-entropy of a linear classifier, plus ``l2 / 2 ||W||^2``.

    Parameters
    ----------
    X : (n, p) array
        Real, finite samples.
    labels : (n,) integer array
        The class of each sample, 0 to classes - 1.
    l2 : float
        Weight of the ridge, at least 0. At 0 a separable problem has no minimiser.
    intercept : bool
        Append a feature of ones: W then has p + 1 rows, the last of which is the intercept.
    classes : int, optional
        The largest label plus one unless given.

    Raises
    ------
    ArgumentError
        If a label is outside the classes, or `l2` is negative.
    ShapeError, DtypeError, NonFiniteError
        If the data do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> X, labels = np.array([[-2.0, 0.3], [-1.0, -0.2], [1.0, 0.1], [2.0, -0.3]]), np.array([0, 0, 1, 1])
    >>> f = sf.LogisticRegression(X, labels, l2=0.1)
    >>> f.shape
    (3, 2)
    >>> W = sf.minimize(f, sf.TopK(nnz=2)).value
    >>> f.predict(W).tolist()
    [0, 0, 1, 1]
    """

    X: NDArray[Any]
    labels: NDArray[Any]
    l2: float = 0.0
    intercept: bool = True
    classes: int | None = None
    _design: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        x = features("X", self.X)
        labels, classes = class_labels(self.labels, x.shape[0], self.classes)
        if not (isinstance(self.l2, (int, float)) and 0 <= self.l2 < np.inf):
            raise ArgumentError(f"l2={self.l2!r} is not allowed; pass a number that is at least 0")
        xp = module_of(x, labels)
        if self.intercept:
            x = xp.concatenate([x, xp.ones((x.shape[0], 1), dtype=x.dtype)], axis=1)
        for name, value in (("labels", labels), ("classes", classes), ("_design", x)):
            object.__setattr__(self, name, value)

    @property
    def shape(self) -> Shape:
        """The shape of W: features (with the intercept) by classes."""
        assert self.classes is not None  # set by __post_init__
        return int(self._design.shape[1]), self.classes

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type in which W is computed."""
        dtype: np.dtype[Any] = self._design.dtype
        return dtype

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The arrays of the data."""
        return self.X, self.labels

    @property
    def samples(self) -> int:
        """The number of samples."""
        return int(self._design.shape[0])

    def on(self, backend: Backend) -> LogisticRegression:
        """Return the objective with its data on the device of `backend`."""
        return self._with(*(backend.asarray(array) for array in (self.X, self.labels, self._design)))

    def batch(self, rows: NDArray[Any]) -> LogisticRegression:
        """Return the objective of some of the samples, given by their indices."""
        return self._with(self.X[rows], self.labels[rows], self._design[rows])

    def _with(self, x: Any, labels: Any, design: Any) -> LogisticRegression:
        # the data were checked once; a batch of them is made in every step
        other = copy.copy(self)
        for name, value in (("X", x), ("labels", labels), ("_design", design)):
            object.__setattr__(other, name, value)
        return other

    def value(self, W: NDArray[Any]) -> Any:
        """Return f(W), a real scalar; sums are accumulated in float64."""
        xp = module_of(self._design)
        logs = log_softmax(self._design @ W, xp)
        return self._value(logs, W, xp)

    def value_and_gradient(self, W: NDArray[Any]) -> tuple[Any, NDArray[Any]]:
        """Return f(W) and ``X^T (P - T) / n + l2 W``."""
        xp = module_of(self._design)
        logs = log_softmax(self._design @ W, xp)
        value = self._value(logs, W, xp)
        error = xp.exp(logs)
        error[xp.arange(self.samples), self.labels] -= 1
        gradient = self._design.T @ error
        gradient /= self.samples
        gradient += W.dtype.type(self.l2) * W
        return value, gradient

    def _value(self, logs: NDArray[Any], W: NDArray[Any], xp: Any) -> Any:
        fit = -logs[xp.arange(self.samples), self.labels].sum(dtype=np.float64) / self.samples
        return fit + 0.5 * self.l2 * (W**2).sum(dtype=np.float64)

    def hessian(self, W: NDArray[Any], rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[Any]:
        """Return the second derivatives between the entries ``(rows[k], columns[k])`` of W, (s, s)."""
        xp = module_of(self._design)
        probabilities = xp.exp(log_softmax(self._design @ W, xp))
        inputs, chances = self._design[:, rows], probabilities[:, columns]
        weighted = inputs * chances
        same = columns[:, None] == columns[None, :]
        result: NDArray[Any] = xp.where(same, inputs.T @ weighted, 0) - weighted.T @ weighted
        result /= self.samples
        result.reshape(-1)[:: rows.size + 1] += result.dtype.type(self.l2)
        return result

    def lipschitz(self) -> float:
        """Return ``1/2 lambda_max(X^T X / n) + l2``, a guaranteed bound."""
        x = self._design
        smaller = x.T @ x if x.shape[1] <= x.shape[0] else x @ x.T
        largest = float(module_of(x).linalg.eigvalsh(smaller)[-1]) / self.samples
        return 0.5 * largest * (1 + 1e-6) + self.l2

    def predict(self, W: NDArray[Any], X: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the most probable class of each sample of `X`, or of the data."""
        scores = self._design @ W if X is None else X @ W[: X.shape[1]] + (W[-1] if self.intercept else 0)
        classes: NDArray[Any] = scores.argmax(axis=1)
        return classes
