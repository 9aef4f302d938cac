"""Runs cases on devices: makes them ready, checks every result, and only then measures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from sparsefact.bench.cases import Case, Way, Work
from sparsefact.bench.ceilings import ceilings, roofline
from sparsefact.bench.devices import Device
from sparsefact.bench.kernels import kernel_cases
from sparsefact.bench.product import product_cases
from sparsefact.bench.solvers import solver_cases
from sparsefact.bench.timing import Clocked, in_turn

__all__ = ["SUITES", "cases_of", "run_case", "run_cases"]

SUITES = {"kernels": kernel_cases, "solvers": solver_cases, "product": product_cases}
"""The suites by name: each yields the cases of a size and dtype."""

Row = dict[str, Any]


def cases_of(suites: Iterable[str], sizes: Iterable[int], dtypes: Iterable[str]) -> Iterator[Case]:
    """Yield the cases of suites, from small sizes to large ones."""
    for suite in suites:
        for size in sizes:
            for dtype in dtypes:
                yield from SUITES[suite](size, dtype)


def run_cases(
    cases: Iterable[Case],
    devices: list[Device],
    *,
    repeat: int = 9,
    budget: float = 20.0,
    on_row: Callable[[Row], None] | None = None,
    measured: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure the ceilings of every device, then every case on every device.

    Parameters
    ----------
    cases : iterable of Case
    devices : list of Device
    repeat : int
        Rounds.
    budget : float
        Seconds that each way of a case may take.
    on_row : callable, optional
        Receives each row when it is done.
    measured : dict, optional
        Ceilings by the name of the device, where they are known already.

    Returns
    -------
    dict
        ``"devices"``: what each is and its ceilings; ``"rows"``: one per case and device.
    """
    cases = list(cases)
    dtypes = list(dict.fromkeys(case.dtype for case in cases))
    told = {}
    for device in devices:
        found = (measured or {}).get(device.name) or ceilings(device, dtypes)
        told[device.name] = device.describe() | {"ceilings": found}
    rows = []
    for case in cases:
        for device in devices:
            row = run_case(case, device, told[device.name]["ceilings"], repeat=repeat, budget=budget)
            rows.append(row)
            if on_row is not None:
                on_row(row)
    return {"devices": told, "rows": rows}


def run_case(case: Case, device: Device, top: dict[str, Any], *, repeat: int = 9, budget: float = 20.0) -> Row:
    """Measure one case on one device.

    Returns
    -------
    dict
        The case, its bytes, flops and least seconds by the ceilings; under ``"ways"`` for each way its seconds and its
        error, or why it is wrong; under ``"left_out"`` the ways that do not run, and why; ``"ok"`` is whether nothing
        that ran was wrong, and ours ran or does not exist on this device. A case that fails altogether has
        ``"failed"``.
    """
    row: Row = {
        "case": case.key,
        "suite": case.suite,
        "name": case.name,
        "size": case.size,
        "dtype": case.dtype,
        "detail": case.detail,
        "device": device.name,
        "bytes": case.bytes,
        "flops": case.flops,
        "formula": case.formula,
    }
    least, bound = roofline(top, case.dtype, case.bytes, case.flops)
    row |= {"roofline_seconds": least, "bound": bound}
    started = time.perf_counter()
    try:
        with device.backend.active():
            work = case.prepare(device)
            row |= _measured(case, work, device, top, repeat, budget)
    except Exception as error:  # one case must not end the others
        row |= {"ways": {}, "left_out": {}, "notes": {}, "ok": False}
        row["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    finally:
        device.set_tf32(False)
    row["whole_seconds"] = time.perf_counter() - started
    return row


def _measured(case: Case, work: Work, device: Device, top: dict[str, Any], repeat: int, budget: float) -> Row:
    left_out, told, clocked, firsts = dict(work.left_out), {}, {}, {}
    rounded = {way.name: way.tf32 for way in work.ways}
    for way in work.ways:
        before = partial(device.set_tf32, way.tf32)
        try:
            firsts[way.name], error = _first(way, device, before)
        except Exception as failure:
            if way.name == "sparsefact":
                raise
            left_out[way.name] = f"{type(failure).__name__}: {' '.join(str(failure).split())[:160]}"
            continue
        right = error <= way.tolerance
        told[way.name] = {"error": error, "tolerance": way.tolerance, "ok": right}
        if right:
            clocked[way.name] = Clocked(way.calls, before, device.wait)
    for name, times in in_turn(clocked, firsts, repeat, budget=budget).items():
        told[name] |= times.summary()
        # what is rounded to TF32 is held to the speed of that
        kind = "tf32" if rounded[name] and "tf32" in top["gemm"] else case.dtype
        told[name]["roofline_share"] = roofline(top, kind, case.bytes, case.flops)[0] / told[name]["median"]
    ok = all(found["ok"] for found in told.values())
    return {"ways": told, "left_out": left_out, "notes": work.notes, "ok": ok}


def _first(way: Way, device: Device, before: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds of the first call, and the error of its result."""
    before()
    device.wait()
    started = time.perf_counter()
    result = way.calls[0]()
    device.wait()
    return time.perf_counter() - started, float(way.check(result))
