"""Broken expert actors and model cards: answered before anything is rolled out."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from damage import Change, contents, rewrite, try_damages

from dt.actors import Actor, ActorError
from dt.datasets import DatasetError, collect

EXPERTS = ROOT / "resources/experts"


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


@pytest.mark.parametrize("name", ["hopper.safetensors", "hopper.json"])
@pytest.mark.parametrize("cases", [40, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_experts_are_answered_or_sound(name: str, cases: int, tmp_path: Path) -> None:
    actor = tmp_path / "hopper.safetensors"
    shutil.copy(EXPERTS / "hopper.safetensors", actor)
    shutil.copy(EXPERTS / "hopper.json", tmp_path)
    read = {
        "hopper.safetensors": lambda: Actor.load(actor).act(np.zeros((2, 11))),
        "hopper.json": lambda: collect("hopper", {"gymnasium": "Hopper-v5"}, actor, 0, tmp_path / "data"),
    }[name]
    counts = try_damages(tmp_path / name, cases, read, seed=cases)
    assert counts["answered"] > 0.1 * cases
