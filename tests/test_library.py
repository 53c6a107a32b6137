"""What a notebook uses: `from dt import …`, an agent stepped by hand, `dt evaluate`; and the wheel, elsewhere."""

import json
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from damage import rewrite
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from test_evaluation import Data, hopper_policy

import dt
from dt import Agent, evaluate
from dt.commands import main
from dt.environments import make_environment
from dt.evaluation import asked_return
from dt.policy import Policy, PolicyError, load_policy, save_policy

ROOT = Path(__file__).parents[1]


@pytest.fixture
def policy(config: dict[str, Any], hopper: Data) -> Policy:
    """Falls within a hundred steps."""
    return hopper_policy(config, hopper, spread=8.0)


def by_hand(policy: Policy, seed: int, target_return: float | None = None) -> tuple[float, int]:
    environment = make_environment("Hopper-v5")
    agent = Agent(policy, environment, target_return)
    state, _ = environment.reset(seed=seed)
    action, total, steps, ended = agent.reset(state), 0.0, 0, False
    while not ended:
        state, reward, terminated, truncated, _ = environment.step(action)
        total, steps, ended = total + float(reward), steps + 1, terminated or truncated
        if not ended:
            action = agent.act(state, float(reward))
    return total, steps


@pytest.mark.parametrize("gamma", [1.0, 0.99])
@pytest.mark.parametrize("normalise_actions", [False, True])
def test_an_agent_stepped_by_hand_earns_what_an_evaluation_says(
    gamma: float, normalise_actions: bool, config: dict[str, Any], hopper: Data
) -> None:
    config["data"] |= {"gamma": gamma, "normalise_actions": normalise_actions}
    policy = hopper_policy(config, hopper, spread=8.0)
    environment = make_environment("Hopper-v5")
    seeds: list[int] = []
    reset = environment.reset
    environment.reset = lambda *, seed: (seeds.append(seed), reset(seed=seed))[1]
    (episode,) = evaluate(policy, 1, target_return=2000.0, first=environment)
    total, steps = by_hand(policy, seeds[0], 2000.0)
    assert episode.length == steps
    assert episode.total == pytest.approx(total, rel=1e-4)


def test_an_agent_asks_for_what_its_study_asked_for_and_begins_anew(policy: Policy) -> None:
    assert policy.task.target_return == 5000.0 != policy.task.data_return  # as the configuration says
    assert by_hand(policy, 3) == by_hand(policy, 3, 5000.0) != by_hand(policy, 3, policy.task.data_return)
    environment = make_environment("Hopper-v5")
    agent = Agent(policy, environment)
    with pytest.raises(PolicyError, match=r"call reset\(state\) first"):
        agent.act(np.zeros(11), 0.0)
    first = agent.reset(np.zeros(11))
    agent.act(np.ones(11), 5.0)
    assert agent.return_to_go == agent.target_return - 5
    np.testing.assert_array_equal(agent.reset(np.zeros(11)), first)
    with pytest.raises(PolicyError, match="states of size 11, but those of Hopper-v5 have 17"):
        Agent(policy, make_environment("Walker2d-v5"))


def test_equal_seeds_give_equal_episodes_and_more_begin_with_the_fewer(policy: Policy) -> None:
    many, again, others = (evaluate(policy, 10, seed=seed) for seed in (0, 0, 1))
    assert many == again
    assert [episode.episode for episode in many] == list(range(10))
    for count in (1, 3, 9):  # fewer than run side by side, and more
        assert evaluate(policy, count) == many[:count]
    assert many != others


@pytest.mark.parametrize("episodes", [0, -3, 2.5, "4", 10**10])
def test_a_number_of_episodes_that_is_none_is_refused(episodes: Any, policy: Policy) -> None:
    with pytest.raises(PolicyError, match="episodes cannot be evaluated; allowed are 1 to"):
        evaluate(policy, episodes)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e31, "5000", True, np.ones(2)])
def test_a_target_return_that_is_no_finite_number_is_refused(value: Any, policy: Policy) -> None:
    for ask in (lambda: evaluate(policy, 1, value), lambda: Agent(policy, make_environment("Hopper-v5"), value)):
        with pytest.raises(PolicyError, match="cannot be asked for; allowed is a finite number"):
            ask()


