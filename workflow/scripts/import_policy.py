"""Make a source policy of a checkpoint: a policy file, or a folder of Hugging Face's DecisionTransformerModel."""

from pathlib import Path

from dt.cli import main, parser
from dt.huggingface import import_policy, renamed
from dt.policy import Task, load_policy, policy_file, save_policy
from dt.provenance import describe, record
from dt.transfer import check_encoder


def import_source() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--source", required=True, help="its name in the configuration")
    arguments.add_argument("--checkpoint", type=Path, required=True, help="policy file, or folder")
    arguments.add_argument("--policy", type=Path, required=True, help="safetensors file to write")
    given = arguments.parse_args()
    checkpoint = given.checkpoint
    files = sorted(path for path in checkpoint.iterdir() if path.is_file()) if checkpoint.is_dir() else [checkpoint]
    description = describe(Path(__file__), given, files)
    if policy_file(checkpoint).is_file():
        policy = load_policy(checkpoint)
    else:  # what else the folder does not say matters to no fine-tuning
        policy = import_policy(checkpoint, Task(given.source, "unknown", {}, 1.0, 1, None))
    check_encoder(policy, given.settings["model"])
    save_policy(renamed(policy, given.source), given.policy)
    record(given.provenance, description, [given.policy])


if __name__ == "__main__":
    main(import_source)
