"""How results came to be: the records of the tiny study, and the command that follows them down to the data."""

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import ROOT

from dt.provenance import git_state, instructions, processor

FIGURE = "results/figures/fig1.png"
SCRATCH = "results/policies/scratch/walker2d/seed0"
DATA = "results/datasets/walker2d/data/main_data.hdf5"
ACTOR = "resources/experts/walker2d.safetensors"


@pytest.fixture
def copy(study: Path, tmp_path: Path) -> Path:
    """The finished study in another folder, to spoil."""
    return Path(shutil.copytree(study, tmp_path / "copy"))


def follow(folder: Path, file: str, code: int = 0) -> str:
    """What the command prints, in a Python without the heavy packages."""
    blocked = folder / "blocked"
    blocked.mkdir(exist_ok=True)
    for name in ("torch", "numpy", "gymnasium", "minari", "pandas"):
        (blocked / f"{name}.py").write_text(f"raise ImportError('{name} was imported')\n")
    path = os.pathsep.join([str(blocked), str(ROOT / "src")])
    command = [sys.executable, "-m", "dt.provenance", file]
    result = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_every_result_has_a_record_whose_checksums_are_right(study: Path) -> None:
    described = set()
    for record in (study / "results").rglob("*provenance.json"):
        for name, digest in json.loads(record.read_text())["made"].items():
            file = Path(os.path.normpath(record.parent / name))
            described.add(file)
            if file.name != "snapshots.safetensors":  # but the pre-training's they are gone
                assert hashlib.sha256(file.read_bytes()).hexdigest() == digest
    others = {"logs", "benchmarks", "checkpoints"}
    results = [path for path in (study / "results").rglob("*") if path.is_file() and path.parts[-1] != "report.html"]
    results = [path for path in results if others.isdisjoint(path.parts) and not path.name.endswith("provenance.json")]
    assert [path for path in results if path not in described and path.name != ".snakemake_timestamp"] == []


def test_a_policys_record_says_how_it_came_to_be(study: Path) -> None:
    record = json.loads((study / SCRATCH / "provenance.json").read_text())
    assert record["program"] == "train.py"
    assert record["run"] == {"kind": "scratch", "source": "", "target": "walker2d", "strategy": "", "seed": 0}
    assert (record["epochs"], record["settings"]["model"]["width"]) == (2, 32)
    assert record["versions"]["python"] == platform.python_version()
    packages = ("torch", "mujoco", "gymnasium", "minari", "snakemake")
    assert {name: record["versions"][name] for name in packages} == {name: version(name) for name in packages}
    assert record["processor"] == processor() != ""
    assert record["instructions"] == instructions()
    assert (record["device"], record["threads"], record["resumed"]) == ("cpu", 1, False)
    assert len(record["made_from"]) == 5  # statistics and four arrays


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("flags\t\t: fpu sse sse4_2 avx512f avx2 fma vaes\n", ["avx2", "avx512f", "fma", "sse4_2"]),
        ("Features\t: fp asimd sve2 aes asimdhp\n", ["asimd", "asimdhp", "sve2"]),
        ("uarch : sifive,u74\n", []),
    ],
)
def test_vector_instructions_are_those_that_linux_tells(
    said: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: said)
    assert instructions() == expected


def test_a_figure_is_followed_down_to_the_expert(study: Path) -> None:
    output = follow(study, FIGURE)
    for file in (FIGURE, f"{SCRATCH}/policy.safetensors", "results/stats/walker2d.json", DATA, ACTOR):
        assert f"{file}  (" in output
    assert output.index(FIGURE) < output.index("results/stats/walker2d.json") < output.index(DATA) < output.index(ACTOR)
    assert output.count("policy.safetensors") == 6 + 1  # fine-tuned and scratch; the pre-trained one once
    assert "all match" in output


