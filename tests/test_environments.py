"""Environments of all kinds: how states of several parts become vectors, and what cannot be stepped."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from dt.actors import Actor, ActorError, rollouts
from dt.data import DataError
from dt.environments import EnvironmentNameError, make_environment, original_states
from dt.episodes import Expected, read_episodes
from dt.spaces import parts

PARTS = {
    "position": spaces.Box(-2.0, 2.0, (2, 3), np.float64),
    "gear": spaces.Discrete(3, start=1),
    "arms": spaces.Dict({"switches": spaces.MultiBinary(4), "angle": spaces.Box(-1.0, 1.0, (1,), np.float32)}),
    "levels": spaces.Tuple((spaces.MultiDiscrete([2, 3]), spaces.Box(0, 255, (2,), np.uint8))),
}
SIZE = 6 + 3 + 4 + 1 + (2 + 3) + 2


class Parts(gymnasium.Env):
    """States are drawn from a space of many parts; actions lie between -3 and 1."""

    observation_space = spaces.Dict(PARTS)
    action_space = spaces.Box(-3.0, 1.0, (2,), np.float32)

    def __init__(self, states: spaces.Space | None = None, actions: spaces.Space | None = None) -> None:
        self.observation_space, self.action_space = states or spaces.Dict(PARTS), actions or self.action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        return self.observation_space.sample(), float(action[0]), False, False, {}


@pytest.fixture(autouse=True)
def registered() -> Any:
    gymnasium.register("Parts-v0", f"{__name__}:Parts", max_episode_steps=7)
    yield
    del gymnasium.registry["Parts-v0"]


def test_parts_are_flattened_as_gymnasium_flattens_them() -> None:
    space = spaces.Dict(PARTS)
    space.seed(0)
    samples = [space.sample() for _ in range(20)]

    def place(sample: Any, path: str) -> Any:
        for name in path.split("/"):
            sample = sample[int(name.removeprefix("_index_"))] if name.startswith("_index_") else sample[name]
        return sample

    flat = [part.flat(np.array([place(sample, part.place) for sample in samples])) for part in parts(space)]
    expected = np.array([spaces.flatten(space, sample) for sample in samples])
    assert expected.shape == (20, SIZE)
    np.testing.assert_array_equal(np.concatenate(flat, axis=1), expected)


def test_states_of_parts_become_vectors() -> None:
    environment = make_environment("Parts-v0")
    assert environment.observation_space.shape == (SIZE,)
    assert original_states(environment) == spaces.Dict(PARTS)
    state, _ = environment.reset(seed=3)
    plain = Parts()
    np.testing.assert_array_equal(state, spaces.flatten(plain.observation_space, plain.reset(seed=3)[0]))


def test_a_minari_dataset_of_parts_is_read_as_the_environment_gives_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    environment, buffers, states = Parts(), [], []
    for seed in range(3):
        samples = [environment.reset(seed=seed)[0], *(environment.step(np.zeros(2))[0] for _ in range(7))]
        states.append([spaces.flatten(environment.observation_space, sample) for sample in samples])
        zeros, ends = np.zeros(7), np.arange(7) == 6
        actions = np.zeros((7, 2), np.float32)
        buffers.append(EpisodeBuffer(None, seed, None, stacked(samples), actions, zeros, np.zeros(7, bool), ends))
    minari.create_dataset_from_buffers("parts/all-v0", buffers, env="Parts-v0", eval_env="Parts-v0")
    episodes = read_episodes(tmp_path / "parts/all-v0", 3, Expected.of("Parts-v0", {}))
    for episode, expected in zip(episodes, states, strict=True):
        np.testing.assert_array_equal(episode.observations, expected)


def stacked(samples: list[Any]) -> Any:
    """Samples of one space as Minari's buffers take them: arrays over time, in the samples' own structure."""
    if isinstance(samples[0], dict):
        return {name: stacked([sample[name] for sample in samples]) for name in samples[0]}
    if isinstance(samples[0], tuple):
        return tuple(stacked(list(column)) for column in zip(*samples, strict=True))
    return np.stack(samples)


def test_an_actor_is_stretched_to_the_bounds_of_actions() -> None:
    weights = {
        f"params.Dense_{layer}.{part}": np.zeros(shape, np.float32)
        for layer, (outputs, inputs) in enumerate([(4, SIZE), (4, 4), (2, 4), (2, 4)])
        for part, shape in (("weight", (outputs, inputs)), ("bias", (outputs,)))
    }
    weights["params.Dense_2.bias"] = np.array([100.0, -100.0], np.float32)  # tanh: 1 and -1
    (rollout,) = rollouts(Actor(weights), "Parts-v0", [0], 0.0, stream=0)
    np.testing.assert_array_equal(rollout.actions, [[1.0, -3.0]] * 7)
    unbounded = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    with pytest.raises(ActorError, match="have no bounds"):
        next(rollouts(Actor(weights), "Parts-v0", [0], 0.0, stream=0, arguments={"actions": unbounded}))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"states": spaces.Text(5)}, "has states of which the whole is Text"),
        ({"states": spaces.Dict({"a": spaces.Sequence(spaces.Discrete(2))})}, "states of which a is Sequence"),
        ({"states": spaces.Tuple([spaces.Discrete(2), spaces.Text(3)])}, "states of which _index_1 is Text"),
        ({"states": spaces.Box(0, 255, (200, 200, 3), np.uint8)}, "at most 10000 numbers"),
        ({"actions": spaces.Discrete(3)}, "has actions of Discrete"),
        ({"actions": spaces.Box(0, 1, (2, 2))}, "expected a Box with one dimension"),
        ({"unknown": 1}, "cannot be made"),
        ({"max_episode_steps": None}, "has no time limit"),
        ({"max_episode_steps": 0}, "has no time limit"),
    ],
)
def test_an_environment_without_vectors_is_answered(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(EnvironmentNameError, match=reason) as caught:
        make_environment("Parts-v0", arguments)
    assert str(caught.value).startswith("Parts-v0")
    assert "\n" not in str(caught.value)


def test_arguments_make_the_environment_and_its_time_limit() -> None:
    small = {"include_cfrc_ext_in_observation": False, "max_episode_steps": 50}
    environment = make_environment("Ant-v5", small)
    assert environment.observation_space.shape == (27,)
    assert environment.spec.max_episode_steps == 50


def test_an_environment_that_is_not_mujoco_is_made_without_it() -> None:
    program = (
        "import sys; from dt.environments import make_environment; make_environment('Pendulum-v1').reset(seed=0);"
        " sys.exit('mujoco' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_mujoco_says_of_a_model_makes_no_file(tmp_path: Path) -> None:
    program = "from dt.environments import make_environment; make_environment('HalfCheetah-v5')"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("space", "value", "wrong"),
    [
        (spaces.MultiDiscrete([3, 4, 5]), [2, 0, 4], [2, 0, 5]),
        (spaces.MultiDiscrete([[2, 2], [2, 3]]), [[1, 0], [1, 2]], [[1, 0], [1, -1]]),
        (spaces.Discrete(4, start=-1), 2, 3),
        (spaces.MultiBinary(3), [1, 0, 1], None),
        (spaces.Box(-1, 1, (2, 2), np.float32), [[0.5, 0], [0, 1]], None),
    ],
)
def test_states_without_parts_are_flattened_whatever_their_space(
    space: spaces.Space, value: Any, wrong: Any, tmp_path: Path
) -> None:
    """As the file of a dataset holds them, as Gymnasium gives them and as it flattens them."""
    expected, flat = Expected.of("Parts-v0", {"states": space}), spaces.flatten(space, np.array(value))

    def written(name: str, state: Any) -> Path:
        (tmp_path / name / "data").mkdir(parents=True)
        with h5py.File(tmp_path / name / "data/main_data.hdf5", "w") as file:
            states, zeros = np.array([state] * 4), np.zeros(3)
            fields = {"observations": states, "actions": np.zeros((3, 2)), "rewards": zeros}
            fields |= {"terminations": zeros > 0, "truncations": zeros > 0}
            for field, values in fields.items():
                file[f"episode_0/{field}"] = values
        (tmp_path / name / "data/metadata.json").write_text('{"total_episodes": 1}')
        return tmp_path / name

    for name, state in (("as given", value), ("flat", flat)):
        (episode,) = read_episodes(written(name, state), 1, expected)
        np.testing.assert_array_equal(episode.observations, [flat] * 4)
    if wrong is not None:
        with pytest.raises(DataError, match=r"episode_0: observations have .* at step 0; expected values of"):
            read_episodes(written("wrong", wrong), 1, expected)
