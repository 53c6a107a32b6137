"""Download a Minari dataset: into a folder that a broken connection or a killed job goes on from, verified, then moved.

Minari's own client fetches; around it stands what it leaves out. It accepts a file that was cut off, skips a dataset
whose metadata are there without the data, and tells of a missing network after half a minute.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from dt.broken import reason
from dt.data import DataError
from dt.datasets import DatasetError, put
from dt.episodes import Expected, check_dataset
from dt.existing import data_file
from dt.files import WriteError, checksum

log = logging.getLogger(__name__)

PAUSES = (1.0, 4.0, 15.0)  # seconds before each further try; within one try the client has its own
PATIENCE = 5.0  # seconds that the hub may take to answer at all
SHA256_DIGITS = 64
ELSEWHERE = (
    "make the data here with `data: {source: experts}`, or fetch the dataset where there is internet"
    " (`minari download ID`) and name its folder with `data: {source: path, path: …}`"
)


def download(minari_id: str, expected: Expected, folder: Path, unfinished: Path, sha256: str | None = None) -> str:
    """Fetch a dataset from the Minari hub into `folder`; what is there of it in `unfinished` is not fetched again.

    Returns the hub's revision of it. The hub is that of MINARI_REMOTE and HF_ENDPOINT. `sha256` is that of its
    main_data.hdf5, if known; the hub's own is checked as well. Raises DatasetError if the hub cannot be reached, has no
    such dataset, or it is not whole.
    """
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line per request
    _check_reachable()
    problem = ""
    for pause in (0.0, *PAUSES):
        if problem:
            log.info("%s; tried again in %.0f s", problem, pause)
            time.sleep(pause)
        try:
            _fetch(minari_id, unfinished)
            _check_content(minari_id, unfinished, expected, sha256)
            revision = _revision(minari_id, unfinished)
            put(unfinished / minari_id, folder)
            shutil.rmtree(unfinished)
            return revision
        except _PassingError as error:
            problem = str(error)
        except _ContentError as error:  # the client has fetched it twice by then, if the hub tells its checksum
            problem = str(error)
            shutil.rmtree(unfinished)
            break
    raise DatasetError(f"Minari dataset {minari_id} could not be downloaded ({problem}); start again, or {ELSEWHERE}")


class _PassingError(Exception):
    """What may be over when it goes on."""


class _ContentError(Exception):
    """What came is not what it should be."""


def _check_reachable() -> None:
    """Raise DatasetError unless the hub answers anything: its client would try for half a minute."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        raise DatasetError(f"HF_HUB_OFFLINE is set, so the Minari hub is not asked; unset it, or {ELSEWHERE}")
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception as error:  # whatever its network library raises
        raise DatasetError(
            f"the Minari hub at {constants.ENDPOINT} cannot be reached ({reason(error)}); {ELSEWHERE}"
        ) from error


def _fetch(minari_id: str, unfinished: Path) -> None:
    from huggingface_hub.errors import HfHubHTTPError
    from minari import download_dataset

    dataset = unfinished / minari_id
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        _fetch_data(minari_id, unfinished)
        with _minari_root(unfinished), contextlib.redirect_stdout(io.StringIO()):
            download_dataset(minari_id, force_download=dataset.exists())
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status < 500 and status != 429:
            raise DatasetError(f"the Minari hub refuses {minari_id} (HTTP {status}); {_near(minari_id)}") from error
        raise _PassingError(f"the hub answers HTTP {status}") from error
    except ValueError as error:  # of Minari
        text = " ".join(str(error).split()).rstrip(".")
        if "data path" in text:  # the hub said nothing of its revision, so that the client fetched nothing
            raise _PassingError(text) from error
        raise DatasetError(f"{text}; {_near(minari_id)}") from error
    except OSError as error:
        if error.errno is None:  # of the network library
            raise _PassingError(reason(error)) from error
        raise WriteError(unfinished, error) from error
    except Exception as error:  # whatever its network library raises
        raise _PassingError(reason(error)) from error


def _fetch_data(minari_id: str, unfinished: Path) -> None:
    """The large file, from where it was cut off: the client goes on within one call only. It then finds the file there.

    What arrived is kept under the name of its contents' tag, so that another revision's is never joined to it.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers
    from minari.storage.remotes import get_cloud_storage
    from minari.storage.remotes.huggingface import HuggingFaceStorage

    storage, place = get_cloud_storage(), data_file(unfinished / minari_id)
    if place.exists() or not isinstance(storage, HuggingFaceStorage):
        return
    repository, _, inside = minari_id.partition("/")
    name = data_file(Path(inside)).as_posix()
    url = hf_hub_url(f"{storage.name}/{repository}", name, repo_type="dataset")
    try:
        told = get_hf_file_metadata(url)
    except (EntryNotFoundError, RepositoryNotFoundError):  # Minari's client explains it better
        return
    part = unfinished / f"{told.etag}.part"
    with part.open("ab") as file:
        if file.tell():
            log.info("%s goes on after %.0f of %.0f MB", minari_id, file.tell() / 1e6, (told.size or 0) / 1e6)
        http_get(url, file, resume_size=file.tell(), headers=build_hf_headers(), expected_size=told.size)
    place.parent.mkdir(parents=True, exist_ok=True)
    part.replace(place)


def _check_content(minari_id: str, unfinished: Path, expected: Expected, sha256: str | None) -> None:
    """Raise unless the data file is as the hub and the configuration say, and every episode in it is sound."""
    from huggingface_hub import _local_folder

    repository, _, inside = minari_id.partition("/")
    path = data_file(unfinished / minari_id)
    if not path.is_file():
        raise _PassingError(f"no {path.name} of it came")
    found = checksum(path)
    told = _local_folder.read_download_metadata(unfinished / repository, f"{inside}/data/{path.name}".lstrip("/"))
    log.info("%s: revision %s, sha256 %s", minari_id, told.commit_hash if told else "unknown", found)
    if sha256 is not None and found != sha256:
        raise DatasetError(
            f"{minari_id}: the hub's {path.name} has sha256 {found}, but the configuration says {sha256}: the dataset"
            " has changed; check it, and set the environment's `data.sha256` to the new value"
        )
    if told and len(told.etag) == SHA256_DIGITS and found != told.etag:
        raise _ContentError(f"{path.name} has sha256 {found}, but the hub says {told.etag}")
    try:
        check_dataset(unfinished / minari_id, expected)
    except DataError as error:
        raise _ContentError(str(error)) from error


def _near(minari_id: str) -> str:
    """Which ids the hub has instead."""
    from minari.storage.remotes import get_cloud_storage

    try:
        storage = get_cloud_storage()
        names = sorted(storage.list_datasets(prefix=minari_id.split("/")[0])) or sorted(storage.list_datasets())
    except Exception:  # the hub's answer is optional here
        names = []
    return f"it has {', '.join(names[:20])}" if names else "check the environment's `minari` id"


@contextlib.contextmanager
def _minari_root(folder: Path) -> Iterator[None]:
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("MINARI_DATASETS_PATH")
        if before is not None:
            os.environ["MINARI_DATASETS_PATH"] = before


def _revision(minari_id: str, unfinished: Path) -> str:
    """Of the hub, as its client noted it beside the files."""
    from huggingface_hub import _local_folder

    repository, _, inside = minari_id.partition("/")
    told = _local_folder.read_download_metadata(unfinished / repository, data_file(Path(inside)).as_posix())
    return told.commit_hash if told else "unknown"
