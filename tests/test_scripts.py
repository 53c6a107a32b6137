"""The programs train.py and evaluate.py, killed and started again."""

import json
import runpy
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

from dt import evaluation, slots
from dt.checkpoint import Checkpoint
from dt.data import Trajectories
from dt.optimiser import Optimiser

RUN = ["scratch", "", "hopper", "", 0]
Data = tuple[Trajectories, dict[str, Any]]


class KilledError(BaseException):
    """What no program catches."""


@pytest.fixture
def arguments(config: dict[str, Any], hopper: Data, tmp_path: Path) -> dict[str, list[str]]:
    """Of both programs, by name; evaluate.py reads what train.py has written."""
    hopper[0].save(tmp_path / "arrays")
    (tmp_path / "stats.json").write_text(json.dumps(hopper[1]))
    evaluated = {
        "episodes": 2,
        "device": "auto",
        "precision": "fp32",
        "target_return": 3600.0,
    }
    policy = ["--policy", f"{tmp_path}/policy.safetensors", "--snapshots", f"{tmp_path}/snapshots.safetensors"]
    common = ["--run", json.dumps(RUN), "--training", f"{tmp_path}/training.csv", *policy]
    data = ["--stats", f"{tmp_path}/stats.json", "--arrays", f"{tmp_path}/arrays", "--epochs", "4"]
    return {
        "train": [*common, *data, "--settings", json.dumps(config), "--checkpoint", f"{tmp_path}/kept/train"],
        "evaluate": [
            *(*common, "--settings", json.dumps(evaluated)),
            *(
                "--stats",
                f"{tmp_path}/stats.json",
                "--returns",
                f"{tmp_path}/returns.csv",
                "--checkpoint",
                f"{tmp_path}/kept/evaluate",
            ),
        ],
    }


@pytest.fixture(autouse=True)
def unchanged_process() -> Iterator[None]:
    """The programs change what SIGTERM does, and how matrices are multiplied."""
    before = signal.getsignal(signal.SIGTERM), torch.get_float32_matmul_precision()
    yield
    signal.signal(signal.SIGTERM, before[0])
    torch.set_float32_matmul_precision(before[1])


def start(script: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(ROOT / f"workflow/scripts/{script}.py"), run_name="__main__")


@pytest.mark.parametrize(
    ("script", "output", "owner", "work", "rest"),
    [
        ("train", "policy.safetensors", Optimiser, "step", 12 - 2),  # steps after the second record
        ("evaluate", "returns.csv", evaluation, "roll_out", 5 - 2),  # snapshots after it
    ],
)
def test_a_killed_program_does_the_rest_and_writes_the_same_bytes(
    arguments: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    script: str,
    output: str,
    owner: Any,
    work: str,
    rest: int,
) -> None:
    def resumed() -> bool:
        return json.loads((tmp_path / "provenance.json").read_text())["resumed"]

    for name in dict.fromkeys(("train", script)):
        arguments[name] += ["--provenance", f"{tmp_path}/provenance.json"]
        start(name, arguments[name], monkeypatch)
    assert not resumed()
    expected = (tmp_path / output).read_bytes()
    (tmp_path / output).unlink()
    assert not list((tmp_path / "kept").iterdir())  # nothing is left of what succeeded

    records: list[str] = []
    with monkeypatch.context() as patch:
        write = Checkpoint.write

        def killed_after_two(self: Checkpoint, *record: Any) -> None:
            write(self, *record)
            records.append(record[0])
            if len(records) == 2:
                self.lock.close()  # as the end of a process does
                raise KilledError

        patch.setattr(Checkpoint, "write", killed_after_two)
        patch.setattr(Checkpoint, "due", lambda self: True)
        with pytest.raises(KilledError):
            start(script, arguments[script], patch)
    assert not (tmp_path / output).exists()

    done = count_calls(owner, work, monkeypatch)
    start(script, arguments[script], monkeypatch)
    assert len(done) == rest
    assert (tmp_path / output).read_bytes() == expected
    assert resumed()


def test_a_training_killed_under_other_settings_begins_anew(
    arguments: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        write = Checkpoint.write
        patch.setattr(
            Checkpoint, "write", lambda self, *record: (write(self, *record), self.lock.close(), sys.exit("killed"))
        )
        patch.setattr(Checkpoint, "due", lambda self: True)
        with pytest.raises(SystemExit, match="killed"):
            start("train", arguments["train"], patch)
    done = count_calls(Optimiser, "step", monkeypatch)
    start("train", with_settings(arguments["train"], training={"learning_rate": 1e-2}), monkeypatch)
    assert len(done) == 12


@pytest.mark.parametrize(("script", "output"), [("train", "policy.safetensors"), ("evaluate", "returns.csv")])
def test_the_precision_reaches_the_program(
    arguments: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, output: str
) -> None:
    start("train", arguments["train"], monkeypatch)
    made = []
    for precision in ("fp32", "bf16"):
        start(script, with_settings(arguments[script], precision=precision), monkeypatch)
        made.append((tmp_path / output).read_bytes())
    assert made[0] != made[1]


@pytest.mark.parametrize(("device", "gpus"), [("auto", 1), ("cpu", 0)])
def test_a_job_that_may_use_a_gpu_waits_for_one_of_its_own(
    arguments: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch, device: str, gpus: int
) -> None:
    monkeypatch.setattr(slots, "usable_gpus", lambda: 1)
    monkeypatch.setattr(slots, "take_gpu", lambda: taken.append(1))
    taken: list[int] = []
    for done, script in enumerate(("train", "evaluate"), start=1):
        start(script, with_settings(arguments[script], device=device), monkeypatch)
        assert len(taken) == gpus * done


def with_settings(arguments: list[str], **changes: Any) -> list[str]:
    """The same arguments with some settings changed; a block's other keys stay."""
    place = arguments.index("--settings") + 1
    settings = json.loads(arguments[place])
    for key, value in changes.items():
        settings[key] = settings[key] | value if isinstance(value, dict) else value
    return [*arguments[:place], json.dumps(settings), *arguments[place + 1 :]]


def count_calls(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each call of `owner.name` from now on."""
    calls: list[int] = []
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *given: (calls.append(1), original(*given))[1])
    return calls
