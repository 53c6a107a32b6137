"""Train expert actors with Stable-Baselines3's JAX implementation (extra `[experts]`), best by evaluation, resumable.

The state of a stopped training (weights, optimisers, random keys, replay buffer, best actor) lies in a folder of its
own, as msgpack, .npy and safetensors: nothing is ever pickled. A state is one folder, renamed when it is whole.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import Any

import gymnasium
import numpy as np
from safetensors.numpy import load_file, save_file

from dt.actors import Actor, rollouts
from dt.environments import make_environment, time_limit
from dt.files import write_record
from dt.runs import ExpectedError, StoppedError
from dt.streams import integer, reset_seeds, stream

log = logging.getLogger(__name__)


BEST = "best.safetensors"
CARD_EPISODES = 100
VERSIONED = ("gymnasium", "mujoco", "sbx-rl", "jax")
NETWORKS = ("actor", "qf1", "qf2", "qf")
BUFFER_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class ExpertError(ExpectedError):
    """An expert cannot be trained, in one sentence."""


def train_expert(environment: dict[str, Any], settings: dict[str, Any], folder: Path) -> tuple[Path, int]:
    """Train one actor; returns the path of the best one seen, in `folder`, and its training steps.

    SIGTERM saves the state and raises StoppedError; a kill costs what was done since the last evaluation.
    environment: `gymnasium` and perhaps `arguments`, as in the configuration.
    settings: `algorithm` (an sbx class name), `seed`, `steps`, `evaluate_every` (environment steps),
    `evaluation_episodes`, `environments` (stepped side by side) and `options` (the algorithm's own arguments).
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = _make_model(environment, settings)
    progress, best = _restore(model, folder)
    stop = _stop_on_sigterm()
    while model.num_timesteps < settings["steps"]:
        started, before = time.perf_counter(), model.num_timesteps
        steps = settings["evaluate_every"] - before % settings["evaluate_every"]
        model.learn(steps, reset_num_timesteps=before == 0, log_interval=None, callback=lambda *_: not stop.is_set())
        if stop.is_set():
            _save(model, folder, progress, best)
            raise StoppedError(f"stopped by SIGTERM; the next start goes on from {folder}")
        seconds = time.perf_counter() - started
        actor = _actor_weights(model)
        score, row = _evaluate(
            actor, environment, settings["evaluation_episodes"], seed=1_000_000 + model.num_timesteps
        )
        row = {"step": model.num_timesteps, **row}
        if score > progress["best_score"]:
            progress |= {"best_score": score, "best_step": model.num_timesteps}
            best = actor
        progress["curve"].append(row)
        _save(model, folder, progress, best)
        rate = (model.num_timesteps - before) / seconds
        left = (settings["steps"] - model.num_timesteps) / rate / 60
        log.info("%s steps/s %.0f left %.0f min best %.0f", row, rate, left, progress["best_score"])
    return _states_on_disk(folder)[-1] / BEST, progress["best_step"]


def model_card(
    actor_path: Path, name: str, environment: dict[str, Any], settings: dict[str, Any], steps: int
) -> dict[str, Any]:
    """How an actor was made and what it reaches: 100 episodes by the mode, and as `environment` has it collected."""
    action_noise = environment.get("action_noise", 1.0)
    return {
        "environment": environment["gymnasium"],
        **({"arguments": environment["arguments"]} if environment.get("arguments") else {}),
        "algorithm": settings["algorithm"],
        "steps": steps,
        "seed": settings["seed"],
        "options": settings["options"],
        "versions": {package: version(package) for package in VERSIONED},
        "deterministic": describe(Actor.load(actor_path), name, environment, 0.0),
        "collected": {
            "action_noise": action_noise,
            **describe(Actor.load(actor_path), name, environment, action_noise),
        },
    }


def describe(actor: Actor, name: str, environment: dict[str, Any], action_noise: float) -> dict[str, float]:
    """Returns and lengths over the card's episodes."""
    seeds = reset_seeds(stream("card", name), CARD_EPISODES)
    env_id, arguments = environment["gymnasium"], environment.get("arguments", {})
    episodes = list(rollouts(actor, env_id, seeds, action_noise, integer(stream("card noise", name)), arguments))
    returns = np.array([episode.total for episode in episodes])
    limit = time_limit(env_id, arguments)
    return {
        "episodes": len(episodes),
        "return_mean": round(float(returns.mean()), 1),
        "return_std": round(float(returns.std()), 1),
        "return_min": round(float(returns.min()), 1),
        "length_mean": round(float(np.mean([len(episode) for episode in episodes])), 1),
        "full_length": float(np.mean([len(episode) == limit for episode in episodes])),
    }


def _make_model(environment: dict[str, Any], settings: dict[str, Any]) -> Any:
    try:
        import sbx
        from stable_baselines3.common.env_util import make_vec_env
    except ImportError as error:
        raise ExpertError(f"training experts needs the extra [experts] ({error}): make experts installs it") from error

    def make() -> gymnasium.Env:
        return make_environment(environment["gymnasium"], environment.get("arguments"))

    environments = make_vec_env(make, n_envs=settings["environments"], seed=settings["seed"])
    algorithm = getattr(sbx, settings["algorithm"])
    return algorithm("MlpPolicy", environments, seed=settings["seed"], **settings["options"])


def _evaluate(
    weights: dict[str, np.ndarray], environment: dict[str, Any], episodes: int, seed: int
) -> tuple[float, dict[str, Any]]:
    """Mean return over episodes of which half follow the mode, half the full action noise."""
    returns: dict[str, float] = {}
    for name, action_noise in (("deterministic", 0.0), ("stochastic", 1.0)):
        seeds = [seed + episode for episode in range(episodes // 2)]
        rolled = rollouts(
            Actor(weights), environment["gymnasium"], seeds, action_noise, seed, environment.get("arguments")
        )
        episodes_run = list(rolled)
        returns[name] = round(float(np.mean([episode.total for episode in episodes_run])), 1)
        returns[f"{name}_length"] = round(float(np.mean([len(episode) for episode in episodes_run])), 1)
    return (returns["deterministic"] + returns["stochastic"]) / 2, returns


def _actor_weights(model: Any) -> dict[str, np.ndarray]:
    """The actor alone, in torch order `[out, in]`."""
    weights = {}
    for layer, parts in model.policy.actor_state.params["params"].items():
        weights[f"params.{layer}.weight"] = np.ascontiguousarray(np.asarray(parts["kernel"]).T)
        weights[f"params.{layer}.bias"] = np.asarray(parts["bias"]).copy()
    return weights


def _stop_on_sigterm() -> Event:
    """Set once SIGTERM has come."""
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return stop


def _states(model: Any) -> dict[str, Any]:
    networks = {f"{name}_state": getattr(model.policy, f"{name}_state", None) for name in NETWORKS}
    networks = {name: state for name, state in networks.items() if state is not None}
    return networks | {"ent_coef_state": model.ent_coef_state}


def _states_on_disk(folder: Path) -> list[Path]:
    """The whole states in a folder, the newest last; a kill may leave more than one."""
    return sorted(folder.glob("step*"), key=lambda path: int(path.name.removeprefix("step")))


def _save(model: Any, folder: Path, progress: dict[str, Any], best: dict[str, np.ndarray]) -> None:
    """Write a state beside the older one, rename it, and delete the older one."""
    from flax.serialization import to_bytes

    unfinished, place = folder / ".unfinished", folder / f"step{model.num_timesteps}"
    shutil.rmtree(unfinished, ignore_errors=True)  # what a killed process left
    used = model.replay_buffer.size()
    for name in BUFFER_ARRAYS:
        array = getattr(model.replay_buffer, name)[:used]
        write_record(unfinished / f"{name}.npy", partial(np.save, arr=array, allow_pickle=False))
    learner = to_bytes({"networks": _states(model), "key": model.key})
    write_record(unfinished / "learner.msgpack", lambda path: path.write_bytes(learner))
    if best:
        write_record(unfinished / BEST, lambda path: save_file(best, path))
    progress |= {
        "steps": model.num_timesteps,
        "updates": model._n_updates,
        "position": model.replay_buffer.pos,
        "full": model.replay_buffer.full,
    }
    write_record(
        unfinished / "progress.json", lambda path: path.write_text(json.dumps(progress, indent=1), encoding="utf-8")
    )
    older = _states_on_disk(folder)
    if place not in older:  # else SIGTERM came before the first step
        unfinished.replace(place)
        for path in older:
            shutil.rmtree(path)


def _restore(model: Any, folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Load what `_save` left into the model; the episodes that were under way start afresh."""
    from flax.serialization import from_bytes

    if not (states := _states_on_disk(folder)):
        return {"best_score": float("-inf"), "best_step": 0, "curve": []}, {}
    folder = states[-1]
    progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    learner = from_bytes({"networks": _states(model), "key": model.key}, (folder / "learner.msgpack").read_bytes())
    model.key = learner["key"]
    for name, state in learner["networks"].items():
        setattr(model if name == "ent_coef_state" else model.policy, name, state)
    for name in BUFFER_ARRAYS:
        array = np.load(folder / f"{name}.npy", allow_pickle=False)
        getattr(model.replay_buffer, name)[: len(array)] = array
    model.replay_buffer.pos, model.replay_buffer.full = progress["position"], progress["full"]
    model.num_timesteps, model._n_updates = progress["steps"], progress["updates"]
    log.info("resumed at step %d, best %.0f", progress["steps"], progress["best_score"])
    return progress, load_file(folder / BEST) if (folder / BEST).exists() else {}
