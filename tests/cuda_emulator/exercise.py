"""Every operation of the CUDA backend on small operands that reach every kernel, ends and uneven rests included.

``python -m cuda_emulator.exercise`` runs them under the address sanitizer, whose runtime must be loaded first.
"""

from __future__ import annotations

import itertools
import sys
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
        for b_, c in ((1, 1), (2, 2), (2, 5), (7, 3), (13, 40), (33, 34)):
            blocks = operand((3, b_, c), dtype, 10 * b_ + c)
            blocks[1] = 0
            blocks[2, :, 1:] = blocks[2, :, :1]
            keep(f"{dtype} one {b_} {c}", *backend.rank1(put(blocks)))
            keep(f"{dtype} some {b_} {c}", *backend.rank_r(put(blocks), (min(b_, c) + 1) // 2))
        keep(f"{dtype} long", *backend.rank1(put(operand((2, 5, 3000), dtype, 9))))
        keep(f"{dtype} in a workspace", *backend.rank_r(put(operand((2, 5, 3000), dtype, 9)), 2))
    return results


def main() -> None:
    from emulated import emulated_backend

    backend = emulated_backend(sanitize=True)
    exercise(backend, ("float32", "complex128"))
    print(*sorted(backend.launcher.launches), file=sys.stdout)


if __name__ == "__main__":
    main()
