"""Numba's cache of compiled kernels where it cannot be written or read: the job compiles, and goes on."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

PROGRAM = """
import logging, numpy as np
from dt import kernels

logging.basicConfig()
hidden = np.array([[-1.0, 2.0]], np.float32)
kernels.relu(hidden, np.zeros(2, np.float32))
print(hidden.tolist())
"""


def run(source: Path, limit: Callable[[], object] | None = None, **environment: str) -> subprocess.CompletedProcess:
    """What a program prints that compiles one kernel, with the package in `source`."""
    given = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=given, text=True, capture_output=True, preexec_fn=limit
    )
    assert result.stdout == "[[0.0, 2.0]]\n", result.stderr
    return result


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the package beside which nothing can be written."""
    folder = tmp_path / "source"
    shutil.copytree(ROOT / "src/dt", folder / "dt", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "dt/__pycache__").touch()
    return folder


@pytest.mark.parametrize("folder", [{}, {"NUMBA_CACHE_DIR": "/dev/null/cache"}])
def test_an_installation_and_a_home_that_are_read_only_make_jobs_compile(source: Path, folder: dict[str, str]) -> None:
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null"}
    said = run(source, **nowhere, **folder).stderr
    assert said.count("Numba's cache of compiled code finds no folder that it may write") == 1


def test_a_read_only_installation_alone_uses_the_users_own_folder(source: Path, tmp_path: Path) -> None:
    assert run(source, XDG_CACHE_HOME=str(tmp_path / "user")).stderr == ""
    assert list((tmp_path / "user").rglob("*.nbc"))


def test_a_cache_on_a_full_disk_stops_nothing(source: Path, tmp_path: Path) -> None:
    said = run(source, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)), NUMBA_CACHE_DIR=str(tmp_path))
    assert "Numba's cache of compiled code cannot be written" in said.stderr


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_a_damaged_cache_is_compiled_anew(source: Path, tmp_path: Path, suffix: str) -> None:
    run(source, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    for path in (tmp_path / "cache").rglob(f"*.{suffix}"):
        path.write_bytes(path.read_bytes()[:7])
    said = run(source, NUMBA_CACHE_DIR=str(tmp_path / "cache")).stderr
    assert "Numba's cache of compiled code cannot be read" in said
