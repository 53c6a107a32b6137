"""Minari's official data, downloaded by its real client from a hub on the loopback that fails in every way."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub import COMMIT, Hub, serve

from dt.actors import Rollout
from dt.datasets import _episode_buffer, _minari_root

ROOT = Path(__file__).parents[1]
ID = "mujoco/hopper/expert-v0"
DATA = "main_data.hdf5"
CHUNK = 10 * 2**20  # bytes that the client writes at once: it goes on from a multiple of them


def make_dataset(folder: Path, episodes: int, steps: int, states: int = 11, actions: int = 3) -> None:
    """Episodes of random numbers, in Minari's format, as of Hopper-v5."""
    from minari import create_dataset_from_buffers

    generator, buffers = np.random.default_rng(0), []
    for seed in range(episodes):
        ends = np.arange(steps) == steps - 1
        parts = generator.normal(size=(steps + 1, states)), generator.uniform(-1, 1, (steps, actions)).astype("f4")
        rollout = Rollout(seed, *parts, generator.normal(size=steps), np.zeros(steps, bool), ends)
        buffers.append(_episode_buffer(rollout))
    name = {11: "Hopper-v5", 17: "HalfCheetah-v5"}[states]
    with _minari_root(folder) as root:
        create_dataset_from_buffers(ID, buffers, env=name, eval_env=name, algorithm_name="none", author="dt")
        shutil.copytree(root / ID, folder, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    make_dataset(root / ID, episodes=120, steps=1000)
    assert (root / ID / "data" / DATA).stat().st_size > CHUNK + 10**6
    listed = {"datasets": [ID], "namespaces": ["mujoco/hopper"]}
    (root / "mujoco/namespace_metadata.json").write_text(json.dumps(listed))
    (root / "mujoco/hopper/namespace_metadata.json").write_text("{}")
    return root


@pytest.fixture
def hub(repositories: Path) -> Iterator[Hub]:
    with serve(repositories) as hub:
        yield hub


class Download:
    """Runs datasets.py against a hub, with everything it writes below one folder."""

    def __init__(self, folder: Path, url: str, gymnasium: str = "Hopper-v5") -> None:
        self.folder, self.gymnasium, self.seconds, self.output = folder, gymnasium, 0.0, ""
        home = {"HF_HOME": f"{folder}/huggingface", "MINARI_DATASETS_PATH": f"{folder}/cache", "HF_ENDPOINT": url}
        self.environment = os.environ | home | {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1"}

    def start(self, minari_id: str = ID, **settings: Any) -> subprocess.Popen[str]:
        entry = {"gymnasium": self.gymnasium, "minari": minari_id}
        command = [
            *(sys.executable, ROOT / "workflow/scripts/datasets.py", "--environment", "hopper"),
            *("--settings", json.dumps({"environment": entry, "source": "minari", **settings})),
            *("--folder", self.folder / "hopper", "--unfinished", self.folder / "unfinished"),
            *("--provenance", self.folder / "provenance.json"),
        ]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, code: int = 0, **options: Any) -> str:
        """The output; it is the last line alone if the program fails."""
        started = time.perf_counter()
        process = self.start(**options)
        self.output, _ = process.communicate(timeout=300)
        self.seconds = time.perf_counter() - started
        assert process.returncode == code, self.output
        assert "Traceback" not in self.output
        if code:
            assert not (self.folder / "hopper").exists()
            return self.output.splitlines()[-1]
        return self.output

    def assert_whole(self, repositories: Path) -> None:
        for name in ("metadata.json", DATA):
            assert (self.folder / "hopper/data" / name).read_bytes() == (repositories / ID / "data" / name).read_bytes()
        assert not (self.folder / "unfinished").exists()


@pytest.fixture
def download(tmp_path: Path, hub: Hub) -> Download:
    return Download(tmp_path, hub.url)


def test_a_dataset_is_downloaded_with_revision_and_checksum_told(download: Download, repositories: Path) -> None:
    output = download.run()
    download.assert_whole(repositories)
    checksum = sha256((repositories / ID / "data" / DATA).read_bytes()).hexdigest()
    assert f"revision {COMMIT}, sha256 {checksum}" in output
    assert checksum in (download.folder / "provenance.json").read_text()


def test_cut_connections_are_gone_on_from_by_range(download: Download, hub: Hub, repositories: Path) -> None:
    hub.faults = [(DATA, ("cut", CHUNK + 20_000)), (DATA, ("cut", 10_000))]
    download.run()
    download.assert_whole(repositories)
    assert hub.ranges(DATA) == [None, f"bytes={CHUNK}-", f"bytes={CHUNK}-"]


def test_a_killed_download_is_gone_on_from(download: Download, hub: Hub, repositories: Path) -> None:
    hub.faults = [(DATA, ("cut", CHUNK + 20_000)), (DATA, (503, "always"))]
    process = download.start()
    deadline = time.monotonic() + 60
    while (hub.ranges(DATA) or [None])[-1] is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert not (download.folder / "hopper").exists()
    hub.faults, before = [], len(hub.ranges(DATA))
    download.run()
    download.assert_whole(repositories)
    assert hub.ranges(DATA)[before:] == [f"bytes={CHUNK}-"]


def test_errors_of_the_hub_are_waited_for(download: Download, hub: Hub, repositories: Path) -> None:
    hub.faults = [(DATA, (500,)), (DATA, (503,)), ("revision/main", (500,))]
    download.run()
    download.assert_whole(repositories)


def test_a_byte_that_is_another_is_noticed_and_fetched_anew(download: Download, hub: Hub, repositories: Path) -> None:
    hub.faults = [(DATA, ("flip",))]
    download.run()
    download.assert_whole(repositories)
    assert hub.ranges(DATA) == [None, None]


def test_a_dataset_that_is_always_broken_is_refused(download: Download, hub: Hub) -> None:
    hub.faults = [(DATA, ("flip", "always"))]
    assert "main_data.hdf5 has sha256" in download.run(code=1)
    assert len(hub.ranges(DATA)) == 2


def test_another_checksum_than_the_configured_one_is_refused(download: Download, repositories: Path) -> None:
    known = sha256((repositories / ID / "data" / DATA).read_bytes()).hexdigest()
    assert "the configuration says " + "0" * 64 in download.run(code=1, sha256="0" * 64)
    download.run(sha256=known)


def test_a_dataset_that_is_not_there_names_those_that_are(download: Download, hub: Hub) -> None:
    answer = download.run(code=1, minari_id="mujoco/hopper/best-v0")
    assert ID in answer
    assert "mujoco/hopper/best" in answer
    assert "mujoco" in download.run(code=1, minari_id="nowhere/hopper/best-v0")
    assert hub.ranges(DATA) == []


def test_a_file_that_the_hub_refuses_is_not_asked_for_again(download: Download, hub: Hub) -> None:
    hub.faults = [(DATA, (403, "always"))]
    assert "HTTP 403" in download.run(code=1)
    assert len(hub.ranges(DATA)) == 1


def test_without_network_one_sentence_comes_within_seconds(tmp_path: Path, hub: Hub) -> None:
    for url in ("http://127.0.0.1:9", "http://nowhere.invalid"):
        offline = Download(tmp_path, url)
        answer = offline.run(code=1)
        assert answer.startswith(f"error: the Minari hub at {url} cannot be reached")
        assert "source: experts" in answer
        assert "source: path" in answer
        assert offline.seconds < 20
        assert list(tmp_path.iterdir()) == []
    offline.environment["HF_HUB_OFFLINE"] = "1"
    assert "HF_HUB_OFFLINE is set" in offline.run(code=1)


def test_a_whole_dataset_in_the_cache_is_linked_and_no_hub_is_asked(
    download: Download, hub: Hub, repositories: Path
) -> None:
    shutil.copytree(repositories / ID, download.folder / "cache" / ID)
    download.run()
    for name in ("metadata.json", DATA):
        assert (download.folder / "hopper/data" / name).readlink() == download.folder / "cache" / ID / "data" / name
    assert hub.log == []
    shutil.rmtree(download.folder / "hopper")
    assert (download.folder / "cache" / ID / "data" / DATA).exists()


@pytest.mark.parametrize("damage", ["cut off", "no data", "no metadata"])
def test_a_broken_dataset_in_the_cache_is_left_alone_and_downloaded(
    damage: str, download: Download, repositories: Path
) -> None:
    data = download.folder / "cache" / ID / "data"
    shutil.copytree(repositories / ID / "data", data)
    if damage == "cut off":
        os.truncate(data / DATA, 30_000)
    else:
        (data / {"no data": DATA, "no metadata": "metadata.json"}[damage]).unlink()
    before = sorted(data.iterdir())
    download.run()
    download.assert_whole(repositories)
    assert sorted(data.iterdir()) == before


def test_other_versions_of_the_environment_and_the_simulator_are_told(tmp_path: Path, repositories: Path) -> None:
    changed = tmp_path / "hub"
    shutil.copytree(repositories, changed)
    metadata = json.loads((changed / ID / "data/metadata.json").read_text())
    spec = json.loads(metadata["env_spec"]) | {"id": "Hopper-v4", "kwargs": {"frame_skip": 5}}
    metadata |= {"env_spec": json.dumps(spec), "requirements": ["mujoco==2.3.7"]}
    (changed / ID / "data/metadata.json").write_text(json.dumps(metadata))
    with serve(changed) as hub:
        output = Download(tmp_path / "data", hub.url).run()
        assert "the data are of Hopper-v4, evaluation uses Hopper-v5 (v5 gives no healthy reward" in output
        assert "made with {'frame_skip': 5}, evaluation's is with {}" in output
        assert "collected with mujoco 2.3.7, evaluation uses" in output
        answer = Download(tmp_path / "other", hub.url, "Walker2d-v5").run(code=1)
        assert "the data are of 'Hopper-v4', but the configuration says Walker2d-v5" in answer


@pytest.mark.slow
def test_a_dataset_of_the_official_size_comes_through_a_cut_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log there
    make_dataset(tmp_path / "hub" / ID, episodes=1000, steps=1000, states=17, actions=6)
    (tmp_path / "hub/mujoco/namespace_metadata.json").write_text(
        json.dumps({"datasets": [ID], "namespaces": ["mujoco/hopper"]})
    )
    (tmp_path / "hub/mujoco/hopper/namespace_metadata.json").write_text("{}")
    size = (tmp_path / "hub" / ID / "data" / DATA).stat().st_size
    assert size > 150e6
    with serve(tmp_path / "hub") as hub:
        hub.faults = [(DATA, ("cut", size // 2))]
        download = Download(tmp_path / "data", hub.url, "HalfCheetah-v5")
        download.run()
        download.assert_whole(tmp_path / "hub")
        assert hub.ranges(DATA) == [None, f"bytes={size // 2 // CHUNK * CHUNK}-"]
        print(f"{size / 1e6:.0f} MB in {download.seconds:.1f} s")
