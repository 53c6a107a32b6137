"""What transfer keeps, what it makes anew, and what fine-tuning may change."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dt.data import Trajectories
from dt.model import DecisionTransformer
from dt.policy import Policy, PolicyError, fresh_policy
from dt.runs import Run
from dt.streams import run_stream, stream
from dt.train import train
from dt.transfer import adapt, freeze

Data = tuple[Trajectories, dict[str, Any]]
SIZED_MODULES = ["embed_state", "embed_action", "predict_action", "predict_state"]
SIZED = {f"{module}.{part}" for module in SIZED_MODULES for part in ("weight", "bias")}
NOT_IN_THE_LOSS = {"predict_state.weight", "predict_state.bias", "predict_return.weight", "predict_return.bias"}


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}


def policy_of_size(config: dict[str, Any], data: Data, fields: dict[str, Any], seed: int = 1) -> Policy:
    """A fresh policy of hoppers whose architecture has other `fields`."""
    policy = fresh_policy("hopper", config, data[1], stream(seed))
    architecture = replace(policy.model.architecture, **fields)
    return replace(policy, model=DecisionTransformer(architecture, torch.Generator().manual_seed(seed)))


def test_adapting_to_other_sizes_renews_only_the_layers_whose_shapes_differ(
    config: dict[str, Any], hopper: Data, walker2d: Data
) -> None:
    source, target = (
        fresh_policy("hopper", config, hopper[1], stream(1)),
        fresh_policy("walker2d", config, walker2d[1], stream(2)),
    )
    fresh = weights(target)
    carried = adapt(source, target)
    assert sorted(carried.new) == sorted(SIZED_MODULES)
    assert {*carried.carried, *carried.new} == {name.rpartition(".")[0] for name in fresh}
    for name, weight in weights(target).items():
        expected = fresh[name] if name in SIZED else source.model.state_dict()[name]
        assert torch.equal(weight, expected), name
    assert target.normalisation.state_mean == tuple(walker2d[1]["states"]["mean"])
    assert target.task.environment == "walker2d"


def test_adapting_to_the_same_sizes_keeps_everything(config: dict[str, Any], hopper: Data) -> None:
    source, target = (
        fresh_policy("hopper", config, hopper[1], stream(1)),
        fresh_policy("hopper", config, hopper[1], stream(2)),
    )
    adapt(source, target)
    for name, weight in weights(target).items():
        assert torch.equal(weight, source.model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("ours", "theirs", "new"),
    [
        ({"state_size": 12}, {}, {"embed_state", "predict_state"}),
        ({"action_size": 1}, {}, {"embed_action", "predict_action"}),
        ({"state_size": 4, "action_size": 4}, {"state_size": 3}, {"embed_state", "embed_action"}),
    ],
)
def test_a_module_of_another_size_is_new_as_a_whole(
    ours: dict[str, int], theirs: dict[str, int], new: set[str], config: dict[str, Any], hopper: Data
) -> None:
    """Its bias would fit, but belongs to a weight that does not."""
    source, target = (policy_of_size(config, hopper, sizes) for sizes in (theirs, ours))
    fresh = weights(target)
    carried = adapt(source, target)
    assert new <= set(carried.new)
    for module in carried.new:
        for part in ("weight", "bias"):
            assert torch.equal(weights(target)[f"{module}.{part}"], fresh[f"{module}.{part}"])
    for module in carried.carried:
        for name in (name for name in fresh if name.rpartition(".")[0] == module):
            assert torch.equal(weights(target)[name], weights(source)[name]), name


@pytest.mark.parametrize(("ours", "theirs"), [(30, 50), (50, 30), (7, 8)])
def test_time_steps_that_both_have_are_carried(ours: int, theirs: int, config: dict[str, Any], hopper: Data) -> None:
    source, target = (
        policy_of_size(config, hopper, {"max_episode_length": rows}, seed) for seed, rows in ((1, theirs), (2, ours))
    )
    fresh, both = weights(target)["embed_timestep.weight"], min(ours, theirs)
    carried = adapt(source, target)
    assert carried.shared_rows == {"embed_timestep": both}
    rows = weights(target)["embed_timestep.weight"]
    assert torch.equal(rows[:both], weights(source)["embed_timestep.weight"][:both])
    assert torch.equal(rows[both:], fresh[both:])


@pytest.mark.parametrize(
    ("field", "value"), [("activation", "gelu"), ("action_tanh", False), ("heads", 4), ("layers", 2), ("width", 48)]
)
def test_a_source_that_computes_another_function_is_refused(
    field: str, value: Any, config: dict[str, Any], hopper: Data
) -> None:
    source, target = policy_of_size(config, hopper, {field: value}), policy_of_size(config, hopper, {})
    with pytest.raises(PolicyError, match=f"{field} {value}, but"):
        adapt(source, target)
    adapt(policy_of_size(config, hopper, {"dropout": 0.5}), target)


def test_adapting_leaves_the_source_alone_when_the_target_trains(
    config: dict[str, Any], hopper: Data, walker2d: Data
) -> None:
    source, target = (
        fresh_policy("hopper", config, hopper[1], stream(1)),
        fresh_policy("walker2d", config, walker2d[1], stream(2)),
    )
    before = weights(source)
    adapt(source, target)
    train(target, walker2d[0], Run("finetune", "hopper", "walker2d", "unfreeze3", 0), 1, config)
    assert all(torch.equal(before[name], weight) for name, weight in weights(source).items())


@pytest.mark.parametrize("unfrozen", [0, 1, 2, 3])
def test_fine_tuning_moves_everything_but_the_frozen_layers(
    unfrozen: int, config: dict[str, Any], hopper: Data, walker2d: Data
) -> None:
    source, target = (
        fresh_policy("hopper", config, hopper[1], stream(1)),
        fresh_policy("walker2d", config, walker2d[1], stream(2)),
    )
    adapt(source, target)
    freeze(target, f"unfreeze{unfrozen}")
    before = weights(target)
    train(target, walker2d[0], Run("finetune", "hopper", "walker2d", f"unfreeze{unfrozen}", 0), 3, config)
    frozen = tuple(f"layers.{layer}." for layer in range(3 - unfrozen))
    for name, weight in weights(target).items():
        still = (bool(frozen) and name.startswith(frozen)) or name in NOT_IN_THE_LOSS
        assert torch.equal(weight, before[name]) == still, name


def test_trainable_counts_of_the_published_model(config: dict[str, Any], hopper: Data) -> None:
    config["model"]["width"] = 128
    counts = []
    for unfrozen in range(4):
        policy = fresh_policy("hopper", config, hopper[1], stream(1))
        freeze(policy, f"unfreeze{unfrozen}")
        counts.append(policy.trainable_count)
    layer = 12 * 128**2 + 13 * 128  # four matrices, their biases and two norms
    assert np.diff(counts).tolist() == [layer] * 3
    assert counts[3] == policy.parameter_count
    embeddings = (1 + 11 + 3 + 3) * 128 + 1000 * 128 + 2 * 2 * 128  # with time steps and the two outer norms
    heads = (128 + 1) * (3 + 11 + 1)
    assert counts[0] == embeddings + heads


def test_a_fine_tuning_draws_dropout_as_the_scratch_run_does_however_much_is_frozen(
    config: dict[str, Any], walker2d: Data
) -> None:
    drawn = []
    for strategy in ("", "unfreeze0", "unfreeze1", "unfreeze3"):
        run = Run("finetune", "hopper", "walker2d", strategy, 0) if strategy else Run("scratch", "", "walker2d", "", 0)
        policy = fresh_policy("walker2d", config, walker2d[1], stream(1))
        if strategy:
            freeze(policy, strategy)
        train(policy, walker2d[0], run, 1, config)
        drawn.append(torch.get_rng_state())
    assert all(torch.equal(state, drawn[0]) for state in drawn)


def test_fresh_layers_start_like_the_scratch_run_of_the_same_seed(
    config: dict[str, Any], hopper: Data, walker2d: Data
) -> None:
    arms = [Run("scratch", "", "walker2d", "", 0), Run("finetune", "hopper", "walker2d", "unfreeze1", 0)]
    scratch, target = (fresh_policy("walker2d", config, walker2d[1], run_stream("weights", run)) for run in arms)
    adapt(fresh_policy("hopper", config, hopper[1], stream(1)), target)
    for name in SIZED:
        assert torch.equal(target.model.state_dict()[name], scratch.model.state_dict()[name]), name
