"""What the tests of bad input share: files damaged at random, programs run in this process, and a small training."""

import json
import random
import runpy
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, synthetic
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dt.policy import METADATA_KEY, fresh_policy, save_policy
from dt.runs import ExpectedError, Run
from dt.streams import stream
from dt.train import train

Change = Callable[[dict[str, torch.Tensor], dict[str, Any]], Any]  # of weights and description
WAYS = ("bit", "byte", "bytes", "cut", "swap")


def damaged(content: bytes, generator: random.Random) -> bytes:
    """A bit, a byte or several changed, the end cut off, or two pieces exchanged; zeros are spared mostly."""
    result, way = bytearray(content), generator.choice(WAYS)
    places = [place for place, value in enumerate(content[:200_000]) if value] or [0]
    if way == "bit":
        result[generator.choice(places)] ^= 1 << generator.randrange(8)
    elif way == "byte":
        result[generator.choice(places)] = generator.randrange(256)
    elif way == "bytes":
        for _ in range(generator.randint(2, 20)):
            result[generator.randrange(len(result))] = generator.randrange(256)
    elif way == "cut":
        del result[generator.randrange(len(result)) :]
    else:
        first, second = sorted(generator.sample(range(len(content) + 1), 2))
        result = result[second:] + result[:first]
    return bytes(result)


def try_damages(path: Path, cases: int, read: Callable[[], object], seed: int = 0) -> Counter[str]:
    """Damage the file `cases` times and read it: how often it was answered, and how often accepted.

    Anything but an expected error, in one line that names a file or what is wrong with its contents, fails the test.
    """
    whole, counts = path.read_bytes(), Counter()
    try:
        for case in range(cases):
            path.write_bytes(damaged(whole, random.Random(f"{path.name} {seed} {case}")))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    read()
                counts["accepted"] += 1
            except (ExpectedError, OSError) as error:
                counts["answered"] += 1
                assert_one_line(str(error))
            except BaseException as error:
                shutil.copy(path, f"{path}.case")
                raise AssertionError(f"{path.name}, seed {seed}, case {case}: {error!r:.500}") from error
    finally:
        path.write_bytes(whole)
    print(f"{path.name}: {cases} cases, {dict(counts)}")
    return counts


def assert_one_line(message: str) -> None:
    if "\n" in message or not 15 < len(message) < 900:
        raise AssertionError(f"no single sentence: {message[:2000]!r}")


def run_program(script: str, arguments: list[str]) -> str | None:
    """Run a program of workflow/scripts in this process; its error in one line, or None where it succeeds."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(sys, "argv", [script, *arguments])
        try:
            runpy.run_path(str(ROOT / f"workflow/scripts/{script}.py"), run_name="__main__")
        except SystemExit as end:
            answer = end.code
        else:
            return None
    assert isinstance(answer, str), answer
    assert answer.startswith("error: "), answer
    assert_one_line(answer)
    return answer


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with its checksum."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in files}


def leave_a_training(folder: Path, config: dict[str, Any]) -> Path:
    """What a training leaves: policy, snapshots and the table of points; and its statistics."""
    data, stats = synthetic(11, 3)
    config["model"]["width"] = 8
    policy = fresh_policy("hopper", config, stats, stream(1))
    train(policy, data, Run("scratch", "", "hopper", "", 0), 2, config).save(
        folder / "training.csv", folder / "snapshots.safetensors"
    )
    save_policy(policy, folder / "policy.safetensors")
    (folder / "stats.json").write_text(json.dumps(stats))
    return folder


def rewrite(path: Path, change: Change) -> None:
    """Other weights or another description in a policy's file."""
    with safe_open(path, framework="pt") as file:
        description = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    weights = load_file(path)
    change(weights, description)
    save_file(weights, path, metadata={METADATA_KEY: json.dumps(description)})


def evaluation(run: Path) -> list[str]:
    """Arguments of evaluate.py."""
    chosen = {"episodes": 2, "device": "auto", "precision": "fp32", "target_return": 3600.0}
    names = {
        "policy": "policy.safetensors",
        "snapshots": "snapshots.safetensors",
        "training": "training.csv",
        "stats": "stats.json",
    }
    return [
        *("--run", json.dumps(["scratch", "", "hopper", "", 0]), "--settings", json.dumps(chosen)),
        *(part for option, name in names.items() for part in (f"--{option}", f"{run}/{name}")),
        *("--returns", f"{run}/returns.csv"),
    ]
