"""Collected datasets, read by Minari and replayed in plain Gymnasium environments."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from minari import MinariDataset
from safetensors.numpy import load_file, save_file
from torch import nn

from dt.actors import Actor, ActorError, Rollout, rollouts
from dt.data import DataError
from dt.datasets import DatasetError, collect
from dt.stats import read_minari

EXPERTS = Path(__file__).parents[1] / "resources" / "experts"
HOPPER = EXPERTS / "hopper.safetensors"
SETTINGS = {"gymnasium": "Hopper-v5", "action_noise": 0.25}
TRAJECTORIES = 6


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("datasets") / "hopper"
    collect("hopper", SETTINGS, HOPPER, TRAJECTORIES, folder)
    return folder


@pytest.fixture(scope="module")
def episodes(collected: Path) -> list[Any]:
    return list(MinariDataset(collected / "data").iterate_episodes())


def reset_seeds(folder: Path) -> list[int]:
    dataset = MinariDataset(folder / "data")
    metadata = dataset.storage.get_episode_metadata(range(dataset.total_episodes))
    return [int(episode["seed"]) for episode in metadata]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_minari_opens_a_collected_dataset(collected: Path, episodes: list[Any]) -> None:
    dataset = MinariDataset(collected / "data")
    assert dataset.total_episodes == len(episodes) == TRAJECTORIES
    assert dataset.total_steps == sum(len(episode.rewards) for episode in episodes)
    for episode in episodes:
        steps = len(episode.rewards)
        assert episode.observations.shape == (steps + 1, 11)
        assert episode.actions.shape == (steps, 3)
        assert len(episode.terminations) == len(episode.truncations) == steps


def test_an_episode_ends_once_and_at_its_end(episodes: list[Any]) -> None:
    for episode in episodes:
        ends = episode.terminations | episode.truncations
        assert ends.tolist() == [False] * (len(ends) - 1) + [True]
        assert bool(episode.truncations[-1]) == (len(ends) == 1000)


def test_replaying_the_actions_from_the_recorded_seeds_gives_the_recorded_episodes(
    collected: Path, episodes: list[Any]
) -> None:
    environment, seeds = gymnasium.make("Hopper-v5"), reset_seeds(collected)
    assert len(set(seeds)) == TRAJECTORIES
    for seed, episode in zip(seeds, episodes, strict=True):
        observation, _ = environment.reset(seed=seed)
        observations, rewards = [observation], []
        for action in episode.actions:
            observation, reward, *_ = environment.step(action)
            observations.append(observation)
            rewards.append(reward)
        assert np.array_equal(np.array(observations), episode.observations)
        assert np.array_equal(np.array(rewards), episode.rewards)


def test_the_environment_can_be_made_from_the_dataset_alone(collected: Path) -> None:
    environment = MinariDataset(collected / "data").recover_environment()
    assert environment.spec.id == "Hopper-v5"
    assert environment.spec.max_episode_steps == 1000


def test_collecting_again_gives_the_same_bytes_and_leaves_nothing_else(collected: Path, tmp_path: Path) -> None:
    collect("hopper", SETTINGS, HOPPER, TRAJECTORIES, tmp_path / "hopper")
    assert contents(tmp_path / "hopper") == contents(collected)
    assert "data/main_data.hdf5" in contents(collected)
    assert [path.name for path in tmp_path.iterdir()] == ["hopper"]


def test_a_larger_dataset_begins_with_the_smaller_one(episodes: list[Any], tmp_path: Path) -> None:
    collect("hopper", SETTINGS, HOPPER, 2, tmp_path / "hopper")
    for small, large in zip(MinariDataset(tmp_path / "hopper" / "data"), episodes, strict=False):
        for part in ("observations", "actions", "rewards"):
            assert np.array_equal(getattr(small, part), getattr(large, part)), part


def test_without_action_noise_the_actor_takes_its_mode(tmp_path: Path) -> None:
    collect("hopper", SETTINGS | {"action_noise": 0.0}, HOPPER, 1, tmp_path / "hopper")
    episode, actor = MinariDataset(tmp_path / "hopper" / "data")[0], Actor.load(HOPPER)
    np.testing.assert_allclose(episode.actions, actor.act(episode.observations[:-1]), atol=1e-5)


def test_action_noise_is_a_factor_on_the_actors_standard_deviation(episodes: list[Any]) -> None:
    """Undoing tanh, mean and standard deviation leaves normal noise; only where tanh is far from saturated."""
    weights, noise = Actor.load(HOPPER).weights, []
    for episode in episodes:
        states = torch.as_tensor(episode.observations[:-1], dtype=torch.float32)
        with torch.no_grad():
            mean, log_std = (torch_actor(weights, head)(states).double().numpy() for head in ("Dense_2", "Dense_3"))
        near = (np.abs(mean) < 1) & (log_std < 0)
        noise.append(((np.arctanh(episode.actions.astype(np.float64)) - mean) / np.exp(log_std))[near])
    noise = np.concatenate(noise) / SETTINGS["action_noise"]
    assert len(noise) > 2000
    assert abs(noise.std() - 1) < 4 / np.sqrt(2 * len(noise))
    assert abs(noise.mean()) < 4 / np.sqrt(len(noise))


def test_an_actor_for_another_environment_is_refused_by_name(tmp_path: Path) -> None:
    actor = EXPERTS / "walker2d.safetensors"
    with pytest.raises(DatasetError, match=r"walker2d\.safetensors.*\(17, 6\).*Hopper-v5.*\(11, 3\)"):
        collect("hopper", SETTINGS, actor, 2, tmp_path / "hopper")
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_is_read_up_to_the_trajectories_asked_for(collected: Path, episodes: list[Any]) -> None:
    flat, stats = read_minari(collected, 4, 1.0, "Hopper-v5")
    first = episodes[:4]
    assert flat.lengths.tolist() == [len(episode.rewards) for episode in first]
    states = np.concatenate([episode.observations[:-1] for episode in first])
    assert np.array_equal(flat.states, states.astype(np.float32))
    assert np.array_equal(flat.actions, np.concatenate([episode.actions for episode in first]))
    returns = [episode.rewards.sum() for episode in first]
    np.testing.assert_allclose(flat.returns_to_go[flat.starts[:-1]], returns, rtol=1e-6)
    np.testing.assert_allclose(flat.returns_to_go[flat.starts[1:] - 1], [episode.rewards[-1] for episode in first])
    assert stats["trajectories"] == 4
    assert stats["transitions"] == len(states)


def test_statistics_are_numpys_on_minaris_episodes(collected: Path, episodes: list[Any]) -> None:
    _, stats = read_minari(collected, TRAJECTORIES, 1.0, "Hopper-v5")
    states = np.concatenate([episode.observations[:-1] for episode in episodes]).astype(np.float32).astype(np.float64)
    actions = np.concatenate([episode.actions for episode in episodes]).astype(np.float64)
    for name, values in (("states", states), ("actions", actions)):
        np.testing.assert_allclose(stats[name]["mean"], values.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(stats[name]["std"], values.std(axis=0), rtol=1e-9)
    returns, lengths = ([f(episode.rewards) for episode in episodes] for f in (np.sum, len))
    for name, values in (("returns", returns), ("lengths", lengths)):
        expected = {"mean": np.mean(values), "std": np.std(values), "min": np.min(values), "max": np.max(values)}
        assert stats[name] == pytest.approx(expected)
    assert stats["sha256"] == hashlib.sha256((collected / "data" / "main_data.hdf5").read_bytes()).hexdigest()
    assert json.loads(json.dumps(stats)) == stats


def test_too_few_episodes_are_an_answer(collected: Path) -> None:
    with pytest.raises(DataError, match=r"hopper holds 6 episodes; data\.trajectories asks for 7"):
        read_minari(collected, 7, 1.0, "Hopper-v5")


def torch_actor(weights: dict[str, np.ndarray], head: str) -> nn.Sequential:
    layers = []
    for name in ("Dense_0", "Dense_1", head):
        weight, bias = (torch.from_numpy(weights[f"params.{name}.{part}"]) for part in ("weight", "bias"))
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict({"weight": weight, "bias": bias})
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("name", ["halfcheetah", "hopper", "walker2d"])
def test_an_actor_acts_as_the_same_layers_in_torch(name: str) -> None:
    actor, weights = Actor.load(EXPERTS / f"{name}.safetensors"), load_file(EXPERTS / f"{name}.safetensors")
    generator = np.random.default_rng(0)
    states = generator.normal(size=(40, actor.state_size)).astype(np.float32)
    noise = generator.normal(size=(40, actor.action_size)).astype(np.float32)
    with torch.no_grad():
        mean, log_std = (torch_actor(weights, head)(torch.from_numpy(states)) for head in ("Dense_2", "Dense_3"))
        noisy = torch.tanh(mean + log_std.clamp(-20, 2).exp() * torch.from_numpy(noise))
    np.testing.assert_allclose(actor.act(states), torch.tanh(mean), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(actor.act(states, noise), noisy, rtol=1e-4, atol=1e-5)
    assert (actor.state_size, actor.action_size) == (states.shape[1], noise.shape[1])


def test_weights_without_the_head_are_no_actor(tmp_path: Path) -> None:
    weights = load_file(HOPPER)
    del weights["params.Dense_3.bias"]
    save_file(weights, tmp_path / "wrong.safetensors")
    with pytest.raises(ActorError, match=r"wrong\.safetensors is not an expert actor: it lacks params\.Dense_3\.bias"):
        Actor.load(tmp_path / "wrong.safetensors")


def test_a_file_that_is_no_safetensors_is_no_actor(tmp_path: Path) -> None:
    shutil.copy(HOPPER.with_suffix(".json"), tmp_path / "wrong.safetensors")
    with pytest.raises(ActorError, match=r"wrong\.safetensors is not an expert actor"):
        Actor.load(tmp_path / "wrong.safetensors")


def test_an_episode_does_not_depend_on_those_rolled_out_beside_it() -> None:
    def episodes(seeds: list[int], batch: int) -> list[Rollout]:
        return list(rollouts(Actor.load(HOPPER), "Hopper-v5", seeds, action_noise=0.25, stream=7, batch=batch))

    alone, together = episodes([1, 2, 3, 4, 5], batch=1), episodes([1, 2, 3, 4, 5], batch=4)
    assert [rollout.seed for rollout in together] == [1, 2, 3, 4, 5]
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.states[0], other.states[0])
        np.testing.assert_allclose(one.actions[:20], other.actions[:20], atol=1e-3)
        np.testing.assert_allclose(one.states[:20], other.states[:20], atol=1e-3)
