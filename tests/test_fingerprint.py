"""What changes a rule's code fingerprint, and what does not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from dt import fingerprint as module
from dt.fingerprint import fingerprint

ONCE_A_LAYER_TRAINS = {"fused", "heads", "kernels"}
SCRIPTS = sorted(path.stem for path in (ROOT / "workflow/scripts").glob("*.py"))


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package and the scripts to edit."""
    shutil.copytree(ROOT / "src/dt", tmp_path / "dt")
    shutil.copytree(ROOT / "workflow/scripts", tmp_path / "scripts")
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "dt")
    return tmp_path


def changed(source: Path, file: str, old: str, new: str) -> set[str]:
    """The scripts whose fingerprints an edit changes."""
    before = {name: fingerprint(source / f"scripts/{name}.py") for name in SCRIPTS}
    text = (source / file).read_text()
    assert old in text
    (source / file).write_text(text.replace(old, new, 1))
    return {name for name in SCRIPTS if fingerprint(source / f"scripts/{name}.py") != before[name]}


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("dt/model.py", "INITIAL_STD = 0.02", "INITIAL_STD = 0.03", {"train", "evaluate"}),
        ("dt/model.py", "MLP_FACTOR = 4", "MLP_FACTOR = 4  # a comment", set()),
        ("dt/model.py", "on one page", "on a page of its own", set()),  # a docstring
        ("dt/kernels.py", "np.float32(1e-5)", "np.float32(1e-6)", {"train", "evaluate"}),
        ("dt/figures.py", '"plasma"', '"viridis"', {"figures"}),
        ("dt/scores.py", "100 * (returns", "99 * (returns", {"evaluate", "tables", "figures"}),
        ("dt/metrics.py", "percentile", "bca", {"tables", "figures"}),
        ("dt/config.py", "unknown key", "strange key", set()),
        ("dt/actors.py", "(-20.0, 2.0)", "(-20.0, 3.0)", {"datasets", "experts"}),
        ("scripts/stats.py", "indent=1", "indent=2", {"stats"}),
    ],
)
def test_an_edit_changes_the_fingerprints_of_the_programs_that_run_it(
    source: Path, file: str, old: str, new: str, expected: set[str]
) -> None:
    assert changed(source, file, old, new) == expected


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_module_that_a_program_loads_is_in_its_fingerprint(script: str) -> None:
    """The modules of dt that Python really imports are those found in the source, or wait for a layer to train."""
    program = f"import runpy, sys; runpy.run_path('workflow/scripts/{script}.py'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    names = {name.removeprefix("dt.") for name in loaded.stdout.split() if name.startswith("dt.")}
    found, waiting = set(), module._imported(module.ast.parse((ROOT / f"workflow/scripts/{script}.py").read_text()))
    while waiting:
        path = waiting.pop()
        if path.stem not in found:
            found.add(path.stem)
            waiting += module._imported(module.ast.parse(path.read_text()))
    assert names <= found
    assert found - names <= ONCE_A_LAYER_TRAINS
