"""A training that is stopped anywhere and started again ends with the bytes of one that never stopped."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from dt import checkpoint as module
from dt.checkpoint import Checkpoint, StoppedError, digest
from dt.data import Trajectories
from dt.policy import fresh_policy, save_policy
from dt.runs import Run
from dt.streams import stream
from dt.train import train
from dt.transfer import freeze

KEY, OTHER_KEY = digest("this"), digest("other")
RUN = Run("finetune", "walker2d", "hopper", "unfreeze1", 0)
OUTPUTS = ("training.csv", "snapshots.safetensors", "policy.safetensors")
Data = tuple[Trajectories, dict[str, Any]]


class DueAt(Checkpoint):
    """Due after the given numbers of steps of this process; asked to stop at the last."""

    def __init__(self, folder: Path, *steps: int) -> None:
        super().__init__(folder, KEY)
        self.steps, self.count = steps, 0

    def due(self) -> bool:
        self.count += 1
        self.stopping = self.count == self.steps[-1]
        return self.count in self.steps


def outputs(config: dict[str, Any], data: Data, folder: Path, *stops: tuple[int, ...]) -> dict[str, bytes]:
    """Those of a training that is stopped as often as `stops` says, each by a process of its own."""
    config["training"]["epochs"] = 4
    for steps in (*stops, None):
        torch.manual_seed(hash(steps))  # whatever another process did before
        policy = fresh_policy("hopper", config, data[1], stream(7))
        freeze(policy, RUN.strategy)
        checkpoint = DueAt(folder / "checkpoint", *steps) if steps else Checkpoint(folder / "checkpoint", KEY)
        if steps:
            with pytest.raises(StoppedError, match="goes on from"):
                train(policy, data[0], RUN, 4, config, checkpoint)
            checkpoint.lock.close()  # as when a process ends
        else:
            train(policy, data[0], RUN, 4, config, checkpoint).save(folder / OUTPUTS[0], folder / OUTPUTS[1])
            save_policy(policy, folder / OUTPUTS[2])
            checkpoint.remove()
    assert not (folder / "checkpoint").exists()
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


@pytest.mark.parametrize(
    "stops",
    [
        [(1,)],  # in the first epoch
        [(3,)],  # at the end of an epoch
        [(2, 5)],  # a second record over a first
        [(7,), (1,), (2,)],  # three times, once before anything new
        [(11,)],  # just before the end
    ],
)
def test_a_stopped_training_goes_on_to_the_same_bytes(
    config: dict[str, Any], hopper: Data, tmp_path: Path, stops: list[tuple[int, ...]]
) -> None:
    assert len(hopper[0].lengths) // config["training"]["batch_size"] == 3  # steps per epoch
    expected = outputs(config, hopper, tmp_path / "undisturbed")
    assert outputs(config, hopper, tmp_path / "stopped", *stops) == expected


@pytest.mark.parametrize("context", [[2, 4], 4])
def test_windows_of_random_length_resume_too(
    config: dict[str, Any], hopper: Data, tmp_path: Path, context: int | list[int]
) -> None:
    config["model"]["context"] = context
    expected = outputs(config, hopper, tmp_path / "undisturbed")
    assert outputs(config, hopper, tmp_path / "stopped", (4,), (3,)) == expected


def test_sigterm_saves_and_stops_at_the_next_step(config: dict[str, Any], hopper: Data, tmp_path: Path) -> None:
    policy = fresh_policy("hopper", config, hopper[1], stream(7))
    checkpoint, before = Checkpoint(tmp_path / "checkpoint", KEY), signal.getsignal(signal.SIGTERM)
    checkpoint.stop_on_sigterm()
    try:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StoppedError):
            train(policy, hopper[0], RUN, 4, config, checkpoint)
    finally:
        signal.signal(signal.SIGTERM, before)
    record = checkpoint.read("training")
    assert record is not None
    assert record[1]["steps"] == 1


def test_frequent_evaluation_points_do_not_put_a_record_off(
    config: dict[str, Any], hopper: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A point after every epoch, 3 steps of 1.5 seconds; a record is due after more than 5."""
    calls = count()
    monkeypatch.setattr(module.time, "monotonic", lambda: 1.5 * next(calls))
    written: list[str] = []
    write = Checkpoint.write
    monkeypatch.setattr(Checkpoint, "write", lambda self, name, *rest: (written.append(name), write(self, name, *rest)))
    policy = fresh_policy("hopper", config, hopper[1], stream(7))
    train(policy, hopper[0], RUN, 4, config, Checkpoint(tmp_path / "checkpoint", KEY))
    assert len(written) >= 2


