"""Make a Minari dataset of a scripted gait, for an environment without data: one sinusoid per joint, by random search.

    python docs/oscillator.py Swimmer-v5 data/swimmer --episodes 200

Open-loop oscillators move most of MuJoCo's creatures forward (Raffin et al. 2024, https://arxiv.org/abs/2310.05808).
Any other controller, or your own logs, are written in the same way: see `write`.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from minari import create_dataset_from_buffers
from minari.data_collector import EpisodeBuffer

from dt.environments import Environment, environment_spec, make_environment

DATASET = "oscillator/all-v0"  # its Minari id
Gait = Callable[[int], np.ndarray]


def oscillator(parameters: np.ndarray, environment: Environment) -> Gait:
    """Actions `[A]` at a step; parameters `[3A + 1]`: offset, amplitude and phase of each joint, shared frequency."""
    offset, amplitude, phase = parameters[:-1].reshape(3, -1)
    frequency = 0.02 + 0.1 * abs(parameters[-1])  # cycles per step
    centre, reach = (environment.high + environment.low) / 2, (environment.high - environment.low) / 2

    def act(step: int) -> np.ndarray:
        wave = 0.3 * offset + amplitude * np.sin(2 * np.pi * (frequency * step + phase))
        return centre + reach * np.clip(wave, -1, 1)

    return act


def episode(environment: Environment, gait: Gait, seed: int, noise: float) -> EpisodeBuffer:
    """A whole episode; `noise` is the deviation of what is added to actions, as a share of their reach."""
    generator = np.random.default_rng(seed)
    states, actions, rewards, ends = [environment.reset(seed=seed)[0]], [], [], []
    while not (ends and any(ends[-1])):
        added = noise * (environment.high - environment.low) / 2 * generator.standard_normal(len(environment.low))
        action = np.clip(gait(len(actions)) + added, environment.low, environment.high).astype(np.float32)
        state, reward, terminated, truncated, _ = environment.step(action)
        states.append(state)
        actions.append(action)
        rewards.append(float(reward))
        ends.append((terminated, truncated))
    terminations, truncations = np.array(ends).T
    return EpisodeBuffer(None, seed, None, np.array(states), np.array(actions), rewards, terminations, truncations)


def search(environment: Environment, candidates: int) -> np.ndarray:
    """The best of random parameters, each a small change of the best so far or a fresh draw."""
    generator = np.random.default_rng(0)
    best, best_return = np.zeros(3 * len(environment.low) + 1), -np.inf
    for candidate in range(candidates):
        fresh = generator.uniform(-1, 1, best.shape)
        parameters = fresh if candidate < candidates // 3 else best + 0.3 * generator.standard_normal(best.shape)
        total = sum(episode(environment, oscillator(parameters, environment), 0, 0.0).rewards)
        if total > best_return:
            best, best_return = parameters, total
    print(f"best of {candidates} gaits: return {best_return:.0f}")
    return best


def write(buffers: list[EpisodeBuffer], env_id: str, arguments: dict, folder: Path) -> None:
    """The dataset, below the Minari root `folder`."""
    os.environ["MINARI_DATASETS_PATH"] = str(folder.resolve())  # Minari cannot write below a relative one
    spec = environment_spec(env_id, arguments)
    create_dataset_from_buffers(DATASET, buffers, env=spec, eval_env=spec, algorithm_name="oscillator")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("environment", help="Gymnasium id")
    parser.add_argument("folder", type=Path, help="Minari root to write to")
    parser.add_argument("--arguments", type=json.loads, default={}, help="of gymnasium.make, JSON")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--candidates", type=int, default=300, help="gaits that are tried")
    parser.add_argument("--noise", type=float, default=0.1, help="added to actions, as a share of their reach")
    given = parser.parse_args()
    if (given.folder / DATASET).exists():
        parser.error(f"{given.folder / DATASET} is there already; delete it, or name another folder")
    environment = make_environment(given.environment, given.arguments)
    gait = oscillator(search(environment, given.candidates), environment)
    seeds = range(1, given.episodes + 1)
    buffers = [episode(environment, gait, seed, given.noise) for seed in seeds]
    returns = [sum(buffer.rewards) for buffer in buffers]
    print(f"{len(buffers)} episodes: mean return {np.mean(returns):.0f}, {min(returns):.0f} to {max(returns):.0f}")
    write(buffers, given.environment, given.arguments, given.folder)


if __name__ == "__main__":
    main()
