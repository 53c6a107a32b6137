"""A GPU for each job of a machine: which one a process may use is decided before CUDA starts."""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import time
from contextlib import suppress
from itertools import product
from pathlib import Path

from dt.runs import ExpectedError

FOLDER = Path("/tmp/dt-gpus")  # not TMPDIR: jobs of several Snakemakes and users must meet
VISIBLE = "CUDA_VISIBLE_DEVICES"
NONE = ("-1", "NoDevFiles")  # how some programs hide all GPUs
JOBS_PER_GPU = "DT_JOBS_PER_GPU"
POLL = 1.0  # seconds between two looks for a free GPU
log = logging.getLogger(__name__)


class SlotError(ExpectedError):
    """DT_JOBS_PER_GPU is no number ≥ 1, in one sentence."""


def take_gpu(folder: Path = FOLDER) -> int | None:
    """Wait for a GPU that fewer than DT_JOBS_PER_GPU (1) jobs use, and let CUDA show this process no other.

    Returns the descriptor of a lock file, held until the process ends, however it ends; None, and nothing is changed,
    where there is no GPU, and in a job of Slurm, which has chosen already. Raises SlotError if DT_JOBS_PER_GPU is not
    a number ≥ 1.
    """
    devices = [] if "SLURM_JOB_ID" in os.environ else visible_gpus()
    if not devices:
        return None
    jobs, waiting = _jobs_per_gpu(), False
    while True:
        for slot, device in product(range(jobs), devices):  # a second job on a GPU once each has a first
            descriptor = _lock(folder, f"{device}-{slot}")
            if descriptor is not None:
                os.environ[VISIBLE] = device
                log.info("GPU %s", device)
                return descriptor
        if not waiting:
            log.info("waiting for one of %d GPUs, each with %d jobs", len(devices), jobs)
            waiting = True
        time.sleep(POLL)


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES names; without it the identifiers of all GPUs of the machine."""
    names = os.environ[VISIBLE].split(",") if VISIBLE in os.environ else _ask_driver().splitlines()
    return [name.strip() for name in names if name.strip() not in ("", *NONE)]


def _jobs_per_gpu() -> int:
    text = os.environ.get(JOBS_PER_GPU, "1")
    if not text.isdecimal() or int(text) < 1:
        raise SlotError(f"{JOBS_PER_GPU}: found {text!r}; allowed is a whole number ≥ 1")
    return int(text)


def _ask_driver() -> str:
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):  # no driver, no GPU
        return ""


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
