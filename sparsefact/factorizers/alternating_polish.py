"""What ends an alternating search over two factors: refits, joint fits, exchanges of entries, and simpler answers.

Symbols as in `alternating_state`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.constraints.double_sparse import DoubleSparse
from sparsefact.factorizers.alternating_state import SearchState
from sparsefact.factorizers.identity_start import identity_start
from sparsefact.factorizers.joint_polish import JointFit
from sparsefact.factorizers.simple_products import SIMPLE_PRODUCTS
from sparsefact.minimizers.exchange import HANDICAP
from sparsefact.minimizers.refit import refit

__all__ = ["AlternatingState"]

# A refit that gains less than this, relatively, has stalled; or than the other, where exchanges with refits follow.
_STALLED, _STALLED_BRIEF = 1e-3, 1e-2
# Conjugate gradients in the fit after an exchange.
_EXCHANGE_ITERATIONS = 8


class AlternatingState(SearchState):
    """The state of the search, with what is done to its factors once their supports are chosen."""

    refit_iterations = 12  # conjugate gradients in a refit between two Gram matrices

    def refit(self) -> None:
        """Refit both factors on their supports, the smaller one first."""
        iterations = self.refit_iterations
        for side in self.order:
            self.values[side] = refit(
                self._objective(side), self.masks[side], self.values[side], self.backend, iterations=iterations
            )

    def refit_until_stalled(self, refits: int, error: float, *, brief: bool) -> tuple[float, bool]:
        """Refit at most so many times from a point of this error, and keep the best point.

        Parameters
        ----------
        refits : int
        error : float
        brief : bool
            Whether exchanges follow, which come with refits of their own.

        Returns
        -------
        error : float
        stalled : bool
            Whether next to nothing more is gained that way.
        """
        stalled = _STALLED_BRIEF if brief else _STALLED
        for _ in range(refits):
            best = list(self.values)
            self.refit()
            reached = self.error()
            if not reached <= error:
                # Rounding can undo an exact step that has nothing left to gain.
                self.values = best
                return error, True
            error, before = reached, error
            if reached >= before * (1 - stalled):
                return error, True
        return error, False

    def _joint_fit(self) -> JointFit:
        return JointFit(self.matrix, self.gram, self.values, self.masks, self.backend, self.left_gram)

    def polish(self, fits: int, exchanges: int, iterations: int) -> tuple[float, float, int, bool]:
        """Fit both factors together, exchange entries, and fit again, each with so many conjugate gradients at most.

        Returns
        -------
        fitted, exchanged : float
            The relative error after the first fit, and at the end.
        count : int
            How many entries were exchanged.
        settled : bool
            Whether the last fit stalled.
        """
        fit = self._joint_fit()
        settled = fit.fit(fits, iterations)
        fitted = self._relative(fit.loss)
        count = fit.exchange(self._choose, exchanges, _EXCHANGE_ITERATIONS) if fits else 0
        if count:
            settled = fit.fit(max(1, fits // 2), iterations)
        self.values, self.masks = fit.values, fit.masks
        return fitted, self._relative(fit.loss), count, settled

    def exchange_in_turn(self, rounds: int) -> tuple[int, float]:
        """Exchange entries and refit both factors, while that lowers the error.

        Returns
        -------
        count : int
            How many entries were exchanged.
        error : float
            The relative error at the end.
        """
        error, exchanged, handicap = self.error(), 0, 1.0
        for _ in range(rounds):
            fit = self._joint_fit()
            masks, count = fit.better(self._choose, handicap)
            del fit
            if not count:
                break
            # What is zero anyway need not be kept twice.
            kept, before = [value[mask] for value, mask in zip(self.values, self.masks, strict=True)], self.masks
            self.values, self.masks = [value * mask for value, mask in zip(self.values, masks, strict=True)], masks
            self.refit()
            reached = self.error()
            if reached < error:
                error, exchanged = reached, exchanged + count
            else:
                handicap *= HANDICAP
                self.masks = before
                for value, mask, entries in zip(self.values, before, kept, strict=True):
                    value[...] = 0
                    value[mask] = entries
            del kept, before
        return exchanged, error

    def _relative(self, loss: float) -> float:
        return math.sqrt(max(loss, 0.0)) / self.norm if self.norm else 0.0

    def _choose(self, together: NDArray[Any], scores: list[NDArray[Any]]) -> list[NDArray[np.bool_]]:
        """Return the masks that the constraints choose by these scores; a joint budget moves between the factors."""
        joint = self.problem.constraints
        if isinstance(joint, DoubleSparse) and joint.left_nnz is None:
            mask = self.backend.topk_mask(together[None, :], joint.budget)[0]
            size = scores[0].size
            return [mask[:size].reshape(scores[0].shape), mask[size:].reshape(scores[1].shape)]
        pairs = zip(self.constraints, scores, strict=True)
        return [self.backend.asarray(constraint.mask(score)) for constraint, score in pairs]

    def try_simple(self, error: float) -> str:
        """Take a simpler product if it is better than `error`, and say in a sentence that it was."""
        taken, found = "", self.values
        if isinstance(self.problem.constraints, DoubleSparse):
            for sentence, make in SIMPLE_PRODUCTS:
                candidate = make(self.matrix, self.problem.constraints, self.backend, self.problem.seed)
                if candidate is None:
                    continue
                self.values = candidate
                reached = self.error()
                if reached < error:
                    taken, found, error = sentence, candidate, reached
        elif isinstance(self.problem.constraints, tuple):
            sets, shapes = self.problem.constraints, self.problem.shapes
            simple = identity_start(self.matrix, sets, shapes, self.backend, self.gram, self.left_gram)
            if simple is not None:
                self.values = [simple[0][0].T, simple[0][1]]
                if self.error() < error:
                    place = simple[1] + 1
                    taken = f" The matrix projected as factor {place}, beside an identity, was better, and was taken."
                    found = [value * 1 for value in self.values]
        self.values = found
        return taken
