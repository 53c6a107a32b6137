"""A file is whole or absent: it is written beside its place, brought to the disk, and renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from dt.runs import ExpectedError, StoppedError

SNAKEMAKE_PID = "DT_SNAKEMAKE_PID"  # set by workflow/rules/common.smk
FULL = 2**20  # bytes; a disk with less is full, whatever the error was called
REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "the file is larger than this process may write; raise the limit (ulimit -f)",
    errno.EROFS: "the file system is read-only; make it writable, or name another folder with `results`",
    errno.EACCES: "permission is denied; make it writable, or name another folder with `results`",
    errno.EPERM: "permission is denied; make it writable, or name another folder with `results`",
}
NUMBER = re.compile(r"(?:os error|errno =) ?(\d+)")  # as safetensors and HDF5 put it into their texts


class WriteError(ExpectedError):
    """A file cannot be written: where, why and what to do, in one sentence."""

    def __init__(self, path: Path, error: Exception) -> None:
        super().__init__(f"{path} cannot be written: {_reason(path, error)}, and start again")


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write an output: call `write` with a path beside `path` (same suffix), then rename; nothing stays if it raises.

    Raises WriteError if the disk does not take it, and StoppedError if the job's Snakemake is gone: that cannot note
    that the output is there, the next one deletes it, and may have made a newer one already.
    """
    refuse_if_left_behind(path)
    write_record(path, write)


def write_record(path: Path, write: Callable[[Path], object]) -> None:
    """The same for a file that is no output."""
    unfinished = unfinished_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(unfinished)
        share(unfinished)
        sync(unfinished)
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        raise WriteError(path, error) from error
    finally:
        unfinished.unlink(missing_ok=True)


def unfinished_path(path: Path) -> Path:
    """Where this process writes what becomes `path`; what killed processes left of it is deleted.

    The name is the process's own: one that a killed Snakemake left behind may still be writing.
    """
    own = path.with_name(f".unfinished-{os.getpid()}-{path.name}")
    left = re.compile(rf"\.unfinished-\d+-{re.escape(path.name)}")
    for other in path.parent.iterdir() if path.parent.is_dir() else ():
        if left.fullmatch(other.name):
            shutil.rmtree(other) if other.is_dir() else other.unlink(missing_ok=True)
    return own


def checksum(path: Path) -> str:
    """The SHA-256 of a file, 64 digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def share(path: Path) -> None:
    """Let those use a file whom the umask lets, as it is with new files: safetensors writes for the owner alone."""
    path.chmod(0o666 & ~_umask())


def sync(path: Path) -> None:
    """Bring a file to the disk: else a power cut can leave it renamed and empty. It takes about 10 ms."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def failure(error: OSError) -> str:
    """What went wrong, and what to do where that is known."""
    remedy = REMEDIES.get(error.errno or 0)
    return f"{error}: {remedy}, and start again" if remedy else str(error)


def refuse_if_left_behind(path: Path) -> None:
    """Raise StoppedError if the Snakemake that started this process has ended since, killed for example."""
    if _OWNER is not None and not _runs(_OWNER):
        raise StoppedError(f"{path} is not written: the Snakemake that started this job is gone; start it again")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _owner() -> int | None:
    """None without Snakemake, or where its process cannot be seen, as from some containers."""
    pid = os.environ.get(SNAKEMAKE_PID, "")
    return int(pid) if pid.isdecimal() and _runs(int(pid)) else None


def _reason(path: Path, error: Exception) -> str:
    found = NUMBER.search(str(error))
    number = getattr(error, "errno", None) or (int(found[1]) if found else None)
    if number not in REMEDIES and _is_full(path):  # NumPy and HDF5 may not say so
        number = errno.ENOSPC
    return REMEDIES.get(number or 0, f"{' '.join(str(error).split())}; mend that")


def _is_full(path: Path) -> bool:
    place = next((folder for folder in path.absolute().parents if folder.is_dir()), None)
    return place is not None and shutil.disk_usage(place).free < FULL


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_OWNER = _owner()
