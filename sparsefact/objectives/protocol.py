"""What an objective is: a smooth function of a matrix, or of several named ones, with its gradient.

A user's objective needs one attribute and one method:

    shape                          (rows, columns) of its matrix; or
    shapes                         a mapping from names to shapes, when it has several
    value_and_gradient(W)          the value, a real scalar, and the gradient, shaped like W (a dict when W is one)

Whatever else it has is used where it helps, and done without where it is missing:

    value(W), gradient(W)          one of the two alone
    dtype                          of the unknown; float64 unless given
    lipschitz()                    a guaranteed upper bound of the gradient's Lipschitz constant, or None
    hessian(W, rows, columns)      second derivatives (s, s) between s entries of one matrix
    initial(seed)                  where to start without an `init`
    arrays                         the data, NumPy or CuPy arrays: they say where the computation happens
    on(backend)                    the same objective with its data on another backend
    samples, batch(rows)           the number of samples of a mean, and the objective of some of them

`Smooth` gives the objectives of this package what follows from `value_and_gradient`.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.backends.registry import get_backend
from sparsefact.constraints.base import as_matrix, check_int, is_sparse
from sparsefact.errors import ArgumentError, DtypeError, ShapeError

__all__ = ["Objective", "Smooth"]


@runtime_checkable
class Objective(Protocol):
    """The least a user brings: a shape (or `shapes`, of several matrices), and the value with its gradient.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> class Rosenbrock:
    ...     shape = (2, 1)
    ...     def value_and_gradient(self, W):
    ...         (x,), (y,) = W
    ...         value = (1 - x) ** 2 + 100 * (y - x**2) ** 2
    ...         return value, np.array([[-2 * (1 - x) - 400 * x * (y - x**2)], [200 * (y - x**2)]])
    >>> isinstance(Rosenbrock(), sf.Objective)
    True
    >>> solution = sf.minimize(Rosenbrock(), sf.Dense(), sf.IHT(variant="htp"), init=np.zeros((2, 1)))
    >>> bool(np.allclose(solution.value, 1, atol=1e-4))
    True
    """

    def value_and_gradient(self, W: Any) -> tuple[Any, Any]:
        """Return the value at `W`, a real scalar, and the gradient, of the shape of `W`."""
        ...


class Smooth:
    """What follows from `value_and_gradient`, and the defaults of what an objective may offer."""

    def value_and_gradient(self, W: Any) -> tuple[Any, Any]:
        """Return the value and the gradient at `W`."""
        raise NotImplementedError

    def value(self, W: Any) -> Any:
        """Return the value at `W`, a real scalar."""
        return self.value_and_gradient(W)[0]

    def gradient(self, W: Any) -> Any:
        """Return the gradient at `W`, of its shape."""
        return self.value_and_gradient(W)[1]

    def lipschitz(self) -> float | None:
        """Return a guaranteed upper bound of the gradient's Lipschitz constant, or None: there is none."""
        return None

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The arrays of the data."""
        return ()

    def on(self, backend: Backend) -> Any:
        """Return the objective with its data on the device of `backend`."""
        return self


def features(name: str, x: Any) -> NDArray[Any]:
    """Return the samples `x` as a finite real matrix (samples, features) of float32 or float64, or refuse it."""
    array = as_matrix(name, x)
    if array.dtype.kind == "c":
        raise DtypeError(f"{name} has dtype {array.dtype}; this loss is real, pass {name}.real or another objective")
    if 0 in array.shape:
        raise ShapeError(f"{name} has shape {tuple(array.shape)}; at least one sample and one feature are needed")
    return array if array.dtype.itemsize >= 4 else array.astype(np.float32)


def class_labels(labels: Any, samples: int, classes: int | None) -> tuple[Any, int]:
    """Return labels as an integer array on their device, and the number of classes; or refuse them.

    Raises
    ------
    DtypeError
        If they are not integers.
    ShapeError
        If they are not one per sample.
    ArgumentError
        If one is negative, or not below the number of classes.
    """
    if is_sparse(labels):
        raise DtypeError("labels is sparse; pass a 1-D array with the class of every sample, 0, 1, ...")
    array = labels if hasattr(labels, "dtype") and hasattr(labels, "ndim") else np.asarray(labels)
    if array.dtype.kind not in "iu":
        raise DtypeError(
            f"labels has dtype {array.dtype}; they are the integers 0, 1, ... of the classes, "
            "for instance numpy.unique(labels, return_inverse=True)[1]"
        )
    if array.shape != (samples,):
        raise ShapeError(f"labels has shape {tuple(array.shape)}, but there are {samples} samples; pass one for each")
    low, high = int(array.min()), int(array.max())
    count = high + 1 if classes is None else check_int("classes", classes, 1)
    if low < 0 or high >= count:
        wrong = low if low < 0 else high
        raise ArgumentError(
            f"labels holds {wrong}, which is none of the {count} classes 0 to {count - 1}; "
            "renumber the labels or pass classes="
        )
    if count < 2:
        raise ArgumentError("labels holds one class only; at least two are needed, or pass classes=")
    return array.astype(np.int64), count


def log_softmax(scores: NDArray[Any], xp: Any) -> NDArray[Any]:
    """Return the logarithms of the softmax of every row."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    result: NDArray[Any] = shifted - xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))
    return result


def module_of(*arrays: Any) -> Any:
    """Return the array module (numpy or cupy) of the arrays."""
    return get_backend(*arrays).xp
