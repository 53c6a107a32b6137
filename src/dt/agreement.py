"""Check that runs belong together: that records, files and configuration say the same."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dt.provenance import follow, record_of
from dt.runs import ExpectedError, Run

SHARED = ("versions", "processor", "instructions", "kernels", "threads", "device")  # by all jobs
TOGETHER = "a part holds what one code computed on one machine: compute that run again, or collect it apart (--seeds)"
NAME_FILES = "name the files it ran with (--configfile)"
BLOCKS = ("data", "model", "training", "evaluation")  # of a training's settings


class DisagreementError(ExpectedError):
    """Runs are no part of a study, in one sentence."""


class Job:
    """What the record of the job that made `file` says; a key that it lacks is None."""

    def __init__(self, file: Path) -> None:
        self.file = file
        place, self.record = record_of(file)
        if place is None:
            raise DisagreementError(f"no provenance.json says how {self} came to be; `snakemake` makes it anew")

    def __str__(self) -> str:
        return os.path.relpath(self.file)

    def __getitem__(self, key: str) -> Any:
        return self.record.get(key)


def check_configuration(
    runs: list[Run], trainings: list[Job], evaluations: list[Job], stats: dict[str, Job], config: dict[str, Any]
) -> None:
    """Raise DisagreementError unless every job was given what the configuration says. `stats` is by environment."""
    sources = {"", *config["environments"], *config["imported"]}
    for run, training, evaluation in zip(runs, trainings, evaluations, strict=True):
        name = run.environment
        if name not in config["environments"] or run.source not in sources:
            raise DisagreementError(f"{run.path} is no run of this configuration; {NAME_FILES}")
        settings, epochs = training["settings"], "pretrain_epochs" if run.kind == "pretrain" else "epochs"
        said: dict[tuple[str, ...], Any] = {("training", epochs): training["epochs"]}
        said |= {(key,): settings[key] for key in ("device", "precision")}
        said |= {(block, key): value for block in BLOCKS for key, value in settings[block].items()}
        _compare(training, said | _of(name, settings["environments"][name], "reward_scale"), config)
        settings = evaluation["settings"]
        said = {("evaluation", "episodes"): settings["episodes"]}
        said |= {(key,): settings[key] for key in ("device", "precision")}
        _compare(evaluation, said | _of(name, settings, "target_return"), config)
    for name, job in stats.items():
        said = {("data", key): job["settings"][key] for key in ("trajectories", "gamma")}
        _compare(job, said | _of(name, job["settings"], "gymnasium", "arguments"), config)


def _of(environment: str, settings: dict[str, Any], *keys: str) -> dict[tuple[str, ...], Any]:
    """Give the value of each key of an environment by its path in the configuration; None where it was left out."""
    return {("environments", environment, key): settings.get(key) for key in keys}


def _compare(job: Job, said: dict[tuple[str, ...], Any], config: dict[str, Any]) -> None:
    for path, value in said.items():
        found: Any = config
        for key in path:
            found = found.get(key)
        if value != found:
            raise DisagreementError(
                f"{job} was made with {'.'.join(path)} {json.dumps(value)}, the configuration says"
                f" {json.dumps(found)}; {NAME_FILES}"
            )


def surroundings(trainings: list[Job], evaluations: list[Job]) -> dict[str, Any]:
    """Give what all jobs share of commit, versions and machine; raises DisagreementError where they do not.

    Their commits may differ if the code of their programs does not: there is no commit then.
    """
    jobs = [*trainings, *evaluations]
    for program in (trainings, evaluations):
        _shared(program, "code")
    told = [job["git"] or {"commit": None} for job in jobs]
    states = {(git["commit"], not git["dirty"] if git["commit"] else None) for git in told}
    commit, clean = states.pop() if len(states) == 1 else (None, None)
    return {
        "commit": commit,
        "clean": clean,
        **{key: _shared(jobs, key) for key in SHARED},
        "precision": trainings[0]["settings"]["precision"],
        "products": {"training": _shared(trainings, "products"), "evaluation": _shared(evaluations, "products")},
    }


def _shared(jobs: list[Job], key: str) -> Any:
    first = jobs[0][key]
    for job in jobs:
        if (other := job[key]) != first:
            if isinstance(first, dict) and isinstance(other, dict):
                first, other = dict(first.items() - other.items()), dict(other.items() - first.items())
            values = json.dumps(first, sort_keys=True), json.dumps(other, sort_keys=True)
            raise DisagreementError(f"{jobs[0]} was made with {key} {values[0]}, {job} with {values[1]}; {TOGETHER}")
    return first


def check_files(paths: Iterable[Path]) -> None:
    """Raise DisagreementError unless files, and all that they were made from, are as the records beside them say."""
    seen: set[Path] = set()
    for path in paths:
        for _, file, problem, _ in follow(path, seen):
            if problem:
                said = f"{file} is MISSING" if problem == "MISSING" else problem
                raise DisagreementError(f"{said}; `snakemake` makes anew what does not match")
