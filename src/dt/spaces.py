"""States of several parts: which parts a space has, and how Gymnasium flattens them, for a whole episode at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from gymnasium import spaces

VECTORS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)  # what a part may be


class Part(NamedTuple):
    """One part of a state: its place below `observations` in Minari's file (empty: no parts), and its space."""

    place: str
    space: spaces.Space

    @property
    def choices(self) -> int:
        """How many components of a flattened value are 1, one of each choice; 0 if it is no choice."""
        space = self.space
        if isinstance(space, spaces.MultiDiscrete):
            return space.nvec.size
        return int(isinstance(space, spaces.Discrete))

    def flat(self, values: np.ndarray) -> np.ndarray:
        """`gymnasium.spaces.flatten` of T values `[T, …]` at once: `[T, size]`."""
        space = self.space
        if isinstance(space, spaces.Discrete):
            return one_hot(values - space.start, np.array([space.n]))
        if isinstance(space, spaces.MultiDiscrete):
            start = space.start.reshape(-1)
            return one_hot(values.reshape(len(values), -1) - start, space.nvec.reshape(-1))
        return values.reshape(len(values), -1)


def parts(space: spaces.Space, place: str = "") -> Iterator[Part]:
    """The parts of a space in the order in which Gymnasium flattens them."""
    if isinstance(space, spaces.Dict):
        inner = list(space.spaces.items())
    elif isinstance(space, spaces.Tuple):
        inner = [(f"_index_{number}", part) for number, part in enumerate(space.spaces)]  # as Minari calls them
    else:
        yield Part(place, space)
        return
    for name, part in inner:
        yield from parts(part, f"{place}/{name}" if place else name)


def one_hot(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Values `[T]` or `[T, n]` below `sizes: [n]` as 0 and 1, `[T, sum(sizes)]`; what is out of range is all 0."""
    columns = values.reshape(len(values), -1)
    return np.concatenate(
        [columns[:, number, None] == np.arange(size) for number, size in enumerate(sizes)], axis=1
    ).astype(np.float32)
