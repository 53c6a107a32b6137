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

from dt.environments import make_environment
from dt.policy import Policy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Episode:
    """One evaluation episode; `total` is its undiscounted return."""

    episode: int
    total: float
    length: int


def evaluate(policy: Policy, snapshots: Path, target_return: float, seeds: np.ndarray) -> Iterator[tuple[int, Episode]]:
    """(epoch, episode) for each snapshot in the file and each reset seed, `seeds: [snapshots, episodes]`."""
    environments = [make_environment(policy.task.gymnasium) for _ in range(seeds.shape[1])]
    started = time.perf_counter()
    with safe_open(snapshots, framework="pt") as file:
        epochs = sorted({int(name.split("/")[0]) for name in file.keys()})
        if len(epochs) != len(seeds):
            raise ValueError(f"{snapshots} holds {len(epochs)} snapshots, but there are start seeds for {len(seeds)}")
        for done, (epoch, starts) in enumerate(zip(epochs, seeds, strict=True), start=1):
            weights = {name: file.get_tensor(f"{epoch}/{name}") for name in policy.model.state_dict()}
            policy.model.load_state_dict(weights)
            episodes = roll_out(policy, environments, target_return, [int(seed) for seed in starts])
            seconds = time.perf_counter() - started
            log.info(
                "epoch %d mean return %.0f mean length %.0f left %.0f s",
                *(epoch, np.mean([e.total for e in episodes]), np.mean([e.length for e in episodes])),
                seconds / done * (len(epochs) - done),
            )
            yield from ((epoch, episode) for episode in episodes)
    for environment in environments:
        environment.close()


@torch.inference_mode()
def roll_out(
    policy: Policy, environments: list[gymnasium.Env], target_return: float, seeds: list[int]
) -> list[Episode]:
    """One episode per reset seed, all stepped as a batch that finished ones leave.

    Every episode starts its return-to-go at the target return, subtracts what it receives, and shows the model the last
    K steps (Chen et al. 2021, algorithm 1).
    """
    policy.model.eval()
    history, task = _History(policy, len(seeds), environments[0].spec.max_episode_steps), policy.task
    low, high = environments[0].action_space.low, environments[0].action_space.high
    totals, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), dtype=int)
    return_to_go = np.full(len(seeds), float(target_return))
    states = np.stack([environments[lane].reset(seed=seed)[0] for lane, seed in enumerate(seeds)])
    active, step = np.arange(len(seeds)), 0
    while len(active):
        history.observe(active, step, states[active], return_to_go[active])
        actions = np.clip(history.act(active, step, task.context), low, high)
        history.remember(active, step, actions)
        finished = np.zeros(len(active), dtype=bool)
        for position, lane in enumerate(active):
            states[lane], reward, terminated, truncated, _ = environments[lane].step(actions[position])
            totals[lane] += reward
            return_to_go[lane] = next_return_to_go(return_to_go[lane], float(reward), target_return, task.gamma)
            finished[position] = terminated or truncated
        step += 1
        lengths[active] = step
        active = active[~finished]
    return [Episode(lane, float(totals[lane]), int(lengths[lane])) for lane in range(len(seeds))]


def next_return_to_go(return_to_go: float, reward: float, target_return: float, gamma: float) -> float:
    """What is left to ask for after a reward: `(G − R) / γ`.

    With γ < 1 it stays within ± the target return: it would grow without bound once the policy earns less than asked.
    """
    left = (return_to_go - reward) / gamma
    return left if gamma == 1 else float(np.clip(left, -abs(target_return), abs(target_return)))


class _History:
    """What the model has seen of each lane, normalised: B lanes, T steps at most."""

    def __init__(self, policy: Policy, lanes: int, limit: int) -> None:
        architecture = policy.model.architecture
        self.policy = policy
        self.states = np.zeros((lanes, limit, architecture.state_size), dtype=np.float32)
        self.actions = np.zeros((lanes, limit, architecture.action_size), dtype=np.float32)
        self.returns_to_go = np.zeros((lanes, limit, 1), dtype=np.float32)

    def observe(self, active: np.ndarray, step: int, states: np.ndarray, returns_to_go: np.ndarray) -> None:
        normalisation = self.policy.normalisation
        self.states[active, step] = normalisation.states(states)
        self.returns_to_go[active, step, 0] = returns_to_go / normalisation.reward_scale

    def remember(self, active: np.ndarray, step: int, actions: np.ndarray) -> None:
        self.actions[active, step] = self.policy.normalisation.actions(actions)

    def act(self, active: np.ndarray, step: int, context: int) -> np.ndarray:
        """Raw actions [B, A] for the active lanes, from their last `context` steps."""
        first = max(0, step + 1 - context)
        timesteps = torch.arange(first, step + 1).expand(len(active), -1)

        def window(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array[active, first : step + 1])

        actions = self.policy.model.next_action(
            window(self.states), window(self.actions), window(self.returns_to_go), timesteps
        )
        return self.policy.normalisation.raw_actions(actions.numpy())
