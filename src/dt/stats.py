"""From a Minari dataset to flat arrays and the statistics that normalise them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from dt.data import LARGEST, SMALLEST_SCALE, DataError, Normalisation, Trajectories, check_scale, ranges, returns_to_go
from dt.environments import make_environment
from dt.episodes import Expected, read_episodes
from dt.existing import data_file
from dt.files import checksum
from dt.streams import integer, reset_seeds, stream

log = logging.getLogger(__name__)
NOISE = 1e-12  # of a component around 0: a few thousand roundings, in float64, of numbers of size 1
BEST_DECILE = 0.9
RANDOM_EPISODES = 30


def read_minari(
    folder: Path, trajectories: int, gamma: float, env_id: str, arguments: dict[str, Any] | None = None
) -> tuple[Trajectories, dict[str, Any]]:
    """The first `trajectories` episodes of the Minari dataset in `folder`, and its statistics.

    Raises DataError if there are fewer episodes than asked for, or one of them is none of the environment `env_id`.
    """
    expected = Expected.of(env_id, arguments or {})
    episodes = read_episodes(folder, trajectories, expected)
    starts = np.concatenate([[0], np.cumsum([len(episode.rewards) for episode in episodes])]).astype(np.int64)
    states = np.concatenate([episode.observations[:-1] for episode in episodes]).astype(np.float32)
    actions = np.concatenate([episode.actions for episode in episodes]).astype(np.float32)
    rewards = np.concatenate([episode.rewards for episode in episodes]).astype(np.float64)
    rtg = returns_to_go(rewards, starts, gamma)
    flat = Trajectories(states, actions, rtg.astype(np.float32), starts)
    totals = np.add.reduceat(rewards, starts[:-1])
    first = totals if gamma == 1 else rtg[starts[:-1]]  # what the policy is shown, so what it can be asked for
    largest = float(np.abs(rtg).max())
    if not (largest == 0 or SMALLEST_SCALE <= largest <= LARGEST):
        raise DataError(
            f"the returns-to-go in {folder} reach {largest:.3g}; float32 holds sizes from {SMALLEST_SCALE:g} to"
            f" {LARGEST:g}; multiply the rewards, in the environment and its data, by a constant"
        )
    stats: dict[str, Any] = {
        "trajectories": trajectories,
        "transitions": int(starts[-1]),
        "states": moments(states),
        "actions": {**moments(actions), "low": _bound(expected.low), "high": _bound(expected.high)},
        "returns": _spread(totals),
        "lengths": _spread(flat.lengths),
        "returns_to_go": _spread(first),
        "derived": {"target_return": float(np.quantile(first, BEST_DECILE)), "reward_scale": _magnitude(first)},
        "sha256": checksum(data_file(folder)),
    }
    for name in ("states", "actions"):
        _warn_of_constants(name, stats[name]["constant"])
    return flat, stats


def moments(values: np.ndarray) -> dict[str, list[Any]]:
    """Means and deviations of the components of `values: [N, size] float32`, and which of them are constant.

    Constant is what deviates by no more than a step of float32 at its largest value, or noise around 0: rounding has
    made it, so it is not to be blown up, and the deviation given for it is 1.
    """
    means, stds, constant = [], [], []
    for number, column in enumerate(values.T):
        first = float(column[0])
        moved = column.astype(np.float64) - first  # no digit is lost where large values differ by little
        std, step = float(moved.std()), float(np.spacing(np.abs(column).max()))
        means.append(first + float(moved.mean()))
        if std > max(step, NOISE):
            stds.append(std)
        else:
            stds.append(1.0)
            constant.append(number)
    return {"mean": means, "std": stds, "constant": constant}


def check_asked(
    name: str, asked: dict[str, Any], gamma: float, trajectories: Trajectories, stats: dict[str, Any]
) -> None:
    """Answer, before anything is trained, what the study asks of the data of the environment `name` in vain.

    `asked` holds the config's `normalise_states` and `normalise_actions`, and `reward_scale` and `target_return` where
    they are not derived. Raises DataError as training would; a target return that no data reach is warned of if γ < 1,
    where it is easily taken for an undiscounted one.
    """
    scale = asked.get("reward_scale", stats["derived"]["reward_scale"])
    Normalisation.from_stats(stats, asked, scale)
    check_scale(trajectories, scale, name)
    target, largest = asked.get("target_return"), stats["returns_to_go"]["max"]
    if gamma < 1 and target is not None and target > largest:
        log.warning(
            "warning: environments.%s.target_return is %.6g, but with data.gamma %g no episode of the data has a"
            " discounted return above %.6g at its first step; leave it out to ask for what the best decile has (%.6g)",
            name,
            target,
            gamma,
            largest,
            stats["derived"]["target_return"],
        )


def reference_returns(name: str, env_id: str, arguments: dict[str, Any], stats: dict[str, Any]) -> dict[str, float]:
    """Scores 0 and 100 of an environment without published ones: mean returns of random actions and of the data.

    `name` is the environment's in the configuration; its random episodes depend on nothing else. Raises DataError
    unless the data are better.
    """
    environment = make_environment(env_id, arguments)
    environment.action_space.seed(integer(stream("random actions", name)))
    totals = []
    for seed in reset_seeds(stream("random reset", name), RANDOM_EPISODES):
        environment.reset(seed=seed)
        total, ended = 0.0, False
        while not ended:
            _, reward, terminated, truncated, _ = environment.step(environment.action_space.sample())
            total, ended = total + reward, terminated or truncated
        totals.append(total)
    environment.close()
    random, expert = float(np.mean(totals)), stats["returns"]["mean"]
    if random >= expert:
        raise DataError(
            f"the data of {name} have a mean return of {expert:.1f}, random actions {random:.1f}: no reference returns"
            f" can be derived; set environments.{name}.reference"
        )
    return {"random": random, "expert": expert}


def _magnitude(returns: np.ndarray) -> float:
    """The power of ten that brings returns to a size of 1 to 10: 1000 for 3600, 100 for −250; 1 for none."""
    size = float(np.mean(np.abs(returns)))
    return max(float(10.0 ** np.floor(np.log10(size))), SMALLEST_SCALE) if size > 0 else 1.0


def _bound(values: np.ndarray) -> list[float | None]:
    """JSON has no infinity, and many environments call the largest float32 what has no bound."""
    return [float(value) if abs(value) <= LARGEST else None for value in values]


def _warn_of_constants(name: str, constant: list[int]) -> None:
    if constant:
        log.warning(
            "warning: %s: of the components, counted from 0, these are constant up to rounding in float32, so where %s"
            " are normalised they are not divided by their deviation: %s; should they vary, move their values nearer to"
            " 0 in the environment and its data",
            name,
            name,
            ranges(constant),
        )


def _spread(values: np.ndarray) -> dict[str, float]:
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values)),
        "min": float(np.min(values)),
        "max": float(np.max(values)),
    }
