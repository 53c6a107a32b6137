"""Train expert actors with Stable-Baselines3's JAX implementation (extra `[experts]`), best by evaluation, resumable.

The state of a stopped training (weights, optimisers, random keys, replay buffer) lies in a folder of its own, as
msgpack and .npy: nothing is ever pickled.
"""

from __future__ import annotations

import json
import logging
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from dt.actors import Actor, rollouts
from dt.environments import make_environment, time_limit
from dt.files import write_whole
from dt.runs import ExpectedError
from dt.streams import integer, reset_seeds, stream

log = logging.getLogger(__name__)


CARD_EPISODES = 100
VERSIONED = ("gymnasium", "mujoco", "sbx-rl", "jax")
NETWORKS = ("actor", "qf1", "qf2", "qf")
BUFFER_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class ExpertError(ExpectedError):
    """An expert cannot be trained, in one sentence."""


def train_expert(env_id: str, settings: dict[str, Any], folder: Path) -> tuple[Path, int]:
    """Train one actor; returns the path of the best one seen, `folder/best.safetensors`, and its training steps.

    settings: `algorithm` (an sbx class name), `seed`, `steps`, `evaluate_every` (environment steps),
    `evaluation_episodes`, `environments` (stepped side by side) and `options` (the algorithm's own arguments).
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = _make_model(env_id, settings)
    progress = _restore(model, folder)
    while model.num_timesteps < settings["steps"]:
        started, before = time.perf_counter(), model.num_timesteps
        model.learn(settings["evaluate_every"], reset_num_timesteps=before == 0, log_interval=None)
        seconds = time.perf_counter() - started
        actor = _actor_weights(model)
        score, row = _evaluate(actor, env_id, settings["evaluation_episodes"], seed=1_000_000 + model.num_timesteps)
        row = {"step": model.num_timesteps, **row}
        if score > progress["best_score"]:
            progress |= {"best_score": score, "best_step": model.num_timesteps}
            write_whole(folder / "best.safetensors", lambda path, weights=actor: save_file(weights, path))
        progress["curve"].append(row)
        _save(model, folder, progress)
        rate = (model.num_timesteps - before) / seconds
        left = (settings["steps"] - model.num_timesteps) / rate / 60
        log.info("%s steps/s %.0f left %.0f min best %.0f", row, rate, left, progress["best_score"])
    return folder / "best.safetensors", progress["best_step"]


def model_card(
    actor_path: Path, name: str, environment: dict[str, Any], settings: dict[str, Any], steps: int
) -> dict[str, Any]:
    """How an actor was made and what it reaches: 100 episodes by the mode, and as `environment` has it collected."""
    action_noise = environment.get("action_noise", 1.0)
    return {
        "environment": environment["gymnasium"],
        "algorithm": settings["algorithm"],
        "steps": steps,
        "seed": settings["seed"],
        "options": settings["options"],
        "versions": {package: version(package) for package in VERSIONED},
        "deterministic": describe(Actor.load(actor_path), name, environment["gymnasium"], 0.0),
        "collected": {
            "action_noise": action_noise,
            **describe(Actor.load(actor_path), name, environment["gymnasium"], action_noise),
        },
    }


def describe(actor: Actor, name: str, env_id: str, action_noise: float) -> dict[str, float]:
    """Returns and lengths over the card's episodes."""
    seeds = reset_seeds(stream("card", name), CARD_EPISODES)
    episodes = list(rollouts(actor, env_id, seeds, action_noise, stream=integer(stream("card noise", name))))
    returns = np.array([episode.total for episode in episodes])
    limit = time_limit(env_id)
    return {
        "episodes": len(episodes),
        "return_mean": round(float(returns.mean()), 1),
        "return_std": round(float(returns.std()), 1),
        "return_min": round(float(returns.min()), 1),
        "length_mean": round(float(np.mean([len(episode) for episode in episodes])), 1),
        "full_length": float(np.mean([len(episode) == limit for episode in episodes])),
    }


def _make_model(env_id: str, settings: dict[str, Any]) -> Any:
    try:
        import sbx
        from stable_baselines3.common.env_util import make_vec_env
    except ImportError as error:
        raise ExpertError(f"training experts needs the extra [experts] ({error}): make experts installs it") from error

    make_environment(env_id).close()  # answers a wrong id, and takes the simulator's warnings into the log
    environments = make_vec_env(env_id, n_envs=settings["environments"], seed=settings["seed"])
    algorithm = getattr(sbx, settings["algorithm"])
    return algorithm("MlpPolicy", environments, seed=settings["seed"], **settings["options"])


def _evaluate(weights: dict[str, np.ndarray], env_id: str, episodes: int, seed: int) -> tuple[float, dict[str, Any]]:
    """Mean return over episodes of which half follow the mode, half the full action noise."""
    returns: dict[str, float] = {}
    for name, action_noise in (("deterministic", 0.0), ("stochastic", 1.0)):
        seeds = [seed + episode for episode in range(episodes // 2)]
        episodes_run = list(rollouts(Actor(weights), env_id, seeds, action_noise, stream=seed))
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


def _states(model: Any) -> dict[str, Any]:
    networks = {f"{name}_state": getattr(model.policy, f"{name}_state", None) for name in NETWORKS}
    networks = {name: state for name, state in networks.items() if state is not None}
    return networks | {"ent_coef_state": model.ent_coef_state}


def _save(model: Any, folder: Path, progress: dict[str, Any]) -> None:
    from flax.serialization import to_bytes

    used = model.replay_buffer.size()
    for name in BUFFER_ARRAYS:
        array = getattr(model.replay_buffer, name)[:used]
        write_whole(folder / f"{name}.npy", lambda path, array=array: np.save(path, array, allow_pickle=False))
    learner = to_bytes({"networks": _states(model), "key": model.key})
    write_whole(folder / "learner.msgpack", lambda path: path.write_bytes(learner))
    progress |= {
        "steps": model.num_timesteps,
        "updates": model._n_updates,
        "position": model.replay_buffer.pos,
        "full": model.replay_buffer.full,
    }
    write_whole(folder / "progress.json", lambda path: path.write_text(json.dumps(progress, indent=1)))


def _restore(model: Any, folder: Path) -> dict[str, Any]:
    """Load what `_save` left into the model; the episodes that were under way start afresh."""
    from flax.serialization import from_bytes

    if not (folder / "progress.json").exists():
        return {"best_score": float("-inf"), "best_step": 0, "curve": []}
    progress = json.loads((folder / "progress.json").read_text())
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
    return progress
