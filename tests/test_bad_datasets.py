"""Broken and wrong Minari datasets: each is one sentence with file and reason, and nothing is written."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from conftest import ROOT
from damage import contents, run_program, try_damages
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minari import create_dataset_from_buffers
from minari.data_collector import EpisodeBuffer

from dt import episodes as episodes_module
from dt.data import DataError
from dt.episodes import Expected, read_episodes
from dt.stats import read_minari

LENGTHS = [5, 1, 7, 3]
NUMBERS = ["observations", "actions", "rewards"]
FIELDS = [*NUMBERS, "terminations", "truncations"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset as Minari writes it, of Hopper's shapes, with actions at their bounds."""
    root, generator = tmp_path_factory.mktemp("minari"), np.random.default_rng(0)
    buffers = []
    for seed, steps in enumerate(LENGTHS):
        actions = generator.uniform(-1, 1, (steps, 3)).astype(np.float32)
        actions[0] = [-1, 1, np.nextafter(np.float32(1), np.float32(2))]  # what rounding may make of a bound
        ends = [step == steps - 1 for step in range(steps)]
        states, rewards = generator.normal(size=(steps + 1, 11)), generator.normal(size=steps)
        buffers.append(EpisodeBuffer(seed, seed, None, states, actions, rewards, ends, [False] * steps))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        spec = gymnasium.spec("Hopper-v5")
        create_dataset_from_buffers("hopper/test-v0", buffers, env=spec, eval_env=spec, algorithm_name="none")
    return root / "hopper/test-v0"


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "hopper")


