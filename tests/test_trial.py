"""An environment is stepped before anything is trained: what an evaluation would meet hours later is met in `stats`."""

from collections.abc import Iterator
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from conftest import synthetic
from gymnasium import spaces

from dt.data import DataError
from dt.environments import EnvironmentNameError, make_environment
from dt.stepping import EpisodeError
from dt.trial import STEPS, try_environment


class Tried(gymnasium.Env):
    """Counts its steps, and what it was given; tests replace parts of it."""

    observation_space: spaces.Space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space: spaces.Space = spaces.Box(-0.5, 0.5, (2,), np.float32)
    taken: ClassVar[list[np.ndarray]] = []
    state: Any = np.zeros(3)
    reward: Any = 1.0
    ends_at = 1000

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.taken.clear()
        return self.state, {}

    def step(self, action: np.ndarray) -> Any:
        self.taken.append(action)
        return self.state, self.reward, len(self.taken) >= self.ends_at, False, {}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gymnasium.register("Tried-v0", f"{__name__}:Tried", max_episode_steps=1000)
    yield
    del gymnasium.registry["Tried-v0"]


def try_it(states: int = 3, actions: int = 2) -> None:
    try_environment("tried", "Tried-v0", {}, synthetic(states, actions)[0])


def test_actions_of_the_data_are_taken_within_bounds_until_the_episode_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    data = synthetic(3, 2)[0]
    try_it()
    expected = data.actions[: min(STEPS, data.lengths[0])]
    assert np.abs(expected).max() > 0.5
    assert np.array_equal(Tried.taken, np.clip(expected, -0.5, 0.5))
    monkeypatch.setattr(Tried, "ends_at", 2)
    try_it()
    assert len(Tried.taken) == 2


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("reward", np.ones(2), r"at step 1 gave a reward of shape \(2,\)"),
        ("reward", float("-inf"), "at step 1 gave a reward of -inf"),
        ("state", np.array([0.0, np.nan, 0.0]), "at step 0 gave a state whose component 1 is nan"),
        ("state", np.zeros(4), r"at step 0 gave a state of shape \(4,\)"),
        (
            "step",
            lambda self, action: (self.state, 1.0, False, {}),
            "at step 1 failed: .*may have the API of gym before",
        ),
        ("step", lambda self, action: {}["key"], "at step 1 failed: KeyError"),
        ("reset", lambda self, **_: np.zeros(3), "at step 0 .*it may have the API of gym before"),
    ],
)
def test_what_no_evaluation_could_use_is_named_with_environment_seed_and_step(
    part: str, value: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tried, part, value)
    with pytest.raises(EpisodeError, match=rf"^Tried-v0, reset with seed \d+, {said}"):
        try_it()


def test_an_array_of_one_reward_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tried, "reward", np.ones(1))
    try_it()
    assert Tried.taken  # the steps went on after the first such reward


@pytest.mark.parametrize(("states", "actions", "said"), [(4, 2, "states of size 3"), (3, 1, "actions of size 2")])
def test_other_sizes_than_those_of_the_data_are_named(states: int, actions: int, said: str) -> None:
    with pytest.raises(DataError, match=f"Tried-v0 has {said}, flattened, but the data of tried have"):
        try_it(states, actions)


def test_a_choice_of_several_is_as_long_as_all_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tried, "observation_space", spaces.MultiDiscrete([3, 4, 5]))
    monkeypatch.setattr(Tried, "state", np.array([2, 0, 1]))
    assert make_environment("Tried-v0").state_size == 12
    try_it(states=12)
    with pytest.raises(DataError, match="states of size 12, flattened, but the data of tried have 3"):
        try_it(states=3)


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.uint8])
def test_actions_that_are_whole_numbers_are_refused(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tried, "action_space", spaces.Box(0, 5, (2,), kind))
    with pytest.raises(EnvironmentNameError, match="whole numbers; expected a Box of floats"):
        try_it()
