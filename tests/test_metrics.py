"""Scores, intervals and the summary, on tables small enough to check by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dt.metrics import interval, per_seed, read_returns, read_training, summary
from dt.returns import EPISODE_COLUMNS
from dt.runs import Run
from dt.scores import score, with_scores
from dt.train import Point

REPORT = {"final_points": 2, "confidence": 0.95}
EPOCHS = [0, 5, 10, 12]  # not evenly spaced, like the last evaluation point of a budget that `every` does not divide
OFFSETS = [0.0, 1000.0, 5000.0]  # of the seeds: far larger than the differences between arms
SHAPES = {"unfreeze0": [0.0, 40.0, 60.0, 80.0], "unfreeze1": [10.0, 10.0, 10.0, 10.0], "": [0.0, 20.0, 20.0, 30.0]}


def rows(kind: str, source: str, strategy: str, seed: int, heights: list[float]) -> list[dict]:
    """Two episodes per evaluation point, 7 above and below its height; a score is a tenth of a return."""
    identity = {"kind": kind, "source": source, "target": "hopper", "strategy": strategy, "seed": seed}
    return [
        identity
        | {"epoch": epoch, "step": 15 * epoch, "episode": episode, "return": height + sign * 7, "length": 10}
        | {"score": (height + sign * 7) / 10}
        for epoch, height in zip(EPOCHS, heights, strict=False)
        for episode, sign in enumerate((1, -1))
    ]


def table(arms: list[str], seeds: int = 3) -> pd.DataFrame:
    """Arms by strategy; "" is training from scratch."""
    episodes = []
    for strategy in arms:
        kind, source = ("finetune", "walker2d") if strategy else ("scratch", "")
        for seed in range(seeds):
            episodes += rows(kind, source, strategy, seed, [OFFSETS[seed] + height for height in SHAPES[strategy]])
    return pd.DataFrame(episodes, columns=[*EPISODE_COLUMNS, "score"])


def training(returns: pd.DataFrame) -> pd.DataFrame:
    points = returns[["kind", "source", "target", "strategy", "seed", "epoch"]].drop_duplicates()
    trainable = points["strategy"].map({"unfreeze0": 100, "unfreeze1": 150, "": 400})
    return points.assign(trainable=trainable, parameters=400)


def summarise(arms: list[str], seeds: int = 3) -> pd.DataFrame:
    returns = table(arms, seeds)
    return summary(returns, training(returns), REPORT).set_index("strategy")


def test_the_reference_returns_have_the_scores_0_and_100() -> None:
    reference = {"random": -280.178953, "expert": 12135.0}
    found = score(np.array([-280.178953, 12135.0, (12135.0 - 280.178953) / 2]), reference)
    np.testing.assert_allclose(found, [0, 100, 50])


def test_each_run_is_scored_by_the_references_of_the_environment_that_it_acts_in() -> None:
    episodes = rows("pretrain", "walker2d", "", 0, [100.0]) + rows("finetune", "walker2d", "unfreeze0", 0, [100.0])
    returns = pd.DataFrame(episodes, columns=EPISODE_COLUMNS)
    returns.loc[returns["kind"] == "pretrain", "target"] = ""
    references = {"walker2d": {"random": 0.0, "expert": 200.0}, "hopper": {"random": -300.0, "expert": 0.0}}
    scored = with_scores(returns, references)
    assert list(scored.columns) == [*EPISODE_COLUMNS, "score"]
    assert scored["score"].tolist() == [53.5, 46.5, 135.666667, 131.0]  # rounded as returns are
    pd.testing.assert_frame_equal(scored[EPISODE_COLUMNS], returns)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("count", [2, 3, 5, 10, 40])
def test_the_interval_is_students_t_of_the_mean(count: int, confidence: float) -> None:
    values = 4000 + 300 * np.random.default_rng(count).standard_normal(count)
    expected = stats.t.interval(confidence, count - 1, values.mean(), stats.sem(values))
    np.testing.assert_allclose(interval(values, confidence), expected, rtol=1e-9)
    assert interval(values[::-1], confidence) == interval(values, confidence)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_95_percent_intervals_cover_the_truth_in_95_percent_of_studies_with_few_seeds(seeds: int) -> None:
    studies = 4000 + 300 * np.random.default_rng(seeds).standard_normal((4000, seeds))
    ends = np.array([interval(study, 0.95) for study in studies])
    covered = np.mean((ends[:, 0] <= 4000) & (ends[:, 1] >= 4000))
    assert covered == pytest.approx(0.95, abs=0.02)  # 4000 studies know it to 0.003


def test_a_confidence_next_to_1_has_a_wide_interval_that_a_table_can_show() -> None:
    assert np.isfinite(interval(np.array([1.0, 2.0]), 1 - 2**-53)).all()


def test_equal_seeds_have_an_interval_of_no_width() -> None:
    assert interval(np.array([45.0, 45.0, 45.0]), 0.95) == (45.0, 45.0)


def test_one_seed_has_no_interval() -> None:
    assert np.isnan(interval(np.array([3.0]), 0.95)).all()
    assert summarise(["unfreeze0", ""], seeds=1)[["final_return_low", "final_return_high"]].isna().all(axis=None)


def test_final_is_the_mean_of_the_last_evaluation_points() -> None:
    found = summarise(["unfreeze0", "unfreeze1", ""])
    assert found["final_return"].to_dict() == pytest.approx({"unfreeze0": 2070.0, "unfreeze1": 2010.0, "": 2025.0})
    assert found["final_score"].to_dict() == pytest.approx({"unfreeze0": 207.0, "unfreeze1": 201.0, "": 202.5})


def test_the_curve_is_its_mean_height_over_the_epochs() -> None:
    runs = per_seed(table(["unfreeze0", "unfreeze1"]), final_points=2).set_index(["strategy", "seed"])
    assert runs.loc[("unfreeze1", 1), "curve_return"] == pytest.approx(1010.0)  # a constant is its own mean
    by_hand = (5 * 20 + 5 * 50 + 2 * 70) / 12
    assert runs.loc[("unfreeze0", 0), "curve_return"] == pytest.approx(by_hand)
    assert runs.loc[("unfreeze0", 2), "curve_score"] == pytest.approx((5000 + by_hand) / 10)


def test_the_gain_over_scratch_is_paired_by_seed() -> None:
    found = summarise(["unfreeze0", ""]).loc["unfreeze0"]
    assert found["final_return_high"] - found["final_return_low"] > 1000  # the seeds differ by thousands
    columns = ["final_return_gain_low", "final_return_gain", "final_return_gain_high"]
    assert found[columns].tolist() == pytest.approx([45.0, 45.0, 45.0])


def test_the_gain_is_paired_by_seed_when_the_runs_come_in_another_order() -> None:
    returns = table(["unfreeze0", ""])
    shuffled = returns.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(
        summary(returns, training(returns), REPORT).sort_values("kind", ignore_index=True),
        summary(shuffled, training(shuffled), REPORT).sort_values("kind", ignore_index=True),
    )


def test_a_seed_without_its_scratch_run_does_not_count_in_the_gain() -> None:
    returns = table(["unfreeze0", ""])
    returns = returns[(returns["kind"] != "scratch") | (returns["seed"] != 2)]
    found = summary(returns, training(returns), REPORT).set_index("strategy").loc["unfreeze0"]
    assert found["seeds"] == 3
    assert found["final_return_gain"] == pytest.approx(45.0)
    assert found["final_return_gain_high"] == pytest.approx(45.0)


def test_without_scratch_there_is_no_gain() -> None:
    gains = summarise(["unfreeze0", "unfreeze1"]).filter(like="_gain")
    assert gains.shape == (2, 12)
    assert gains.isna().all(axis=None)


def test_scratch_has_no_gain_over_itself() -> None:
    assert summarise(["unfreeze0", ""]).loc[""].filter(like="_gain").isna().all()


def test_weights_and_seeds_are_carried_into_the_summary() -> None:
    found = summarise(["unfreeze0", "unfreeze1", ""])
    assert found["trainable"].to_dict() == {"unfreeze0": 100, "unfreeze1": 150, "": 400}
    assert found["parameters"].tolist() == [400] * 3
    assert found["seeds"].tolist() == [3] * 3
    assert found["source"].to_dict() == {"unfreeze0": "walker2d", "unfreeze1": "walker2d", "": ""}


@pytest.mark.filterwarnings("error")
def test_a_single_evaluation_point_is_its_own_mean_height() -> None:
    returns = table(["unfreeze0", ""])
    returns = returns[returns["epoch"] == 12]
    found = summary(returns, training(returns), REPORT).set_index("strategy")
    assert found.loc["unfreeze0", "curve_return"] == pytest.approx(2080.0)
    assert found.loc["unfreeze0", "curve_return_gain"] == pytest.approx(50.0)


def test_an_empty_source_is_read_as_an_empty_text(tmp_path: Path) -> None:
    written = table(["unfreeze0", ""])
    runs = ["finetune/walker2d/hopper/unfreeze0/seed0", "scratch/hopper/seed0"]
    written = written.loc[written["seed"] == 0, EPISODE_COLUMNS].reset_index(drop=True)
    for kind, part in written.groupby("kind"):
        part.to_csv(tmp_path / f"{kind}.csv", index=False)
    found = read_returns(runs, [tmp_path / "finetune.csv", tmp_path / "scratch.csv"])
    pd.testing.assert_frame_equal(found, written, check_dtype=False)
    assert set(found["source"]) == {"walker2d", ""}


def test_evaluation_points_are_read_with_the_identity_of_their_run(tmp_path: Path) -> None:
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for number, path in enumerate(paths):
        points = pd.DataFrame([[0, 0, 1.0 + number, 0.1, 1e-4, 7, 9, 6, 0.5], [5, 75, 0.5, 0.1, 1e-4, 7, 9, 6, 0.5]])
        points.to_csv(path, index=False, header=[*Point.__dataclass_fields__])
    found = read_training(["finetune/walker2d/hopper/unfreeze1/seed2", "scratch/hopper/seed0"], paths)
    assert found.columns.tolist() == [*Run._fields, *Point.__dataclass_fields__]
    assert found.iloc[1].tolist() == [
        "finetune",
        "walker2d",
        "hopper",
        "unfreeze1",
        2,
        5,
        75,
        0.5,
        0.1,
        1e-4,
        7,
        9,
        6,
        0.5,
    ]
    assert found.iloc[2].tolist() == ["scratch", "", "hopper", "", 0, 0, 0, 2.0, 0.1, 1e-4, 7, 9, 6, 0.5]
