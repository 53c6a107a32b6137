"""Training: the loss, the schedule, repeatability, and the errors that come before it starts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import synthetic

from dt.data import DataError, Trajectories, gather
from dt.optimiser import Optimiser, action_loss
from dt.policy import PolicyError, fresh_policy, load_policy, save_policy
from dt.runs import Run
from dt.streams import run_stream, stream
from dt.train import TrainingError, train
from dt.transfer import freeze

Data = tuple[Trajectories, dict[str, Any]]
SCRATCH = Run("scratch", "", "hopper", "", 0)


def test_loss_is_the_mean_over_real_steps_only(config: dict[str, Any], hopper: Data) -> None:
    policy = fresh_policy("hopper", config, hopper[1], stream(0))
    policy.model.eval()
    last = int(hopper[0].lengths[0]) - 1
    windows = vars(gather(hopper[0], policy.normalisation, np.array([0, 1, 2]), np.array([last, 0, 0]), 4))
    windows = {name: torch.from_numpy(array) for name, array in windows.items()}
    predictions = policy.model.actions(**{name: array for name, array in windows.items() if name != "mask"})
    squares = [
        (predictions[b, k, a] - windows["actions"][b, k, a]).item() ** 2
        for b, k in windows["mask"].nonzero()
        for a in range(3)
    ]
    assert not windows["mask"].all()
    assert action_loss(policy.model, **windows).item() == pytest.approx(np.mean(squares), rel=1e-5)


def test_warm_up_is_linear_then_constant(config: dict[str, Any], hopper: Data) -> None:
    optimiser = Optimiser(
        fresh_policy("hopper", config, hopper[1], stream(0)), config["training"] | {"warmup_steps": 4}
    )
    rates = []
    for optimiser.steps in range(6):
        rates.append(optimiser.learning_rate)
    assert rates == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3, 1e-3])


def test_training_learns_actions_that_states_determine(config: dict[str, Any]) -> None:
    trajectories, stats = synthetic(3, 1, count=64)
    config["training"] |= {"batch_size": 32, "learning_rate": 3e-3, "gradient_clip": 10.0}
    policy = fresh_policy("hopper", config, stats, stream(0))
    points = train(policy, trajectories, SCRATCH, 150, config).points
    assert points[-1].loss < 0.3 * points[1].loss


@pytest.mark.parametrize(("layers", "strategy"), [(3, "unfreeze0"), (3, "unfreeze2"), (1, "unfreeze1"), (2, "")])
def test_effective_weights_are_those_that_get_a_gradient(
    layers: int, strategy: str, config: dict[str, Any], hopper: Data
) -> None:
    config["model"]["layers"] = layers
    policy = fresh_policy("hopper", config, hopper[1], stream(0))
    if strategy:
        freeze(policy, strategy)
    (_, *points) = train(policy, hopper[0], SCRATCH, 1, config).points
    windows = vars(gather(hopper[0], policy.normalisation, np.arange(4), np.zeros(4, int), 4))
    action_loss(policy.model, **{name: torch.from_numpy(array) for name, array in windows.items()}).backward()
    found = sum(each.numel() for each in policy.model.parameters() if each.grad is not None)
    assert [point.effective for point in points] == [found]
    assert found < points[0].trainable


@pytest.mark.parametrize(("clip", "share"), [(1e-9, 1.0), (1e9, 0.0)])
def test_the_share_of_clipped_steps_is_written_down(
    clip: float, share: float, config: dict[str, Any], hopper: Data
) -> None:
    config["training"]["gradient_clip"] = clip
    points = train(fresh_policy("hopper", config, hopper[1], stream(0)), hopper[0], SCRATCH, 2, config).points
    assert np.isnan(points[0].clipped)
    assert [point.clipped for point in points[1:]] == [share, share]


def test_some_steps_are_clipped_where_the_limit_is_their_median_norm(config: dict[str, Any], hopper: Data) -> None:
    config["training"] |= {"gradient_clip": 1e9, "learning_rate": 1e-12, "weight_decay": 0.0}
    config["model"]["dropout"] = 0.0
    config["evaluation"]["every"] = 3
    (_, point) = train(fresh_policy("hopper", config, hopper[1], stream(0)), hopper[0], SCRATCH, 3, config).points
    config["training"]["gradient_clip"] = point.gradient_norm  # their mean
    (_, point) = train(fresh_policy("hopper", config, hopper[1], stream(0)), hopper[0], SCRATCH, 3, config).points
    assert 0 < point.clipped < 1
    assert point.clipped * point.step == pytest.approx(round(point.clipped * point.step))


def test_the_same_run_twice_gives_the_same_bytes(config: dict[str, Any], hopper: Data, tmp_path: Path) -> None:
    for attempt in ("first", "second"):
        policy = fresh_policy("hopper", config, hopper[1], run_stream("weights", SCRATCH))
        training = train(policy, hopper[0], SCRATCH, 3, config)
        training.save(tmp_path / attempt / "training.csv", tmp_path / attempt / "snapshots.safetensors")
        save_policy(policy, tmp_path / attempt / "policy.safetensors")
        torch.rand(7)  # what happens between jobs must not matter
    for name in ("training.csv", "snapshots.safetensors", "policy.safetensors"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name


def test_snapshots_begin_with_the_untrained_and_end_with_the_last_weights(config: dict[str, Any], hopper: Data) -> None:
    config["evaluation"]["every"] = 2
    policy = fresh_policy("hopper", config, hopper[1], stream(0))
    untrained = policy.model.embed_state.weight.detach().clone()
    training = train(policy, hopper[0], SCRATCH, 5, config)
    steps_per_epoch = len(hopper[0].lengths) // 4
    assert [(point.epoch, point.step) for point in training.points] == [
        (epoch, epoch * steps_per_epoch) for epoch in (0, 2, 4, 5)
    ]
    assert torch.equal(training.snapshots["0/embed_state.weight"], untrained)
    assert torch.equal(training.snapshots["5/embed_state.weight"], policy.model.embed_state.weight)
    assert not torch.equal(training.snapshots["4/embed_state.weight"], training.snapshots["5/embed_state.weight"])


def test_a_trajectory_beyond_the_time_step_embedding_is_refused_before_training(
    config: dict[str, Any], hopper: Data
) -> None:
    config["model"]["max_episode_length"] = int(hopper[0].lengths.max()) - 1
    policy = fresh_policy("hopper", config, hopper[1], stream(0))
    with pytest.raises(DataError, match=r"longest trajectory of hopper has \d+ steps, but model\.max_episode_length"):
        train(policy, hopper[0], SCRATCH, 1, config)


def test_an_environment_with_longer_episodes_than_the_embedding_is_refused(
    config: dict[str, Any], hopper: Data
) -> None:
    config["model"]["max_episode_length"] = 999
    policy = fresh_policy("hopper", config, hopper[1], stream(0))
    with pytest.raises(DataError, match=r"Hopper-v5 has 1000 steps, but model\.max_episode_length is 999"):
        train(policy, hopper[0], SCRATCH, 1, config)


def test_a_loss_that_is_not_finite_ends_training(config: dict[str, Any], hopper: Data) -> None:
    policy = fresh_policy("hopper", config, hopper[1], stream(0))
    with torch.no_grad():
        policy.model.predict_action.bias[0] = float("nan")
    with pytest.raises(TrainingError, match="scratch/hopper/seed0 is nan"):
        train(policy, hopper[0], SCRATCH, 1, config)


def test_arms_of_a_target_and_seed_share_streams_and_nothing_else_does() -> None:
    def state(purpose: str, run: Run) -> tuple[int, ...]:
        return tuple(run_stream(purpose, run).generate_state(4))

    paired = [SCRATCH, Run("finetune", "walker2d", "hopper", "unfreeze0", 0), Run("finetune", "a", "hopper", "b", 0)]
    others = [SCRATCH._replace(seed=1), SCRATCH._replace(target="walker2d"), Run("pretrain", "hopper", "", "", 0)]
    assert len({state("batches", run) for run in paired}) == 1
    assert len({state("batches", run) for run in [SCRATCH, *others]}) == 4
    assert state("batches", SCRATCH) != state("weights", SCRATCH)
    assert stream("a", 1).entropy != stream("a", 2).entropy


def test_a_policy_file_alone_restores_the_policy(config: dict[str, Any], hopper: Data, tmp_path: Path) -> None:
    policy = fresh_policy("hopper", config, hopper[1], stream(3))
    save_policy(policy, tmp_path / "policy.safetensors")
    loaded = load_policy(tmp_path / "policy.safetensors")
    assert (loaded.normalisation, loaded.task) == (policy.normalisation, policy.task)
    assert loaded.model.architecture == policy.model.architecture
    for name, weight in loaded.model.state_dict().items():
        assert torch.equal(weight, policy.model.state_dict()[name]), name


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"\x08" + bytes(7) + b"{}      "])
def test_a_file_that_is_no_policy_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    path.write_bytes(content)
    with pytest.raises(PolicyError, match=r"policy\.safetensors is not a policy"):
        load_policy(path)
