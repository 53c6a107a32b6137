"""Train one expert actor (extra `[experts]`), and describe it in a model card. Resumes a stopped training."""

import json
import shutil
from pathlib import Path

from dt.cli import main, parser
from dt.experts import model_card, train_expert
from dt.files import write_whole
from dt.provenance import describe, record


def experts() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--environment", required=True, help="its name in the configuration")
    arguments.add_argument("--state", type=Path, required=True, help="folder to resume from")
    arguments.add_argument("--actor", type=Path, required=True, help="safetensors file to write")
    arguments.add_argument("--card", type=Path, required=True, help="JSON file to write")
    given = arguments.parse_args()
    description = describe(Path(__file__), given, [])
    environment, settings = given.settings["environment"], given.settings["experts"]
    best, steps = train_expert(environment, settings, given.state)
    card = model_card(best, given.environment, environment, settings, steps)
    write_whole(given.actor, lambda path: shutil.copy(best, path))
    write_whole(given.card, lambda path: path.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8"))
    record(given.provenance, description, [given.actor, given.card])


if __name__ == "__main__":
    main(experts)
