"""What an environment is made of outside of this project: its module's code, and files that its arguments name.

All is found without running any of it, so planning can ask: what has changed reruns what depends on the environment.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

from dt.files import checksum
from dt.fingerprint import parsed

OURS = ("dt", "gymnasium", "minari", "mujoco", "numpy", "torch")  # another version of these reruns nothing
MODULE_TEXT = re.compile(r"(\w+(?:\.\w+)*):\w*|(\w+(?:\.\w+)+)")  # as entry points and `importlib` have it
XML_FILE = re.compile(rb"""\bfile\s*=\s*["']([^"']+)["']""")
XML_FOLDER = re.compile(rb"""\b(?:asset|mesh|texture)dir\s*=\s*["']([^"']+)["']""")
DIGITS = 16  # of a hash


def made_of(env_id: str, arguments: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Say what must not change unnoticed, where there is any of it.

    modules: hashes of the code, as `fingerprint` takes it, of `module` in `module:Name-v0` and of all that it imports,
    directly or not, unless that is installed. packages: versions of what is. files: checksums of those that `arguments`
    name, and of those that XML files among them name.
    """
    modules, packages = _code(env_id.rpartition(":")[0])
    files = {str(path): checksum(path)[:DIGITS] for path in _named_files(arguments)}
    found = {"modules": modules, "packages": packages, "files": files}
    return {kind: dict(sorted(each.items())) for kind, each in found.items() if each}


def _code(module: str) -> tuple[dict[str, str], dict[str, str]]:
    """Hashes of local modules and versions of installed packages, by their names."""
    modules: dict[str, str] = {}
    packages: dict[str, str] = {}
    waiting = [module] if module else []
    while waiting:
        for name, file in _places(waiting.pop()):
            top = name.partition(".")[0]
            if name in modules or top in packages:
                continue
            distribution = _distribution(top)
            if distribution and file.is_relative_to(os.path.abspath(str(distribution.locate_file("")))):
                packages[top] = distribution.version
            else:
                modules[name], imported = _read(name, file)
                waiting += imported
    return modules, packages


def _places(name: str) -> Iterator[tuple[str, Path]]:
    """The names and files of a module and of the packages that it lies in, which run before it.

    Without Python's own modules and without `OURS`.
    """
    parts, folders = name.split("."), None
    if parts[0] in OURS or parts[0] in sys.stdlib_module_names:
        return
    for length in range(1, len(parts) + 1):
        dotted = ".".join(parts[:length])
        finders = (finder.find_spec(dotted, folders) for finder in sys.meta_path)
        spec = next((each for each in finders if each is not None), None)
        if spec is None:
            return
        if spec.has_location and spec.origin:
            yield dotted, Path(os.path.abspath(spec.origin))
        folders = spec.submodule_search_locations
        if folders is None:
            return


def _read(name: str, file: Path) -> tuple[str, list[str]]:
    """The hash of a module's code, and the names of modules that it may import."""
    try:
        folder = name.split(".") if file.stem == "__init__" else name.split(".")[:-1]
        code, imported = parsed(file, file.read_bytes(), (*folder, file.name), MODULE_TEXT)
    except (SyntaxError, ValueError):  # it is compiled, or cannot be imported: the job will say so
        return checksum(file)[:DIGITS], []
    return sha256(code.encode()).hexdigest()[:DIGITS], sorted(imported)


@cache
def _distribution(top: str) -> metadata.Distribution | None:
    """The distribution that a top-level module was installed with; None if there is none, or its source is not copied.

    What is installed to be edited lies elsewhere, and has no RECORD if its metadata lie beside it.
    """
    names = (
        [top] if next(iter(metadata.distributions(name=top)), None) else metadata.packages_distributions().get(top, [])
    )
    distribution = metadata.distribution(names[0]) if names else None
    return distribution if distribution and distribution.read_text("RECORD") else None


def _named_files(arguments: Mapping[str, Any]) -> Iterator[Path]:
    for text in _texts(arguments):
        path = Path(os.path.expanduser(text))
        if os.path.isfile(path):
            yield from _with_named(path)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(each)


def _with_named(path: Path) -> Iterator[Path]:
    """A file; and if it is XML, such as a model of MuJoCo, what it includes and names, as meshes."""
    waiting, seen = [path], set()
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        yield file
        if file.suffix == ".xml":
            content = file.read_bytes()
            inner = [Path(os.fsdecode(folder)) for folder in XML_FOLDER.findall(content)]
            folders = [top / folder for top in {file.parent, path.parent} for folder in (Path(), *inner)]
            names = [Path(os.fsdecode(name)) for name in XML_FILE.findall(content)]
            waiting += [folder / name for folder in folders for name in names if os.path.isfile(folder / name)]
