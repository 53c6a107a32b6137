"""A small study on synthetic data: what the unit tests train and evaluate."""

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy; two threads fight over two busy cores

import numpy as np
import pytest
import yaml

from dt.data import Trajectories, returns_to_go
from dt.machine import use_one_thread

ROOT = Path(__file__).parents[1]
use_one_thread()


@pytest.fixture
def config() -> dict[str, Any]:
    """config.yaml with a small model and budget."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config["model"] |= {"width": 16, "context": 4, "max_episode_length": 1000}
    config["training"] |= {"epochs": 3, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 2}
    config["evaluation"] |= {"every": 1, "episodes": 2}
    return config


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the workflow in which the tiny study is finished; a test that changes it changes it back."""
    from test_workflow import run_tiny_study

    return run_tiny_study(tmp_path_factory.mktemp("study"), cores=2)


def synthetic(state_size: int, action_size: int, count: int = 13, seed: int = 0) -> tuple[Trajectories, dict[str, Any]]:
    """Trajectories of 1 to 30 steps whose actions are a function of their states, and their statistics."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 31, count)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    states = generator.normal(1.0, 2.0, (starts[-1], state_size)).astype(np.float32)
    actions = np.tanh(states @ generator.normal(size=(state_size, action_size))).astype(np.float32)
    rewards = generator.normal(10.0, 1.0, starts[-1])
    trajectories = Trajectories(states, actions, returns_to_go(rewards, starts, 1.0).astype(np.float32), starts)
    stats = {
        name: {"mean": values.mean(0).tolist(), "std": values.std(0).tolist()}
        for name, values in (("states", states), ("actions", actions))
    }
    stats["actions"] |= {"low": [-1.0] * action_size, "high": [1.0] * action_size}
    return trajectories, {**stats, "derived": {"target_return": 3000.0, "reward_scale": 1000.0}}


@pytest.fixture
def hopper() -> tuple[Trajectories, dict[str, Any]]:
    return synthetic(11, 3)


@pytest.fixture
def walker2d() -> tuple[Trajectories, dict[str, Any]]:
    return synthetic(17, 6, seed=1)
