"""The result of every factorization: factors that multiply like the matrix they stand for.

A `Factorization` never forms its product unless asked to: it multiplies vectors and matrices factor by factor
(`sparsefact.products.product_operator`), and knows how far it is from its target.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from sparsefact.backends.registry import get_backend
from sparsefact.products import factors as _factors
from sparsefact.products.explanation import explained, plural
from sparsefact.products.product_operator import ProductOperator
from sparsefact.products.residual import Errors, as_grams, as_target, relative_errors

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from sparsefact.products.factors import Factor
    from sparsefact.products.status import Status

__all__ = ["Factorization"]


@final
class Factorization(ProductOperator):
    """A matrix as a product ``F_1 @ F_2 @ ... @ F_L`` of factors, usually sparse.

    `sparsefact.factorize` and `sparsefact.load` return it; it can also be built from factors directly. It is
    immutable, multiplies dense and sparse arrays from both sides with ``@``, and has the methods that
    `scipy.sparse.linalg.aslinearoperator` asks for, so scipy's iterative solvers take it as it is.

    Parameters
    ----------
    factors : sequence of scipy.sparse arrays, KroneckerFactor or 2-D arrays
        Left to right, neighbours sharing their inner dimension. Sparse ones become CSR arrays with sorted indices;
        all become one type of float32, float64, complex64, complex128. Arrays that already are right are not
        copied, and not to be changed afterwards. Dense and Kronecker factors may hold CuPy arrays, all of them on one
        GPU.
    target : array or scipy.sparse array of shape (m, n), optional
        The matrix that the product stands for. It is kept only until `error` or `frobenius_error` is first asked
        for; the errors are then computed once and the reference is dropped.
    gram : array of shape (n, n), optional
        Weight of the loss that was minimised, Hermitian positive semi-definite; kept as long as `target`.
    left_gram : array of shape (m, m), optional
        The same for the rows: the loss is then ``tr(left_gram (A - P) gram (A - P)^H)``.
    error : float, optional
        The relative error in the loss, when it is known already.
    frobenius_error : float, optional
        The relative Frobenius error, when it is known already; taken to be `error` when there is no Gram matrix.
    status : Status, optional
        How the solver ended.
    history : iterable, optional
        What the solver recorded on its way, kept as a tuple.
    certificate : object, optional
        What proves a claim about the error.
    evidence : object, optional
        What speaks for a claim about the error without proving it.
    solver, constraint : object or str, optional
        What found the factors, and what was asked of them.
    seed : int, optional
        The seed the solver started from.
    seconds : float, optional
        How long the solver ran.
    explanation : str, optional
        One or more sentences of the solver for `explain`: what was solved, by which solver and why.

    Raises
    ------
    ShapeError
        No factor, a factor that is not a matrix, or two neighbours that do not fit (the sentence names the pair).
    DtypeError
        A factor that does not hold numbers of a type that is computed with.
    NonFiniteError
        A factor that holds NaN or infinity.

    Notes
    -----
    `nnz` counts stored entries: an explicit zero in a CSR factor belongs to its support and counts.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> import sparsefact as sf
    >>> left = sparse.csr_array(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]))
    >>> right = np.array([[1.0, 3.0], [0.0, 1.0]])
    >>> F = sf.Factorization([left, right], target=left.toarray() @ right)
    >>> F.error
    0.0
    >>> F
    Factorization(3x2 float64, 2 factors, nnz=7, density=1.167, error=0)
    >>> F @ np.array([1.0, 1.0])
    array([4., 8., 1.])
    >>> (F.T @ np.ones(3)).tolist() == (np.ones(3) @ F).tolist()
    True
    """

    __slots__ = (
        "_certificate",
        "_constraint",
        "_errors",
        "_evidence",
        "_explanation",
        "_history",
        "_seconds",
        "_seed",
        "_solver",
        "_status",
    )

    def __init__(
        self,
        factors: Iterable[Any],
        *,
        target: Any = None,
        gram: Any = None,
        left_gram: Any = None,
        error: float | None = None,
        frobenius_error: float | None = None,
        status: Status | None = None,
        history: Iterable[Any] = (),
        certificate: Any = None,
        evidence: Any = None,
        solver: Any = None,
        constraint: Any = None,
        seed: int | None = None,
        seconds: float = 0.0,
        explanation: str = "",
    ) -> None:
        super().__init__(factors)
        if frobenius_error is None and gram is None and left_gram is None:
            frobenius_error = error
        self._errors = Errors(error, frobenius_error)
        if target is not None:
            weights = as_grams(gram, left_gram, self.shape)
            self._errors.pending = (as_target(target, self.shape), self._factors, *weights)
        self._status = status
        self._history = tuple(history)
        self._certificate = certificate
        self._evidence = evidence
        self._solver = solver
        self._constraint = constraint
        self._seed = seed
        self._seconds = float(seconds)
        self._explanation = explanation

    def to(self, device: str) -> Factorization:
        """Return the same product with its factors on another device, where its operands must then be.

        Parameters
        ----------
        device : str
            ``"cpu"``, ``"cuda"``, ``"cuda:1"`` and so on.

        Returns
        -------
        Factorization
            Itself when the factors are there. Errors, certificate and the like go along.

        Raises
        ------
        DeviceError
            If the device is not there, or has too little memory.

        Examples
        --------
        >>> import numpy as np
        >>> import sparsefact as sf
        >>> F = sf.Factorization([np.eye(2)])
        >>> F.to("cpu") is F, F.device
        (True, 'cpu')
        """
        backend = get_backend(device=device)
        place = f"cuda:{getattr(backend, 'index', 0)}" if backend.name == "cuda" else "cpu"
        if place == self.device:
            return self
        found = [_factors.moved(factor, place) for factor in self._factors]
        return self._derived(found, None, self._certificate, self._evidence)

    @property
    def error(self) -> float:
        """The relative error in the loss that was minimised: weighted by the Gram matrices that there were.

        ``sqrt(tr(left_gram (A - P) gram (A - P)^H) / tr(left_gram A gram A^H))`` from a float64 residual; 0/0 is 0.
        Computed on first access when it is not known yet.

        Raises
        ------
        ArgumentError
            The target is not known; `error_against` takes one.
        """
        return self._errors.get("error")

    @property
    def frobenius_error(self) -> float:
        """The relative Frobenius error ``||A - P|| / ||A||``, as `error` but never weighted."""
        return self._errors.get("frobenius_error")

    @property
    def status(self) -> Status | None:
        """How the solver ended; None when no solver was involved."""
        return self._status

    @property
    def history(self) -> tuple[Any, ...]:
        """What the solver recorded on its way."""
        return self._history

    @property
    def certificate(self) -> Any:
        """What proves a claim about the error, or None."""
        return self._certificate

    @property
    def evidence(self) -> Any:
        """What speaks for a claim about the error without proving it, such as a `SampledResidual`, or None."""
        return self._evidence

    @property
    def solver(self) -> Any:
        """The solver that found the factors (its description, when loaded from a file)."""
        return self._solver

    @property
    def constraint(self) -> Any:
        """The constraint or constraints the factors obey (a description, when loaded from a file)."""
        return self._constraint

    @property
    def seed(self) -> int | None:
        """The seed the solver started from."""
        return self._seed

    @property
    def seconds(self) -> float:
        """How long the solver ran, in seconds."""
        return self._seconds

    @property
    def explanation(self) -> str:
        """The solver's own sentences, which `explain` quotes."""
        return self._explanation

    def error_against(self, target: Any, gram: Any = None, left_gram: Any = None) -> float:
        """Return the relative error of this product as an approximation of `target`.

        Parameters
        ----------
        target : array, scipy.sparse array, Factorization, LinearOperator or Entries, shape (m, n)
            The matrix to compare with; what is not an array is read in panels of rows.
        gram, left_gram : arrays of shapes (n, n) and (m, m), optional
            Weights of the loss, Hermitian positive semi-definite; without them the Frobenius norm is meant.

        Returns
        -------
        float
            ``sqrt(tr(left_gram (A - P) gram (A - P)^H) / tr(left_gram A gram A^H))``, from a float64 residual that is
            formed in panels of rows (at most 16 MB each), and held as a whole for a `left_gram`; 0/0 is 0.

        Raises
        ------
        ShapeError
            `target`, `gram` or `left_gram` has another shape.
        NonFiniteError
            One of them holds NaN or infinity.

        Examples
        --------
        >>> import numpy as np
        >>> import sparsefact as sf
        >>> sf.Factorization([np.diag([3.0, 0.0])]).error_against(np.diag([3.0, 4.0]))
        0.8
        """
        return self.errors_against(target, gram, left_gram)[0]

    def errors_against(self, target: Any, gram: Any = None, left_gram: Any = None) -> tuple[float, float]:
        """Return the errors of `error_against` with the Gram matrices and without them, at the price of one.

        Parameters
        ----------
        target, gram, left_gram : arrays
            As for `error_against`.

        Returns
        -------
        error, frobenius_error : float
            Equal when there is no Gram matrix.
        """
        weights = as_grams(gram, left_gram, self.shape)
        return relative_errors(as_target(target, self.shape), self._factors, *weights)

    def known_errors(self) -> tuple[float | None, float | None]:
        """Return `error` and `frobenius_error`, with None for what is not known; a pending computation is done."""
        self._errors.settle()
        return self._errors.error, self._errors.frobenius_error

    def with_errors(self, error: float | None, frobenius_error: float | None) -> Factorization:
        """Return the same product with these errors on record and nothing inferred between them."""
        return self._derived(self._factors, Errors(error, frobenius_error), self._certificate, self._evidence)

    def with_claims(self, certificate: Any, evidence: Any) -> Factorization:
        """Return the same product with this certificate and this evidence, or None for either."""
        return self._derived(self._factors, None, certificate, evidence)

    def explain(self) -> str:
        """Return a few lines: what was solved, by which solver and why, and the numbers reached."""
        return explained(self)

    @property
    def T(self) -> Factorization:
        """The transpose, a Factorization of the same error."""
        return self._turned([_factors.transposed(f) for f in reversed(self._factors)], True, False)

    @property
    def H(self) -> Factorization:
        """The conjugate transpose, a Factorization of the same error."""
        found = [_factors.transposed(_factors.conjugated(f)) for f in reversed(self._factors)]
        return self._turned(found, True, self.dtype.kind == "c")

    def conj(self) -> Factorization:
        """Return the complex conjugate, a Factorization of the same error (itself when real)."""
        if self.dtype.kind != "c":
            return self
        return self._turned([_factors.conjugated(f) for f in self._factors], False, True)

    def _turned(self, factors: Sequence[Factor], transposed: bool, conjugated: bool) -> Factorization:
        # F.T @ x in a loop would plan every time if the new object had plans of its own
        other = self._derived(factors)
        other._plans, other._direction = self._plans, self._direction.then(transposed, conjugated)
        return other

    def _derived(
        self,
        factors: Sequence[Factor],
        errors: Errors | None = None,
        certificate: Any = None,
        evidence: Any = None,
    ) -> Factorization:
        # The errors are shared unless given; certificate and evidence speak about one matrix, not about another.
        other = Factorization(
            factors,
            status=self._status,
            history=self._history,
            certificate=certificate,
            evidence=evidence,
            solver=self._solver,
            constraint=self._constraint,
            seed=self._seed,
            seconds=self._seconds,
            explanation=self._explanation,
        )
        other._errors = self._errors if errors is None else errors
        return other

    def save(self, path: str | os.PathLike[str], name: str = "matrix") -> None:
        """Write the factors to a file that `sparsefact.load` reads (docs/format.md).

        The file is written beside its place and moved there when complete, so a failure leaves what was there before.

        Parameters
        ----------
        path : str or path
            Where to write, usually ending in ``.safetensors``.
        name : str, optional
            The matrix's name in the file.

        Raises
        ------
        StorageError
            The file cannot be written.
        """
        from sparsefact.products.storage import save

        save(self, path, name=name)

    def __repr__(self) -> str:
        m, n = self.shape
        text = (
            f"{m}x{n} {self.dtype}, {plural(len(self._factors), 'factor')}, nnz={self.nnz}, density={self.density:.3f}"
        )
        if self.device != "cpu":
            text += f", on {self.device}"
        # A repr must not start a computation over the target.
        if self._errors.error is not None:
            text += f", error={self._errors.error:.4g}"
        return f"Factorization({text})"

    def __getstate__(self) -> dict[str, Any]:
        self._errors.settle()
        # plans hold locks, and what they keep is soon computed again
        return {slot: getattr(self, slot) for slot in ("_factors", *self.__slots__)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for slot, value in state.items():
            setattr(self, slot, value)
        super().__init__(self._factors)
