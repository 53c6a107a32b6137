"""Jobs on one machine share its GPUs: each has a place of its own, until it ends."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch

from dt import slots

JOB = """
import logging, os, sys
from pathlib import Path
from dt.slots import take_gpu

logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
held = take_gpu(Path(sys.argv[1]))
assert held is None or not os.get_inheritable(held)
print("runs on", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
sys.stdin.read()  # until the test closes it
"""


@contextmanager
def job(folder: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process that asks for a GPU, says which, and works until it is left."""
    names = (slots.SLURM_JOB, slots.SENT, slots.VISIBLE, slots.JOBS_PER_GPU)
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    command, pipes = [sys.executable, "-c", JOB, str(folder)], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=inherited | environment, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def next_line(process: subprocess.Popen[str], beginning: str) -> str:
    """What follows `beginning` in the next line that has it."""
    assert process.stdout is not None
    return next(line for line in process.stdout if line.startswith(beginning)).removeprefix(beginning).strip()


@pytest.mark.parametrize(("count", "jobs_per_gpu"), [(3, 1), (4, 2)])
def test_jobs_at_once_spread_over_the_gpus(count: int, jobs_per_gpu: int, tmp_path: Path) -> None:
    gpus = "0,1,2" if jobs_per_gpu == 1 else "0,1"
    with ExitStack() as stack:
        environment = {slots.VISIBLE: gpus, slots.JOBS_PER_GPU: str(jobs_per_gpu)}
        started = [stack.enter_context(job(tmp_path / "gpus", **environment)) for _ in range(count)]
        found = Counter(next_line(process, "runs on") for process in started)
    assert found == dict.fromkeys(gpus.split(","), jobs_per_gpu)


def test_a_second_job_comes_to_a_gpu_only_when_each_has_a_first(tmp_path: Path) -> None:
    environment = {slots.VISIBLE: "0,1", slots.JOBS_PER_GPU: "2"}
    with job(tmp_path, **environment) as first:
        assert next_line(first, "runs on") == "0"
        with job(tmp_path, **environment) as second:
            assert next_line(second, "runs on") == "1"


def test_a_killed_job_frees_its_gpu_for_one_that_waits(tmp_path: Path) -> None:
    with job(tmp_path, CUDA_VISIBLE_DEVICES="0") as first:
        assert next_line(first, "runs on") == "0"
        with job(tmp_path, CUDA_VISIBLE_DEVICES="0") as second:
            assert next_line(second, "waiting for") == "one of 1 GPUs, each with 1 jobs"
            first.kill()
            assert next_line(second, "runs on") == "0"


def test_a_job_that_the_workflow_sent_to_slurm_keeps_what_slurm_gave_it(tmp_path: Path) -> None:
    environment = {slots.VISIBLE: "0,1", slots.SLURM_JOB: "7", slots.SENT: "1"}
    with job(tmp_path / "gpus", **environment) as process:
        assert next_line(process, "runs on") == "0,1"
    assert not (tmp_path / "gpus").exists()


@pytest.mark.parametrize("gpus", ["0,1", "GPU-aaaa,GPU-bbbb", "MIG-GPU-aaaa/1/0,MIG-GPU-aaaa/2/0"])
def test_local_jobs_inside_an_allocation_spread_over_its_gpus(gpus: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        environment = {slots.VISIBLE: gpus, slots.SLURM_JOB: "7"}
        started = [stack.enter_context(job(tmp_path, **environment)) for _ in range(2)]
        assert {next_line(process, "runs on") for process in started} == {*gpus.split(",")}


def test_two_allocations_on_one_node_do_not_wait_for_each_others_gpu_zero(tmp_path: Path) -> None:
    with ExitStack() as stack:
        for allocation in ("7", "8"):
            process = stack.enter_context(job(tmp_path, **{slots.VISIBLE: "0", slots.SLURM_JOB: allocation}))
            assert next_line(process, "runs on") == "0"


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_gpus_stay_hidden(hidden: str, tmp_path: Path) -> None:
    with job(tmp_path, CUDA_VISIBLE_DEVICES=hidden) as process:
        assert next_line(process, "runs on") == hidden


def test_a_wrong_number_of_jobs_per_gpu_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(slots.VISIBLE, "0")
    monkeypatch.setenv(slots.JOBS_PER_GPU, "many")
    with pytest.raises(slots.SlotError, match=r"DT_JOBS_PER_GPU: found 'many'; allowed is a whole number ≥ 1"):
        slots.take_gpu(tmp_path)


def test_without_a_choice_there_are_as_many_gpus_as_pytorch_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(slots.VISIBLE, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # as the driver says
    for usable, expected in ((True, ["0", "1"]), (False, [])):
        monkeypatch.setattr(torch.cuda, "is_available", lambda usable=usable: usable)
        assert slots.visible_gpus() == expected


def test_a_driver_that_kills_who_asks_it_has_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert slots.usable_gpus() == 0


@pytest.mark.parametrize(
    ("device", "usable", "takes"), [("auto", 0, False), ("cuda", 0, False), ("cpu", 2, False), ("auto", 2, True)]
)
def test_nobody_waits_for_a_gpu_that_pytorch_cannot_use(
    monkeypatch: pytest.MonkeyPatch, device: str, usable: int, takes: bool
) -> None:
    """Also where CUDA_VISIBLE_DEVICES names some, as Slurm does without asking PyTorch."""
    monkeypatch.setenv(slots.VISIBLE, "0,1")
    monkeypatch.setattr(slots, "usable_gpus", lambda: usable)
    monkeypatch.setattr(slots, "take_gpu", lambda: 3)
    assert slots.take_usable_gpu(device) == (3 if takes else None)
