"""Masks of the largest magnitudes as a user of an array library would write them, to measure beside."""

from __future__ import annotations

from typing import Any

__all__ = ["mask_by_partition", "mask_by_torch"]


def mask_by_partition(xp: Any, x: Any, k: int) -> Any:
    """Return the mask of the k largest magnitudes by ``argpartition``, as NumPy and CuPy have it."""
    flat = xp.abs(x).reshape(-1)
    mask = xp.zeros(flat.shape, dtype=bool)
    mask[xp.argpartition(flat, flat.size - k)[flat.size - k :]] = True
    return mask.reshape(x.shape)


def mask_by_torch(torch: Any, x: Any, k: int) -> Any:
    """Return the mask of the k largest magnitudes by ``topk``, as PyTorch has it."""
    flat = x.abs().reshape(-1)
    mask = torch.zeros(flat.shape, dtype=torch.bool, device=flat.device)
    mask[torch.topk(flat, k, sorted=False).indices] = True
    return mask.reshape(x.shape)
