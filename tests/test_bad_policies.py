"""Broken and foreign policies and snapshots: refused in a sentence, and nothing is written."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, synthetic
from damage import Change, contents, evaluation, leave_a_training, rewrite, run_program, try_damages

from dt.huggingface import export_policy
from dt.policy import Policy, PolicyError, fresh_policy, load_policy, save_policy
from dt.snapshots import read_snapshot, snapshot_epochs
from dt.streams import stream
from dt.transfer import adapt

EXPERTS = ROOT / "resources/experts"
WEIGHT = "layers.1.mlp_in.weight"


@pytest.fixture
def run(config: dict[str, Any], tmp_path: Path) -> Path:
    return leave_a_training(tmp_path, config)


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
    "a discount of 2": (describe("task", gamma=2), "gamma is 2; expected 0 < gamma ≤ 1"),
    "an infinite target return": (describe("task", target_return=float("inf")), "target_return is inf"),
    "a target return of text": (describe("task", target_return="5000"), "target_return is '5000'"),
    "an unknown precision": (describe("task", precision="fp16"), "precision is 'fp16'; expected one of fp32, bf16"),
    "a list as precision": (describe("task", precision=[]), "TypeError"),
    "a discount that is NaN": (describe("task", gamma=float("nan")), "gamma is nan"),
    "no reward scale": (describe("normalisation", reward_scale=0), "reward_scale is 0"),
    "one deviation too few": (describe("normalisation", state_std=[1.0] * 10), "not that of 11 state components"),
    "a deviation of 0": (describe("normalisation", action_std=[1.0, 0.0, 1.0]), "action_std holds 0.0"),
    "a mean of text": (describe("normalisation", state_mean="11 letters!"), "not that of 11 state components"),
    "a mean that is infinite": (describe("normalisation", action_mean=[0, 1e999, 0]), "action_mean holds inf"),
    "a reward scale that float32 lacks": (describe("normalisation", reward_scale=1e-42), "reward_scale is 1e-42"),
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


UNREADABLE = {  # what makes a study's policy one that nobody could read: (block, key, value), what the sentence holds
    "a reward scale beyond float32's": (
        ("config", "reward_scale", 1e35),
        "reward_scale is 1e+35; expected a number from",
    ),
    "a reward scale that float32 lacks": (("config", "reward_scale", 3e-41), "reward_scale is 3e-41"),
    "a mean beyond all numbers": (("states", "mean", [-2e31] * 11), "state_mean holds -2e+31; expected numbers up to"),
    "a deviation without end": (("actions", "std", [1.0, float("inf"), 1.0]), "action_std holds inf; expected numbers"),
    "a return beyond all numbers": (("derived", "target_return", 4e30), "data_return is 4e+30"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_policy_that_nobody_could_read_is_refused_before_it_is_trained(name: str, config: dict[str, Any]) -> None:
    (block, key, value), reason = UNREADABLE[name]
    stats = synthetic(11, 3)[1]
    config["data"]["normalise_actions"] = True
    (config["environments"]["hopper"] if block == "config" else stats[block])[key] = value
    with pytest.raises(PolicyError, match=r"^a policy of hopper cannot be trained: ") as caught:
        fresh_policy("hopper", config, stats, stream(1))
    assert reason in str(caught.value)


def with_weight(value: float, name: str = WEIGHT) -> Callable[[Policy], Policy]:
    def change(policy: Policy) -> Policy:
        policy.model.state_dict()[name].view(-1)[5] = value
        return policy

    return change


CHANGES: dict[str, tuple[Callable[[Policy], Policy], str]] = {
    "a weight that is NaN": (with_weight(float("nan")), f"{WEIGHT} holds values that are not finite"),
    "a bias that is infinite": (with_weight(float("-inf"), "embed_norm.bias"), "embed_norm.bias holds values"),
    "weights of half precision": (
        lambda policy: replace(policy, model=copy.deepcopy(policy.model).half()),
        "is torch.float16; expected torch.float32",
    ),
    "a context beyond its time steps": (
        lambda policy: replace(policy, task=replace(policy.task, context=10**6)),
        "context is 1000000, beyond its",
    ),
    "a state too few": (
        lambda policy: replace(policy, normalisation=replace(policy.normalisation, state_mean=(0.0,) * 10)),
        "not that of 11 state components",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_could_not_be_read_is_not_written(name: str, run: Path, tmp_path: Path) -> None:
    change, reason = CHANGES[name]
    policy = change(load_policy(run))
    for write, path in ((save_policy, tmp_path / "new.safetensors"), (export_policy, tmp_path / "exported")):
        with pytest.raises(PolicyError, match=f"{path} is not written: ") as caught:
            write(policy, path)
        assert reason in str(caught.value)
        assert not path.exists()


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"{}", bytes(8), b"\xff" * 8, b"\x02" + bytes(7) + b"{}", b"hello" * 99]
)
def test_a_file_that_is_no_safetensors_is_named(content: bytes, run: Path) -> None:
    for path, read in ((run / "policy.safetensors", load_policy), (run / "snapshots.safetensors", snapshot_epochs)):
        path.write_bytes(content)
        with pytest.raises(PolicyError, match=f"{path.name} is not"):
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


@pytest.mark.parametrize("cases", [40, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_weights_are_answered_or_sound(cases: int, run: Path) -> None:
    policy = load_policy(run / "policy.safetensors")
    readers = {
        "policy.safetensors": lambda: load_policy(run / "policy.safetensors", "hopper"),
        "snapshots.safetensors": lambda: [
            read_snapshot(run / "snapshots.safetensors", epoch, policy.model)
            for epoch in snapshot_epochs(run / "snapshots.safetensors")
        ],
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
