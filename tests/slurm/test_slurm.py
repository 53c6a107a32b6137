"""The tiny study on a real Slurm of one node, undisturbed and under faults: always the bytes of a local run."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT
from test_workflow import TINY, checksums, copy_of_the_workflow, run_tiny_study, snakemake, write

pytestmark = pytest.mark.slurm
CLUSTER = ROOT / "tests/slurm/cluster.sh"
SLURM = ["--profile", "profiles/slurm", "--slurm-init-seconds-before-status-checks", "1", "--configfile", "tiny.yaml"]
DEADLINE = 600.0  # seconds, for what takes about ten on an idle machine
STATS = "results/stats/hopper.json"
RETURNS = "results/evaluations/scratch/hopper/seed0/returns.csv"
LOG = "results/logs/scratch/hopper/seed0.log"
HUNDRED_STEPS = {**TINY, "training": {**TINY["training"], "epochs": 50}, "evaluation": {"every": 25, "episodes": 1}}
HELD = '''
import os
import time
from itertools import count

steps = count(1)
Path("gpus").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))


def due(self):
    """A record at every tenth step of a process; while the file `held` is there, it stands still after the 55th."""
    step = next(steps)
    while step == 55 and Path("held").exists() and not self.stopping:
        Path("standing").touch()
        time.sleep(0.05)
    return self.stopping or step % 10 == 0


Checkpoint.due = due

'''


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Slurm; what it cannot start says itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_FOLDER", str(tmp_path_factory.mktemp("slurm")))
        call("start")
        yield
        call("stop")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the workflow with statistics for one training, whose program does what HELD says."""
    folder = copy_of_the_workflow(tmp_path_factory.mktemp("prepared"))
    program = folder / "workflow/scripts/train.py"
    before, main, after = program.read_text().partition('if __name__ == "__main__":')
    program.write_text(before + HELD + main + after)
    write(folder, HUNDRED_STEPS, "tiny.yaml")
    snakemake(folder, STATS, "--cores", "2", "--configfile", "tiny.yaml")
    return folder


