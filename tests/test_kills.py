"""Killed anywhere, by SIGKILL, a study ends with the bytes of an undisturbed one."""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from dying import STEPS_BETWEEN_RECORDS
from test_workflow import TINY, checksums, copy_of_the_workflow, snakemake, write

STUDY: dict[str, Any] = TINY | {
    "targets": ["hopper"],
    "strategies": ["unfreeze1"],
    "training": {"pretrain_epochs": 14, "epochs": 14, "batch_size": 8},
    "evaluation": {"every": 2, "episodes": 1},
}
ARGUMENTS = ["--retries", "9", "--configfile", "tiny.yaml"]
# one entry for each kill: of the job, of its Snakemake, of both, or of Snakemake with a job that runs on until it is
# asked to stop; only trainings and evaluations hold a lock and so are asked
KILLS = {
    "datasets hopper": ["job", "snakemake", "both"],
    "stats hopper results-datasets-hopper": ["both"],
    "train pretrain-hopper-0": ["job", "both", "asked"],
    "train finetune-hopper-hopper-unfreeze1-0": ["job", "both", "snakemake"],
    "train scratch-hopper-0": ["job", "snakemake", "job"],
    "evaluate pretrain-hopper-0": ["job", "both"],
    "evaluate finetune-hopper-hopper-unfreeze1-0": ["asked"],
    "evaluate scratch-hopper-0": ["both", "snakemake"],
    "tables": ["job"],
    "figures": ["job"],
}
REPEATED = {"train": STEPS_BETWEEN_RECORDS, "evaluate": 1}  # units of work that a kill may cost


@pytest.mark.slow
def test_a_study_killed_at_twenty_random_moments_ends_with_the_same_bytes(tmp_path: Path) -> None:
    undisturbed, killed = prepare(tmp_path / "undisturbed"), prepare(tmp_path / "killed")
    snakemake(undisturbed, "--cores", "2", *ARGUMENTS, environment=environment(undisturbed))
    units = sizes(undisturbed / "kills/done")
    assert set(units) == set(KILLS)
    plan(killed / "kills/plan", units, random.Random(20))
    restarts = run_until_finished(killed)

    kinds = Counter(path.name.rpartition("-")[2] for path in (killed / "kills/killed").iterdir())
    assert kinds == Counter(chain(*KILLS.values()))
    assert kinds.total() == 20
    assert restarts == sum(kinds.values()) - kinds["job"]
    assert len(list((killed / "kills/asked").iterdir())) == kinds["asked"]
    done, starts = sizes(killed / "kills/done"), sizes(killed / "kills/starts")
    for job, needed in units.items():
        cost = REPEATED.get(job.split()[0], needed)
        assert needed <= done[job] <= needed + cost * (starts[job] - 1), job
    assert checksums(killed / "results") == checksums(undisturbed / "results")
    assert datasets(killed) == datasets(undisturbed)
    assert not list(killed.rglob(".unfinished*"))
    assert not list((killed / "results").glob("checkpoints/**/*.safetensors"))


def prepare(folder: Path) -> Path:
    """A copy of the workflow whose programs die as `dying` is told."""
    folder.mkdir()
    copy_of_the_workflow(folder)
    for script in (folder / "workflow/scripts").glob("*.py"):
        main = '\n\nif __name__ == "__main__":\n'
        program, found, rest = script.read_text().partition(main)
        assert found
        script.write_text(f"{program}\nimport dying\n\ndying.arm()\n{main}{rest}")
    for name in ("done", "starts", "plan", "killed", "asked"):
        (folder / "kills" / name).mkdir(parents=True)
    write(folder, STUDY, "tiny.yaml")
    return folder


def environment(folder: Path) -> dict[str, str]:
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {"KILLS": str(folder / "kills"), "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def plan(folder: Path, units: dict[str, int], generator: random.Random) -> None:
    """Moments of each job in the order of its kinds of kill."""
    for job, kinds in KILLS.items():
        (folder / job).mkdir()
        moments = sorted(generator.sample(range(1, units[job]), len(kinds)))
        for moment, kind in zip(moments, kinds, strict=True):
            (folder / job / f"{moment}-{kind}").touch()


def run_until_finished(folder: Path) -> int:
    """Start Snakemake until it is not killed; returns how often it was.

    With one core, for a job that has ended, but a moment ago, so that its killed Snakemake knows nothing of it, is done
    anew from its beginning.
    """
    for restarts in range(sum(map(len, KILLS.values())) + 1):
        command = [sys.executable, "-m", "snakemake", "--cores", "1", *ARGUMENTS]
        with (folder / "output.txt").open("w") as output:
            code = subprocess.run(
                command, cwd=folder, env=os.environ | environment(folder), stdout=output, stderr=output
            ).returncode
        if code == 0:
            return restarts
        assert code == -signal.SIGKILL, (folder / "output.txt").read_text()[-8000:]
        if restarts == 0:
            assert "--unlock" in snakemake(folder, "--cores", "1", *ARGUMENTS, code=1, environment=environment(folder))
        snakemake(folder, "--unlock", "--configfile", "tiny.yaml")
    raise AssertionError("more kills than planned")


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def datasets(folder: Path) -> dict[str, bytes]:
    return {path.parts[-3]: path.read_bytes() for path in (folder / "results/datasets").rglob("*.hdf5")}
