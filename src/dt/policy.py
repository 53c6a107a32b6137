"""A policy: a Decision Transformer with all that is needed to act, in one safetensors file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dt.data import Normalisation
from dt.files import write_whole
from dt.model import Architecture, DecisionTransformer
from dt.runs import ExpectedError, context_range
from dt.streams import integer

METADATA_KEY = "policy"


class PolicyError(ExpectedError):
    """A file is not a policy, in one sentence."""


@dataclass(frozen=True)
class Task:
    """Where and how a policy acts: environment name, Gymnasium id, discount γ and context length K."""

    environment: str
    gymnasium: str
    gamma: float
    context: int


@dataclass(frozen=True)
class Policy:
    """A model, the scale of its inputs and outputs, and its task."""

    model: DecisionTransformer
    normalisation: Normalisation
    task: Task

    @property
    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def trainable_count(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)


def fresh_policy(name: str, config: dict[str, Any], stats: dict[str, Any], weights: np.random.SeedSequence) -> Policy:
    """An untrained policy for the environment `name`.

    `config` holds the blocks `environments`, `data` and `model`; `stats` is the environment's stats file; `weights` is
    the stream of the initial weights.
    """
    environment, model, data = config["environments"][name], config["model"], config["data"]
    architecture = Architecture(
        state_size=len(stats["states"]["mean"]),
        action_size=len(stats["actions"]["mean"]),
        action_tanh=not data["normalise_actions"],
        **{key: value for key, value in model.items() if key != "context"},
    )
    generator = torch.Generator().manual_seed(integer(weights))
    return Policy(
        DecisionTransformer(architecture, generator),
        Normalisation.from_stats(stats, data, environment["reward_scale"]),
        Task(
            name,
            environment["gymnasium"],
            data["gamma"],
            context_range(model["context"])[1],
        ),
    )


def save_policy(policy: Policy, path: Path) -> None:
    description = {
        "architecture": asdict(policy.model.architecture),
        "normalisation": asdict(policy.normalisation),
        "task": asdict(policy.task),
    }
    metadata = {METADATA_KEY: json.dumps(description)}  # one entry: safetensors writes several in random order
    weights = {name: tensor.contiguous() for name, tensor in policy.model.state_dict().items()}
    write_whole(path, lambda unfinished: save_file(weights, unfinished, metadata=metadata))


def load_policy(path: Path) -> Policy:
    """Raises PolicyError if the file is not a whole policy."""
    try:
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {})[METADATA_KEY])
            model = DecisionTransformer(Architecture(**description["architecture"]))
            model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})
            normalisation = Normalisation.from_lists(description["normalisation"])
            return Policy(model, normalisation, Task(**description["task"]))
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise PolicyError(f"{path} is not a policy of this project: {error}") from error
