"""Environments to step: Gymnasium's own, with the simulator's warnings in the log."""

from __future__ import annotations

import logging

import gymnasium
import mujoco

log = logging.getLogger(__name__)


def make_environment(env_id: str) -> gymnasium.Env:
    """The registered environment with its time limit, without the checks that cost a tenth of every step."""
    mujoco.set_mju_user_warning(_log_warning)  # its default is a file in the working directory
    return gymnasium.make(env_id, disable_env_checker=True)


def _log_warning(message: str) -> None:
    if "is deprecated" not in message:  # of Gymnasium's own model files
        log.warning("simulator: %s", message)
