"""A file that is broken, or something else than it should be, is named in a sentence; no pickle is ever opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dt.runs import ExpectedError

LONGEST_REASON = 200  # characters
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # how zip archives and pickles begin


class BrokenFileError(ExpectedError):
    """A file is not what it should be, in one sentence."""


@contextmanager
def reading(path: Path, kind: str, error: type[ExpectedError] = BrokenFileError, cure: str = "") -> Iterator[None]:
    """Whatever is raised inside, by a library that meets a broken file, becomes one sentence: `path` is not `kind`.

    Expected errors pass as they are, and so does what is not about the file's contents: a missing file, or no memory.
    """
    try:
        yield
    except (ExpectedError, MemoryError):
        raise
    except Exception as found:  # readers of broken files raise nearly anything
        if isinstance(found, OSError) and found.filename:
            raise
        raise error(f"{path} is not {kind} ({reason(found)}){cure and f'; {cure}'}") from found


def refuse_pickle(path: Path, kind: str, error: type[ExpectedError]) -> None:
    """Say of a file that begins as PyTorch's own format does what it is. Without this it would be no safetensors."""
    with path.open("rb") as file:
        if file.read(4).startswith(PICKLES):
            raise error(f"{path} is not {kind}: it is a pickle or a zip archive, which is never opened")


def reason(error: Exception) -> str:
    """An error as a short text on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:LONGEST_REASON]
