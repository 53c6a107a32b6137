"""The episodes of a Minari dataset, each checked before anything is computed from it: later stages can rely on them.

Read with h5py, which tells shapes before it reads: Minari's own reader allocates whatever a broken header asks for.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from dt.broken import reading, remake
from dt.data import LARGEST, DataError
from dt.environments import as_json, defaults, environment_spec, made_spec, make_environment, original_states
from dt.existing import data_file, metadata_file
from dt.spaces import Part, parts
from dt.versions import Evaluated, differences, same_environment

log = logging.getLogger(__name__)

BEYOND_BOUNDS = 1e-5  # of an action's bound, that rounding may make of it
READ_ANYWAY = "or set HDF5_USE_FILE_LOCKING=FALSE, if nobody writes to it, and start again"
LOCKED = {
    "already open for write": "a program that wrote to it has not closed it; close it there, or run `h5clear -s` on it",
    "errno = 11": f"another program, such as a notebook, has it open; close it there, {READ_ANYWAY}",
    "unable to lock file": f"its file system has no locks; copy it to one that has, {READ_ANYWAY}",
}  # by what HDF5 says
NUMBERS = "fiub"  # NumPy's kinds; a truth value counts as 0 or 1
FIELDS = ("actions", "rewards", "terminations", "truncations")


class Episode(NamedTuple):
    """One episode of T steps: observations [T+1, S], actions [T, A], rewards [T], in the file's types."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray


class Expected(NamedTuple):
    """What evaluation makes: its specs, parts and size of states, bounds of actions [A], steps of a whole episode."""

    specs: Evaluated
    parts: list[Part]
    state_size: int
    low: np.ndarray
    high: np.ndarray
    limit: int

    @classmethod
    def of(cls, env_id: str, arguments: Mapping[str, Any]) -> Expected:
        made, registered = make_environment(env_id, arguments), environment_spec(env_id, arguments)
        made.close()
        specs = Evaluated(as_json(made_spec(made)), as_json(registered), defaults(registered))
        return cls(specs, list(parts(original_states(made))), made.state_size, made.low, made.high, made.limit)


def check_dataset(folder: Path, expected: Expected) -> None:
    """Raise DataError, as `read_episodes` does, unless every episode in `folder` is whole, finite and as expected."""
    for _ in iterate_episodes(folder, None, expected):
        pass


def read_episodes(folder: Path, count: int, expected: Expected) -> list[Episode]:
    """The first `count` episodes of the Minari dataset in `folder`, their states flattened.

    Raises DataError, with file, episode and reason, unless they are whole, finite and of the environment.
    """
    return list(iterate_episodes(folder, count, expected))


def iterate_episodes(folder: Path, count: int | None, expected: Expected) -> Iterator[Episode]:
    """The same, one after another; all of them if `count` is None."""
    total, path = _check_metadata(folder, expected), data_file(folder)
    count = total if count is None else count
    if total < count:
        raise DataError(f"{folder} holds {total} episodes; data.trajectories asks for {count}")
    if not path.is_file():
        raise DataError(f"{path} is missing")
    with reading(path, "a whole HDF5 file", DataError), _open(path) as file:
        if len(file) != total:
            raise DataError(f"{path} holds {len(file)} episodes, but metadata.json counts {total}{remake(path)}")
        try:
            for number in range(count):
                yield _read_episode(file, f"episode_{number}", expected)
        except _EpisodeError as error:
            raise DataError(f"{path}, {error}{remake(path)}") from error


