"""Training an expert: it resumes where it stopped, keeps the best, and exports an actor that acts alone."""

import json
import logging
import signal
import threading
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dt import experts
from dt.actors import Actor, rollouts
from dt.experts import model_card, train_expert
from dt.files import write_record
from dt.runs import StoppedError

pytestmark = pytest.mark.experts

SETTINGS = {
    "seed": 0,
    "steps": 400,
    "environments": 2,
    "evaluate_every": 200,
    "evaluation_episodes": 2,
    "algorithm": "TQC",
    "options": {"learning_starts": 50, "batch_size": 16, "policy_kwargs": {"layer_norm": True}},
}
ENVIRONMENT = {"gymnasium": "Hopper-v5", "action_noise": 0.5}


def test_a_stopped_training_goes_on_from_its_saved_state(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    train_expert({"gymnasium": "Hopper-v5"}, SETTINGS, tmp_path)
    first = np.load(tmp_path / "step400/rewards.npy")
    assert "resumed" not in caplog.text
    best, steps = train_expert({"gymnasium": "Hopper-v5"}, SETTINGS | {"steps": 800}, tmp_path)
    assert "resumed at step 400" in caplog.text
    second = np.load(tmp_path / "step800/rewards.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["step800"]
    assert len(first) == 200  # rows of two environments
    assert len(second) == 400
    assert np.array_equal(second[:200], first)
    curve = json.loads((tmp_path / "step800/progress.json").read_text())["curve"]
    assert [point["step"] for point in curve] == [200, 400, 600, 800]
    means = {point["step"]: (point["deterministic"] + point["stochastic"]) / 2 for point in curve}
    assert means[steps] == max(means.values())
    assert {path.suffix for path in best.parent.iterdir()} == {".npy", ".json", ".msgpack", ".safetensors"}
    card = model_card(best, "hopper", ENVIRONMENT, SETTINGS, steps)
    assert card["deterministic"]["episodes"] == 100
    assert card["collected"]["action_noise"] == 0.5


@pytest.mark.parametrize("files", range(1, 9))
def test_a_training_killed_while_it_saves_goes_on_from_the_state_before(
    files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`files` of the second state's are written when it ends: what is read is of one time."""
    caplog.set_level(logging.INFO)
    train_expert({"gymnasium": "Hopper-v5"}, SETTINGS | {"steps": 200}, tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "step200").iterdir()}
    written: list[Path] = []

    def write(path: Path, *given: Any) -> None:
        if len(written) == files:
            raise KeyboardInterrupt
        written.append(path)
        write_record(path, *given)

    with monkeypatch.context() as patch:
        patch.setattr(experts, "write_record", write)
        with pytest.raises(KeyboardInterrupt):
            train_expert({"gymnasium": "Hopper-v5"}, SETTINGS, tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "step200").iterdir()} == before
    train_expert({"gymnasium": "Hopper-v5"}, SETTINGS, tmp_path)
    assert caplog.text.count("resumed at step 200") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["step400"]


def test_sigterm_saves_and_the_evaluations_stay_where_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, calls, before = threading.Event(), count(), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(stop, "is_set", lambda: next(calls) >= 30)
    with monkeypatch.context() as patch:
        patch.setattr(experts, "_stop_on_sigterm", lambda: stop)
        with pytest.raises(StoppedError, match="goes on from"):
            train_expert({"gymnasium": "Hopper-v5"}, SETTINGS, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step62"]  # two environments
    train_expert({"gymnasium": "Hopper-v5"}, SETTINGS, tmp_path)
    curve = json.loads((tmp_path / "step400/progress.json").read_text())["curve"]
    assert [point["step"] for point in curve] == [200, 400]
    stop = experts._stop_on_sigterm()
    try:
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_exported_actor_acts_like_the_trained_policy(tmp_path: Path) -> None:
    import sbx
    from stable_baselines3.common.env_util import make_vec_env

    from dt.experts import _actor_weights

    options: dict[str, Any] = SETTINGS["options"]
    model = sbx.TQC("MlpPolicy", make_vec_env("Hopper-v5"), seed=1, **options)
    model.learn(100)
    states = np.random.default_rng(0).normal(size=(7, 11)).astype(np.float32)
    expected, _ = model.predict(states, deterministic=True)
    assert np.allclose(Actor(_actor_weights(model)).act(states), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["halfcheetah", "hopper", "walker2d"])
def test_a_card_tells_what_its_actor_reaches(name: str) -> None:
    """Ten fresh episodes lie within five standard errors of the card's mean."""
    card = json.loads(Path(f"resources/experts/{name}.json").read_text())
    actor = Actor.load(Path(f"resources/experts/{name}.safetensors"))
    noise = card["collected"]["action_noise"]
    totals = [r.total for r in rollouts(actor, card["environment"], list(range(10)), noise, stream=1)]
    tolerance = 5 * card["collected"]["return_std"] / np.sqrt(10)
    assert abs(np.mean(totals) - card["collected"]["return_mean"]) < tolerance
