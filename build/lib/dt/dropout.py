"""Dropout with cheap draws on a CPU: a random byte per element, not a Bernoulli sample; the probability is exact."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def dropout(tokens: Tensor, probability: float, training: bool) -> Tensor:
    """`functional.dropout`; on a CPU with cheaper draws."""
    if not training or probability == 0 or tokens.device.type != "cpu":
        return functional.dropout(tokens, probability, training)
    return tokens * Dropout(probability).factors(tokens.shape)


class Dropout:
    """Which elements are kept, from a random byte for each; `scale` is what kept ones are multiplied by."""

    def __init__(self, probability: float) -> None:
        self.level, self.tie = divmod(probability * 256, 1)
        self.scale = np.float32(1 / (1 - probability))

    def draw(self, shape: torch.Size) -> np.ndarray:
        """[rows, columns] bool; a byte equal to the level is decided by a finer draw, so the probability is exact."""
        rows, columns = math.prod(shape[:-1]), shape[-1]
        if not self.level and not self.tie:
            return np.ones((rows, columns), dtype=bool)
        words = torch.empty(-(-rows * columns // 8), dtype=torch.int64).random_(-(2**63), None)
        draws = words.numpy().view(np.uint8)[: rows * columns]
        kept, ties = draws >= np.uint8(self.level), np.flatnonzero(draws == np.uint8(self.level))
        kept[ties] = torch.rand(len(ties), dtype=torch.float64).numpy() >= self.tie
        return kept.reshape(rows, columns)

    def factors(self, shape: torch.Size) -> Tensor:
        """A draw as what to multiply with: 0 or `scale`."""
        return torch.from_numpy(self.draw(shape).view(np.int8)).to(torch.float32).mul_(float(self.scale)).view(shape)
