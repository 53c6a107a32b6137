"""Trajectories as flat, memory-mapped arrays, and the windows that a Decision Transformer learns from."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dt.broken import reading, remake
from dt.files import write_whole
from dt.runs import ExpectedError

log = logging.getLogger(__name__)
ARRAYS = {
    "states": (2, "f4"),
    "actions": (2, "f4"),
    "returns_to_go": (1, "f4"),
    "starts": (1, "i8"),
}  # dimensions, type
LARGEST = 1e30  # of a number in the data; a sum of a million such rewards is still a float32
SMALLEST_SCALE = 1.2e-38  # of returns: a smaller number is none in float32, or one of a few digits
LARGEST_INPUT = 1e15  # of a model: sums of its square are still a float32
TOO_WIDE = 100  # bounds of actions, in deviations of the data


class DataError(ExpectedError):
    """A dataset does not fit what is asked of it, in one sentence."""


@dataclass(frozen=True)
class Trajectories:
    """Episodes one after another: N transitions of n trajectories.

    states: [N, S] float32; actions: [N, A] float32; returns_to_go: [N] float32, unscaled; starts: [n+1] int64, so
    that trajectory i is the slice `starts[i]:starts[i+1]`.
    """

    states: np.ndarray
    actions: np.ndarray
    returns_to_go: np.ndarray
    starts: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    def save(self, folder: Path) -> None:
        for name in ARRAYS:
            write_whole(folder / f"{name}.npy", partial(np.save, arr=getattr(self, name)))

    @classmethod
    def open(cls, folder: Path) -> Trajectories:
        """Memory-map the arrays of a folder: jobs on one machine share one copy. Raises DataError unless they fit."""
        arrays = {name: _open_array(folder / f"{name}.npy", *kind) for name, kind in ARRAYS.items()}
        starts, rows = arrays["starts"], {len(arrays[name]) for name in ARRAYS if name != "starts"}
        if len(starts) < 2 or starts[0] != 0 or (np.diff(starts) < 1).any() or rows != {int(starts[-1])}:
            raise DataError(f"the arrays in {folder} do not belong together{remake(folder / 'starts.npy')}")
        return cls(**arrays)


@dataclass(frozen=True)
class Normalisation:
    """What brings states, actions and returns to the model's scale; `x → (x − mean) / std`, `G → G / reward_scale`."""

    state_mean: tuple[float, ...]
    state_std: tuple[float, ...]
    action_mean: tuple[float, ...]
    action_std: tuple[float, ...]
    reward_scale: float

    @classmethod
    def from_stats(cls, stats: dict[str, Any], data: dict[str, Any], reward_scale: float) -> Normalisation:
        """From a stats file, as far as the config's `data` block asks for it.

        Actions that are not normalised are brought from their bounds to [-1, 1], the range of tanh; one that can take a
        single value becomes 0. Raises DataError if they have no bounds, and warns if these are far wider than the data.
        """
        states, actions = stats["states"], stats["actions"]
        same = cls.identity(len(states["mean"]), len(actions["mean"]), reward_scale)
        state_mean, state_std = same.state_mean, same.state_std
        if data["normalise_states"]:
            state_mean, state_std = states["mean"], states["std"]
        if data["normalise_actions"]:
            action_mean, action_std = actions["mean"], actions["std"]
        else:
            action_mean, action_std = _centre_and_reach(actions["low"], actions["high"])
            _warn_of_wide_bounds(action_std, actions["std"])
        return cls(tuple(state_mean), tuple(state_std), tuple(action_mean), tuple(action_std), reward_scale)

    @classmethod
    def identity(cls, state_size: int, action_size: int, reward_scale: float) -> Normalisation:
        """States and actions stay as they are."""
        return cls((0.0,) * state_size, (1.0,) * state_size, (0.0,) * action_size, (1.0,) * action_size, reward_scale)

    def states(self, states: np.ndarray) -> np.ndarray:
        """Normalise states `[…, S]`, of the data or of a simulator; equal ones become equal to the bit, in float32."""
        return _standardised(states, self.state_mean, self.state_std)

    def actions(self, actions: np.ndarray) -> np.ndarray:
        """Normalise actions `[…, A]` as `states` does states."""
        return _standardised(actions, self.action_mean, self.action_std)

    def raw_actions(self, actions: np.ndarray) -> np.ndarray:
        """The inverse of `actions`, float32."""
        return (actions * np.array(self.action_std) + np.array(self.action_mean)).astype(np.float32)

    @classmethod
    def from_lists(cls, fields: dict[str, Any]) -> Normalisation:
        """The inverse of `asdict`, also after JSON made lists of tuples."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
        }
        return cls(**values)


def read_stats(path: Path) -> dict[str, Any]:
    """A stats file; raises DataError unless it holds means and deviations that can normalise."""
    with reading(path, "a statistics file", DataError):
        stats = json.loads(path.read_text(encoding="utf-8"))
        moments = {name: (stats[name]["mean"], stats[name]["std"]) for name in ("states", "actions")}
        for name, (means, stds) in moments.items():
            if not (all(map(_finite, (*means, *stds))) and len(means) == len(stds) > 0 and min(stds) > 0):
                raise DataError(f"{path}: {name} have no finite means and deviations > 0{remake(path)}")
        low, high = stats["actions"]["low"], stats["actions"]["high"]
        bounds = zip(low, high, strict=True)
        if len(low) != len(moments["actions"][0]) or not all(_unbounded(pair) or _bounded(pair) for pair in bounds):
            raise DataError(f"{path}: actions have no bounds, low ≤ high{remake(path)}")
        derived = stats["derived"]
        target, scale = derived["target_return"], derived["reward_scale"]
        if not (_finite(target) and _finite(scale) and scale >= SMALLEST_SCALE):
            raise DataError(
                f"{path}: derived values are not finite, with a reward_scale ≥ {SMALLEST_SCALE}{remake(path)}"
            )
        reference = derived.get("reference")
        if reference is not None and not _in_order((reference["random"], reference["expert"])):
            raise DataError(f"{path}: derived reference returns are not finite, random < expert{remake(path)}")
    return stats


def check_sizes(trajectories: Trajectories, stats: dict[str, Any], folder: Path) -> None:
    """Raise DataError unless the arrays in `folder` are as wide as their statistics."""
    for name in ("states", "actions"):
        path, found = folder / f"{name}.npy", getattr(trajectories, name).shape[1]
        if found != (expected := len(stats[name]["mean"])):
            raise DataError(f"{path} has {found} columns, but its statistics {expected}{remake(path)}")


def check_scale(trajectories: Trajectories, reward_scale: float, environment: str) -> None:
    """Raise DataError unless returns-to-go, divided by the scale, are of a size that a model can learn from."""
    largest = float(np.abs(trajectories.returns_to_go).max())
    if largest / reward_scale > LARGEST_INPUT:
        raise DataError(
            f"the returns-to-go of {environment} reach {largest:.4g}, too much once divided by its reward_scale,"
            f" {reward_scale:.4g}; raise environments.{environment}.reward_scale to the size of the returns"
        )


@dataclass(frozen=True)
class Windows:
    """A batch of B windows of K steps, normalised; positions after an episode's end are zero and `mask` is False.

    states: [B, K, S], actions: [B, K, A], returns_to_go: [B, K, 1] float32; timesteps: [B, K] int64; mask: [B, K] bool.
    """

    states: np.ndarray
    actions: np.ndarray
    returns_to_go: np.ndarray
    timesteps: np.ndarray
    mask: np.ndarray


def returns_to_go(rewards: np.ndarray, starts: np.ndarray, gamma: float) -> np.ndarray:
    """`G_t = Σ_k γ^k R_{t+k+1}` within each trajectory, `[N]` float64 (Chen et al. 2021, section 3)."""
    result = np.array(rewards, dtype=np.float64)
    lengths = np.diff(starts)
    for back in range(2, lengths.max() + 1):  # all trajectories at once, from their ends backwards
        positions = starts[1:][lengths >= back] - back
        result[positions] += gamma * result[positions + 1]
    return result


def batches(
    trajectories: Trajectories, sampling: str, batch_size: int, context: tuple[int, int], generator: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """One epoch: (trajectory indices [B], first steps [B], K) per batch; the last partial batch is dropped.

    `trajectory` takes one window of each trajectory, in random order; `transition` as many windows, each starting
    at a transition drawn uniformly from all (Chen et al. 2021, appendix).
    """
    lengths = trajectories.lengths
    count = len(lengths) // batch_size
    if sampling == "trajectory":
        indices = generator.permutation(len(lengths))[: count * batch_size]
        first_steps = generator.integers(0, lengths[indices])
    else:
        flat = generator.integers(0, trajectories.starts[-1], count * batch_size)
        indices = np.searchsorted(trajectories.starts, flat, side="right") - 1
        first_steps = flat - trajectories.starts[indices]
    contexts = generator.integers(context[0], context[1] + 1, count)
    for batch in range(count):
        part = slice(batch * batch_size, (batch + 1) * batch_size)
        yield indices[part], first_steps[part], int(contexts[batch])


def gather(
    trajectories: Trajectories, normalisation: Normalisation, indices: np.ndarray, first_steps: np.ndarray, context: int
) -> Windows:
    """The windows of `context` steps that start at `first_steps` of the trajectories `indices`, both `[B]`."""
    timesteps = first_steps[:, None] + np.arange(context)
    mask = timesteps < trajectories.lengths[indices][:, None]
    timesteps = np.where(mask, timesteps, 0)
    rows = trajectories.starts[indices][:, None] + timesteps
    keep = mask[:, :, None].astype(np.float32)
    return Windows(
        normalisation.states(trajectories.states[rows]) * keep,
        normalisation.actions(trajectories.actions[rows]) * keep,
        trajectories.returns_to_go[rows][:, :, None] / np.float32(normalisation.reward_scale) * keep,
        timesteps,
        mask,
    )


def ranges(numbers: list[int]) -> str:
    """`0, 3 to 5` for 0, 3, 4, 5."""
    known = set(numbers)
    firsts = [number for number in numbers if number - 1 not in known]
    lasts = [number for number in numbers if number + 1 not in known]
    pairs = zip(firsts, lasts, strict=True)
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in pairs)


def _finite(value: Any) -> bool:
    return type(value) is float and math.isfinite(value)


def _in_order(pair: tuple[Any, Any]) -> bool:
    return all(map(_finite, pair)) and pair[0] < pair[1]


def _bounded(pair: tuple[Any, Any]) -> bool:
    return _in_order(pair) or (all(map(_finite, pair)) and pair[0] == pair[1])


def _unbounded(pair: tuple[Any, Any]) -> bool:
    return None in pair and all(value is None or _finite(value) for value in pair)


def _standardised(values: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """`(x − mean) / std` in float64 of x in float32, as the arrays hold it: a simulator's digits beyond are dropped."""
    result = np.asarray(values, np.float32) - np.array(mean)
    result /= np.array(std)
    return result.astype(np.float32)