def _open(path: Path) -> h5py.File:
    """The file, to read; raises DataError where a lock is in the way, or a file system that has none."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        found = next((text for text in LOCKED if text in str(error)), None)
        if found is None:
            raise
        raise DataError(f"{path} is locked: {LOCKED[found]}") from error


class _EpisodeError(DataError):
    """What is wrong with an episode; the file is to be named by the caller."""


def _check_metadata(folder: Path, expected: Expected) -> int:
    """The number of episodes in the dataset; raises DataError if it is none of the environment."""
    path = metadata_file(folder)
    if not path.is_file():
        raise DataError(f"{path} is missing, so {folder} is no Minari dataset")
    with reading(path, "the metadata of a Minari dataset", DataError):
        metadata = json.loads(path.read_text(encoding="utf-8"))
        total = metadata["total_episodes"]
        spec = json.loads(metadata["env_spec"]) if metadata.get("env_spec") else None
        env_id = expected.specs.made["id"]
        found = spec["id"] if spec else env_id
        notes = list(differences(metadata, spec, expected.specs))
    if type(total) is not int or total < 0:
        raise DataError(f"{path}: total_episodes is {total!r:.40}; expected a number of episodes{remake(path)}")
    if not same_environment(found, env_id):
        raise DataError(
            f"{path}: the data are of {found!r:.80}, but the configuration says {env_id};"
            " set the environment's `gymnasium` to what the data are of, or replace them"
        )
    for note in notes:
        log.warning("warning: %s", note)
    return total


def _read_episode(file: h5py.File, name: str, expected: Expected) -> Episode:
    group = file.get(name)
    if not isinstance(group, h5py.Group):
        raise _EpisodeError(f"{name} is missing")
    arrays = {field: _array(group, name, field) for field in FIELDS}
    rewards = arrays["rewards"]
    if rewards.ndim == 0 or rewards.shape[1:] not in ((), (1,)):  # [T, 1]: a step's reward as an array of one
        raise _EpisodeError(f"{name}: rewards have shape {rewards.shape}; expected one number per step")
    steps = rewards.shape[0]
    if not 1 <= steps <= expected.limit:
        raise _EpisodeError(
            f"{name} has {steps} steps; expected 1 to {expected.limit}, the time limit of evaluation's environment"
            " (`arguments: {max_episode_steps: …}` sets it)"
        )
    shapes = {
        "actions": (steps, len(expected.low)),
        **dict.fromkeys(("terminations", "truncations"), (steps,)),
    }
    for field, shape in shapes.items():
        _check_shape(name, field, arrays[field], shape)
    observations = _read_states(group, name, steps + 1, expected)
    episode = Episode(observations, arrays["actions"][()], rewards[()].reshape(steps))
    _check_values(name, episode, expected)
    return episode


def _read_states(group: h5py.Group, name: str, count: int, expected: Expected) -> np.ndarray:
    """States `[count, S]`, flattened as the environment's are unless the file holds them flat already."""
    parts = expected.parts
    if isinstance(group.get("observations"), h5py.Dataset):
        array, flat = _array(group, name, "observations"), (count, expected.state_size)
        alone = len(parts) == 1 and not parts[0].place  # the state itself, as the environment gives it
        shape = (count, *(parts[0].space.shape or ())) if alone else flat
        if alone and array.shape != flat:
            _check_shape(name, "observations", array, shape)
            return _flattened(name, parts[0], array)
        _check_shape(name, "observations", array, flat)
        return array[()]
    arrays = [_array(group, name, f"observations/{part.place}".strip("/")) for part in parts]
    for part, array in zip(parts, arrays, strict=True):
        _check_shape(name, f"observations/{part.place}", array, (count, *(part.space.shape or ())))
    return np.concatenate([_flattened(name, *each) for each in zip(parts, arrays, strict=True)], axis=1)


def _flattened(name: str, part: Part, array: h5py.Dataset) -> np.ndarray:
    """Values of one part as Gymnasium flattens them; it would refuse a number that none of its choices has."""
    values = part.flat(array[()])
    if part.choices and not (values.sum(axis=1) == part.choices).all():
        step = int(np.argmax(values.sum(axis=1) != part.choices))
        place = f"observations/{part.place}".strip("/")
        raise _EpisodeError(
            f"{name}: {place} have {array[step].tolist()} at step {step}; expected values of {part.space}"
        )
    return values


def _check_shape(name: str, field: str, array: h5py.Dataset, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise _EpisodeError(f"{name}: {field} have shape {array.shape}; expected {shape}")


def _array(group: h5py.Group, name: str, field: str) -> Any:
    array = group.get(field)
    if not isinstance(array, h5py.Dataset):
        raise _EpisodeError(f"{name} has no {field}")
    if array.dtype.kind not in NUMBERS:
        raise _EpisodeError(f"{name}: {field} are of type {array.dtype}; expected real numbers or truth values")
    return array


def _check_values(name: str, episode: Episode, expected: Expected) -> None:
    for field, values in episode._asdict().items():
        for step, value in _where(~(np.abs(values) <= np.float64(LARGEST)), values):
            raise _EpisodeError(f"{name}: {field} have {value} at step {step}; expected numbers within ±{LARGEST:g}")
    beyond = BEYOND_BOUNDS * np.maximum(
        1, np.subtract(expected.high, expected.low, dtype=float)
    )  # the largest float32, twice
    outside = (episode.actions < expected.low - beyond) | (episode.actions > expected.high + beyond)
    for step, value in _where(outside, episode.actions):
        raise _EpisodeError(f"{name}: actions have {value} at step {step}; it is beyond the environment's bounds")


def _where(wrong: np.ndarray, values: np.ndarray) -> Iterator[tuple[int, Any]]:
    """Step and value of what is wrong."""
    for place in np.argwhere(wrong):
        yield int(place[0]), values[tuple(place)]
