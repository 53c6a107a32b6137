"""Evaluation against a plain loop: one environment, one policy, one episode at a time."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from dt.acting import ActingTransformer
from dt.data import Trajectories
from dt.environments import make_environment
from dt.evaluation import Episode, evaluate_snapshots, roll_out
from dt.policy import Policy, fresh_policy
from dt.runs import Run
from dt.streams import stream
from dt.train import train

TARGET_RETURN = 5000.0
Data = tuple[Trajectories, dict[str, Any]]


def plain_episode(policy: Policy, seed: int, limit: int = 1000) -> tuple[list[float], list[float]]:
    """Rewards and the returns-to-go shown to the model: lists that grow, one full forward pass per step."""
    environment = make_environment(policy.task.gymnasium)
    mean, std = np.array(policy.normalisation.state_mean), np.array(policy.normalisation.state_std)
    state, _ = environment.reset(seed=seed)
    states, actions, shown, rewards = [], [], [TARGET_RETURN], []
    for step in range(limit):
        states.append((state - mean) / std)
        actions.append(np.zeros(environment.action_space.shape))
        window = slice(max(0, step + 1 - policy.task.context), step + 1)
        with torch.no_grad():
            predicted, *_ = policy.model.eval()(
                torch.tensor(np.array(states[window]), dtype=torch.float32)[None],
                torch.tensor(np.array(actions[window]), dtype=torch.float32)[None],
                torch.tensor(shown[window], dtype=torch.float32)[None, :, None] / policy.normalisation.reward_scale,
                torch.arange(step + 1)[window][None],
            )
        actions[-1] = predicted[0, -1].numpy()
        state, reward, terminated, truncated, _ = environment.step(actions[-1])
        rewards.append(float(reward))
        left = (shown[-1] - float(reward)) / policy.task.gamma
        shown.append(left if policy.task.gamma == 1 else max(-TARGET_RETURN, min(left, TARGET_RETURN)))
        if terminated or truncated:
            break
    return rewards, shown


def hopper_policy(config: dict[str, Any], data: Data, spread: float = 1.0) -> Policy:
    """An untrained policy with weights large enough to act on what it sees."""
    policy = fresh_policy("hopper", config, data[1], stream(5))
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(spread)
    return policy


def run(policy: Policy, environments: list[Any], seeds: Iterable[int]) -> list[Episode]:
    """Episodes of the policy as it is."""
    (episodes,) = roll_out(policy, [policy.model.state_dict()], environments, TARGET_RETURN, np.array([[*seeds]]))
    return episodes


@pytest.mark.parametrize("gamma", [1.0, 0.99])
def test_returns_equal_a_plain_loop_over_single_environments(
    gamma: float, config: dict[str, Any], hopper: Data
) -> None:
    """Untrained hoppers fall within a hundred steps: short enough for float noise to stay small."""
    config["data"]["gamma"] = gamma
    policy = hopper_policy(config, hopper, spread=8.0)
    environments = [make_environment("Hopper-v5") for _ in range(6)]
    episodes = run(policy, environments, range(6))
    assert len({episode.length for episode in episodes}) > 1  # they finish at different steps
    for seed, episode in enumerate(episodes):
        rewards, _ = plain_episode(policy, seed)
        assert episode.length == len(rewards)
        assert episode.total == pytest.approx(sum(rewards), rel=1e-4)


def test_full_episodes_have_the_plain_loops_distribution(config: dict[str, Any], walker2d: Data) -> None:
    """HalfCheetah never falls: 1000 chaotic steps, the same returns in distribution."""
    policy = fresh_policy("halfcheetah", config, walker2d[1], stream(5))
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(8.0 if parameter.dim() > 1 else 1.0)
    environments = [make_environment("HalfCheetah-v5") for _ in range(12)]
    batch = [episode.total for episode in run(policy, environments, range(12))]
    plain = [sum(plain_episode(policy, seed)[0]) for seed in range(100, 112)]
    assert ks_2samp(batch, plain).pvalue > 0.01


def test_every_episode_starts_again_at_the_target_return(
    config: dict[str, Any], hopper: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = hopper_policy(config, hopper, spread=8.0)
    shown: list[float] = []
    act = ActingTransformer.act

    def spy(self: ActingTransformer, step: int, states: Any, returns_to_go: Any, previous: Any) -> torch.Tensor:
        shown.append(returns_to_go.item() * policy.normalisation.reward_scale)
        return act(self, step, states, returns_to_go, previous)

    monkeypatch.setattr(ActingTransformer, "act", spy)
    environments = [make_environment("Hopper-v5")]
    for seed in (0, 1):
        shown.clear()
        (episode,) = run(policy, environments, [seed])
        rewards, expected = plain_episode(policy, seed)
        assert shown[0] == TARGET_RETURN
        assert shown == pytest.approx(expected[: len(rewards)], rel=1e-5)
        assert episode.length == len(rewards)


@pytest.mark.parametrize("lanes", [1, 2, 3, 5, 8])
def test_an_episode_is_the_same_to_the_bit_whoever_runs_beside_it(
    lanes: int, config: dict[str, Any], hopper: Data
) -> None:
    policy = hopper_policy(config, hopper, spread=8.0)
    environments = [make_environment("Hopper-v5") for _ in range(8)]
    by_seed = {seed: run(policy, environments[:1], [seed])[0] for seed in range(4)}
    seeds = [3, 1, 0, 1, 2, 3, 0, 2][:lanes]
    for seed, episode in zip(seeds, run(policy, environments[:lanes], seeds), strict=True):
        assert (episode.total, episode.length) == (by_seed[seed].total, by_seed[seed].length)


def test_each_snapshot_is_evaluated_with_its_own_weights_and_without_dropout(
    config: dict[str, Any], hopper: Data, tmp_path: Path
) -> None:
    policy = hopper_policy(config, hopper, spread=8.0)
    training = train(policy, hopper[0], Run("scratch", "", "hopper", "", 0), 2, config)
    training.save(tmp_path / "training.csv", tmp_path / "snapshots.safetensors")
    seeds = np.arange(6).reshape(3, 2)
    by_epoch = list(evaluate_snapshots(policy, tmp_path / "snapshots.safetensors", TARGET_RETURN, seeds))
    results = [(epoch, episode) for epoch, episodes in by_epoch for episode in episodes]
    assert [(epoch, episode.episode) for epoch, episode in results] == [(e, i) for e in range(3) for i in range(2)]
    for epoch, episode in results:
        names = policy.model.state_dict()
        policy.model.load_state_dict({name: training.snapshots[f"{epoch}/{name}"] for name in names})
        rewards, _ = plain_episode(policy, int(seeds[epoch, episode.episode]))
        assert episode.total == pytest.approx(sum(rewards), rel=1e-4)
    for skip in (0, 2):  # again, and going on after two snapshots
        assert (
            list(evaluate_snapshots(policy, tmp_path / "snapshots.safetensors", TARGET_RETURN, seeds, skip))
            == by_epoch[skip:]
        )


def test_snapshots_in_one_batch_have_the_episodes_of_each_alone(config: dict[str, Any], hopper: Data) -> None:
    policies = [hopper_policy(config, hopper, spread) for spread in (8.0, 4.0, 12.0)]
    seeds, weights = np.arange(9).reshape(3, 3), [policy.model.state_dict() for policy in policies]
    together = roll_out(policies[0], weights, [make_environment("Hopper-v5") for _ in range(9)], TARGET_RETURN, seeds)
    assert len({episode.length for episodes in together for episode in episodes}) > 3
    for policy, starts, episodes in zip(policies, seeds, together, strict=True):
        alone = run(policy, [make_environment("Hopper-v5") for _ in range(3)], starts)
        assert [(e.episode, e.length) for e in episodes] == [(e.episode, e.length) for e in alone]
        assert [e.total for e in episodes] == pytest.approx([e.total for e in alone], rel=1e-4)


def test_actions_normalised_by_mean_and_deviation_reach_the_simulator_in_its_own_units(
    config: dict[str, Any], hopper: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    config["data"]["normalise_actions"] = True
    policy = hopper_policy(config, hopper)
    assert not policy.model.architecture.action_tanh
    environment = make_environment("Hopper-v5")
    taken: list[np.ndarray] = []
    step = environment.step
    monkeypatch.setattr(environment, "step", lambda action: (taken.append(action), step(action))[1])
    monkeypatch.setattr(
        ActingTransformer, "act", lambda self, step, states, *_: torch.full((*states.shape[:2], 3), 0.5)
    )
    run(policy, [environment], [0])
    expected = np.array(hopper[1]["actions"]["mean"]) + 0.5 * np.array(hopper[1]["actions"]["std"])
    assert np.allclose(taken, np.clip(expected, -1, 1), atol=1e-6)
