"""Train one policy: epochs of windows, evaluation points, and a checkpoint to go on from."""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from dt.checkpoint import Checkpoint
from dt.data import DataError, Trajectories, batches, gather
from dt.environments import time_limit
from dt.files import write_whole
from dt.machine import device
from dt.optimiser import Optimiser
from dt.policy import Policy
from dt.resident import ResidentTrajectories
from dt.runs import ExpectedError, Run, context_range
from dt.streams import integer, run_stream

log = logging.getLogger(__name__)
NO_LOSS = (math.nan, math.nan)  # before the first step
Chosen = tuple[np.ndarray, np.ndarray, int]  # trajectory indices, first steps, context length of a batch


class TrainingError(ExpectedError):
    """Training cannot go on, in one sentence."""


@dataclass(frozen=True)
class Point:
    """One row of training.csv: an evaluation point.

    Loss and gradient norm (before clipping) are means since the last point, `clipped` is the share of steps since then
    whose gradient was longer than `training.gradient_clip`; the learning rate is that of the next step. `effective` are
    the trainable weights that the loss depends on.
    """

    epoch: int
    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    trainable: int
    parameters: int
    effective: int
    clipped: float


@dataclass(frozen=True)
class Training:
    """All evaluation points of a run, and the weights at each (`{epoch}/{name}`, frozen ones as well)."""

    points: list[Point]
    snapshots: dict[str, Tensor]

    def save(self, table: Path, snapshots: Path) -> None:
        write_whole(snapshots, lambda path: save_file(self.snapshots, path))
        write_whole(table, self._write_table)

    def _write_table(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(Point.__dataclass_fields__), lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(point) for point in self.points)


def train(
    policy: Policy,
    trajectories: Trajectories,
    run: Run,
    epochs: int,
    config: dict[str, Any],
    checkpoint: Checkpoint | None = None,
) -> Training:
    """Train the weights of `policy` that require gradients, in place, or go on from `checkpoint`.

    `config` holds the blocks `data`, `model`, `training`, `evaluation`, and `device`, `precision`. Raises DataError if
    an episode is longer than the time-step embedding, TrainingError if the loss is not finite, StoppedError on SIGTERM.
    """
    check_time_steps(policy, trajectories)
    checkpoint = checkpoint or Checkpoint()
    torch.manual_seed(integer(run_stream("dropout", run)))
    policy.model.train().to(device(config["device"])).compute_in(config["precision"])
    optimiser = Optimiser(policy, config["training"])
    windows_of = _source_of_windows(policy, trajectories, optimiser)
    log.info("%s: %d of %d weights train", run.path, policy.trainable_count, policy.parameter_count)
    progress = Progress.restore(checkpoint, optimiser)
    if progress is None:
        progress = Progress(dict(np.random.default_rng(run_stream("batches", run)).bit_generator.state))
        progress.add_point(policy, 0, optimiser, checkpoint)
    started, earlier = time.perf_counter(), optimiser.steps
    while progress.epoch < epochs:
        epoch, generator = progress.epoch + 1, progress.generator()
        for windows in windows_of(islice(_choose(trajectories, config, generator), progress.batches, None)):
            progress.losses.append(optimiser.step(windows))
            progress.batches += 1
            if checkpoint.due():
                progress.save(checkpoint, optimiser)
        progress.epoch, progress.batches, progress.generator_state = epoch, 0, dict(generator.bit_generator.state)
        if epoch % config["evaluation"]["every"] == 0 or epoch == epochs:
            point = progress.add_point(policy, epoch, optimiser, checkpoint)
            if not np.isfinite([point.loss, point.gradient_norm]).all():
                raise TrainingError(
                    f"the loss of {run.path} is {point.loss} at epoch {epoch}, and its gradient's norm"
                    f" {point.gradient_norm}; lower training.learning_rate"
                )
            rate = max(1, optimiser.steps - earlier) / (time.perf_counter() - started)
            left = optimiser.steps / epoch * (epochs - epoch) / rate
            log.info("epoch %d/%d loss %.5f steps/s %.1f left %.0f s", epoch, epochs, point.loss, rate, left)
    progress.save(checkpoint, optimiser)  # for who is killed, or left behind by Snakemake, before the outputs are there
    policy.model.cpu()
    return Training(progress.points, progress.snapshots)


