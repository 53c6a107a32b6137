"""Environments to step: Gymnasium's own, in which a warning of the simulator is an error."""

from __future__ import annotations

import logging
from typing import Any

import gymnasium
import numpy as np

from dt.broken import reason
from dt.runs import ExpectedError

log = logging.getLogger(__name__)
_warnings: list[str] = []  # of the simulator, since the step under way began


class EnvironmentNameError(ExpectedError):
    """An environment id that cannot be stepped, in one sentence."""


class SimulatorError(ExpectedError):
    """The simulator warns, so what it computes means nothing; in one sentence."""


class _Watched(gymnasium.Wrapper):
    """MuJoCo answers an unstable simulation with a warning and a new start of its own: here it ends the episode."""

    def step(self, action: np.ndarray) -> tuple[Any, ...]:
        _warnings.clear()
        outcome = self.env.step(action)
        if _warnings:
            raise SimulatorError(
                f"the simulator of {self.spec.id} warns: {_warnings[0]} Its returns would mean nothing: check the"
                " weights that chose the actions (a lower training.learning_rate, or less action_noise of the expert)"
            )
        return outcome


def make_environment(env_id: str) -> gymnasium.Env:
    """The registered environment with its time limit, without Gymnasium's checks of every step.

    Raises EnvironmentNameError as `time_limit` does, and if it cannot be made or its states and actions are no vectors;
    its `step` raises SimulatorError if the simulator warns.
    """
    import mujoco  # here, for who only asks for a time limit

    time_limit(env_id)
    mujoco.set_mju_user_warning(_note_warning)  # its default is a file in the working directory
    try:
        environment = gymnasium.make(env_id, disable_env_checker=True)
    except Exception as error:  # of the environment's own code
        raise EnvironmentNameError(f"{env_id} cannot be made ({reason(error)})") from error
    for what, space in (("states", environment.observation_space), ("actions", environment.action_space)):
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise EnvironmentNameError(f"{env_id} has {what} of {space}; expected a Box with one dimension")
    return _Watched(environment)


def time_limit(env_id: str) -> int:
    """Steps of a whole episode; raises EnvironmentNameError if the id is unknown or its episodes have no limit."""
    try:
        limit = gymnasium.spec(env_id).max_episode_steps
    except gymnasium.error.Error as error:
        raise EnvironmentNameError(f"Gymnasium has no environment {env_id} ({reason(error)})") from error
    if limit is None:
        raise EnvironmentNameError(f"{env_id} has no time limit; register it with max_episode_steps")
    return limit


def _note_warning(message: str) -> None:
    if "is deprecated" not in message:  # of Gymnasium's own model files
        log.warning("simulator: %s", message)
        _warnings.append(message)
