"""The one clock of the benchmark: ways in turn, in shuffled order, with quartiles.

Times are wall seconds with the device idle before and after: the host's own work of a call counts, as it does for a
user. Short calls are repeated, queued one behind the other, until they take a few milliseconds together.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Clocked", "Times", "in_turn"]

_LEAST = 4e-3
_MOST_REPEATS = 200


@dataclass(frozen=True)
class Clocked:
    """What is timed: calls that take turns, what must be set before, and what waits until they are done."""

    calls: Sequence[Callable[[], Any]]
    before: Callable[[], None]
    wait: Callable[[], None]


@dataclass
class Times:
    """The measured seconds of one way.

    Attributes
    ----------
    first : float
        Of the first call, with everything that is compiled or allocated in it.
    seconds : list of float
        Of one call, one for each round.
    repeats : int
        Calls in each round.
    """

    first: float
    repeats: int = 1
    seconds: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return median, quartiles, least and first seconds, and how many rounds of how many calls.

        Examples
        --------
        >>> Times(1.0, 2, [3.0, 1.0, 2.0]).summary()["median"]
        2.0
        """
        low, middle, high = (float(q) for q in np.quantile(self.seconds, (0.25, 0.5, 0.75)))
        return {
            "median": middle,
            "quartiles": [low, high],
            "least": min(self.seconds),
            "first": self.first,
            "rounds": len(self.seconds),
            "repeats": self.repeats,
        }


def in_turn(
    clocked: dict[str, Clocked], firsts: dict[str, float], rounds: int, *, budget: float = 60.0, seed: int = 0
) -> dict[str, Times]:
    """Return the times of every way.

    Parameters
    ----------
    clocked : dict
    firsts : dict
        Seconds of the first call of each, which was made already.
    rounds : int
        How often each is measured.
    budget : float
        Seconds that each way may take; a slow one is measured less often, but at least once.
    seed : int
        Of the order, which is shuffled in every round.

    Returns
    -------
    dict of Times
    """
    order, left, found = random.Random(seed), {}, {}
    for name, way in clocked.items():
        way.before()
        for call in way.calls[1:]:
            if firsts[name] < budget / 16:
                call()
        way.wait()
        # a second call tells what the first one, in which kernels are compiled, does not
        estimate = firsts[name] if firsts[name] > budget else _once(way, 0, 1)
        repeats = max(1, min(_MOST_REPEATS, round(_LEAST / max(estimate, 1e-9))))
        found[name] = Times(firsts[name], repeats)
        left[name] = max(1, min(rounds, int(budget / max(estimate * repeats, 1e-9))))
    names = list(clocked)
    for turn in range(rounds):
        order.shuffle(names)
        for name in names:
            if turn < left[name]:
                times = found[name]
                times.seconds.append(_once(clocked[name], turn * times.repeats, times.repeats))
    return found


def _once(way: Clocked, start: int, repeats: int) -> float:
    way.before()
    way.wait()
    calls, count = way.calls, len(way.calls)
    started = time.perf_counter()
    for i in range(start, start + repeats):
        calls[i % count]()
    way.wait()
    return (time.perf_counter() - started) / repeats
