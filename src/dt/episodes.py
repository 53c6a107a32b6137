"""The episodes of a Minari dataset, each checked before anything is computed from it: later stages can rely on them.

Read with h5py, which tells shapes before it reads: Minari's own reader allocates whatever a broken header asks for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from dt.broken import reading
from dt.data import DataError
from dt.environments import make_environment

BEYOND_BOUNDS = 1e-5  # of an action's bound, that rounding may make of it
LARGEST = 1e30  # a sum of a million such rewards is still a float32
NUMBERS, TRUTHS = "fiu", "biu"  # NumPy's kinds
FIELDS = {
    "observations": NUMBERS,
    "actions": NUMBERS,
    "rewards": NUMBERS,
    "terminations": TRUTHS,
    "truncations": TRUTHS,
}


class Episode(NamedTuple):
    """One episode of T steps: observations [T+1, S], actions [T, A], rewards [T], in the file's types."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray


class Expected(NamedTuple):
    """What the environment says: sizes, bounds of actions [A], steps of a whole episode."""

    state_size: int
    low: np.ndarray
    high: np.ndarray
    limit: int


def data_file(folder: Path) -> Path:
    return folder / "data" / "main_data.hdf5"


def read_episodes(folder: Path, count: int, env_id: str) -> list[Episode]:
    """The first `count` episodes of the Minari dataset in `folder`.

    Raises DataError, with file, episode and reason, unless they are whole, finite and of the environment `env_id`.
    """
    environment = make_environment(env_id)
    actions, spec = environment.action_space, environment.spec
    expected = Expected(environment.observation_space.shape[0], actions.low, actions.high, spec.max_episode_steps)
    environment.close()
    total, path = _check_metadata(folder, spec.id), data_file(folder)
    if total < count:
        raise DataError(f"{folder} holds {total} episodes; data.trajectories asks for {count}")
    if not path.is_file():
        raise DataError(f"{path} is missing; {_cure(folder)}")
    with reading(path, "a whole HDF5 file", DataError, _cure(folder)), h5py.File(path, "r") as file:
        if len(file) != total:
            raise DataError(f"{path} holds {len(file)} episodes, but metadata.json counts {total}; {_cure(folder)}")
        try:
            return [_read_episode(file, f"episode_{number}", expected) for number in range(count)]
        except _EpisodeError as error:
            raise DataError(f"{path}, {error}; {_cure(folder)}") from error


class _EpisodeError(DataError):
    """What is wrong with an episode; the file is to be named by the caller."""


def _cure(folder: Path) -> str:
    return f"delete {folder} to have it made or downloaded anew"


def _check_metadata(folder: Path, env_id: str) -> int:
    """The number of episodes in the dataset; raises DataError if it is none of `env_id`."""
    path = folder / "data" / "metadata.json"
    if not path.is_file():
        raise DataError(f"{path} is missing, so {folder} is no Minari dataset; {_cure(folder)}")
    with reading(path, "the metadata of a Minari dataset", DataError, _cure(folder)):
        metadata = json.loads(path.read_text(encoding="utf-8"))
        total = metadata["total_episodes"]
        found = json.loads(metadata["env_spec"])["id"] if metadata.get("env_spec") else env_id
    if type(total) is not int or total < 0:
        raise DataError(f"{path}: total_episodes is {total!r:.40}; expected a number of episodes; {_cure(folder)}")
    if found != env_id:
        raise DataError(
            f"{path}: the data are of {found!r:.80}, but the configuration says {env_id};"
            " set the environment's `gymnasium` to what the data are of, or replace them"
        )
    return total


def _read_episode(file: h5py.File, name: str, expected: Expected) -> Episode:
    group = file.get(name)
    if not isinstance(group, h5py.Group):
        raise _EpisodeError(f"{name} is missing")
    parts = {field: _part(group, name, field) for field in FIELDS}
    steps = parts["rewards"].shape[0] if parts["rewards"].ndim == 1 else 0
    if not 1 <= steps <= expected.limit:
        raise _EpisodeError(f"{name} has {steps} steps; expected 1 to {expected.limit}")
    shapes = {
        "observations": (steps + 1, expected.state_size),
        "actions": (steps, len(expected.low)),
        **dict.fromkeys(("rewards", "terminations", "truncations"), (steps,)),
    }
    for field, shape in shapes.items():
        if parts[field].shape != shape:
            raise _EpisodeError(f"{name}: {field} have shape {parts[field].shape}; expected {shape}")
    episode = Episode(*(parts[field][()] for field in Episode._fields))
    _check_values(name, episode, expected)
    return episode


def _part(group: h5py.Group, name: str, field: str) -> Any:
    part = group.get(field)
    if not isinstance(part, h5py.Dataset):
        raise _EpisodeError(f"{name} has no {field}")
    if part.dtype.kind not in FIELDS[field]:
        raise _EpisodeError(f"{name}: {field} are of type {part.dtype}; expected numbers")
    return part


def _check_values(name: str, episode: Episode, expected: Expected) -> None:
    for field, values in episode._asdict().items():
        for step, value in _where(~(np.abs(values) <= LARGEST), values):
            raise _EpisodeError(f"{name}: {field} have {value} at step {step}; expected finite numbers")
    beyond = BEYOND_BOUNDS * np.maximum(1, expected.high - expected.low)
    outside = (episode.actions < expected.low - beyond) | (episode.actions > expected.high + beyond)
    for step, value in _where(outside, episode.actions):
        raise _EpisodeError(f"{name}: actions have {value} at step {step}; it is beyond the environment's bounds")


def _where(wrong: np.ndarray, values: np.ndarray) -> Iterator[tuple[int, Any]]:
    """Step and value of what is wrong."""
    for place in np.argwhere(wrong):
        yield int(place[0]), values[tuple(place)]
