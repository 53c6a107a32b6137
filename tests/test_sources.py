"""Studies on data of users, through Snakemake: from the hub, a folder or a Minari root, which stay as they are."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from damage import contents
from hub import COMMIT, serve
from test_hub import ID, Download, make_dataset
from test_workflow import copy_of_the_workflow, planned, snakemake, write

STUDY = {
    "sources": ["hopper"],
    "targets": ["hopper"],
    "strategies": ["unfreeze0"],
    "data": {"trajectories": 8},
    "model": {"layers": 1, "width": 16, "context": 3},
    "training": {"pretrain_epochs": 1, "epochs": 1, "batch_size": 8},
    "evaluation": {"every": 1, "episodes": 1},
    "report": {"final_points": 1},
}
STATS = "results/stats/hopper.json"
DATA = "results/datasets/hopper/data/main_data.hdf5"
BOTH = {"datasets": 1, "stats": 1}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the user: eight episodes as of Hopper-v5."""
    folder = tmp_path_factory.mktemp("dataset")
    make_dataset(folder, episodes=8, steps=20)
    return folder


@pytest.fixture(scope="module")
def finished(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose study of the user's data, in a Minari root, has its statistics."""
    folder = copy_of_the_workflow(tmp_path_factory.mktemp("project"))
    shutil.copytree(dataset, folder / "mine" / ID)
    run(folder, "--cores", "1", STATS, path="mine")
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy whose links lead to its own data."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True, symlinks=True)
    for name in ("main_data.hdf5", "metadata.json"):
        link = tmp_path / "results/datasets/hopper/data" / name
        before = link.lstat()
        link.unlink()
        link.symlink_to(tmp_path / "mine" / ID / "data" / name)
        os.utime(link, ns=(before.st_atime_ns, before.st_mtime_ns), follow_symlinks=False)
    yield tmp_path
    shutil.rmtree(tmp_path)


def run(folder: Path, *arguments: str, code: int = 0, environment: dict[str, str] | None = None, **data: Any) -> str:
    """Snakemake on the tiny study with `data: {source: path}`, or what else `data` says."""
    chosen = {"source": "path", **STUDY["data"], **data}
    config = write(folder, STUDY | {"data": chosen}, "study.yaml")
    return snakemake(folder, *arguments, "--configfile", config, code=code, environment=environment)


@pytest.fixture
def repositories(dataset: Path, tmp_path: Path) -> Path:
    """Of a hub that has the dataset."""
    shutil.copytree(dataset, tmp_path / "hub" / ID)
    listed = {"datasets": [ID], "namespaces": ["mujoco/hopper"]}
    (tmp_path / "hub/mujoco/namespace_metadata.json").write_text(json.dumps(listed))
    (tmp_path / "hub/mujoco/hopper/namespace_metadata.json").write_text("{}")
    return tmp_path / "hub"


def test_a_study_of_the_hubs_data_and_of_a_minari_root_runs_to_its_figures(
    dataset: Path, repositories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hopper from the hub, as the study says; the target from a root, as its own block says."""
    monkeypatch.chdir(tmp_path)  # where MuJoCo writes its warnings
    (tmp_path / "project").mkdir()
    project = copy_of_the_workflow(tmp_path / "project")
    cheetah = project / "my data/mujoco/halfcheetah/expert-v0"
    make_dataset(cheetah, episodes=8, steps=20, states=17, actions=6)
    before = contents(cheetah)
    own = {"halfcheetah": {"data": {"source": "path", "path": "my data"}}}
    data = {"source": "minari", "trajectories": 8}
    config = write(project, STUDY | {"targets": ["halfcheetah"], "environments": own, "data": data})
    homes = {"HF_HOME": f"{tmp_path}/huggingface", "MINARI_DATASETS_PATH": f"{tmp_path}/cache", "NO_PROXY": "127.0.0.1"}
    with serve(repositories) as hub:
        snakemake(project, "--cores", "2", "--configfile", config, environment=homes | {"HF_ENDPOINT": hub.url})
        assert hub.counts["GET file"] > 0
    assert (project / DATA).read_bytes() == (dataset / "data/main_data.hdf5").read_bytes()
    assert not (project / DATA).is_symlink()
    assert json.loads((project / "results/datasets/hopper.provenance.json").read_text())["revision"] == COMMIT
    assert (project / DATA.replace("hopper", "halfcheetah")).readlink() == cheetah / "data/main_data.hdf5"
    assert (project / "results/figures/fig1.pdf").is_file()
    assert not (project / "results/checkpoints").exists() or not list((project / "results/checkpoints").rglob("*.*"))
    assert contents(cheetah) == before
    assert "Nothing to be done" in snakemake(project, "-n", "--configfile", config)


def test_the_folder_of_a_dataset_will_do_and_an_environments_own_block_goes_first(
    dataset: Path, tmp_path: Path
) -> None:
    project = copy_of_the_workflow(tmp_path)
    own = {"environments": {"hopper": {"data": {"source": "path", "path": str(dataset)}}}}
    config = write(project, STUDY | own)
    snakemake(project, "--cores", "1", STATS, "--configfile", config)
    assert (project / DATA).readlink() == dataset / "data/main_data.hdf5"


@pytest.mark.parametrize("what", [["--forcerun", "datasets"], ["--delete-all-output"], ["--touch", "--forceall"]])
def test_what_snakemake_does_to_its_outputs_leaves_the_users_files_as_they_are(what: list[str], project: Path) -> None:
    before = contents(project / "mine")
    run(project, "--cores", "1", STATS, *what, path="mine")
    assert contents(project / "mine") == before
    assert (project / DATA).is_symlink() == (what[0] != "--delete-all-output")
    run(project, "--cores", "1", STATS, path="mine")
    assert contents(project / "mine") == before
    assert (project / DATA).is_symlink()


def test_data_of_another_source_replace_the_links_and_not_what_they_lead_to(project: Path) -> None:
    before = contents(project / "mine")
    run(project, "--cores", "1", STATS, source="experts", trajectories=8)
    assert not (project / DATA).is_symlink()
    assert contents(project / "mine") == before
    run(project, "--cores", "1", STATS, path="mine")
    assert (project / DATA).is_symlink()
    assert contents(project / "mine") == before


@pytest.mark.parametrize("records", ["kept", "lost"])
def test_other_data_at_the_same_path_are_noticed_though_their_dates_stay(records: str, project: Path) -> None:
    other = project / "other"
    make_dataset(other, episodes=8, steps=21)
    for path in (project / "mine" / ID / "data").iterdir():
        before = path.stat()
        path.write_bytes((other / "data" / path.name).read_bytes())
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    if records == "lost":
        shutil.rmtree(project / ".snakemake")
    assert planned(run(project, "-n", STATS, path="mine")) == BOTH


def test_moved_data_rerun_nothing_and_are_found_where_they_are_when_needed(project: Path) -> None:
    (project / "mine").rename(project / "moved")
    assert "Nothing to be done" in run(project, "-n", STATS, path="moved")
    run(project, "--cores", "1", STATS, "--forcerun", "stats", path="moved")
    assert (project / DATA).readlink() == project / "moved" / ID / "data/main_data.hdf5"


def test_links_to_a_former_place_are_not_followed_though_something_lies_there(project: Path) -> None:
    shutil.copytree(project / "mine", project / "copied")
    (project / "mine" / ID / "data/main_data.hdf5").write_bytes(b"something else")
    assert "Nothing to be done" in run(project, "-n", STATS, path="copied")
    run(project, "--cores", "1", STATS, "--forcerun", "stats", path="copied")
    assert (project / DATA).readlink() == project / "copied" / ID / "data/main_data.hdf5"


def test_a_place_without_data_is_a_sentence_before_any_job(project: Path) -> None:
    (project / "mine" / ID / "data/main_data.hdf5").unlink()
    answer = run(project, "--cores", "1", code=1, path="mine")
    assert f"environments.hopper.data.path: {project}/mine holds no Minari dataset" in answer
    assert "Traceback" not in answer
    assert "Job stats" not in answer


def test_data_that_are_cut_off_are_a_sentence_that_deletes_nothing_of_the_users(project: Path) -> None:
    os.truncate(project / "mine" / ID / "data/main_data.hdf5", 3000)
    answer = run(project, "--cores", "1", STATS, code=1, path="mine")
    assert f"error: {project}/mine/{ID}/data/main_data.hdf5 is not a whole HDF5 file" in answer
    assert f"delete {project}" not in answer
    assert (project / "mine" / ID / "data/main_data.hdf5").stat().st_size == 3000


def test_another_checksum_than_the_known_one_is_a_sentence(project: Path) -> None:
    own = {"hopper": {"data": {"source": "path", "path": "mine", "sha256": "0" * 64}}}
    config = write(project, STUDY | {"environments": own})
    answer = snakemake(project, "--cores", "1", STATS, "--configfile", config, code=1)
    assert f"but the configuration says {'0' * 64}" in answer


def test_a_download_that_a_killed_snakemake_left_behind_stops_for_the_next_one(
    repositories: Path, tmp_path: Path
) -> None:
    """Two would append to one file."""
    with serve(repositories) as hub:
        hub.faults = [("main_data.hdf5", ("cut", 5000)), ("main_data.hdf5", (503, "always"))]
        download = Download(tmp_path / "data", hub.url)
        left_behind, deadline = download.start(), time.monotonic() + 60
        while len(hub.ranges("main_data.hdf5")) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        next_one = download.start()
        assert "stopped by SIGTERM" in left_behind.communicate(timeout=60)[0]
        hub.faults = []
        assert "waiting for process" in next_one.communicate(timeout=60)[0]
        assert (left_behind.returncode, next_one.returncode) == (1, 0)
    download.assert_whole(repositories)


def test_a_download_of_another_id_does_not_go_on_from_the_former_ones(repositories: Path, tmp_path: Path) -> None:
    other = ID.replace("expert", "medium")
    shutil.copytree(repositories / ID, repositories / other)
    make_dataset(repositories / other, episodes=9, steps=20)
    metadata = repositories / other / "data/metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"dataset_id": other}))
    listed = {"datasets": [ID, other], "namespaces": ["mujoco/hopper"]}
    (repositories / "mujoco/namespace_metadata.json").write_text(json.dumps(listed))
    with serve(repositories) as hub:
        hub.faults = [("main_data.hdf5", (403,))]
        download = Download(tmp_path / "data", hub.url)
        download.run(code=1)
        download.run(minari_id=other)
    found = (tmp_path / "data/hopper/data/main_data.hdf5").read_bytes()
    assert found == (repositories / other / "data/main_data.hdf5").read_bytes()
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["hopper", "huggingface", "provenance.json"]
