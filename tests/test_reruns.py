"""What is run again after edits of the code, lost records of Snakemake and replaced data: the exact set of jobs."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from test_workflow import EVERY_TRAINING, REPORT, TINY, checksums, plan_tiny_study, planned, snakemake, write

LEARNING_RATE = {"training": {"learning_rate": 1.0e-3}}
AFTER_THE_DATA_OF_HOPPER = dict(pretrain=1, finetune=4, scratch=1, evaluate=6, **REPORT)
EDITS = [  # module, what is written instead of what, the jobs that run it
    ("src/dt/model.py", "INITIAL_STD = 0.02", "INITIAL_STD = 0.03", EVERY_TRAINING),
    ("src/dt/model.py", "INITIAL_STD = 0.02", "INITIAL_STD = 0.02  # a comment", {}),
    ("src/dt/optimiser.py", "import", "# a comment before an\nimport", {}),
    ("src/dt/figures.py", '"plasma"', '"viridis"', {"figures": 1}),
    ("src/dt/metrics.py", "percentile", "bca", REPORT),
    ("src/dt/evaluate.py", "torch.inference_mode()", "torch.no_grad()", dict(EVERY_TRAINING, pretrain=0)),
    ("src/dt/data.py", "SMALLEST_STD = 1e-6", "SMALLEST_STD = 1e-5", dict(stats=2, **EVERY_TRAINING)),
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


def without_none(jobs: dict[str, int]) -> dict[str, int]:
    return {rule: count for rule, count in jobs.items() if count}


@pytest.mark.parametrize(("file", "old", "new", "jobs"), EDITS)
def test_an_edit_of_the_code_reruns_what_runs_it_and_nothing_else(
    file: str, old: str, new: str, jobs: dict[str, int], checkout: Path
) -> None:
    edit(checkout / file, old, new)
    assert plan(checkout) == without_none(jobs)


@contextmanager
def lost_records(checkout: Path) -> Iterator[None]:
    shutil.rmtree(checkout / ".snakemake")
    yield


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
