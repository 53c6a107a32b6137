"""What is noticed of an environment's own code and files: whatever may change states and rewards, and no words."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from dt.outside import made_of
from dt.provenance import describe, record, says

REGISTER = 'import gymnasium\ngymnasium.register("Cart-v0", "{entry}", max_episode_steps=9)\n'
SPRING = "from numpy import clip\n\nSTIFFNESS = 2\n\ndef pull(x):\n    return -STIFFNESS * clip(x, -1, 1)\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `carts` in a folder that Python finds, whose parts import each other in several ways."""
    monkeypatch.syspath_prepend(str(tmp_path))
    carts = tmp_path / "carts"
    (carts / "physics").mkdir(parents=True)
    (carts / "__init__.py").write_text("from . import tasks\n")
    (carts / "tasks.py").write_text(REGISTER.format(entry="carts.envs:Cart"))
    (carts / "envs.py").write_text("from .physics.spring import pull\nfrom wheels import RADIUS\n\nclass Cart: ...\n")
    (carts / "physics/__init__.py").write_text("")
    (carts / "physics/spring.py").write_text(SPRING)
    (carts / "unused.py").write_text("VALUE = 1\n")
    (tmp_path / "wheels.py").write_text("RADIUS = 3\n")
    return tmp_path


def asked(arguments: dict[str, Any] | None = None) -> dict[str, dict[str, str]]:
    return made_of("carts.tasks:Cart-v0", arguments or {})


def test_all_that_a_module_imports_is_found_and_nothing_of_it_is_run(folder: Path) -> None:
    (folder / "carts/physics/spring.py").write_text(f"raise SystemExit\n{SPRING}")
    names = ["carts", "carts.envs", "carts.physics", "carts.physics.spring", "carts.tasks", "wheels"]
    assert list(asked()["modules"]) == names
    assert not {"carts", "wheels"} & set(sys.modules)
    assert list(asked()) == ["modules"]  # NumPy's and Gymnasium's versions rerun nothing


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("carts/physics/spring.py", "STIFFNESS = 2", "STIFFNESS = 3", {"carts.physics.spring"}),
        ("wheels.py", "3", "4", {"wheels"}),
        ("carts/tasks.py", "=9", "=10", {"carts.tasks"}),
        ("carts/__init__.py", "import tasks", "import tasks, unused", {"carts", "carts.unused"}),
        ("carts/physics/spring.py", "    return", '    """Of the spring."""\n    # in N\n    return', set()),
        ("carts/unused.py", "1", "2", set()),
    ],
)
def test_a_changed_line_of_what_is_imported_is_noticed_and_nothing_else(
    file: str, old: str, new: str, changed: set[str], folder: Path
) -> None:
    before, text = asked()["modules"], (folder / file).read_text()
    (folder / file).write_text(text.replace(old, new, 1))
    assert {name for name, code in asked()["modules"].items() if before.get(name) != code} == changed


def test_code_that_cannot_be_parsed_is_noticed_by_its_bytes(folder: Path) -> None:
    (folder / "wheels.py").write_text("RADIUS =")
    before = asked()["modules"]["wheels"]
    (folder / "wheels.py").write_text("RADIUS ==")
    assert asked()["modules"]["wheels"] != before


def test_installed_packages_are_noticed_by_their_versions(folder: Path) -> None:
    (folder / "libraries/sim").mkdir(parents=True)
    (folder / "libraries/sim/__init__.py").write_text("from . import core\n")
    (folder / "libraries/sim/core.py").write_text("")
    info = folder / "libraries/sim-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sim\nVersion: 1.2\n")
    (info / "RECORD").write_text("sim/__init__.py,,\nsim/core.py,,\n")
    (folder / "carts.egg-info").mkdir()  # of `pip install -e`, beside the source
    (folder / "carts.egg-info/PKG-INFO").write_text("Metadata-Version: 2.1\nName: carts\nVersion: 0.1\n")
    (folder / "wheels.py").write_text("import sim.core, os.path\nRADIUS = 3\n")
    program = (
        "import sys, json; sys.path.insert(0, 'libraries'); from dt.outside import made_of;"
        " print(json.dumps([made_of(f'{name}:Cart-v0', {}) for name in ('carts.tasks', 'sim.core', 'nowhere.at.all')]))"
    )
    output = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    local, installed, missing = json.loads(output.stdout)
    assert local["packages"] == installed["packages"] == {"sim": "1.2"}
    assert "carts.envs" in local["modules"]
    assert list(installed) == ["packages"]
    assert missing == {}


def test_environments_of_gymnasium_itself_have_nothing_outside() -> None:
    for name, arguments in (
        ("Hopper-v5", {}),
        ("Ant-v5", {"xml_file": "ant.xml", "frame_skip": 4}),
        ("Nowhere-v0", {}),
    ):
        assert made_of(name, arguments) == {}


def test_files_in_arguments_are_noticed_wherever_they_stand_and_with_what_they_include(folder: Path) -> None:
    models = folder / "models"
    (models / "parts").mkdir(parents=True)
    (models / "cart.xml").write_text('<mujoco><compiler meshdir="parts"/><include file="parts/floor.xml"/></mujoco>')
    (models / "parts/floor.xml").write_text("<mujoco><asset><mesh file='wheel.stl'/></asset></mujoco>")
    (models / "parts/wheel.stl").write_bytes(b"\0\1")
    (folder / "map.txt").write_text("#.#")
    arguments = {"xml_file": f"{models}/cart.xml", "levels": [{"map": f"{folder}/map.txt"}], "mode": "x" * 5000, "n": 3}
    before = asked(arguments)["files"]
    assert {Path(name).name for name in before} == {"cart.xml", "floor.xml", "wheel.stl", "map.txt"}
    for file in (models / "cart.xml", models / "parts/floor.xml", models / "parts/wheel.stl", folder / "map.txt"):
        file.write_bytes(file.read_bytes() + b" ")
        after = asked(arguments)["files"]
        assert {name for name in after if after[name] != before[name]} == {str(file)}
        before = after


def test_files_of_an_environment_belong_to_what_a_record_follows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "map.txt").write_text("#.#")
    (folder / "made.csv").write_text("1")
    settings = {"made_of": made_of("Hopper-v5", {"map": "map.txt"})}
    given = Namespace(provenance=folder / "provenance.json", settings=settings)
    record(given.provenance, describe(Path(__file__), given, []), [folder / "made.csv"])
    assert list(json.loads(given.provenance.read_text())["made_from"]) == ["map.txt"]
    assert says(given.provenance, settings=settings)
    command = [sys.executable, "-m", "dt.provenance", "made.csv"]
    assert subprocess.run(command, capture_output=True).returncode == 0
    (folder / "map.txt").write_text("#..")
    output = subprocess.run(command, capture_output=True, text=True)
    assert output.returncode == 1
    assert "map.txt is NOT what this was made from" in output.stdout
