"""How a job uses the machine: one thread, memory that it keeps, a GPU if asked for."""

from __future__ import annotations

import ctypes
import logging
from typing import Any

import torch

from dt.provenance import instructions, processor
from dt.runs import ExpectedError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt(3)
KEEP_BELOW = 2**30  # bytes
log = logging.getLogger(__name__)


class DeviceError(ExpectedError):
    """The device asked for is not there, in one sentence."""


def use_one_thread() -> None:
    """One computing thread, and glibc keeps freed buffers: mapping them anew at every step costs a quarter of it."""
    torch.set_num_threads(1)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not in other C libraries
    if mallopt:
        mallopt(M_TRIM_THRESHOLD, KEEP_BELOW)
        mallopt(M_MMAP_THRESHOLD, KEEP_BELOW)


def use_fastest_products() -> None:
    """Matrix products in fp32 through oneDNN, if it does not round: on AMD it is faster than MKL, PyTorch's default.

    oneDNN has to be asked for with a precision of "medium", which allows bf16: it rounds where there are tiles (AMX).
    For large products: those of evaluation are faster in MKL.
    """
    torch.set_float32_matmul_precision("medium")
    fine = torch.full((256, 256), 1 + 2**-12)  # bf16 would make it 1
    exact = torch.equal(fine @ torch.eye(256), fine)
    if not exact:
        torch.set_float32_matmul_precision("highest")
    log.info("fp32 matrix products by %s", "oneDNN" if exact else "PyTorch's default: oneDNN rounds to bf16 here")


def warn_of_slow_products(precision: str) -> None:
    """Log that products in bf16 are slow where the processor has no instructions for them, as far as it tells."""
    known = instructions()
    if precision == "bf16" and known and not any("bf16" in each for each in known):
        log.warning(
            "warning: %s has no bf16 instructions: a training step in bf16 takes several times as long as in fp32;"
            " set precision: fp32",
            processor(),
        )


def computing(place: str) -> dict[str, Any]:
    """Say what the machine has to do with the bytes of a result, as it is set now; for a record of provenance."""
    default = "MKL" if torch.backends.mkl.is_available() else "PyTorch's default"
    products = "oneDNN" if torch.get_float32_matmul_precision() == "medium" else default
    return {
        "device": place,
        "threads": torch.get_num_threads(),
        "kernels": torch.backends.cpu.get_cpu_capability(),  # the vector instructions that PyTorch's own loops use
        "products": products if place == "cpu" else "cuBLAS",
    }


def device(name: str) -> torch.device:
    """`cpu`, `cuda`, or for `auto` a GPU where PyTorch finds one; raises DeviceError if `cuda` finds none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device is cuda, but PyTorch finds no GPU here; auto takes the CPU then")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
