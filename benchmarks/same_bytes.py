"""Compare the bytes of results between this tree and another revision, on one machine.

    python benchmarks/same_bytes.py main~3            # a tiny study and the demo
    python benchmarks/same_bytes.py main~3 --full     # also three runs at full length, one of each kind

Both run the same study, each with its own code. Equal must be the weights of every policy (tensors, not metadata) and
all tables in the columns that both have; columns that only one has are listed. Exit code 1 if anything differs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import yaml
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[1]
TINY = {
    "results": "results/tiny",
    "sources": ["hopper"],
    "targets": ["hopper", "walker2d"],
    "strategies": ["unfreeze0", "unfreeze1"],
    "data": {"trajectories": 16},
    "model": {"layers": 2, "width": 32, "context": 5},
    "training": {"pretrain_epochs": 2, "epochs": 2, "batch_size": 8},
    "evaluation": {"every": 1, "episodes": 1},
    "report": {"final_points": 1},
}
FULL = ["pretrain/hopper", "finetune/hopper/walker2d/unfreeze1", "scratch/walker2d"]  # one run of each kind
TABLES = ("returns.csv", "training.csv", "summary.csv")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("revision", help="of this repository, to compare with")
    arguments.add_argument("--full", action="store_true", help="also three runs at full length (half an hour)")
    arguments.add_argument("--folder", type=Path, help="to work in, and keep (default: a temporary one)")
    arguments.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or Path(temporary)).absolute()
        trees = {"before": folder / "before", "after": folder / "after"}
        unpack(given.revision, trees["before"])
        copy_this_tree(trees["after"])
        for tree in trees.values():
            run_studies(tree, given.cores, given.full)
        differences = sorted(compare(trees["before"] / "results", trees["after"] / "results"))
    print("\n".join(differences) or "all bytes are equal")
    sys.exit(any(not line.startswith("note: ") for line in differences))


def unpack(revision: str, folder: Path) -> None:
    """Write the files of a revision into an empty folder."""
    folder.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)


def copy_this_tree(folder: Path) -> None:
    """Copy the tracked and the new files of this tree, as they lie there, into an empty folder."""
    folder.mkdir(parents=True)
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    present = "\0".join(name for name in names if name and (ROOT / name).exists())
    archive = ["tar", "-c", "--null", "--files-from=-"]
    packed = subprocess.run(archive, cwd=ROOT, input=present.encode(), capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)


def run_studies(tree: Path, cores: int, full: bool) -> None:
    """Run the tiny study and the demo of a tree with its own code, and with `full` three runs of config.yaml."""
    (tree / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    asked = [["--configfile", "tiny.yaml"], ["--configfile", "config/demo.yaml"]]
    if full:
        asked.append([f"results/evaluations/{run}/seed0/returns.csv" for run in FULL])
    for what in asked:
        environment = os.environ | {"PYTHONPATH": str(tree / "src")}
        command = [sys.executable, "-m", "snakemake", "--quiet", "all", "--cores", str(cores), *what]
        subprocess.run(command, cwd=tree, env=environment, check=True)


def compare(before: Path, after: Path) -> Iterator[str]:
    """Say which results below two folders differ, and which columns only one has (`note: …`)."""
    names = [
        {path.relative_to(folder) for path in folder.rglob("*") if is_compared(path)} for folder in (before, after)
    ]
    yield from (f"only one has {name}" for name in names[0] ^ names[1])
    for name in names[0] & names[1]:
        if name.suffix == ".safetensors":
            yield from differing_weights(name, before, after)
        else:
            yield from differing_columns(name, before, after)


def is_compared(path: Path) -> bool:
    return path.name == "policy.safetensors" or path.name in TABLES


def differing_weights(name: Path, before: Path, after: Path) -> Iterator[str]:
    old, new = load_file(before / name), load_file(after / name)
    for tensor in sorted(old.keys() | new.keys()):
        if tensor not in old or tensor not in new or old[tensor].tobytes() != new[tensor].tobytes():
            yield f"{name}: {tensor} differs"
            return


def differing_columns(name: Path, before: Path, after: Path) -> Iterator[str]:
    old, new = (pd.read_csv(folder / name, dtype=str, keep_default_na=False) for folder in (before, after))
    for column in old.columns.symmetric_difference(new.columns):
        yield f"note: only one has the column {column} of {name.name}"
    shared = [column for column in old.columns if column in new.columns]
    if len(old) != len(new):
        yield f"{name} has {len(old)} rows before, {len(new)} after"
        return
    for column in shared:
        if (old[column] != new[column]).any():
            yield f"{name}: {column} differs in {(old[column] != new[column]).sum()} of {len(old)} rows"


if __name__ == "__main__":
    main()
