"""Evaluate a policy, or every snapshot of a run: it asks for a target return and acts until each episode ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path

import gymnasium
import numpy as np
import torch
from torch import Tensor

from dt.acting import ActingTransformer
from dt.environments import Environment, EnvironmentNameError, make_environment, vectors
from dt.policy import Policy, PolicyError
from dt.snapshots import read_snapshot, snapshot_epochs
from dt.stepping import LARGEST
from dt.streams import reset_seeds, stream

log = logging.getLogger(__name__)
MOST_EPISODES = 1_000_000_000
LANES = 8  # episodes side by side; the weights and tokens of more leave a core's cache


@dataclass(frozen=True)
class Episode:
    """One evaluation episode; `total` is its undiscounted return."""

    episode: int
    total: float
    length: int


def evaluate(
    policy: Policy,
    episodes: int = 100,
    target_return: float | None = None,
    seed: int = 0,
    first: gymnasium.Env | None = None,
) -> list[Episode]:
    """Episodes of a policy as it is, in the environment of its task.

    `target_return` is what it asks for (default: what its study asked for, see `asked_return`); equal `seed` means
    equal episodes, of which a larger number begins with the smaller one (to the bit on one machine's CPU). The first
    one is run in `first`, if given. Raises PolicyError if the policy does not fit its environment, or there is no such
    target return or number of episodes; EpisodeError if the environment fails, or a reward, state or action is not
    finite.
    """
    target_return = asked_return(policy, target_return)
    if not isinstance(episodes, Integral) or not 1 <= episodes <= MOST_EPISODES:
        raise PolicyError(f"{episodes} episodes cannot be evaluated; allowed are 1 to {MOST_EPISODES}")
    count = min(LANES, episodes)
    made = [make_environment(policy.task.gymnasium, policy.task.arguments) for _ in range(count - (first is not None))]
    environments = made
    if first is not None:
        check_fit(policy, first)
        checked = isinstance(first, Environment)
        environments = [first if checked else Environment(first, policy.model.architecture.max_episode_length), *made]
    check_fit(policy, environments[0])
    seeds, weights, finished = np.array(reset_seeds(stream("evaluate", seed), episodes)), policy.model.state_dict(), []
    for start in range(0, episodes, count):
        part = seeds[None, start : start + count]
        (results,) = roll_out(policy, [weights], environments, target_return, part)
        finished += [replace(result, episode=start + result.episode) for result in results]
    for environment in made:
        environment.close()
    return finished


def asked_return(policy: Policy, target_return: float | None) -> float:
    """`target_return`, or what the policy's study asked for, or what the best decile of its data reached.

    Raises PolicyError if none of them is known, or it is no finite number.
    """
    known = (target_return, policy.task.target_return, policy.task.data_return)
    asked = next((value for value in known if value is not None), None)
    if asked is None:
        raise PolicyError("the policy does not know the returns of its data; say which target return to ask for")
    if not isinstance(asked, Real) or isinstance(asked, bool) or not abs(asked) <= LARGEST:
        raise PolicyError(f"a target return of {asked!r:.40} cannot be asked for; allowed is a finite number")
    return float(asked)


def evaluate_snapshots(
    policy: Policy, snapshots: Path, target_return: float, seeds: np.ndarray, skip: int = 0
) -> Iterator[tuple[int, list[Episode]]]:
    """(epoch, episodes) for each snapshot in the file but the first `skip`; reset seeds are `[snapshots, episodes]`.

    On the device of `policy.model`. A GPU takes all snapshots in one batch, so nothing comes out before all are done; a
    CPU takes one after another, whose weights and tokens then stay in its caches. Raises PolicyError if the policy or a
    snapshot does not fit the environment or each other.
    """
    epochs, on_gpu = snapshot_epochs(snapshots), policy.model.final_norm.weight.is_cuda
    together = max(1, len(epochs) - skip) if on_gpu else 1
    environments = [
        make_environment(policy.task.gymnasium, policy.task.arguments) for _ in range(together * seeds.shape[1])
    ]
    check_fit(policy, environments[0])
    started = time.perf_counter()
    for start in range(skip, len(epochs), together):
        part = slice(start, start + together)
        weights = [read_snapshot(snapshots, epoch, policy.model) for epoch in epochs[part]]
        results = roll_out(policy, weights, environments, target_return, seeds[part])
        done = start + len(results)
        left = (time.perf_counter() - started) / (done - skip) * (len(epochs) - done)
        for epoch, episodes in zip(epochs[part], results, strict=True):
            means = np.mean([e.total for e in episodes]), np.mean([e.length for e in episodes])
            log.info("epoch %d mean return %.0f mean length %.0f left %.0f s", epoch, *means, left)
            yield epoch, episodes
    for environment in environments:
        environment.close()


def check_fit(policy: Policy, environment: gymnasium.Env) -> None:
    """Raise PolicyError unless the policy has the environment's sizes and time steps for a whole episode."""
    architecture = policy.model.architecture
    limit = environment.spec.max_episode_steps if environment.spec else None
    try:
        spaces = environment.observation_space, environment.action_space
        states, actions = (vectors(space).shape[0] for space in spaces)
    except EnvironmentNameError as error:
        raise PolicyError(f"the policy acts on vectors of one environment, but {error}") from error
    sizes = {"states": (architecture.state_size, states), "actions": (architecture.action_size, actions)}
    for what, (found, expected) in sizes.items():
        if found != expected:
            raise PolicyError(
                f"the policy has {what} of size {found}, but those of {policy.task.gymnasium} have {expected}"
            )
    if limit is not None and architecture.max_episode_length < limit:
        raise PolicyError(f"the policy knows {architecture.max_episode_length} time steps; an episode may have {limit}")


def roll_out(
    policy: Policy,
    snapshots: list[dict[str, Tensor]],
    environments: Sequence[gymnasium.Env],
    target_return: float,
    seeds: np.ndarray,
) -> list[list[Episode]]:
    """One episode per snapshot and reset seed (`seeds: [snapshots, episodes]`), a batch that finished ones leave.

    Every episode starts its return-to-go at the target return, subtracts what it receives, and shows the model the last
    K steps (Chen et al. 2021, algorithm 1). On one machine's CPU it depends on the weights, the target return and its
    reset seed alone, to the bit; on a GPU also, through rounding, on how many run beside it.
    """
    acting = ActingTransformer(policy.model, snapshots, seeds.shape[1], policy.task.context)
    normalisation, actions_space = policy.normalisation, vectors(environments[0].action_space)
    low, high = actions_space.low, actions_space.high
    totals, lengths = np.zeros(seeds.size), np.zeros(seeds.size, dtype=int)
    return_to_go = np.full(seeds.size, float(target_return))
    states = np.zeros((seeds.size, policy.model.architecture.state_size))  # float64, whatever the first states are
    for lane, seed in enumerate(seeds.flat):
        states[lane], _ = environments[lane].reset(seed=int(seed))
    lanes: np.ndarray = np.arange(seeds.size).reshape(seeds.shape)
    step = 0
    active, actions = np.ones(seeds.shape, dtype=bool), np.zeros((*seeds.shape, *low.shape), dtype=np.float32)
    while active.any():
        if step == policy.model.architecture.max_episode_length:
            raise PolicyError(f"the policy knows {step} time steps, and an episode goes on; give it a time limit")
        seen = (
            normalisation.states(states[lanes]),
            np.float32(return_to_go[lanes, None] / normalisation.reward_scale),
            normalisation.actions(actions),
        )
        predicted = acting.act(step, *map(torch.from_numpy, seen)).cpu().numpy()
        actions = np.clip(normalisation.raw_actions(predicted), low, high)
        actions[~np.isfinite(predicted)] = np.nan  # no bound makes an action of what is none; the environment says so
        step += 1
        for place in zip(*np.nonzero(active), strict=True):
            lane = lanes[place]
            states[lane], reward, terminated, truncated, _ = environments[lane].step(actions[place])
            totals[lane] += reward
            return_to_go[lane] = next_return_to_go(return_to_go[lane], reward, target_return, policy.task.gamma)
            active[place] = not (terminated or truncated)
            lengths[lane] = step
        most = active.sum(1).max()
        if most < lanes.shape[1]:
            stay = np.argsort(~active, axis=1, kind="stable")[:, :most]  # those that finished follow the active ones
            acting.keep(torch.from_numpy(stay))
            lanes, active = (np.take_along_axis(each, stay, 1) for each in (lanes, active))
            actions = np.take_along_axis(actions, stay[:, :, None], 1)
    finished = [Episode(lane % seeds.shape[1], float(totals[lane]), int(lengths[lane])) for lane in range(seeds.size)]
    return [finished[first : first + seeds.shape[1]] for first in range(0, seeds.size, seeds.shape[1])]


def next_return_to_go(return_to_go: float, reward: float, target_return: float, gamma: float) -> float:
    """What is left to ask for after a reward: `(G − R) / γ`.

    With γ < 1 it stays within ± the target return: it would grow without bound once the policy earns less than asked.
    """
    left = (return_to_go - reward) / gamma
    return left if gamma == 1 else float(np.clip(left, -abs(target_return), abs(target_return)))
