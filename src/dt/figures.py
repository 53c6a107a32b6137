"""Figures 1–3: per source, a panel for each target; return against epoch for each strategy and for scratch."""

from __future__ import annotations

import math
import string
import warnings
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
from dt.fonts import families
from dt.metrics import interval

SCRATCH = "scratch"
SCRATCH_COLOUR = "0.15"
PALETTE = "plasma"  # ordered, as the strategies are, and told apart with any colour vision
PANEL_WIDTH, HEIGHT = 2.35, 2.35  # inches; three panels make a text width
MOST_IN_ONE_ROW = 4  # panels
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

    Lines are means over seeds of the mean over episodes; bands are Student's t intervals over seeds, epoch
    by epoch, if there are several. More than four targets stand in about as many rows as columns.
    """
    targets, strategies, report = config["targets"], config["strategies"], config["report"]
    colours, dashes = arm_styles(strategies)
    points = returns.assign(arm=returns["strategy"].where(returns["kind"] == "finetune", SCRATCH))
    points = points.groupby(["arm", "target", "seed", "epoch"], as_index=False)["return"].mean()
    titles = [config["environments"][target]["title"] for target in targets]
    rows, columns = _grid(len(targets))
    fonts = families(titles)
    with plt.rc_context(FONT), sns.axes_style("ticks"):
        size = (PANEL_WIDTH * columns, HEIGHT * rows)
        figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
        for number, (axis, target) in enumerate(zip(axes.flat, targets, strict=False)):
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
                legend="auto" if number == 0 else False,
                ax=axis,
            )
            title = f"({_letters(number)}) {titles[number]}"
            axis.set_title(title, parse_math=False, family=fonts)  # a dollar sign is one
            axis.set_xlabel("epoch" if number + columns >= len(targets) else "")
            axis.set_ylabel("return" if number % columns == 0 else "")
            axis.margins(x=0.02)
            sns.despine(ax=axis)
        for axis in axes.flat[len(targets) :]:
            axis.remove()
        _legend_below(figure, columns)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """The suffix of `path` says which format."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # `families` has named them all
        write_whole(path, lambda unfinished: figure.savefig(unfinished, **FORMATS[path.suffix]))


def _band(values: pd.Series, report: dict[str, Any]) -> tuple[float, float]:
    return interval(values.to_numpy(), report["confidence"])


def _grid(count: int) -> tuple[int, int]:
    """Rows and columns of the panels: one row as in the paper, or a square that a page and a bitmap can hold."""
    columns = count if count <= MOST_IN_ONE_ROW else math.ceil(math.sqrt(count))
    return math.ceil(count / columns), columns


def _letters(number: int) -> str:
    """a … z, aa, ab … for 0 … 25, 26, 27 …"""
    earlier, last = divmod(number, 26)
    return (_letters(earlier - 1) if earlier else "") + string.ascii_lowercase[last]


def _legend_below(figure: Figure, panels: int) -> None:
    """Move the first panel's legend below all, made as wide as the given number of panels side by side."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if legend := figure.axes[0].get_legend():
        legend.remove()
    rows = math.ceil(len(labels) / (2 * panels))
    columns = math.ceil(len(labels) / rows)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
