"""A fingerprint of the code that a program runs: when it changes, and only then, Snakemake runs the rule again."""

from __future__ import annotations

import ast
from hashlib import sha256
from pathlib import Path

PACKAGE = Path(__file__).parent


def fingerprint(script: Path) -> str:
    """A hash over the syntax trees of a script and of every module of `dt` that it imports, directly or not.

    Comments, formatting and docstrings do not change it, nor do the versions of other packages. Imports are found in
    the source: nothing is run.
    """
    waiting, trees = [script], {}
    while waiting:
        path = waiting.pop()
        if path not in trees:
            tree = ast.parse(path.read_text())
            trees[path] = tree
            waiting += _imported(tree)
    code = "\n".join(f"{path.name} {_without_docstrings(tree)}" for path, tree in sorted(trees.items(), key=_place))
    return sha256(code.encode()).hexdigest()[:16]


def _place(item: tuple[Path, ast.AST]) -> tuple[str, str]:
    return item[0].name, item[0].parent.name


def _imported(tree: ast.AST) -> list[Path]:
    nodes = list(ast.walk(tree))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]  # alias: perhaps a module
    paths = [PACKAGE / f"{name.removeprefix('dt.')}.py" for name in names if name.startswith("dt.")]
    return [path for path in paths if path.is_file()]


def _without_docstrings(tree: ast.AST) -> str:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
