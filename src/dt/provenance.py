"""How a result came to be: a JSON file beside it, and a command that follows it down to the data.

    python -m dt.provenance results/figures/fig3.png

A record is not part of a result, and its code not part of a fingerprint. Paths in it are relative to its folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dt.cli import write_what_can_be_written
from dt.files import checksum, write_whole
from dt.fingerprint import fingerprint

PACKAGES = ("torch", "numpy", "numba", "mujoco", "gymnasium", "minari", "snakemake")
TEMPORARY = ("snapshots.safetensors",)  # deleted once evaluated
VECTORS = re.compile(r"avx\w*|amx\w*|sse4_\w+|fma|f16c|asimd\w*|sve\w*|bf16")  # as Linux calls vector instructions
NOT_TRACKED = 1  # exit code of `git ls-files --error-unmatch`
OTHER_USER = (
    "git does not read a repository that belongs to another user, unless told so:"
    " git config --global --add safe.directory FOLDER"
)
LONGEST = 200  # characters of what git says
FOLDERS_UP = 3  # from a dataset's file to its record


def describe(script: Path, given: argparse.Namespace, made_from: Iterable[Path], **more: Any) -> dict[str, Any] | None:
    """What a program is about to do: to be called before it reads `made_from`. None if no record is asked for.

    Files that the arguments of an environment name belong to `made_from`: the settings have them.
    """
    if given.provenance is None:
        return None
    names = ("environment", "epochs", "settings")
    run = {"run": given.run._asdict()} if "run" in given else {}
    outside = vars(given).get("settings", {}).get("made_of", {}).get("files", {})
    return {
        "program": script.name,
        "code": fingerprint(script),
        **run,
        **{name: value for name, value in vars(given).items() if name in names},
        **more,
        "git": git_state(script),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "processor": processor(),
        "instructions": instructions(),
        "made_from": {str(path): checksum(path) for path in (*made_from, *map(Path, outside))},
    }


def record(path: Path | None, description: dict[str, Any] | None, made: Iterable[Path], **more: Any) -> None:
    """Write the record of the files `made`, in JSON, once they are there; `more` is what is known only then."""
    if path is None or description is None:
        return
    made_from = {_relative(Path(file), path): digest for file, digest in description["made_from"].items()}
    whole = {
        "made": {_relative(file, path): checksum(file) for file in made},
        **description,
        **more,
        "made_from": made_from,
    }
    write_whole(path, lambda unfinished: unfinished.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8"))


def says(path: Path, **expected: Any) -> bool:
    """Whether the record at `path` is there, and has these values."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return all(found.get(name) == value for name, value in expected.items())


def git_state(script: Path) -> dict[str, Any] | None:
    """The commit of the script's repository, and whether a tracked file differs from it; None outside of one.

    Where git does not tell, as of a repository that belongs to another user, both are None, and `unknown` says why.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(script.resolve().parent), *arguments]
        plain = os.environ | {"LC_ALL": "C"}  # its messages are read below
        return subprocess.run(command, capture_output=True, text=True, check=True, env=plain).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", script.name)
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except OSError as error:
        unknown = f"git cannot be started ({error})"
    except subprocess.CalledProcessError as error:
        if error.returncode == NOT_TRACKED or "not a git repository" in error.stderr:
            return None
        unknown = OTHER_USER if "dubious ownership" in error.stderr else f"git fails: {' '.join(error.stderr.split())}"
    return {"commit": None, "dirty": None, "unknown": unknown[:LONGEST]}


def processor() -> str:
    """Its name where Linux tells it, or its architecture."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def instructions() -> list[str]:
    """Name the processor's vector instructions, where Linux tells them: rounding depends on which are used."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return sorted(flag for flag in flags if VECTORS.fullmatch(flag))


def _cpuinfo(name: str) -> str:
    """Read a field of the first processor from what Linux says of it; empty where it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")


