"""What changes a rule's code fingerprint, and what does not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from dt import fingerprint as module
from dt.fingerprint import fingerprint

MODELS = {"train", "evaluate", "films", "import_policy"}  # programs that need one
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
        ("dt/model.py", "INITIAL_STD = 0.02", "INITIAL_STD = 0.03", MODELS),
        ("dt/model.py", "MLP_FACTOR = 4", "MLP_FACTOR = 4  # a comment", set()),
        ("dt/model.py", "on one page", "on a page of its own", set()),  # a docstring
        ("dt/kernels.py", "np.float32(1e-5)", "np.float32(1e-6)", MODELS),
        ("dt/figures.py", '"plasma"', '"viridis"', {"figures"}),
        ("dt/scores.py", "100 * (returns", "99 * (returns", {"tables"}),
        ("dt/metrics.py", "ddof=1", "ddof=0", {"tables", "figures", "films"}),
        ("dt/config.py", "unknown key", "strange key", set()),
        ("dt/actors.py", "(-20.0, 2.0)", "(-20.0, 3.0)", {"datasets", "experts"}),
        ("scripts/stats.py", "indent=1", "indent=2", {"stats"}),
        ("dt/provenance.py", "FOLDERS_UP = 3", "FOLDERS_UP = 4", set()),
        ("dt/__init__.py", '__version__ = "0.1.0"', '__version__ = "0.2.0"', set()),
        ("dt/__init__.py", "__version__", "LIMIT = 3\n__version__", set(SCRIPTS)),
    ],
)
def test_an_edit_changes_the_fingerprints_of_the_programs_that_run_it(
    source: Path, file: str, old: str, new: str, expected: set[str]
) -> None:
    assert changed(source, file, old, new) == expected


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_module_that_a_program_loads_is_in_its_fingerprint(script: str) -> None:
    """The modules of dt that Python really imports are those found in the source, or wait for a layer to train."""
    without = "sys.modules['dt.provenance'] = unittest.mock.MagicMock()"  # it describes results only
    program = f"import runpy, sys, unittest.mock; {without}; runpy.run_path('workflow/scripts/{script}.py')"
    loaded = subprocess.run(
        [sys.executable, "-c", f"{program}; print(*sys.modules)"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = {name.removeprefix("dt.") for name in loaded.stdout.split() if name.startswith("dt.")}
    files = [Path(name) for name in module.modules(ROOT / f"workflow/scripts/{script}.py")]
    found = {file.stem for file in files if file.parent.name == "dt"} - {"__init__"}
    assert names - {"provenance"} <= found
    assert found - names <= ONCE_A_LAYER_TRAINS


@pytest.mark.parametrize(
    "statement",
    [
        "import dt.added",
        "import dt.added as other",
        "from dt import added",
        "from dt import added as other",
        "from dt.added import VALUE",
        "from dt.added import *",
        "from . import added",
        "from .added import VALUE",
        "def late():\n    from dt.added import VALUE",
        "if 1 > 2:\n    import dt.added",
        "import importlib\nimportlib.import_module('dt.added')",
        "import dt.deep.added",
        "from dt.deep import added",
        "from .deep.added import VALUE",
    ],
)
def test_a_module_is_found_however_it_is_imported(source: Path, statement: str) -> None:
    (source / "dt/deep").mkdir()
    (source / "dt/deep/__init__.py").write_text("")
    for file in ("dt/added.py", "dt/deep/added.py"):
        (source / file).write_text("VALUE = 1\n")
    (source / "dt/figures.py").write_text((source / "dt/figures.py").read_text() + f"\n{statement}\n")
    file = "dt/deep/added.py" if "deep" in statement else "dt/added.py"
    assert changed(source, file, "1", "2") == {"figures"}


def test_a_module_beside_a_program_is_found_and_another_place_changes_nothing(source: Path, tmp_path: Path) -> None:
    (source / "scripts/helper.py").write_text("VALUE = 1\n")
    (source / "scripts/stats.py").write_text("import helper\n" + (source / "scripts/stats.py").read_text())
    assert changed(source, "scripts/helper.py", "1", "2") == {"stats"}
    before = fingerprint(source / "scripts/train.py")
    shutil.copytree(source / "scripts", tmp_path / "moved/scripts")
    assert fingerprint(tmp_path / "moved/scripts/train.py") == before == fingerprint(ROOT / "workflow/scripts/train.py")


def test_the_package_reads_no_data_files() -> None:
    """They would be in no fingerprint."""
    files = [path for path in (ROOT / "src/dt").rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    assert [path for path in files if path.suffix not in (".py", ".pyi", ".typed")] == []
