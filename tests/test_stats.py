"""Statistics and what they normalise, where float32 is short of digits: constants, offsets, tiny and huge values."""

import json
import logging
import statistics
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dt.data import DataError, Normalisation, Trajectories, gather, read_stats
from dt.episodes import Expected
from dt.resident import ResidentTrajectories
from dt.stats import check_asked, moments, read_minari

EXPECTED = Expected.of("Hopper-v5", {})
CONSTANTS = {  # what makes a component that should be constant, [N] float64
    "a number that float32 lacks": lambda noise: np.full_like(noise, -273.15),
    "a huge number": lambda noise: np.full_like(noise, 3e29),
    "zero": np.zeros_like,
    "a sum of tenths, in one order or another": lambda noise: np.where(noise > 0, 0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1),
    "float64 noise around a border between float32 values": lambda noise: 1 + 2.0**-24 + 1e-16 * noise,
    "float64 noise around zero": lambda noise: 1e-16 * noise,
    "a float32 step up or down": lambda noise: 0.7 + np.where(noise > 0, 6e-8, 0),
    "millimetres, four thousand kilometres from the origin": lambda noise: 4e6 + 1e-3 * noise,
}
VARYING = {
    "size 1": lambda noise: noise,
    "metres, three hundred kilometres from the origin": lambda noise: 3e5 + noise,
    "decimetres below a negative offset": lambda noise: -2e4 + 0.1 * noise,
    "nanometres": lambda noise: 1e-9 * noise,
    "nanometres around a micrometre": lambda noise: 1e-6 + 1e-9 * noise,
    "light years in metres": lambda noise: 1e16 * (5 + noise),
    "one touch in all": lambda noise: np.where(noise == noise.max(), 1.0, 0.0),
}


def noise(count: int = 5000) -> np.ndarray:
    return np.random.default_rng(0).normal(size=count)


def stored(*components: np.ndarray) -> np.ndarray:
    return np.stack(components, 1).astype(np.float32)


@pytest.mark.parametrize("name", CONSTANTS)
def test_what_is_constant_up_to_rounding_is_centred_but_not_blown_up(name: str) -> None:
    values = stored(noise(), CONSTANTS[name](noise()))
    found = moments(values)
    assert found["constant"] == [1]
    assert found["std"][1] == 1
    step = np.spacing(np.abs(values[:, 1]).max())
    assert abs(found["mean"][1] - values[0, 1].astype(float)) <= max(step, 1e-15)
    normalisation = Normalisation(tuple(found["mean"]), tuple(found["std"]), (), (), 1.0)
    touched = normalisation.states(values[:1] + np.float32([0, 0.5]))[0, 1]
    assert abs(touched) < 1


@pytest.mark.parametrize("name", VARYING)
def test_moments_are_those_of_exact_arithmetic_on_the_stored_values(name: str) -> None:
    values = stored(VARYING[name](noise()))
    found, exact = moments(values), [float(value) for value in values[:, 0]]
    assert found["constant"] == []
    assert found["mean"][0] == pytest.approx(statistics.mean(exact), rel=1e-12, abs=1e-12 * found["std"][0])
    assert found["std"][0] == pytest.approx(statistics.pstdev(exact), rel=1e-9)
    scaled = Normalisation((found["mean"][0],), (found["std"][0],), (), (), 1.0).states(values)
    assert scaled.mean() == pytest.approx(0, abs=1e-5)
    assert scaled.std() == pytest.approx(1, rel=1e-5)


@given(st.lists(st.floats(-1e30, 1e30), min_size=2, max_size=20), st.floats(-1e6, 1e6), st.floats(1e-9, 1e9))
def test_a_state_is_the_same_in_training_on_a_gpu_and_in_evaluation(
    values: list[float], mean: float, std: float
) -> None:
    states, ones = np.array(values)[:, None], np.ones(len(values), np.float32)  # as a simulator gives them: float64
    flat = Trajectories(states.astype(np.float32), ones[:, None], ones, np.array([0, len(values)]))
    normalisation = Normalisation((mean,), (std,), (0.0,), (1.0,), 1.0)
    with np.errstate(over="ignore"):  # where 1e30 is divided by 1e-9
        evaluation = normalisation.states(states)
        training = gather(flat, normalisation, np.array([0]), np.array([0]), len(values)).states[0]
        resident = ResidentTrajectories(flat, normalisation, torch.device("cpu")).arrays["states"].numpy()
        exact = ((states.astype(np.float32).astype(np.float64) - mean) / std).astype(np.float32)
    assert evaluation.tobytes() == training.tobytes() == resident.tobytes() == exact.tobytes()


