"""The polish that ends an alternating search: both factors fitted together on their supports, and entries exchanged.

    f(X, Y) = 1/2 tr(G R H R^H),   R = A - X^T Y,   X (k, m) and Y (k, n) zero off their masks

**Fit.** A Levenberg-Marquardt step: R is linear in the two changes but for their product, so the step minimises a
quadratic, by preconditioned conjugate gradients with the residual kept on the supports. Exact refits of one factor
after the other zigzag where the two are strongly coupled, as under a Gram matrix with a few large directions; a joint
step does not.

**Exchange.** With g the gradient and h the curvature of an entry, a kept entry w raises f by about h w^2 / 2 when it is
dropped, and one that is left out lowers it by g^2 / (2 h) when it is taken in. The constraint itself chooses among
these gains, so any pattern and any joint budget can be exchanged in; what is left out must beat what is kept by a
factor that grows with every exchange that was refused.

Every stage is measured by f itself and undone where f did not fall.

Symbols: H gram (n, n), G left_gram (m, m), identities when absent; D curvature; M mask; L damping relative to D.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.factorizers.grams import weighed
from sparsefact.minimizers.exchange import HANDICAP

__all__ = ["JointFit"]

Pair = list[NDArray[Any]]
Choose = Callable[[NDArray[Any], Pair], Pair]

# A conjugate gradient iteration that lowers the model by less than this share of f ends the step.
_SLOW = 3e-4
# Exchanges that promise less than this share of f are not tried.
_WORTHLESS = 1e-3
# A step that lowers f by less than this share has settled.
_SETTLED = 1e-3
_LARGEST_DAMPING = 1e3


class JointFit:
    """Two factors as (k, m) and (k, n), their masks, and the loss there.

    Parameters
    ----------
    matrix : (m, n) array
    gram : (n, n) array, optional
    values, masks : lists of two arrays, (k, m) and (k, n)
        Not modified.
    backend : Backend
    left_gram : (m, m) array, optional
    """

    def __init__(
        self,
        matrix: NDArray[Any],
        gram: NDArray[Any] | None,
        values: Pair,
        masks: Pair,
        backend: Backend,
        left_gram: NDArray[Any] | None = None,
    ) -> None:
        self.matrix, self.gram, self.left_gram, self.backend = matrix, gram, left_gram, backend
        self.values, self.masks = list(values), list(masks)
        self.damping = 1e-3
        self._weighted: NDArray[Any] | None
        self.loss, self._weighted = self._measure(self.values)

    @property
    def weighted(self) -> NDArray[Any]:
        """G R H at the present factors, computed again where `better` let it go."""
        if self._weighted is None:
            self._weighted = self._measure(self.values)[1]
        return self._weighted

    def _measure(self, values: Pair) -> tuple[float, NDArray[Any]]:
        """Return tr(G R H R^H) and G R H."""
        xp = self.backend.xp
        residual = values[0].T @ values[1]
        xp.subtract(self.matrix, residual, out=residual)
        weighted = weighed(residual, self.left_gram, self.gram)
        (loss,) = self.backend.floats(xp.vdot(residual, weighted).real)
        return loss, weighted

    def _gradient(self, side: int) -> NDArray[Any]:
        """Return minus the gradient for one of the factors."""
        left, right = self.values
        found: NDArray[Any] = right.conj() @ self.weighted.T if side == 0 else left.conj() @ self.weighted
        return found

    def _curvatures(self) -> Pair:
        """Return the diagonal of the Hessian, as two arrays that broadcast to the factors' shapes."""
        left, right = self.values
        own = (right.conj() * weighed(right, None, self.gram)).real.sum(axis=1, keepdims=True)
        if self.left_gram is None:
            other = (abs(left) ** 2).sum(axis=1, keepdims=True)
        else:
            own = own * self.left_gram.diagonal().real[None, :]
            other = (left * (left.conj() @ self.left_gram)).real.sum(axis=1, keepdims=True)
        return [own, other if self.gram is None else other * self.gram.diagonal().real[None, :]]

    def fit(self, steps: int, iterations: int, stalled: float = 5e-3) -> bool:
        """Take damped Gauss-Newton steps until one is not worth its time; return whether it gained next to nothing.

        Parameters
        ----------
        steps : int
        iterations : int
            Conjugate gradients in each step, at most.
        stalled : float
            In units of the squared error, relative.
        """
        for _ in range(steps):
            before = self.loss
            if before <= 0 or not self._step(iterations):
                return True
            if self.loss > before * (1 - stalled):
                return self.loss > before * (1 - _SETTLED)
        return False

    def _step(self, iterations: int) -> bool:
        """Take one step that lowers the loss, with as much damping as that needs; return whether there was one."""
        curvatures = self._curvatures()
        while self.damping < _LARGEST_DAMPING:
            if self._try(curvatures, iterations):
                self.damping = max(self.damping / 4, 1e-6)
                return True
            self.damping *= 8
        self.damping = 1e-3
        # Near a term that is almost zero the product of both changes outweighs each; of one alone the model is exact.
        return self._try([curvatures[0], 0 * curvatures[1]], iterations) or self._try(
            [0 * curvatures[0], curvatures[1]], iterations
        )

    def _try(self, curvatures: Pair, iterations: int) -> bool:
        """Change the factors, but not where a curvature is zero, if that lowers the loss; return whether it did."""
        values = self._solve(curvatures, iterations)
        for each, value in zip(values, self.values, strict=True):
            each += value
        loss, weighted = self._measure(values)
        if not loss < self.loss:
            return False
        self.values, self.loss, self._weighted = values, loss, weighted
        return True

    def _solve(self, curvatures: Pair, iterations: int) -> Pair:
        """Return the changes that minimise the damped model on the supports, by conjugate gradients."""
        xp = self.backend.xp
        left, right = self.values
        ridge = [self.damping * each for each in curvatures]
        inverse = [
            xp.where(each > 0, 1 / xp.where(each > 0, each + shift, 1), 0)
            for each, shift in zip(curvatures, ridge, strict=True)
        ]
        # All of these stay zero off the supports, so only what a product returns needs the masks.
        residual = [self._gradient(0), self._gradient(1)]
        for each, mask in zip(residual, self.masks, strict=True):
            each *= mask
        direction = [w * r for w, r in zip(inverse, residual, strict=True)]
        change = [xp.zeros_like(each) for each in residual]
        size = _dot(xp, residual, direction)
        for iteration in range(iterations):
            image = direction[0].T @ right
            image += left.T @ direction[1]
            image = weighed(image, self.left_gram, self.gram)
            curved = [right.conj() @ image.T, left.conj() @ image]
            for each, mask, shift, along in zip(curved, self.masks, ridge, direction, strict=True):
                each *= mask
                each += shift * along
            bend = _dot(xp, direction, curved)
            # Zero over zero is a gradient that is zero: no step, and no NaN.
            length = xp.where(bend > 0, size / xp.where(bend > 0, bend, 1), 0)
            for i in range(2):
                change[i] += length * direction[i]
                curved[i] *= length
                residual[i] -= curved[i]
                xp.multiply(inverse[i], residual[i], out=curved[i])
            fresh = _dot(xp, residual, curved)
            if iteration % 4 == 3:
                (gain,) = self.backend.floats(length * size)
                if not gain > _SLOW * self.loss:
                    break
            ratio = xp.where(size > 0, fresh / xp.where(size > 0, size, 1), 0)
            for i in range(2):
                direction[i] *= ratio
                direction[i] += curved[i]
            size = fresh
        return change

    def exchange(self, choose: Choose, rounds: int, iterations: int) -> int:
        """Exchange kept entries for better ones while the loss falls; return how many entries were exchanged.

        Parameters
        ----------
        choose : callable
            From the scores of all entries in one vector, and the two arrays of which it consists, to two masks inside
            the constraint.
        rounds : int
            Exchanges that are tried.
        iterations : int
            Conjugate gradients of the fit that follows each.
        """
        exchanged, handicap = 0, 1.0
        for _ in range(rounds):
            masks, count = self.better(choose, handicap)
            if not count:
                break
            trial = JointFit(
                self.matrix,
                self.gram,
                [value * mask for value, mask in zip(self.values, masks, strict=True)],
                masks,
                self.backend,
                self.left_gram,
            )
            trial.damping = self.damping
            trial.fit(1, iterations)
            if trial.loss < self.loss:
                stalled = trial.loss > self.loss * (1 - 1e-4)
                self.values, self.masks = trial.values, trial.masks
                self.loss, self._weighted, self.damping = trial.loss, trial.weighted, trial.damping
                exchanged += count
                if stalled:
                    break
            else:
                handicap *= HANDICAP
        return exchanged

    def better(self, choose: Choose, handicap: float) -> tuple[Pair, int]:
        """Return the masks that are chosen from the gains of all entries, and how many entries they take in.

        None are taken in where that promises next to nothing.

        Parameters
        ----------
        choose : callable
            As for `exchange`.
        handicap : float
            By which what is left out counts less than what is kept.
        """
        together, scores = self._scores(handicap)
        self._weighted = None  # a whole matrix, while the choice takes some
        masks = choose(together, scores)
        count, gain = self._promise(scores, masks)
        return masks, count if gain > _WORTHLESS * self.loss else 0

    def _promise(self, scores: Pair, masks: Pair) -> tuple[int, float]:
        """Return how many entries new masks take in, and the fall of the loss if their gains add up."""
        taken, gain = 0, 0.0
        for score, new, old in zip(scores, masks, self.masks, strict=True):
            taken = taken + (new & ~old).sum()
            gain = gain + self.backend.xp.vdot(score * new, score) - self.backend.xp.vdot(score * old, score)
        count, promised = self.backend.floats(taken, gain)
        return int(count), promised

    def _scores(self, handicap: float) -> tuple[NDArray[Any], Pair]:
        """Return the root of what each entry contributes: kept ones |w| sqrt(h), others handicap |g| / sqrt(h).

        All of them are one vector, and the two arrays are its parts.
        """
        xp, sizes = self.backend.xp, [value.size for value in self.values]
        together = xp.empty(sum(sizes), dtype=self.values[0].real.dtype)
        parts = [together[: sizes[0]].reshape(self.values[0].shape), together[sizes[0] :].reshape(self.values[1].shape)]
        for side, (part, mask, curvature) in enumerate(zip(parts, self.masks, self._curvatures(), strict=True)):
            root = xp.sqrt(curvature)
            inverse = xp.where(root > 0, 1 / xp.where(root > 0, root, 1), 0)
            xp.abs(self._gradient(side), out=part)
            part *= root.dtype.type(handicap) * inverse
            own = abs(self.values[side])
            own *= root
            xp.copyto(part, own, where=mask)
        return together, parts


def _dot(xp: Any, left: Pair, right: Pair) -> Any:
    return xp.vdot(left[0], right[0]).real + xp.vdot(left[1], right[1]).real
