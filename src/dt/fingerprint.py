"""A fingerprint of the code that a program runs: when it changes, and only then, Snakemake runs the rule again."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path

PACKAGE = Path(__file__).parent
MODULE_NAME = re.compile(r"(dt(?:\.\w+)+)")
MAKES_NO_RESULT = ("provenance.py",)  # describes them


def fingerprint(script: Path) -> str:
    """A hash over the syntax trees of a script and of all that it imports, directly or not, of `dt` and its folder.

    Comments, formatting, docstrings and `__version__` do not change it, nor do the versions of other packages or the
    place of the files. Imports are found in the source: nothing is run.
    """
    code = [f"{name} {text}" for name, text in sorted(modules(script).items())]
    return sha256("\n".join(code).encode()).hexdigest()[:16]


def modules(script: Path) -> dict[str, str]:
    """The code of a script and of what it imports, by their paths below `dt`, or below the script's folder."""
    waiting, codes = [script], {}
    while waiting:
        path = waiting.pop()
        inside = PACKAGE in path.parents
        name = str(path.relative_to(PACKAGE.parent if inside else script.parent))
        if name not in codes:
            codes[name], imported = parsed(path, path.read_bytes(), Path(name).parts, MODULE_NAME)
            waiting += _files(imported, script.parent)
    return codes


@cache  # most modules are imported by several programs
def parsed(
    path: Path, content: bytes, place: tuple[str, ...], module_text: re.Pattern[str]
) -> tuple[str, frozenset[str]]:
    """The code of a module without words, and the names of modules that it may import.

    `place` are its packages and its file's name: what relative imports start from. A text that matches `module_text` is
    such a name too, its first group that is not empty. Raises as `ast.parse` does.
    """
    tree = ast.parse(content, str(path))
    names = frozenset(_names(tree, place, module_text))
    return ast.unparse(_without_words(tree)), names


def _files(names: frozenset[str], beside: Path) -> Iterator[Path]:
    """Files of the modules that have these names."""
    for name in names:
        parts = name.split(".")
        folder, parts = (PACKAGE, parts[1:]) if parts[0] == PACKAGE.name else (beside, parts)
        for length in range(len(parts) + 1):  # a package's __init__ runs before its modules
            place = folder.joinpath(*parts[:length])
            for file in (place / "__init__.py", place.with_suffix(".py")):
                inside = length or folder is PACKAGE
                if inside and file.is_file() and file.name not in MAKES_NO_RESULT:
                    yield file


def _names(tree: ast.Module, place: tuple[str, ...], module_text: re.Pattern[str]) -> Iterator[str]:
    """Dotted names that an import, or a text as `importlib` takes it, mentions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = place[: -node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)  # perhaps modules
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = module_text.fullmatch(node.value)
            if found:
                yield next(filter(None, found.groups()))


def _without_words(tree: ast.Module) -> ast.Module:
    """Without docstrings, and without the version: a release changes no result."""
    tree.body = [node for node in tree.body if not (isinstance(node, ast.Assign) and _is_version(node))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
    return tree


def _is_version(node: ast.Assign) -> bool:
    return any(isinstance(target, ast.Name) and target.id == "__version__" for target in node.targets)
