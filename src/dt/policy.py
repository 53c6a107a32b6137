"""A policy: a Decision Transformer with all that is needed to act, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dt.broken import reading, refuse_pickle
from dt.data import LARGEST, SMALLEST_SCALE, Normalisation
from dt.files import write_whole
from dt.model import ACTIVATIONS, PRECISIONS, Architecture, DecisionTransformer
from dt.runs import ExpectedError, context_range
from dt.streams import integer

METADATA_KEY = "policy"
POLICY_FILE = "policy.safetensors"
KIND = "a policy of this project"
SIZES = ("state_size", "action_size", "layers", "width", "heads", "max_episode_length")


class PolicyError(ExpectedError):
    """A file is not a policy, in one sentence."""


@dataclass(frozen=True)
class Task:
    """Where and how a policy acts.

    Environment name, Gymnasium id and the `arguments` of `gymnasium.make`, discount γ, context length K, and the return
    that the best decile of the trajectories it learned from reaches (None if that is not known). Then what the study
    that trained it asked for at that time, and in which precision it computed: what whoever runs the policy asks for
    and computes in, if not told otherwise. Files of earlier versions do not say these two.
    """

    environment: str
    gymnasium: str
    arguments: dict[str, Any]
    gamma: float
    context: int
    data_return: float | None
    target_return: float | None = None
    precision: str = "fp32"


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

    @property
    def effective_count(self) -> int:
        """Trainable weights that receive a gradient: the heads of states and returns are not in the loss."""
        unused = sum(
            parameter.numel()
            for head in (self.model.predict_state, self.model.predict_return)
            for parameter in head.parameters()
            if parameter.requires_grad
        )
        return self.trainable_count - unused


def fresh_policy(name: str, config: dict[str, Any], stats: dict[str, Any], weights: np.random.SeedSequence) -> Policy:
    """An untrained policy for the environment `name`.

    `config` holds the blocks `environments`, `data` and `model`, and `precision`; `stats` is the environment's stats
    file; `weights` is the stream of the initial weights. Raises PolicyError if the trained policy could not be read:
    before it is trained.
    """
    environment, model, data = config["environments"][name], config["model"], config["data"]
    architecture = Architecture(
        state_size=len(stats["states"]["mean"]),
        action_size=len(stats["actions"]["mean"]),
        action_tanh=not data["normalise_actions"],
        **{key: value for key, value in model.items() if key != "context"},
    )
    generator = torch.Generator().manual_seed(integer(weights))
    policy = Policy(
        DecisionTransformer(architecture, generator),
        Normalisation.from_stats(stats, data, environment.get("reward_scale", stats["derived"]["reward_scale"])),
        Task(
            name,
            environment["gymnasium"],
            environment.get("arguments", {}),
            data["gamma"],
            context_range(model["context"])[1],
            stats["derived"]["target_return"],
            float(environment.get("target_return", stats["derived"]["target_return"])),
            config["precision"],
        ),
    )
    description_of(policy, f"a policy of {name} cannot be trained")
    return policy


def save_policy(policy: Policy, path: Path) -> None:
    """Write a policy file; raises PolicyError if `load_policy` would refuse it, and then writes nothing."""
    description = description_of(policy, f"{path} is not written")
    metadata = {METADATA_KEY: json.dumps(description)}  # one entry: safetensors writes several in random order
    weights = {name: tensor.contiguous() for name, tensor in policy.model.state_dict().items()}
    write_whole(path, lambda unfinished: save_file(weights, unfinished, metadata=metadata))


def load_policy(path: str | Path, environment: str | None = None) -> Policy:
    """Read a policy file, or that in a folder.

    Raises PolicyError unless it is a whole policy, of `environment` if given; a pickle is refused unread.
    """
    path = policy_file(path)
    refuse_pickle(path, KIND, PolicyError)
    with reading(path, KIND, PolicyError), safe_open(path, framework="pt") as file:
        description = json.loads((file.metadata() or {})[METADATA_KEY])
        policy = described(description, f"{path} is not {KIND}", tensors=len(file.keys()))
        if environment not in (None, policy.task.environment):
            raise PolicyError(f"{path} is a policy of {policy.task.environment!r:.40}; expected one of {environment}")
        weights = read_weights(path, file, policy.model)
        policy.model.to_empty(device="cpu").load_state_dict(weights)
        return policy


def description_of(policy: Policy, refusal: str) -> dict[str, Any]:
    """What a policy is but for its weights; raises PolicyError that begins with `refusal` if no one could read it."""
    parts: dict[str, Any] = {
        "architecture": policy.model.architecture,
        "normalisation": policy.normalisation,
        "task": policy.task,
    }
    description: dict[str, Any] = json.loads(json.dumps({name: asdict(part) for name, part in parts.items()}))
    weights = policy.model.state_dict()
    described(description, refusal, len(weights))
    check_numbers(weights, refusal)
    return description


def described(description: dict[str, Any], refusal: str, tensors: int) -> Policy:
    """The policy of so many tensors that a description is of, on the meta device: without its weights.

    Raises PolicyError that begins with `refusal` if the description is impossible, and what its parts raise if it is
    none.
    """
    architecture = Architecture(**description["architecture"])
    normalisation = Normalisation.from_lists(description["normalisation"])
    task = Task(**description["task"])
    problem = _first_problem(architecture, normalisation, task, tensors)
    if problem:
        raise PolicyError(f"{refusal}: {problem}")
    with torch.device("meta"):  # no memory before the shapes in the file agree
        model = DecisionTransformer(architecture)
    model.compute_in(task.precision)
    return Policy(model, normalisation, task)


def check_numbers(weights: Mapping[str, Tensor], what: str) -> None:
    """Raise PolicyError that begins with `what` unless these tensors are finite float32."""
    for name, weight in weights.items():
        if weight.dtype != torch.float32:
            raise PolicyError(f"{what}: {name} is {weight.dtype}; expected {torch.float32}")
        if not weight.isfinite().all():
            raise PolicyError(f"{what}: {name} holds values that are not finite")


def policy_file(path: str | Path) -> Path:
    """The policy's file, if a folder is named."""
    path = Path(path)
    return path / POLICY_FILE if path.is_dir() else path


