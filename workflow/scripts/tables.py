"""Join all runs: returns.csv, every episode; training.csv, every evaluation point; summary.csv and .html, every arm."""

from pathlib import Path

import pandas as pd

from dt.cli import main, parser
from dt.data import read_stats
from dt.files import write_whole
from dt.metrics import NUMBERS, read_returns, read_training, readable, summary
from dt.provenance import describe, record
from dt.runs import runs
from dt.scores import with_scores


def tables() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--results", type=Path, required=True, help="folder of policies, evaluations and stats")
    arguments.add_argument("--tables", type=Path, required=True, help="folder to write to")
    given = arguments.parse_args()
    # many paths would not fit in a command line
    paths = [run.path for run in runs(given.settings["study"])]
    returns_of = [given.results / "evaluations" / path / "returns.csv" for path in paths]
    training_of = [given.results / "policies" / path / "training.csv" for path in paths]
    references = given.settings["references"]
    stats_of = {name: given.results / "stats" / f"{name}.json" for name, values in references.items() if values is None}
    description = describe(Path(__file__), given, [*returns_of, *training_of, *stats_of.values()])
    derived = {name: read_stats(path)["derived"]["reference"] for name, path in stats_of.items()}
    returns, training = (
        with_scores(read_returns(paths, returns_of), references | derived),
        read_training(paths, training_of),
    )
    parts = {"returns": returns, "training": training, "summary": summary(returns, training, given.settings["report"])}
    for name, table in parts.items():
        write_whole(given.tables / f"{name}.csv", lambda path, table=table: _write(table, path))
    page = given.tables / "summary.html"
    write_whole(page, lambda path: path.write_text(readable(parts["summary"]), encoding="utf-8"))
    record(given.provenance, description, [*(given.tables / f"{name}.csv" for name in parts), page])


def _write(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, index=False, float_format=NUMBERS)


if __name__ == "__main__":
    main(tables)
