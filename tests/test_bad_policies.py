"""Broken, foreign and malicious weights: refused in a sentence, unread if they are pickles, and nothing is written."""

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, synthetic
from damage import contents, run_program, try_damages
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dt.actors import Actor, ActorError
from dt.data import Trajectories, read_stats
from dt.datasets import DatasetError, collect
from dt.evaluate import read_snapshot, snapshot_epochs
from dt.policy import METADATA_KEY, PolicyError, fresh_policy, load_policy, save_policy
from dt.runs import ExpectedError, Run
from dt.scores import read_steps
from dt.streams import stream
from dt.train import train
from dt.transfer import adapt

EXPERTS = ROOT / "resources/experts"
WEIGHT = "layers.1.mlp_in.weight"
Change = Callable[[dict[str, torch.Tensor], dict[str, Any]], Any]


@pytest.fixture
def run(config: dict[str, Any], tmp_path: Path) -> Path:
    """What a training leaves: policy, snapshots and the table of points."""
    data, stats = synthetic(11, 3)
    config["model"]["width"] = 8
    policy = fresh_policy("hopper", config, stats, stream(1))
    train(policy, data, Run("scratch", "", "hopper", "", 0), 2, config).save(
        tmp_path / "training.csv", tmp_path / "snapshots.safetensors"
    )
    save_policy(policy, tmp_path / "policy.safetensors")
    return tmp_path


def rewrite(path: Path, change: Change) -> None:
    """Other weights or another description in a policy's file."""
    with safe_open(path, framework="pt") as file:
        description = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    weights = load_file(path)
    change(weights, description)
    save_file(weights, path, metadata={METADATA_KEY: json.dumps(description)})


def describe(block: str, **values: Any) -> Change:
    return lambda weights, description: description[block].update(values)


def weight(value: torch.Tensor | None, name: str = WEIGHT) -> Change:
    """Another tensor of this name, or none."""

    def change(weights: dict[str, torch.Tensor], description: dict[str, Any]) -> None:
        if value is None:
            del weights[name]
        else:
            weights[name] = value

    return change


def rename(weights: dict[str, torch.Tensor], description: dict[str, Any]) -> None:
    weights["layers.1.mlp_first.weight"] = weights.pop(WEIGHT)