@dataclass
class Progress:
    """How far a training is: with optimiser and PyTorch's generators enough to go on; on a CPU, to equal bytes."""

    generator_state: dict[str, Any]  # NumPy's, before the batches of the epoch being worked on
    epoch: int = 0  # finished ones
    batches: int = 0  # finished ones of the next epoch
    points: list[Point] = field(default_factory=list)
    snapshots: dict[str, Tensor] = field(default_factory=dict)
    losses: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # since the last point

    def generator(self) -> np.random.Generator:
        generator = np.random.default_rng()
        generator.bit_generator.state = self.generator_state
        return generator

    def add_point(self, policy: Policy, epoch: int, optimiser: Optimiser, checkpoint: Checkpoint) -> Point:
        losses = self._losses()
        loss, norm = losses.double().mean(0).tolist() if self.losses else NO_LOSS
        clipped = optimiser.clips(losses[:, 1]).double().mean().item()  # NaN before the first step
        rate, counts = optimiser.learning_rate, (policy.trainable_count, policy.parameter_count, policy.effective_count)
        point = Point(epoch, optimiser.steps, loss, norm, rate, *counts, clipped)
        snapshot = {f"{epoch}/{name}": tensor.cpu().clone() for name, tensor in policy.model.state_dict().items()}
        self.points.append(point)
        self.snapshots |= snapshot
        self.losses = []
        checkpoint.write_part(f"snapshot-{epoch}", snapshot, {})
        return point

    def save(self, checkpoint: Checkpoint, optimiser: Optimiser) -> None:
        tensors = {"losses": self._losses(), "dropout": torch.get_rng_state(), **optimiser.tensors()}
        if optimiser.on_gpu:
            tensors["dropout_cuda"] = torch.cuda.get_rng_state()
        values = {
            "generator_state": self.generator_state,
            "epoch": self.epoch,
            "batches": self.batches,
            "steps": optimiser.steps,
            "points": [asdict(point) for point in self.points],
        }
        checkpoint.write("training", tensors, values)

    def _losses(self) -> Tensor:
        rows = [torch.stack(pair).cpu() for pair in self.losses]
        return torch.stack(rows) if rows else torch.empty(0, 2)  # [steps, 2]

    @classmethod
    def restore(cls, checkpoint: Checkpoint, optimiser: Optimiser) -> Progress | None:
        """As it was saved, the optimiser and its model as well; None if nothing was."""
        record = checkpoint.read("training")
        if record is None:
            return None
        tensors, values = record
        snapshots: dict[str, Tensor] = {}
        for point in values["points"]:
            snapshot = checkpoint.read(f"snapshot-{point['epoch']}")
            if snapshot is None:
                return None
            snapshots |= snapshot[0]
        optimiser.restore(tensors, values["steps"])
        torch.set_rng_state(tensors["dropout"])
        if optimiser.on_gpu:
            torch.cuda.set_rng_state(tensors["dropout_cuda"])
        log.info("goes on after step %d", optimiser.steps)
        points, losses = [Point(**point) for point in values["points"]], [tuple(pair) for pair in tensors["losses"]]
        return cls(values["generator_state"], values["epoch"], values["batches"], points, snapshots, losses)


def check_time_steps(policy: Policy, trajectories: Trajectories) -> None:
    """Raise DataError if the data or the environment's time limit go beyond the model's time-step embedding."""
    rows, task = policy.model.architecture.max_episode_length, policy.task
    limits = {
        f"the longest trajectory of {task.environment}": int(trajectories.lengths.max()),
        f"an episode of {task.gymnasium}": time_limit(task.gymnasium, task.arguments),
    }
    for what, steps in limits.items():
        if steps > rows:
            raise DataError(f"{what} has {steps} steps, but model.max_episode_length is {rows}; raise it")


def _choose(trajectories: Trajectories, config: dict[str, Any], generator: np.random.Generator) -> Iterator[Chosen]:
    """The batches of an epoch."""
    context, batch_size = context_range(config["model"]["context"]), config["training"]["batch_size"]
    return batches(trajectories, config["data"]["sampling"], batch_size, context, generator)


def _source_of_windows(
    policy: Policy, trajectories: Trajectories, optimiser: Optimiser
) -> Callable[[Iterable[Chosen]], Iterator[dict[str, Tensor]]]:
    """What makes windows of chosen batches: on the GPU, or from memory-mapped arrays."""
    if optimiser.on_gpu:
        return ResidentTrajectories(trajectories, policy.normalisation, optimiser.count.device).epoch

    def epoch(chosen: Iterable[Chosen]) -> Iterator[dict[str, Tensor]]:
        for batch in chosen:
            windows = gather(trajectories, policy.normalisation, *batch)
            yield {name: torch.from_numpy(array) for name, array in vars(windows).items()}

    return epoch
