"""A file that is broken, or something else than it should be, is named in a sentence; no pickle is ever opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dt.provenance import record_of
from dt.runs import ExpectedError

LONGEST_REASON = 200  # characters
LINK = "Git LFS has left a pointer instead of it; fetch it with `git lfs pull`"
PAGE = "it is a web page, as a failed download leaves one"
OTHERS = {b"version https://git-lfs": LINK, b"<!doctype html": PAGE, b"<html": PAGE}  # by how they begin
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # how zip archives and pickles begin


class BrokenFileError(ExpectedError):
    """A file is not what it should be, in one sentence."""


@contextmanager
def reading(path: Path, kind: str, error: type[ExpectedError] = BrokenFileError) -> Iterator[None]:
    """Whatever is raised inside, by a library that meets a broken file, becomes one sentence: `path` is not `kind`.

    It ends with a cure if a job made the file. Expected errors pass as they are, and so does what is not about the
    file's contents: a missing file, or no memory.
    """
    try:
        yield
    except (ExpectedError, MemoryError):
        raise
    except Exception as found:  # readers of broken files raise nearly anything
        if isinstance(found, OSError) and found.filename:
            raise
        raise error(f"{path} is not {kind} ({_other(path) or reason(found)}){remake(path)}") from found


def remake(path: Path) -> str:
    """The end of a sentence about a file: that deleting it helps, which it does if a job made it, as a record says.

    Empty of any other file, and of a link: what is the user's is never to be deleted, and no job would bring it back.
    """
    made = not path.is_symlink() and record_of(Path(os.path.abspath(path)))[0] is not None
    return "; delete it, and snakemake makes it anew" if made else ""


def refuse_pickle(path: Path, kind: str, error: type[ExpectedError]) -> None:
    """Say of a file that begins as PyTorch's own format does what it is. Without this it would be no safetensors."""
    with path.open("rb") as file:
        if file.read(4).startswith(PICKLES):
            raise error(f"{path} is not {kind}: it is a pickle or a zip archive, which is never opened")


def _other(path: Path) -> str | None:
    """What a file is instead, where its beginning tells: the libraries that read it would say something else first."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        found = file.read(32).lower()
    return next((what for beginning, what in OTHERS.items() if found.startswith(beginning)), None)


def reason(error: Exception) -> str:
    """An error as a short text on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:LONGEST_REASON]
