"""The workflow elsewhere: moved, in another working directory, and imported as a module."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from test_workflow import ALL_OF_THE_PAPER, TINY, copy_of_the_workflow, planned, snakemake

IMPORTER = """
module dt:
    snakefile: "{workflow}/workflow/Snakefile"
    config: {config}
    {prefix}

use rule * from dt as dt_*

rule mine:
    default_target: True
    input: rules.dt_all.input
"""


def importer(folder: Path, workflow: Path, config: dict, prefix: str = "") -> Path:
    (folder / "Snakefile").write_text(IMPORTER.format(workflow=workflow, config=config, prefix=prefix))
    return folder


@pytest.fixture(scope="module")
def workflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy whose path has a space in it."""
    folder = tmp_path_factory.mktemp("the workflow") / "a copy"
    folder.mkdir()
    return copy_of_the_workflow(folder)


def test_a_moved_study_has_nothing_to_do(study: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(study, tmp_path / "moved")
    assert planned(snakemake(moved, "-n", "--configfile", "tiny.yaml")) == {}


def test_another_working_directory_gets_the_results(workflow: Path, tmp_path: Path) -> None:
    assert planned(snakemake(workflow, "-n", "--directory", str(tmp_path))) == ALL_OF_THE_PAPER


def test_a_module_plans_the_study_that_the_importer_configures(workflow: Path, tmp_path: Path) -> None:
    """What it does not set is the paper's protocol; values of its own command line are not the module's."""
    folder = importer(tmp_path, workflow, {"results": "elsewhere/dt", "seeds": [0, 1]})
    output = snakemake(folder, "-n", "--config", "mine=1")
    counts = {rule.removeprefix("dt_"): count for rule, count in planned(output).items()}
    assert counts["evaluate"] == 2 * ALL_OF_THE_PAPER["evaluate"]
    assert "elsewhere/dt/figures/fig3.png" in output
    assert not list(tmp_path.glob("elsewhere"))


def test_a_module_with_a_prefix_keeps_its_checkpoints_below_it(workflow: Path, tmp_path: Path) -> None:
    output = snakemake(importer(tmp_path, workflow, {}, 'prefix: "mine"'), "-n", "--printshellcmds")
    assert "--checkpoint mine/results/checkpoints/scratch/hopper/seed0 " in output
    assert " results/" not in output


@pytest.mark.parametrize("prefix", ["it's $HOME", "a (b) & c; *"])
def test_a_prefix_that_the_shell_would_read_as_something_else_reaches_the_programs_whole(
    prefix: str, workflow: Path, tmp_path: Path
) -> None:
    output = snakemake(importer(tmp_path, workflow, TINY, f'prefix: "{prefix}"'), "-n", "--printshellcmds")
    commands = [shlex.split(line) for line in re.findall(r"^ *(?:Shell command: )?(python .*)", output, re.MULTILINE)]
    assert len(commands) == sum(planned(output).values()) - 1  # the importer's own rule
    for words in commands:
        paths = [word for word in words if "results/" in word]
        assert len(paths) >= 3
        assert all(path.startswith(f"{prefix}/results/") for path in paths)


def test_no_rule_leaves_a_placeholder_of_its_command_unquoted() -> None:
    """Wherever a name or path comes from, the shell is to see one word."""
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        for command in re.findall(r"shell:\n((?: {8}\".*\n)+)", path.read_text(encoding="utf-8")):
            placeholders = re.findall(r"\{[^}]+\}", command)
            assert placeholders
            assert [each for each in placeholders if not each.endswith(":q}")] == []


def test_a_module_imported_from_git_is_answered_with_what_is_needed(workflow: Path, tmp_path: Path) -> None:
    clone = shutil.copytree(workflow, tmp_path / "repository")
    git = ["git", "-C", str(clone), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], check=True)
    importer(tmp_path, workflow, {})
    text = (tmp_path / "Snakefile").read_text()
    place = f'gitfile("{clone}", path="workflow/Snakefile", ref="main")'
    (tmp_path / "Snakefile").write_text(re.sub(r'snakefile: ".*"', f"snakefile: {place}", text))
    output = snakemake(tmp_path, "-n", code=1)
    assert "clone the repository, `pip install` the clone" in output


@pytest.mark.slow
def test_a_module_makes_the_same_bytes(workflow: Path, study: Path, tmp_path: Path) -> None:
    folder = importer(tmp_path, workflow, TINY | {"results": "mine"}, 'prefix: "it\'s here (now)"')
    target = "evaluations/scratch/hopper/seed0/returns.csv"
    made = f"it's here (now)/mine/{target}"
    snakemake(folder, "--cores", "2", made)
    assert (folder / made).read_bytes() == (study / "results" / target).read_bytes()
    again = snakemake(folder, "-n", made)
    assert "Nothing to be done" in again
