"""A policy to step an environment with, by hand: in a notebook, or in someone else's loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch

from dt.acting import ActingTransformer
from dt.environments import vectors
from dt.evaluation import asked_return, check_fit, next_return_to_go
from dt.policy import Policy, PolicyError
from dt.stepping import AnswerError, single_reward, state_vector


class Agent:
    """Acts through one episode after another, on a CPU, as its study computed (Chen et al. 2021, algorithm 1).

        agent = Agent(policy, environment)
        state, _ = environment.reset(seed=0)
        action = agent.reset(state)
        state, reward, terminated, truncated, _ = environment.step(action)
        action = agent.act(state, reward)  # and so on

    `environment` may be any with a time limit and with the states and actions of `policy.task`, flattened;
    `target_return` is what an episode shall earn; left out, what the policy's study asked for (`asked_return`). Raises
    PolicyError if that is not known or not finite, the policy does not fit the environment, or a state, a reward or a
    predicted action is no finite vector or number.
    """

    def __init__(self, policy: Policy, environment: gymnasium.Env, target_return: float | None = None) -> None:
        check_fit(policy, environment)
        self.policy, self.target_return = policy, asked_return(policy, target_return)
        actions = vectors(environment.action_space)
        self.low, self.high = actions.low, actions.high
        self.return_to_go = self.target_return  # what is left to earn
        self.step: int | None = None  # of the episode; None before `reset`
        self._action = np.zeros(policy.model.architecture.action_size, np.float32)
        self._acting: ActingTransformer | None = None

    def reset(self, state: np.ndarray) -> np.ndarray:
        """Begin an episode in `state: [S]`; returns the first action, `[A]`."""
        state = self._given(state_vector, state, self.policy.model.architecture.state_size)
        weights = [self.policy.model.state_dict()]
        self._acting = ActingTransformer(self.policy.model, weights, 1, self.policy.task.context)
        self.return_to_go, self.step = self.target_return, 0
        return self._next(state)

    def act(self, state: np.ndarray, reward: float | np.ndarray) -> np.ndarray:
        """The action `[A]` in `state: [S]`, after the last one earned `reward`; raises PolicyError before `reset`."""
        if self.step is None:
            raise PolicyError("the episode has not begun: call reset(state) first")
        state = self._given(state_vector, state, self.policy.model.architecture.state_size)
        earned, gamma = self._given(single_reward, reward), self.policy.task.gamma
        self.return_to_go = next_return_to_go(self.return_to_go, earned, self.target_return, gamma)
        self.step += 1
        return self._next(state)

    @staticmethod
    def _given(check: Callable[..., Any], *values: Any) -> Any:
        try:
            return check(*values)
        except AnswerError as error:
            raise PolicyError(f"the agent was given {error}") from error

    def _next(self, state: np.ndarray) -> np.ndarray:
        assert self._acting is not None
        assert self.step is not None
        if self.step >= self.policy.model.architecture.max_episode_length:
            raise PolicyError(f"the policy knows {self.step} time steps, and the episode goes on; call reset(state)")
        normalisation = self.policy.normalisation
        seen = (
            normalisation.states(state[None, None]),
            np.array([[[self.return_to_go / normalisation.reward_scale]]], np.float32),
            normalisation.actions(self._action[None, None]),
        )
        predicted = self._acting.act(self.step, *map(torch.from_numpy, seen)).numpy()
        if not np.isfinite(predicted).all():
            found = f"{predicted[0, 0].tolist()!s:.80}"
            raise PolicyError(f"the policy predicts the action {found} at step {self.step}; check its weights")
        self._action = np.clip(normalisation.raw_actions(predicted)[0, 0], self.low, self.high)
        return self._action.copy()
