"""Write a part of a study: the finished runs of a results folder in three small files, to publish and to join."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from dt.agreement import Job, check_configuration, check_files, surroundings
from dt.config import configured
from dt.contents import data_checksum, weights_checksum
from dt.data import read_stats
from dt.existing import data_file
from dt.files import write_record
from dt.metrics import NUMBERS, read_returns, read_training
from dt.provenance import record_of
from dt.runs import ExpectedError, Run
from dt.scores import score, with_scores

log = logging.getLogger(__name__)
FORMAT = 1
LEVEL = 9  # of compression
PLACES = ("policies", "evaluations", "checkpoints", "checkpoints/evaluate")  # below which runs leave something
RUNS = ("pretrain/*", "finetune/*/*/*", "scratch/*")
POLICY, TRAINING, RETURNS = "policies/{}/policy.safetensors", "policies/{}/training.csv", "evaluations/{}/returns.csv"


class CollectError(ExpectedError):
    """A part cannot be made of a folder, or written to another, in one sentence."""


def collect(results: Path, out: Path, study: str, configfiles: Iterable[Path], seeds: Sequence[int]) -> list[Run]:
    """Write the runs of `seeds` (none: of all) in `results` to the folder `out`, and return them.

    The configuration is config.yaml of the working directory with `configfiles` laid over it. Raises CollectError,
    DisagreementError, ConfigError and BrokenFileError, before anything is written.
    """
    results = Path(os.path.abspath(results))
    config = configured(Path.cwd(), configfiles)
    runs = finished_runs(results, seeds)
    trainings = [Job(results / POLICY.format(run.path)) for run in runs]
    evaluations = [Job(results / RETURNS.format(run.path)) for run in runs]
    names = sorted({run.environment for run in runs})
    stats = {name: Job(results / f"stats/{name}.json") for name in names}
    check_configuration(runs, trainings, evaluations, stats, config)
    shared = surroundings(trainings, evaluations)
    if not shared["clean"]:
        log.warning("no clean commit is named: the runs were made outside of git, with changes, or at several commits")
    check_files(job.file for job in evaluations)
    environments = {name: _environment(results, stats[name], name, config["environments"][name]) for name in names}
    part = {
        "format": FORMAT,
        "study": study,
        **shared,
        "configuration": config | {"seeds": sorted({run.seed for run in runs})},
        "environments": environments,
        "runs": [_run(results, *made, config) for made in zip(runs, trainings, evaluations, strict=True)],
    }
    paths = [run.path for run in runs]
    returns = read_returns(paths, [results / RETURNS.format(path) for path in paths])
    tables = {
        "returns.csv.gz": with_scores(returns, {name: entry["reference"] for name, entry in environments.items()}),
        "training.csv.gz": read_training(paths, [results / TRAINING.format(path) for path in paths]),
    }
    text = json.dumps(part, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    _write(out, {name: _packed(table) for name, table in tables.items()} | {"part.json": text.encode()})
    return runs


def finished_runs(results: Path, seeds: Sequence[int] = ()) -> list[Run]:
    """Find runs by their paths, in the order of these; raises CollectError if there is none, or one is not finished."""
    found = {
        str(folder.relative_to(results / place))
        for place in PLACES
        for arm in RUNS
        for folder in (results / place).glob(f"{arm}/seed[0-9]*")
    }
    runs = [run for run in map(Run.from_path, sorted(found)) if not seeds or run.seed in seeds]
    missing = set(seeds) - {run.seed for run in runs}
    if missing or not runs:
        wanted = f"no run of seed {min(missing)}" if missing else "no run"
        raise CollectError(f"{os.path.relpath(results)} holds {wanted}; `snakemake` makes them")
    unfinished = []
    for run in runs:
        files = (results / name.format(run.path) for name in (POLICY, TRAINING, RETURNS))
        unfinished += [f"{run.path} (no {file.name})" for file in files if not file.is_file()][:1]
    if unfinished:
        raise CollectError(
            f"{len(unfinished)} of {len(runs)} runs are not finished: {', '.join(unfinished)}; finish them with"
            " `snakemake`, or collect other seeds (--seeds)"
        )
    return runs


def _environment(results: Path, job: Job, name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Say what policies of an environment learned from and were measured by."""
    stats = read_stats(job.file)
    derived, returns = stats["derived"], stats["returns"]
    used = {key: entry.get(key, derived.get(key)) for key in ("target_return", "reward_scale", "reference")}
    _, collected = record_of(data_file(results / f"datasets/{name}"))
    experts = [digest for file, digest in collected["made_from"].items() if file.endswith(".safetensors")]
    return {
        "spec": job["spec"],
        **used,
        "expert": experts[0] if experts else None,
        "contents": data_checksum(results / f"stats/{name}"),
        "trajectories": stats["trajectories"],
        "transitions": stats["transitions"],
        "returns": {"mean": returns["mean"], "deviation": returns["std"]},
        "mean_score": score(returns["mean"], used["reference"]),
        "derived": derived,
    }


def _run(results: Path, run: Run, training: Job, evaluation: Job, config: dict[str, Any]) -> dict[str, Any]:
    recipe = config["imported"].get(run.source, {}) if run.source else None
    seconds = {
        "training": _cpu_seconds(results / f"benchmarks/{run.path}.tsv", training),
        "evaluation": _cpu_seconds(results / f"benchmarks/evaluate/{run.path}.tsv", evaluation),
    }
    return {
        **run._asdict(),
        "recipe": recipe,
        "epochs": training["epochs"],
        "weights": weights_checksum(training.file),
        "cpu_seconds": seconds,
        "code": {"training": training["code"], "evaluation": evaluation["code"]},
    }


def _cpu_seconds(benchmark: Path, job: Job) -> float | None:
    """Read what Snakemake measured; None where it did not, or not all: the job goes on from what another one did."""
    if job["resumed"] or not benchmark.is_file():
        return None
    with benchmark.open(newline="", encoding="utf-8") as file:
        value = next(csv.DictReader(file, delimiter="\t"), {}).get("cpu_time", "NA")
    return None if value == "NA" else float(value)  # NA: over within a second


def _packed(table: pd.DataFrame) -> bytes:
    """The table as compressed CSV; the same bytes whenever and wherever it is written."""
    text = table.to_csv(index=False, float_format=NUMBERS, lineterminator="\n")
    packed = io.BytesIO()
    with gzip.GzipFile("", "wb", LEVEL, packed, mtime=0) as file:
        file.write(text.encode())
    return packed.getvalue()


def _write(out: Path, files: dict[str, bytes]) -> None:
    """Write a part, its description last; raises CollectError if `out` holds anything else."""
    if out.exists() and not out.is_dir():
        raise CollectError(f"{out} is a file; name a folder to write to")
    for path in sorted(out.iterdir()) if out.is_dir() else ():
        if not path.is_file() or files.get(path.name) != path.read_bytes():
            raise CollectError(f"{out} holds another {path.name}; delete it, or name another folder")
    for name, content in files.items():
        write_record(out / name, partial(Path.write_bytes, data=content))
