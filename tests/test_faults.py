"""What a machine may refuse a program: disk, memory, finite numbers. One sentence, exit code 1, no half file."""

import json
import os
import re
import resource
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, synthetic
from test_workflow import TINY, copy_of_the_workflow, snakemake, write

from dt import datasets, environments, files
from dt.actors import Actor
from dt.environments import make_environment
from dt.files import WriteError, write_whole
from dt.runs import StoppedError
from dt.stepping import EpisodeError

EXPERT = ROOT / "resources/experts/hopper.safetensors"


@pytest.fixture
def training(config: dict[str, Any], tmp_path: Path) -> list[str]:
    """Arguments of train.py."""
    trajectories, stats = synthetic(11, 3)
    trajectories.save(tmp_path / "arrays")
    (tmp_path / "stats.json").write_text(json.dumps(stats))
    made = {"policy": "policy.safetensors", "training": "training.csv", "snapshots": "snapshots.safetensors"}
    outputs = [part for option, name in made.items() for part in (f"--{option}", f"{tmp_path}/out/{name}")]
    data = ["--stats", f"{tmp_path}/stats.json", "--arrays", f"{tmp_path}/arrays", "--epochs", "2"]
    run = ["--run", '["scratch", "", "hopper", "", 0]', "--settings", json.dumps(config)]
    return [*run, *data, *outputs, "--checkpoint", f"{tmp_path}/checkpoint"]


def collecting(folder: Path, trajectories: int = 2) -> list[str]:
    """Arguments of datasets.py."""
    settings = {"environment": {"gymnasium": "Hopper-v5", "action_noise": 0.25}, "trajectories": trajectories}
    options = ["--environment", "hopper", "--actor", str(EXPERT), "--settings", json.dumps(settings)]
    return [*options, "--folder", str(folder)]


def fails(script: str, arguments: list[str], limit: Callable[[], object] | None = None) -> str:
    """The last line of a program that ends with exit code 1, and without a traceback."""
    command = [sys.executable, str(ROOT / f"workflow/scripts/{script}.py"), *arguments]
    result = subprocess.run(command, text=True, capture_output=True, preexec_fn=limit)
    assert result.returncode == 1, result.stderr[-3000:]
    assert "Traceback" not in result.stderr
    return result.stderr.splitlines()[-1]


def file_size(size: int) -> Callable[[], object]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_training_that_may_not_write_says_where_and_leaves_nothing(training: list[str], tmp_path: Path) -> None:
    line = fails("train", training, file_size(1000))
    assert line.startswith(f"error: {tmp_path}/checkpoint/")
    assert "cannot be written: the file is larger than this process may write; raise the limit (ulimit -f)" in line
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob(".unfinished*"))


