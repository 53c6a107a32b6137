"""How the time that Snakemake needs to plan a study grows with its runs: parse, build the DAG, dry-run."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNS_PER_SEED = 42  # of config.yaml
RESULTS = "results/scale"  # nothing is written there


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[1, 10, 100, 240])
    given = arguments.parse_args()
    print("| runs | what is planned | s | of it CPU | memory, MiB |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for seeds in given.seeds:
            config = Path(folder) / f"{seeds}.yaml"
            config.write_text(f"results: {RESULTS}\nseeds: {list(range(seeds))}\n")
            measure("everything", seeds * RUNS_PER_SEED, config)
        measure("a tenth: `--batch tables=1/10`", seeds * RUNS_PER_SEED, config, "--batch", "tables=1/10")


def measure(what: str, runs: int, config: Path, *arguments: str) -> None:
    """One row of the table; with arguments, for the table of all runs."""
    target = [f"{RESULTS}/tables/summary.csv"] if arguments else []
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "--configfile", str(config), *arguments]
    started = time.perf_counter()
    process = subprocess.Popen([*command, *target], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command} failed")
    seconds, cpu = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
    print(f"| {runs} | {what} | {seconds:.1f} | {cpu:.1f} | {usage.ru_maxrss / 1024:.0f} |", flush=True)


if __name__ == "__main__":
    main()
