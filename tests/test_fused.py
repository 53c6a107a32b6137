"""The written-out backward passes against autograd's, and what draws do."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dt import kernels
from dt.dropout import Dropout
from dt.model import PRECISIONS, Architecture, DecisionTransformer, Layer

BATCH, LENGTH = 6, 23
STATE_TOKENS = slice(1, None, 3)


def layer_and_tokens(heads: int) -> tuple[Layer, Tensor]:
    torch.manual_seed(0)
    layer = Layer(Architecture(5, 2, width=48, heads=heads, dropout=0.3))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer.train(), torch.randn(BATCH, LENGTH, 48, requires_grad=True)


def gradients(layer: Layer, tokens: Tensor, outputs: Tensor) -> dict[str, Tensor]:
    """Of every weight and of the tokens, for a loss that weighs every output differently."""
    for tensor in (tokens, *layer.parameters()):
        tensor.grad = None
    generator = torch.Generator().manual_seed(1)
    (outputs * torch.randn(outputs.shape, generator=generator)).sum().backward()
    named = {"tokens": tokens, **dict(layer.named_parameters())}
    return {name: tensor.grad.clone() for name, tensor in named.items() if tensor.grad is not None}


def plain_with_draws(layer: Layer, tokens: Tensor, wanted: slice, factors: list[Tensor]) -> Tensor:
    """`Layer.plain` with the given dropout factors of attention, its output and the MLP's."""
    normed, heads = layer.attention_norm(tokens), layer.heads
    query, key, value = (
        part.unflatten(2, (heads, -1)).transpose(1, 2) for part in layer.attention_in(normed).chunk(3, 2)
    )
    scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
    causal = torch.ones(LENGTH, LENGTH).tril().bool()
    attention = scores.masked_fill(~causal, -math.inf).softmax(3)[:, :, wanted]
    mixed = (attention * factors[0].view(attention.shape) @ value).transpose(1, 2).flatten(2)
    middle = tokens[:, wanted] + layer.attention_out(mixed) * factors[1].view(mixed.shape)
    hidden = layer.mlp_in(layer.mlp_norm(middle)).relu()
    return middle + layer.mlp_out(hidden) * factors[2].view(middle.shape)


@pytest.mark.parametrize("wanted", [slice(None), STATE_TOKENS])
@pytest.mark.parametrize("heads", [1, 4])
def test_outputs_and_gradients_without_dropout_equal_autograds(heads: int, wanted: slice) -> None:
    layer, tokens = layer_and_tokens(heads)
    layer.dropout = 0.0
    fused, plain = layer(tokens, wanted), layer.plain(tokens, wanted)
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)
    expected = gradients(layer, tokens, plain)
    for name, gradient in gradients(layer, tokens, fused).items():
        error = (gradient - expected[name]).norm() / (expected[name].norm() + 1e-3)  # keys' bias has none
        assert error < 1e-5, name


@pytest.mark.parametrize("wanted", [slice(None), STATE_TOKENS])
@pytest.mark.parametrize("heads", [1, 4])
def test_outputs_and_gradients_with_dropout_equal_autograds(
    heads: int, wanted: slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, tokens = layer_and_tokens(heads)
    factors, draw = [], Dropout.draw

    def spy(self: Dropout, shape: torch.Size) -> np.ndarray:
        kept = draw(self, shape)
        factors.append(torch.from_numpy(kept.astype(np.float32) * self.scale))
        return kept

    monkeypatch.setattr(Dropout, "draw", spy)
    fused = layer(tokens, wanted)
    assert all(0.6 < (each > 0).float().mean() < 0.8 for each in factors)
    plain = plain_with_draws(layer, tokens, wanted, factors)
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)
    expected = gradients(layer, tokens, plain)
    for name, gradient in gradients(layer, tokens, fused).items():
        error = (gradient - expected[name]).norm() / (expected[name].norm() + 1e-3)
        assert error < 1e-5, name


def test_a_frozen_layer_passes_gradients_on_and_keeps_none() -> None:
    layer, tokens = layer_and_tokens(1)
    layer.dropout = 0.0
    expected = gradients(layer, tokens, layer.plain(tokens))["tokens"]
    layer.requires_grad_(False)
    found = gradients(layer, tokens, layer(tokens))
    assert set(found) == {"tokens"}
    torch.testing.assert_close(found["tokens"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wanted", [slice(None), STATE_TOKENS])
def test_bf16_gradients_point_where_fp32s_do(wanted: slice) -> None:
    layer, tokens = layer_and_tokens(1)
    layer.dropout = 0.0
    expected = gradients(layer, tokens, layer(tokens, wanted))
    layer.products = PRECISIONS["bf16"]
    outputs = layer(tokens, wanted)
    assert outputs.dtype == torch.float32
    found = gradients(layer, tokens, outputs)
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    errors = {name: (found[name] - expected[name]).norm() / (expected[name].norm() + 1) for name in expected}
    assert 0 < max(errors.values()) < 0.1


def test_kernels_round_to_bf16_as_pytorch_does() -> None:
    torch.manual_seed(0)
    values = torch.cat((torch.randn(64, 100), torch.randn(64, 100) * 1e-30, torch.zeros(64, 1)), 1)
    values[0, :3] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, math.inf])  # two ties, one of them upwards
    rounded = torch.empty(values.shape, dtype=torch.bfloat16)
    kernels.drop(values.numpy(), np.ones(values.shape, bool), np.float32(1), rounded.view(torch.uint16).numpy())
    assert torch.equal(rounded, values.bfloat16())
    total = torch.zeros(values.shape[1])
    kernels.add_sum(rounded[1:].view(torch.uint16).numpy(), total.numpy())
    torch.testing.assert_close(total, rounded[1:].float().sum(0))


def test_a_training_model_uses_them_and_an_evaluated_or_other_activation_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: list[Any] = []
    plain = Layer.plain
    monkeypatch.setattr(Layer, "plain", lambda self, *arguments: (used.append(self), plain(self, *arguments))[1])
    inputs = torch.randn(2, 4, 5), torch.randn(2, 4, 2), torch.randn(2, 4, 1), torch.arange(4).expand(2, -1)
    for activation, training, expected in (("relu", True, 0), ("relu", False, 3), ("gelu", True, 3)):
        used.clear()
        DecisionTransformer(Architecture(5, 2, width=16, activation=activation)).train(training).actions(*inputs)
        assert len(used) == expected


@pytest.mark.parametrize("probability", [0.0, 0.001, 0.1, 0.25, 0.5, 0.999])
def test_draws_drop_with_the_exact_probability(probability: float) -> None:
    torch.manual_seed(0)
    dropout, shape = Dropout(probability), torch.Size((500, 2001))
    dropped = 1 - dropout.draw(shape).mean()
    error = math.sqrt(probability * (1 - probability) / math.prod(shape))
    assert abs(dropped - probability) <= 4 * error
