"""The runs of a study: what each is called, and where its files lie. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple


class ExpectedError(Exception):
    """Something is wrong that a sentence explains better than a traceback."""


class StoppedError(ExpectedError):
    """The job was asked to stop, and did."""


class Run(NamedTuple):
    """The identity of one trained policy. A scratch run has no source and strategy, a pre-training no target."""

    kind: str
    source: str
    target: str
    strategy: str
    seed: int

    @property
    def environment(self) -> str:
        """The environment whose data the run learns from and is evaluated in."""
        return self.source if self.kind == "pretrain" else self.target

    @property
    def path(self) -> str:
        """Its folder below `policies/` and `evaluations/`, `finetune/hopper/walker2d/unfreeze1/seed0` for example."""
        parts = (self.kind, self.source, self.target, self.strategy, f"seed{self.seed}")
        return "/".join(part for part in parts if part)

    @classmethod
    def from_path(cls, path: str) -> Run:
        """The inverse of `path`."""
        kind, *names, seed = path.split("/")
        source, target, strategy = {
            "pretrain": (*names[:1], "", ""),
            "finetune": names,
            "scratch": ("", *names[:1], ""),
        }[kind]
        return cls(kind, source, target, strategy, int(seed.removeprefix("seed")))


def runs(config: dict[str, Any]) -> Iterator[Run]:
    """Every run of a study: pre-trainings, then fine-tunings, then trainings from scratch, in the config's order.

    A source that is `imported` is not pre-trained.
    """
    sources, targets, seeds = config["sources"], config["targets"], config["seeds"]
    trained = [source for source in sources if source not in config.get("imported", ())]
    yield from (Run("pretrain", source, "", "", seed) for source, seed in product(trained, seeds))
    yield from (Run("finetune", *arm) for arm in product(sources, targets, config["strategies"], seeds))
    yield from (Run("scratch", "", target, "", seed) for target, seed in product(targets, seeds))


def context_range(context: int | list[int]) -> tuple[int, int]:
    """Least and most time steps of a window."""
    least, most = (context, context) if isinstance(context, int) else context
    return least, most


def unfrozen_layers(strategy: str) -> int:
    """2 for `unfreeze2`."""
    return int(strategy.removeprefix("unfreeze"))