@pytest.mark.parametrize(
    ("file", "asked", "said"),
    [
        (DATA, FIGURE, f"{DATA} has CHANGED since it was made"),
        (f"{SCRATCH}/policy.safetensors", FIGURE, f"{SCRATCH}/policy.safetensors is NOT what this was made from"),
        (ACTOR, "results/tables/summary.csv", f"{ACTOR} is NOT what this was made from"),
        (FIGURE, FIGURE, f"{FIGURE} has CHANGED since it was made"),
    ],
)
def test_what_was_changed_is_named(file: str, asked: str, said: str, copy: Path) -> None:
    with (copy / file).open("ab") as data:
        data.write(b"\0")
    output = follow(copy, asked, code=1)
    assert said in output
    assert "no longer match" in output


def test_a_fine_tunings_record_says_what_was_carried_and_what_is_new(study: Path) -> None:
    records = study.glob("results/policies/finetune/**/provenance.json")
    for record in map(json.loads, (path.read_text() for path in records)):
        run, transfer = record["run"], record["transfer"]
        same = run["source"] == run["target"] or "hopper" not in (run["source"], run["target"])
        assert ("embed_state" in transfer["new"]) != same
        assert "layers.0.mlp_in" in transfer["carried"]
        assert not {*transfer["new"]} & {*transfer["carried"]}


def test_what_is_missing_is_named(copy: Path) -> None:
    (copy / DATA).unlink()
    assert f"{DATA} is MISSING" in follow(copy, FIGURE, code=1)


def test_an_evaluation_of_other_snapshots_than_the_training_made_is_named(copy: Path) -> None:
    """They are gone, but both sides have written down what they were."""
    record = copy / SCRATCH / "provenance.json"
    content = json.loads(record.read_text())
    content["made"]["snapshots.safetensors"] = "0" * 64
    record.write_text(json.dumps(content))
    assert f"{SCRATCH}/snapshots.safetensors is NOT what this was made from" in follow(copy, FIGURE, code=1)


def test_a_file_that_nothing_made_is_answered_in_a_sentence(study: Path) -> None:
    assert follow(study, "config.yaml", code=1) == "error: nothing says how config.yaml came to be\n"


def test_a_record_names_the_commit_and_whether_the_tree_differs_from_it(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    script = tmp_path / "script.py"
    script.write_text("VALUE = 1\n")
    assert git_state(script) is None
    git("init", "--quiet")
    assert git_state(script) is None  # it lies in a repository, which does not hold it
    git("add", "script.py")
    git("commit", "--quiet", "--message", "first")
    assert git_state(script) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    script.write_text("VALUE = 2\n")
    assert git_state(script) == {"commit": git("rev-parse", "HEAD"), "dirty": True}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("fatal: detected dubious ownership in repository at '/data/study'", "belongs to another user"),
        ("fatal: bad object HEAD", "git fails: fatal: bad object HEAD"),
        ("error: unknown option `error-unmatch'", "git fails: error: unknown option"),
        (None, "git cannot be started ([Errno 2]"),
    ],
)
def test_a_record_says_why_git_tells_no_commit(
    answer: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if answer:
        (tmp_path / "git").write_text(f"#!/bin/sh\necho {shlex.quote(answer)} >&2\nexit 128\n")
        (tmp_path / "git").chmod(0o755)
    state = git_state(tmp_path / "script.py")
    assert state is not None
    assert (state["commit"], state["dirty"]) == (None, None)
    assert said in state["unknown"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_clone_of_another_user_is_said_to_be_one(copy: Path) -> None:
    record = copy / SCRATCH / "provenance.json"
    subprocess.run(["git", "init", "--quiet"], cwd=copy, check=True)
    os.chown(copy, 12345, 12345)
    os.chown(copy / ".git", 12345, 12345)
    state = git_state(copy / "workflow/scripts/train.py")
    assert state is not None
    assert "belongs to another user" in state["unknown"]
    record.write_text(json.dumps(json.loads(record.read_text()) | {"git": state}))
    assert "no git commit: git does not read a repository that belongs to another user" in follow(copy, FIGURE)
