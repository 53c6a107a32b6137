"""Pickles in disguise: every file that the programs read is refused unread if it is one."""

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, synthetic
from damage import contents, evaluation, leave_a_training

from dt.actors import Actor
from dt.data import Trajectories, read_stats
from dt.datasets import collect
from dt.policy import load_policy
from dt.returns import read_steps
from dt.runs import ExpectedError
from dt.snapshots import snapshot_epochs

EXPERTS = ROOT / "resources/experts"


@pytest.fixture
def run(config: dict[str, Any], tmp_path: Path) -> Path:
    return leave_a_training(tmp_path, config)


class Malice:
    """Unpickled, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def as_pickle(content: Any, path: Path, protocol: int) -> None:
    path.write_bytes(pickle.dumps(content, protocol))


def as_zip(content: Any, path: Path, protocol: int) -> None:
    torch.save(content, path, pickle_protocol=protocol)


def as_old_torch(content: Any, path: Path, protocol: int) -> None:
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)


def as_array(content: Any, path: Path, protocol: int) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([content], dtype=object), allow_pickle=True)


@pytest.mark.parametrize("write", [as_pickle, as_zip, as_old_torch, as_array])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_in_disguise_is_refused_unread(write: Callable[..., None], protocol: int, run: Path) -> None:
    proof, arrays, actor = run / "proof", run / "arrays", run / "hopper.safetensors"
    synthetic(11, 3)[0].save(arrays)
    shutil.copy(EXPERTS / "hopper.safetensors", actor)
    readers = {
        run / "policy.safetensors": load_policy,
        run / "snapshots.safetensors": snapshot_epochs,
        run / "training.csv": read_steps,
        run / "stats.json": read_stats,
        arrays / "states.npy": lambda path: Trajectories.open(path.parent),
        run / "hopper.json": lambda path: collect("hopper", {"gymnasium": "Hopper-v5"}, actor, 1, run / "data"),
        run / "actor.safetensors": Actor.load,
    }
    for path, read in readers.items():
        write(Malice(proof), path, protocol)
        with pytest.raises(ExpectedError, match=f"{path.name} is not"):
            read(path)
    assert not proof.exists()
    assert not (run / "data").exists()
    if write is as_pickle:
        pickle.loads((run / "policy.safetensors").read_bytes())
        assert proof.exists()  # so the malice works


@pytest.mark.parametrize("script", ["evaluate", "train", "datasets"])
def test_the_programs_end_with_one_line_and_code_1(script: str, run: Path, config: dict[str, Any]) -> None:
    data, stats = synthetic(11, 3)
    data.save(run / "arrays")
    (run / "stats.json").write_text(json.dumps(stats))
    broken = run / "policy.safetensors"
    as_zip(Malice(run / "proof"), broken, 5)
    shutil.copy(EXPERTS / "hopper.json", run / "policy.json")
    outputs = {"policy": "new.safetensors", "training": "new.csv", "snapshots": "new-snapshots.safetensors"}
    arguments = {
        "evaluate": evaluation(run),
        "train": [
            *("--run", '["finetune", "hopper", "hopper", "unfreeze1", 0]', "--settings", json.dumps(config)),
            *("--epochs", "1", "--stats", f"{run}/stats.json", "--arrays", f"{run}/arrays"),
            *("--source-policy", str(broken)),
            *(part for option, name in outputs.items() for part in (f"--{option}", f"{run}/{name}")),
        ],
        "datasets": [
            *("--environment", "hopper", "--actor", str(broken), "--folder", f"{run}/data"),
            *("--settings", json.dumps({"environment": {"gymnasium": "Hopper-v5"}, "trajectories": 1})),
        ],
    }
    before = contents(run)
    command = [sys.executable, ROOT / f"workflow/scripts/{script}.py", *arguments[script]]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if "simulator:" not in line and "matrix products" not in line]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(f"error: {broken} is not")
    assert "pickle" in lines[0]
    assert contents(run) == before
