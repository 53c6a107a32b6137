"""Environments to step: Gymnasium's own, in which a warning of the simulator and a wrong answer are errors."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator

from dt.broken import reason
from dt.runs import ExpectedError
from dt.spaces import VECTORS, parts
from dt.stepping import AnswerError, EpisodeError, answered, check_action, failure_of, started

log = logging.getLogger(__name__)
MOST_COMPONENTS = 10_000  # of a flattened state: a vector, not an image
_warnings: list[str] = []  # of the simulator, since the step under way began


class EnvironmentNameError(ExpectedError):
    """An environment id that cannot be stepped, in one sentence."""


class Environment(gymnasium.Wrapper):
    """An environment whose states and actions are vectors, and whose answers are checked: who steps it can trust them.

    `reset` and `step` raise EpisodeError, with environment, reset seed and step, where the environment fails, has
    another API, or answers with what is no finite vector and no finite number; a reward of shape (1,) is its one
    element. MuJoCo answers an unstable simulation with a warning and a new start of its own: that is such an error too.
    low, high: bounds of actions [A], perhaps infinite; state_size; limit: steps of a whole episode.
    """

    def __init__(self, environment: gymnasium.Env, limit: int) -> None:
        super().__init__(environment)
        actions = vectors(environment.action_space)
        self.state_size, self.limit = vectors(environment.observation_space).shape[0], limit
        self.low, self.high = actions.low, actions.high
        self._seed: int | None = None
        self._step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        self._seed, self._step = seed, 0
        outcome = self._ask(self.env.reset, seed=seed, options=options)
        try:
            return started(outcome, self.state_size)
        except AnswerError as error:
            raise self.wrong(f"gave {error}") from error

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._step += 1
        _warnings.clear()
        try:
            check_action(action)
        except AnswerError as error:
            raise self.wrong(f"was to take {error}; check the weights that chose it") from error
        outcome = self._ask(self.env.step, action)
        if _warnings:
            raise self.wrong(
                f"warned ({_warnings[0]}), and its returns would mean nothing; check the weights that chose the"
                " actions (a lower training.learning_rate, or less action_noise of the expert)"
            )
        try:
            return answered(outcome, self.state_size)
        except AnswerError as error:
            raise self.wrong(f"gave {error}") from error

    def wrong(self, what: str) -> EpisodeError:
        """The sentence that says where in an episode something happened; `what` follows the environment's name."""
        name = self.spec.id if self.spec else str(self)
        seed = "without a seed" if self._seed is None else f"with seed {self._seed}"
        return EpisodeError(f"{name}, reset {seed}, at step {self._step} {what}")

    def _ask(self, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        try:
            return method(*arguments, **named)
        except (ExpectedError, MemoryError):
            raise
        except Exception as error:  # of the environment's own code
            raise self.wrong(f"failed: {failure_of(error)}") from error


def make_environment(
    env_id: str, arguments: Mapping[str, Any] | None = None, render_mode: str | None = None
) -> Environment:
    """The registered environment with its time limit, whose states and actions are vectors.

    `arguments` are those of `gymnasium.make` beside the id. Dict, Tuple and other states that Gymnasium can flatten are
    flattened; Gymnasium's checks of every step are left out. Raises EnvironmentNameError if it cannot be made, as
    `time_limit` does, and if states or actions are no vectors.
    """
    spec = environment_spec(env_id, arguments)
    options = {**(arguments or {}), **({"render_mode": render_mode} if render_mode else {})}
    if spec.max_episode_steps is not None:
        time_limit(env_id, arguments)
    try:
        _import(spec)
        environment = gymnasium.make(env_id, disable_env_checker=True, **options)
    except Exception as error:  # of the environment's own code
        raise EnvironmentNameError(f"{env_id} cannot be made ({reason(error)}){_newer(spec)}") from error
    limit = time_limit(env_id, arguments)  # which says nothing of what cannot be made at all
    actions, states = environment.action_space, environment.observation_space
    if not isinstance(actions, gymnasium.spaces.Box) or len(actions.shape) != 1:
        raise EnvironmentNameError(f"{env_id} has actions of {actions}; expected a Box with one dimension")
    if actions.dtype.kind != "f":
        raise EnvironmentNameError(
            f"{env_id} has actions of {actions}, whole numbers; expected a Box of floats: a policy's actions are"
            " continuous, so wrap the environment in one that rounds them"
        )
    for part in parts(states):
        if not isinstance(part.space, VECTORS):
            raise EnvironmentNameError(
                f"{env_id} has states of which {part.place or 'the whole'} is {part.space!s:.200}; supported are"
                f" {', '.join(kind.__name__ for kind in VECTORS)}, and Dict and Tuple of them"
            )
    if (size := gymnasium.spaces.flatdim(states)) > MOST_COMPONENTS:
        raise EnvironmentNameError(f"{env_id} has states of {size} numbers; expected at most {MOST_COMPONENTS} numbers")
    if not isinstance(states, gymnasium.spaces.Box) or len(states.shape) != 1:
        environment = gymnasium.wrappers.FlattenObservation(environment)
    return Environment(environment, limit)


def time_limit(env_id: str, arguments: Mapping[str, Any] | None = None) -> int:
    """Steps of a whole episode; raises EnvironmentNameError if the id is unknown or its episodes have no limit."""
    limit = environment_spec(env_id, arguments).max_episode_steps
    if type(limit) is not int or limit < 1:
        raise EnvironmentNameError(f"{env_id} has no time limit; set one by `arguments: {{max_episode_steps: …}}`")
    return limit


def vectors(space: gymnasium.Space) -> gymnasium.spaces.Box:
    """A space that is a Box with one dimension; raises EnvironmentNameError if it is another."""
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise EnvironmentNameError(f"found a space {space!s:.200}; expected a Box with one dimension")
    return space


def original_states(environment: gymnasium.Env) -> gymnasium.spaces.Space:
    """The space of states before `make_environment` flattened them."""
    return _as_made(environment).observation_space


def made_spec(environment: gymnasium.Env) -> EnvSpec:
    """What Gymnasium made for `make_environment`: with the arguments that are registered, and all wrappers."""
    spec = _as_made(environment).spec or environment.unwrapped.spec  # the former is None with a wrapper it cannot copy
    assert spec is not None  # Gymnasium gives one to whatever it makes
    return spec


def defaults(spec: EnvSpec) -> dict[str, Any]:
    """The values that the environment's own code gives to arguments which a call leaves out, as JSON holds them."""
    creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    try:
        parameters = inspect.signature(creator).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):  # of what is not written in Python
        return {}
    return as_json({each.name: each.default for each in parameters if each.default is not each.empty})


