"""Make one Minari dataset: roll out an expert actor, download it from the Minari hub, or use one that is there."""

import logging
from pathlib import Path

from dt.checkpoint import Checkpoint, digest
from dt.cli import main, parser
from dt.datasets import DatasetError, collect, link
from dt.episodes import Expected
from dt.existing import cached
from dt.hub import download
from dt.provenance import describe, record

log = logging.getLogger(__name__)


def datasets() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--environment", required=True, help="its name in the configuration")
    arguments.add_argument("--actor", type=Path, help="safetensors file of the expert actor")
    arguments.add_argument("--dataset", type=Path, help="folder of one that is there already")
    arguments.add_argument("--unfinished", type=Path, help="folder that a download goes on from")
    arguments.add_argument("--folder", type=Path, required=True, help="of the dataset; replaced")
    given = arguments.parse_args()
    environment = given.settings["environment"]
    made_from = [given.actor, given.actor.with_suffix(".json")] if given.actor else []
    description = describe(Path(__file__), given, made_from)
    if given.actor:
        collect(given.environment, environment, given.actor, given.settings["trajectories"], given.folder)
    else:
        expected = Expected.of(environment["gymnasium"], environment.get("arguments", {}))
        minari_id, sha256 = environment.get("minari"), given.settings.get("sha256")
        if given.dataset:
            link(given.dataset, expected, given.folder, sha256)
        elif not use_cached(minari_id, expected, given.folder, sha256):
            revision = download_alone(minari_id, expected, given.folder, given.unfinished, sha256)
            description = description and description | {"revision": revision}
    made = sorted(path for path in given.folder.rglob("*") if path.is_file())
    record(given.provenance, description, made)


def download_alone(minari_id: str, expected: Expected, folder: Path, unfinished: Path, sha256: str | None) -> str:
    """The hub's revision; a job that a killed Snakemake left behind stops before: two would write into one file."""
    checkpoint = Checkpoint(unfinished, digest(minari_id))
    try:
        return download(minari_id, expected, folder, checkpoint.folder, sha256)
    finally:
        if not checkpoint.folder.exists():  # nothing to go on from
            checkpoint.remove()


def use_cached(minari_id: str, expected: Expected, folder: Path, sha256: str | None) -> bool:
    """Whether the user's Minari cache has the dataset, whole and readable."""
    try:
        found = cached(minari_id)
        if found is None:
            return False
        link(found, expected, folder, sha256)
    except (DatasetError, OSError) as error:
        log.warning("the Minari cache is not used: %s", error)
        return False
    return True


if __name__ == "__main__":
    main(datasets)
