"""Flatten one Minari dataset into memory-mapped arrays, and write its normalisation statistics."""

import json
from pathlib import Path

from dt.cli import main, parser
from dt.data import ARRAYS
from dt.environments import as_json, environment_spec
from dt.files import write_whole
from dt.provenance import describe, record
from dt.stats import check_asked, read_minari, reference_returns
from dt.trial import try_environment


def stats() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--environment", required=True, help="its name in the configuration")
    arguments.add_argument("--dataset", type=Path, required=True, help="folder of the Minari dataset")
    arguments.add_argument("--arrays", type=Path, required=True, help="folder for the arrays")
    arguments.add_argument("--stats", type=Path, required=True, help="JSON file to write")
    arguments.add_argument("--asked", type=json.loads, help="of the data by the study, JSON; it changes no result")
    given = arguments.parse_args()
    settings = given.settings
    made_from = sorted(path for path in given.dataset.rglob("*") if path.is_file())
    env_id, options = settings["gymnasium"], settings.get("arguments", {})
    description = describe(Path(__file__), given, made_from, spec=as_json(environment_spec(env_id, options)))
    flat, statistics = read_minari(given.dataset, settings["trajectories"], settings["gamma"], env_id, options)
    if given.asked:
        check_asked(given.environment, given.asked, settings["gamma"], flat, statistics)
    try_environment(given.environment, env_id, options, flat)
    if settings["derive_reference"]:
        reference = reference_returns(given.environment, env_id, options, statistics)
        statistics["derived"]["reference"] = reference
    flat.save(given.arrays)
    write_whole(given.stats, lambda path: path.write_text(json.dumps(statistics, indent=1) + "\n", encoding="utf-8"))
    record(given.provenance, description, [given.stats, *(given.arrays / f"{name}.npy" for name in ARRAYS)])


if __name__ == "__main__":
    main(stats)
