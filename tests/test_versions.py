"""What is said of data whose environment differs from the one that evaluation makes, and what is not worth a word."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium import spaces, wrappers
from gymnasium.envs.registration import WrapperSpec
from minari.data_collector import EpisodeBuffer

from dt.environments import EnvironmentNameError, make_environment, time_limit
from dt.episodes import Expected, read_episodes
from dt.versions import differences


class Slide(gymnasium.Env):
    """A point on a line, pushed as hard as the action says; its reward has a weight."""

    observation_space = spaces.Box(-9, 9, (2,), np.float32)
    action_space = spaces.Box(-2, 2, (1,), np.float32)
    metadata: ClassVar = {"render_modes": ["rgb_array"]}

    def __init__(self, weight: float = 1.0, start: tuple[float, float] = (0.0, 0.0), render_mode: str | None = None):
        self.weight, self.start, self.render_mode = weight, start, render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.state = np.array(self.start, np.float32)
        return self.state, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.state = np.clip(self.state + 0.1 * action[0], -9, 9).astype(np.float32)
        return self.state, -self.weight * float(abs(self.state[0])), False, False, {}


def rescaled(**options: Any) -> gymnasium.Env:
    """An entry point that wraps what it makes."""
    return wrappers.RescaleAction(Slide(**options), -1.0, 1.0)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    clipped = WrapperSpec("ClipReward", "gymnasium.wrappers:ClipReward", {"min_reward": -1.0, "max_reward": 1.0})
    ids = {
        "Slide-v0": {},
        "Heavy-v0": {"kwargs": {"weight": 3.0, "start": (1.0, 0.0)}},
        "Clipped-v0": {"additional_wrappers": (clipped,)},
    }
    for name, options in ids.items():
        gymnasium.register(name, f"{__name__}:Slide", max_episode_steps=12, **options)
    gymnasium.register("Rescaled-v0", f"{__name__}:rescaled", max_episode_steps=12)
    yield
    for name in (*ids, "Rescaled-v0"):
        del gymnasium.registry[name]


def notes(of_data: gymnasium.Env, env_id: str, **arguments: Any) -> list[str]:
    """What is said of data that this environment gave, evaluated in another."""
    assert of_data.spec is not None
    expected = Expected.of(env_id, arguments)
    return list(differences({}, json.loads(of_data.spec.to_json()), expected.specs))


@pytest.mark.parametrize(
    ("name", "options", "arguments"),
    [
        ("Slide-v0", {}, {}),
        ("Heavy-v0", {}, {}),  # what is registered is no argument
        ("Heavy-v0", {"weight": 3.0}, {}),
        ("Slide-v0", {"weight": 1.0}, {}),  # the default of its code
        ("Slide-v0", {}, {"start": [0.0, 0.0]}),  # the same as YAML has it
        ("Slide-v0", {"weight": 2}, {"weight": 2.0}),
        ("Slide-v0", {"render_mode": "rgb_array"}, {}),
        ("Slide-v0", {"max_episode_steps": 30}, {"max_episode_steps": 30}),
        ("Slide-v0", {}, {"max_episode_steps": 12}),
        ("Clipped-v0", {}, {}),
        ("Rescaled-v0", {}, {}),
        ("Ant-v5", {"include_cfrc_ext_in_observation": True, "max_episode_steps": 1000}, {}),
    ],
)
def test_an_equal_environment_needs_no_word_however_it_was_asked_for(
    name: str, options: dict[str, Any], arguments: dict[str, Any]
) -> None:
    assert notes(gymnasium.make(name, **options), name, **arguments) == []


@pytest.mark.parametrize(
    ("name", "options", "arguments", "said"),
    [
        ("Slide-v0", {"weight": 2.0}, {}, "was made with {'weight': 2.0}, evaluation's is with {'weight': 1.0}"),
        ("Heavy-v0", {"weight": 1.0}, {}, "was made with {'weight': 1.0}, evaluation's is with {'weight': 3.0}"),
        (
            "Slide-v0",
            {},
            {"start": [1.0, 0.0]},
            "with {'start': [0.0, 0.0]}, evaluation's is with {'start': [1.0, 0.0]}",
        ),
        (
            "Slide-v0",
            {"max_episode_steps": 5},
            {},
            "time limit of the data's environment is 5, evaluation's is 12,",
        ),
        ("Slide-v0", {}, {"max_episode_steps": 50}, "is 12, evaluation's is 50,"),
        ("Slide-v0", {"max_episode_steps": -1}, {}, "is none, evaluation's is 12,"),
        ("Hopper-v4", {}, {"max_episode_steps": 1000}, "the data are of Hopper-v4, evaluation uses Hopper-v5"),
    ],
)
def test_what_differs_is_named_and_nothing_else(
    name: str, options: dict[str, Any], arguments: dict[str, Any], said: str
) -> None:
    (note,) = notes(gymnasium.make(name, **options), name.replace("Hopper-v4", "Hopper-v5"), **arguments)
    assert said in note


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda made: wrappers.RescaleAction(made, -1.0, 1.0), "wrapped in RescaleAction("),
        (lambda made: wrappers.FrameStackObservation(made, 3), "wrapped in FrameStackObservation("),
        (lambda made: wrappers.ClipReward(made, -0.5, 0.5), "wrapped in ClipReward("),
        (lambda made: wrappers.TimeAwareObservation(made), "evaluation's is in none"),
        (lambda made: wrappers.TimeLimit(made, 4), "is 4, "),
        (lambda made: wrappers.RecordEpisodeStatistics(wrappers.ClipAction(made)), None),
        (lambda made: wrappers.FlattenObservation(made), None),
    ],
)
def test_wrappers_of_the_data_are_told_if_they_change_what_a_policy_learns(
    wrap: Callable[[gymnasium.Env], gymnasium.Env], said: str | None
) -> None:
    found = notes(wrap(gymnasium.make("Slide-v0")), "Slide-v0")
    assert [said in note for note in found if said] == ([True] if said else [])
    assert len(found) == (said is not None)


def test_wrappers_that_evaluation_has_and_the_data_lack_are_told() -> None:
    (note,) = notes(gymnasium.make("Slide-v0"), "Clipped-v0")
    assert "was wrapped in none, evaluation's is in ClipReward(min_reward=-1.0, max_reward=1.0)" in note


def test_data_that_minari_collects_are_compared_as_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    for name, environment in (
        ("same", gymnasium.make("Heavy-v0")),
        ("other", wrappers.ClipReward(gymnasium.make("Heavy-v0", max_episode_steps=7), -0.1, 0.0)),
    ):
        buffers = [EpisodeBuffer(None, seed, None, *episode(environment, seed)) for seed in range(2)]
        minari.create_dataset_from_buffers(f"slide/{name}-v0", buffers, env=environment, eval_env=environment)
    with caplog.at_level(logging.WARNING, "dt"):
        read_episodes(tmp_path / "slide/same-v0", 2, Expected.of("Heavy-v0", {}))
        assert caplog.messages == []
        read_episodes(tmp_path / "slide/other-v0", 2, Expected.of("Heavy-v0", {}))
    limit, wrapper = caplog.messages
    assert limit.startswith("warning: the time limit of the data's environment is 7, ")
    assert wrapper.startswith(
        "warning: the data's environment was wrapped in ClipReward(min_reward=-0.1, max_reward=0.0)"
    )


def episode(environment: gymnasium.Env, seed: int) -> tuple[np.ndarray, np.ndarray, list, list, list]:
    """Observations, actions, rewards and both ends, as Minari's buffers take them."""
    states, outcomes = [environment.reset(seed=seed)[0]], []
    while not (outcomes and (outcomes[-1][2] or outcomes[-1][3])):
        outcomes.append(environment.step(np.ones(1, np.float32)))
        states.append(outcomes[-1][0])
    _, rewards, terminations, truncations, _ = map(list, zip(*outcomes, strict=True))
    return np.stack(states), np.ones((len(rewards), 1), np.float32), rewards, terminations, truncations


def test_data_without_a_spec_say_that_nothing_was_compared() -> None:
    expected = Expected.of("Slide-v0", {})
    (note,) = differences({}, None, expected.specs)
    assert "that it is Slide-v0 is not checked" in note


@pytest.mark.parametrize("name", ["Walker2d-v2", "HalfCheetah-v3", "Swimmer-v2"])
def test_an_id_that_is_gone_is_answered_with_that_and_not_with_its_time_limit(name: str) -> None:
    answer = f"^{name} cannot be made .*moved to the gymnasium-robotics project.*; there is {name[:-1]}5$"
    for arguments in ({}, {"max_episode_steps": 1000}):
        with pytest.warns(DeprecationWarning, match="out of date"), pytest.raises(EnvironmentNameError, match=answer):
            make_environment(name, arguments)


def test_what_can_be_made_and_has_no_time_limit_is_told_so() -> None:
    gymnasium.register("Endless-v0", f"{__name__}:Slide")
    try:
        for ask in (make_environment, time_limit):
            with pytest.raises(EnvironmentNameError, match="Endless-v0 has no time limit"):
                ask("Endless-v0")
    finally:
        del gymnasium.registry["Endless-v0"]
