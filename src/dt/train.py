"""Train one policy: mean-squared error on actions under the mask, AdamW, linear warm-up (Gawri 2023, section 4)."""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from dt.data import DataError, Trajectories, batches, gather
from dt.environments import time_limit
from dt.files import write_whole
from dt.machine import device
from dt.model import DecisionTransformer
from dt.policy import Policy
from dt.runs import ExpectedError, Run, context_range
from dt.streams import integer, run_stream

log = logging.getLogger(__name__)


class TrainingError(ExpectedError):
    """Training cannot go on, in one sentence."""


@dataclass(frozen=True)
class Point:
    """One row of training.csv: an evaluation point.

    Loss and gradient norm (before clipping) are means since the last one, the learning rate is that of the next step.
    """

    epoch: int
    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    trainable: int
    parameters: int


@dataclass(frozen=True)
class Training:
    """All evaluation points of a run, and the weights at each (`{epoch}/{name}`, frozen ones as well)."""

    points: list[Point]
    snapshots: dict[str, Tensor]

    def save(self, table: Path, snapshots: Path) -> None:
        write_whole(snapshots, lambda path: save_file(self.snapshots, path))
        write_whole(table, self._write_table)

    def _write_table(self, path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(Point.__dataclass_fields__), lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(point) for point in self.points)


def train(policy: Policy, trajectories: Trajectories, run: Run, epochs: int, config: dict[str, Any]) -> Training:
    """Train the weights of `policy` that require gradients, in place.

    `config` holds the blocks `data`, `model`, `training` and `evaluation`, and `precision`. Raises DataError if an
    episode is longer than the time-step embedding, TrainingError if the loss is not finite.
    """
    check_time_steps(policy, trajectories)
    generator = np.random.default_rng(run_stream("batches", run))
    torch.manual_seed(integer(run_stream("dropout", run)))
    policy.model.train().to(device(config["training"]["device"])).compute_in(config["precision"])
    optimiser = Optimiser(policy, config["training"])
    log.info("%s: %d of %d weights train", run.path, policy.trainable_count, policy.parameter_count)
    points, snapshots, losses = [_point(policy, 0, 0, [], optimiser)], _snapshot(policy, 0), []
    started = time.perf_counter()
    for epoch in range(1, epochs + 1):
        losses += [optimiser.step(windows) for windows in _epoch(policy, trajectories, config, generator)]
        if epoch % config["evaluation"]["every"] == 0 or epoch == epochs:
            point = _point(policy, epoch, optimiser.steps, losses, optimiser)
            if not np.isfinite(point.loss):
                raise TrainingError(f"the loss of {run.path} is {point.loss} at epoch {epoch}; lower the learning rate")
            points.append(point)
            snapshots |= _snapshot(policy, epoch)
            losses = []
            seconds = time.perf_counter() - started
            log.info(
                "epoch %d/%d loss %.5f steps/s %.1f left %.0f s",
                *(epoch, epochs, point.loss, optimiser.steps / seconds, seconds / epoch * (epochs - epoch)),
            )
    policy.model.cpu()
    return Training(points, snapshots)


class Optimiser:
    """AdamW with linear warm-up and gradient clipping; the state of one training."""

    def __init__(self, policy: Policy, settings: dict[str, Any]) -> None:
        self.model, self.settings, self.steps = policy.model, settings, 0
        self.parameters = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
        self.adamw = torch.optim.AdamW(
            self.parameters, lr=settings["learning_rate"], weight_decay=settings["weight_decay"], fused=True
        )

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return self.settings["learning_rate"] * min(1.0, (self.steps + 1) / max(1, self.settings["warmup_steps"]))

    def step(self, windows: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """One update; returns the loss and the gradient's norm before clipping, both `[]`."""
        self.adamw.param_groups[0]["lr"] = self.learning_rate
        loss = action_loss(self.model, **windows)
        self.adamw.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings["gradient_clip"], foreach=True)
        self.adamw.step()
        self.steps += 1
        return loss.detach(), norm


def action_loss(
    model: DecisionTransformer, states: Tensor, actions: Tensor, returns_to_go: Tensor, timesteps: Tensor, mask: Tensor
) -> Tensor:
    """Mean-squared error over the action components of the steps under `mask: [B, K] bool`."""
    errors = (model.actions(states, actions, returns_to_go, timesteps) - actions).square() * mask[:, :, None]
    return errors.sum() / (mask.sum() * actions.shape[2])


def check_time_steps(policy: Policy, trajectories: Trajectories) -> None:
    """Raise DataError if the data or the environment's time limit go beyond the model's time-step embedding."""
    rows, task = policy.model.architecture.max_episode_length, policy.task
    limits = {
        f"the longest trajectory of {task.environment}": int(trajectories.lengths.max()),
        f"an episode of {task.gymnasium}": time_limit(task.gymnasium),
    }
    for what, steps in limits.items():
        if steps > rows:
            raise DataError(f"{what} has {steps} steps, but model.max_episode_length is {rows}; raise it")


def _epoch(
    policy: Policy, trajectories: Trajectories, config: dict[str, Any], generator: np.random.Generator
) -> Iterator[dict[str, Tensor]]:
    where = policy.model.final_norm.weight.device
    context, batch_size = context_range(config["model"]["context"]), config["training"]["batch_size"]
    for chosen in batches(trajectories, config["data"]["sampling"], batch_size, context, generator):
        windows = gather(trajectories, policy.normalisation, *chosen)
        yield {name: torch.from_numpy(array).to(where, non_blocking=True) for name, array in vars(windows).items()}


def _point(policy: Policy, epoch: int, step: int, losses: list[tuple[Tensor, Tensor]], optimiser: Optimiser) -> Point:
    means = torch.stack([torch.stack(pair) for pair in losses]).double().mean(0).tolist() if losses else [math.nan] * 2
    return Point(epoch, step, *means, optimiser.learning_rate, policy.trainable_count, policy.parameter_count)


def _snapshot(policy: Policy, epoch: int) -> dict[str, Tensor]:
    return {f"{epoch}/{name}": tensor.detach().cpu().clone() for name, tensor in policy.model.state_dict().items()}
