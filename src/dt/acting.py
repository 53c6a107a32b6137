"""Decision Transformers that act: one time step at a time, in several lanes (episodes) of each of several snapshots.

Actions are those of `DecisionTransformer.forward` for the last of K steps, for less: embeddings and the first layer's
queries, keys and values do not change while the window slides, so they are kept; norms' weights are folded into the
linear maps that follow.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dt.heads import causal, merge, split
from dt.model import ACTIVATIONS, DecisionTransformer

CAPACITY = 4  # windows that a lane's memory holds before the latest is moved to its start


class ActingTransformer:
    """Copies of `model` with the weights of G `snapshots`, and what each of their `lanes` has seen; `context` is K.

    It acts where the snapshots lie, on a CPU or a GPU.
    """

    def __init__(
        self, model: DecisionTransformer, snapshots: list[dict[str, Tensor]], lanes: int, context: int
    ) -> None:
        self.architecture, self.products = model.architecture, model.products
        self.activation = ACTIVATIONS[model.architecture.activation]
        self.length = 3 * context - 1  # tokens of a full window: the last step has no action yet
        folded = [_folded(model, snapshot) for snapshot in snapshots]
        self.weights = {name: torch.stack([weights[name] for weights in folded]) for name in folded[0]}
        embedding = self.weights["embed_timestep.weight"]
        width, capacity = model.architecture.width, CAPACITY * self.length
        self.tokens = embedding.new_zeros(len(snapshots), lanes, capacity, width)
        self.attended = embedding.new_zeros(len(snapshots), lanes, capacity, 3 * width, dtype=self.products)
        self.end = 0  # of what the lanes remember

    def keep(self, lanes: Tensor) -> None:
        """Forget all lanes but `lanes: [G, n] int64`."""
        places = lanes.to(self.tokens.device)[:, :, None, None]
        self.tokens, self.attended = (torch.take_along_dim(each, places, 1) for each in (self.tokens, self.attended))

    @torch.inference_mode()
    def act(self, step: int, states: Tensor, returns_to_go: Tensor, previous: Tensor) -> Tensor:
        """Actions [G, n, A] at time step `step`, which counts up from 0.

        states: [G, n, S]; returns_to_go: [G, n, 1]; previous: [G, n, A], the actions of the last step, ignored at the
        first; all normalised.
        """
        device = self.tokens.device
        self._remember(step, states.to(device), returns_to_go.to(device), previous.to(device))
        window = slice(max(0, self.end - self.length), self.end)
        tokens, attended = self.tokens[:, :, window], self.attended[:, :, window]
        last = self.architecture.layers - 1
        for layer in range(last + 1):
            if layer:
                attended = self._linear(f"layers.{layer}.attention_in", _norm(tokens, self.products))
            tokens = self._layer(layer, tokens, attended, only_last=layer == last)
        actions = self._linear("predict_action", _norm(tokens))[:, :, 0]
        return actions.tanh() if self.architecture.action_tanh else actions

    def _remember(self, step: int, states: Tensor, returns_to_go: Tensor, previous: Tensor) -> None:
        """Embed what is new: the last action, the return-to-go, the state."""
        times = self.weights["embed_timestep.weight"][:, :, None]  # [G, rows, 1, W]
        new = [
            self._linear("embed_return", returns_to_go) + times[:, step],
            self._linear("embed_state", states) + times[:, step],
        ]
        if step:
            new.insert(0, self._linear("embed_action", previous) + times[:, step - 1])
        weight, bias = (self.weights[f"embed_norm.{part}"][:, None, None] for part in ("weight", "bias"))
        tokens = _norm(torch.stack(new, 2)) * weight + bias
        if self.end + len(new) > self.tokens.shape[2]:
            for memory in (self.tokens, self.attended):
                memory[:, :, : self.length] = memory[:, :, self.end - self.length : self.end].clone()
            self.end = self.length
        place = slice(self.end, self.end + len(new))
        self.tokens[:, :, place] = tokens
        self.attended[:, :, place] = self._linear("layers.0.attention_in", _norm(tokens, self.products))
        self.end = place.stop

    def _layer(self, layer: int, tokens: Tensor, attended: Tensor, only_last: bool) -> Tensor:
        """An encoder layer after its first linear map, for all tokens or the last alone."""
        heads, lanes = self.architecture.heads, tokens.shape[:2]
        parts = attended.flatten(0, 1).split(self.architecture.width, 2)
        query, key, value = (split(part, heads) for part in parts)  # [G·n·H, T, W/H]
        if only_last:
            tokens, scores = tokens[:, :, -1:], torch.bmm(query[:, -1:], key.transpose(1, 2))
        else:
            mask = causal(query.shape[1], self.products, query.device)
            scores = torch.baddbmm(mask, query, key.transpose(1, 2))
        attention = torch.softmax(scores, 2, dtype=torch.float32).to(self.products)
        mixed = merge(torch.bmm(attention, value), heads).unflatten(0, lanes)
        tokens = tokens + self._linear(f"layers.{layer}.attention_out", mixed)
        hidden = self.activation(self._linear(f"layers.{layer}.mlp_in", _norm(tokens, self.products)))
        return tokens.add_(self._linear(f"layers.{layer}.mlp_out", hidden))

    def _linear(self, name: str, inputs: Tensor) -> Tensor:
        """[G, n, …, inputs] → [G, n, …, outputs].

        A CPU multiplies lane by lane: how a product rounds depends on its number of rows, and so an episode would
        depend on how many others run beside it. A GPU takes all lanes of a snapshot at once.
        """
        weight, bias = self.weights[f"{name}.weight"].transpose(1, 2), self.weights[f"{name}.bias"][:, None]
        rows = inputs.flatten(1, -2)  # [G, n·…, inputs]
        if not rows.is_cuda:
            lanes = inputs.shape[1]
            weight, bias = (each[:, None].expand(-1, lanes, -1, -1).flatten(0, 1) for each in (weight, bias))
            rows = rows.unflatten(1, (lanes, -1)).flatten(0, 1)  # [G·n, …, inputs]
        return torch.baddbmm(bias, rows, weight).view(*inputs.shape[:-1], -1)


def _folded(model: DecisionTransformer, snapshot: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights with those of norms, and the scale of scores, in the linear maps that follow."""
    weights = {name: weight.detach().clone() for name, weight in snapshot.items()}
    width, heads = model.architecture.width, model.architecture.heads
    maps = {"final_norm": "predict_action"}
    for layer in range(model.architecture.layers):
        maps |= {f"layers.{layer}.{block}_norm": f"layers.{layer}.{block}_in" for block in ("attention", "mlp")}
    for norm, linear in maps.items():
        weights[f"{linear}.bias"] += weights[f"{linear}.weight"] @ weights[f"{norm}.bias"]
        weights[f"{linear}.weight"] *= weights[f"{norm}.weight"]
    for name in weights:
        if "attention_in" in name:
            weights[name][:width] *= (width / heads) ** -0.5
        if name.startswith("layers."):
            weights[name] = weights[name].to(model.products)
    return weights


def _norm(tokens: Tensor, products: torch.dtype = torch.float32) -> Tensor:
    """LayerNorm without weights."""
    return functional.layer_norm(tokens, tokens.shape[-1:]).to(products)
