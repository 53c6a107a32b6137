"""From evaluation episodes to a summary with intervals over seeds. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from dt.broken import reading
from dt.returns import EPISODE_COLUMNS, RUN_COLUMNS
from dt.runs import Run

ARM_COLUMNS = ["kind", "source", "target", "strategy"]
TEXT_COLUMNS = dict.fromkeys(ARM_COLUMNS, str)  # so that an empty source is read as ""
TRAINING_COLUMNS = [
    *("epoch", "step", "loss", "gradient_norm", "learning_rate", "trainable", "parameters", "effective", "clipped")
]
NUMBERS = "%.10g"  # as tables show them
STYLE = (
    "body {font: 13px sans-serif; margin: 1.5em} table {border-collapse: collapse}"
    "th, td {padding: 4px 9px; text-align: right; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums}"
    "th:nth-child(-n+4), td:nth-child(-n+4) {text-align: left}"
)
STATISTICS = ("final_return", "final_score", "curve_return", "curve_score")


def read_returns(runs: Iterable[str], paths: Iterable[Path]) -> pd.DataFrame:
    """The episodes of several runs, with the columns of `returns.EPISODE_COLUMNS`.

    Raises BrokenFileError unless each table is whole, and that of its run (`Run.path`).
    """
    options = {"dtype": TEXT_COLUMNS, "keep_default_na": False}
    tables = []
    for run, path in zip(runs, paths, strict=True):
        with reading(path, f"a table of returns of {run}"):
            table = pd.read_csv(path, **options)
            _check_columns(table, EPISODE_COLUMNS, reals=["return"])
            if set(table[RUN_COLUMNS].itertuples(index=False, name=None)) != {tuple(Run.from_path(run))}:
                raise ValueError("it has rows of another run")
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def read_training(runs: Iterable[str], paths: Iterable[Path]) -> pd.DataFrame:
    """The evaluation points of several runs, each table with the identity of its run (`Run.path`) in front.

    Raises BrokenFileError unless each table is whole.
    """
    tables = []
    for run, path in zip(runs, paths, strict=True):
        with reading(path, f"a training table of {run}"):
            table = pd.read_csv(path)
            # before the first step there are no loss, no norm and no clipping: they may be NaN
            unknown_at_first = ["loss", "gradient_norm", "clipped"]
            _check_columns(table, TRAINING_COLUMNS, reals=["learning_rate"], others=unknown_at_first)
        for position, (column, value) in enumerate(Run.from_path(run)._asdict().items()):
            table.insert(position, column, value)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _check_columns(table: pd.DataFrame, columns: list[str], reals: Iterable[str], others: Iterable[str] = ()) -> None:
    """Raise ValueError unless the table has rows, and columns of finite `reals`, any numbers in `others`, integers."""
    if list(table.columns) != columns or not isinstance(table.index, pd.RangeIndex) or table.empty:
        found = ", ".join(map(str, table.columns))
        raise ValueError(f"it has {len(table)} rows of {found}; expected {', '.join(columns)}")
    for column in table.columns.difference(ARM_COLUMNS):
        kinds = "if" if column in (*reals, *others) else "i"
        if table[column].dtype.kind not in kinds or not (column in others or np.isfinite(table[column]).all()):
            raise ValueError(f"{column} holds something else than {'integers' if kinds == 'i' else 'finite numbers'}")


def interval(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """Student's t interval of the mean over seeds, `values: [seeds]`; NaN with fewer than two.

    It covers the true mean as often as it says for any number of seeds whose values are normally distributed; the
    percentile bootstrap's 95 % covers 75, 84 and 90 % at 3, 5 and 10 seeds.
    """
    if len(values) < 2:
        return float("nan"), float("nan")
    ordered = np.sort(values)  # sums do not depend on the order of seeds
    quantile = -stdtrit(len(values) - 1, (1 - confidence) / 2)  # of the lower tail: finite however close to 1
    mean, half = ordered.mean(), quantile * ordered.std(ddof=1) / np.sqrt(len(values))
    return float(mean - half), float(mean + half)


def per_seed(returns: pd.DataFrame, final_points: int) -> pd.DataFrame:
    """One row per run: `final_*`, the mean over the last evaluation points, and `curve_*`, the area under the curve.

    The area is divided by its span of epochs: the mean height of the learning curve, in units of return or score.
    """
    points = returns.groupby([*RUN_COLUMNS, "epoch"], sort=False)[["return", "score"]].mean().reset_index()
    rows = []
    for identity, curve in points.groupby(RUN_COLUMNS, sort=False):
        curve = curve.sort_values("epoch")
        last, span = curve.tail(final_points), np.ptp(curve["epoch"])
        row = dict(zip(RUN_COLUMNS, identity, strict=True))
        for unit in ("return", "score"):
            row[f"final_{unit}"] = last[unit].mean()
            area = np.trapezoid(curve[unit], curve["epoch"])
            row[f"curve_{unit}"] = area / span if span else last[unit].mean()
        rows.append(row)
    return pd.DataFrame(rows)


def summary(returns: pd.DataFrame, training: pd.DataFrame, report: dict[str, Any]) -> pd.DataFrame:
    """One row per arm: number of seeds, trainable weights, and mean and interval of each statistic.

    `{statistic}_gain` is the difference to training from scratch on the same target, paired by seed; empty where
    there is no such run. `report` is the config's block.
    """
    runs = per_seed(returns, report["final_points"])
    scratch = runs[runs["kind"] == "scratch"].set_index(["target", "seed"])
    weights = training.groupby(ARM_COLUMNS)[["trainable", "parameters"]].first()
    rows = []
    for arm, group in runs.groupby(ARM_COLUMNS, sort=False):
        row = dict(zip(ARM_COLUMNS, arm, strict=True))
        row |= {"seeds": len(group), **weights.loc[arm].to_dict()}
        partners = scratch.reindex(pd.MultiIndex.from_frame(group[["target", "seed"]]))
        for statistic in STATISTICS:
            gains = (group[statistic].to_numpy() - partners[statistic].to_numpy()) if row["kind"] == "finetune" else []
            row |= _mean_and_interval(statistic, group[statistic].to_numpy(), report)
            row |= _mean_and_interval(f"{statistic}_gain", np.asarray(gains), report)
        rows.append(row)
    return pd.DataFrame(rows)


def best_arm(path: Path, target: str) -> tuple[str, str]:
    """Source and strategy of the fine-tuned arm with the highest final return in a summary; raises BrokenFileError."""
    with reading(path, "a summary"):
        table = pd.read_csv(path, dtype=TEXT_COLUMNS, keep_default_na=False)
        arms = table[(table["kind"] == "finetune") & (table["target"] == target)]
        best = arms.loc[pd.to_numeric(arms["final_return"]).idxmax()]
        return str(best["source"]), str(best["strategy"])


def readable(summary: pd.DataFrame) -> str:
    """The summary as a page of HTML that needs no other file: whole numbers, intervals where there are any."""
    page = summary[[*ARM_COLUMNS, "seeds"]].copy()
    page["trainable weights"] = summary["trainable"]
    for gain in ("", "_gain"):
        for statistic in STATISTICS:
            name = f"{statistic}{gain}"
            page[name.replace("_", " ")] = [
                _text(*row) for row in summary[[name, f"{name}_low", f"{name}_high"]].values
            ]
    return f"<!DOCTYPE html><meta charset='utf-8'><style>{STYLE}</style>{page.to_html(index=False, border=0)}"


def _text(mean: float, low: float, high: float) -> str:
    interval = "" if np.isnan(low) else f" [{round(low)}, {round(high)}]"
    return "" if np.isnan(mean) else f"{round(mean)}{interval}"


def _mean_and_interval(name: str, values: np.ndarray, report: dict[str, Any]) -> dict[str, float]:
    values = values[~np.isnan(values)] if len(values) else values
    mean = float(values.mean()) if len(values) else float("nan")
    low, high = interval(values, report["confidence"])
    return {name: mean, f"{name}_low": low, f"{name}_high": high}
