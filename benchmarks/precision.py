"""What one setting does to final scores: the tables of two results folders with the same runs, compared seed by seed.

For `precision`: `snakemake --config precision=bf16 results=results/bf16 'seeds=[0,1,2,3,4]'`, and the same with fp32.
A seed's runs share batch order, initial weights and start states, so differences are paired.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy import stats

from dt.metrics import TEXT_COLUMNS, per_seed

ROOT = Path(__file__).parents[1]
ARM = ["kind", "source", "target", "strategy"]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("before", type=Path, help="table of one setting, such as results/tables/returns.csv")
    arguments.add_argument("after", type=Path, help="that of the other")
    given = arguments.parse_args()
    report = yaml.safe_load((ROOT / "config.yaml").read_text())["report"]
    print("\n".join(table(given.before, given.after, report)))


def table(before: Path, after: Path, report: dict) -> list[str]:
    """Per arm: seeds, final scores, and the mean paired difference with Student's interval, which few seeds need."""
    first, second = (final_scores(path, report["final_points"]) for path in (before, after))
    both = pd.concat({"before": first, "after": second}, axis=1, join="inner")
    lines = [
        f"| run | seeds | before | after | difference, {report['confidence']:.0%} interval |",
        "| --- | --- | --- | --- | --- |",
    ]
    for arm, scores in both.groupby(level=ARM):
        difference = (scores["after"] - scores["before"]).to_numpy()
        error = stats.sem(difference) if len(difference) > 1 else np.nan
        low, high = stats.t.interval(report["confidence"], len(difference) - 1, difference.mean(), error)
        name = " ".join(part for part in arm if part)
        means = f"{scores['before'].mean():.1f} | {scores['after'].mean():.1f}"
        lines.append(f"| {name} | {len(difference)} | {means} | {difference.mean():+.1f} ({low:+.1f} to {high:+.1f}) |")
    return lines


def final_scores(path: Path, final_points: int) -> pd.Series:
    """By arm and seed."""
    returns = pd.read_csv(path, dtype=TEXT_COLUMNS, keep_default_na=False)
    return per_seed(returns, final_points).set_index([*ARM, "seed"])["final_score"]


if __name__ == "__main__":
    main()
