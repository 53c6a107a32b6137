"""Draw one of figures 1–3 from the evaluations of one source's runs and of the runs from scratch."""

from pathlib import Path

from dt.cli import main, parser
from dt.figures import save_figure, transfer_figure
from dt.metrics import read_returns
from dt.provenance import describe, record


def figures() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--returns", type=Path, nargs="+", required=True, help="tables of the runs")
    arguments.add_argument("--figures", type=Path, nargs="+", required=True, help=".png and .pdf files to write")
    given = arguments.parse_args()
    description = describe(Path(__file__), given, given.returns)
    figure = transfer_figure(read_returns(given.returns), given.settings)
    for path in given.figures:
        save_figure(figure, path)
    record(given.provenance, description, given.figures)


if __name__ == "__main__":
    main(figures)