def test_a_dataset_that_may_not_be_written_is_absent(tmp_path: Path) -> None:
    """HDF5 crashes its process then."""
    line = fails("datasets", collecting(tmp_path / "hopper"), file_size(50_000))
    assert line.startswith(f"error: {tmp_path}/hopper cannot be written: HDF5 failed")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, "No space left on device"), "the disk is full; free some space, and start again"),
        (OSError("I/O error: Disk quota exceeded (os error 122)"), "the disk quota is used up"),
        (OSError(30, "Read-only file system"), "the file system is read-only; make it writable, or name another"),
        (OSError(13, "Permission denied"), "permission is denied; make it writable"),
        (OSError("1000 requested and 0 written"), "1000 requested and 0 written; mend that"),
    ],
)
def test_an_error_of_the_disk_is_named_with_its_remedy(error: OSError, expected: str, tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_text("half a fi")
        raise error

    with pytest.raises(WriteError) as caught:
        write_whole(tmp_path / "table.csv", write)
    assert f"{tmp_path}/table.csv cannot be written: {expected}" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_recognised_where_the_error_does_not_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FULL", 2**70)
    assert "the disk is full" in str(WriteError(tmp_path / "a", OSError("1000 requested and 0 written")))


def test_what_a_killed_process_left_half_written_is_deleted_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".unfinished-99-a.csv").write_text("half")
    (tmp_path / ".unfinished-99-b.csv").write_text("another's")
    write_whole(tmp_path / "a.csv", lambda path: path.write_text("whole"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".unfinished-99-b.csv", "a.csv"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: seen.append((tmp_path / "a").exists()))
    write_whole(tmp_path / "a", lambda path: path.write_text("whole"))
    assert seen == [False]


def test_a_job_whose_snakemake_is_gone_leaves_its_outputs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as snakemake_process:
        monkeypatch.setenv(files.SNAKEMAKE_PID, str(snakemake_process.pid))
        monkeypatch.setattr(files, "_OWNER", files._owner())
        write_whole(tmp_path / "a", lambda path: path.write_text("whole"))
    with pytest.raises(StoppedError, match="the Snakemake that started this job is gone"):
        write_whole(tmp_path / "b", lambda path: path.write_text("whole"))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert files._owner() is None  # one that was never seen says nothing


def test_too_little_memory_is_a_sentence(training: list[str], config: dict[str, Any], tmp_path: Path) -> None:
    config["model"]["width"] = 2**16  # weights of 100 GiB
    training[training.index("--settings") + 1] = json.dumps(config)
    limit = 20 * 2**30
    line = fails("train", training, lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    assert line.startswith("error: out of memory: ")
    assert line.endswith("give the job more, or run fewer at once (--cores)")
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_not_finite_is_a_sentence_and_a_cured_training_finishes(
    training: list[str], config: dict[str, Any], tmp_path: Path
) -> None:
    wrong = json.dumps(config | {"training": config["training"] | {"learning_rate": 1e30}})
    place = training.index("--settings") + 1
    for _ in range(2):  # the second goes on from a record, if there is one
        line = fails("train", [*training[:place], wrong, *training[place + 1 :]])
        assert line.startswith("error: the loss of scratch/hopper/seed0 is ")
        assert line.endswith("lower training.learning_rate")
        assert not (tmp_path / "out").exists()
    command = [sys.executable, str(ROOT / "workflow/scripts/train.py"), *training]
    assert subprocess.run(command).returncode == 0
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_an_unstable_simulation_is_an_error_and_no_number() -> None:
    environment = make_environment("Hopper-v5")
    environment.reset(seed=7)
    environment.unwrapped.data.qvel[:] = 1e9
    sentence = r"^Hopper-v5, reset with seed 7, at step 1 warned \(Nan, Inf or huge value .* unstable"
    with pytest.raises(EpisodeError, match=sentence):
        environment.step(np.zeros(3, dtype=np.float32))
    environment.reset(seed=0)
    environment.step(np.zeros(3, dtype=np.float32))  # what went wrong once is not held against the next episode


def test_warnings_of_other_environments_are_not_taken_for_ones_own() -> None:
    environment = make_environment("Hopper-v5")
    environment.reset(seed=0)
    environments._note_warning("of another environment, which raised nothing")
    _, reward, *_ = environment.step(np.zeros(3, dtype=np.float32))
    assert 0 < reward < 2  # about 1 for standing


def test_an_action_that_is_no_number_fails_a_collection(tmp_path: Path) -> None:
    settings = json.dumps({"environment": {"gymnasium": "Hopper-v5", "action_noise": float("nan")}, "trajectories": 2})
    arguments = collecting(tmp_path / "hopper")
    arguments[arguments.index("--settings") + 1] = settings
    said = fails("datasets", arguments)
    assert re.match(
        r"error: Hopper-v5, reset with seed \d+, at step 1 was to take an action whose component 0 is", said
    )
    assert not list(tmp_path.iterdir())


def test_sigterm_ends_a_program_at_once_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has nothing to save, or has saved it: here while it steps the simulator, and while it writes."""
    monkeypatch.setattr(sys, "argv", ["datasets.py", *collecting(tmp_path / "hopper", 1)])
    before = signal.getsignal(signal.SIGTERM)
    try:
        for owner, name in ((Actor, "act"), (datasets, "put")):
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, lambda *_: signal.raise_signal(signal.SIGTERM))
                with pytest.raises(SystemExit, match="error: stopped by SIGTERM"):
                    runpy.run_path(str(ROOT / "workflow/scripts/datasets.py"), run_name="__main__")
            assert not list(tmp_path.iterdir())
    finally:
        signal.signal(signal.SIGTERM, before)


def test_read_only_results_stop_before_any_job(tmp_path: Path) -> None:
    """Simulated, since root may write anywhere but on a file system that is read-only."""
    copy_of_the_workflow(tmp_path)
    (tmp_path / "results").mkdir()
    patch = "import os\nbefore = os.access\n"
    patch += "os.access = lambda path, *rest, **named: 'results' not in str(path) and before(path, *rest, **named)\n"
    (tmp_path / "sitecustomize.py").write_text(patch)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    output = snakemake(tmp_path, "--cores", "1", code=1, environment={"PYTHONPATH": path})
    assert f"{tmp_path}/results cannot be written; make it writable, or name another folder with `results`" in output
    assert "Traceback" not in output
    assert not list((tmp_path / "results").iterdir())


@pytest.mark.slow
def test_what_does_not_depend_on_a_failed_job_goes_on_and_the_rest_after_the_cure(tmp_path: Path) -> None:
    """The policy of one strategy cannot be written; the other's, scratch, and their evaluations are there."""
    copy_of_the_workflow(tmp_path)
    study = TINY | {"targets": ["hopper"]}
    arguments = ["--cores", "2", "--keep-going", "--configfile", write(tmp_path, study, "tiny.yaml")]
    blocked = tmp_path / "results/policies/finetune/hopper/hopper/unfreeze0"
    blocked.parent.mkdir(parents=True)
    limited = tmp_path / "workflow/scripts/train.py"
    program = limited.read_text()
    main = 'if __name__ == "__main__":\n'
    fault = '    import resource, sys\n    if "unfreeze0" in str(sys.argv):\n'
    fault += "        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
    limited.write_text(program.replace(main, main + fault))
    output = snakemake(tmp_path, *arguments, code=1)
    assert "cannot be written: the file is larger than this process may write" in output
    assert "Traceback" not in output
    returns = sorted(str(path.parent) for path in (tmp_path / "results/evaluations").rglob("returns.csv"))
    assert [path.partition("evaluations/")[2] for path in returns] == [
        "finetune/hopper/hopper/unfreeze1/seed0",
        "pretrain/hopper/seed0",
        "scratch/hopper/seed0",
    ]
    assert not list(tmp_path.rglob(".unfinished*"))
    assert not list(blocked.rglob("*.*"))
    limited.write_text(program)
    snakemake(tmp_path, *arguments)
    assert (tmp_path / "results/tables/summary.csv").exists()
