"""The model against Hugging Face's DecisionTransformerModel, with its weights copied."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import DecisionTransformerConfig, DecisionTransformerModel

from dt.dropout import dropout
from dt.model import Architecture, DecisionTransformer

SIZES = [  # state, action, layers, width, heads, activation, K
    (17, 6, 3, 128, 1, "relu", 20),
    (11, 3, 3, 128, 1, "relu", 1),
    (5, 2, 1, 32, 4, "gelu", 7),
    (27, 8, 4, 48, 3, "relu", 13),
]


def hugging_face(architecture: Architecture) -> DecisionTransformerModel:
    return DecisionTransformerModel(
        DecisionTransformerConfig(
            state_dim=architecture.state_size,
            act_dim=architecture.action_size,
            hidden_size=architecture.width,
            n_layer=architecture.layers,
            n_head=architecture.heads,
            activation_function=architecture.activation,
            max_ep_len=architecture.max_episode_length,
            n_positions=256,
            action_tanh=architecture.action_tanh,
        )
    ).eval()


def copy_weights(theirs: DecisionTransformerModel, ours: DecisionTransformer) -> None:
    """Their constant position embedding, wpe[0], becomes part of the embedding norm's bias."""
    pairs = [
        (theirs.embed_return, ours.embed_return),
        (theirs.embed_state, ours.embed_state),
        (theirs.embed_action, ours.embed_action),
        (theirs.embed_ln, ours.embed_norm),
        (theirs.encoder.ln_f, ours.final_norm),
        (theirs.predict_action[0], ours.predict_action),
        (theirs.predict_state, ours.predict_state),
        (theirs.predict_return, ours.predict_return),
    ]
    for block, layer in zip(theirs.encoder.h, ours.layers, strict=True):
        pairs += [
            (block.ln_1, layer.attention_norm),
            (block.ln_2, layer.mlp_norm),
            (block.attn.c_attn, layer.attention_in),
            (block.attn.c_proj, layer.attention_out),
            (block.mlp.c_fc, layer.mlp_in),
            (block.mlp.c_proj, layer.mlp_out),
        ]
    with torch.no_grad():
        ours.embed_timestep.weight.copy_(theirs.embed_timestep.weight)
        for their, our in pairs:
            transposed = not isinstance(their, nn.Linear | nn.LayerNorm)  # GPT-2's Conv1D holds [in, out]
            our.weight.copy_(their.weight.T if transposed else their.weight)
            our.bias.copy_(their.bias)
        ours.embed_norm.bias.add_(theirs.encoder.wpe.weight[0])


def window(architecture: Architecture, context: int, batch: int = 5) -> dict[str, torch.Tensor]:
    return {
        "states": torch.randn(batch, context, architecture.state_size),
        "actions": torch.rand(batch, context, architecture.action_size) * 2 - 1,
        "returns_to_go": torch.rand(batch, context, 1) * 5,
        "timesteps": torch.randint(0, architecture.max_episode_length, (batch, context)),
    }


def perturbed_pair(size: tuple) -> tuple[DecisionTransformerModel, DecisionTransformer, dict[str, torch.Tensor]]:
    """Both models with equal weights, all of them (norms and biases too) away from their initial values."""
    torch.manual_seed(0)
    state, action, layers, width, heads, activation, context = size
    architecture = Architecture(state, action, layers, width, heads, activation, max_episode_length=50)
    theirs, ours = hugging_face(architecture), DecisionTransformer(architecture).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    copy_weights(theirs, ours)
    return theirs, ours, window(architecture, context)


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_all_predictions_equal_hugging_faces(size: tuple) -> None:
    theirs, ours, inputs = perturbed_pair(size)
    with torch.no_grad():
        states, actions, returns = theirs(**inputs, return_dict=False)
        for actual, expected in zip(ours(**inputs), (actions, states, returns), strict=True):
            assert_close(actual, expected)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("size", [size for size in SIZES if size[-1] > 1])
