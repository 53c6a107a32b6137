"""A GPU for each job of a machine: which one a process may use is decided before CUDA starts."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch

from dt.runs import ExpectedError

FOLDER = Path("/tmp/dt-gpus")  # not TMPDIR: jobs of several Snakemakes and users must meet
VISIBLE = "CUDA_VISIBLE_DEVICES"
NONE = ("-1", "NoDevFiles")  # how some programs hide all GPUs
JOBS_PER_GPU = "DT_JOBS_PER_GPU"
SLURM_JOB = "SLURM_JOB_ID"
SENT = "DT_SENT_TO_CLUSTER"  # set by workflow/rules/common.smk in a job that the workflow itself sent to a cluster
POLL = 1.0  # seconds between two looks for a free GPU
log = logging.getLogger(__name__)


class SlotError(ExpectedError):
    """DT_JOBS_PER_GPU is no number ≥ 1, in one sentence."""


def take_usable_gpu(device: str) -> int | None:
    """`take_gpu`, unless `device` is cpu or PyTorch can use no GPU: a job then waits for none."""
    return take_gpu() if device != "cpu" and usable_gpus() else None


def take_gpu(folder: Path = FOLDER) -> int | None:
    """Wait for a GPU that fewer than DT_JOBS_PER_GPU (1) jobs use, and let CUDA show this process no other.

    Returns the descriptor of a lock file, held until the process ends, however it ends; None, and nothing is changed,
    where there is no GPU, and in a job that the workflow sent to Slurm, which has chosen already. Local jobs inside an
    allocation of several GPUs choose among those. Raises SlotError if DT_JOBS_PER_GPU is not a number ≥ 1.
    """
    devices = [] if {SLURM_JOB, SENT} <= os.environ.keys() else visible_gpus()
    if not devices:
        return None
    jobs, waiting = _jobs_per_gpu(), False
    # an allocation has its GPUs to itself, and may number them from 0 as another one on the same node does
    allocation = f"slurm{os.environ[SLURM_JOB]}-" if SLURM_JOB in os.environ else ""
    while True:
        for slot, device in product(range(jobs), devices):  # a second job on a GPU once each has a first
            descriptor = _lock(folder, f"{allocation}{device}-{slot}")
            if descriptor is not None:
                os.environ[VISIBLE] = device
                log.info("GPU %s", device)
                return descriptor
        if not waiting:
            log.info("waiting for one of %d GPUs, each with %d jobs", len(devices), jobs)
            waiting = True
        time.sleep(POLL)


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES names; without it the numbers of all GPUs that PyTorch can use."""
    names = os.environ[VISIBLE].split(",") if VISIBLE in os.environ else map(str, range(usable_gpus()))
    return [name.strip() for name in names if name.strip() not in ("", *NONE)]


def usable_gpus() -> int:
    """How many GPUs PyTorch can use: none with a CPU build of it, or a driver that is too old for it.

    A child process finds out: once CUDA has started in this one, it shows all GPUs for good.
    """
    try:
        with ProcessPoolExecutor(1, get_context("fork")) as child:
            return child.submit(_count).result()
    except BrokenProcessPool:  # the driver took the child down with it
        return 0


def _count() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _jobs_per_gpu() -> int:
    text = os.environ.get(JOBS_PER_GPU, "1")
    if not text.isdecimal() or int(text) < 1:
        raise SlotError(f"{JOBS_PER_GPU}: found {text!r}; allowed is a whole number ≥ 1")
    return int(text)


def _lock(folder: Path, name: str) -> int | None:
    """An exclusive lock on a file; None if another process has it. Files of other users need only be readable."""
    with suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o1777)
    path = folder / name.replace("/", "_")  # MIG-GPU-…/1/0
    with suppress(FileExistsError):
        new = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.fchmod(new, 0o644)
        os.close(new)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
