"""The snapshots of a run: its weights at every evaluation point, `{epoch}/{name}` in one safetensors file."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from dt.broken import reading, refuse_pickle
from dt.model import DecisionTransformer
from dt.policy import PolicyError, read_weights

KIND = "a file of snapshots"


def check_epochs(snapshots: Path, training: Path, steps: dict[int, int]) -> None:
    """Raise PolicyError unless the snapshots are those of the run's table of evaluation points."""
    found = snapshot_epochs(snapshots)
    if found != sorted(steps):
        raise PolicyError(
            f"{snapshots} holds the epochs {found}, but {training} lists {sorted(steps)}; train the run anew"
        )


def snapshot_epochs(snapshots: Path) -> list[int]:
    """The epochs that a snapshots file holds, in order; raises PolicyError if it is none."""
    refuse_pickle(snapshots, KIND, PolicyError)
    with reading(snapshots, KIND, PolicyError), safe_open(snapshots, framework="pt") as file:
        epochs = sorted({int(name.split("/")[0]) for name in file.keys()})
        if not epochs:
            raise ValueError("it is empty")
    return epochs


def read_snapshot(snapshots: Path, epoch: int, model: DecisionTransformer) -> dict[str, Tensor]:
    """The weights at one epoch, on the device of `model`; raises PolicyError unless they are its weights."""
    device = str(next(model.parameters()).device)
    with reading(snapshots, KIND, PolicyError), safe_open(snapshots, framework="pt", device=device) as file:
        return read_weights(snapshots, file, model, prefix=f"{epoch}/")
