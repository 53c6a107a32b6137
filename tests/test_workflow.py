"""The workflow by its command line: what is planned, refused and redone, and one tiny study run for real."""

import hashlib
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).parents[1]
PARTS = ["config.yaml", "workflow", "config", "profiles", "resources"]
ALL_OF_THE_PAPER = {
    "datasets": 3,
    "stats": 3,
    "pretrain": 3,
    "finetune": 36,
    "scratch": 3,
    "evaluate": 42,
    "figures": 3,
    "tables": 1,
}
HEAVY = ["torch", "gymnasium", "mujoco", "minari", "seaborn"]
TINY = {
    "sources": ["hopper"],
    "targets": ["hopper", "walker2d"],
    "strategies": ["unfreeze0", "unfreeze1"],
    "data": {"trajectories": 16},
    "model": {"layers": 2, "width": 32, "context": 5},
    "training": {"pretrain_epochs": 2, "epochs": 2, "batch_size": 8},
    "evaluation": {"every": 1, "episodes": 1},
    "report": {"final_points": 1},
}
REPORT = {"tables": 1, "figures": 1}
# snapshots of fine-tuning and scratch are temporary: a new evaluation needs the training again
EVERY_TRAINING = dict(pretrain=1, finetune=4, scratch=2, evaluate=7, **REPORT)
CHANGES = [  # setting, the jobs that depend on it
    ({"report": {"confidence": 0.9}}, REPORT),
    ({"environments": {"hopper": {"title": "Hop"}}}, {"figures": 1}),
    ({"evaluation": {"episodes": 2}}, dict(finetune=4, scratch=2, evaluate=7, **REPORT)),
    ({"environments": {"hopper": {"reference": {"expert": 3000.0}}}}, {"tables": 1}),  # figures show returns
    ({"environments": {"walker2d": {"reference": {"random": 0.0, "expert": 1.0}}}}, {"tables": 1}),
    ({"environments": {"halfcheetah": {"reference": {"expert": 3000.0}}}}, {}),  # of no run
    ({"evaluation": {"keep_snapshots": True}}, {}),
    (
        {"environments": {"hopper": {"reward_scale": 500}}},
        dict(pretrain=1, finetune=4, scratch=1, evaluate=6, **REPORT),
    ),
    ({"environments": {"walker2d": {"reward_scale": 500}}}, dict(finetune=2, scratch=1, evaluate=3, **REPORT)),
    ({"training": {"learning_rate": 1.0e-3}}, EVERY_TRAINING),
    ({"precision": "bf16"}, EVERY_TRAINING),
    ({"data": {"normalise_actions": True}}, EVERY_TRAINING),  # stats only answers if it cannot be
    ({"training": {"epochs": 3}}, dict(finetune=4, scratch=2, evaluate=6, **REPORT)),
    ({"data": {"gamma": 0.9}}, dict(stats=2, **EVERY_TRAINING)),
    (
        {"environments": {"walker2d": {"action_noise": 0.1}}},
        dict(datasets=1, stats=1, finetune=2, scratch=1, evaluate=3, **REPORT),
    ),
    ({"data": {"trajectories": 17}}, dict(datasets=2, stats=2, **EVERY_TRAINING)),
    ({"strategies": ["unfreeze0", "unfreeze1", "unfreeze2"]}, dict(finetune=2, evaluate=2, **REPORT)),
    ({"strategies": ["unfreeze0"]}, REPORT),
    ({"seeds": [0, 1]}, EVERY_TRAINING),
    # settings swapped: Snakemake alone compares the values of parameters without their names
    ({"model": {"layers": 1, "heads": 2}}, EVERY_TRAINING),
    ({"environments": {"hopper": {"title": "Walker2d"}, "walker2d": {"title": "Hopper"}}}, {"figures": 1}),
    ({"training": {"batch_size": 2, "pretrain_epochs": 8}}, EVERY_TRAINING),
    ({"experts": {"steps": 5}, "environments": {"halfcheetah": {"target_return": 1, "title": "Cheetah"}}}, {}),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the workflow in which nothing has run."""
    return copy_of_the_workflow(tmp_path_factory.mktemp("project"))


def test_all_plans_every_run_of_the_paper(project: Path) -> None:
    assert planned(snakemake(project, "-n")) == ALL_OF_THE_PAPER


def test_a_figure_plans_the_runs_that_it_shows_and_no_others(project: Path) -> None:
    expected = {"datasets": 3, "stats": 3, "pretrain": 1, "finetune": 12, "scratch": 3, "evaluate": 15, "figures": 1}
    assert planned(snakemake(project, "-n", "results/figures/fig3.png")) == expected


def test_parsing_and_planning_need_none_of_the_heavy_packages(project: Path, tmp_path: Path) -> None:
    for name in HEAVY:
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} was imported')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    assert planned(snakemake(project, "-n", environment={"PYTHONPATH": path})) == ALL_OF_THE_PAPER


def test_planning_takes_little_more_time_than_starting_snakemake(project: Path) -> None:
    start = min(cpu_seconds(project, "--version") for _ in range(2))
    plan = min(cpu_seconds(project, "-n") for _ in range(2))
    assert plan < 2.6 * start  # is 1.7 times; importing torch makes it 3.5 times


def test_lint_has_nothing_to_say(project: Path) -> None:
    assert "your workflow is in a good condition" in snakemake(project, "--lint")


def test_a_wrong_configuration_stops_before_any_job_and_names_every_problem(project: Path, tmp_path: Path) -> None:
    config = write(tmp_path, {"model": {"layers": 0}, "training": {"epoch": 1}})
    output = snakemake(project, "--cores", "1", "--configfile", config, code=1)
    assert "model.layers: found 0; allowed is a value ≥ 1" in output
    assert "training.epoch: unknown key; allowed are batch_size, epochs" in output
    assert "Traceback" not in output
    assert not (project / "results").exists()


@pytest.mark.parametrize(
    "text", ["seeds: [0, 1\n  a: {", "\tseeds: [0]", "seeds", "- seeds", "", "\0", "seeds: &a [*a]"]
)
def test_a_configuration_file_that_is_no_yaml_mapping_is_answered(text: str, project: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    output = snakemake(project, "-n", "--configfile", str(tmp_path / "config.yaml"), code=1)
    assert "Error" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    "target",
    [
        "results/figures/fig9.png",
        "results/figures/fig0.png",
        "results/evaluations/scratch/ant/seed0/returns.csv",
        "results/evaluations/finetune/hopper/hopper/unfreeze4/seed0/returns.csv",
        "results/policies/scratch/hopper/seed7/policy.safetensors",
        "results/policies/scratch/hopper/seed00/policy.safetensors",
        "results/stats/ant.json",
    ],
)
def test_a_target_that_the_configuration_does_not_define_is_refused(target: str, project: Path) -> None:
    output = snakemake(project, "-n", target, code=1)
    assert "MissingRuleException" in output
    assert target in output


def test_values_on_the_command_line_may_be_nested(project: Path) -> None:
    """Snakemake itself reads the numbers in them as text."""
    values = ["seeds=[0,1]", "model={layers: 2, dropout: 0.2}", "strategies=[unfreeze2]"]
    counts = planned(snakemake(project, "--dry-run", "--config", *values))
    assert (counts["scratch"], counts["finetune"]) == (6, 18)


def test_a_finished_study_has_nothing_to_do(study: Path) -> None:
    assert "Nothing to be done" in plan_tiny_study(study)


def test_a_finished_study_has_tables_and_figures_and_no_snapshots_of_finetuning(study: Path) -> None:
    results = study / "results"
    assert names(results / "tables") == [
        "provenance.json",
        "returns.csv",
        "summary.csv",
        "summary.html",
        "training.csv",
    ]
    assert names(results / "figures") == ["fig1.pdf", "fig1.png", "fig1.provenance.json"]
    assert [path.parts[-4] for path in results.rglob("snapshots.safetensors")] == ["pretrain"]
    assert len(list(results.rglob("policy.safetensors"))) == 7
    assert not list(results.rglob(".unfinished*"))


def test_the_returns_table_has_one_row_per_episode(study: Path) -> None:
    table = pd.read_csv(study / "results/tables/returns.csv", keep_default_na=False)
    columns = "kind,source,target,strategy,seed,epoch,step,episode,return,length,score"
    assert ",".join(table.columns) == columns
    assert len(table) == 7 * 3  # runs, evaluation points
    assert not table.duplicated(["kind", "source", "target", "strategy", "seed", "epoch", "episode"]).any()
    assert table.groupby("epoch")["step"].unique().map(list).to_dict() == {0: [0], 1: [2], 2: [4]}
    assert set(table.loc[table["kind"] == "scratch", "source"]) == {""}


def test_the_summary_has_one_row_per_arm_and_compares_finetuning_with_scratch(study: Path) -> None:
    table = pd.read_csv(study / "results/tables/summary.csv", keep_default_na=False)
    assert table["kind"].value_counts().to_dict() == {"pretrain": 1, "finetune": 4, "scratch": 2}
    assert set(table["seeds"]) == {1}
    assert list(table["final_score_gain"] != "") == list(table["kind"] == "finetune")


@pytest.mark.parametrize(("change", "jobs"), CHANGES, ids=lambda item: re.sub(r"[^\w.]+", "-", str(item))[1:40])
def test_a_changed_setting_reruns_what_depends_on_it_and_nothing_else(
    change: dict[str, Any], jobs: dict[str, int], study: Path, tmp_path: Path
) -> None:
    assert planned(plan_tiny_study(study, write(tmp_path, change))) == jobs


@pytest.mark.parametrize(
    "pattern",
    [
        "config.yaml",
        "resources/experts/*",
        "workflow/**/*.*",
        "results/datasets/**/*.*",
        "results/stats/*.json",
        "results/stats/*/*.npy",
        "results/policies/**/policy.*",
        "results/**/provenance.json",
    ],
)
def test_a_touched_file_reruns_nothing(pattern: str, study: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in study.glob(pattern)}
    for path in times:
        path.touch()
    try:
        assert planned(plan_tiny_study(study)) == {}
    finally:
        for path, time in times.items():
            os.utime(path, ns=(time, time))


@pytest.mark.slow
def test_another_folder_and_number_of_cores_give_the_same_bytes(study: Path, tmp_path: Path) -> None:
    again = run_tiny_study(tmp_path, cores=1)
    assert checksums(again / "results") == checksums(study / "results")


@pytest.mark.slow
def test_another_order_of_jobs_gives_the_same_bytes(study: Path, tmp_path: Path) -> None:
    """The evaluation of a fine-tuning is wanted first, or that of a training from scratch: one core does it first."""
    orders = []
    for run in ("finetune/hopper/walker2d/unfreeze1/seed0", "scratch/hopper/seed0"):
        folder = tmp_path / run.replace("/", "-")
        folder.mkdir()
        first = ("--scheduler", "greedy", "--prioritize", f"results/evaluations/{run}/returns.csv")
        run_tiny_study(folder, 1, *first)
        logs = sorted((folder / "results/logs/evaluate").rglob("*.log"), key=lambda path: path.stat().st_mtime_ns)
        orders.append([str(path.relative_to(folder)) for path in logs])
        assert orders[-1][0] == f"results/logs/evaluate/{run}.log"
        assert checksums(folder / "results") == checksums(study / "results")
    assert sorted(orders[0]) == sorted(orders[1])


def copy_of_the_workflow(folder: Path) -> Path:
    for part in PARTS:
        source = ROOT / part
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, folder / part)
    return folder


def run_tiny_study(folder: Path, cores: int, *arguments: str) -> Path:
    copy_of_the_workflow(folder)
    snakemake(folder, "--cores", str(cores), *arguments, "--configfile", write(folder, TINY, "tiny.yaml"))
    return folder


def plan_tiny_study(study: Path, *configs: str) -> str:
    return snakemake(study, "-n", "--configfile", "tiny.yaml", *configs)


def snakemake(folder: Path, *arguments: str, code: int = 0, environment: dict[str, str] | None = None) -> str:
    """Everything that snakemake prints; fails where its exit code is another."""
    command = [sys.executable, "-m", "snakemake", *arguments]
    result = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | (environment or {}),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert result.returncode == code, result.stdout[-8000:]
    return result.stdout


def planned(output: str) -> dict[str, int]:
    """The number of jobs of each rule, `all` left out, as Snakemake's last table of job counts has them."""
    counts = {}
    for line in output.rpartition("Job stats:")[2].splitlines():
        if match := re.fullmatch(r"(\w+) +(\d+)", line):
            counts[match[1]] = int(match[2])
    return {rule: count for rule, count in counts.items() if rule not in ("all", "total")}


def cpu_seconds(folder: Path, *arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    snakemake(folder, *arguments)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def write(folder: Path, config: dict[str, Any], name: str = "changed.yaml") -> str:
    (folder / name).write_text(yaml.safe_dump(config))
    return str(folder / name)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def checksums(results: Path) -> dict[str, str]:
    """Of all results but datasets, whose checksums are in the statistics, and records of how results came to be."""
    return {
        str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(results.rglob("*"))
        if path.suffix in (".csv", ".png", ".pdf", ".safetensors", ".json", ".npy", ".html")
        and "datasets" not in path.parts
        and not path.name.endswith("provenance.json")
    }
