"""Training, evaluation and start-up against peers, on one thread of this machine: `make bench` prints the table.

The paper's sizes; the peers of peers.py. All take turns in one process, so a ratio compares like with like; every
number is a median.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median

from dt.machine import use_fastest_products, use_one_thread

use_one_thread()  # before anything computes
use_fastest_products()  # for dt's fp32 alone: see `fast`

import numpy as np  # noqa: E402
import torch  # noqa: E402
from peers import (  # noqa: E402
    ACTIONS,
    BATCH,
    CONFIG,
    CONTEXT,
    LENGTH,
    SETTINGS,
    STATES,
    d3rlpy_step,
    hugging_face,
    hugging_face_step,
    products,
    published_loop,
    simulate,
)
from transformers.utils import logging as transformers_logging  # noqa: E402

from dt.data import Trajectories, Windows, batches, gather, returns_to_go  # noqa: E402
from dt.environments import make_environment  # noqa: E402
from dt.evaluation import roll_out  # noqa: E402
from dt.optimiser import Optimiser  # noqa: E402
from dt.policy import Policy, fresh_policy  # noqa: E402
from dt.streams import stream  # noqa: E402
from dt.transfer import freeze  # noqa: E402

FAST = torch.get_float32_matmul_precision()
torch.set_float32_matmul_precision("highest")  # PyTorch's default, for the peers
ROOT = Path(__file__).parents[1]
ENVIRONMENT = "halfcheetah"

Timed = dict[str, Callable[[], object]]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=7, help="turns that every candidate takes")
    arguments.add_argument("--table", type=Path, help="Markdown file to write as well")
    given = arguments.parse_args()
    transformers_logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        trajectories, stats = make_data(Path(folder) / "arrays")
        lines = machine()
        lines += training_table(trajectories, stats, given.rounds)
        evaluation, seconds_per_step = evaluation_table(stats, max(3, given.rounds // 2))
        lines += evaluation + paper_table(trajectories, stats, given.rounds, seconds_per_step)
        lines += overhead_table(Path(folder), stats, max(3, given.rounds // 2))
    print("\n".join(lines))
    if given.table:
        given.table.write_text("\n".join(["# Speed", "Made by `make bench`.", "", *lines, ""]))


def machine() -> list[str]:
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numba", "transformers", "d3rlpy", "mujoco"))
    amx = "with" if "amx_bf16" in Path("/proc/cpuinfo").read_text() else "without"
    return [
        f"One thread of {names[0]} ({len(names)} cores, {amx} bf16 tiles),"
        f" Python {platform.python_version()}, {packages}.",
        "",
    ]


def make_data(folder: Path, count: int = 1000) -> tuple[Trajectories, dict]:
    """Trajectories of 1000 steps, as many as the paper's, of random numbers: their values do not change the time."""
    generator = np.random.default_rng(0)
    starts = np.arange(0, (count + 1) * LENGTH, LENGTH)
    states = generator.standard_normal((starts[-1], STATES), dtype=np.float32)
    actions = np.tanh(generator.standard_normal((starts[-1], ACTIONS), dtype=np.float32))
    rtg = returns_to_go(generator.normal(10, 1, starts[-1]), starts, 1.0).astype(np.float32)
    Trajectories(states, actions, rtg, starts).save(folder)
    moments = {"states": STATES, "actions": ACTIONS}
    stats = {name: {"mean": [0.0] * size, "std": [1.0] * size} for name, size in moments.items()}
    stats["actions"] |= {"low": [-1.0] * moments["actions"], "high": [1.0] * moments["actions"]}
    stats["derived"] = {"target_return": 9000.0, "reward_scale": 1000.0}
    return Trajectories.open(folder), stats


