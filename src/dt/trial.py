"""A few steps of an environment before anything is trained: what would stop an evaluation stops the statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dt.data import DataError, Trajectories
from dt.environments import Environment, make_environment, vectors
from dt.streams import reset_seeds, stream

STEPS = 8


def try_environment(name: str, env_id: str, arguments: Mapping[str, Any], data: Trajectories) -> None:
    """Step the environment called `name` in the configuration with the first actions of its data, clipped to bounds.

    Raises EpisodeError with environment, seed and step if it answers what no evaluation could use, EnvironmentNameError
    if it cannot be made, and DataError if its states or actions have other sizes than those of the data.
    """
    environment = make_environment(env_id, arguments)
    space = vectors(environment.action_space)
    for what, found, expected in (
        ("states", environment.state_size, data.states.shape[1]),
        ("actions", space.shape[0], data.actions.shape[1]),
    ):
        if found != expected:
            raise DataError(f"{env_id} has {what} of size {found}, flattened, but the data of {name} have {expected}")
    (seed,) = reset_seeds(stream("trial", name), 1)
    _episode(environment, seed, np.clip(data.actions[: min(STEPS, data.lengths[0])], space.low, space.high))
    environment.close()


def _episode(environment: Environment, seed: int, actions: np.ndarray) -> None:
    """Begin an episode and take the `actions: [T, A]` until it ends; the environment checks what it answers."""
    environment.reset(seed=seed)
    for action in actions:
        _, _, terminated, truncated, _ = environment.step(action)
        if terminated or truncated:
            return
