"""Film an episode while it is evaluated, without a screen."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from PIL import Image

from dt.broken import reason
from dt.environments import make_environment
from dt.files import write_whole
from dt.policy import Task
from dt.runs import ExpectedError

FRAMES_PER_SECOND = {".mp4": 25, ".gif": 12.5}  # at most; a GIF counts in hundredths of a second
SIZE = {".mp4": 480, ".gif": 240}  # pixels
GIF_SECONDS = 10  # of the simulation
GIF_COLOURS = 64
BACKENDS = {"egl": "EGL", "osmesa": "OSMesa"}  # of MuJoCo, and the library that each needs
NEEDED = "install Debian's libegl1 and libgl1 (MUJOCO_GL=egl), or libosmesa6 (MUJOCO_GL=osmesa)"


class FilmError(ExpectedError):
    """An episode cannot be filmed, in one sentence."""


class Film(gymnasium.Wrapper):
    """The environment of a task, whose first episode is filmed: nothing about it changes but the time it takes.

    `path` ends in .mp4 or .gif; a GIF ends after 10 seconds of the simulation. Raises FilmError if the path has another
    suffix or nothing here can render or write the film.
    """

    def __init__(self, task: Task, path: Path) -> None:
        if path.suffix not in SIZE:
            raise FilmError(f"{path} cannot be filmed; its name may end in {' or '.join(SIZE)}")
        if path.suffix == ".mp4" and not importlib.util.find_spec("imageio_ffmpeg"):
            raise FilmError(f"{path}: films in .mp4 need the extra [film] (imageio-ffmpeg); .gif needs none")
        choose_backend()
        super().__init__(make_environment(task.gymnasium, task.arguments, render_mode="rgb_array"))
        self.path, self._steps, self._episodes = path, 0, 0
        self.frames: list[np.ndarray] = []  # [height, width, 3] uint8 each
        _render_fast(self.env.unwrapped, SIZE[path.suffix])
        rate = float(self.env.metadata.get("render_fps") or 30)
        self._every = max(1, round(rate / FRAMES_PER_SECOND[path.suffix]))
        self.rate = rate / self._every

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        outcome = self.env.reset(**options)
        self._episodes, self._steps = self._episodes + 1, 0
        self._look()
        return outcome

    def step(self, action: np.ndarray) -> tuple[Any, ...]:
        outcome = self.env.step(action)
        self._steps += 1
        self._look()
        return outcome

    def save(self) -> None:
        """Write what was filmed."""
        write_whole(self.path, self._write_gif if self.path.suffix == ".gif" else self._write_mp4)

    def _look(self) -> None:
        short_enough = self.path.suffix != ".gif" or len(self.frames) < GIF_SECONDS * self.rate
        if self._episodes == 1 and self._steps % self._every == 0 and short_enough:
            try:
                frame = self.env.render()
            except Exception as error:  # of OpenGL
                raise FilmError(f"{self.env} cannot be rendered here ({reason(error)}); {NEEDED}") from error
            self.frames.append(np.asarray(frame))

    def _write_gif(self, path: Path) -> None:
        images = [Image.fromarray(frame) for frame in self.frames]
        images = [image.resize(_fitting(image.size, SIZE[".gif"])) for image in images]
        palette = images[0].quantize(GIF_COLOURS)  # one for all: colours do not flicker
        first, *others = (image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images)
        first.save(path, save_all=True, append_images=others, duration=round(1000 / self.rate), loop=0, optimize=False)

    def _write_mp4(self, path: Path) -> None:
        import imageio.v3

        imageio.v3.imwrite(path, np.stack(self.frames), fps=self.rate, plugin="FFMPEG", macro_block_size=2)


def choose_backend() -> None:
    """Tell MuJoCo how to render without a screen, unless MUJOCO_GL does; raises FilmError if no library can."""
    if "MUJOCO_GL" not in os.environ:
        found = [name for name, library in BACKENDS.items() if ctypes.util.find_library(library)]
        if not found:
            raise FilmError(f"nothing here can render without a screen; {NEEDED}")
        os.environ["MUJOCO_GL"] = found[0]
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # of Gymnasium's other environments


def _fitting(size: tuple[int, int], largest: int) -> tuple[int, int]:
    """The size of a picture whose longer side is at most `largest`."""
    factor = min(1.0, largest / max(size))
    return round(size[0] * factor), round(size[1] * factor)


def _render_fast(environment: Any, size: int) -> None:
    """MuJoCo without shadows, reflections and multisampling, which on a processor takes a tenth of the time.

    The camera follows the creature, if its model has one that does. Other environments stay as they are.
    """
    renderer = getattr(environment, "mujoco_renderer", None)
    if renderer is None:
        return
    import mujoco

    environment.model.vis.quality.offsamples = environment.model.vis.quality.shadowsize = 0
    environment.model.vis.global_.offwidth = environment.model.vis.global_.offheight = size
    renderer.width = renderer.height = size
    following = mujoco.mj_name2id(environment.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
    renderer.camera_id = following if following >= 0 else renderer.camera_id
    try:
        viewer = renderer._get_viewer("rgb_array")
    except Exception as error:  # of OpenGL
        raise FilmError(f"nothing is rendered here ({reason(error)}); {NEEDED}") from error
    for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
        viewer.scn.flags[flag] = 0
