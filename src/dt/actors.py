"""Expert actors: the small Gaussian policies that `resources/experts` ships, and how they act.

Only NumPy: an actor is three matrix products, and collecting needs no deep-learning framework.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from dt.broken import reading, refuse_pickle
from dt.environments import Environment, make_environment
from dt.runs import ExpectedError

LOG_STD_RANGE = (-20.0, 2.0)
KIND = "an expert actor"
LAYERS = ("Dense_0", "Dense_1", "Dense_2", "Dense_3")


class ActorError(ExpectedError):
    """A file is not an expert actor, in one sentence."""


@dataclass(frozen=True)
class Actor:
    """A squashed Gaussian policy, `a = tanh(mean(s) + noise · std(s) · ε)` (SAC, Haarnoja et al. 2018, appendix C).

    `weights` maps `params.Dense_{0,1,2,3}.{weight,bias}` (hidden, hidden, mean, log std) to float32 arrays in
    torch order, `[out, in]`.
    """

    weights: dict[str, np.ndarray]

    @classmethod
    def load(cls, path: Path) -> Actor:
        """Read an actor from safetensors; raises ActorError if it is not one."""
        refuse_pickle(path, KIND, ActorError)
        with reading(path, KIND, ActorError):
            weights = load_file(path)
        problem = _first_problem(weights)
        if problem:
            raise ActorError(f"{path} is not {KIND}: {problem}")
        return cls(weights)

    @property
    def state_size(self) -> int:
        return self.weights["params.Dense_0.weight"].shape[1]

    @property
    def action_size(self) -> int:
        return self.weights["params.Dense_2.weight"].shape[0]

    def act(self, states: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        """Actions `[B, A]` in (-1, 1) for `states: [B, S]`; `noise: [B, A]` is in standard deviations."""
        hidden = np.maximum(self._layer(0, states.astype(np.float32)), 0)
        hidden = np.maximum(self._layer(1, hidden), 0)
        mean = self._layer(2, hidden)
        if noise is None:
            return np.tanh(mean)
        return np.tanh(mean + np.exp(np.clip(self._layer(3, hidden), *LOG_STD_RANGE)) * noise)

    def _layer(self, number: int, inputs: np.ndarray) -> np.ndarray:
        name = f"params.{LAYERS[number]}"
        return inputs @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]


def _first_problem(weights: dict[str, np.ndarray]) -> str | None:
    missing = {f"params.{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")} - weights.keys()
    if missing:
        return f"it lacks {', '.join(sorted(missing))}"
    inputs = None
    for layer in LAYERS:
        weight, bias = weights[f"params.{layer}.weight"], weights[f"params.{layer}.bias"]
        if weight.dtype != np.float32 or bias.dtype != np.float32:
            return f"{layer} is {weight.dtype} and {bias.dtype}; expected float32"
        if weight.ndim != 2 or bias.shape != weight.shape[:1] or inputs not in (None, weight.shape[1]):
            return f"{layer} has weights {weight.shape} and biases {bias.shape}, which do not fit its inputs"
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            return f"{layer} holds values that are not finite"
        inputs = inputs if layer == LAYERS[2] else weight.shape[0]  # the last two both follow the second
    if weights["params.Dense_2.bias"].shape != weights["params.Dense_3.bias"].shape:
        return "its mean and its deviation are of different sizes"
    return None


@dataclass(frozen=True)
class Rollout:
    """One episode: T transitions, with the T + 1 states around them.

    states: [T+1, S] float64; actions: [T, A] float32; rewards: [T] float64; terminations, truncations: [T] bool.
    """

    seed: int
    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray

    @property
    def total(self) -> float:
        return float(self.rewards.sum())

    def __len__(self) -> int:
        return len(self.rewards)


def rollouts(
    actor: Actor,
    env_id: str,
    seeds: list[int],
    action_noise: float,
    stream: int,
    arguments: Mapping[str, Any] | None = None,
    batch: int = 50,
) -> Iterator[Rollout]:
    """Roll the actor out once from each reset seed, `batch` environments at a time, in the order of `seeds`.

    Its actions in (-1, 1) are stretched to the environment's bounds, which have to be finite (ActorError).
    `action_noise` multiplies the policy's standard deviation (0: the mode). Every episode draws from its own
    generator, keyed by (`stream`, its reset seed), so it does not depend on the episodes beside it.
    """
    environments = [make_environment(env_id, arguments) for _ in seeds[:batch]]
    if not all(np.isfinite([each.low, each.high]).all() for each in environments):
        raise ActorError(f"the actions of {env_id} have no bounds, so an actor with tanh cannot choose among them")
    for first in range(0, len(seeds), batch):
        yield from _roll_batch(actor, environments, seeds[first : first + batch], action_noise, stream, batch)
    for environment in environments:
        environment.close()


def _roll_batch(
    actor: Actor, environments: list[Environment], seeds: list[int], action_noise: float, stream: int, batch: int
) -> Iterator[Rollout]:
    count, limit, low, high = len(seeds), environments[0].limit, environments[0].low, environments[0].high
    centre, reach = (high + low) / 2, (high - low) / 2
    # always `batch` rows, those of finished lanes too: how a matrix product rounds depends on its shape
    states = np.zeros((batch, limit + 1, actor.state_size))
    actions = np.empty((count, limit, actor.action_size), dtype=np.float32)
    rewards = np.empty((count, limit))
    ends = np.zeros((count, limit, 2), dtype=bool)
    noise = np.zeros((batch, limit, actor.action_size), dtype=np.float32)
    for lane, seed in enumerate(seeds):
        states[lane, 0], _ = environments[lane].reset(seed=seed)
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([stream, seed])))
        noise[lane] = action_noise * generator.standard_normal((limit, actor.action_size))
    lengths = np.full(count, limit)
    active = np.arange(count)
    for step in range(limit):
        actions[active, step] = centre + reach * actor.act(states[:, step], noise[:, step])[active]
        for lane in map(int, active):
            outcome = environments[lane].step(actions[lane, step])
            states[lane, step + 1], rewards[lane, step], ends[lane, step, 0], ends[lane, step, 1], _ = outcome
        finished = ends[active, step].any(axis=1)
        lengths[active[finished]] = step + 1
        active = active[~finished]
        if not len(active):
            break
    for lane, (seed, length) in enumerate(zip(seeds, lengths, strict=True)):
        yield Rollout(
            seed,
            states[lane, : length + 1].copy(),
            actions[lane, :length].copy(),
            rewards[lane, :length].copy(),
            ends[lane, :length, 0].copy(),
            ends[lane, :length, 1].copy(),
        )
