"""A run's own table of evaluation episodes. Imports nothing heavy: every evaluation job uses it."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dt.broken import reading
from dt.files import write_whole
from dt.runs import Run

RUN_COLUMNS = list(Run._fields)
EPISODE_COLUMNS = [*RUN_COLUMNS, "epoch", "step", "episode", "return", "length"]


def read_steps(training: Path) -> dict[int, int]:
    """Epoch → optimiser step of every evaluation point, from a run's training.csv; raises BrokenFileError."""
    with reading(training, "a table of evaluation points"), training.open(newline="", encoding="utf-8") as file:
        points = [(int(row["epoch"]), int(row["step"])) for row in csv.DictReader(file)]
        steps = dict(points)
        if not points or len(steps) < len(points):
            raise ValueError(f"{len(points)} rows for {len(steps)} epochs")
    return steps


def write_returns(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a run's own returns.csv; `rows` have the keys `EPISODE_COLUMNS`."""

    def write(unfinished: Path) -> None:
        with unfinished.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, EPISODE_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows({**row, "return": f"{row['return']:.6f}"} for row in rows)

    write_whole(path, write)
