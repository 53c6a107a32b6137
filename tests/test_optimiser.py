"""The optimiser against PyTorch's own classes, its state, and steps replayed as graphs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dt.data import Trajectories, gather
from dt.graphs import Graphs
from dt.optimiser import Optimiser, action_loss
from dt.policy import Policy, fresh_policy
from dt.streams import stream
from dt.transfer import freeze

Data = tuple[Trajectories, dict[str, Any]]
STEPS = 6


def policy_and_windows(
    config: dict[str, Any], data: Data, strategy: str = "unfreeze3", context: int = 4
) -> tuple[Policy, list[dict[str, Tensor]]]:
    config["model"]["dropout"] = 0.0
    config["training"] |= {"weight_decay": 0.1, "gradient_clip": 0.05}
    policy = fresh_policy("hopper", config, data[1], stream(0))
    policy.model.train()
    freeze(policy, strategy)
    trajectories = np.arange(4)
    batches = [gather(data[0], policy.normalisation, trajectories, trajectories * 0, context) for _ in range(STEPS)]
    return policy, [{name: torch.from_numpy(array) for name, array in vars(each).items()} for each in batches]


@pytest.mark.parametrize("strategy", ["unfreeze0", "unfreeze3"])
def test_steps_equal_those_of_pytorchs_adamw_and_clipping(config: dict[str, Any], hopper: Data, strategy: str) -> None:
    ours, windows = policy_and_windows(config, hopper, strategy)
    theirs, _ = policy_and_windows(config, hopper, strategy)
    optimiser, settings = Optimiser(ours, config["training"]), config["training"]
    trained = [parameter for parameter in theirs.model.parameters() if parameter.requires_grad]
    adamw = torch.optim.AdamW(trained, weight_decay=settings["weight_decay"])
    for step, batch in enumerate(windows):
        loss, norm = optimiser.step(batch)
        adamw.param_groups[0]["lr"] = settings["learning_rate"] * min(1, (step + 1) / settings["warmup_steps"])
        expected = action_loss(theirs.model, **batch)
        adamw.zero_grad()
        expected.backward()
        expected_norm = torch.nn.utils.clip_grad_norm_(trained, settings["gradient_clip"])
        adamw.step()
        torch.testing.assert_close((loss, norm), (expected.detach(), expected_norm))
        assert norm > settings["gradient_clip"]  # so that clipping is seen
    for name, weight in theirs.model.state_dict().items():
        torch.testing.assert_close(ours.model.state_dict()[name], weight, msg=name)


def test_restored_state_goes_on_to_the_same_weights(config: dict[str, Any], hopper: Data) -> None:
    first, windows = policy_and_windows(config, hopper)
    optimiser = Optimiser(first, config["training"])
    for batch in windows[:3]:
        optimiser.step(batch)
    saved = {name: tensor.clone() for name, tensor in optimiser.tensors().items()}
    second, _ = policy_and_windows(config, hopper)
    other = Optimiser(second, config["training"])
    other.restore(saved, 3)
    for batch in windows[3:]:
        optimiser.step(batch)
        other.step(batch)
    assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in optimiser.tensors().items())


def eager(call: Callable[[], tuple[Tensor, ...]]) -> tuple[tuple[Tensor, ...], Callable[[], None]]:
    """What a GPU's capture does, without a GPU: calls to warm up, then a replay that fills the same outputs."""
    for _ in range(3):
        outputs = call()

    def replay() -> None:
        for output, value in zip(outputs, call(), strict=True):
            output.copy_(value)

    return outputs, replay


def test_steps_replayed_as_graphs_equal_plain_ones_for_every_length_of_window(
    config: dict[str, Any], hopper: Data
) -> None:
    plain, windows = policy_and_windows(config, hopper)
    graphed, shorter = policy_and_windows(config, hopper, context=3)
    expected, actual = Optimiser(plain, config["training"]), Optimiser(graphed, config["training"])
    changed = [*actual.parameters.values(), *actual.first.values(), *actual.second.values(), actual.count]
    actual.update = Graphs(actual._update, changed, eager)
    kept = []
    for batch in (windows[0], shorter[0], *windows[1:], *shorter[1:]):
        kept.append((expected.step(batch), actual.step(batch)))
    assert len(actual.update.captured) == 2
    for pair in kept:  # compared at the end: a replay must not change what an earlier one returned
        torch.testing.assert_close(*pair, rtol=0, atol=0)
    assert all(torch.equal(tensor, actual.tensors()[name]) for name, tensor in expected.tensors().items())