def environment_spec(env_id: str, arguments: Mapping[str, Any] | None = None) -> EnvSpec:
    """What is registered as `Name-v0`, or as `module:Name-v0` once the module is imported, with these arguments.

    Raises EnvironmentNameError if there is no such module or environment.
    """
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        spec = copy.deepcopy(gymnasium.spec(name))
    except gymnasium.error.Error as error:
        raise EnvironmentNameError(f"Gymnasium has no environment {env_id} ({reason(error)})") from error
    except Exception as error:  # of the module's own code
        raise EnvironmentNameError(f"the module of {env_id} cannot be imported ({reason(error)})") from error
    spec.kwargs.update(arguments or {})
    spec.max_episode_steps = spec.kwargs.pop("max_episode_steps", spec.max_episode_steps)
    return spec


def as_json(value: EnvSpec | dict[str, Any]) -> dict[str, Any]:
    """What JSON makes of a spec or of arguments; what it has no word for is named."""
    plain = asdict(value) if isinstance(value, EnvSpec) else value
    return json.loads(json.dumps(plain, default=lambda each: getattr(each, "__qualname__", type(each).__name__)))


def _as_made(environment: gymnasium.Env) -> gymnasium.Env:
    """What Gymnasium made, inside of what `make_environment` laid around it."""
    inner = environment.env if isinstance(environment, Environment) else environment
    return inner.env if isinstance(inner, gymnasium.wrappers.FlattenObservation) else inner


def _newer(spec: EnvSpec) -> str:
    """Name an environment's newest version, if it is a newer one: Gymnasium keeps old ids to say that they are gone."""
    same = [each for each in gymnasium.registry.values() if (each.namespace, each.name) == (spec.namespace, spec.name)]
    newest = max(same, key=lambda each: each.version or 0)
    return f"; there is {newest.id}" if (newest.version or 0) > (spec.version or 0) else ""


def _import(spec: EnvSpec) -> None:
    """The environment's code; if that brings MuJoCo, warnings come here: loading its models may give some already."""
    if isinstance(spec.entry_point, str):
        importlib.import_module(spec.entry_point.partition(":")[0])
    if "mujoco" in sys.modules:
        import mujoco

        mujoco.set_mju_user_warning(_note_warning)  # its default is a file in the working directory


def _note_warning(message: str) -> None:
    if "is deprecated" not in message:  # of Gymnasium's own model files
        log.warning("simulator: %s", message)
        _warnings.append(message)
