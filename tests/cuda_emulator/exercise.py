"""Every operation of the CUDA backend on small operands that reach every kernel, ends and uneven rests included.

``python -m cuda_emulator.exercise`` runs them under the address sanitizer, whose runtime must be loaded first.
"""

from __future__ import annotations

import itertools
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np

DTYPES = ("float32", "float64", "complex64", "complex128")


def operand(shape: tuple[int, ...], dtype: str, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if dtype[0] == "c" else x).astype(dtype)


def exercise(backend: Any, dtypes: tuple[str, ...] = DTYPES) -> dict[str, bytes]:
    """Run everything; return the bits of every result."""
    results: dict[str, bytes] = {}
    put = backend.xp.asarray

    def keep(name: str, *arrays: Any) -> None:
        results[name] = b"".join(backend.to_host(array).tobytes() for array in arrays)

    for dtype in dtypes:
        ties = put(np.round(operand((97, 131), dtype, 1) * 3).astype(dtype))
        for axis, per in ((None, "matrix"), (1, "row"), (0, "column")):
            keep(f"{dtype} kth {per}", *backend.kth_largest_abs(ties, 13, axis))
            keep(f"{dtype} top {per}", backend.topk_mask(ties, 13, per))
        keep(f"{dtype} many blocks", backend.topk_mask(put(np.ones((70, 131), dtype)), 5001))
        short = put(operand((3, 1), dtype, 2))
        keep(f"{dtype} short rows", backend.topk_mask(short, 2), *backend.kth_largest_abs(short, 1, 1))
        for m, axis in itertools.product((5, 40), (0, 1)):
            shape = (7, 2 * m) if axis else (2 * m, 7)
            keep(f"{dtype} {m} {axis}", backend.nm_mask(put(operand(shape, dtype, m)), 2, m, axis))
        keep(f"{dtype} blocks", backend.block_mask(put(operand((15, 14), dtype, 3)), (3, 7), 4))
        b, t = put(operand((9, 7), dtype, 4)), put(operand((9, 7), dtype, 5))
        mask = put(operand((9, 7), "float64", 6) > 0)
        backend.admm_update(b, t, mask)
        backend.admm_rhs(b, t, mask, 0.3, t)
        # not at the beginning of its memory: loads of four numbers would not be aligned
        backend.admm_update(b.reshape(-1)[1:22], t.reshape(-1)[1:22], mask.reshape(-1)[1:22])
        keep(f"{dtype} admm", t)
        for p in (1, 33, 70):
            f = operand((p + 9, p), dtype, p)
            g = f.conj().T @ f + np.eye(p, dtype=dtype)
            keep(f"{dtype} inverse {p}", backend.spd_inverse(put(g)))
            sparse = operand((p, 21), "float64", 7) > 0
            sparse[:, 3:17] = sparse[:, 3:4]
            keep(f"{dtype} least squares {p}", backend.masked_lsq(*map(put, (g, operand((p, 21), dtype, 8), sparse))))
        for b_, c in ((1, 1), (2, 2), (2, 5), (7, 3), (17, 20), (33, 34)):
            blocks = operand((3, b_, c), dtype, 10 * b_ + c)
            blocks[1] = 0
            blocks[2, :, 1:] = blocks[2, :, :1]
            keep(f"{dtype} one {b_} {c}", *backend.rank1(put(blocks)))
            if b_ < 33:  # there is nothing new in more rotations
                keep(f"{dtype} some {b_} {c}", *backend.rank_r(put(blocks), (min(b_, c) + 1) // 2))
        keep(f"{dtype} long", *backend.rank1(put(operand((2, 5, 3000), dtype, 9))))
        # a little more than fits in shared memory
        width = backend.launcher.shared_limit // (3 * np.dtype(dtype).itemsize)
        keep(f"{dtype} in a workspace", *backend.rank_r(put(operand((2, 3, width), dtype, 9)), 2))
        chains(backend, dtype, keep)
        for shape, levels in (
            ((1, 16, 64), [(2, 2, 1, 8), (2, 2, 1, 4), (2, 4, 1, 2), (2, 1, 1, 1)]),
            ((2, 6, 21), [(2, 3, 1, 3)]),
            ((1, 4, 301), [(2, 1, 1, 2), (2, 7, 1, 1)]),
            ((1, 12, 8), [(3, 2, 2, 4), (4, 2, 1, 2), (2, 1, 1, 1)]),
        ):
            lefts, *others = backend.sweep(put(operand(shape, dtype, 11)), levels)
            keep(f"{dtype} sweep {shape}", *lefts, *others)
    return results


def chains(backend: Any, dtype: str, keep: Any) -> None:
    """Products: in place and across, few columns and uneven ones, columns that lie together and rows that do."""
    put, xp = backend.xp.asarray, backend.xp
    shapes = (
        [(1, 2, 2, 8), (2, 8, 8, 1)],
        [(1, 4, 4, 4), (4, 4, 4, 1)],
        [(2, 3, 2, 2), (4, 2, 5, 1)],
        [(3, 2, 2, 3)],
        [(1, 34, 37, 2)],
    )
    for number, factors in enumerate(shapes):
        parts = [put(operand(shape, dtype, number)) for shape in factors]
        a, _, c, d = factors[-1]
        n = a * c * d
        for batch, rows in ((1, None), (3, put(np.arange(n)[::-1].copy())), (12, None)):
            chain = backend.prepare_chain(parts, dtype, rows=rows)
            x = put(operand((n, batch), dtype, batch))
            y = chain.apply(x)
            keep(f"{dtype} chain {number} {batch}", y)
            keep(
                f"{dtype} chain of columns {number} {batch}", chain.apply(xp.ascontiguousarray(x.T).T, rows_first=True)
            )
            a, b, c, d = factors[0]
            if len(factors) == 1:
                keep(f"{dtype} gradient {number} {batch}", backend.ks_grad((a, b, c, d), x, y))
    support = operand((9, 7), "float64", 1) > 0.3
    indptr, indices = np.append(0, np.cumsum(support.sum(axis=1))), np.nonzero(support)[1]
    x, y = put(operand((9, 35), dtype, 2)), put(operand((35, 7), dtype, 3))
    entries = backend.sddmm(put(indptr), put(indices), x, y)
    sparse = SimpleNamespace(data=entries, indices=put(indices), indptr=put(indptr), shape=(9, 7))
    for batch in (2, 9):
        keep(
            f"{dtype} sparse {batch}", backend.prepare_chain([sparse], dtype).apply(put(operand((7, batch), dtype, 4)))
        )


def main() -> None:
    from emulated import emulated_backend

    backend = emulated_backend(sanitize=True)
    exercise(backend, ("float32", "complex128"))
    print(*sorted(backend.launcher.launches), file=sys.stdout)


if __name__ == "__main__":
    main()
