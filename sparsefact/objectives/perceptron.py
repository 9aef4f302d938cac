"""A small fully connected network as an objective over its named weight matrices, with its gradient by hand.

    A_0 = X,   Z_k = A_{k-1} W_k + b_k,   A_k = activation(Z_k),   the last Z are the scores

    f = mean cross-entropy of softmax(Z) and the labels,   or   1/(2n) ||Z - Y||_F^2,   plus l2/2 of all squared weights

The gradient is back-propagation: D = df/dZ of a layer gives A^T D for its weights, the column sums of D for its biases,
and (D W^T) times the derivative of the activation for the layer below.

Symbols: X (n, d) samples, W_k "weight1", ..., b_k "bias1", ... of shape (1, width), D the gradient in the scores.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.constraints.base import Shape, check_int
from sparsefact.errors import ArgumentError, ShapeError
from sparsefact.objectives.protocol import Smooth, class_labels, features, log_softmax, module_of

__all__ = ["Perceptron"]

# The activation, and its derivative from the activated values.
_ACTIVATIONS: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    "relu": (lambda z, xp: xp.maximum(z, 0), lambda a, xp: (a > 0).astype(a.dtype)),
    "tanh": (lambda z, xp: xp.tanh(z), lambda a, xp: 1 - a * a),
    "sigmoid": (lambda z, xp: 0.5 * (1 + xp.tanh(0.5 * z)), lambda a, xp: a * (1 - a)),
}
_GAIN = {"relu": 2.0, "tanh": 1.0, "sigmoid": 1.0}


@dataclass(frozen=True, eq=False)
class Perceptron(Smooth):
    """The mean loss of a multilayer perceptron, a function of the matrices "weight1", "bias1", "weight2", ...

    Parameters
    ----------
    X : (n, d) array
        Real, finite samples.
    Y : (n,) integer array or (n, c) array
        Labels 0 to classes - 1 for the cross-entropy; targets for the squared loss.
    hidden : tuple of int
        Widths of the hidden layers; () is a linear model.
    activation : {"relu", "tanh", "sigmoid"}
    loss : {"cross-entropy", "squared"}
        The squared loss is half the mean squared norm of the error of a sample.
    l2 : float
        Weight of ``1/2`` the sum of all squared parameters.
    bias : bool
        Whether layers have biases.
    classes : int, optional
        The largest label plus one unless given.

    Attributes
    ----------
    shapes : dict of str to (int, int)
        Names and shapes of the parameters, from the input on: weights (inputs, outputs), biases (1, outputs).

    Raises
    ------
    ArgumentError
        If a label is outside the classes, or an argument is not known.
    ShapeError, DtypeError, NonFiniteError
        If the data do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((40, 8))
    >>> f = sf.Perceptron(X, (X[:, 0] > 0).astype(int), hidden=(16,))
    >>> f.shapes
    {'weight1': (8, 16), 'bias1': (1, 16), 'weight2': (16, 2), 'bias2': (1, 2)}
    >>> solution = sf.minimize(f, {"weight1": sf.TopK(density=0.1)}, sf.Gradient(rule="adam", steps=200))
    >>> sorted(solution.value), int(np.count_nonzero(solution.value["weight1"]))
    (['bias1', 'bias2', 'weight1', 'weight2'], 12)
    """

    X: NDArray[Any]
    Y: NDArray[Any]
    hidden: tuple[int, ...] = (128,)
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"
    loss: Literal["cross-entropy", "squared"] = "cross-entropy"
    l2: float = 0.0
    bias: bool = True
    classes: int | None = None
    shapes: dict[str, Shape] = field(init=False)

    def __post_init__(self) -> None:
        x = features("X", self.X)
        if self.activation not in _ACTIVATIONS:
            raise ArgumentError(f"activation={self.activation!r} is not known; pass 'relu', 'tanh' or 'sigmoid'")
        if not (isinstance(self.l2, (int, float)) and 0 <= self.l2 < np.inf):
            raise ArgumentError(f"l2={self.l2!r} is not allowed; pass a number that is at least 0")
        hidden = (self.hidden,) if isinstance(self.hidden, int) else self.hidden
        hidden = tuple(check_int(f"hidden[{i}]", width) for i, width in enumerate(hidden))
        classes = self.classes
        if self.loss == "cross-entropy":
            y, classes = class_labels(self.Y, x.shape[0], classes)
            outputs = classes
        elif self.loss == "squared":
            y = features("Y", self.Y).astype(x.dtype, copy=False)
            if y.shape[0] != x.shape[0]:
                raise ShapeError(f"Y has {y.shape[0]} rows, but X has {x.shape[0]}; both need one for each sample")
            outputs = int(y.shape[1])
        else:
            raise ArgumentError(f"loss={self.loss!r} is not known; pass 'cross-entropy' or 'squared'")
        widths = (int(x.shape[1]), *hidden, outputs)
        shapes: dict[str, Shape] = {}
        for layer in range(1, len(widths)):
            shapes[f"weight{layer}"] = (widths[layer - 1], widths[layer])
            if self.bias:
                shapes[f"bias{layer}"] = (1, widths[layer])
        for name, value in (("X", x), ("Y", y), ("hidden", hidden), ("classes", classes), ("shapes", shapes)):
            object.__setattr__(self, name, value)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type in which the parameters are computed."""
        return self.X.dtype

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The arrays of the data."""
        return self.X, self.Y

    @property
    def samples(self) -> int:
        """The number of samples."""
        return int(self.X.shape[0])

    @property
    def layers(self) -> int:
        """The number of weight matrices."""
        return len(self.hidden) + 1

    def _with(self, x: Any, y: Any) -> Perceptron:
        # the data were checked once; a batch of them is made in every step
        other = copy.copy(self)
        object.__setattr__(other, "X", x)
        object.__setattr__(other, "Y", y)
        return other

    def on(self, backend: Backend) -> Perceptron:
        """Return the objective with its data on the device of `backend`."""
        return self._with(backend.asarray(self.X), backend.asarray(self.Y))

    def batch(self, rows: NDArray[Any]) -> Perceptron:
        """Return the objective of some of the samples, given by their indices."""
        return self._with(self.X[rows], self.Y[rows])

    def initial(self, seed: int = 0) -> dict[str, NDArray[Any]]:
        """Return parameters to start from: normal weights that keep the variance of a layer's output, zero biases.

        The standard deviation is ``sqrt(2 / inputs)`` before a relu and ``sqrt(1 / inputs)`` otherwise (K. He and
        others, "Delving deep into rectifiers", 2015).
        """
        rng, xp = np.random.default_rng(seed), module_of(self.X)
        start = {}
        for name, shape in self.shapes.items():
            if name.startswith("bias"):
                start[name] = xp.zeros(shape, dtype=self.dtype)
                continue
            gain = _GAIN[self.activation] if name != f"weight{self.layers}" else 1.0
            values = rng.standard_normal(shape) * np.sqrt(gain / shape[0])
            start[name] = xp.asarray(values.astype(self.dtype))
        return start

    def _forward(self, W: Mapping[str, Any], x: Any, xp: Any) -> list[Any]:
        """Return the input of each layer, and the scores last."""
        activate = _ACTIVATIONS[self.activation][0]
        values = [x]
        for layer in range(1, self.layers + 1):
            scores = values[-1] @ W[f"weight{layer}"]
            if self.bias:
                scores += W[f"bias{layer}"]
            values.append(scores if layer == self.layers else activate(scores, xp))
        return values

    def value(self, W: Mapping[str, Any]) -> Any:
        """Return f(W), a real scalar; sums are accumulated in float64."""
        xp = module_of(self.X)
        return self._loss(self._forward(W, self.X, xp)[-1], W, xp)[0]

    def _loss(self, scores: Any, W: Mapping[str, Any], xp: Any) -> tuple[Any, Any]:
        """Return the value, and what the gradient in the scores is made of: log-probabilities, or errors."""
        ridge = 0.5 * self.l2 * sum((W[name] ** 2).sum(dtype=np.float64) for name in self.shapes) if self.l2 else 0.0
        if self.loss == "squared":
            errors = scores - self.Y
            return 0.5 * (errors**2).sum(dtype=np.float64) / self.samples + ridge, errors
        logs = log_softmax(scores, xp)
        fit = -logs[xp.arange(self.samples), self.Y].sum(dtype=np.float64) / self.samples
        return fit + ridge, logs

    def value_and_gradient(self, W: Mapping[str, Any]) -> tuple[Any, dict[str, NDArray[Any]]]:
        """Return f(W) and the gradient in every parameter."""
        xp = module_of(self.X)
        derivative = _ACTIVATIONS[self.activation][1]
        values = self._forward(W, self.X, xp)
        value, error = self._loss(values.pop(), W, xp)
        if self.loss == "cross-entropy":
            error = xp.exp(error)
            error[xp.arange(self.samples), self.Y] -= 1
        error /= self.samples
        gradient = {}
        for layer in range(self.layers, 0, -1):
            inputs = values.pop()
            gradient[f"weight{layer}"] = inputs.T @ error
            if self.bias:
                gradient[f"bias{layer}"] = error.sum(axis=0, keepdims=True)
            if layer > 1:
                error = error @ W[f"weight{layer}"].T
                error *= derivative(inputs, xp)
        if self.l2:
            for name in self.shapes:
                gradient[name] += self.dtype.type(self.l2) * W[name]
        return value, {name: gradient[name] for name in self.shapes}

    def scores(self, W: Mapping[str, Any], X: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the outputs (n, c) of the network for the samples `X`, or for the data."""
        x = self.X if X is None else X.astype(self.dtype, copy=False)
        outputs: NDArray[Any] = self._forward(W, x, module_of(x))[-1]
        return outputs

    def predict(self, W: Mapping[str, Any], X: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the most probable class of each sample of `X`, or of the data."""
        classes: NDArray[Any] = self.scores(W, X).argmax(axis=1)
        return classes