NAN = torch.zeros(32, 8).index_fill(0, torch.tensor([3]), float("nan"))
BAD = {  # name: change, what the sentence must hold
    "a missing weight": (weight(None), f"lacks '{WEIGHT}'"),
    "a renamed weight": (rename, f"lacks '{WEIGHT}'"),
    "a weight too many": (weight(NAN, "layers.3.mlp_in.weight"), "has an unknown 'layers.3.mlp_in.weight'"),
    "a weight of another shape": (weight(torch.zeros(8, 32)), f"{WEIGHT} is F32 [8, 32]; expected F32 [32, 8]"),
    "a weight of half precision": (weight(torch.zeros(32, 8).half()), f"{WEIGHT} is F16"),
    "a weight of integers": (weight(torch.zeros(32, 8).long()), f"{WEIGHT} is I64"),
    "a weight that is NaN": (weight(NAN), f"{WEIGHT} holds values that are not finite"),
    "another width": (describe("architecture", width=16), "expected F32 [16, 1]"),
    "a width beyond memory": (describe("architecture", width=2**20), "expected F32 [1048576, 1]"),
    "a width beyond any memory": (describe("architecture", width=2**31 - 1), "overflowed"),
    "a width beyond integers": (describe("architecture", width=10**30), "width is 1000"),
    "a width below zero": (describe("architecture", width=-8), "width is -8"),
    "a width of text": (describe("architecture", width="8"), "width is '8'"),
    "a width of 8.0": (describe("architecture", width=8.0), "width is 8.0"),
    "layers without end": (describe("architecture", layers=10**9), "no 1000000000 layers"),
    "3 heads for a width of 8": (describe("architecture", heads=3), "width 8 and 3 heads"),
    "an unknown activation": (describe("architecture", activation="os.system"), "activation is 'os.system'"),
    "an unknown key": (describe("architecture", depth=3), "unexpected keyword argument 'depth'"),
    "a dropout of 1": (describe("architecture", dropout=1.0), "dropout is 1.0"),
    "a discount of 2": (describe("task", gamma=2), "gamma 2"),
    "a discount that is NaN": (describe("task", gamma=float("nan")), "gamma is nan"),
    "no reward scale": (describe("normalisation", reward_scale=0), "reward_scale is 0"),
    "one deviation too few": (describe("normalisation", state_std=[1.0] * 10), "not that of 11 state components"),
    "a deviation of 0": (describe("normalisation", action_std=[1.0, 0.0, 1.0]), "action_std holds 0.0"),
    "a mean of text": (describe("normalisation", state_mean="11 letters!"), "not that of 11 state components"),
    "a mean that is infinite": (describe("normalisation", action_mean=[0, 1e999, 0]), "not that of 3 action"),
    "a context beyond the episode": (describe("task", context=1001), "context is 1001"),
    "an environment of no name": (describe("task", environment=None), "environment is None"),
    "no description": (lambda weights, description: description.clear(), "KeyError"),
    "a policy of another environment": (describe("task", environment="ant"), "policy of 'ant'; expected one of hopper"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_policy_is_named_with_its_reason(name: str, run: Path) -> None:
    change, reason = BAD[name]
    rewrite(run / "policy.safetensors", change)
    with pytest.raises(PolicyError) as caught:
        load_policy(run / "policy.safetensors", "hopper")
    assert str(run / "policy.safetensors") in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


class Malice:
    """Unpickled, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def as_pickle(content: Any, path: Path, protocol: int) -> None:
    path.write_bytes(pickle.dumps(content, protocol))


def as_zip(content: Any, path: Path, protocol: int) -> None:
    torch.save(content, path, pickle_protocol=protocol)


def as_old_torch(content: Any, path: Path, protocol: int) -> None:
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)


def as_array(content: Any, path: Path, protocol: int) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([content], dtype=object), allow_pickle=True)


@pytest.mark.parametrize("write", [as_pickle, as_zip, as_old_torch, as_array])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_in_disguise_is_refused_unread(write: Callable[..., None], protocol: int, run: Path) -> None:
    proof, arrays, actor = run / "proof", run / "arrays", run / "hopper.safetensors"
    synthetic(11, 3)[0].save(arrays)
    shutil.copy(EXPERTS / "hopper.safetensors", actor)
    readers = {
        run / "policy.safetensors": load_policy,
        run / "snapshots.safetensors": snapshot_epochs,
        run / "training.csv": read_steps,
        run / "stats.json": read_stats,
        arrays / "states.npy": lambda path: Trajectories.open(path.parent),
        run / "hopper.json": lambda path: collect("hopper", {"gymnasium": "Hopper-v5"}, actor, 1, run / "data"),
        run / "actor.safetensors": Actor.load,
    }
    for path, read in readers.items():
        write(Malice(proof), path, protocol)
        with pytest.raises(ExpectedError, match=f"{path.name} is not"):
            read(path)
    assert not proof.exists()
    assert not (run / "data").exists()
    if write is as_pickle:
        pickle.loads((run / "policy.safetensors").read_bytes())
        assert proof.exists()  # so the malice works


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"{}", bytes(8), b"\xff" * 8, b"\x02" + bytes(7) + b"{}", b"hello" * 99]
)
def test_a_file_that_is_no_safetensors_is_named(content: bytes, run: Path) -> None:
    for path, read in ((run / "policy.safetensors", load_policy), (run / "actor.safetensors", Actor.load)):
        path.write_bytes(content)
        with pytest.raises(ExpectedError, match=f"{path.name} is not"):
            read(path)


def test_a_safetensors_file_cut_anywhere_is_no_policy(run: Path) -> None:
    path = run / "policy.safetensors"
    content = path.read_bytes()
    for end in [*range(20), *range(20, len(content), len(content) // 50), len(content) - 1]:
        path.write_bytes(content[:end])
        with pytest.raises(PolicyError, match=r"policy\.safetensors is not a policy"):
            load_policy(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (weight(None, f"1/{WEIGHT}"), f"lacks 1/'{WEIGHT}'"),
        (weight(torch.zeros(8, 32), f"1/{WEIGHT}"), "is F32 [8, 32]; expected F32 [32, 8]"),
        (weight(NAN, f"1/{WEIGHT}"), "not finite"),
        (weight(NAN, "one/weight"), "invalid literal"),
        (weight(NAN, f"7/{WEIGHT}"), "holds the epochs [0, 1, 2, 7], but"),
    ],
)
def test_bad_snapshots_are_named_with_their_reason_and_no_table_is_written(
    change: Change, reason: str, run: Path
) -> None:
    rewrite(run / "snapshots.safetensors", change)
    answer = run_program("evaluate", evaluation(run)) or ""
    assert "snapshots.safetensors" in answer
    assert reason in answer
    assert not (run / "returns.csv").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (describe("task", gymnasium="Walker2d-v5"), "states of size 11, but those of Walker2d-v5 have 17"),
        (describe("task", gymnasium="CartPole-v1"), "CartPole-v1 has actions of Discrete(2)"),
        (describe("task", gymnasium="../../etc/passwd"), "Gymnasium has no environment ../../etc/passwd"),
    ],
)
def test_a_policy_for_another_simulator_is_not_evaluated(change: Change, reason: str, run: Path) -> None:
    rewrite(run / "policy.safetensors", change)
    assert reason in (run_program("evaluate", evaluation(run)) or "")
    assert not (run / "returns.csv").exists()


def test_a_source_policy_of_another_width_transfers_nothing_and_is_refused(run: Path, config: dict[str, Any]) -> None:
    config["model"]["width"] = 16
    target = fresh_policy("walker2d", config, synthetic(17, 6)[1], stream(2))
    with pytest.raises(PolicyError, match=r"policy of hopper has model\.width 8, but 16 is asked for"):
        adapt(load_policy(run / "policy.safetensors"), target)


def layer(name: str, value: Any) -> Change:
    return lambda weights, description: weights.update({f"params.{name}": value})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (layer("Dense_0.weight", torch.zeros(7)), "Dense_0 has weights (7,)"),
        (layer("Dense_1.weight", torch.zeros(256, 9)), "Dense_1 has weights (256, 9)"),
        (layer("Dense_2.bias", torch.zeros(4)), "Dense_2 has weights (3, 256) and biases (4,)"),
        (layer("Dense_2.bias", torch.zeros(3).double()), "Dense_2 is float32 and float64"),
        (layer("Dense_3.bias", torch.full((3,), torch.inf)), "Dense_3 holds values that are not finite"),
        (lambda weights, _: weights.pop("params.Dense_1.bias"), "lacks params.Dense_1.bias"),
    ],
)
def test_a_bad_expert_is_named_with_its_reason(change: Change, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "hopper.safetensors"
    shutil.copy(EXPERTS / "hopper.safetensors", path)
    rewrite(path, change)
    with pytest.raises(ActorError) as caught:
        Actor.load(path)
    assert f"{path} is not an expert actor" in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "card", [b"", b"{", b"[]", b"{}", b'{"algorithm": 3}', b'{"algorithm": "\xff"}', b"[" * 99_999]
)
def test_a_bad_model_card_is_answered_before_anything_is_rolled_out(card: bytes, tmp_path: Path) -> None:
    shutil.copy(EXPERTS / "hopper.safetensors", tmp_path)
    (tmp_path / "hopper.json").write_bytes(card)
    before = contents(tmp_path)
    with pytest.raises(DatasetError, match=r"hopper\.json is not the model card"):
        collect("hopper", {"gymnasium": "Hopper-v5"}, tmp_path / "hopper.safetensors", 10**6, tmp_path / "data")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("script", ["evaluate", "train", "datasets"])
def test_the_programs_end_with_one_line_and_code_1(script: str, run: Path, config: dict[str, Any]) -> None:
    data, stats = synthetic(11, 3)
    data.save(run / "arrays")
    (run / "stats.json").write_text(json.dumps(stats))
    broken = run / "policy.safetensors"
    as_zip(Malice(run / "proof"), broken, 5)
    shutil.copy(EXPERTS / "hopper.json", run / "policy.json")
    outputs = {"policy": "new.safetensors", "training": "new.csv", "snapshots": "new-snapshots.safetensors"}
    arguments = {
        "evaluate": evaluation(run),
        "train": [
            *("--run", '["finetune", "hopper", "hopper", "unfreeze1", 0]', "--settings", json.dumps(config)),
            *("--epochs", "1", "--stats", f"{run}/stats.json", "--arrays", f"{run}/arrays"),
            *("--source-policy", str(broken)),
            *(part for option, name in outputs.items() for part in (f"--{option}", f"{run}/{name}")),
        ],
        "datasets": [
            *("--environment", "hopper", "--actor", str(broken), "--folder", f"{run}/data"),
            *("--settings", json.dumps({"environment": {"gymnasium": "Hopper-v5"}, "trajectories": 1})),
        ],
    }
    before = contents(run)
    command = [sys.executable, ROOT / f"workflow/scripts/{script}.py", *arguments[script]]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if "simulator:" not in line]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(f"error: {broken} is not")
    assert "pickle" in lines[0]
    assert contents(run) == before


@pytest.mark.parametrize("cases", [40, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_weights_are_answered_or_sound(cases: int, run: Path) -> None:
    shutil.copy(EXPERTS / "hopper.safetensors", run)
    shutil.copy(EXPERTS / "hopper.json", run)
    policy = load_policy(run / "policy.safetensors")
    actor = run / "hopper.safetensors"
    readers = {
        "policy.safetensors": lambda: load_policy(run / "policy.safetensors", "hopper"),
        "snapshots.safetensors": lambda: [
            read_snapshot(run / "snapshots.safetensors", epoch, policy.model)
            for epoch in snapshot_epochs(run / "snapshots.safetensors")
        ],
        "hopper.safetensors": lambda: Actor.load(actor),
        "hopper.json": lambda: collect("hopper", {"gymnasium": "Hopper-v5"}, actor, 0, run / "data"),
    }
    for name, read in readers.items():
        counts = try_damages(run / name, cases, read, seed=cases)
        assert counts["answered"] > 0.1 * cases


@pytest.mark.slow
@pytest.mark.parametrize("name", ["policy.safetensors", "snapshots.safetensors", "training.csv"])
def test_an_evaluation_of_damaged_files_writes_its_whole_table_or_none(name: str, run: Path) -> None:
    table = run / "returns.csv"

    def evaluate() -> None:
        table.unlink(missing_ok=True)
        before = set(contents(run))
        answer = run_program("evaluate", evaluation(run))
        written = set(contents(run)) - before
        assert written == (set() if answer else {"returns.csv"}), answer
        if answer:
            raise PolicyError(answer)
        assert len(table.read_text().splitlines()) == 1 + 3 * 2

    try_damages(run / name, 200, evaluate)


def evaluation(run: Path) -> list[str]:
    """Arguments of evaluate.py."""
    reference = {"random": 0.0, "expert": 100.0}
    chosen = {"episodes": 2, "precision": "fp32", "target_return": 3600.0, "reference": reference}
    names = {"policy": "policy.safetensors", "snapshots": "snapshots.safetensors", "training": "training.csv"}
    return [
        *("--run", json.dumps(["scratch", "", "hopper", "", 0]), "--settings", json.dumps(chosen)),
        *(part for option, name in names.items() for part in (f"--{option}", f"{run}/{name}")),
        *("--returns", f"{run}/returns.csv"),
    ]
