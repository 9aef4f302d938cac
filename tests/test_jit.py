"""Kernels give the same bits whether this process compiled them or found them in the cache."""

from __future__ import annotations

import dis
import importlib
import pkgutil

import pytest
from numba.core.registry import CPUDispatcher

import sparsefact.backends.cpu as cpu

MODULES = [importlib.import_module(f"{cpu.__name__}.{each.name}") for each in pkgutil.iter_modules(cpu.__path__)]
CALLS = [
    (module, name, other)
    for module in MODULES
    for name, kernel in vars(module).items()
    if isinstance(kernel, CPUDispatcher) and kernel.py_func.__module__ == module.__name__
    for other in sorted({step.argval for step in dis.get_instructions(kernel.py_func) if step.opname == "LOAD_GLOBAL"})
    if isinstance(getattr(module, other, None), CPUDispatcher)
]


def test_there_are_kernels_that_call_others():
    assert {name for _, name, _ in CALLS} >= {"sweep_low", "dominant", "solve_columns"}


@pytest.mark.parametrize(
    ("module", "name", "other"), CALLS, ids=lambda each: getattr(each, "__name__", each).split(".")[-1]
)
def test_a_kernel_that_is_called_is_part_of_its_callers(module, name, other):
    """One that stays a function exists twice, optimised differently, and the cache decides which of them is called."""
    options = getattr(module, other).targetoptions
    assert options.get("forceinline") or options.get("inline") == "always"
    assert getattr(module, other).py_func.__module__ == module.__name__  # the cache looks at no other file
