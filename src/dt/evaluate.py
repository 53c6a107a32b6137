"""Evaluate every snapshot of a run: the policy asks for its target return and acts until each episode ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from dt.acting import ActingTransformer
from dt.environments import make_environment
from dt.files import reading, refuse_pickle
from dt.model import DecisionTransformer
from dt.policy import Policy, PolicyError, read_weights

log = logging.getLogger(__name__)
KIND = "a file of snapshots"


@dataclass(frozen=True)
class Episode:
    """One evaluation episode; `total` is its undiscounted return."""

    episode: int
    total: float
    length: int


def evaluate(
    policy: Policy, snapshots: Path, target_return: float, seeds: np.ndarray, skip: int = 0
) -> Iterator[tuple[int, list[Episode]]]:
    """(epoch, episodes) for each snapshot in the file but the first `skip`; reset seeds are `[snapshots, episodes]`.

    Raises PolicyError if the policy or a snapshot does not fit the environment or each other.
    """
    environments = [make_environment(policy.task.gymnasium) for _ in range(seeds.shape[1])]
    check_fit(policy, environments[0])
    started = time.perf_counter()
    epochs = snapshot_epochs(snapshots)
    for done, (epoch, starts) in enumerate(list(zip(epochs, seeds, strict=True))[skip:], start=1):
        policy.model.load_state_dict(read_snapshot(snapshots, epoch, policy.model))
        episodes = roll_out(policy, environments, target_return, [int(seed) for seed in starts])
        seconds = time.perf_counter() - started
        log.info(
            "epoch %d mean return %.0f mean length %.0f left %.0f s",
            *(epoch, np.mean([e.total for e in episodes]), np.mean([e.length for e in episodes])),
            seconds / done * (len(epochs) - skip - done),
        )
        yield epoch, episodes
    for environment in environments:
        environment.close()


def check_epochs(snapshots: Path, training: Path, steps: dict[int, int]) -> None:
    """Raise PolicyError unless the snapshots are those of the run's table of evaluation points."""
    found = snapshot_epochs(snapshots)
    if found != sorted(steps):
        raise PolicyError(
            f"{snapshots} holds the epochs {found}, but {training} lists {sorted(steps)}; train the run anew"
        )


def snapshot_epochs(snapshots: Path) -> list[int]:
    """The epochs that a snapshots file holds, in order; raises PolicyError if it is none."""
    refuse_pickle(snapshots, KIND, PolicyError)
    with reading(snapshots, KIND, PolicyError), safe_open(snapshots, framework="pt") as file:
        epochs = sorted({int(name.split("/")[0]) for name in file.keys()})
        if not epochs:
            raise ValueError("it is empty")
    return epochs


def read_snapshot(snapshots: Path, epoch: int, model: DecisionTransformer) -> dict[str, Tensor]:
    """The weights at one epoch; raises PolicyError unless they are those of `model`."""
    with reading(snapshots, KIND, PolicyError), safe_open(snapshots, framework="pt") as file:
        return read_weights(snapshots, file, model, prefix=f"{epoch}/")


def check_fit(policy: Policy, environment: gymnasium.Env) -> None:
    """Raise PolicyError unless the policy has the environment's sizes and time steps for a whole episode."""
    architecture, limit = policy.model.architecture, environment.spec.max_episode_steps
    sizes = {
        "states": (architecture.state_size, environment.observation_space.shape[0]),
        "actions": (architecture.action_size, environment.action_space.shape[0]),
    }
    for what, (found, expected) in sizes.items():
        if found != expected:
            raise PolicyError(
                f"the policy has {what} of size {found}, but those of {policy.task.gymnasium} have {expected}"
            )
    if architecture.max_episode_length < limit:
        raise PolicyError(f"the policy knows {architecture.max_episode_length} time steps; an episode may have {limit}")


def roll_out(
    policy: Policy, environments: list[gymnasium.Env], target_return: float, seeds: list[int]
) -> list[Episode]:
    """One episode per reset seed, all stepped as a batch that finished ones leave.

    Every episode starts its return-to-go at the target return, subtracts what it receives, and shows the model the last
    K steps (Chen et al. 2021, algorithm 1).
    """
    acting, normalisation = ActingTransformer(policy.model, len(seeds), policy.task.context), policy.normalisation
    low, high = environments[0].action_space.low, environments[0].action_space.high
    totals, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), dtype=int)
    return_to_go = np.full(len(seeds), float(target_return))
    states = np.stack([environments[lane].reset(seed=seed)[0] for lane, seed in enumerate(seeds)])
    actions = np.zeros((len(seeds), *low.shape), dtype=np.float32)
    active, step = np.arange(len(seeds)), 0
    while len(active):
        seen = (
            normalisation.states(states[active]),
            np.float32(return_to_go[active, None] / normalisation.reward_scale),
            normalisation.actions(actions),
        )
        predicted = acting.act(step, *map(torch.from_numpy, seen)).numpy()
        actions = np.clip(normalisation.raw_actions(predicted), low, high)
        finished = np.zeros(len(active), dtype=bool)
        for position, lane in enumerate(active):
            states[lane], reward, terminated, truncated, _ = environments[lane].step(actions[position])
            totals[lane] += reward
            return_to_go[lane] = next_return_to_go(return_to_go[lane], float(reward), target_return, policy.task.gamma)
            finished[position] = terminated or truncated
        step += 1
        lengths[active] = step
        if finished.any():
            acting.keep(torch.from_numpy(~finished))
            active, actions = active[~finished], actions[~finished]
    return [Episode(lane, float(totals[lane]), int(lengths[lane])) for lane in range(len(seeds))]


def next_return_to_go(return_to_go: float, reward: float, target_return: float, gamma: float) -> float:
    """What is left to ask for after a reward: `(G − R) / γ`.

    With γ < 1 it stays within ± the target return: it would grow without bound once the policy earns less than asked.
    """
    left = (return_to_go - reward) / gamma
    return left if gamma == 1 else float(np.clip(left, -abs(target_return), abs(target_return)))
