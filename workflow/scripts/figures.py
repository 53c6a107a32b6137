"""Draw one of figures 1–3 from the evaluations of one source's runs and of the runs from scratch."""

from pathlib import Path

from dt.cli import main, parser
from dt.figures import save_figure, transfer_figure
from dt.metrics import read_returns
from dt.provenance import describe, record
from dt.runs import runs


def figures() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--results", type=Path, required=True, help="folder in which the runs' evaluations lie")
    arguments.add_argument("--figures", type=Path, nargs="+", required=True, help=".png and .pdf files to write")
    given = arguments.parse_args()
    study = given.settings | {"sources": [given.settings["source"]]}
    shown = [run.path for run in runs(study) if run.kind != "pretrain"]
    returns = [given.results / "evaluations" / path / "returns.csv" for path in shown]
    description = describe(Path(__file__), given, returns)
    figure = transfer_figure(read_returns(shown, returns), given.settings)
    for path in given.figures:
        save_figure(figure, path)
    record(given.provenance, description, given.figures)


if __name__ == "__main__":
    main(figures)
