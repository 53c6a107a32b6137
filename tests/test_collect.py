"""A part of a study: the files that `dt collect` writes of the tiny study, and what it refuses."""

import csv
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT
from safetensors.torch import load_file, save_file
from test_workflow import TINY

from dt import provenance
from dt.collect import collect, finished_runs
from dt.contents import contents_checksum, weights_checksum
from dt.files import checksum
from dt.runs import ExpectedError

RETURNS = "kind,source,target,strategy,seed,epoch,step,episode,return,length,score"
POINT = "epoch,step,loss,gradient_norm,learning_rate,trainable,parameters,effective,clipped"
TRAINING = f"kind,source,target,strategy,seed,{POINT}"
SCRATCH = "scratch/walker2d/seed0"
RECORD = f"results/policies/{SCRATCH}/provenance.json"
EVALUATION = f"results/evaluations/{SCRATCH}/provenance.json"
STATS = "results/stats/hopper.provenance.json"
FILES = ["part.json", "returns.csv.gz", "training.csv.gz"]


@pytest.fixture
def copy(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished study in another folder, to spoil, as the working directory."""
    folder = Path(shutil.copytree(study, tmp_path / "copy", ignore=shutil.ignore_patterns(".snakemake", "snapshots.*")))
    monkeypatch.chdir(folder)
    return folder


def part_of(folder: Path, name: str = "part", **options: Any) -> dict[str, bytes]:
    """The files of a part that is made in a study's folder."""
    for cached in (provenance._read, provenance._checksum):
        cached.cache_clear()
    out = folder / name
    given = {"configfiles": [folder / "tiny.yaml"], "seeds": [], "study": "tiny", **options}
    collect(folder / "results", out, **given)
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def change(path: Path, function: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    function(content)
    path.write_text(json.dumps(content))


def table(packed: bytes) -> pd.DataFrame:
    return pd.read_csv(StringIO(gzip.decompress(packed).decode()), keep_default_na=False)


def test_the_command_writes_three_files_and_says_so(study: Path, tmp_path: Path) -> None:
    arguments = ["results", str(tmp_path / "part"), "--configfile", "tiny.yaml", "--study", "tiny", "--seeds", "0"]
    command = [sys.executable, "-m", "dt", "collect", *arguments]
    paths = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    result = subprocess.run(command, cwd=study, env=paths, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'part'}: 7 runs of seed 0\n"
    assert "no clean commit is named" in result.stderr
    assert sorted(path.name for path in (tmp_path / "part").iterdir()) == FILES
    assert json.loads((tmp_path / "part/part.json").read_text())["study"] == "tiny"


def test_tables_have_the_columns_and_values_of_the_studys_own_in_the_order_of_paths(copy: Path) -> None:
    part = part_of(copy)
    for name, columns in (("returns", RETURNS), ("training", TRAINING)):
        packed, own = table(part[f"{name}.csv.gz"]), copy / f"results/tables/{name}.csv"
        assert ",".join(packed.columns) == columns
        lines = gzip.decompress(part[f"{name}.csv.gz"]).decode().splitlines()
        assert sorted(lines) == sorted(own.read_text().splitlines())
        runs = ["/".join(map(str, row)) for row in packed.iloc[:, :4].itertuples(index=False)]
        assert list(dict.fromkeys(runs)) == sorted(set(runs))
        assert len(set(runs)) == 7


def test_a_part_has_the_same_bytes_at_another_time_and_place(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = part_of(copy)
    monkeypatch.setattr("time.time", lambda: 2e9)
    for path in (copy / "results").rglob("*"):
        os.utime(path, (1e9, 1e9))
    assert part_of(copy, "elsewhere") == first
    assert part_of(copy) == first  # over itself
    for name in FILES[1:]:
        assert first[name][3:8] == bytes(5)  # no name among the flags, no time


def test_a_part_says_what_was_computed_and_how(copy: Path) -> None:
    part = json.loads(part_of(copy)["part.json"])
    record = json.loads((copy / RECORD).read_text())
    head = {key: part[key] for key in ("format", "study", "commit", "clean", "threads", "device", "precision")}
    git = {"commit": None, "clean": None}  # the tiny study lies outside of a repository
    assert head == {"format": 1, "study": "tiny", **git, "threads": 1, "device": "cpu", "precision": "fp32"}
    for key in ("versions", "processor", "instructions", "kernels"):
        assert part[key] == record[key]
    packages = {"python", "torch", "numpy", "numba", "mujoco", "gymnasium", "minari"}
    assert all(part["versions"][name] for name in packages)
    assert part["products"]["training"] == record["products"]
    assert (part["configuration"]["model"]["width"], part["configuration"]["seeds"]) == (TINY["model"]["width"], [0])
    assert part["configuration"]["environments"]["walker2d"]["title"] == "Walker2d"
    assert [run["kind"] for run in part["runs"]] == ["finetune"] * 4 + ["pretrain"] + ["scratch"] * 2


def test_a_part_says_what_each_environments_policies_learned_from(copy: Path) -> None:
    environment = json.loads(part_of(copy)["part.json"])["environments"]["hopper"]
    stats = json.loads((copy / "results/stats/hopper.json").read_text())
    assert environment["spec"]["id"] == "Hopper-v5"
    assert environment["spec"]["max_episode_steps"] == 1000
    settings = yaml.safe_load((ROOT / "config.yaml").read_text())["environments"]["hopper"]
    for key in ("target_return", "reward_scale", "reference"):
        assert environment[key] == settings[key]
    assert environment["expert"] == checksum(ROOT / "resources/experts/hopper.safetensors")
    assert (environment["trajectories"], environment["transitions"]) == (16, stats["transitions"])
    assert environment["returns"] == {"mean": stats["returns"]["mean"], "deviation": stats["returns"]["std"]}
    low, high = settings["reference"]["random"], settings["reference"]["expert"]
    assert environment["mean_score"] == pytest.approx(100 * (stats["returns"]["mean"] - low) / (high - low))
    assert environment["derived"] == stats["derived"]


def test_the_checksum_of_data_is_of_what_they_hold_not_of_their_file(copy: Path) -> None:
    expected = hashlib.sha256()
    for name in ("actions", "returns_to_go", "starts", "states"):
        array = np.load(copy / f"results/stats/hopper/{name}.npy")
        expected.update(f"{name} {array.dtype.str} {list(array.shape)}\n".encode() + array.tobytes())
    environment = json.loads(part_of(copy)["part.json"])["environments"]["hopper"]
    assert environment["contents"] == expected.hexdigest()


def test_a_part_has_the_checksum_of_every_runs_weights_and_its_programs(copy: Path) -> None:
    run = json.loads(part_of(copy)["part.json"])["runs"][-1]
    weights = load_file(copy / f"results/policies/{SCRATCH}/policy.safetensors")
    assert run["weights"] == contents_checksum((name, tensor.numpy()) for name, tensor in weights.items())
    identity = {"kind": "scratch", "source": "", "target": "walker2d", "strategy": "", "seed": 0}
    assert {key: run[key] for key in identity} == identity
    assert (run["recipe"], run["epochs"]) == (None, 2)
    records = [json.loads((copy / path).read_text()) for path in (RECORD, EVALUATION)]
    assert run["code"] == dict(zip(("training", "evaluation"), (record["code"] for record in records), strict=True))


def test_the_checksum_of_weights_leaves_out_what_describes_them(tmp_path: Path) -> None:
    weights = {"b": torch.ones(2, 3), "a": torch.zeros(1)}
    save_file(weights, tmp_path / "one.safetensors", metadata={"policy": "{}"})
    save_file(dict(reversed(weights.items())), tmp_path / "two.safetensors")
    assert weights_checksum(tmp_path / "one.safetensors") == weights_checksum(tmp_path / "two.safetensors")


@pytest.mark.parametrize(
    "other", [{"a": np.zeros((3, 2))}, {"a": np.zeros((2, 3), "f4")}, {"b": np.zeros((2, 3))}, {"a": np.ones((2, 3))}]
)
def test_other_shapes_types_names_and_values_have_another_checksum(other: dict[str, np.ndarray]) -> None:
    same = np.zeros((3, 2)).T  # in another order in memory
    assert contents_checksum([("a", same)]) == contents_checksum([("a", np.zeros((2, 3)))])
    assert contents_checksum(other.items()) != contents_checksum([("a", same)])


def test_cpu_seconds_are_those_of_whole_jobs(copy: Path) -> None:
    def seconds(name: str) -> dict[str, float | None]:
        return json.loads(part_of(copy, name)["part.json"])["runs"][-1]["cpu_seconds"]

    benchmark = copy / f"results/benchmarks/{SCRATCH}.tsv"
    with benchmark.open() as file:
        measured = next(csv.DictReader(file, delimiter="\t"))["cpu_time"]
    assert seconds("whole")["training"] == float(measured)
    change(copy / EVALUATION, lambda record: record.update(resumed=True))
    benchmark.write_text("s\tcpu_time\n0.5\tNA\n")
    assert seconds("resumed") == {"training": None, "evaluation": None}
    benchmark.unlink()
    assert seconds("unmeasured") == {"training": None, "evaluation": None}


def test_seeds_are_chosen_and_the_unfinished_ones_of_others_do_not_matter(copy: Path) -> None:
    whole = part_of(copy)
    (copy / "results/checkpoints/evaluate/scratch/hopper/seed1").mkdir(parents=True)
    with pytest.raises(ExpectedError, match="1 of 8 runs are not finished"):
        part_of(copy)
    assert part_of(copy, seeds=[0]) == whole


def test_an_imported_sources_recipe_is_the_configurations(copy: Path) -> None:
    """Here a label: the runs are those of a pre-training, and the configuration calls it a checkpoint."""
    changed = {**TINY, "sources": {"mine": {"checkpoint": "somewhere"}, "hopper": {}}}
    (copy / "mine.yaml").write_text(yaml.safe_dump(changed))
    for place in ("policies", "evaluations"):
        shutil.copytree(copy / f"results/{place}/finetune/hopper", copy / f"results/{place}/finetune/mine")
    for path in (copy / "results/evaluations/finetune/mine").rglob("returns.csv"):
        path.write_text(path.read_text().replace("finetune,hopper,", "finetune,mine,"))
        made = {"returns.csv": checksum(path)}
        change(path.with_name("provenance.json"), lambda record, made=made: record.update(made=made))
    runs = json.loads(part_of(copy, configfiles=[copy / "mine.yaml"])["part.json"])["runs"]
    recipes = {run["source"]: run["recipe"] for run in runs}
    assert recipes == {"hopper": {}, "mine": {"title": "Mine", "checkpoint": "somewhere"}, "": None}
    with pytest.raises(ExpectedError, match=r"mine/hopper/unfreeze0/seed0 is no run of this configuration; name the"):
        part_of(copy, "other")


def edit(name: str, **values: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder / name, lambda record: record.update(values))


def edit_settings(name: str, block: str, **values: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder / name, lambda record: record["settings"][block].update(values))


def delete(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def spoil(name: str) -> Callable[[Path], None]:
    def append(folder: Path) -> None:
        with (folder / name).open("ab") as file:
            file.write(b"0\n")

    return append


def write(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")

    return make


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (edit(RECORD, code="0" * 16), f"{SCRATCH}/policy.safetensors with .{'0' * 16}.; a part holds what one code"),
        (edit(EVALUATION, code="0" * 16), f"evaluations/{SCRATCH}/returns.csv with"),
        (edit(RECORD, processor="Another 1"), 'with "Another 1"; a part holds what one code computed on one machine'),
        (edit(EVALUATION, versions={"torch": "2.0"}), 'made with versions {.*"torch": .*with {.*"torch": "2.0"}; a'),
        (edit(RECORD, products="abacus"), "made with products .*abacus"),
        (edit(EVALUATION, threads=7), "made with threads 1, .*with 7;"),
        (edit(RECORD, epochs=3), "made with training.epochs 3, the configuration says 2; name the files it ran with"),
        (edit_settings(RECORD, "model", width=64), "made with model.width 64, the configuration says 32; name"),
        (edit_settings(RECORD, "training", gradient_clip=9), "made with training.gradient_clip 9, the conf"),
        (edit_settings(RECORD, "evaluation", every=4), "made with evaluation.every 4, the configuration says 1"),
        (
            lambda folder: change(folder / EVALUATION, lambda record: record["settings"].pop("target_return")),
            "made with environments.walker2d.target_return null, the configuration says 5000",
        ),
        (edit(STATS, settings={"trajectories": 16, "gamma": 0.5}), "made with data.gamma 0.5, the configuration says"),
        (delete(RECORD), f"no provenance.json says how .*{SCRATCH}/policy.safetensors came to be"),
        (delete(STATS), "no provenance.json says how .*stats/hopper.json came to be"),
        (delete(f"results/policies/{SCRATCH}/policy.safetensors"), rf"1 of 7 .* finished: {SCRATCH} \(no policy.safe"),
        (delete(f"results/policies/{SCRATCH}/training.csv"), rf"1 of 7 .* finished: {SCRATCH} \(no training.csv\)"),
        (delete(f"results/evaluations/{SCRATCH}/returns.csv"), rf"1 of 7 .* finished: {SCRATCH} \(no returns.csv\)"),
        (write("results/checkpoints/pretrain/walker2d/seed0/lock"), r"finished: pretrain/walker2d/seed0 \(no policy"),
        (spoil(f"results/evaluations/{SCRATCH}/returns.csv"), "returns.csv has CHANGED since it was made; `snakemake`"),
        (spoil(f"results/policies/{SCRATCH}/training.csv"), f"{SCRATCH}/training.csv is NOT what this was made from"),
        (spoil("results/stats/hopper/states.npy"), "states.npy is NOT what this was made from"),
        (delete("results/datasets/hopper/data/main_data.hdf5"), "main_data.hdf5 is MISSING"),
        (delete("resources/experts/hopper.json"), "hopper.json is MISSING"),
        (write("part"), "part is a file; name a folder to write to"),
        (write("part/notes.txt"), "part holds another notes.txt; delete it, or name another folder"),
        (write("part/part.json"), "part holds another part.json; delete it, or name another folder"),
        (delete("config.yaml"), "there is no .*config.yaml; name an existing file, and do so where the workflow lies"),
        (delete("tiny.yaml"), "there is no .*tiny.yaml; name an existing file"),
        (lambda folder: (folder / "tiny.yaml").write_text("- 1"), "tiny.yaml: found .1.; allowed are keys with values"),
        (lambda folder: (folder / "tiny.yaml").write_text("seed: 1"), "seed: unknown key; allowed are"),
    ],
    ids=lambda value: value[-40:] if isinstance(value, str) else "-",
)  # fmt: skip
def test_what_is_no_part_is_refused_in_a_sentence_and_nothing_is_written(
    damage: Callable[[Path], None], said: str, copy: Path
) -> None:
    damage(copy)
    before = sorted(copy.glob("part*/*"))
    with pytest.raises(ExpectedError, match=said) as refused:
        part_of(copy)
    assert "\n" not in str(refused.value)
    assert sorted(copy.glob("part*/*")) == before


def test_without_the_files_that_the_runs_had_the_key_that_differs_is_named(copy: Path) -> None:
    with pytest.raises(
        ExpectedError, match=r"made with training\.epochs 2, the configuration says 100; name the files"
    ):
        part_of(copy, configfiles=[])


def test_other_commits_with_the_same_code_make_a_part_that_names_none(copy: Path) -> None:
    for path in (copy / "results").rglob("*provenance.json"):
        change(path, lambda record: record.update(git={"commit": "c" * 40, "dirty": False}))
    assert [json.loads(part_of(copy)["part.json"])[key] for key in ("commit", "clean")] == ["c" * 40, True]
    change(copy / RECORD, lambda record: record.update(git={"commit": "d" * 40, "dirty": False}))
    assert [json.loads(part_of(copy, "two")["part.json"])[key] for key in ("commit", "clean")] == [None, None]


def test_a_commit_with_changes_is_called_so(copy: Path) -> None:
    for path in (copy / "results").rglob("*provenance.json"):
        change(path, lambda record: record.update(git={"commit": "c" * 40, "dirty": True}))
    assert [json.loads(part_of(copy)["part.json"])[key] for key in ("commit", "clean")] == ["c" * 40, False]


@pytest.mark.parametrize(
    ("seeds", "said"), [([], "holds no run; `snakemake` makes them"), ([3, 2], "holds no run of seed 2; `snakemake`")]
)
def test_a_folder_without_runs_is_refused(seeds: list[int], said: str, tmp_path: Path) -> None:
    (tmp_path / "policies/import/hopper/seed0").mkdir(parents=True)
    (tmp_path / "policies/pretrain/seedling").mkdir(parents=True)
    for results in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ExpectedError, match=said):
            finished_runs(results, seeds)
