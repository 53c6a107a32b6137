"""D4RL-normalised scores, computed where tables are made: other reference returns evaluate and train nothing anew."""

from __future__ import annotations

from typing import Any

import pandas as pd


def score(returns: Any, reference: dict[str, float]) -> Any:
    """D4RL-normalised return (Fu et al. 2020, section 4): 0 is a random policy, 100 the expert."""
    return 100 * (returns - reference["random"]) / (reference["expert"] - reference["random"])


def with_scores(returns: pd.DataFrame, references: dict[str, dict[str, float]]) -> pd.DataFrame:
    """The episodes of `metrics.read_returns` with a last column, their scores, rounded as returns are.

    `references` has the `random` and `expert` returns of every environment that a run is evaluated in.
    """
    environments = returns["source"].where(returns["kind"] == "pretrain", returns["target"])
    scores = [score(total, references[name]) for total, name in zip(returns["return"], environments, strict=True)]
    return returns.assign(score=[float(f"{value:.6f}") for value in scores])
