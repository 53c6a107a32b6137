"""What a killed job goes on from: files in a folder of their own, since Snakemake deletes a failed job's outputs."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dt.files import write_record
from dt.runs import StoppedError

SAVE_EVERY = 5.0  # seconds of work that a kill may cost
METADATA_KEY = "checkpoint"
STOP = "stop"  # the file that asks the folder's process to stop, where no signal reaches it
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of a file system without flock(2)
KEY = re.compile("[0-9a-f]{16}")
log = logging.getLogger(__name__)


class Checkpoint:
    """Named records of tensors and plain values, in `folder`; without a folder nothing is written or found.

    `key`, a `digest`, says what the job is made from: records of another key are deleted. One process at a time has the
    folder, and so writes the job's outputs: another one, started after Snakemake was killed and left its jobs behind,
    asks the first to stop, waits for it and goes on from there. They may run on two machines that share the folder.
    """

    def __init__(self, folder: Path | None = None, key: str = "") -> None:
        self.folder = folder / key if folder else None
        self.saved_at = time.monotonic()
        self.stopping = False
        self.resumed = False  # whether a record was read: the job goes on from what another one did
        if folder:
            if not KEY.fullmatch(key):
                raise ValueError(f"found {key!r}; a key is 16 hexadecimal digits")
            self.lock = _lock(folder)
            for other in folder.iterdir():
                if other != self.folder and KEY.fullmatch(other.name):
                    shutil.rmtree(other)

    def stop_on_sigterm(self) -> None:
        """From now on SIGTERM makes the next `due` true, and the write that follows raise StoppedError."""
        if self.folder:
            signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopping", True))

    def due(self) -> bool:
        """Whether SAVE_EVERY has passed since a record that one can go on from, or the job is to stop."""
        return self.folder is not None and (self.stopping or time.monotonic() - self.saved_at > SAVE_EVERY)

    def write(self, name: str, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """A record that the job can go on from; raises StoppedError once it is written, if the job is to stop."""
        if self.folder:
            self.write_part(name, tensors, values)
            self.saved_at = time.monotonic()
            asked = self.folder.with_name(STOP).exists()
            if self.stopping or asked:
                reason = "for a later job of the same outputs" if asked else "by SIGTERM"
                raise StoppedError(f"stopped {reason}; the next start goes on from {self.folder}")

    def write_part(self, name: str, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """A record that another one, written later, needs."""
        if self.folder:
            text = json.dumps([values, _checksum(tensors, values)])
            path, metadata = self.folder / f"{name}.safetensors", {METADATA_KEY: text}
            write_record(path, lambda unfinished: save_file(tensors, unfinished, metadata=metadata))

    def read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """None if there is no such record, or none that can be read."""
        path = self.folder / f"{name}.safetensors" if self.folder else None
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                values, checksum = json.loads((file.metadata() or {})[METADATA_KEY])
                tensors = {key: file.get_tensor(key) for key in file.keys()}
            if _checksum(tensors, values) != checksum:
                raise ValueError("it was changed since it was written")
            self.resumed = True
            return tensors, values
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            log.warning("%s cannot be read, so the job begins anew: %s", path, error)
            return None

    def remove(self) -> None:
        """Once the outputs are written."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.with_name(STOP).unlink(missing_ok=True)
            self.folder.with_name("lock").unlink(missing_ok=True)
            with suppress(OSError):  # something else lies there
                self.folder.parent.rmdir()


def _checksum(tensors: dict[str, Tensor], values: dict[str, Any]) -> str:
    result = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        result.update(name.encode())
        result.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return result.hexdigest()


def _lock(folder: Path) -> TextIO:
    """The folder's lock file, held until the process ends; it names the process."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = (folder / "lock").open("a+", encoding="utf-8")
        except FileNotFoundError:  # the folder's last owner has just removed it
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _ask_to_stop(file, folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            log.warning("%s cannot be locked (%s): start no second Snakemake on these results", folder, error)
        try:
            current = os.path.samestat(os.fstat(file.fileno()), (folder / "lock").stat())
        except FileNotFoundError:
            current = False
        if current:
            (folder / STOP).unlink(missing_ok=True)
            file.truncate(0)
            file.write(f"{os.getpid()} {platform.node()}")
            file.flush()
            return file
        file.close()


def _ask_to_stop(file: TextIO, folder: Path) -> None:
    """Send SIGTERM to the process that holds the lock; one on another machine sees a file when it writes a record."""
    file.seek(0)
    owner = file.read()
    log.warning("waiting for process %s, which writes the same outputs", owner or "?")
    pid, _, node = owner.partition(" ")
    if pid.isdecimal() and node == platform.node():
        with suppress(ProcessLookupError, PermissionError):
            os.kill(int(pid), signal.SIGTERM)
    else:
        (folder / STOP).touch()


def digest(*parts: Any) -> str:
    """A key from plain values and the contents of files (`Path`s)."""
    result = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as file:
                result.update(hashlib.file_digest(file, "sha256").digest())
        else:
            result.update(hashlib.sha256(json.dumps(part, sort_keys=True).encode()).digest())
    return result.hexdigest()[:16]
