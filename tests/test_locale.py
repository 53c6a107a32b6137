"""A terminal or locale without letters beyond ASCII changes how something is shown, never what is read or done."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from test_evaluation import Data, hopper_policy

from dt.policy import save_policy

OPENERS = {"read_text": 0, "write_text": 1, "open": 0}  # and how many arguments come before `encoding`
NO_FILES = ("os", "Trajectories", "Image", "distribution")  # whose methods of these names decode no text of ours
POSIX = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
ASCII = [{"LC_ALL": "C"}, POSIX, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "cp1252"}]


def run(environment: dict[str, str], *arguments: str, folder: Path = ROOT) -> str:
    """What `python -m …` prints; it has to end well."""
    command = [sys.executable, "-m", *arguments]
    result = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True)
    assert result.returncode == 0, result.stderr.decode(errors="replace")
    return result.stdout.decode("latin-1")


@pytest.mark.parametrize("environment", ASCII, ids=lambda each: "-".join(each.values()))
def test_an_evaluation_ends_with_its_numbers_on_any_terminal(
    environment: dict[str, str], config: dict[str, Any], hopper: Data, tmp_path: Path
) -> None:
    save_policy(hopper_policy(config, hopper, spread=8.0), tmp_path / "policy.safetensors")
    assert "standard error of the mean" in run(environment, "dt", "evaluate", str(tmp_path), "--episodes", "2")


@pytest.mark.parametrize("module", ["dt", "dt.provenance"])
def test_help_is_shown_on_any_terminal(module: str) -> None:
    assert "usage: " in run(POSIX, module, "--help")


def test_a_study_is_planned_in_a_locale_without_its_titles_letters(tmp_path: Path) -> None:
    config = {"environments": {"hopper": {"title": "Höpfer – ホッパー"}}, "targets": ["hopper"], "sources": ["hopper"]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    given = ["-s", str(ROOT / "workflow/Snakefile"), "-n", "--quiet", "rules", "--configfile", "study.yaml"]
    assert "pretrain" in run(POSIX, "snakemake", *given, folder=tmp_path)


def test_no_text_is_read_or_written_in_the_encoding_of_the_locale() -> None:
    for path in [*ROOT.glob("src/dt/**/*.py"), *ROOT.glob("workflow/**/*.py")]:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in OPENERS:
                written = ast.unparse(call)
                binary = any(isinstance(each, ast.Constant) and "b" in str(each.value) for each in call.args)
                of_a_file = ast.unparse(call.func.value) not in NO_FILES
                assert binary or not of_a_file or "encoding=" in written, f"{path}: {written}"
