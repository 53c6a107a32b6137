"""Make a Minari dataset: roll out an expert actor, or link to one that is there; `dt.hub` downloads one."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from gymnasium import Space

from dt.actors import Actor, Rollout, rollouts
from dt.broken import reading
from dt.data import DataError
from dt.environments import environment_spec, make_environment
from dt.episodes import Expected, check_dataset
from dt.existing import data_file, metadata_file
from dt.files import WriteError, checksum, refuse_if_left_behind, sync, unfinished_path
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
    actor, env_id, arguments = Actor.load(actor_path), environment["gymnasium"], environment.get("arguments", {})
    action_noise = environment.get("action_noise", 1.0)
    states = _check_sizes(actor, actor_path, env_id, arguments)
    algorithm = _algorithm(actor_path.with_suffix(".json"))
    seeds = reset_seeds(stream("reset", name), trajectories)
    started, buffers, returns = time.perf_counter(), [], []
    noise = integer(stream("action noise", name))
    for rollout in rollouts(actor, env_id, seeds, action_noise, noise, arguments):
        buffers.append(_episode_buffer(rollout))
        returns.append(rollout.total)
        if len(returns) % 50 == 0 or len(returns) == trajectories:
            rate = len(returns) / (time.perf_counter() - started)
            left = (trajectories - len(returns)) / rate
            mean = sum(returns) / len(returns)
            log.info("trajectory %d/%d mean return %.0f left %.0f s", len(returns), trajectories, mean, left)
    with _minari_root(folder) as root:
        from minari import create_dataset_from_buffers

        spec = environment_spec(env_id, arguments)
        create = partial(
            create_dataset_from_buffers,
            f"{name}/expert-v0",
            buffers,
            env=spec,
            eval_env=spec,
            observation_space=states,
            algorithm_name=algorithm,
            author="dt",
            author_email="none",
            code_permalink="none",
            description=f"{trajectories} episodes of {actor_path.name}, action noise factor {action_noise}",
        )
        _in_a_child(create)
        put(root / name / "expert-v0", folder)


def link(dataset: Path, expected: Expected, folder: Path, sha256: str | None = None) -> None:
    """Make `folder` a dataset whose files are links to those of `dataset`: it is used where it lies.

    Raises DatasetError unless it is whole, of the environment, and has the checksum if one is known.
    """
    dataset = dataset.resolve()
    if sha256 is not None and (found := checksum(data_file(dataset))) != sha256:
        raise DatasetError(f"{data_file(dataset)} has sha256 {found}, but the configuration says {sha256}")
    try:
        check_dataset(dataset, expected)
    except DataError as error:  # its cure is not to delete what is the user's
        raise DatasetError(str(error).split("; delete ")[0]) from error
    unfinished = unfinished_path(folder.resolve())
    try:
        (unfinished / "data").mkdir(parents=True)
        for path in (metadata_file(dataset), data_file(dataset)):
            (unfinished / "data" / path.name).symlink_to(path)
        put(unfinished, folder)
    except OSError as error:
        raise WriteError(folder, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    log.info("%s is used where it lies", dataset)


def put(dataset: Path, folder: Path) -> None:
    """Move a whole dataset to its place, once it is on the disk."""
    refuse_if_left_behind(folder)
    for path in dataset.rglob("*"):
        if path.is_file():
            sync(path)
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    dataset.replace(folder)


def _check_sizes(actor: Actor, path: Path, env_id: str, arguments: dict[str, Any]) -> Space:
    """The space of states, flattened; raises DatasetError unless the actor fits the environment."""
    environment = make_environment(env_id, arguments)
    found = (actor.state_size, actor.action_size)
    expected = (environment.state_size, len(environment.low))
    environment.close()
    if found != expected:
        raise DatasetError(f"{path} has (state, action) sizes {found}, but {env_id} has {expected}")
    return environment.observation_space


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


def _in_a_child(write: Callable[[], object]) -> None:
    """HDF5 may crash the process where a disk is full, or not say so: raises OSError if it does in a child process."""
    child = multiprocessing.get_context("fork").Process(target=_write_and_exit, args=(write,))
    child.start()
    try:
        child.join()
    finally:
        child.kill()
    if child.exitcode:
        raise OSError(f"HDF5 failed, exit code {child.exitcode}")


def _write_and_exit(write: Callable[[], object]) -> None:
    ignored: list[Any] = []
    sys.excepthook, sys.unraisablehook = (lambda *_: None), ignored.append  # pages of them, when a file is closed
    try:
        write()
    except Exception as error:
        log.error("%s: %s", type(error).__name__, str(error)[:300])
        os._exit(1)
    os._exit(1 if ignored else 0)


@contextmanager
def _minari_root(folder: Path) -> Iterator[Path]:
    """A Minari home beside `folder`, to be renamed from when it is whole: a dataset is complete or absent."""
    root = unfinished_path(folder.resolve())
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    try:
        root.mkdir(parents=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="minari")
            yield root
    except OSError as error:
        raise WriteError(folder, error) from error
    finally:
        os.environ.pop("MINARI_DATASETS_PATH")
        if before is not None:
            os.environ["MINARI_DATASETS_PATH"] = before
        shutil.rmtree(root, ignore_errors=True)
