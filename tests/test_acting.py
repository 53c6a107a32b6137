"""Acting step by step against the model's full forward pass over the last K steps."""

import pytest
import torch

from dt.acting import CAPACITY, ActingTransformer
from dt.model import Architecture, DecisionTransformer

LANES, CONTEXT, STEPS = 5, 4, 12 * CAPACITY  # long enough to move the memory several times


def acting_alone(model: DecisionTransformer) -> ActingTransformer:
    return ActingTransformer(model, [model.state_dict()], LANES, CONTEXT)


def seen(inputs: dict[str, torch.Tensor], step: int) -> list[torch.Tensor]:
    """What `act` is given at `step`, for one snapshot."""
    return [inputs[name][at][None] for name, at in (("states", step), ("returns", step), ("actions", step - 1))]


def model_and_inputs(seed: int = 0, **options: object) -> tuple[DecisionTransformer, dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    model = DecisionTransformer(Architecture(11, 3, **({"width": 32} | options))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    inputs = {"states": torch.randn(STEPS, LANES, 11), "returns": torch.randn(STEPS, LANES, 1)}
    return model, inputs | {"actions": torch.rand(STEPS, LANES, 3) * 2 - 1}


def full_pass(model: DecisionTransformer, inputs: dict[str, torch.Tensor], step: int) -> torch.Tensor:
    """[LANES, 3]: the last action that `forward` predicts from the window that ends at `step`."""
    window = slice(max(0, step + 1 - CONTEXT), step + 1)
    states, actions, returns = (inputs[name][window].transpose(0, 1) for name in ("states", "actions", "returns"))
    with torch.no_grad():
        return model(states, actions, returns, torch.arange(STEPS)[window].expand(LANES, -1))[0][:, -1]


@pytest.mark.parametrize(
    "options",
    [{}, {"heads": 4}, {"layers": 1, "heads": 2, "activation": "gelu"}, {"layers": 2, "action_tanh": False}],
)
def test_actions_equal_a_full_pass_over_the_window(options: dict) -> None:
    model, inputs = model_and_inputs(**options)
    acting = acting_alone(model)
    for step in range(STEPS):
        actual = acting.act(step, *seen(inputs, step))[0]
        torch.testing.assert_close(actual, full_pass(model, inputs, step), rtol=1e-5, atol=1e-5)


def test_snapshots_act_side_by_side_each_by_its_own_weights() -> None:
    model, inputs = model_and_inputs()
    other, others = model_and_inputs(seed=1)
    acting = ActingTransformer(model, [model.state_dict(), other.state_dict()], LANES, CONTEXT)
    for step in range(STEPS):
        both = (torch.cat(pair) for pair in zip(seen(inputs, step), seen(others, step), strict=True))
        actual = acting.act(step, *both)
        torch.testing.assert_close(actual[0], full_pass(model, inputs, step), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(actual[1], full_pass(other, others, step), rtol=1e-5, atol=1e-5)


def test_lanes_that_stay_are_not_disturbed_by_those_that_leave() -> None:
    model, inputs = model_and_inputs()
    acting, lanes = acting_alone(model), torch.arange(LANES)
    for step in range(STEPS):
        if step in (3, 10):
            stay = torch.arange(0, len(lanes), 2)
            acting.keep(stay[None])
            lanes = lanes[stay]
        actual = acting.act(step, *(values[:, lanes] for values in seen(inputs, step)))[0]
        torch.testing.assert_close(actual, full_pass(model, inputs, step)[lanes], rtol=1e-5, atol=1e-5)


def test_bf16_rounds_the_actions_and_no_more() -> None:
    model, inputs = model_and_inputs()
    exact = acting_alone(model)
    model.compute_in("bf16")
    rounded = acting_alone(model)
    for step in range(STEPS):
        a, b = (acting.act(step, *seen(inputs, step)) for acting in (exact, rounded))
        assert b.dtype == torch.float32
        assert not torch.equal(a, b)
        torch.testing.assert_close(a, b, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    "options",
    [{}, {"heads": 4, "activation": "gelu"}, {"width": 128, "layers": 1}, {"width": 12, "action_tanh": False}],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_lanes_actions_are_the_same_to_the_bit_for_any_number_of_lanes(options: dict, precision: str) -> None:
    """How a product rounds depends on its number of rows; see `ActingTransformer._linear`."""
    model, inputs = model_and_inputs(**options)
    model.compute_in(precision)
    together = acting_alone(model)
    few = {lanes: ActingTransformer(model, [model.state_dict()], lanes, CONTEXT) for lanes in (1, 2, 3)}
    for step in range(STEPS):
        actions = together.act(step, *seen(inputs, step))
        for lanes, acting in few.items():
            part = acting.act(step, *(values[:, -lanes:] for values in seen(inputs, step)))
            assert torch.equal(part, actions[:, -lanes:])