def follow(path: Path, seen: set[Path], depth: int = 0) -> Iterator[tuple[int, str, str, dict[str, Any] | None]]:
    """The jobs that led to a file, itself first: (depth, file, what does not match, record); each job once.

    A file that no job here made, such as an expert actor, has no record.
    """
    place, made_by = record_of(path)
    if place is None:
        yield depth, _shown(path), "" if path.is_file() else "MISSING", None
        return
    if place in seen:
        return
    seen.add(place)
    problems = [f"{_shown(file)} {what}" for file, what in _problems(place, made_by)]
    yield depth, _shown(path), "; ".join(problems), made_by
    followed: set[Path | None] = set()
    for file in (_absolute(name, place) for name in made_by["made_from"]):
        origin = record_of(file)[0]
        if origin is None or origin not in followed:
            followed.add(origin)
            yield from follow(file, seen, depth + 1)


def record_of(path: Path) -> tuple[Path | None, dict[str, Any]]:
    """Where the record of a file lies, and what it says."""
    for folder in path.parents[:FOLDERS_UP]:
        for place in sorted(folder.glob("*provenance.json")):
            found = _read(place)
            if str(path) in (str(_absolute(name, place)) for name in found.get("made", ())):
                return place, found
    return None, {}


def _problems(place: Path, made_by: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    """Files that a job made or was made from, and what is no longer as its record says."""
    for part, changed in (("made", "has CHANGED since it was made"), ("made_from", "is NOT what this was made from")):
        for name, digest in made_by[part].items():
            file = _absolute(name, place)
            now = _checksum(file) if file.is_file() else None
            if now is None and file.name in TEMPORARY:
                maker, origin = record_of(file)
                now = origin["made"][os.path.relpath(file, maker.parent)] if maker else digest
            if now is None:
                yield file, "is MISSING"
            elif now != digest:
                yield file, changed


_checksum = cache(checksum)


@cache
def _read(place: Path) -> dict[str, Any]:
    try:
        return json.loads(place.read_text(encoding="utf-8"))
    except ValueError:
        return {}


def _absolute(name: str, place: Path) -> Path:
    return Path(os.path.normpath(place.parent / name))


def _relative(path: Path, place: Path) -> str:
    return os.path.relpath(path, place.parent)


def _shown(path: Path) -> str:
    return os.path.relpath(path)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main() -> None:
    write_what_can_be_written()
    arguments = argparse.ArgumentParser(prog="python -m dt.provenance", description=__doc__)
    arguments.add_argument("file", type=Path, help="a figure, table, policy or other result")
    path = Path(os.path.abspath(arguments.parse_args().file))
    place, asked = record_of(path)
    if place is None:
        sys.exit(f"error: nothing says how {_shown(path)} came to be")
    jobs = list(follow(path, set()))
    for depth, file, problem, made_by in jobs:
        how = f"{made_by['program']} {made_by['code']}" if made_by else "from elsewhere"
        print(f"{'  ' * depth}{file}  ({how}){'  ' + problem if problem else ''}")
    print(f"\nIts settings: {json.dumps(asked['settings'], sort_keys=True)}\nAll of the above were made with")
    for what, count in Counter(_surroundings(made_by) for *_, made_by in jobs if made_by).items():
        print(f"  {count} × {what}")
    wrong = sum(bool(problem) for *_, problem, _ in jobs)
    print(f"\n{len(jobs)} jobs and files checked: " + (f"{wrong} no longer match" if wrong else "all match"))
    sys.exit(bool(wrong))


def _surroundings(made_by: dict[str, Any]) -> str:
    git, versions = made_by["git"], (f"{name} {number}" for name, number in made_by["versions"].items() if number)
    commit = "no git commit"
    if git:
        modified = ", modified" if git["dirty"] else ""
        commit = f"commit {git['commit'][:12]}{modified}" if git["commit"] else f"no git commit: {git['unknown']}"
    return "; ".join((commit, ", ".join(versions), made_by["processor"]))


if __name__ == "__main__":
    main()
