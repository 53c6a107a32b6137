"""The Decision Transformer (Chen et al. 2021, https://arxiv.org/abs/2106.01345), on one page.

B windows of K steps become 3K tokens, (return-to-go, state, action) per step. Padding stands on the right, so the
causal mask already hides it; positions come from the time-step embedding alone. Only state tokens feed the action
head, so `actions` leaves out what it does not need; `dt.acting` acts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from dt.dropout import dropout

INITIAL_STD = 0.02  # GPT-2's (Radford et al. 2019, section 2.3), as in Hugging Face's DecisionTransformerModel
MLP_FACTOR = 4
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": functional.relu, "gelu": functional.gelu}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Architecture:
    """What determines the shapes and the function of a DecisionTransformer."""

    state_size: int
    action_size: int
    layers: int = 3
    width: int = 128
    heads: int = 1
    activation: str = "relu"
    dropout: float = 0.1
    max_episode_length: int = 1000  # rows of the time-step embedding
    action_tanh: bool = True  # actions lie in (-1, 1); False where they are normalised by mean and deviation


class Layer(nn.Module):
    """Pre-norm encoder layer: causal self-attention, then an MLP, each added to its input."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.width
        self.heads, self.dropout = architecture.heads, architecture.dropout
        self.products = torch.float32  # the type that matrix products are computed in
        self.activation = ACTIVATIONS[architecture.activation]
        self.attention_norm = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width)  # queries, keys, values
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, MLP_FACTOR * width)
        self.mlp_out = nn.Linear(MLP_FACTOR * width, width)

    def forward(self, tokens: Tensor, wanted: slice = slice(None)) -> Tensor:
        """[B, T, W] → the tokens `wanted` of the result, [B, T', W]; the others are keys and values only."""
        if self.training and tokens.device.type == "cpu" and self.activation is functional.relu:
            from dt.fused import Attention, Mlp  # Numba takes 0.3 s to import; who only evaluates does not wait for it

            weights = list(self.parameters())
            tokens = Attention.apply(tokens, wanted, self.heads, self.dropout, self.products, *weights[:6])
            return Mlp.apply(tokens, self.dropout, self.products, *weights[6:])
        with torch.autocast(tokens.device.type, self.products, enabled=self.products != torch.float32):
            return self.plain(tokens, wanted)

    def plain(self, tokens: Tensor, wanted: slice = slice(None)) -> Tensor:
        """`forward` by PyTorch's own operations: the definition, and what runs on a GPU."""
        normed = self.attention_norm(tokens)
        tokens = tokens[:, wanted]
        tokens = tokens + self._drop(self.attention_out(self._attend(normed, wanted)))
        hidden = self.activation(self.mlp_in(self.mlp_norm(tokens)))
        return tokens + self._drop(self.mlp_out(hidden))

    def _attend(self, normed: Tensor, wanted: slice) -> Tensor:
        length, width = normed.shape[1:]
        probability = self.dropout if self.training else 0.0
        if wanted == slice(None):
            query, key, value = map(self._split, self.attention_in(normed).split(width, dim=2))  # [B, H, T, W/H]
            mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=probability, is_causal=True)
        else:
            weight, bias = self.attention_in.weight, self.attention_in.bias
            query = self._split(functional.linear(normed[:, wanted], weight[:width], bias[:width]))  # [B, H, T', W/H]
            key, value = map(self._split, functional.linear(normed, weight[width:], bias[width:]).split(width, dim=2))
            causal = torch.ones(length, length, dtype=torch.bool, device=normed.device).tril()[wanted]  # [T', T]
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=causal, dropout_p=probability)
        return mixed.transpose(1, 2).flatten(2)  # [B, T', W]

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)  # [B, T, W] → [B, H, T, W/H]

    def _drop(self, tokens: Tensor) -> Tensor:
        return dropout(tokens, self.dropout, self.training)


