"""Train one policy: pre-train, fine-tune a source policy (--source-policy), or train from scratch."""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from dt.checkpoint import Checkpoint, digest
from dt.cli import main, parser, run_argument
from dt.data import ARRAYS, Trajectories, check_scale, check_sizes, read_stats
from dt.fingerprint import fingerprint
from dt.machine import computing, device, use_fastest_products, use_one_thread, warn_of_slow_products
from dt.policy import fresh_policy, load_policy, save_policy
from dt.provenance import describe, record
from dt.slots import take_usable_gpu
from dt.streams import run_stream
from dt.train import train as train_policy
from dt.transfer import adapt, freeze


def train() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--run", type=run_argument, required=True, help="[kind, source, target, strategy, seed]")
    arguments.add_argument("--epochs", type=int, required=True)
    arguments.add_argument("--stats", type=Path, required=True, help="of the environment to learn, JSON")
    arguments.add_argument("--arrays", type=Path, required=True, help="of the environment to learn")
    arguments.add_argument("--source-policy", type=Path, help="pre-trained policy to fine-tune")
    arguments.add_argument("--target-return", type=float, help="what the study asks for, if the data do not say; noted")
    arguments.add_argument("--policy", type=Path, required=True, help="to write")
    arguments.add_argument("--training", type=Path, required=True, help="table of evaluation points, to write")
    arguments.add_argument("--snapshots", type=Path, required=True, help="weights at evaluation points, to write")
    arguments.add_argument("--checkpoint", type=Path, help="folder of what a killed job goes on from")
    given = arguments.parse_args()
    use_one_thread()
    take_usable_gpu(given.settings["device"])
    place = device(given.settings["device"]).type
    if place == "cpu":
        use_fastest_products()
        warn_of_slow_products(given.settings["precision"])
    made_from = [path for path in (given.stats, given.source_policy) if path]  # stats hold the data's checksum
    arrays = [given.arrays / f"{name}.npy" for name in ARRAYS]
    description = describe(Path(__file__), given, [*made_from, *arrays], **computing(place))
    run, statistics = given.run, read_stats(given.stats)
    trajectories = Trajectories.open(given.arrays)
    check_sizes(trajectories, statistics, given.arrays)
    policy = fresh_policy(run.environment, given.settings, statistics, run_stream("weights", run))
    check_scale(trajectories, policy.normalisation.reward_scale, run.environment)
    if given.source_policy:
        carried = adapt(load_policy(given.source_policy, run.source), policy)
        description = description and description | {"transfer": carried._asdict()}
        freeze(policy, run.strategy)
    machine = place, version("torch")
    key = digest(fingerprint(Path(__file__)), run, given.settings, given.epochs, machine, *made_from)
    checkpoint = Checkpoint(given.checkpoint, key)
    checkpoint.stop_on_sigterm()
    result = train_policy(policy, trajectories, run, given.epochs, given.settings, checkpoint)
    result.save(given.training, given.snapshots)
    if given.target_return is not None:  # no setting: nothing is trained anew for it
        policy = replace(policy, task=replace(policy.task, target_return=given.target_return))
    save_policy(policy, given.policy)
    record(given.provenance, description, [given.policy, given.training, given.snapshots], resumed=checkpoint.resumed)
    checkpoint.remove()


if __name__ == "__main__":
    main(train)
