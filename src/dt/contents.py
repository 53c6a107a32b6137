"""Checksums of what files hold, whenever and wherever they were written: of weights and data alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from dt.broken import reading
from dt.data import ARRAYS


def weights_checksum(policy: Path) -> str:
    """The SHA-256 of the tensors in a safetensors file; raises BrokenFileError."""
    with reading(policy, "a file of weights"):
        return contents_checksum(load_file(policy).items())


def data_checksum(folder: Path) -> str:
    """The same of the arrays that policies learn from: states, actions, returns-to-go and starts of trajectories."""
    with reading(folder, "a folder of arrays"):
        return contents_checksum((name, np.load(folder / f"{name}.npy", mmap_mode="r")) for name in ARRAYS)


def contents_checksum(arrays: Iterable[tuple[str, np.ndarray]]) -> str:
    """The SHA-256 over name, type, shape and bytes of arrays, in the order of their names."""
    result = hashlib.sha256()
    for name, array in sorted(arrays, key=lambda item: item[0]):
        result.update(f"{name} {array.dtype.str} {list(array.shape)}\n".encode())
        result.update(np.ascontiguousarray(array).data)
    return result.hexdigest()