@pytest.mark.parametrize(
    ("state", "reward", "reason"),
    [
        (np.zeros(12), 0.0, r"a state of shape \(12,\); expected \(11,\)"),
        (np.zeros((2, 11)), 0.0, r"a state of shape \(2, 11\)"),
        ([0.0] * 10 + [np.nan], 0.0, "a state whose component 10 is nan"),
        ({"position": np.zeros(11)}, 0.0, "a state of type dict"),
        (np.zeros(11), np.inf, "a reward of inf"),
        (np.zeros(11), np.zeros(3), r"a reward of shape \(3,\)"),
        (np.zeros(11), "1", "a reward of type str"),
    ],
)
def test_an_agent_refuses_what_is_no_state_or_reward_and_stays_where_it_was(
    state: Any, reward: Any, reason: str, policy: Policy
) -> None:
    agent, undisturbed = (Agent(policy, make_environment("Hopper-v5")) for _ in range(2))
    np.testing.assert_array_equal(agent.reset(np.zeros(11)), undisturbed.reset(torch.zeros(11)))
    with pytest.raises(PolicyError, match=f"the agent was given {reason}"):
        agent.act(state, reward)
    np.testing.assert_array_equal(agent.act([1.0] * 11, np.array([5.0])), undisturbed.act(np.ones(11), 5.0))


def test_an_agent_of_weights_that_overflow_says_so(policy: Policy) -> None:
    with torch.no_grad():
        policy.model.predict_action.weight.mul_(torch.inf)
    with pytest.raises(PolicyError, match=r"predicts the action \[nan, nan, nan\] at step 0; check its weights"):
        Agent(policy, make_environment("Hopper-v5")).reset(np.zeros(11))


def test_other_environments_than_vectors_and_ones_that_never_end_are_refused(policy: Policy) -> None:
    several = gymnasium.make_vec("Hopper-v5", num_envs=2)
    with pytest.raises(PolicyError, match="acts on vectors of one environment, but"):
        Agent(policy, several)  # type: ignore[arg-type]
    several.close()
    with pytest.raises(PolicyError, match="acts on vectors of one environment, but"):
        evaluate(policy, 1, first=gymnasium.make("Blackjack-v1"))
    endless = gymnasium.wrappers.TransformReward(HopperEnv(terminate_when_unhealthy=False), lambda _: np.ones(1))
    with pytest.raises(PolicyError, match="knows 1000 time steps, and an episode goes on; give it a time limit"):
        evaluate(policy, 1, first=endless)


