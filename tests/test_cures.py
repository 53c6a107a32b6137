"""The cure fits the cause: only what a job made is to be deleted, and the first reason named is the real one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import synthetic
from test_hub import make_dataset
from test_huggingface import TASK

from dt.actors import Actor
from dt.data import Trajectories, read_stats
from dt.datasets import link
from dt.episodes import Expected, check_dataset
from dt.existing import data_file
from dt.huggingface import import_policy
from dt.metrics import read_returns
from dt.policy import PolicyError, load_policy
from dt.runs import ExpectedError

CURE = "delete it, and snakemake makes it anew"
RUN = "scratch/hopper/seed0"
READERS: dict[str, Callable[[Path], Any]] = {
    "hopper.json": read_stats,
    "returns.csv": lambda path: read_returns([RUN], [path]),
    "policy.safetensors": load_policy,
}


def answer(function: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(ExpectedError) as caught:
        function(*arguments)
    return str(caught.value)


def record(*made: Path) -> None:
    """As the job that made the files leaves one beside them."""
    place = made[0].parent / "provenance.json"
    place.write_text(json.dumps({"made": {os.path.relpath(path, place.parent): "0" * 64 for path in made}}))


@pytest.mark.parametrize("name", READERS)
def test_a_broken_file_is_to_be_deleted_only_if_a_job_made_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text('{"states": 1}')
    assert "delete" not in answer(READERS[name], path)
    record(path)
    assert answer(READERS[name], path).endswith(f"; {CURE}")


def test_arrays_that_do_not_belong_together_are_to_be_deleted_only_if_a_job_made_them(tmp_path: Path) -> None:
    synthetic(3, 1)[0].save(tmp_path)
    np.save(tmp_path / "starts.npy", np.array([0, 1]))
    assert answer(Trajectories.open, tmp_path).endswith("do not belong together")
    record(tmp_path / "starts.npy")
    assert answer(Trajectories.open, tmp_path).endswith(f"do not belong together; {CURE}")


def test_a_users_dataset_is_never_to_be_deleted_though_a_job_made_the_link_to_it(tmp_path: Path) -> None:
    dataset, linked, expected = tmp_path / "mine", tmp_path / "results/hopper", Expected.of("Hopper-v5", {})
    make_dataset(dataset, episodes=2, steps=5)
    link(dataset, expected, linked)
    record(data_file(linked))
    with h5py.File(data_file(dataset), "a") as file:
        del file["episode_1"]
    found = answer(check_dataset, linked, expected)
    assert "holds 1 episodes, but metadata.json counts 2" in found
    assert "delete" not in found


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "fetch it with `git lfs pull`"),
        ("<!DOCTYPE html>\n<html><body>Not found</body></html>", "it is a web page"),
        ("<html>504 Gateway Time-out</html>", "it is a web page"),
    ],
)
@pytest.mark.parametrize("reader", ["data", "policy", "actor", "stats"])
def test_what_a_download_leaves_instead_of_a_file_is_named(
    content: str, said: str, reader: str, tmp_path: Path
) -> None:
    path, readers = tmp_path / "file", {"policy": load_policy, "actor": Actor.load, "stats": read_stats}
    if reader == "data":
        make_dataset(tmp_path, episodes=1, steps=2)
        data_file(tmp_path).write_text(content)
        found = answer(check_dataset, tmp_path, Expected.of("Hopper-v5", {}))
    else:
        path.write_text(content)
        found = answer(readers[reader], path)
    assert said in found


WRITER = "import h5py, sys; f = h5py.File(sys.argv[1], 'a'); print('open', flush=True); sys.stdin.read()"


def test_a_dataset_that_is_open_elsewhere_is_said_to_be_locked(tmp_path: Path) -> None:
    make_dataset(tmp_path, episodes=1, steps=5)
    command, expected = [sys.executable, "-c", WRITER, str(data_file(tmp_path))], Expected.of("Hopper-v5", {})
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as notebook:
        assert notebook.stdout is not None
        assert notebook.stdout.readline() == "open\n"
        for reader in (lambda: check_dataset(tmp_path, expected), lambda: link(tmp_path, expected, tmp_path / "to")):
            found = answer(reader)
            assert "is locked: another program, such as a notebook, has it open" in found
            assert "set HDF5_USE_FILE_LOCKING=FALSE" in found
        notebook.kill()
    check_dataset(tmp_path, expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("unable to lock file, errno = 37, error message = 'No locks available'", "its file system has no locks"),
        ("unable to lock file, errno = 38, error message = 'Function not implemented'", "HDF5_USE_FILE_LOCKING=FALSE"),
        ("file is already open for write (may use <h5clear file> to clear file consistency flags)", "h5clear -s"),
    ],
)
def test_other_locks_have_their_own_cure(text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset(tmp_path, episodes=1, steps=5)
    expected = Expected.of("Hopper-v5", {})

    def refuse(*_: Any) -> None:
        raise OSError(f"Unable to synchronously open file ({text})")

    monkeypatch.setattr(h5py, "File", refuse)
    assert said in answer(check_dataset, tmp_path, expected)


@pytest.mark.parametrize("name", ["pytorch_model-00001-of-00002.bin", "pytorch_model.bin", "model.pt"])
def test_weights_that_are_pickles_are_said_to_be_so_in_several_files_too(name: str, tmp_path: Path) -> None:
    config = {"model_type": "decision_transformer", "state_dim": 11, "act_dim": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "pytorch_model.bin.index.json").write_text("{}")
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(PolicyError, match=rf"{name} is a pickle, .*save_pretrained\(FOLDER\)"):
        import_policy(tmp_path, TASK)