@pytest.fixture(scope="module")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checksums of a local run."""
    folder = tmp_path_factory.mktemp("undisturbed") / "study"
    shutil.copytree(prepared, folder)
    snakemake(folder, RETURNS, "--cores", "2", "--configfile", "tiny.yaml")
    return checksums(folder / "results")


@pytest.fixture
def study(prepared: Path, tmp_path: Path) -> Path:
    """A folder in which the training is still to be done, and will stand still."""
    folder = tmp_path / "study"
    shutil.copytree(prepared, folder)
    (folder / "held").touch()
    return folder


def test_the_profile_gives_the_bytes_of_a_local_run(tmp_path: Path) -> None:
    local, remote = tmp_path / "local", tmp_path / "remote"
    for folder in (local, remote):
        folder.mkdir()
    run_tiny_study(local, cores=2)
    copy_of_the_workflow(remote)
    write(remote, TINY, "tiny.yaml")
    output = snakemake(remote, *SLURM, environment={"PATH": "/usr/bin:/bin"})  # as where no environment is activated
    assert len(submitted(output)) == 2 + 7 + 7  # data, trainings, evaluations; tables and figures run here
    assert checksums(remote / "results") == checksums(local / "results")


@pytest.mark.slow
def test_the_profile_for_gpus_asks_for_one_per_training_and_evaluation(
    study: Path, undisturbed: dict[str, str]
) -> None:
    (study / "held").unlink()
    output = snakemake(study, RETURNS, "--profile", "profiles/slurm-gpu", *SLURM[2:])
    for rule, gpus in (("scratch", "gres:gpu:1"), ("evaluate", "gres:gpu:1")):
        [job] = submitted(output, rule)
        assert command("squeue", "--states=all", "--noheader", "--jobs", job, "--Format=tres-per-job") == gpus
    assert (study / "gpus").read_text() in ("0", "1")
    assert checksums(study / "results") == undisturbed


def test_a_cancelled_job_goes_on_with_more_memory_and_time(study: Path, undisturbed: dict[str, str]) -> None:
    with running(study) as run:
        first = standing(study, run)
        command("scancel", first)
        wait(lambda: state(first) == "CANCELLED", run)
        output = finish(study, run)
    assert_resumed(study, output, undisturbed, after_step=55)  # SIGTERM came first
    second = submitted(output, "scratch")[1]
    assert state(first, "%T %m %l") == "CANCELLED 2000M 2:00:00"
    assert state(second, "%T %m %l") == "COMPLETED 4000M 4:00:00"


@pytest.mark.slow
def test_a_job_whose_node_dies_goes_on_from_its_last_record(study: Path, undisturbed: dict[str, str]) -> None:
    with running(study) as run:
        first = standing(study, run)
        call("kill-node")
        call("start-node")
        output = finish(study, run)
    assert_resumed(study, output, undisturbed, after_step=50)
    assert state(first) == "NODE_FAIL"


@pytest.mark.slow
def test_a_job_over_its_time_goes_on_with_more(study: Path, undisturbed: dict[str, str]) -> None:
    with running(study, "--set-resources", "scratch:runtime=attempt") as run:  # minutes
        first = standing(study, run)
        wait(lambda: state(first) == "TIMEOUT", run)
        output = finish(study, run)
    assert_resumed(study, output, undisturbed, after_step=55)


@pytest.mark.slow
def test_a_restarted_controller_is_not_noticed(study: Path, undisturbed: dict[str, str]) -> None:
    with running(study) as run:
        standing(study, run)
        call("restart-controller")
        output = finish(study, run)
    assert len(submitted(output, "scratch")) == 1
    assert checksums(study / "results") == undisturbed


def test_a_killed_snakemake_leaves_a_job_that_the_next_one_takes_over(study: Path, undisturbed: dict[str, str]) -> None:
    with running(study) as run:
        first = standing(study, run)
        run.kill()
    assert state(first) == "RUNNING"
    owner = next((study / "results/checkpoints").rglob("lock")).read_text()
    snakemake(study, *SLURM, "--unlock")
    with running(study) as run:
        wait(lambda: state(first) == "FAILED", run)  # of its own: it was asked to stop
        output = finish(study, run)
    assert f"waiting for process {owner}, which writes the same outputs" in (study / LOG).read_text()
    assert_resumed(study, output, undisturbed, after_step=55)


@contextmanager
def running(study: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Snakemake on Slurm, making the evaluation of one training; it and its jobs end with the block."""
    command_line = [sys.executable, "-m", "snakemake", RETURNS, *SLURM, *arguments]
    with (
        (study / "output").open("ab") as output,
        subprocess.Popen(command_line, cwd=study, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            yield process
        except BaseException:
            process.kill()
            command("scancel", "--user", "root")
            raise


def standing(study: Path, run: subprocess.Popen[bytes]) -> str:
    """Wait until the training stands still; returns its job."""
    wait((study / "standing").exists, run)
    return submitted((study / "output").read_text(), "scratch")[-1]


def finish(study: Path, run: subprocess.Popen[bytes]) -> str:
    """Let the training go and wait for Snakemake, which must succeed; returns all that it said."""
    (study / "held").unlink()
    assert run.wait(DEADLINE) == 0, (study / "output").read_text()[-4000:]
    return (study / "output").read_text()


def wait(condition: Callable[[], bool], run: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert run.poll() is None, "Snakemake ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.1)


def assert_resumed(study: Path, output: str, undisturbed: dict[str, str], after_step: int) -> None:
    assert len(submitted(output, "scratch")) == 2
    assert f"goes on after step {after_step}\n" in (study / LOG).read_text()
    assert checksums(study / "results") == undisturbed


def submitted(output: str, rule: str = "") -> list[str]:
    """Slurm's numbers of the jobs that Snakemake submitted."""
    return re.findall(rf"submitted with SLURM jobid (\d+) \(log: \S*{rule and f'/rule_{rule}/'}", output)


def state(job: str, form: str = "%T") -> str:
    return command("squeue", "--states=all", "--noheader", "--jobs", job, "--format", form)


def call(action: str) -> None:
    subprocess.run([CLUSTER, action], check=True, stdout=subprocess.DEVNULL)


def command(*arguments: str) -> str:
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.strip()