def test_actions_survive_normalisation_where_float32_is_short_of_digits() -> None:
    normalisation = Normalisation((), (), (70_000.1, -3e-7), (0.37, 3e-9), 1.0)
    actions = np.array([[70_000.23, -3.02e-7], [69_999.9, -2.99e-7]], np.float32)
    assert np.array_equal(normalisation.raw_actions(normalisation.actions(actions)), actions)
    assert normalisation.raw_actions(np.zeros((1, 2), np.float32)).dtype == np.float32


def write_dataset(folder: Path, states: np.ndarray, actions: np.ndarray, rewards: np.ndarray, env_id: str) -> Path:
    """Two equal episodes, their states `[T+1, S]`."""
    (folder / "data").mkdir(parents=True)
    with h5py.File(folder / "data/main_data.hdf5", "w") as file:
        for number in range(2):
            group, ends = file.create_group(f"episode_{number}"), np.zeros(len(rewards), bool)
            fields = {"observations": states, "actions": actions, "rewards": rewards}
            for name, values in (fields | {"terminations": ends, "truncations": ends}).items():
                group[name] = values
    metadata = {"total_episodes": 2, "env_spec": json.dumps({"id": env_id, "kwargs": {}})}
    (folder / "data/metadata.json").write_text(json.dumps(metadata))
    return folder


def test_constant_components_are_named_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    states = np.random.default_rng(0).normal(size=(9, 11))
    states[:, [0, 3, 4, 5]] = 9.81
    actions = np.random.default_rng(1).uniform(-1, 1, (8, 3))
    actions[:, 1] = 0.3
    with caplog.at_level(logging.WARNING):
        _, stats = read_minari(write_dataset(tmp_path, states, actions, np.ones(8), "Hopper-v5"), 2, 1.0, "Hopper-v5")
    assert stats["states"]["constant"] == [0, 3, 4, 5]
    assert [record.getMessage().rpartition("deviation: ")[2].split(";")[0] for record in caplog.records] == [
        "0, 3 to 5",
        "1",
    ]
    assert caplog.records[0].getMessage().startswith("warning: states: ")
    assert caplog.records[1].getMessage().startswith("warning: actions: ")


def with_bounds(low: list[float | None], high: list[float | None]) -> dict[str, Any]:
    actions = {"mean": [0.0] * len(low), "std": [0.5] * len(low), "low": low, "high": high}
    return {"states": {"mean": [0.0], "std": [1.0]}, "actions": actions, "derived": {"target_return": 1.0}}


@pytest.mark.parametrize("value", [0.3, 0.0, -7e5])
def test_an_action_that_can_take_one_value_alone_becomes_zero_and_comes_back(value: float, tmp_path: Path) -> None:
    stats = with_bounds([-1.0, value], [1.0, value])
    stats["derived"]["reward_scale"] = 1.0
    path = tmp_path / "stats.json"
    path.write_text(json.dumps(stats))
    chosen = {"normalise_states": True, "normalise_actions": False}
    normalisation = Normalisation.from_stats(read_stats(path), chosen, 1.0)
    actions = np.array([[0.5, value]], np.float32)
    assert normalisation.actions(actions).tolist() == [[0.5, pytest.approx(0, abs=1e-6)]]
    assert np.array_equal(normalisation.raw_actions(np.float32([[0.5, 0.0]])), actions)


@pytest.mark.parametrize(("least", "most"), [(1.0, -1.0), (float("nan"), 1.0), (0, 0)])
def test_bounds_out_of_order_are_no_statistics(least: float, most: float, tmp_path: Path) -> None:
    stats = with_bounds([least], [most])
    stats["derived"]["reward_scale"] = 1.0
    path = tmp_path / "stats.json"
    path.write_text(json.dumps(stats))
    with pytest.raises(DataError, match="actions have no bounds, low ≤ high"):
        read_stats(path)


