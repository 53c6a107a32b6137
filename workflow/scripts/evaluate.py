"""Evaluate every snapshot of one run in its environment, and write one row per episode."""

from importlib.metadata import version
from pathlib import Path

import numpy as np

from dt.checkpoint import Checkpoint, digest
from dt.cli import main, parser, run_argument
from dt.data import read_stats
from dt.evaluation import evaluate_snapshots
from dt.fingerprint import fingerprint
from dt.machine import computing, device, use_one_thread, warn_of_slow_products
from dt.policy import load_policy
from dt.provenance import describe, record
from dt.returns import read_steps, write_returns
from dt.slots import take_usable_gpu
from dt.snapshots import check_epochs
from dt.streams import reset_seeds, run_stream


def evaluate() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--run", type=run_argument, required=True, help="[kind, source, target, strategy, seed]")
    arguments.add_argument("--policy", type=Path, required=True)
    arguments.add_argument("--snapshots", type=Path, required=True)
    arguments.add_argument("--stats", type=Path, required=True, help="of the environment; what the settings leave out")
    arguments.add_argument("--training", type=Path, required=True, help="table of the run's evaluation points")
    arguments.add_argument("--returns", type=Path, required=True, help="table to write")
    arguments.add_argument("--checkpoint", type=Path, help="folder of what a killed job goes on from")
    given = arguments.parse_args()
    use_one_thread()
    take_usable_gpu(given.settings["device"])
    place = device(given.settings["device"]).type
    if place == "cpu":
        warn_of_slow_products(given.settings["precision"])
    made_from = [given.policy, given.training, given.snapshots, given.stats]
    description = describe(Path(__file__), given, made_from, **computing(place))
    target_return = given.settings.get("target_return", read_stats(given.stats)["derived"]["target_return"])
    steps = read_steps(given.training)
    check_epochs(given.snapshots, given.training, steps)
    episodes = given.settings["episodes"]
    seeds = reset_seeds(run_stream("evaluation", given.run), len(steps) * episodes)
    seeds = np.reshape(seeds, (len(steps), episodes))
    policy = load_policy(given.policy, given.run.environment)
    policy.model.to(place).compute_in(given.settings["precision"])
    machine = place, version("torch"), version("mujoco")
    key = digest(
        fingerprint(Path(__file__)), given.run, given.settings, machine, given.policy, given.snapshots, given.stats
    )
    checkpoint = Checkpoint(given.checkpoint, key)
    _, values = checkpoint.read("rows") or ({}, {"rows": []})
    rows = values["rows"]
    for epoch, finished in evaluate_snapshots(policy, given.snapshots, target_return, seeds, len(rows) // episodes):
        rows += [
            {
                **given.run._asdict(),
                "epoch": epoch,
                "step": steps[epoch],
                "episode": episode.episode,
                "return": episode.total,
                "length": episode.length,
            }
            for episode in finished
        ]
        checkpoint.write("rows", {}, {"rows": rows})
    write_returns(given.returns, rows)
    record(given.provenance, description, [given.returns], resumed=checkpoint.resumed)
    checkpoint.remove()


if __name__ == "__main__":
    main(evaluate)
