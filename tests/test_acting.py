"""Acting step by step against the model's full forward pass over the last K steps."""

import pytest
import torch

from dt.acting import CAPACITY, ActingTransformer
from dt.model import Architecture, DecisionTransformer

LANES, CONTEXT, STEPS = 5, 4, 12 * CAPACITY  # long enough to move the memory several times


def model_and_inputs(**options: object) -> tuple[DecisionTransformer, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
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
    acting = ActingTransformer(model, LANES, CONTEXT)
    for step in range(STEPS):
        actual = acting.act(step, inputs["states"][step], inputs["returns"][step], inputs["actions"][step - 1])
        torch.testing.assert_close(actual, full_pass(model, inputs, step), rtol=1e-5, atol=1e-5)


def test_lanes_that_stay_are_not_disturbed_by_those_that_leave() -> None:
    model, inputs = model_and_inputs()
    acting, lanes = ActingTransformer(model, LANES, CONTEXT), torch.arange(LANES)
    for step in range(STEPS):
        if step in (3, 10):
            stay = torch.arange(len(lanes)) % 2 == 0
            acting.keep(stay)
            lanes = lanes[stay]
        seen = (inputs[name][at][lanes] for name, at in (("states", step), ("returns", step), ("actions", step - 1)))
        expected = full_pass(model, inputs, step)[lanes]
        torch.testing.assert_close(acting.act(step, *seen), expected, rtol=1e-5, atol=1e-5)


def test_bf16_rounds_the_actions_and_no_more() -> None:
    model, inputs = model_and_inputs()
    exact, rounded = ActingTransformer(model, LANES, CONTEXT), None
    model.compute_in("bf16")
    rounded = ActingTransformer(model, LANES, CONTEXT)
    for step in range(STEPS):
        seen = inputs["states"][step], inputs["returns"][step], inputs["actions"][step - 1]
        a, b = exact.act(step, *seen), rounded.act(step, *seen)
        assert b.dtype == torch.float32
        assert not torch.equal(a, b)
        torch.testing.assert_close(a, b, rtol=0, atol=0.05)
