"""The command `dt`: what one does with policies and results outside the workflow."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from dt import cli
from dt.runs import ExpectedError


def main(argv: list[str] | None = None) -> None:
    """Run `dt SUBCOMMAND …`; what is wrong with its files ends it with one line on stderr and exit code 1."""
    cli.write_what_can_be_written()
    parser = argparse.ArgumentParser(
        prog="dt", description="Decision Transformers: evaluate, film, export, import; collect runs."
    )
    commands = parser.add_subparsers(required=True, metavar="SUBCOMMAND")
    for add in (_add_evaluate, _add_export_hf, _add_import_hf, _add_collect):
        add(commands)
    given = parser.parse_args(argv)
    cli.main(lambda: given.run(given))


def _add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("evaluate", help="run a policy in its environment, and film it")
    parser.add_argument("policy", type=Path, help="policy.safetensors, or its folder")
    parser.add_argument("--episodes", type=int, default=100, help="default 100")
    parser.add_argument("--target-return", type=float, help="default: what its study asked for")
    parser.add_argument("--seed", type=int, default=0, help="of the start states; default 0")
    parser.add_argument(
        "--reference", type=float, nargs=2, metavar=("RANDOM", "EXPERT"), help="returns of scores 0, 100"
    )
    parser.add_argument("--video", type=Path, help=".mp4 (extra [film]) or .gif of the first episode, to write")
    parser.add_argument("--json", action="store_true", help="print every episode")
    parser.set_defaults(run=_evaluate)


def _evaluate(given: argparse.Namespace) -> None:
    import numpy as np

    from dt.evaluation import asked_return, evaluate
    from dt.films import Film
    from dt.machine import use_one_thread
    from dt.policy import load_policy
    from dt.scores import score

    use_one_thread()
    reference = _checked_reference(given.reference)
    policy = load_policy(given.policy)
    film = Film(policy.task, given.video) if given.video else None
    asked = asked_return(policy, given.target_return)
    episodes = evaluate(policy, given.episodes, asked, given.seed, film)
    if film:
        film.save()
    returns, lengths = np.array([e.total for e in episodes]), np.array([e.length for e in episodes])
    if given.json:
        rows = [{"episode": e.episode, "return": e.total, "length": e.length} for e in episodes]
        print(json.dumps({"target_return": asked, "episodes": rows}, allow_nan=False))
        return
    error = returns.std(ddof=1) / len(returns) ** 0.5 if len(returns) > 1 else float("nan")
    print(f"{policy.task.gymnasium}, asked for {asked:.0f}, {len(episodes)} episodes")
    print(f"return {returns.mean():.1f} ± {returns.std():.1f} ({returns.min():.1f} to {returns.max():.1f}),", end=" ")
    print(f"standard error of the mean {error:.1f}")
    print(f"length {lengths.mean():.1f} ({lengths.min()} to {lengths.max()})")
    if reference:
        print(f"score {score(returns.mean(), reference):.1f}")


def _checked_reference(given: list[float] | None) -> dict[str, float] | None:
    """Raise ExpectedError unless the reference returns are as those of the configuration have to be."""
    if given is None:
        return None
    random, expert = given
    if not (math.isfinite(random) and math.isfinite(expert)) or random >= expert:
        raise ExpectedError(f"--reference: found {random:g} {expert:g}; allowed are finite numbers, RANDOM < EXPERT")
    return {"random": random, "expert": expert}


def _add_export_hf(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("export-hf", help="write a policy as a folder of Hugging Face's model")
    parser.add_argument("policy", type=Path, help="policy.safetensors, or its folder")
    parser.add_argument("folder", type=Path, help="to write; an earlier export in it is replaced")
    parser.set_defaults(run=_export_hf)


def _export_hf(given: argparse.Namespace) -> None:
    from dt.huggingface import export_policy
    from dt.policy import load_policy

    export_policy(load_policy(given.policy), given.folder)
    print(f"{given.folder}: transformers.DecisionTransformerModel.from_pretrained loads it")


def _add_import_hf(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("import-hf", help="make a policy of a folder of Hugging Face's model")
    parser.add_argument("folder", type=Path, help="with config.json and model.safetensors")
    parser.add_argument("policy", type=Path, help="safetensors file to write")
    unknown = parser.add_argument_group("what a folder that is no export of `dt export-hf` does not say")
    unknown.add_argument("--environment", help="its name; default: the folder's")
    unknown.add_argument("--gymnasium", default="unknown", help="Gymnasium id, to evaluate the policy")
    unknown.add_argument("--context", type=int, default=20, help="time steps that it sees; default 20")
    unknown.add_argument("--stats", type=Path, help="results/stats/ENVIRONMENT.json, to normalise as with its data")
    unknown.add_argument("--reward-scale", type=float, default=1000.0, help="of returns-to-go; default 1000")
    parser.set_defaults(run=_import_hf)


def _import_hf(given: argparse.Namespace) -> None:
    from dt.data import read_stats
    from dt.huggingface import import_policy
    from dt.policy import Task, save_policy

    stats = read_stats(given.stats) if given.stats else None
    data_return = stats["derived"]["target_return"] if stats else None
    name = given.environment or given.folder.resolve().name
    task = Task(name, given.gymnasium, {}, 1.0, given.context, data_return)
    policy = import_policy(given.folder, task, stats, given.reward_scale)
    save_policy(policy, given.policy)
    print(f"{given.policy}: {policy.parameter_count} weights of {policy.task.environment}")


def _add_collect(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("collect", help="make a part of a study of finished runs, to publish and to join")
    parser.add_argument("results", type=Path, help="folder with policies and evaluations")
    parser.add_argument("out", type=Path, help="folder to write; it may hold nothing but the same part")
    parser.add_argument("--study", help="name of the study; default: that of the results folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="default: all that are there")
    files = "as for snakemake, which laid them over config.yaml in the working directory"
    parser.add_argument("--configfile", type=Path, nargs="+", default=[], help=files)
    parser.set_defaults(run=_collect)


def _collect(given: argparse.Namespace) -> None:
    from dt.collect import collect

    study = given.study or given.results.resolve().name
    runs = collect(given.results, given.out, study, given.configfile, given.seeds)
    print(f"{given.out}: {len(runs)} runs of seed {', '.join(map(str, sorted({run.seed for run in runs})))}")