class DecisionTransformer(nn.Module):
    """Predicts actions from states, returns and states from actions; only actions are trained (Chen et al., section 3).

    `generator` draws the initial weights: N(0, 0.02²), the two projections into the residual stream N(0, 0.02²/2L),
    biases 0, norms 1.
    """

    def __init__(self, architecture: Architecture, generator: torch.Generator | None = None) -> None:
        super().__init__()
        width = architecture.width
        self.architecture = architecture
        self.embed_return = nn.Linear(1, width)
        self.embed_state = nn.Linear(architecture.state_size, width)
        self.embed_action = nn.Linear(architecture.action_size, width)
        self.embed_timestep = nn.Embedding(architecture.max_episode_length, width)
        self.embed_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(Layer(architecture) for _ in range(architecture.layers))
        self.final_norm = nn.LayerNorm(width)
        self.predict_action = nn.Linear(width, architecture.action_size)
        self.predict_state = nn.Linear(width, architecture.state_size)
        self.predict_return = nn.Linear(width, 1)
        self._initialise(generator)

    def forward(
        self, states: Tensor, actions: Tensor, returns_to_go: Tensor, timesteps: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All three predictions: actions [B, K, A], next states [B, K, S], returns [B, K, 1].

        states: [B, K, S], actions: [B, K, A], returns_to_go: [B, K, 1], all normalised; timesteps: [B, K] int64.
        """
        tokens = self._embed(states, actions, returns_to_go, timesteps)
        for layer in self.layers:
            tokens = layer(tokens)
        tokens = self.final_norm(tokens).unflatten(1, (-1, 3))  # [B, K, 3, W]
        state_tokens, action_tokens = tokens[:, :, 1], tokens[:, :, 2]
        return self._act(state_tokens), self.predict_state(action_tokens), self.predict_return(action_tokens)

    def actions(self, states: Tensor, actions: Tensor, returns_to_go: Tensor, timesteps: Tensor) -> Tensor:
        """The action predictions of `forward`, [B, K, A]: the last layer computes state tokens only.

        The last of `actions` is ignored: no state follows it.
        """
        tokens = self._embed(states, actions, returns_to_go, timesteps, last_action=False)
        for layer in self.layers[:-1]:
            tokens = layer(tokens)
        return self._act(self.final_norm(self.layers[-1](tokens, slice(1, None, 3))))

    def _embed(
        self, states: Tensor, actions: Tensor, returns_to_go: Tensor, timesteps: Tensor, last_action: bool = True
    ) -> Tensor:
        """[B, 3K, W], the tokens in the order return-to-go, state, action; one less without the last action."""
        times = self.embed_timestep(timesteps)
        tokens = torch.stack(
            (
                self.embed_return(returns_to_go) + times,
                self.embed_state(states) + times,
                self.embed_action(actions) + times,
            ),
            dim=2,
        ).flatten(1, 2)
        tokens = tokens if last_action else tokens[:, :-1]
        return dropout(self.embed_norm(tokens), self.architecture.dropout, self.training)

    def _act(self, state_tokens: Tensor) -> Tensor:
        actions = self.predict_action(state_tokens)
        return actions.tanh() if self.architecture.action_tanh else actions

    @property
    def products(self) -> torch.dtype:
        """The type that linear maps of the encoder layers compute in; weights, norms and what is added up are fp32."""
        return cast(Layer, self.layers[0]).products

    def compute_in(self, precision: str) -> None:
        """Set `products` by its name in PRECISIONS."""
        for layer in cast(list[Layer], self.layers):
            layer.products = PRECISIONS[precision]

    def _initialise(self, generator: torch.Generator | None) -> None:
        residual_std = INITIAL_STD / math.sqrt(2 * self.architecture.layers)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "norm" in name:
                nn.init.ones_(parameter)
            else:
                into_residual = name.endswith(("attention_out.weight", "mlp_out.weight"))
                nn.init.normal_(parameter, std=residual_std if into_residual else INITIAL_STD, generator=generator)
