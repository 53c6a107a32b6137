"""Evaluate every snapshot of one run in its environment, and write one row per episode."""

from pathlib import Path

import pandas as pd

from dt.cli import main, parser, run_argument
from dt.evaluate import evaluate as evaluate_policy
from dt.files import write_whole
from dt.machine import use_one_thread
from dt.metrics import RETURNS_COLUMNS, score
from dt.policy import load_policy
from dt.streams import run_stream

RESET_SEED_LIMIT = 2**31


def evaluate() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--run", type=run_argument, required=True, help="[kind, source, target, strategy, seed]")
    arguments.add_argument("--policy", type=Path, required=True)
    arguments.add_argument("--snapshots", type=Path, required=True)
    arguments.add_argument("--training", type=Path, required=True, help="table of the run's evaluation points")
    arguments.add_argument("--returns", type=Path, required=True, help="table to write")
    given = arguments.parse_args()
    use_one_thread()
    steps = pd.read_csv(given.training).set_index("epoch")["step"]
    shape = (len(steps), given.settings["episodes"])
    seeds = run_stream("evaluation", given.run).generate_state(shape[0] * shape[1]).reshape(shape) % RESET_SEED_LIMIT
    policy = load_policy(given.policy)
    rows = [
        {
            **given.run._asdict(),
            "epoch": epoch,
            "step": steps[epoch],
            "episode": episode.episode,
            "return": episode.total,
            "length": episode.length,
            "score": score(episode.total, given.settings["reference"]),
        }
        for epoch, episode in evaluate_policy(policy, given.snapshots, given.settings["target_return"], seeds)
    ]
    table = pd.DataFrame(rows, columns=RETURNS_COLUMNS)
    write_whole(given.returns, lambda path: table.to_csv(path, index=False, float_format="%.6f"))


if __name__ == "__main__":
    main(evaluate)
