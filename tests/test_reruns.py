"""What is run again after edits of the code, lost records of Snakemake and replaced data: the exact set of jobs."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from test_workflow import EVERY_TRAINING, REPORT, planned, snakemake, write

from dt.policy import load_policy

LEARNING_RATE = {"training": {"learning_rate": 1.0e-3}}
AFTER_THE_DATA_OF_HOPPER = dict(pretrain=1, finetune=4, scratch=1, evaluate=6, **REPORT)
EDITS = [  # module, what is written instead of what, the jobs that run it
    ("src/dt/model.py", "INITIAL_STD = 0.02", "INITIAL_STD = 0.03", EVERY_TRAINING),
    ("src/dt/model.py", "INITIAL_STD = 0.02", "INITIAL_STD = 0.02  # a comment", {}),
    ("src/dt/optimiser.py", "\nimport", "\n\n# a comment\nimport", {}),
    ("src/dt/figures.py", '"plasma"', '"viridis"', {"figures": 1}),
    ("src/dt/metrics.py", "ddof=1", "ddof=0", REPORT),
    ("src/dt/scores.py", "100 * (returns", "99 * (returns", {"tables": 1}),
    # snapshots of fine-tuning and scratch are gone, so a new evaluation trains anew
    ("src/dt/returns.py", ":.6f}", ":.5f}", dict(finetune=4, scratch=2, evaluate=7, **REPORT)),
    ("src/dt/stats.py", "NOISE = 1e-12", "NOISE = 1e-11", dict(stats=2, **EVERY_TRAINING)),
    ("src/dt/provenance.py", "FOLDERS_UP = 3", "FOLDERS_UP = 4", {}),
    ("src/dt/config.py", "unknown key", "strange key", {}),
    ("src/dt/__init__.py", "0.1.0", "0.2.0", {}),
    ("workflow/scripts/stats.py", "indent=1", "indent=2", dict(stats=2, **EVERY_TRAINING)),
    ("workflow/scripts/stats.py", "indent=1", "indent = 1", {}),
]


@pytest.fixture
def checkout(study: Path, tmp_path: Path) -> Iterator[Path]:
    """The finished study and the package in another folder, to edit."""
    shutil.copytree(study, tmp_path, dirs_exist_ok=True)
    shutil.copytree(ROOT / "src", tmp_path / "src")
    yield tmp_path
    shutil.rmtree(tmp_path)


def plan(checkout: Path, *configs: str) -> dict[str, int]:
    arguments = ["-n", "--configfile", "tiny.yaml", *configs]
    return planned(snakemake(checkout, *arguments, environment={"PYTHONPATH": str(checkout / "src")}))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(("file", "old", "new", "jobs"), EDITS)
def test_an_edit_of_the_code_reruns_what_runs_it_and_nothing_else(
    file: str, old: str, new: str, jobs: dict[str, int], checkout: Path
) -> None:
    edit(checkout / file, old, new)
    assert plan(checkout) == jobs


@pytest.mark.parametrize(
    ("change", "jobs"),
    [
        ({}, {}),
        (LEARNING_RATE, EVERY_TRAINING),
        ({"strategies": ["unfreeze0"]}, REPORT),
        ({"report": {"confidence": 0.9}}, REPORT),
        ({"environments": {"hopper": {"title": "Hop"}}}, {"figures": 1}),
    ],
    ids=str,
)
def test_without_snakemakes_records_changes_are_noticed_all_the_same(
    change: dict[str, Any], jobs: dict[str, int], checkout: Path
) -> None:
    shutil.rmtree(checkout / ".snakemake")
    assert plan(checkout, write(checkout, change)) == jobs


def test_without_snakemakes_records_an_edit_of_the_code_is_noticed_all_the_same(checkout: Path) -> None:
    shutil.rmtree(checkout / ".snakemake")
    edit(checkout / "src/dt/figures.py", '"plasma"', '"viridis"')
    assert plan(checkout) == {"figures": 1}


def test_a_result_made_by_other_code_is_made_again_though_the_code_was_changed_back(checkout: Path) -> None:
    """As it happens where code is edited while Snakemake runs."""
    record = checkout / "results/policies/scratch/walker2d/seed0/provenance.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"code": "0" * 16}))
    assert plan(checkout) == dict(scratch=1, evaluate=1, **REPORT)


@pytest.mark.parametrize("records", ["kept", "lost"])
def test_replaced_data_are_noticed_though_their_dates_stay(records: str, checkout: Path) -> None:
    actor = checkout / "resources/experts/hopper.safetensors"
    before = actor.stat()
    shutil.copy(checkout / "resources/experts/walker2d.safetensors", actor)
    os.utime(actor, ns=(before.st_atime_ns, before.st_mtime_ns))
    if records == "lost":
        shutil.rmtree(checkout / ".snakemake")
    assert plan(checkout) == dict(datasets=1, stats=1, **AFTER_THE_DATA_OF_HOPPER)


def test_a_replaced_dataset_reruns_what_was_made_from_it(checkout: Path) -> None:
    data = checkout / "results/datasets"
    shutil.copy(data / "walker2d/data/main_data.hdf5", data / "hopper/data/main_data.hdf5")
    assert plan(checkout) == dict(stats=1, **AFTER_THE_DATA_OF_HOPPER)


@pytest.mark.parametrize(
    ("change", "jobs"),
    [
        ({"evaluation": {"episodes": 3}}, dict(evaluate=7, **REPORT)),
        ({"environments": {"hopper": {"target_return": 3600}}}, dict(evaluate=4, **REPORT)),
        ({"environments": {"hopper": {"reference": {"random": -1.0}}}}, {"tables": 1}),
        ({"training": {"epochs": 3}}, dict(finetune=4, scratch=2, evaluate=6, **REPORT)),
    ],
    ids=str,
)
def test_where_snapshots_are_kept_another_evaluation_trains_nothing_anew(
    change: dict[str, Any], jobs: dict[str, int], checkout: Path
) -> None:
    kept = write(checkout, {"evaluation": {"keep_snapshots": True}}, "kept.yaml")
    assert plan(checkout, kept) == {}  # those that are gone are not made again for it
    for policy in (checkout / "results/policies").glob("[fs]*/**/policy.safetensors"):
        snapshots = policy.with_name("snapshots.safetensors")
        snapshots.touch()
        os.utime(snapshots, ns=(policy.stat().st_mtime_ns, policy.stat().st_mtime_ns))
    assert plan(checkout, kept) == {}
    assert plan(checkout, kept, write(checkout, change)) == jobs


def test_a_policy_says_what_the_study_asked_for(study: Path) -> None:
    policies = {path.parts[-3]: path for path in (study / "results/policies").glob("*/*/*/policy.safetensors")}
    tasks = {name: load_policy(path).task for name, path in policies.items()}
    assert {name: (task.target_return, task.precision) for name, task in tasks.items()} == {
        "hopper": (5000.0, "fp32"),
        "walker2d": (5000.0, "fp32"),
    }
    assert tasks["hopper"].data_return != 5000.0


def test_only_new_seeds_are_trained(checkout: Path) -> None:
    arguments = ["-n", "--configfile", "tiny.yaml", write(checkout, {"seeds": [0, 1]})]
    output = snakemake(checkout, *arguments, environment={"PYTHONPATH": str(checkout / "src")})
    made = [line for line in output.splitlines() if line.startswith(("Job ", "    output:")) and "seed" in line]
    assert made
    assert not [line for line in made if "seed 0" in line or "seed0" in line]


@pytest.mark.slow
def test_adding_a_strategy_and_a_seed_leaves_every_earlier_policy_as_it_is(checkout: Path) -> None:
    def policies() -> dict[str, tuple[bytes, int]]:
        return {
            str(path): (path.read_bytes(), path.stat().st_mtime_ns)
            for name in ("policy.safetensors", "returns.csv")
            for path in (checkout / "results").rglob(name)
            if "tables" not in path.parts
        }

    before = policies()
    added = {"seeds": [0, 1], "strategies": ["unfreeze0", "unfreeze1", "unfreeze2"], "targets": ["hopper"]}
    arguments = ["--cores", "2", "--configfile", "tiny.yaml", write(checkout, added)]
    snakemake(checkout, *arguments, environment={"PYTHONPATH": str(checkout / "src")})
    after = policies()
    assert len(after) == len(before) + 2 * (
        1 + 4 + 1
    )  # unfreeze2; a pre-training, three strategies and scratch of seed 1
    assert {path: after[path] for path in before} == before
