"""How long a finished study would take on more cores, from its own job times (`results/benchmarks`).

A job starts when a core is free and its inputs are there: those that Snakemake prefers (`priority`) first, the rest in
random order. "Ideal" is the larger of all work divided by cores and the longest chain of jobs.
"""

import argparse
import csv
import heapq
import random
from pathlib import Path

PRIORITY = {"pretrain": 2, "finetune": 1, "scratch": 1}  # as in workflow/rules/train.smk
ORDERS = 20  # random orders; the worst is reported


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("benchmarks", type=Path, nargs="?", default=Path("results/benchmarks"))
    arguments.add_argument("--cores", type=int, nargs="+", default=[1, 2, 4, 8, 16, 42])
    given = arguments.parse_args()
    seconds = job_times(given.benchmarks)
    total, chain = sum(seconds.values()), max(chains(seconds).values())
    print("| cores | minutes | of ideal |\n| --- | --- | --- |")
    for cores in given.cores:
        ideal = max(total / cores, chain)
        worst = max(simulate(seconds, cores, random.Random(order)) for order in range(ORDERS))
        print(f"| {cores} | {worst / 60:.1f} | {ideal / worst:.0%} |")


def job_times(folder: Path) -> dict[str, float]:
    """CPU seconds of each job, `finetune/hopper/walker2d/unfreeze0/seed0` for example; wall time was shared."""
    times = {}
    for path in sorted(folder.rglob("*.tsv")):
        name = str(path.relative_to(folder).with_suffix(""))
        with path.open() as file:
            row = next(csv.DictReader(file, delimiter="\t"))
        if not name.startswith(("datasets", "experts")):  # the study starts from collected data
            times[name] = 0.0 if row["cpu_time"] == "NA" else float(row["cpu_time"])  # NA: over within a second
    return times


def needs(job: str, jobs: dict[str, float]) -> list[str]:
    """The jobs whose outputs are the inputs of `job`."""
    rule, *parts = job.split("/")
    if rule == "evaluate":
        wanted = ["/".join(parts)]
    elif rule == "finetune":
        wanted = [f"pretrain/{parts[0]}/{parts[-1]}", f"stats/{parts[1]}"]
    elif rule in ("pretrain", "scratch"):
        wanted = [f"stats/{parts[0]}"]
    elif rule in ("tables", "figures"):
        wanted = [name for name in jobs if name.startswith("evaluate/")]
    else:
        wanted = []
    return [name for name in wanted if name in jobs]


def chains(seconds: dict[str, float]) -> dict[str, float]:
    """Seconds from the start to the end of each job on unlimited cores."""
    ends: dict[str, float] = {}

    def end(job: str) -> float:
        if job not in ends:
            ends[job] = seconds[job] + max((end(name) for name in needs(job, seconds)), default=0.0)
        return ends[job]

    return {job: end(job) for job in seconds}


def simulate(seconds: dict[str, float], cores: int, order: random.Random) -> float:
    """Seconds until the last job ends."""
    waiting = {job: set(needs(job, seconds)) for job in seconds}
    rank = {job: (-PRIORITY.get(job.split("/")[0], 0), order.random()) for job in seconds}
    ready = sorted((job for job, names in waiting.items() if not names), key=rank.__getitem__)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < cores:
            job = ready.pop(0)
            heapq.heappush(running, (now + seconds[job], job))
        now, done = heapq.heappop(running)
        for job, names in waiting.items():
            if done in names:
                names.remove(done)
                if not names:
                    ready.append(job)
        ready.sort(key=rank.__getitem__)
    return now


if __name__ == "__main__":
    main()
