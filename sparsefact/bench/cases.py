"""What a case of the benchmark is: an operation on an operand, the ways to do it, and how each result is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.bench.devices import Device

__all__ = ["Case", "Way", "Work", "eps_of", "random_array"]


@dataclass(frozen=True)
class Way:
    """One way to do the work of a case.

    Attributes
    ----------
    name : str
        ``"sparsefact"`` for ours.
    calls : sequence of callables
        Each does the work once, on operands of its own; they are called in turn.
    check : callable
        Takes what a call returned and gives its error, to be compared with `tolerance`; larger or NaN is wrong.
    tolerance : float
    tf32 : bool
        Whether products of float32 may be rounded to TF32 during the calls.
    """

    name: str
    calls: Sequence[Callable[[], Any]]
    check: Callable[[Any], float]
    tolerance: float
    tf32: bool = False


@dataclass
class Work:
    """A case made ready on a device.

    Attributes
    ----------
    ways : list of Way
    left_out : dict
        Ways that cannot run here: their names, and why.
    notes : dict
        Further numbers for the result file.
    """

    ways: list[Way] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def attempt(self, name: str, make: Callable[[], Way]) -> None:
        """Add a way whose preparation may fail, as a package does that lacks something."""
        try:
            self.ways.append(make())
        except Exception as error:  # a peer may fail in any way; it is told in the result
            self.left_out[name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}"


@dataclass(frozen=True)
class Case:
    """A case: the same work on every device.

    Attributes
    ----------
    suite, name : str
    size : int
    dtype : str
    detail : str
        What else tells it apart, such as the batch.
    bytes : int
        What must cross the memory at least: every operand once in, every result once out.
    flops : int
        Multiplications and additions of real numbers that the operation itself takes.
    formula : str
        How both are counted.
    prepare : callable
        Takes the device and makes the operands there.
    """

    suite: str
    name: str
    size: int
    dtype: str
    detail: str
    bytes: int
    flops: int
    formula: str
    prepare: Callable[[Device], Work]

    @property
    def key(self) -> str:
        """What identifies it in result files.

        Examples
        --------
        >>> Case("kernels", "inverse", 256, "float32", "", 1, 1, "", lambda device: Work()).key
        'kernels/inverse/256/float32'
        """
        return "/".join(part for part in (self.suite, self.name, str(self.size), self.dtype, self.detail) if part)


Suite = Callable[[int, str], Iterator[Case]]
"""Yields the cases of one size and dtype."""


def random_array(shape: tuple[int, ...], dtype: str, seed: int = 0) -> NDArray[Any]:
    """Return Gaussian numbers, the same on every machine.

    Examples
    --------
    >>> random_array((2, 3), "complex64").dtype
    dtype('complex64')
    """
    rng, kind = np.random.default_rng(seed), np.dtype(dtype)
    real = rng.standard_normal(shape, dtype=np.float32 if kind.name in ("float32", "complex64") else np.float64)
    if kind.kind == "c":
        return (real + 1j * rng.standard_normal(shape)).astype(kind)
    return real.astype(kind, copy=False)


def eps_of(dtype: str) -> float:
    """Return the rounding error of a type."""
    return float(np.finfo(dtype).eps)
