"""From a Minari dataset to flat arrays and the statistics that normalise them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from dt.data import Trajectories, returns_to_go
from dt.episodes import data_file, read_episodes

SMALLEST_STD = 1e-6


def read_minari(folder: Path, trajectories: int, gamma: float, env_id: str) -> tuple[Trajectories, dict[str, Any]]:
    """The first `trajectories` episodes of the Minari dataset in `folder`, and its statistics.

    Raises DataError if there are fewer episodes than asked for, or one of them is none of the environment `env_id`.
    """
    episodes = read_episodes(folder, trajectories, env_id)
    starts = np.concatenate([[0], np.cumsum([len(episode.rewards) for episode in episodes])]).astype(np.int64)
    states = np.concatenate([episode.observations[:-1] for episode in episodes])
    actions = np.concatenate([episode.actions for episode in episodes])
    rewards = np.concatenate([episode.rewards for episode in episodes]).astype(np.float64)
    rtg = returns_to_go(rewards, starts, gamma)
    flat = Trajectories(states.astype(np.float32), actions.astype(np.float32), rtg.astype(np.float32), starts)
    totals = np.add.reduceat(rewards, starts[:-1])
    stats = {
        "trajectories": trajectories,
        "transitions": int(starts[-1]),
        "states": _moments(states),
        "actions": _moments(actions),
        "returns": _spread(totals),
        "lengths": _spread(flat.lengths),
        "sha256": hashlib.sha256(data_file(folder).read_bytes()).hexdigest(),
    }
    return flat, stats


def _moments(values: np.ndarray) -> dict[str, list[float]]:
    values = values.astype(np.float64)
    return {"mean": values.mean(0).tolist(), "std": np.maximum(values.std(0), SMALLEST_STD).tolist()}


def _spread(values: np.ndarray) -> dict[str, float]:
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values)),
        "min": float(np.min(values)),
        "max": float(np.max(values)),
    }