def take_turns(candidates: Timed, rounds: int, repeats: int) -> dict[str, float]:
    """Median seconds per call, after one unmeasured round."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name, call in candidates.items():
            started = time.perf_counter()
            for _ in range(repeats):
                call()
            if turn:
                times[name].append((time.perf_counter() - started) / repeats)
    return {name: median(values) for name, values in times.items()}


def training_table(trajectories: Trajectories, stats: dict, rounds: int) -> list[str]:
    """Steps with everything in them: sampling, loss, backward, clipping, optimiser, keeping loss and norm."""
    fp32, bf16 = ours(stats, "fp32"), ours(stats, "bf16")
    sampler = windows_forever(trajectories, fp32)
    candidates = {
        "Hugging Face's model": hugging_face_step(sampler),
        "d3rlpy's Decision Transformer": d3rlpy_step(sampler),
        "dt, fp32": our_step(fp32, sampler),
        "dt, bf16": our_step(bf16, sampler),
        "the same matrix products alone, fp32": fast(products(torch.float32)),
        "the same matrix products alone, bf16": products(torch.bfloat16),
        "sampling a batch alone": lambda: next(sampler),
    }
    seconds = take_turns(candidates, rounds, 5)
    peer = seconds["Hugging Face's model"]
    lines = [
        "| training step | ms | times as fast as Hugging Face's | its matrix products alone |",
        "| --- | --- | --- | --- |",
    ]
    for name, value in seconds.items():
        bare = seconds.get(f"the same matrix products alone, {name[-4:]}") if name.startswith("dt") else None
        lines.append(f"| {name} | {value * 1e3:.1f} | {peer / value:.2f} | {f'{bare / value:.0%}' if bare else ''} |")
    return [*lines, ""]


def ours(stats: dict, precision: str) -> Policy:
    policy = fresh_policy(ENVIRONMENT, CONFIG, stats, stream(0))
    policy.model.train().compute_in(precision)
    return policy


def windows_forever(trajectories: Trajectories, policy: Policy) -> Iterator[Windows]:
    generator = np.random.default_rng(0)
    while True:
        for chosen in batches(trajectories, "trajectory", BATCH, (CONTEXT, CONTEXT), generator):
            yield gather(trajectories, policy.normalisation, *chosen)


def our_step(policy: Policy, sampler: Iterator[Windows]) -> Callable[[], None]:
    optimiser, kept = Optimiser(policy, SETTINGS), []

    def step() -> None:
        kept.append(optimiser.step({name: torch.from_numpy(array) for name, array in vars(next(sampler)).items()}))

    return fast(step)


def fast(call: Callable[[], object]) -> Callable[[], object]:
    """With fp32 products as a training job of ours takes them."""

    def run() -> None:
        torch.set_float32_matmul_precision(FAST)
        call()
        torch.set_float32_matmul_precision("highest")

    return run


def paper_table(trajectories: Trajectories, stats: dict, rounds: int, evaluation_step: dict[str, float]) -> list[str]:
    """Steps by what trains, and what the paper's 42 runs add up to, each with 105 episodes of 1000 steps."""
    strategies, kinds = CONFIG["strategies"], len(CONFIG["sources"])
    candidates = {}
    for precision in ("fp32", "bf16"):
        for strategy in strategies:
            policy = ours(stats, precision)
            freeze(policy, strategy)
            candidates[precision, strategy] = our_step(policy, windows_forever(trajectories, policy))
    seconds = take_turns(candidates, rounds, 3)
    counts = {strategy: kinds * len(CONFIG["targets"]) for strategy in strategies}
    counts[strategies[-1]] += kinds + len(CONFIG["targets"])  # pre-training and scratch train everything too
    steps = SETTINGS["epochs"] * (CONFIG["data"]["trajectories"] // BATCH)
    episodes = (SETTINGS["epochs"] // CONFIG["evaluation"]["every"] + 1) * CONFIG["evaluation"]["episodes"]
    lines = [
        f"| ms per step | {' | '.join(strategies)} | the paper on two cores, minutes |",
        "| --- |" + " --- |" * (len(strategies) + 1),
    ]
    for precision in ("fp32", "bf16"):
        training = sum(counts[strategy] * steps * seconds[precision, strategy] for strategy in strategies)
        evaluating = sum(counts.values()) * episodes * LENGTH * evaluation_step[precision]
        cells = [f"{seconds[precision, strategy] * 1e3:.0f}" for strategy in strategies]
        total = (
            f"{(training + evaluating) / 120:.0f} ({training / 120:.0f} training, {evaluating / 120:.0f} evaluation)"
        )
        lines.append(f"| {precision} | {' | '.join(cells)} | {total} |")
    return [*lines, ""]


def evaluation_table(stats: dict, rounds: int) -> tuple[list[str], dict[str, float]]:
    """Whole evaluation steps per second, policy and simulator; and seconds per step for each precision of ours."""
    episodes, gymnasium_id = CONFIG["evaluation"]["episodes"], CONFIG["environments"][ENVIRONMENT]["gymnasium"]
    environments = [make_environment(gymnasium_id) for _ in range(episodes)]

    def roll(precision: str) -> Callable[[], object]:
        policy = ours(stats, precision)
        snapshots, seeds = [policy.model.state_dict()], np.arange(episodes)[None]
        return lambda: roll_out(policy, snapshots, environments, 12000.0, seeds)

    model, single = hugging_face().eval(), make_environment(gymnasium_id)
    counts = {"one episode at a time around Hugging Face's model": 200, "the simulator alone": 1000}
    candidates = {
        "one episode at a time around Hugging Face's model": lambda: published_loop(model, single, 200),
        "dt, fp32": roll("fp32"),
        "dt, bf16": roll("bf16"),
        "the simulator alone": lambda: simulate(single, 1000),
    }
    seconds = take_turns(candidates, rounds, 1)
    per_step = {name: value / counts.get(name, episodes * LENGTH) for name, value in seconds.items()}
    peer, physics = per_step["one episode at a time around Hugging Face's model"], per_step["the simulator alone"]
    lines = ["| evaluation | steps/s | times as fast | of it simulator |", "| --- | --- | --- | --- |"]
    for name, value in per_step.items():
        lines.append(f"| {name} | {1 / value:.0f} | {peer / value:.2f} | {physics / value:.0%} |")
    return [*lines, ""], {precision: per_step[f"dt, {precision}"] for precision in ("fp32", "bf16")}


def overhead_table(folder: Path, stats: dict, rounds: int) -> list[str]:
    """Whole programs with (nearly) nothing to do: start, imports, opening data, writing."""
    (folder / "stats.json").write_text(json.dumps(stats))
    make_data(folder / "few", BATCH)
    program = [
        *(sys.executable, ROOT / "workflow/scripts/train.py", "--epochs", "1", "--settings", json.dumps(CONFIG)),
        *("--run", json.dumps(["scratch", "", ENVIRONMENT, "", 0]), "--stats", folder / "stats.json"),
        *("--arrays", folder / "few", "--policy", folder / "policy.safetensors"),
        *("--training", folder / "training.csv", "--snapshots", folder / "snapshots.safetensors"),
    ]

    def imports(script: str) -> Callable[[], object]:
        load = f"import runpy; runpy.run_path({str(ROOT / 'workflow/scripts' / script)!r})"
        return lambda: subprocess.run([sys.executable, "-c", load], check=True)

    seconds = take_turns(
        {
            "train.py with one step": lambda: subprocess.run(program, check=True, capture_output=True),
            "evaluate.py, start and imports": imports("evaluate.py"),
            "tables.py, start and imports": imports("tables.py"),
            "figures.py, start and imports": imports("figures.py"),
        },
        rounds,
        1,
    )
    return [
        "| a job's overhead | s |",
        "| --- | --- |",
        *(f"| {name} | {value:.2f} |" for name, value in seconds.items()),
    ]


if __name__ == "__main__":
    main()