@pytest.mark.parametrize("bound", [1e31, float(np.finfo(np.float32).max), np.inf])
def test_bounds_that_float32_hardly_holds_count_as_none(
    bound: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dt.stats.Expected.of", lambda *_: EXPECTED._replace(low=-np.float32([bound] * 3)))
    folder = write_dataset(tmp_path, np.ones((9, 11)), np.zeros((8, 3)), np.ones(8), "Hopper-v5")
    flat, stats = read_minari(folder, 2, 1.0, "Hopper-v5")
    assert (stats["actions"]["low"], stats["actions"]["high"]) == ([None] * 3, [1.0] * 3)
    asked = {"normalise_states": True, "normalise_actions": False}
    with pytest.raises(
        DataError, match=r"no bounds \(beyond 1e\+30 counts as none\); set data\.normalise_actions: true"
    ):
        check_asked("hopper", asked, 1.0, flat, stats)
    check_asked("hopper", asked | {"normalise_actions": True}, 1.0, flat, stats)


@pytest.mark.parametrize(
    ("low", "high", "warned"),
    [
        ([-1.0] * 3, [1.0] * 3, ""),
        ([-40.0] * 3, [40.0] * 3, ""),  # data that use an eightieth of it
        ([-1.0, -1e7, -1.0], [1.0, 1e7, 1.0], "components 1 "),
        ([0.0, -1.0, 0.0], [1e4, 1.0, 3e29], "components 0, 2 "),
    ],
)
def test_bounds_far_wider_than_the_data_are_warned_of_unless_actions_are_normalised(
    low: list[float], high: list[float], warned: str, caplog: pytest.LogCaptureFixture
) -> None:
    stats = with_bounds(list(low), list(high))
    for normalise in (True, False):
        Normalisation.from_stats(stats, {"normalise_states": True, "normalise_actions": normalise}, 1.0)
        assert len(caplog.records) == (not normalise and warned != "")
    if warned:
        assert warned in caplog.text
        assert "set data.normalise_actions: true" in caplog.text


@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.99])
def test_with_a_discount_the_derived_return_is_one_that_windows_show(
    gamma: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rewards = np.arange(1.0, 31.0)
    folder = write_dataset(tmp_path, np.ones((31, 11)), np.zeros((30, 3)), rewards, "Hopper-v5")
    flat, stats = read_minari(folder, 2, gamma, "Hopper-v5")
    shown = sum(gamma**step * reward for step, reward in enumerate(rewards))
    assert stats["derived"]["target_return"] == pytest.approx(shown) == pytest.approx(flat.returns_to_go[0], rel=1e-6)
    assert stats["returns_to_go"]["max"] == pytest.approx(shown)
    assert 1 <= shown / stats["derived"]["reward_scale"] < 10
    assert stats["returns"]["mean"] == rewards.sum()  # scores are of undiscounted returns
    asked = {"normalise_states": True, "normalise_actions": False}
    caplog.clear()
    for target, warnings in ((None, 0), (0.9 * shown, 0), (rewards.sum(), 1)):
        chosen = asked if target is None else asked | {"target_return": target}
        check_asked("hopper", chosen, gamma, flat, stats)
        assert len(caplog.records) == warnings
    assert f"target_return is 465, but with data.gamma {gamma:g} no episode" in caplog.text


def test_without_a_discount_any_target_return_may_be_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_dataset(tmp_path, np.ones((9, 11)), np.zeros((8, 3)), np.full(8, 2.0), "Hopper-v5")
    flat, stats = read_minari(folder, 2, 1.0, "Hopper-v5")
    caplog.clear()
    asked = {"normalise_states": True, "normalise_actions": False, "target_return": 12000.0}
    check_asked("hopper", asked, 1.0, flat, stats)
    assert not caplog.records
    assert stats["derived"] == {"target_return": 16.0, "reward_scale": 10.0}


@pytest.mark.parametrize(("reward", "scale"), [(100.0, 1e-30), (1e20, 1.0), (1e-3, 1.2e-38)])
def test_a_reward_scale_far_below_the_returns_is_answered_before_training(
    reward: float, scale: float, tmp_path: Path
) -> None:
    folder = write_dataset(tmp_path, np.ones((9, 11)), np.zeros((8, 3)), np.full(8, reward), "Hopper-v5")
    flat, stats = read_minari(folder, 2, 1.0, "Hopper-v5")
    asked = {"normalise_states": True, "normalise_actions": False}
    check_asked("hopper", asked, 1.0, flat, stats)
    with pytest.raises(DataError, match=r"raise environments\.hopper\.reward_scale"):
        check_asked("hopper", asked | {"reward_scale": scale}, 1.0, flat, stats)


@pytest.mark.parametrize(("reward", "scale"), [(2e-37, 1e-36), (5e-33, 1e-32), (-3e-10, 1e-9), (0.0, 1.0)])
def test_a_derived_scale_is_one_that_float32_holds(reward: float, scale: float, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, np.ones((9, 11)), np.zeros((8, 3)), np.full(8, reward), "Hopper-v5")
    flat, stats = read_minari(folder, 2, 1.0, "Hopper-v5")
    assert stats["derived"]["reward_scale"] == pytest.approx(scale)
    assert np.isfinite(flat.returns_to_go / np.float32(stats["derived"]["reward_scale"])).all()


@pytest.mark.parametrize("reward", [1e-40, -7e-46, 5e-300, 9e29, -2e29])
def test_returns_that_float32_lacks_are_answered(reward: float, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, np.ones((9, 11)), np.zeros((8, 3)), np.full(8, reward), "Hopper-v5")
    with pytest.raises(DataError, match=r"returns-to-go in .* reach .*; float32 holds sizes from 1\.2e-38 to 1e\+30"):
        read_minari(folder, 2, 1.0, "Hopper-v5")
