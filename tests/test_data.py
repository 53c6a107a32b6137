"""Returns-to-go, windows and sampling, against brute force on small arrays."""

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from dt.data import DataError, Normalisation, Trajectories, batches, gather, returns_to_go

NORMALISATION = Normalisation((1.0, -2.0, 0.5), (2.0, 0.5, 3.0), (0.25, -0.5), (0.5, 2.0), 10.0)
STATS = {
    "states": {"mean": [1.0, 2.0], "std": [3.0, 4.0]},
    "actions": {"mean": [0.5], "std": [0.25], "low": [-1.0], "high": [3.0]},
}


def trajectories(lengths: list[int]) -> Trajectories:
    """Random values of which none is zero, so that a zero can only come from a mask."""
    generator, total = np.random.default_rng(0), sum(lengths)
    states, actions = (generator.uniform(5, 9, (total, size)).astype(np.float32) for size in (3, 2))
    rtg = generator.uniform(5, 9, total).astype(np.float32)
    return Trajectories(states, actions, rtg, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def epoch(
    lengths: list[int], sampling: str, seed: int, context: tuple[int, int] = (5, 5), size: int = 4
) -> list[tuple]:
    return list(batches(trajectories(lengths), sampling, size, context, np.random.default_rng(seed)))


def assert_gathered_as_by_a_loop(flat: Trajectories, indices: list[int], first_steps: list[int], context: int) -> None:
    windows = gather(flat, NORMALISATION, np.array(indices), np.array(first_steps), context)
    assert windows.states.shape == (len(indices), context, 3)
    assert windows.actions.shape == (len(indices), context, 2)
    assert windows.returns_to_go.shape == (len(indices), context, 1)
    assert {windows.states.dtype, windows.actions.dtype, windows.returns_to_go.dtype} == {np.dtype("float32")}
    for row, (index, first) in enumerate(zip(indices, first_steps, strict=True)):
        for place in range(context):
            step = first + place
            inside = step < flat.lengths[index]
            state, action, rtg = np.zeros(3), np.zeros(2), 0.0
            if inside:
                position = flat.starts[index] + step
                state = (flat.states[position] - np.array([1.0, -2.0, 0.5])) / np.array([2.0, 0.5, 3.0])
                action = (flat.actions[position] - np.array([0.25, -0.5])) / np.array([0.5, 2.0])
                rtg = flat.returns_to_go[position] / 10
            assert windows.mask[row, place] == inside
            assert windows.timesteps[row, place] == (step if inside else 0)
            np.testing.assert_allclose(windows.states[row, place], state, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(windows.actions[row, place], action, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(windows.returns_to_go[row, place, 0], rtg, rtol=1e-5)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("lengths", [[5, 1, 9, 2], [1], [1, 1, 7], [7, 1]])
def test_returns_to_go_are_the_discounted_double_sum(lengths: list[int], gamma: float) -> None:
    starts = np.concatenate([[0], np.cumsum(lengths)])
    rewards = np.random.default_rng(0).normal(size=starts[-1])
    expected = [
        sum(gamma ** (later - t) * rewards[later] for later in range(t, end))
        for start, end in pairwise(starts)
        for t in range(start, end)
    ]
    np.testing.assert_allclose(returns_to_go(rewards, starts, gamma), expected, rtol=1e-12)


def test_returns_to_go_lose_no_small_reward_before_a_large_one() -> None:
    rewards = np.array([1, 1, 2**24], dtype=np.float32)  # in float32, 2^24 + 1 = 2^24
    assert returns_to_go(rewards, np.array([0, 3]), 1.0).tolist() == [2**24 + 2, 2**24 + 1, 2**24]


def test_windows_that_reach_past_the_end_are_masked_and_take_nothing_of_the_next_trajectory() -> None:
    flat = trajectories([4, 1, 6])
    assert_gathered_as_by_a_loop(flat, [0, 0, 1, 2, 2, 1], [0, 3, 0, 0, 5, 0], context=5)


@given(st.data())
def test_windows_are_those_of_a_plain_loop(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
    indices = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=4))
    first_steps = [data.draw(st.integers(0, lengths[index] - 1)) for index in indices]
    assert_gathered_as_by_a_loop(trajectories(lengths), indices, first_steps, data.draw(st.integers(1, 9)))


def test_an_epoch_takes_a_trajectory_at_most_once_and_drops_the_partial_batch() -> None:
    for seed in range(20):
        found = epoch([3, 8, 1, 5, 2, 9, 4, 4, 6, 7], "trajectory", seed)
        assert [len(indices) for indices, _, _ in found] == [4, 4]
        assert len(set(np.concatenate([indices for indices, _, _ in found]))) == 8


@pytest.mark.parametrize("sampling", ["trajectory", "transition"])
def test_every_epoch_has_its_own_order(sampling: str) -> None:
    flat, generator = trajectories([6] * 40), np.random.default_rng(0)
    first, second = (next(batches(flat, sampling, 40, (5, 5), generator))[0] for _ in range(2))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.arange(40))


def test_windows_of_a_trajectory_start_uniformly_in_it() -> None:
    counts = {4: np.zeros(4), 11: np.zeros(11)}
    for indices, first_steps, _ in (batch for seed in range(2000) for batch in epoch([4, 11] * 2, "trajectory", seed)):
        for index, first in zip(indices, first_steps, strict=True):
            counts[(4, 11)[index % 2]][first] += 1
    for observed in counts.values():
        assert observed.sum() == 4000
        assert chisquare(observed).pvalue > 0.01


def test_transitions_are_drawn_uniformly_however_unequal_the_lengths() -> None:
    lengths, observed = [1, 2, 30, 5], np.zeros(38)
    starts = trajectories(lengths).starts
    for indices, first_steps, _ in (batch for seed in range(3000) for batch in epoch(lengths, "transition", seed)):
        assert (first_steps < np.array(lengths)[indices]).all()
        np.add.at(observed, starts[indices] + first_steps, 1)
    assert observed.sum() == 12000
    assert chisquare(observed).pvalue > 0.01


@pytest.mark.parametrize("sampling", ["trajectory", "transition"])
def test_equal_seeds_give_equal_batches(sampling: str) -> None:
    lengths = list(range(1, 13))
    first, again, other = (epoch(lengths, sampling, seed, context=(2, 9)) for seed in (3, 3, 4))
    assert len(first) == len(again) == 3
    for one, two in zip(first, again, strict=True):
        for a, b in zip(one, two, strict=True):
            assert np.array_equal(a, b)
    assert any(not np.array_equal(a[0], b[0]) for a, b in zip(first, other, strict=True))


def test_a_range_of_contexts_draws_each_of_them_and_no_other() -> None:
    drawn = [batch[2] for seed in range(50) for batch in epoch([3] * 12, "trajectory", seed, context=(2, 5))]
    assert set(drawn) == {2, 3, 4, 5}
    assert chisquare(np.bincount(drawn)[2:]).pvalue > 0.01


def test_opened_arrays_are_memory_mapped_and_equal_to_the_saved_ones(tmp_path: Path) -> None:
    saved = trajectories([4, 1, 6])
    saved.save(tmp_path)
    opened = Trajectories.open(tmp_path)
    for name, dtype in (("states", "f4"), ("actions", "f4"), ("returns_to_go", "f4"), ("starts", "i8")):
        array = getattr(opened, name)
        assert isinstance(array, np.memmap), name
        assert array.dtype == np.dtype(dtype), name
        assert np.array_equal(array, getattr(saved, name)), name
    assert opened.lengths.tolist() == [4, 1, 6]
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("states", [True, False])
@pytest.mark.parametrize("actions", [True, False])
def test_only_what_the_config_asks_for_is_normalised(states: bool, actions: bool) -> None:
    data = {"normalise_states": states, "normalise_actions": actions}
    normalisation = Normalisation.from_stats(STATS, data, reward_scale=1000)
    assert normalisation.reward_scale == 1000
    np.testing.assert_allclose(normalisation.states(np.array([[4.0, 10.0]])), [[1.0, 2.0] if states else [4.0, 10.0]])
    np.testing.assert_allclose(
        normalisation.actions(np.array([[1.0], [3.0]])), [[2.0], [10.0]] if actions else [[0], [1]]
    )


def test_actions_between_minus_one_and_one_stay_as_they_are() -> None:
    stats = {**STATS, "actions": STATS["actions"] | {"low": [-1.0], "high": [1.0]}}
    normalisation = Normalisation.from_stats(stats, {"normalise_states": True, "normalise_actions": False}, 1000)
    assert (normalisation.action_mean, normalisation.action_std) == ((0.0,), (1.0,))


def test_actions_without_bounds_are_refused_unless_normalised() -> None:
    stats = {**STATS, "actions": STATS["actions"] | {"low": [None], "high": [None]}}
    with pytest.raises(DataError, match=r"no bounds \(.*as none\); set data\.normalise_actions: true"):
        Normalisation.from_stats(stats, {"normalise_states": True, "normalise_actions": False}, 1000)
    assert Normalisation.from_stats(stats, {"normalise_states": True, "normalise_actions": True}, 1000)


def test_raw_actions_undo_the_normalisation_of_actions() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (50, 2)).astype(np.float32)
    np.testing.assert_allclose(NORMALISATION.raw_actions(NORMALISATION.actions(actions)), actions, atol=1e-6)


def test_normalisation_survives_json_to_the_last_bit() -> None:
    generator = np.random.default_rng(0)
    numbers = [tuple(generator.normal(size=size).tolist()) for size in (3, 3, 2, 2)]
    normalisation = Normalisation(*numbers, 1000.0)
    assert Normalisation.from_lists(json.loads(json.dumps(asdict(normalisation)))) == normalisation
