"""What a figure shows, read back from Matplotlib's objects."""

import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex, to_rgb
from scipy import stats

from dt.figures import FORMATS, _grid, _letters, arm_styles, save_figure, transfer_figure

CONFIG = yaml.safe_load((Path(__file__).parents[1] / "config.yaml").read_text())
ARMS = [*CONFIG["strategies"], "scratch"]
RGB_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])  # sRGB, D65
VISION = {  # Machado, Oliveira & Fernandes 2009, table 1, severity 1.0; on linear RGB
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
LEAST_DISTANCE = 15  # in CIELAB; about 2 is just noticeable side by side


def returns(seeds: int = 3, source: str = "hopper") -> pd.DataFrame:
    generator = np.random.default_rng(0)
    rows = [
        {
            "kind": "scratch" if arm == "scratch" else "finetune",
            "source": "" if arm == "scratch" else source,
            "target": target,
            "strategy": "" if arm == "scratch" else arm,
            "seed": seed,
            "epoch": epoch,
            "episode": episode,
            "return": 100 * number + 20 * epoch + generator.normal(0, 50),
        }
        for target in CONFIG["targets"]
        for number, arm in enumerate(ARMS)
        for seed in range(seeds)
        for epoch in (0, 5, 10)
        for episode in range(2)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def figure() -> Iterator[plt.Figure]:
    yield transfer_figure(returns(), CONFIG)
    plt.close("all")


def curves(axis: plt.Axes) -> dict[str, Any]:
    """The lines that have points, by the name that the legend gives to their style."""
    legend = axis.figure.legends[0]
    names = {
        style(handle): text.get_text() for handle, text in zip(legend.get_lines(), legend.get_texts(), strict=True)
    }
    lines = [line for line in axis.lines if len(line.get_xdata())]
    assert len({style(line) for line in lines}) == len(lines)
    return {names[style(line)]: line for line in lines}


def style(line: Any) -> tuple[str, bool]:
    return to_hex(line.get_color()), line.is_dashed()


def bands(axis: plt.Axes) -> list[PolyCollection]:
    return [collection for collection in axis.collections if isinstance(collection, PolyCollection)]


def lab(colour: Any, vision: np.ndarray) -> np.ndarray:
    """CIELAB coordinates of a colour as someone with this vision sees it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = RGB_TO_XYZ @ np.clip(vision @ linear, 0, 1) / RGB_TO_XYZ.sum(axis=1)
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(one: Any, other: Any, vision: np.ndarray) -> float:
    return float(np.linalg.norm(lab(one, vision) - lab(other, vision)))


def test_a_figure_is_one_row_of_the_papers_subfigures(figure: plt.Figure) -> None:
    assert [axis.get_title() for axis in figure.axes] == ["(a) HalfCheetah", "(b) Hopper", "(c) Walker2d"]
    assert len({round(axis.get_position().y0, 6) for axis in figure.axes}) == 1
    assert [axis.get_xlabel() for axis in figure.axes] == ["epoch"] * 3
    assert [axis.get_ylabel() for axis in figure.axes] == ["return", "", ""]


def test_every_subfigure_shows_the_four_strategies_and_scratch(figure: plt.Figure) -> None:
    for axis in figure.axes:
        assert sorted(curves(axis)) == sorted(ARMS)


def test_a_line_is_the_mean_over_seeds(figure: plt.Figure) -> None:
    table = returns()
    table["arm"] = table["strategy"].replace("", "scratch")
    means = table.groupby(["target", "arm", "seed", "epoch"])["return"].mean()
    means = means.groupby(["target", "arm", "epoch"]).mean()
    for axis, target in zip(figure.axes, CONFIG["targets"], strict=True):
        for arm, line in curves(axis).items():
            assert line.get_xdata().tolist() == [0, 5, 10]
            np.testing.assert_allclose(line.get_ydata(), means[target, arm])


def test_there_is_one_legend_and_it_covers_no_axes(figure: plt.Figure) -> None:
    figure.canvas.draw()
    assert [axis.get_legend() for axis in figure.axes] == [None] * 3
    assert len(figure.legends) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ARMS
    box = figure.legends[0].get_window_extent()
    for axis in figure.axes:
        assert not box.overlaps(axis.get_tightbbox())
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1


@pytest.mark.parametrize(("targets", "columns"), [(["hopper"], [3, 2]), (["hopper", "walker2d"], [2, 2, 1])])
def test_the_legend_of_fewer_targets_is_even_and_inside_the_figure(targets: list[str], columns: list[int]) -> None:
    figure = transfer_figure(returns(), CONFIG | {"targets": targets})
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    places = Counter(round(text.get_window_extent().x0) for text in figure.legends[0].get_texts())
    assert [places[place] for place in sorted(places)] == columns
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert not any(box.overlaps(axis.get_tightbbox()) for axis in figure.axes)


def study_of(titles: list[str]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """One strategy and scratch on a target for each title."""
    names = [f"t{number}" for number in range(len(titles))]
    environments = {name: {"title": title} for name, title in zip(names, titles, strict=True)}
    table = returns(seeds=1)
    table = table[(table["target"] == "hopper") & table["strategy"].isin(["", "unfreeze0"])]
    table = pd.concat([table.assign(target=name) for name in names])
    return table, CONFIG | {"targets": names, "strategies": ["unfreeze0"], "environments": environments}


@pytest.mark.parametrize(("count", "rows", "columns"), [(4, 1, 4), (5, 2, 3), (7, 3, 3), (10, 3, 4)])
def test_more_than_four_targets_stand_in_rows(count: int, rows: int, columns: int) -> None:
    figure = transfer_figure(*study_of([f"T{number}" for number in range(count)]))
    figure.canvas.draw()
    places = [(round(axis.get_position().y0, 3), round(axis.get_position().x0, 3)) for axis in figure.axes]
    assert len(places) == count  # and no empty panel beside them
    assert [len({place[side] for place in places}) for side in (0, 1)] == [rows, columns]
    assert places == sorted(places, key=lambda place: (-place[0], place[1]))  # read as a page is
    assert [axis.get_ylabel() for axis in figure.axes] == [
        "" if number % columns else "return" for number in range(count)
    ]
    assert [axis.get_xlabel() for axis in figure.axes] == [
        "epoch" if number + columns >= count else "" for number in range(count)
    ]
    assert not any(figure.legends[0].get_window_extent().overlaps(axis.get_tightbbox()) for axis in figure.axes)
    plt.close(figure)


def test_letters_go_on_after_z() -> None:
    found = [_letters(number) for number in range(26 + 26 * 26 + 1)]
    assert found[:3] + found[25:29] == ["a", "b", "c", "z", "aa", "ab", "ac"]
    assert found[51:53] + found[-2:] == ["az", "ba", "zz", "aaa"]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("count", [1, 64, 200, 1000])
def test_a_bitmap_of_many_targets_is_one_that_can_be_written(count: int) -> None:
    rows, columns = _grid(count)
    assert rows * columns >= count > (rows - 1) * columns
    assert 2.35 * max(rows, columns) * FORMATS[".png"]["dpi"] < 2**16  # Agg's largest


@pytest.mark.parametrize("suffix", [".png", ".pdf"])
def test_titles_in_other_scripts_are_drawn_without_warnings_and_with_equal_bytes(tmp_path: Path, suffix: str) -> None:
    titles = ["Hopper ⌚", "机器人", "$x 𓀀"]
    for name in ("first", "again"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            save_figure(transfer_figure(*study_of(titles)), tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"first{suffix}").read_bytes() == (tmp_path / f"again{suffix}").read_bytes()
    plt.close("all")


def test_bands_are_students_t_intervals_over_seeds(figure: plt.Figure) -> None:
    table = returns()
    chosen = table[(table["target"] == "halfcheetah") & (table["strategy"] == "unfreeze0") & (table["epoch"] == 5)]
    values = chosen.groupby("seed")["return"].mean()
    expected = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    (vertices,) = [path.vertices for path in bands(figure.axes[0])[0].get_paths()]
    at_epoch = vertices[vertices[:, 0] == 5, 1]
    assert [at_epoch.min(), at_epoch.max()] == pytest.approx(list(expected))


def test_an_arm_has_one_colour_in_all_subfigures_and_figures(figure: plt.Figure) -> None:
    expected = {arm: style(line) for arm, line in curves(figure.axes[0]).items()}
    other_source = transfer_figure(returns(source="walker2d"), CONFIG)
    other_order = transfer_figure(returns().sample(frac=1, random_state=0), CONFIG)
    for one in (figure, other_source, other_order):
        for axis in one.axes:
            assert {arm: style(line) for arm, line in curves(axis).items()} == expected


def test_the_order_of_rows_does_not_move_a_line(figure: plt.Figure) -> None:
    shuffled = transfer_figure(returns().sample(frac=1, random_state=0), CONFIG)
    for axis, other in zip(figure.axes, shuffled.axes, strict=True):
        for arm, line in curves(axis).items():
            np.testing.assert_allclose(line.get_ydata(), curves(other)[arm].get_ydata())


@pytest.mark.parametrize("vision", VISION)
def test_colours_can_be_told_apart(vision: str) -> None:
    colours, _ = arm_styles(CONFIG["strategies"])
    distances = {pair: distance(*(colours[arm] for arm in pair), VISION[vision]) for pair in combinations(ARMS, 2)}
    assert min(distances.values()) > LEAST_DISTANCE, min(distances, key=distances.get)


def test_the_distance_of_colours_knows_that_red_and_green_can_be_confused() -> None:
    red, green = "tab:red", "tab:green"
    assert distance(red, green, VISION["normal"]) > 3 * LEAST_DISTANCE
    assert distance(red, green, VISION["deuteranopia"]) < LEAST_DISTANCE


def test_scratch_is_dashed_and_no_strategy_is(figure: plt.Figure) -> None:
    assert [arm for arm, line in curves(figure.axes[0]).items() if line.is_dashed()] == ["scratch"]


def test_bands_need_more_than_one_seed(figure: plt.Figure) -> None:
    assert [len(bands(axis)) for axis in figure.axes] == [5, 5, 5]
    single = transfer_figure(returns(seeds=1), CONFIG)
    vertices = [len(path.vertices) for axis in single.axes for band in bands(axis) for path in band.get_paths()]
    assert sum(vertices) == 0


@pytest.mark.parametrize("suffix", [".png", ".pdf"])
def test_the_same_table_gives_the_same_bytes(figure: plt.Figure, tmp_path: Path, suffix: str) -> None:
    paths = [tmp_path / f"{name}{suffix}" for name in ("first", "again")]
    save_figure(figure, paths[0])
    save_figure(transfer_figure(returns(), CONFIG), paths[1])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert len(paths[0].read_bytes()) > 5000
    assert sorted(tmp_path.iterdir()) == sorted(paths)