def test_a_folder_that_is_not_a_checkpoints_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    Checkpoint(tmp_path, KEY).remove()
    assert (tmp_path / "mine/thesis.txt").exists()
    with pytest.raises(ValueError, match="16 hexadecimal digits"):
        Checkpoint(tmp_path, "")


def test_time_makes_a_record_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(tmp_path, KEY)
    assert not checkpoint.due()
    monkeypatch.setattr(module, "SAVE_EVERY", 0.0)
    assert checkpoint.due()
    assert not Checkpoint().due()


def test_records_of_another_key_are_deleted_and_those_of_this_key_kept(tmp_path: Path) -> None:
    first = Checkpoint(tmp_path, OTHER_KEY)
    first.write("record", {"a": torch.ones(2)}, {"b": [1.5, None]})
    first.lock.close()
    second = Checkpoint(tmp_path, OTHER_KEY)
    again = second.read("record")
    second.lock.close()
    assert again is not None
    assert torch.equal(again[0]["a"], torch.ones(2))
    assert again[1] == {"b": [1.5, None]}
    assert Checkpoint(tmp_path, KEY).read("record") is None
    assert not (tmp_path / OTHER_KEY).exists()


def test_a_second_process_asks_the_first_to_stop_and_goes_on(tmp_path: Path) -> None:
    program = (
        "import logging, sys; from pathlib import Path; from dt.checkpoint import Checkpoint; logging.basicConfig();"
        f"checkpoint = Checkpoint(Path({str(tmp_path / 'job')!r}), {KEY!r});"
        "print(checkpoint.read('record')[1]); checkpoint.remove()"
    )
    first, before = Checkpoint(tmp_path / "job", KEY), signal.getsignal(signal.SIGTERM)
    first.stop_on_sigterm()
    try:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen([sys.executable, "-c", program], **pipes) as second:
            assert second.stderr is not None
            assert f"waiting for process {os.getpid()} " in second.stderr.readline()
            while not first.stopping:  # a slow start of the second alone makes a record due
                assert second.poll() is None
            with pytest.raises(StoppedError):
                first.write("record", {}, {"done": 3})
            first.lock.close()  # as when a process ends
            output, _ = second.communicate(timeout=60)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert output == "{'done': 3}\n"
    assert not (tmp_path / "job").exists()


def test_a_second_process_on_another_machine_asks_by_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import logging; from pathlib import Path; from dt.checkpoint import Checkpoint; logging.basicConfig();"
        f"Checkpoint(Path({str(tmp_path / 'job')!r}), {KEY!r}).write('record', {{}}, {{}}); print('written')"
    )
    with monkeypatch.context() as patch:
        patch.setattr(module.platform, "node", lambda: "elsewhere")
        first = Checkpoint(tmp_path / "job", KEY)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program], **pipes) as second:
        try:
            while not (tmp_path / "job/stop").exists():
                assert second.poll() is None
            with pytest.raises(StoppedError, match="for a later job of the same outputs"):
                first.write("record", {}, {})
        finally:
            first.lock.close()  # as when a process ends
        output, errors = second.communicate(timeout=60)
    assert f"waiting for process {os.getpid()} elsewhere" in errors
    assert output == "written\n"  # the request was not for the second


def test_a_lock_file_removed_meanwhile_is_made_again(tmp_path: Path) -> None:
    first = Checkpoint(tmp_path / "job", KEY)
    first.remove()
    assert Checkpoint(tmp_path / "job", KEY).lock.name == str(tmp_path / "job/lock")  # although the first holds its own


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-100], lambda content: content[:-100] + b"?" + content[-99:]]
)
def test_a_record_cut_off_or_changed_is_named_and_the_job_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    checkpoint = Checkpoint(tmp_path, KEY)
    checkpoint.write("record", {"a": torch.ones(200)}, {"b": 1.5})
    assert checkpoint.read("record") is not None
    path = tmp_path / KEY / "record.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert checkpoint.read("record") is None
    assert "record.safetensors cannot be read" in caplog.text


def test_a_key_depends_on_values_and_on_the_contents_of_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("a")
    first = digest({"a": 1}, path)
    assert digest({"a": 1}, path) == first
    assert digest({"a": 2}, path) != first
    path.write_text("b")
    assert digest({"a": 1}, path) != first
