"""An environment that no line of the project knows: added by configuration alone, with what it leaves out derived."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT
from test_workflow import EVERY_TRAINING, TINY, copy_of_the_workflow, planned, snakemake, write

from dt.data import DataError
from dt.policy import load_policy
from dt.stats import RANDOM_EPISODES, read_minari, reference_returns
from dt.streams import integer, reset_seeds, stream

MODULE = '''
import gymnasium
import numpy as np
from gymnasium import spaces


class Reach(gymnasium.Env):
    """Push a point to a goal on a line; actions between -2 and 2."""

    observation_space = spaces.Dict(
        {"goal": spaces.Box(-1, 1, (1,)), "point": spaces.Box(-9, 9, (2,)), "side": spaces.Discrete(2)}
    )
    action_space = spaces.Box(-2, 2, (1,))

    def __init__(self, step_size=0.1):
        self.step_size = step_size

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.goal, self.place, self.speed = self.np_random.uniform(-1, 1), 0.0, 0.0
        return self.look(), {}

    def step(self, action):
        self.speed = float(np.clip(action[0], -2, 2))
        self.place = float(np.clip(self.place + self.step_size * self.speed, -9, 9))
        return self.look(), -abs(self.goal - self.place), False, False, {}

    def look(self):
        point = np.array([self.place, self.speed], np.float32)
        return {"goal": np.array([self.goal], np.float32), "point": point, "side": int(self.place > self.goal)}


gymnasium.register("Reach-v0", "reach:Reach", max_episode_steps=20)
'''
COLLECT = """
import sys
import minari, numpy as np, gymnasium, reach
from minari.data_collector import EpisodeBuffer
environment, buffers = gymnasium.make("Reach-v0"), []
for seed in range(24):
    state, _ = environment.reset(seed=seed)
    states, actions, rewards = [state], [], []
    for _ in range(20):
        wanted = 5 * (state["goal"] - state["point"][:1])
        actions.append(np.clip(wanted, -2, 2).astype("f4"))
        state, reward, *_ = environment.step(actions[-1])
        states.append(state)
        rewards.append(reward)
    stacked = {name: np.stack([state[name] for state in states]) for name in states[0]}
    ends = np.arange(20) == 19
    buffers.append(EpisodeBuffer(None, seed, None, stacked, np.stack(actions), rewards, np.zeros(20, bool), ends))
spec = gymnasium.spec("Reach-v0")
minari.create_dataset_from_buffers("reach/all-v0", buffers, env=spec, eval_env=spec)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the environment's module, and a Minari root with data of it."""
    folder = tmp_path_factory.mktemp("reach")
    (folder / "reach.py").write_text(MODULE)
    environment = os.environ | {"PYTHONPATH": str(folder), "MINARI_DATASETS_PATH": str(folder / "minari")}
    subprocess.run([sys.executable, "-W", "ignore", "-c", COLLECT], cwd=folder, env=environment, check=True)
    return folder


@pytest.fixture
def stats(data: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(data))
    return read_minari(data / "minari/reach/all-v0", 24, 1.0, "reach:Reach-v0")[1]


def test_it_goes_through_the_whole_workflow_to_a_figure(data: Path, tmp_path: Path) -> None:
    copy_of_the_workflow(tmp_path)
    entry = {
        "gymnasium": "reach:Reach-v0",
        "minari": "reach/all-v0",
        "data": {"source": "path", "path": f"{data}/minari"},
    }
    study = TINY | {"environments": {"reach": entry}, "sources": ["reach"], "targets": ["reach"]}
    config, reach = write(tmp_path, study, "reach.yaml"), {"PYTHONPATH": str(data)}
    snakemake(tmp_path, "--cores", "2", "--configfile", config, environment=reach)
    assert (tmp_path / "results/figures/fig1.png").exists()
    found = json.loads((tmp_path / "results/stats/reach.json").read_text())
    table = pd.read_csv(tmp_path / "results/tables/returns.csv", keep_default_na=False)
    reference = found["derived"]["reference"]
    expected = 100 * (table["return"] - reference["random"]) / (reference["expert"] - reference["random"])
    np.testing.assert_allclose(table["score"], expected, atol=1e-3)
    assert set(table["length"]) == {20}
    policy = load_policy(tmp_path / "results/policies/scratch/reach/seed0/policy.safetensors", "reach")
    assert policy.model.architecture.state_size == 5  # goal, two of point, one of two sides
    assert policy.normalisation.action_std == (2.0,)
    assert policy.normalisation.reward_scale == found["derived"]["reward_scale"]
    assert policy.task.data_return == found["derived"]["target_return"]
    assert planned(snakemake(tmp_path, "-n", "--configfile", config, environment=reach)) == {}
    module, every = data / "reach.py", dict(EVERY_TRAINING, finetune=2, scratch=1, evaluate=4)
    for old, new, jobs in (
        ("-abs(", "-2 * abs(", dict(stats=1, **every)),
        ("class Reach", "# a word\nclass Reach", {}),
    ):
        module.write_text(MODULE.replace(old, new))
        assert planned(snakemake(tmp_path, "-n", "--configfile", config, environment=reach)) == jobs
    module.write_text(MODULE)
    entry["target_return"] = -1.0  # asked for in evaluation alone; snapshots are gone, so those are made again
    changed = snakemake(tmp_path, "-n", "--configfile", write(tmp_path, study), environment=reach)
    assert planned(changed) == {"finetune": 2, "scratch": 1, "evaluate": 4, "tables": 1, "figures": 1}
    entry["reference"] = {"random": -20.0, "expert": 0.0}
    changed = snakemake(tmp_path, "-n", "--configfile", write(tmp_path, study), environment=reach)
    assert "stats" in planned(changed)  # random actions are not looked at any more


