"""Any objective as solvers see it: a function of one array, checked whenever it answers.

An objective of several named matrices becomes a function of one flat row (1, N) that holds them one after the other,
and their constraints become one constraint of that row; so every solver works on one array. `pieces` gives the named
matrices as views of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.backends.registry import get_backend
from sparsefact.constraints.base import Constraint, Projection, Shape, check_shape
from sparsefact.constraints.dense import Dense
from sparsefact.constraints.top_k import TopK
from sparsefact.errors import ArgumentError, NonFiniteError, ShapeError

__all__ = ["Adapted", "NamedConstraint", "evaluate", "joined", "pieces"]


class Adapted:
    """A user's objective, or one of the package, as a function of one array.

    Attributes
    ----------
    user : object
        The objective itself.
    shapes : dict of str to (int, int), or None
        The named matrices, where there are several.
    shape : (int, int)
        Of the one array: (1, N) for several matrices.
    where : str
        What led to the point that is evaluated, for sentences about what comes back.
    """

    def __init__(self, user: Any, backend: Backend, dtype: np.dtype[Any]) -> None:
        self.user, self.backend, self.dtype = user, backend, dtype
        self.where = "at the start"
        self.shapes: dict[str, Shape] | None = None
        if getattr(user, "shapes", None) is not None:
            self.shapes = named_shapes(user)
            self.shape: Shape = (1, sum(m * n for m, n in self.shapes.values()))
        else:
            self.shape = check_shape(user.shape, f"{type(user).__name__}.shape")

    def given(self, w: NDArray[Any]) -> Any:
        """Return the array as the objective takes it: itself, or a dict of named views."""
        return w if self.shapes is None else pieces(w, self.shapes)

    def value_and_gradient(self, w: NDArray[Any]) -> tuple[Any, NDArray[Any]]:
        """Return the value and the gradient, of the shape and type of `w`."""
        answer = self.user.value_and_gradient(self.given(w))
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise ArgumentError(
                f"value_and_gradient of {self._name} returned a {type(answer).__name__} {self.where}; "
                "it must return a pair, the value and the gradient"
            )
        value, gradient = answer
        self._check_scalar(value)
        return value, self._gradient(gradient)

    def value(self, w: NDArray[Any]) -> Any:
        """Return the value alone."""
        if not hasattr(self.user, "value"):
            return self.value_and_gradient(w)[0]
        value = self.user.value(self.given(w))
        self._check_scalar(value)
        return value

    def gradient(self, w: NDArray[Any]) -> NDArray[Any]:
        """Return the gradient alone, of the shape and type of `w`."""
        if not hasattr(self.user, "gradient"):
            return self.value_and_gradient(w)[1]
        return self._gradient(self.user.gradient(self.given(w)))

    def lipschitz(self) -> float | None:
        """Return a guaranteed bound of the gradient's Lipschitz constant, or None."""
        if not hasattr(self.user, "lipschitz"):
            return None
        bound = self.user.lipschitz()
        if bound is None:
            return None
        if not (float(bound) >= 0 and math.isfinite(float(bound))):
            raise ArgumentError(
                f"lipschitz() of {self._name} returned {bound!r}; return a number of at least 0 or None"
            )
        return float(bound)

    def hessian(self, w: NDArray[Any], rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[Any] | None:
        """Return second derivatives between entries of the one matrix, or None where the objective has none."""
        if self.shapes is not None or not hasattr(self.user, "hessian"):
            return None
        found: NDArray[Any] = self.user.hessian(w, rows, columns)
        return found

    def initial(self, seed: int) -> NDArray[Any] | None:
        """Return where the objective says to start, or None."""
        if not hasattr(self.user, "initial"):
            return None
        return self.taken(self.user.initial(seed), "initial")

    @property
    def samples(self) -> int | None:
        """The number of samples, where the objective is a mean that can be taken over some of them."""
        return int(self.user.samples) if hasattr(self.user, "batch") else None

    def batch(self, rows: Any) -> Adapted:
        """Return the objective of some of the samples."""
        part = Adapted.__new__(Adapted)
        part.__dict__.update(self.__dict__)
        part.user = self.user.batch(rows)
        return part

    def taken(self, x: Any, name: str) -> NDArray[Any]:
        """Return a matrix, or a dict of named ones, as a new array of the shape and type of the unknown."""
        if self.shapes is not None:
            return joined(x, self.shapes, self.backend, self.dtype, name)
        array = self.backend.asarray(x)
        if tuple(array.shape) != self.shape:
            raise ShapeError(
                f"{name} has shape {tuple(array.shape)}, but the unknown has shape {self.shape}; they must agree"
            )
        taken: NDArray[Any] = array.astype(self.dtype)
        return taken

    @property
    def _name(self) -> str:
        return type(self.user).__name__

    def _check_scalar(self, value: Any) -> None:
        if getattr(value, "shape", ()) != () or isinstance(value, (complex, np.complexfloating)):
            what = (
                f"shape {tuple(value.shape)}" if getattr(value, "shape", ()) != () else f"type {type(value).__name__}"
            )
            raise ShapeError(
                f"value_and_gradient of {self._name} returned a value of {what} {self.where}; return one real number"
            )

    def _gradient(self, gradient: Any) -> NDArray[Any]:
        name = f"the gradient that {self._name} returned {self.where}"
        if self.shapes is not None:
            return joined(gradient, self.shapes, self.backend, self.dtype, name)
        shape = tuple(np.shape(gradient))
        if shape != self.shape:
            raise ShapeError(f"{name} has shape {shape}, but the unknown has shape {self.shape}; they must agree")
        array: NDArray[Any] = self.backend.asarray(gradient)
        return array if array.dtype == self.dtype else array.astype(self.dtype)


def evaluate(objective: Any, w: NDArray[Any], backend: Backend, where: str) -> tuple[float, NDArray[Any]]:
    """Return the value, as a Python number, and the gradient at `w`; the host waits once.

    Parameters
    ----------
    objective : Adapted or Quadratic
    w : array
    backend : Backend
    where : str
        For the sentence about an answer that is not finite, such as "at iteration 3, after a step of length 0.1".

    Raises
    ------
    NonFiniteError
        If the value or the gradient is not finite.
    """
    value, gradient = measure(objective, w, backend, where)
    if not math.isfinite(value):
        raise not_finite(objective, where)
    return value, gradient


def not_finite(objective: Any, where: str) -> NonFiniteError:
    """Return the error of an objective whose answer is not finite."""
    return NonFiniteError(
        f"{type(getattr(objective, 'user', objective)).__name__} returned a value or a gradient that is not finite "
        f"{where}; check it there, start elsewhere (init=), or take shorter steps"
    )


def measure(objective: Any, w: NDArray[Any], backend: Backend, where: str) -> tuple[float, NDArray[Any]]:
    """Return what `evaluate` does, with a value of NaN where something is not finite."""
    value, gradient = ask(objective, w, where)
    with np.errstate(over="ignore", invalid="ignore"):
        number, total = backend.floats(value, abs(gradient).max() if gradient.size else 0.0)
    return (number if math.isfinite(total) else math.nan), gradient


def ask(objective: Any, w: NDArray[Any], where: str) -> tuple[Any, NDArray[Any]]:
    """Return the value, a scalar of the backend, and the gradient, finite or not; the host does not wait."""
    if isinstance(objective, Adapted):
        objective.where = where
    # a trial step may be far too long, which the caller sees
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        value, gradient = objective.value_and_gradient(w)
    return value, gradient


def dot(a: NDArray[Any], b: NDArray[Any]) -> Any:
    """Return the real inner product of two arrays, a scalar of the backend in float64."""
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    return (a.conj() * b).sum(dtype=wide).real


def named_shapes(user: Any) -> dict[str, Shape]:
    """Return the shapes of an objective of several matrices, or refuse them."""
    name = f"{type(user).__name__}.shapes"
    if not isinstance(user.shapes, Mapping) or not user.shapes:
        raise ArgumentError(
            f"{name} is a {type(user.shapes).__name__}; it must map the name of each matrix to its shape"
        )
    return {str(key): check_shape(shape, f"{name}[{key!r}]") for key, shape in user.shapes.items()}


def pieces(w: NDArray[Any], shapes: Mapping[str, Shape]) -> dict[str, NDArray[Any]]:
    """Return the named matrices in a flat row, views of it."""
    flat, start, found = w.reshape(-1), 0, {}
    for name, (m, n) in shapes.items():
        found[name] = flat[start : start + m * n].reshape(m, n)
        start += m * n
    return found


def joined(parts: Any, shapes: Mapping[str, Shape], backend: Backend, dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """Return named matrices as one new flat row, or refuse them."""
    if not isinstance(parts, Mapping):
        raise ArgumentError(f"{name} is a {type(parts).__name__}; it must be a dict of the matrices {_names(shapes)}")
    if set(parts) != set(shapes):
        raise ArgumentError(f"{name} has the matrices {_names(parts)}; it must have exactly {_names(shapes)}")
    flat = []
    for key, shape in shapes.items():
        found = tuple(np.shape(parts[key]))
        if found != shape:
            raise ShapeError(f"{name} has shape {found} for {key!r}, but the unknown has {shape}; they must agree")
        flat.append(backend.asarray(parts[key]).reshape(-1).astype(dtype, copy=False))
    row: NDArray[Any] = backend.xp.concatenate(flat)[None]
    return row


def _names(names: Any) -> str:
    return ", ".join(repr(name) for name in names)


class NamedConstraint(Projection):
    """The constraints of several named matrices, as one of the flat row that holds them."""

    __slots__ = ("constraints", "shapes")

    def __init__(self, constraints: Any, shapes: dict[str, Shape]) -> None:
        """Take a constraint for each matrix, none where one is missing or None.

        Raises
        ------
        ArgumentError
            If a name is unknown, or something is not a constraint.
        """
        if not isinstance(constraints, Mapping):
            raise ArgumentError(
                f"constraint is a {type(constraints).__name__}, but the objective has the matrices {_names(shapes)}; "
                "pass a dict with a constraint for each that has one, or one TopK for all of them together"
            )
        unknown = [name for name in constraints if name not in shapes]
        if unknown:
            raise ArgumentError(
                f"constraint has a matrix {unknown[0]!r}, but the objective has {_names(shapes)}; use these names"
            )
        self.shapes, self.constraints = shapes, {}
        for name, shape in shapes.items():
            each = constraints.get(name)
            each = Dense() if each is None else each
            if not isinstance(each, Constraint):
                raise ArgumentError(
                    f"constraint[{name!r}] is a {type(each).__name__}; pass one such as sparsefact.TopK(density=0.1), "
                    "or None"
                )
            each.count(shape)
            self.constraints[name] = each

    @property
    def T(self) -> NamedConstraint:
        """The constraint itself: a flat row is not transposed."""
        return self

    def count(self, shape: Shape) -> int:
        """Return how many entries of all matrices may be nonzero."""
        return sum(each.count(self.shapes[name]) for name, each in self.constraints.items())

    def mask(self, scores: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which entries of the flat row are kept, by the constraint of each matrix."""
        backend = get_backend(scores)
        parts = pieces(scores, self.shapes)
        masks = [backend.asarray(each.mask(parts[name])).reshape(-1) for name, each in self.constraints.items()]
        found: NDArray[np.bool_] = backend.xp.concatenate(masks)[None]
        return found

    def contains(self, x: Any) -> bool:
        """Return whether every matrix of the flat row lies in its set."""
        return all(self.constraints[name].contains(part) for name, part in pieces(x, self.shapes).items())


def as_constraint(constraint: Any, shapes: dict[str, Shape] | None) -> Any:
    """Return the constraint of the one array: of the flat row where there are several matrices."""
    if shapes is None or isinstance(constraint, Dense):
        return constraint
    if isinstance(constraint, TopK) and constraint.per == "matrix":
        return constraint
    return NamedConstraint(constraint, shapes)
