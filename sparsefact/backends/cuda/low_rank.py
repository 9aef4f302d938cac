"""The dominant singular triple, or the leading ones, of many blocks at once on the GPU.

One triple: the closed form for real 2 x 2 blocks, else squarings of the Gram matrix of the short side where two of them
fit in shared memory. Several triples, or a longer side: Jacobi rotations. From a short side of 65 on, where one thread
block per matrix would leave the GPU idle and take long, CUDA's libraries: the eigenvectors of B B^H, one step with B
itself and a small SVD; or the SVD of B, where r is not small or the Gram matrix has lost sigma_r.
"""

from __future__ import annotations

from typing import Any

from sparsefact.backends.cuda.launcher import Launcher, contiguous, empty

__all__ = ["rank1", "rank_r"]

_SQUARINGS = {"f": 24, "d": 44, "F": 24, "D": 44}
_SWEEPS = 40
_PANEL = 32
# The longest short side that a thread block takes.
_LONGEST = 64
# Bytes of the workspace of blocks too large for shared memory; more blocks are done in turns.
_WORKSPACE = 1 << 30
# Below this share of the largest eigenvalue of B B^H an eigenvector has lost too many digits.
_RESOLVED = 1e-4
_SHARE = 0.25


def rank1(launcher: Launcher, blocks: Any) -> tuple[Any, Any, Any]:
    """Return the dominant singular triple of every block."""
    if blocks.ndim != 3:
        stack = blocks.reshape(-1, *blocks.shape[-2:])
        u, s, v = rank1(launcher, stack)
        batch = blocks.shape[:-2]
        return u.reshape(*batch, u.shape[-1]), s.reshape(batch), v.reshape(*batch, v.shape[-1])
    dtype = blocks.dtype
    count, height, width = blocks.shape
    if height > width:
        v, s, u = rank1(launcher, blocks.transpose(0, 2, 1))
        return u, s, v
    held = (2 * height * (height | 1) + height * (_PANEL + 1)) * dtype.itemsize
    if height > _LONGEST or held > launcher.shared_limit - 1024:
        u, s, v = rank_r(launcher, blocks, 1)
        return u[:, :, 0], s[:, 0], v[:, 0]
    b = contiguous(launcher, blocks)
    u, v = empty(launcher, (count, height), dtype), empty(launcher, (count, width), dtype)
    s = empty(launcher, count, b.real.dtype)
    if count == 0:
        return u, s, v
    if height == width == 2 and dtype.kind == "f":
        launcher.launch("rank1", "closed_form", dtype, -(-count // 256), 256, (b, u, s, v, count))
    else:
        threads = 32 if height <= 4 else 64 if height <= 8 else 128 if height <= 24 else 256
        arguments = (b, u, s, v, height, width, _SQUARINGS[dtype.char])
        launcher.launch("rank1", "dominant", dtype, count, threads, arguments, shared=held)
    return u, s, v


def rank_r(launcher: Launcher, blocks: Any, r: int) -> tuple[Any, Any, Any]:
    """Return the `r` leading singular triples of every block."""
    if blocks.ndim != 3:
        u, s, v = rank_r(launcher, blocks.reshape(-1, *blocks.shape[-2:]), r)
        batch = blocks.shape[:-2]
        return u.reshape(*batch, *u.shape[1:]), s.reshape(*batch, r), v.reshape(*batch, *v.shape[1:])
    count, height, width = blocks.shape
    if height > width:
        v, s, u = rank_r(launcher, blocks.transpose(0, 2, 1), r)
        return u.transpose(0, 2, 1), s, v.transpose(0, 2, 1)
    if count and height > _LONGEST:
        return _by_libraries(launcher, blocks, r)
    dtype, b = blocks.dtype, contiguous(launcher, blocks)
    real = b.real.dtype
    u, s = empty(launcher, (count, height, r), dtype), empty(launcher, (count, r), real)
    v = empty(launcher, (count, r, width), dtype)
    held = height * width + height * height
    sizes = 2 * ((height + 1) // 2) * real.itemsize
    threads = 32 * max(1, min(8, height // 2))
    if sizes + held * dtype.itemsize <= launcher.shared_limit - 1024:
        if count:
            arguments = (b, u, s, v, None, height, width, r, _SWEEPS)
            shared = sizes + held * dtype.itemsize
            launcher.launch("jacobi", "jacobi", dtype, count, threads, arguments, shared=shared)
        return u, s, v
    turn = max(1, min(count, _WORKSPACE // (held * dtype.itemsize)))
    space = empty(launcher, turn * held, dtype)
    for start in range(0, count, turn):
        part = slice(start, min(start + turn, count))
        arguments = (b[part], u[part], s[part], v[part], space, height, width, r, _SWEEPS)
        launcher.launch("jacobi", "jacobi", dtype, part.stop - start, threads, arguments, shared=sizes)
    return u, s, v


def _by_libraries(launcher: Launcher, blocks: Any, r: int) -> tuple[Any, Any, Any]:
    """Return the leading triples of blocks with a long short side, one after the other in CUDA's libraries."""
    xp = launcher.xp
    height = blocks.shape[1]
    if r > _SHARE * height:
        u, s, v = xp.linalg.svd(blocks, full_matrices=False)
        return u[:, :, :r], s[:, :r], v[:, :r, :]
    largest = xp.abs(blocks).max(axis=(1, 2), keepdims=True)
    scale = xp.where(largest > 0, largest, 1)
    b = blocks / scale
    adjoint = b.conj().transpose(0, 2, 1)
    values, vectors = xp.linalg.eigh(b @ adjoint)
    q = xp.linalg.qr(adjoint @ vectors[:, :, : -r - 1 : -1])[0]
    u, s, small = xp.linalg.svd(b @ q, full_matrices=False)
    v = small @ q.conj().transpose(0, 2, 1)
    lost = ~(values[:, -r] > _RESOLVED * values[:, -1])
    if bool(lost.any()):
        where = xp.flatnonzero(lost)
        whole = xp.linalg.svd(b[where], full_matrices=False)
        u[where], s[where], v[where] = whole[0][:, :, :r], whole[1][:, :r], whole[2][:, :r, :]
    return u, s * scale[:, :, 0], v