def test_a_model_that_arguments_name_belongs_to_what_is_collected_measured_and_evaluated(tmp_path: Path) -> None:
    copy_of_the_workflow(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/hopper.xml").write_text("<mujoco/>")
    hopper = {"arguments": {"xml_file": "./models/hopper.xml"}}
    config = write(tmp_path, TINY | {"environments": {"hopper": hopper}}, "hopper.yaml")
    output = snakemake(tmp_path, "-n", "--printshellcmds", "--configfile", config)
    commands = [line for line in output.splitlines() if '"made_of": {"files": {"models/hopper.xml":' in line]
    counts = {name: sum(f"workflow/scripts/{name}.py" in each for each in commands) for name in ("datasets", "stats")}
    assert counts == {"datasets": 1, "stats": 1}
    assert len(commands) == 2 + 1 + 2 + 1  # evaluations of pre-training, fine-tunings and scratch, none of walker2d


def test_what_is_left_out_is_derived_from_the_data(data: Path, stats: dict[str, Any]) -> None:
    flat, _ = read_minari(data / "minari/reach/all-v0", 24, 1.0, "reach:Reach-v0")
    returns = flat.returns_to_go[flat.starts[:-1]]
    assert stats["derived"]["target_return"] == pytest.approx(np.quantile(returns, 0.9), rel=1e-5)
    size = np.abs(returns).mean()
    assert stats["derived"]["reward_scale"] <= size < 10 * stats["derived"]["reward_scale"]
    assert (stats["actions"]["low"], stats["actions"]["high"]) == ([-2.0], [2.0])


def test_reference_returns_are_those_of_random_actions_and_of_the_data(stats: dict[str, Any]) -> None:
    import gymnasium

    environment = gymnasium.make("Reach-v0")
    environment.action_space.seed(integer(stream("random actions", "mine")))
    totals = []
    for seed in reset_seeds(stream("random reset", "mine"), RANDOM_EPISODES):
        environment.reset(seed=seed)
        totals.append(sum(environment.step(environment.action_space.sample())[1] for _ in range(20)))
    found = reference_returns("mine", "reach:Reach-v0", {}, stats)
    assert found == {"random": pytest.approx(np.mean(totals)), "expert": stats["returns"]["mean"]}
    assert reference_returns("other", "reach:Reach-v0", {}, stats)["random"] != found["random"]
    slow = reference_returns("mine", "reach:Reach-v0", {"step_size": 0.01}, stats)
    assert slow["random"] != found["random"]


def test_data_that_are_no_better_than_random_actions_ask_for_a_reference(stats: dict[str, Any]) -> None:
    stats["returns"]["mean"] = -1000.0
    with pytest.raises(DataError, match=r"set environments\.mine\.reference"):
        reference_returns("mine", "reach:Reach-v0", {}, stats)


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_in_config_plans_a_study(path: Path, tmp_path: Path) -> None:
    copy_of_the_workflow(tmp_path)
    config = yaml.safe_load(path.read_text())
    for name, entry in config.get("environments", {}).items():
        if "path" in entry.get("data", {}):  # data that the file's head says how to make
            place = tmp_path / entry["data"]["path"] / entry["minari"] / "data"
            place.mkdir(parents=True)
            for file in ("main_data.hdf5", "metadata.json"):
                (place / file).write_text(name)
    runs = planned(snakemake(tmp_path, "-n", "--configfile", str(path)))
    assert runs["scratch"] == len(config.get("targets", range(3))) * len(config.get("seeds", [0]))


def test_the_scripted_gait_becomes_data_that_are_read(tmp_path: Path) -> None:
    arguments = ["Swimmer-v5", "data/swimmer", "--episodes", "2", "--candidates", "3"]
    script = [sys.executable, "-W", "ignore", str(ROOT / "docs/oscillator.py"), *arguments]
    subprocess.run([*script, "--arguments", '{"max_episode_steps": 50}'], cwd=tmp_path, check=True)
    again = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 2
    assert again.stderr.endswith("data/swimmer/oscillator/all-v0 is there already; delete it, or name another folder\n")
    flat, _ = read_minari(tmp_path / "data/swimmer/oscillator/all-v0", 2, 1.0, "Swimmer-v5")
    assert list(np.diff(flat.starts)) == [50, 50]
    assert flat.states.shape == (100, 8)
