"""Where a Minari dataset's files lie, and datasets that are there already. Imports nothing heavy."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

from dt.runs import ExpectedError

SAMPLES, SAMPLE_BYTES = 256, 4096


class NoDatasetError(ExpectedError):
    """There is no dataset where one should be, in one sentence."""


def data_file(folder: Path) -> Path:
    return folder / "data" / "main_data.hdf5"


def metadata_file(folder: Path) -> Path:
    return folder / "data" / "metadata.json"


def find(path: Path, minari_id: str | None) -> Path:
    """The folder of a dataset: `path` itself, or `minari_id` below it if `path` is a Minari root.

    Raises NoDatasetError, which says what was looked for, if it is neither.
    """
    path = Path(os.path.abspath(path.expanduser()))
    places = [path, path / minari_id] if minari_id else [path]
    for place in places:
        if metadata_file(place).is_file() and data_file(place).is_file():
            return place
    looked = " and no ".join(str(data_file(place)) for place in places)
    raise NoDatasetError(
        f"{path} holds no Minari dataset: there is no {looked} with a metadata.json beside it; set `data.path` to the"
        " folder of a dataset, or to a Minari root below which the environment's `minari` id lies"
    )


def cached(minari_id: str) -> Path | None:
    """The dataset in the user's Minari cache (MINARI_DATASETS_PATH, or ~/.minari/datasets), if its files are there."""
    root = Path(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets")
    try:
        return find(root / minari_id, None)
    except NoDatasetError:
        return None


def identity(folder: Path) -> str:
    """Of a dataset's contents, wherever it lies, in milliseconds: its metadata, and the size and samples of its data.

    Two datasets differ in it; a few changed bytes need not.
    """
    result, size = sha256(metadata_file(folder).read_bytes()), data_file(folder).stat().st_size
    result.update(str(size).encode())
    with data_file(folder).open("rb") as file:
        for place in range(0, size, max(SAMPLE_BYTES, size // SAMPLES)):
            file.seek(place)
            result.update(file.read(SAMPLE_BYTES))
    return result.hexdigest()[:16]