def test_short_windows_equal_hugging_faces_masked_ones(size: tuple, side: str) -> None:
    """Row i keeps i + 1 steps; ours stand at the left with zeros behind, theirs on either side under a mask."""
    theirs, ours, inputs = perturbed_pair(size)
    context = size[-1]
    padded = {name: torch.zeros_like(array) for name, array in inputs.items()}
    masked = {name: torch.zeros_like(array) for name, array in inputs.items()}
    attention_mask = torch.zeros(inputs["timesteps"].shape, dtype=torch.long)
    for row in range(5):
        kept, place = row + 1, slice(0, row + 1) if side == "right" else slice(context - row - 1, context)
        attention_mask[row, place] = 1
        for name, array in inputs.items():
            padded[name][row, :kept] = array[row, :kept]
            masked[name][row, place] = array[row, :kept]
    with torch.no_grad():
        _, expected, _ = theirs(**masked, attention_mask=attention_mask, return_dict=False)
        actual = ours.actions(**padded)
    for row in range(5):
        assert_close(actual[row, : row + 1], expected[row, attention_mask[row].bool()])


@pytest.mark.parametrize("size", SIZES)
def test_state_tokens_alone_give_the_same_actions_and_gradients(size: tuple) -> None:
    _, ours, inputs = perturbed_pair(size)
    plain, *_ = ours(**inputs)
    plain.square().mean().backward()
    expected = {
        name: parameter.grad.clone() for name, parameter in ours.named_parameters() if parameter.grad is not None
    }
    ours.zero_grad()
    fast = ours.actions(**inputs)
    fast.square().mean().backward()
    assert_close(fast, plain)
    for name, parameter in ours.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_an_action_does_not_depend_on_what_comes_later() -> None:
    _, ours, inputs = perturbed_pair(SIZES[0])
    before = ours.actions(**inputs)
    inputs["actions"][:, 10:] += 1
    inputs["states"][:, 11:] += 1
    inputs["returns_to_go"][:, 11:] += 1
    after = ours.actions(**inputs)
    assert torch.equal(before[:, :11], after[:, :11])
    assert not torch.allclose(before[:, 11:], after[:, 11:])


def test_initial_weights_have_hugging_faces_distributions() -> None:
    architecture = Architecture(17, 6, layers=3, width=128)
    torch.manual_seed(0)
    theirs, copied, ours = (
        hugging_face(architecture),
        DecisionTransformer(architecture),
        DecisionTransformer(architecture),
    )
    with torch.no_grad():
        theirs.encoder.wpe.weight.zero_()
    copy_weights(theirs, copied)
    for (name, actual), expected in zip(ours.named_parameters(), copied.parameters(), strict=True):
        if expected.numel() == 1 or expected.std() == 0:
            assert torch.equal(actual, expected), name
        else:
            error = 4 / math.sqrt(2 * actual.numel())  # four standard errors of a standard deviation
            assert abs(actual.std() / expected.std() - 1) < 2 * error, name
            assert abs(actual.mean()) < 4 * expected.std() / math.sqrt(actual.numel()), name


def test_initial_weights_depend_on_the_generator_alone() -> None:
    architecture = Architecture(11, 3)
    first = DecisionTransformer(architecture, torch.Generator().manual_seed(1))
    torch.manual_seed(99)
    second = DecisionTransformer(architecture, torch.Generator().manual_seed(1))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_dropout_keeps_the_expected_share_and_scale(probability: float) -> None:
    torch.manual_seed(0)
    tokens = torch.full((301, 999), 2.0)
    dropped = dropout(tokens, probability, training=True)
    kept = dropped != 0
    assert abs(kept.double().mean().item() - (1 - probability)) < 4 * math.sqrt(0.25 / tokens.numel())
    assert torch.allclose(dropped[kept], torch.tensor(2 / (1 - probability)))
    columns, expected = kept.double().mean(0), kept.double().mean()
    assert (columns - expected).abs().max() < 6 * math.sqrt(0.25 / 301)  # no column is special
    assert torch.equal(dropout(tokens, probability, training=False), functional.dropout(tokens, 0.3, False))