def _centre_and_reach(low: list[float | None], high: list[float | None]) -> tuple[list[float], list[float]]:
    """Of bounded actions; 0 and 1 for those between -1 and 1. The reach of a single value is 1."""
    bounds = [(least, most) for least, most in zip(low, high, strict=True) if least is not None and most is not None]
    if len(bounds) < len(low):
        raise DataError(
            f"the environment's actions have no bounds (beyond {LARGEST:g} counts as none);"
            " set data.normalise_actions: true"
        )
    return [(least + most) / 2 for least, most in bounds], [(most - least) / 2 or 1.0 for least, most in bounds]


def _warn_of_wide_bounds(reach: list[float], stds: list[float]) -> None:
    wide = [number for number, std in enumerate(stds) if reach[number] > TOO_WIDE * std]
    if wide:
        log.warning(
            "warning: actions: the bounds of components %s (counted from 0) reach over more than %d deviations of the"
            " data, so a small error of the policy is larger than what the data do; set data.normalise_actions: true",
            ranges(wide),
            TOO_WIDE,
        )


def _open_array(path: Path, dimensions: int, kind: str) -> np.ndarray:
    with reading(path, "an array without objects", DataError):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.ndim != dimensions or array.dtype != np.dtype(kind):
            raise DataError(
                f"{path} has {array.ndim} dimensions of {array.dtype}; expected {dimensions} of {kind}{remake(path)}"
            )
    return array
