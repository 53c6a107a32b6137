"""A Minari dataset per environment: rolled out from an expert actor, or downloaded from the Minari hub."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium

from dt.actors import Actor, Rollout, rollouts
from dt.environments import make_environment
from dt.files import reading, reason
from dt.runs import ExpectedError
from dt.streams import integer, reset_seeds, stream

log = logging.getLogger(__name__)


class DatasetError(ExpectedError):
    """A dataset could not be made, in one sentence."""


def collect(name: str, environment: dict[str, Any], actor_path: Path, trajectories: int, folder: Path) -> None:
    """Write `trajectories` episodes of the expert as a Minari dataset in `folder`.

    `environment` is the config's entry for `name`; its `action_noise` multiplies the expert's standard deviation.
    Reset seeds and action noise depend on `name` alone, so a larger dataset begins with the smaller one.
    """
    actor, env_id = Actor.load(actor_path), environment["gymnasium"]
    action_noise = environment.get("action_noise", 1.0)
    _check_sizes(actor, actor_path, env_id)
    algorithm = _algorithm(actor_path.with_suffix(".json"))
    spec = gymnasium.spec(env_id)
    seeds = reset_seeds(stream("reset", name), trajectories)
    started, buffers, returns = time.perf_counter(), [], []
    for rollout in rollouts(actor, env_id, seeds, action_noise, stream=integer(stream("action noise", name))):
        buffers.append(_episode_buffer(rollout))
        returns.append(rollout.total)
        if len(returns) % 50 == 0 or len(returns) == trajectories:
            rate = len(returns) / (time.perf_counter() - started)
            left = (trajectories - len(returns)) / rate
            mean = sum(returns) / len(returns)
            log.info("trajectory %d/%d mean return %.0f left %.0f s", len(returns), trajectories, mean, left)
    with _minari_root(folder) as root:
        from minari import create_dataset_from_buffers

        create_dataset_from_buffers(
            f"{name}/expert-v0",
            buffers,
            env=spec,
            eval_env=spec,
            algorithm_name=algorithm,
            author="dt",
            author_email="none",
            code_permalink="none",
            description=f"{trajectories} episodes of {actor_path.name}, action noise factor {action_noise}",
        )
        _put(root / name / "expert-v0", folder)


def download(minari_id: str, folder: Path) -> None:
    """Fetch a dataset from the Minari hub into `folder`; raises DatasetError, without internet for example."""
    with _minari_root(folder) as root:
        from minari import download_dataset

        try:
            download_dataset(minari_id)
        except Exception as error:  # the hub's clients raise whatever their network library does
            raise DatasetError(
                f"Minari dataset {minari_id} could not be downloaded ({reason(error)});"
                " check the connection to the Minari hub, or set `data.source: experts` to make the data here"
            ) from error
        _put(root / minari_id, folder)


def _check_sizes(actor: Actor, path: Path, env_id: str) -> None:
    environment = make_environment(env_id)
    found = (actor.state_size, actor.action_size)
    expected = (environment.observation_space.shape[0], environment.action_space.shape[0])
    environment.close()
    if found != expected:
        raise DatasetError(f"{path} has (state, action) sizes {found}, but {env_id} has {expected}")


def _algorithm(card: Path) -> str:
    with reading(card, "the model card of an expert actor", DatasetError):
        algorithm = json.loads(card.read_text(encoding="utf-8"))["algorithm"]
        if not isinstance(algorithm, str):
            raise TypeError(f"algorithm is {algorithm!r:.40}")
    return algorithm


def _episode_buffer(rollout: Rollout) -> Any:
    from minari.data_collector import EpisodeBuffer

    return EpisodeBuffer(
        seed=rollout.seed,
        observations=rollout.states,
        actions=rollout.actions,
        rewards=rollout.rewards,
        terminations=rollout.terminations,
        truncations=rollout.truncations,
    )


def _put(dataset: Path, folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    dataset.replace(folder)


@contextmanager
def _minari_root(folder: Path) -> Iterator[Path]:
    """A Minari home beside `folder`, to be renamed from when it is whole: a dataset is complete or absent."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    root = folder.with_name(f".unfinished-{folder.name}").resolve()
    shutil.rmtree(root, ignore_errors=True)  # what a killed run left
    root.mkdir()
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="minari")
            yield root
    finally:
        os.environ.pop("MINARI_DATASETS_PATH")
        if before is not None:
            os.environ["MINARI_DATASETS_PATH"] = before
        shutil.rmtree(root, ignore_errors=True)
