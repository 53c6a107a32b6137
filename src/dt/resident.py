"""Trajectories that live on a GPU: windows are gathered there, and an epoch costs one small copy from the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from dt.data import Normalisation, Trajectories

ROWS = 65_536  # normalised at once: in float64, all of them could fill the memory


class ResidentTrajectories:
    """The arrays of `trajectories`, normalised, on `device`."""

    def __init__(self, trajectories: Trajectories, normalisation: Normalisation, device: torch.device) -> None:
        def put(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        self.arrays = {
            "states": put(_in_parts(normalisation.states, trajectories.states)),
            "actions": put(_in_parts(normalisation.actions, trajectories.actions)),
            "returns_to_go": put(trajectories.returns_to_go[:, None] / np.float32(normalisation.reward_scale)),
        }
        self.starts, self.lengths = put(trajectories.starts), put(trajectories.lengths)
        self.device = device

    def epoch(self, batches: Iterable[tuple[np.ndarray, np.ndarray, int]]) -> Iterator[dict[str, Tensor]]:
        """The windows that `data.gather` makes of each batch that `data.batches` chose."""
        chosen = list(batches)
        if not chosen:
            return
        places = np.array([[indices, first_steps] for indices, first_steps, _ in chosen])  # [batches, 2, B]
        on_device = torch.from_numpy(places).to(self.device)
        for (indices, first_steps), (_, _, context) in zip(on_device, chosen, strict=True):
            yield self.gather(indices, first_steps, context)

    def gather(self, indices: Tensor, first_steps: Tensor, context: int) -> dict[str, Tensor]:
        """`data.gather` with tensors."""
        timesteps = first_steps[:, None] + torch.arange(context, device=self.device)
        mask = timesteps < self.lengths[indices][:, None]
        timesteps = timesteps * mask
        rows, keep = self.starts[indices][:, None] + timesteps, mask[:, :, None]
        windows = {name: array[rows] * keep for name, array in self.arrays.items()}
        return windows | {"timesteps": timesteps, "mask": mask}


def _in_parts(normalise: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> np.ndarray:
    """`normalise(values)`, float32."""
    result = np.empty(values.shape, np.float32)
    for start in range(0, len(values), ROWS):
        result[start : start + ROWS] = normalise(values[start : start + ROWS])
    return result
