"""Make one Minari dataset: roll out an expert actor (--actor), or download it from the Minari hub."""

from pathlib import Path

from dt.cli import main, parser
from dt.datasets import collect, download
from dt.provenance import describe, record


def datasets() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--environment", required=True, help="its name in the configuration")
    arguments.add_argument("--actor", type=Path, help="safetensors file of the expert actor")
    arguments.add_argument("--folder", type=Path, required=True, help="of the dataset; replaced")
    given = arguments.parse_args()
    settings = given.settings
    made_from = [given.actor, given.actor.with_suffix(".json")] if given.actor else []
    description = describe(Path(__file__), given, made_from)
    if given.actor:
        collect(given.environment, settings["environment"], given.actor, settings["trajectories"], given.folder)
    else:
        download(settings["environment"]["minari"], given.folder)
    made = sorted(path for path in given.folder.rglob("*") if path.is_file())
    record(given.provenance, description, made)


if __name__ == "__main__":
    main(datasets)
