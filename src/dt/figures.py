"""Figures 1–3: per source, one row of targets; return against epoch for each strategy and for scratch."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from dt.files import write_whole
from dt.metrics import interval

SCRATCH = "scratch"
SCRATCH_COLOUR = "0.15"
PALETTE = "plasma"  # ordered, as the strategies are, and told apart with any colour vision
PANEL_WIDTH, HEIGHT = 2.35, 2.35  # inches; three panels make a text width
FONT: dict[Any, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}
FORMATS: dict[str, dict[str, Any]] = {".png": {"dpi": 300}, ".pdf": {"metadata": {"CreationDate": None}}}


def arm_styles(strategies: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Colour and dashes of every arm, the same in all figures: they depend on a strategy's place in the config."""
    colours = dict(zip(strategies, sns.color_palette(PALETTE, len(strategies)), strict=True))
    dashes = dict.fromkeys(strategies, "")
    return {**colours, SCRATCH: SCRATCH_COLOUR}, {**dashes, SCRATCH: (3, 1.5)}


def transfer_figure(returns: pd.DataFrame, config: dict[str, Any]) -> Figure:
    """One sub-figure per target of the config, from the episodes of one source's runs and the scratch runs.

    Lines are means over seeds of the mean over episodes; bands are bootstrap intervals over seeds, if several.
    """
    targets, strategies, report = config["targets"], config["strategies"], config["report"]
    colours, dashes = arm_styles(strategies)
    points = returns.assign(arm=returns["strategy"].where(returns["kind"] == "finetune", SCRATCH))
    points = points.groupby(["arm", "target", "seed", "epoch"], as_index=False)["return"].mean()
    with plt.rc_context(FONT), sns.axes_style("ticks"):
        size = (PANEL_WIDTH * len(targets), HEIGHT)
        figure, axes = plt.subplots(1, len(targets), figsize=size, layout="constrained", squeeze=False)
        for number, (axis, target) in enumerate(zip(axes[0], targets, strict=True)):
            sns.lineplot(
                data=points[points["target"] == target],
                x="epoch",
                y="return",
                hue="arm",
                style="arm",
                hue_order=[*strategies, SCRATCH],
                style_order=[*strategies, SCRATCH],
                palette=colours,
                dashes=dashes,
                errorbar=partial(_band, report=report),
                err_kws={"linewidth": 0},
                linewidth=1.2,
                ax=axis,
            )
            title = f"({chr(97 + number)}) {config['environments'][target]['title']}"
            axis.set_title(title, parse_math=False)  # a dollar sign is one
            axis.set_xlabel("epoch")
            axis.set_ylabel("return" if number == 0 else "")
            axis.margins(x=0.02)
            sns.despine(ax=axis)
        _legend_once(figure, axes[0])
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """The suffix of `path` says which format."""
    write_whole(path, lambda unfinished: figure.savefig(unfinished, **FORMATS[path.suffix]))


def _band(values: pd.Series, report: dict[str, Any]) -> tuple[float, float]:
    return interval(values.to_numpy(), report["confidence"], report["resamples"], "figure")


def _legend_once(figure: Figure, axes: Any) -> None:
    handles, labels = axes[0].get_legend_handles_labels()
    for axis in axes:
        axis.get_legend().remove()
    rows = math.ceil(len(labels) / (2 * len(axes)))
    columns = math.ceil(len(labels) / rows)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
