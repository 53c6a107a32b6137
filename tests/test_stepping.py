"""What environments may answer, and the sentence that one with a fault gets: environment, reset seed, step."""

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from conftest import synthetic
from gymnasium import spaces

from dt.actors import Actor, rollouts
from dt.environments import make_environment
from dt.evaluation import evaluate
from dt.policy import fresh_policy
from dt.stats import reference_returns
from dt.stepping import EpisodeError
from dt.streams import reset_seeds, stream

Answer = tuple[Any, ...]


class Told(gymnasium.Env):
    """Five steps; at the third, `wrong` changes what is answered."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    wrong: Callable[[Answer], Any] = staticmethod(lambda answer: answer)
    wrong_start: Callable[[Answer], Any] = staticmethod(lambda answer: answer)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return type(self).wrong_start((self.np_random.normal(size=3), {}))

    def step(self, action: np.ndarray) -> Any:
        self.steps += 1
        answer = self.np_random.normal(size=3), 0.5 + float(action[0]), False, False, {}
        return type(self).wrong(answer) if self.steps == 3 else answer


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    gymnasium.register("Told-v0", f"{__name__}:Told", max_episode_steps=5)
    yield
    del gymnasium.registry["Told-v0"]


def put(position: int, value: Any) -> Callable[[Answer], Answer]:
    return lambda answer: (*answer[:position], value, *answer[position + 1 :])


def fail(_: Any) -> Any:
    raise ZeroDivisionError("division by\nzero")


WRONG = [
    (put(1, float("inf")), "gave a reward of inf; expected a finite number"),
    (put(1, np.float32("nan")), "gave a reward of nan"),
    (put(1, np.array([1.0, 2.0])), r"gave a reward of shape \(2,\); expected one number"),
    (put(1, np.array([[1.0]])), r"gave a reward of shape \(1, 1\)"),
    (put(1, None), "gave a reward of type NoneType"),
    (put(1, {"speed": 1.0}), "gave a reward of type dict"),
    (put(0, np.array([0.0, np.nan, 0.0])), "gave a state whose component 1 is nan"),
    (put(0, np.array([0.0, 1.0, -1e31])), r"gave a state whose component 2 is -1e\+31"),
    (put(0, np.zeros(4)), r"gave a state of shape \(4,\); expected \(3,\)"),
    (put(0, np.zeros((1, 3))), r"gave a state of shape \(1, 3\)"),
    (put(0, np.zeros(3, complex)), "gave a state of type ndarray"),
    (put(0, [0.0, [1.0], 2.0]), "gave a state of type list"),
    (put(2, None), "gave terminated of type NoneType"),
    (put(3, np.zeros(2, bool)), r"gave truncated of shape \(2,\)"),
    (lambda answer: answer[:4], r"failed: ValueError: .* it may have the API of gym before 0\.26"),
    (fail, "failed: ZeroDivisionError: division by zero$"),
]


@pytest.mark.parametrize(("wrong", "reason"), WRONG)
def test_a_wrong_answer_is_one_sentence_with_environment_seed_and_step(
    wrong: Callable[[Answer], Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Told, "wrong", staticmethod(wrong))
    environment = make_environment("Told-v0")
    environment.reset(seed=41)
    environment.step(np.zeros(2, np.float32))
    environment.step(np.zeros(2, np.float32))
    with pytest.raises(EpisodeError, match=f"^Told-v0, reset with seed 41, at step 3 {reason}") as caught:
        environment.step(np.zeros(2, np.float32))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda answer: answer[0], "gave a ndarray from reset; it may have the API of gym before"),
        (lambda answer: (np.full(3, np.inf), {}), "gave a state whose component 0 is inf"),
        (lambda answer: (np.zeros(2), {}), r"gave a state of shape \(2,\)"),
        (fail, "failed: ZeroDivisionError"),
    ],
)
def test_a_wrong_start_is_one_sentence_too(
    wrong: Callable[[Answer], Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Told, "wrong_start", staticmethod(wrong))
    with pytest.raises(EpisodeError, match=f"^Told-v0, reset with seed 8, at step 0 {reason}"):
        make_environment("Told-v0").reset(seed=8)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_action_that_is_no_number_reaches_no_environment(value: float) -> None:
    environment = make_environment("Told-v0")
    environment.reset()
    with pytest.raises(EpisodeError, match=r"^Told-v0, reset without a seed, at step 1 was to take an action whose"):
        environment.step(np.array([0.0, value], np.float32))
    assert environment.unwrapped.steps == 0


@pytest.fixture
def acting(config: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Everyone who steps environments, each ready to."""
    _, stats = synthetic(3, 2)
    config["environments"]["told"] = {"gymnasium": "Told-v0", "reward_scale": 10.0}
    policy = fresh_policy("told", config, stats, stream(1))
    shapes = [(4, 3), (4, 4), (2, 4), (2, 4)]
    weights = {f"params.Dense_{layer}.weight": np.ones(shape, np.float32) for layer, shape in enumerate(shapes)}
    weights |= {f"params.Dense_{layer}.bias": np.zeros(shape[0], np.float32) for layer, shape in enumerate(shapes)}
    return {
        "evaluation": lambda: evaluate(policy, 2, 10.0),
        "collection": lambda: [each.total for each in rollouts(Actor(weights), "Told-v0", [1, 2], 1.0, stream=0)],
        "reference returns": lambda: reference_returns("told", "Told-v0", {}, {"returns": {"mean": 1e3}}),
    }