@pytest.fixture(autouse=True)
def one_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Made once a test: it costs more than reading."""
    made: dict[str, Any] = {}
    make = episodes_module.make_environment
    monkeypatch.setattr(
        episodes_module, "make_environment", lambda name, arguments: made.get(name) or made.setdefault(name, make(name))
    )
    yield
    for environment in made.values():
        environment.close()


def data(folder: Path) -> Path:
    return folder / "data/main_data.hdf5"


def metadata(folder: Path) -> Path:
    return folder / "data/metadata.json"


def set_metadata(**values: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        metadata(folder).write_text(json.dumps(json.loads(metadata(folder).read_text()) | values))

    return spoil


def set_value(field: str, place: tuple[int, ...], value: float) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        with h5py.File(data(folder), "r+") as file:
            file["episode_2"][field][place] = value

    return spoil


def replace(field: str, values: Any) -> Callable[[Path], None]:
    """Other values for a field of episode 2, which has 7 steps; without values there is no field."""

    def spoil(folder: Path) -> None:
        with h5py.File(data(folder), "r+") as file:
            del file["episode_2"][field]
            if values is not None:
                file["episode_2"][field] = values

    return spoil


def set_steps(steps: int) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        shapes = {"observations": (steps + 1, 11), "actions": (steps, 3)}
        for field in FIELDS:
            kind = bool if field.startswith("t") else float
            replace(field, np.zeros(shapes.get(field, (steps,)), kind))(folder)

    return spoil


def declare_a_petabyte(folder: Path) -> None:
    with h5py.File(data(folder), "r+") as file:
        del file["episode_2"]["observations"]
        file["episode_2"].create_dataset("observations", (2**40, 11), "f8", chunks=(1024, 11))


def cut(part: Callable[[Path], Path], share: float) -> Callable[[Path], None]:
    return lambda folder: part(folder).write_bytes(
        part(folder).read_bytes()[: int(share * part(folder).stat().st_size)]
    )


def write(part: Callable[[Path], Path], content: bytes) -> Callable[[Path], None]:
    return lambda folder: part(folder).write_bytes(content) and None


def link_to_nothing(folder: Path) -> None:
    with h5py.File(data(folder), "r+") as file:
        del file["episode_2"]
        file["episode_2"] = h5py.ExternalLink("../../elsewhere.hdf5", "/")


SPEC = json.loads(gymnasium.spec("Walker2d-v5").to_json())
BAD = {  # name: how it is spoilt, what the sentence must hold
    "no data": (lambda folder: data(folder).unlink(), "main_data.hdf5 is missing"),
    "no metadata": (lambda folder: metadata(folder).unlink(), "metadata.json is missing"),
    "empty folder": (lambda folder: shutil.rmtree(folder / "data"), "metadata.json is missing"),
    "data of no bytes": (cut(data, 0), "main_data.hdf5 is not a whole HDF5 file"),
    "a tenth of the data": (cut(data, 0.1), "main_data.hdf5 is not a whole HDF5 file"),
    "data without their last tenth": (cut(data, 0.9), "main_data.hdf5 is not a whole HDF5 file"),
    "data that are text": (write(data, b"hello" * 999), "main_data.hdf5 is not a whole HDF5 file"),
    "metadata of no bytes": (cut(metadata, 0), "metadata.json is not the metadata"),
    "half of the metadata": (cut(metadata, 0.5), "metadata.json is not the metadata"),
    "metadata in Latin-1": (write(metadata, b'{"total_episodes": "\xe9"}'), "metadata.json is not the metadata"),
    "metadata that are a list": (write(metadata, b"[]"), "metadata.json is not the metadata"),
    "metadata nested deeply": (write(metadata, b"[" * 100_000), "metadata.json is not the metadata"),
    "metadata without a count": (write(metadata, b"{}"), "metadata.json is not the metadata"),
    "a count that is text": (set_metadata(total_episodes="4"), "total_episodes is '4'"),
    "a count below zero": (set_metadata(total_episodes=-4), "total_episodes is -4"),
    "a count that is true": (set_metadata(total_episodes=True), "total_episodes is True"),
    "a count beyond memory": (set_metadata(total_episodes=10**12), "metadata.json counts 1000000000000"),
    "a smaller count": (set_metadata(total_episodes=3), "asks for 4"),
    "another environment": (set_metadata(env_spec=json.dumps(SPEC)), "the data are of 'Walker2d-v5'"),
    "an environment of no name": (set_metadata(env_spec="{}"), "metadata.json is not the metadata"),
    "an environment that is a number": (set_metadata(env_spec=5), "metadata.json is not the metadata"),
    "no steps": (set_steps(0), "episode_2 has 0 steps; expected 1 to 1000"),
    "too many steps": (set_steps(1001), "episode_2 has 1001 steps; expected 1 to 1000"),
    "a petabyte": (declare_a_petabyte, "observations have shape (1099511627776, 11)"),
    "a link to nothing": (link_to_nothing, "episode_2 is missing"),
    "too few episodes in the data": (
        lambda folder: h5py.File(data(folder), "r+").__delitem__("episode_3"),
        "main_data.hdf5 holds 3 episodes, but metadata.json counts 4",
    ),
    **{f"no {field}": (replace(field, None), f"episode_2 has no {field}") for field in FIELDS},
    **{f"{field} of text": (replace(field, ["a"] * 7), f"{field} are of type object") for field in FIELDS},
    "complex rewards": (
        replace("rewards", np.zeros(7, complex)),
        "rewards are of type complex128; expected real numbers or truth values",
    ),
    **{
        f"{field} of {values.shape}": (replace(field, values), f"{field} have shape {values.shape}; expected ")
        for field, values in [
            *[("observations", np.zeros(shape)) for shape in [(8, 10), (7, 11), (9, 11), (8,), (8, 11, 1), ()]],
            *[("actions", np.zeros(shape)) for shape in [(7, 2), (8, 3), (7,), (7, 3, 1), ()]],
            *[("rewards", np.zeros(shape)) for shape in [(7, 2), (7, 1, 1), (7, 0), ()]],
            *[(field, np.zeros(shape, bool)) for field in ("terminations", "truncations") for shape in [(6,), (7, 1)]],
        ]
    },
    **{
        f"{field} with {value}": (
            set_value(field, place, value),
            f"episode_2: {field} have {np.float64(value)} at step {place[0]}",
        )
        for field, place in [("observations", (0, 3)), ("observations", (7, 0)), ("actions", (6, 2)), ("rewards", (4,))]
        for value in (np.nan, np.inf, -np.inf)
    },
    "rewards beyond float32": (
        set_value("rewards", (1,), 1e300),
        "rewards have 1e+300 at step 1; expected numbers within ±1e+30",
    ),
    "an infinite state in float16": (
        replace("observations", np.full((8, 11), np.inf, np.float16)),
        "observations have inf at step 0; expected numbers within ±1e+30",
    ),
    "an action above its bound": (set_value("actions", (3, 1), 1.001), "actions have 1.00"),
    "an action below its bound": (set_value("actions", (3, 1), -7), "actions have -7.0 at step 3"),
}


def test_the_data_as_minari_writes_them_are_accepted(dataset: Path) -> None:
    flat, _ = read_minari(dataset, 4, 1.0, "Hopper-v5")
    assert flat.lengths.tolist() == LENGTHS


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("rewards", np.arange(7.0)[:, None]),  # as environments give them whose reward is an array of one
        ("rewards", np.arange(7) > 3),
        ("observations", np.eye(8, 11) > 0),
        ("terminations", np.eye(1, 7, 6, np.float32)[0]),
        ("truncations", np.zeros(7, np.float64)),
    ],
)
def test_truth_values_as_numbers_and_numbers_as_truth_values_are_read(field: str, values: Any, dataset: Path) -> None:
    replace(field, values)(dataset)
    episode = read_episodes(dataset, 4, Expected.of("Hopper-v5", {}))[2]
    if field in ("rewards", "observations"):
        assert np.array_equal(getattr(episode, field), np.squeeze(values))
    flat, stats = read_minari(dataset, 4, 1.0, "Hopper-v5")
    assert flat.returns_to_go.shape == (sum(LENGTHS),)
    assert np.isfinite(stats["states"]["std"]).all()


def test_data_that_do_not_say_their_environment_are_accepted(dataset: Path) -> None:
    set_metadata(env_spec=None)(dataset)
    assert len(read_episodes(dataset, 4, Expected.of("Hopper-v5", {}))) == 4


@pytest.mark.parametrize("name", BAD)
def test_a_bad_dataset_is_answered_with_file_and_reason_and_nothing_is_written(name: str, dataset: Path) -> None:
    spoil, reason = BAD[name]
    spoil(dataset)
    before = contents(dataset.parent)
    assert reason in (run_stats(dataset) or "")
    assert contents(dataset.parent) == before


@pytest.mark.parametrize(
    ("env_id", "reason"),
    [
        ("Walker2d-v5", "the data are of 'Hopper-v5', but the configuration says Walker2d-v5"),
        ("CartPole-v1", "CartPole-v1 has actions of Discrete(2)"),
        ("Hopper-v99", "Gymnasium has no environment Hopper-v99"),
        ("nothing:Here-v0", "the module of nothing:Here-v0 cannot be imported"),
        ("phys2d/CartPole-v1", "phys2d/CartPole-v1"),
        ("../x", "Gymnasium has no environment ../x"),
    ],
)
def test_an_environment_that_does_not_fit_is_answered(env_id: str, reason: str, dataset: Path) -> None:
    assert reason in (run_stats(dataset, env_id) or "")


@pytest.mark.parametrize("name", ["a tenth of the data", "actions with nan", "another environment", "no metadata"])
def test_the_program_ends_with_one_line_and_code_1(name: str, dataset: Path) -> None:
    BAD[name][0](dataset)
    before = contents(dataset.parent)
    command = [sys.executable, ROOT / "workflow/scripts/stats.py", *stats_arguments(dataset, "Hopper-v5")]
    rendering = {"MUJOCO_GL": "egl"} if find_library("EGL") else {}  # it brings PyOpenGL, which logs
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | rendering)
    assert result.returncode == 1
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if "simulator:" not in line]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(f"error: {dataset}")
    assert BAD[name][1] in lines[0]
    assert contents(dataset.parent) == before


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_field_of_any_shape_type_and_values_is_accepted_or_answered(whole: Path, tmp_path: Path, draw: Any) -> None:
    folder = shutil.copytree(whole, tmp_path / "hopper", dirs_exist_ok=True)
    field = draw.draw(st.sampled_from(FIELDS))
    shape = draw.draw(st.lists(st.sampled_from([0, 1, 3, 7, 8, 11]), max_size=3))
    kind = draw.draw(st.sampled_from(["f2", "f4", "f8", "i1", "u8", "?", "c8", "S3", "V2"]))
    fill = draw.draw(st.sampled_from([0, 1, 2, -1, np.nan, np.inf]))
    with np.errstate(invalid="ignore"):
        values = np.zeros(shape, kind) if kind in ("S3", "V2") else np.full(shape, fill, "f8").astype(kind)
    replace(field, values)(folder)
    try:
        flat, stats = read_minari(folder, 4, 1.0, "Hopper-v5")
    except DataError as error:
        assert "episode_2" in str(error)  # noqa: PT017
    else:
        assert np.isfinite(flat.states).all()
        assert np.isfinite([*stats["states"]["mean"], *stats["actions"]["std"]]).all()


@pytest.mark.parametrize("part", [data, metadata])
@pytest.mark.parametrize("cases", [150, pytest.param(3000, marks=pytest.mark.slow)])
def test_damaged_files_are_answered_or_their_contents_are_sound(
    part: Callable[[Path], Path], cases: int, dataset: Path
) -> None:
    counts = try_damages(part(dataset), cases, lambda: assert_sound(dataset), seed=cases)
    assert min(counts["answered"], counts["accepted"]) > 0.1 * cases


def assert_sound(folder: Path) -> None:
    flat, _ = read_minari(folder, 4, 1.0, "Hopper-v5")
    assert all(np.isfinite(array).all() for array in (flat.states, flat.actions, flat.returns_to_go))
    assert np.abs(flat.actions).max() < 1.001


def stats_arguments(folder: Path, env_id: str) -> list[str]:
    chosen = json.dumps({"trajectories": 4, "gamma": 1.0, "gymnasium": env_id, "derive_reference": False})
    outputs = ["--arrays", f"{folder.parent}/arrays", "--stats", f"{folder.parent}/stats.json"]
    return ["--environment", "hopper", "--settings", chosen, "--dataset", str(folder), *outputs]


def run_stats(folder: Path, env_id: str = "Hopper-v5") -> str | None:
    return run_program("stats", stats_arguments(folder, env_id))
