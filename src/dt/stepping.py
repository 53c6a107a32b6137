"""What an environment answers, checked: a state as a finite vector, a reward as one finite number, or a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np

from dt.broken import reason
from dt.runs import ExpectedError

LARGEST = 1e30  # of a state or a reward; a sum of a million such rewards is still a float32
SINGLE = ((), (1,))  # shapes of one number: some environments compute their reward as an array
OLD_API = (
    "; it may have the API of gym before 0.26: reset(seed=…, options=…) has to return (state, info), and step"
    " (state, reward, terminated, truncated, info)"
)


class EpisodeError(ExpectedError):
    """An episode cannot go on: environment, reset seed, step and what happened there, in one sentence."""


class AnswerError(ValueError):
    """A value that is no state, reward or end of an episode: what it is, and what is expected."""


def state_vector(state: Any, size: int) -> np.ndarray:
    """A state as an array `[size]` of finite numbers; raises AnswerError if it is none."""
    values = _array(state, "a state")
    if values.shape != (size,):
        raise AnswerError(f"a state of shape {values.shape}; expected {(size,)}")
    _check_finite(values, "a state")
    return values


def single_reward(reward: Any) -> float:
    """A reward, or the one element of one with shape (1,); raises AnswerError if it is no finite number."""
    if type(reward) is not float:
        values = _array(reward, "a reward")
        if values.shape not in SINGLE:
            raise AnswerError(f"a reward of shape {values.shape}; expected one number")
        reward = float(values.item())
    if not abs(reward) <= LARGEST:
        raise AnswerError(f"a reward of {reward}; expected a finite number")
    return reward


def check_action(action: np.ndarray) -> None:
    """Raise AnswerError unless all components are finite: no environment has to answer to others."""
    _check_finite(action, "an action")


def whether_ended(flag: Any, name: str) -> bool:
    """`terminated` or `truncated` as a bool; raises AnswerError if it is neither true nor false."""
    if type(flag) is not bool:
        values = _array(flag, name)
        if values.shape not in SINGLE:
            raise AnswerError(f"{name} of shape {values.shape}; expected true or false")
        flag = bool(values.item())
    return flag


def answered(outcome: Any, size: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
    """What `step` returned, with each part as it has to be; raises AnswerError."""
    if not isinstance(outcome, tuple) or len(outcome) != 5:
        raise AnswerError(f"{_what(outcome)} from step{OLD_API}")
    state, reward, terminated, truncated, info = outcome
    ends = whether_ended(terminated, "terminated"), whether_ended(truncated, "truncated")
    return state_vector(state, size), single_reward(reward), *ends, info


def started(outcome: Any, size: int) -> tuple[np.ndarray, dict[str, Any]]:
    """What `reset` returned, with each part as it has to be; raises AnswerError."""
    if not isinstance(outcome, tuple) or len(outcome) != 2 or not isinstance(outcome[1], dict):
        raise AnswerError(f"{_what(outcome)} from reset{OLD_API}")
    return state_vector(outcome[0], size), outcome[1]


def failure_of(error: Exception) -> str:
    """What an environment's own exception says, and what it may come from."""
    old = "to unpack" in str(error) or "unexpected keyword argument" in str(error)
    return f"{reason(error)}{OLD_API if old else ''}"


def _array(value: Any, what: str) -> np.ndarray:
    try:
        values = np.asarray(value)
    except Exception as error:  # of parts of different shapes, or a tensor on a GPU
        raise AnswerError(f"{what} of type {type(value).__name__} ({reason(error)}); expected numbers") from error
    if values.dtype.kind not in "biuf":
        raise AnswerError(f"{what} of type {type(value).__name__} ({values.dtype}); expected numbers")
    return values


def _check_finite(values: np.ndarray, what: str) -> None:
    finite = np.abs(values) <= np.float64(LARGEST)
    if not finite.all():
        place = int(np.argmin(finite))
        raise AnswerError(f"{what} whose component {place} is {values[place]}; expected finite numbers")


def _what(outcome: Any) -> str:
    return f"{len(outcome)} values" if isinstance(outcome, tuple | list) else f"a {type(outcome).__name__}"
