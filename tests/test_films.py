"""Films show the very episode that is evaluated, and need nothing but OpenGL without a screen."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_evaluation import Data, hopper_policy
from test_workflow import snakemake

from dt import evaluate
from dt.commands import main
from dt.films import GIF_SECONDS, NEEDED, SIZE, Film, FilmError, choose_backend
from dt.policy import Policy, Task, save_policy

try:
    choose_backend()
    MISSING = ""
except FilmError as error:
    MISSING = str(error)
if MISSING and os.environ.get("CI"):
    raise RuntimeError(f"CI has to film: {MISSING}")
films = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@pytest.fixture
def policy(config: dict[str, Any], hopper: Data) -> Policy:
    return hopper_policy(config, hopper, spread=8.0)


@films
def test_a_film_shows_the_first_episode_and_changes_none(policy: Policy, tmp_path: Path) -> None:
    film = Film(policy.task, tmp_path / "film.gif")
    filmed, plain = evaluate(policy, 10, first=film), evaluate(policy, 10)
    assert filmed == plain
    film.save()
    assert len(film.frames) == 1 + filmed[0].length // 10  # 125 steps a second, 12.5 frames
    with Image.open(tmp_path / "film.gif") as image:
        assert max(image.size) == SIZE[".gif"]
        durations = []
        for frame in range(image.n_frames):
            image.seek(frame)
            durations.append(image.info["duration"])
    assert sum(durations) == len(film.frames) * 80  # ms; equal frames may be joined
    assert all(frame.std() > 10 for frame in film.frames)  # something is seen
    assert any((film.frames[0] != frame).any() for frame in film.frames)


@films
def test_a_gif_ends_after_seconds_and_a_pendulum_is_filmed_too(tmp_path: Path) -> None:
    task = Task("pendulum", "Pendulum-v1", {"max_episode_steps": 500}, 1.0, 4, None)
    film = Film(task, tmp_path / "film.gif")
    film.reset(seed=0)
    for _ in range(499):
        film.step(np.zeros(1, np.float32))
    assert len(film.frames) == GIF_SECONDS * film.rate
    film.save()
    assert (tmp_path / "film.gif").stat().st_size > 1000


@films
def test_dt_evaluate_writes_a_video(policy: Policy, tmp_path: Path) -> None:
    import imageio.v3

    save_policy(policy, tmp_path / "policy.safetensors")
    main(["evaluate", str(tmp_path), "--episodes", "1", "--video", str(tmp_path / "film.mp4")])
    frames = imageio.v3.imread(tmp_path / "film.mp4", plugin="FFMPEG")
    assert frames.shape[1:] == (SIZE[".mp4"], SIZE[".mp4"], 3)
    (episode,) = evaluate(policy, 1)
    assert len(frames) == 1 + episode.length // 5


def test_without_a_library_that_renders_the_packages_are_named(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr("dt.films.ctypes.util.find_library", lambda name: None)
    with pytest.raises(FilmError, match="libegl1 and libgl1") as caught:
        Film(policy.task, tmp_path / "film.gif")
    assert NEEDED in str(caught.value)


def test_a_video_without_the_extra_says_which(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dt.films.importlib.util.find_spec", lambda name: None)
    with pytest.raises(FilmError, match=r"need the extra \[film\]"):
        Film(policy.task, tmp_path / "film.mp4")


@films
def test_the_rule_films_shows_every_target_and_is_not_asked_for_by_the_rest(study: Path) -> None:
    output = snakemake(study, "--cores", "2", "films", "--configfile", "tiny.yaml")
    assert "2 of 3 steps" in output or "3 of 3 steps" in output
    for target in ("hopper", "walker2d"):
        with Image.open(study / f"results/films/{target}.gif") as image:
            assert image.size == (SIZE[".gif"],) * 2
        assert (study / f"results/films/{target}.provenance.json").exists()
    assert "Nothing to be done" in snakemake(study, "-n", "films", "--configfile", "tiny.yaml")
