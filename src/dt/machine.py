"""How a job uses the machine: one thread, and memory that it keeps."""

from __future__ import annotations

import ctypes

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt(3)
KEEP_BELOW = 2**30  # bytes


def use_one_thread() -> None:
    """One computing thread, and glibc keeps freed buffers: mapping them anew at every step costs a quarter of it."""
    torch.set_num_threads(1)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not in other C libraries
    if mallopt:
        mallopt(M_TRIM_THRESHOLD, KEEP_BELOW)
        mallopt(M_MMAP_THRESHOLD, KEEP_BELOW)