def test_a_policy_computes_as_its_study_did(config: dict[str, Any], hopper: Data, tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    returns = {}
    for precision in ("fp32", "bf16"):
        save_policy(hopper_policy(config | {"precision": precision}, hopper, spread=8.0), path)
        loaded = load_policy(path)
        returns[precision] = [episode.total for episode in evaluate(loaded, 2)]
        loaded.model.compute_in("fp32")
        assert ([episode.total for episode in evaluate(loaded, 2)] == returns[precision]) == (precision == "fp32")
    assert returns["fp32"] != returns["bf16"]


def test_files_of_earlier_versions_ask_as_they_did(policy: Policy, tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    save_policy(policy, path)

    def forget(_: Any, description: dict[str, Any]) -> None:
        del description["task"]["target_return"], description["task"]["precision"]

    rewrite(path, forget)
    task = load_policy(path).task
    assert (task.target_return, task.precision) == (None, "fp32")
    assert asked_return(load_policy(path), None) == task.data_return == 3000.0


def test_dt_evaluate_prints_what_evaluate_returns(
    policy: Policy, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    save_policy(policy, tmp_path / "policy.safetensors")
    main(["evaluate", str(tmp_path), "--episodes", "4", "--json"])
    printed = json.loads(capsys.readouterr().out)
    expected = evaluate(policy, 4)
    assert printed["target_return"] == policy.task.target_return
    assert [row["return"] for row in printed["episodes"]] == [episode.total for episode in expected]
    main(["evaluate", str(tmp_path), "--episodes", "4", "--reference", "0", "100"])
    lines = capsys.readouterr().out.splitlines()
    mean = np.mean([episode.total for episode in expected])
    assert lines[0] == "Hopper-v5, asked for 5000, 4 episodes"
    assert lines[1].startswith(f"return {mean:.1f} ± ")
    assert lines[3] == f"score {mean:.1f}"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere.safetensors"], "nowhere.safetensors"),
        (["{folder}/pickle.safetensors"], "pickle or a zip archive"),
        (["{folder}", "--episodes", "0"], "0 episodes cannot be evaluated"),
        (["{folder}", "--episodes", "-5"], "-5 episodes cannot be evaluated"),
        (["{folder}", "--target-return", "nan"], "a target return of nan cannot be asked for"),
        (["{folder}", "--target-return=-inf"], "a target return of -inf cannot be asked for"),
        (["{folder}", "--target-return", "1e31", "--json"], "a target return of 1e+31 cannot be asked for"),
        (["{folder}", "--reference", "7", "7"], "--reference: found 7 7; allowed are finite numbers, RANDOM < EXPERT"),
        (["{folder}", "--reference", "9", "-9"], "--reference: found 9 -9; allowed"),
        (["{folder}", "--reference", "nan", "1"], "--reference: found nan 1; allowed"),
        (["{folder}", "--reference", "0", "inf"], "--reference: found 0 inf; allowed"),
        (["{folder}", "--video", "film.avi"], "film.avi cannot be filmed; its name may end in .mp4 or .gif"),
        (["{folder}/unknown.safetensors"], "say which target return to ask for"),
    ],
)
def test_dt_evaluate_answers_what_is_wrong_in_a_sentence(
    arguments: list[str], reason: str, policy: Policy, tmp_path: Path
) -> None:
    save_policy(policy, tmp_path / "policy.safetensors")
    (tmp_path / "pickle.safetensors").write_bytes(b"PK\x03\x04")
    object.__setattr__(policy.task, "data_return", None)
    object.__setattr__(policy.task, "target_return", None)
    save_policy(policy, tmp_path / "unknown.safetensors")
    with pytest.raises(SystemExit) as end:
        main(["evaluate", *(argument.format(folder=tmp_path) for argument in arguments)])
    assert reason in str(end.value)
    assert "\n" not in str(end.value)


def test_ctrl_c_ends_dt_with_a_sentence(policy: Policy, tmp_path: Path) -> None:
    save_policy(policy, tmp_path / "policy.safetensors")
    program = (  # the first prediction is interrupted, as by the keyboard
        "import os, signal, sys; from dt.acting import ActingTransformer; from dt.commands import main;"
        "ActingTransformer.act = lambda *_: os.kill(os.getpid(), signal.SIGINT); main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, "evaluate", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (130, "error: stopped by Ctrl-C\n")


def test_the_package_imports_nothing_heavy_before_it_is_used() -> None:
    program = "import sys, dt; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'gymnasium')))"
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = dt.nothing  # type: ignore[attr-defined]
    assert all(getattr(dt, name) for name in dt.__all__)


def test_the_example_runs(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_policy(policy, tmp_path / "policy.safetensors")
    monkeypatch.setattr(sys, "argv", ["example.py", str(tmp_path / "policy.safetensors")])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "docs/example.py"), run_name="__main__")
    assert (tmp_path / "episode.png").read_bytes().startswith(b"\x89PNG")


def test_the_wheel_works_outside_the_checkout(policy: Policy, tmp_path: Path) -> None:
    save_policy(policy, tmp_path / "policy.safetensors")
    source = tmp_path / "source"  # a build leaves files beside it
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--wheel-dir", tmp_path, source]
    subprocess.run(pip, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        entry_points = archive.read(next(name for name in archive.namelist() if name.endswith("entry_points.txt")))
    assert b"dt = dt.commands:main" in entry_points
    assert (tmp_path / "site/dt/py.typed").exists()
    assert (tmp_path / "site/dt/__init__.pyi").exists()
    program = (
        "import dt; from dt import load_policy, evaluate; print(dt.__file__);"
        "print(len(evaluate(load_policy('policy.safetensors'), 2)))"
    )
    elsewhere = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=tmp_path, env=elsewhere, check=True, text=True, capture_output=True)
    assert result.stdout.split() == [str(tmp_path / "site/dt/__init__.py"), "2"]
    command = [sys.executable, "-m", "dt", "evaluate", "policy.safetensors", "--episodes", "2"]
    result = subprocess.run(command, cwd=tmp_path, env=elsewhere, check=True, text=True, capture_output=True)
    assert result.stdout.startswith("Hopper-v5, asked for 5000, 2 episodes\nreturn ")
