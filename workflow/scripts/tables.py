"""Join all runs: returns.csv, every episode; training.csv, every evaluation point; summary.csv and .html, every arm."""

from pathlib import Path

import pandas as pd

from dt.cli import main, parser
from dt.files import write_whole
from dt.metrics import read_returns, read_training, readable, summary
from dt.provenance import describe, record


def tables() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--runs", nargs="+", required=True, help="such as finetune/hopper/walker2d/unfreeze1/seed0")
    arguments.add_argument("--returns", type=Path, nargs="+", required=True, help="returns.csv of every run")
    arguments.add_argument("--training", type=Path, nargs="+", required=True, help="training.csv of every run")
    arguments.add_argument("--tables", type=Path, required=True, help="folder to write to")
    given = arguments.parse_args()
    description = describe(Path(__file__), given, [*given.returns, *given.training])
    returns = read_returns(given.returns)
    training = read_training(given.runs, given.training)
    parts = {"returns": returns, "training": training, "summary": summary(returns, training, given.settings)}
    for name, table in parts.items():
        write_whole(given.tables / f"{name}.csv", lambda path, table=table: _write(table, path))
    page = given.tables / "summary.html"
    write_whole(page, lambda path: path.write_text(readable(parts["summary"])))
    record(given.provenance, description, [*(given.tables / f"{name}.csv" for name in parts), page])


def _write(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, index=False, float_format="%.10g")


if __name__ == "__main__":
    main(tables)