@pytest.mark.parametrize("who", ["evaluation", "collection", "reference returns"])
@pytest.mark.parametrize(("wrong", "reason"), [WRONG[1], WRONG[8], WRONG[-1]])
def test_whoever_steps_an_environment_says_the_same_sentence(
    who: str,
    wrong: Callable[[Answer], Any],
    reason: str,
    acting: dict[str, Callable[[], Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Told, "wrong", staticmethod(wrong))
    with pytest.raises(EpisodeError, match=rf"^Told-v0, reset with seed \d+, at step 3 {reason}"):
        acting[who]()


@pytest.mark.parametrize("who", ["evaluation", "collection", "reference returns"])
@pytest.mark.parametrize(
    "kind", [lambda x: np.array([x]), np.array, np.float64, lambda x: torch.tensor([x], dtype=torch.float64)]
)
def test_a_reward_of_one_element_counts_as_that_element(
    who: str, kind: Callable[[float], Any], acting: dict[str, Callable[[], Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = acting[who]()
    monkeypatch.setattr(Told, "wrong", staticmethod(lambda answer: put(1, kind(answer[1]))(answer)))
    assert acting[who]() == plain


def test_states_that_begin_as_integers_are_not_cut_to_integers(
    acting: dict[str, Callable[[], Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = [(np.zeros(3, kind), {}) for kind in (np.float64, np.int64)]
    totals = []
    for start in starts:
        monkeypatch.setattr(Told, "wrong_start", staticmethod(lambda answer, start=start: start))
        totals.append(acting["evaluation"]())
    assert totals[0] == totals[1]


def test_an_evaluation_stops_where_a_policy_predicts_what_is_no_number(config: dict[str, Any]) -> None:
    """Without tanh an infinite action would be cut to its bound, and look like any other."""
    _, stats = synthetic(3, 2)
    config["environments"]["told"] = {"gymnasium": "Told-v0", "reward_scale": 10.0}
    config["data"]["normalise_actions"] = True
    policy = fresh_policy("told", config, stats, stream(1))
    with torch.no_grad():
        policy.model.predict_action.bias[:] = torch.inf
    seed = reset_seeds(stream("evaluate", 3), 1)[0]
    sentence = f"^Told-v0, reset with seed {seed}, at step 1 was to take an action whose component 0 is nan; .* check"
    with pytest.raises(EpisodeError, match=sentence):
        evaluate(policy, 1, 10.0, seed=3)