def read_weights(path: Path, file: Any, model: DecisionTransformer, prefix: str = "") -> dict[str, Tensor]:
    """The tensors called `prefix…` of an open safetensors file; raises PolicyError unless they are those of `model`."""
    expected = model.state_dict()
    found = {name.removeprefix(prefix) for name in file.keys() if name.startswith(prefix)}
    for names, problem in ((expected.keys() - found, "lacks"), (found - expected.keys(), "has an unknown")):
        if names:
            raise PolicyError(f"{path} {problem} {prefix}{min(names)!r:.80} (of {len(names)})")
    for name, weight in expected.items():
        part = file.get_slice(f"{prefix}{name}")
        if part.get_dtype() != "F32" or tuple(part.get_shape()) != tuple(weight.shape):
            kind = f"{part.get_dtype()} {part.get_shape()}"
            raise PolicyError(f"{path}: {prefix}{name} is {kind}; expected F32 {list(weight.shape)}")
    weights = {name: file.get_tensor(f"{prefix}{name}") for name in expected}
    check_numbers({f"{prefix}{name}": weight for name, weight in weights.items()}, str(path))
    return weights


def _first_problem(architecture: Architecture, normalisation: Normalisation, task: Task, tensors: int) -> str | None:
    """What makes a policy's description impossible."""
    sizes = {name: value for name, value in vars(architecture).items() if name in SIZES} | {"context": task.context}
    for name, value in sizes.items():
        if type(value) is not int or not 1 <= value < 2**31:
            return f"{name} is {value!r:.40}; expected an integer ≥ 1"
    if task.context > architecture.max_episode_length:
        return f"context is {task.context}, beyond its {architecture.max_episode_length} time steps"
    if architecture.layers > tensors or architecture.width % architecture.heads:
        return f"it has no {architecture.layers} layers of width {architecture.width} and {architecture.heads} heads"
    if architecture.activation not in ACTIVATIONS or type(architecture.action_tanh) is not bool:
        return f"its activation is {architecture.activation!r:.40}, action_tanh {architecture.action_tanh!r:.40}"
    dropout, gamma, scale = architecture.dropout, task.gamma, normalisation.reward_scale
    if not (_finite(dropout) and 0 <= dropout < 1):
        return f"dropout is {dropout!r:.40}; expected 0 ≤ dropout < 1"
    if not (_finite(gamma) and 0 < gamma <= 1):
        return f"gamma is {gamma!r:.40}; expected 0 < gamma ≤ 1"
    if not (_finite(scale) and scale >= SMALLEST_SCALE):
        return f"reward_scale is {scale!r:.40}; expected a number from {SMALLEST_SCALE:g} to {LARGEST:g}"
    for what, size in (("state", architecture.state_size), ("action", architecture.action_size)):
        for name in (f"{what}_mean", f"{what}_std"):
            values = getattr(normalisation, name)
            if not (isinstance(values, tuple) and len(values) == size):
                return f"its normalisation is not that of {size} {what} components"
            for value in values:
                if not (_finite(value) and (value > 0 or name.endswith("mean"))):
                    sign = "" if name.endswith("mean") else "> 0, "
                    return f"{name} holds {value!r:.40}; expected numbers {sign}up to {LARGEST:g}"
    if not (isinstance(task.environment, str) and isinstance(task.gymnasium, str) and isinstance(task.arguments, dict)):
        return f"its environment is {task.environment!r:.40}, {task.gymnasium!r:.40}, {task.arguments!r:.40}"
    for name in ("data_return", "target_return"):
        value = getattr(task, name)
        if value is not None and not _finite(value):
            return f"{name} is {value!r:.40}; expected a number up to {LARGEST:g}, or none"
    if task.precision not in PRECISIONS:
        return f"precision is {task.precision!r:.40}; expected one of {', '.join(PRECISIONS)}"
    return None


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST
