"""What the machine can do at most, measured in the same run: bytes and operations per second."""

from __future__ import annotations

from functools import partial
from typing import Any

from sparsefact.bench.cases import random_array
from sparsefact.bench.devices import Device
from sparsefact.bench.timing import Clocked, in_turn

__all__ = ["ceilings", "roofline"]

_GEMM = {"cpu": 1024, "cuda": 8192}


def ceilings(device: Device, dtypes: list[str], *, megabytes: int = 64, gemm: int | None = None) -> dict[str, Any]:
    """Measure the bandwidth of copies and additions, and the speed of dense products of each type.

    Parameters
    ----------
    device : Device
    dtypes : list of str
    megabytes : int
        Size of each array that is copied.
    gemm : int, optional
        Order of the matrices that are multiplied; 1024 on the CPU and 8192 on a GPU unless given.

    Returns
    -------
    dict
        ``"bandwidth"``: the faster of ``"copy"`` (one array read, one written) and ``"add"`` (two read, one written:
        the triad without its multiplication, which NumPy has no single pass for), in bytes per second; ``"gemm"``: for
        each dtype real operations per second, 2 n^3 for a real product and 8 n^3 for a complex one.
    """
    xp, order = device.xp, gemm or _GEMM["cuda" if device.is_gpu else "cpu"]
    clocked = {}
    x = device.put(random_array((megabytes << 18,), "float32"))
    y, z = x.copy(), x.copy()
    clocked["copy"] = Clocked([partial(xp.copyto, y, x)], _nothing, device.wait)
    clocked["add"] = Clocked([partial(xp.add, x, y, out=z)], _nothing, device.wait)
    work = {"copy": 2.0 * x.nbytes, "add": 3.0 * x.nbytes}
    times = in_turn(clocked, dict.fromkeys(clocked, 0.0), 5)
    bandwidths = {name: work[name] / min(found.seconds) for name, found in times.items()}
    del x, y, z
    speeds = {}
    for dtype in dtypes:
        a, b = (device.put(random_array((order, order), dtype, seed)) for seed in (1, 2))
        c = xp.empty_like(a)
        flops = (8.0 if a.dtype.kind == "c" else 2.0) * order**3
        product = {dtype: Clocked([partial(xp.matmul, a, b, out=c)], _nothing, device.wait)}
        seconds = in_turn(product, {dtype: 0.0}, 5, budget=5.0)[dtype].seconds
        speeds[dtype] = flops / min(seconds)
    if device.is_gpu and "float32" in dtypes:
        speeds |= _tf32(device, order)
    return {**bandwidths, "bandwidth": max(bandwidths.values()), "gemm": speeds, "gemm_order": order}


def _tf32(device: Device, order: int) -> dict[str, float]:
    """Return the speed of float32 products rounded to TF32, where torch is there to do it."""
    found = device.torch()
    if found is None:
        return {}
    torch, put = found
    a, b = (put(random_array((order, order), "float32", seed)) for seed in (1, 2))
    clock = Clocked([partial(torch.matmul, a, b)], partial(device.set_tf32, True), device.wait)
    seconds = in_turn({"tf32": clock}, {"tf32": 0.0}, 5, budget=5.0)["tf32"].seconds
    device.set_tf32(False)
    return {"tf32": 2.0 * order**3 / min(seconds)}


def roofline(found: dict[str, Any], dtype: str, nbytes: int, flops: int) -> tuple[float, str]:
    """Return the least seconds that the work takes by the measured ceilings, and which of them bounds it.

    Examples
    --------
    >>> roofline({"bandwidth": 1e9, "gemm": {"float32": 1e12}}, "float32", 1000, 10)
    (1e-06, 'memory')
    """
    memory, arithmetic = nbytes / found["bandwidth"], flops / found["gemm"][dtype]
    return (memory, "memory") if memory >= arithmetic else (arithmetic, "arithmetic")


def _nothing() -> None:
    """Do nothing before a call."""
