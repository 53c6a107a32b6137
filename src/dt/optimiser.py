"""One training step: mean-squared error on actions under the mask, AdamW, linear warm-up (Gawri 2023, section 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from dt.graphs import Graphs
from dt.model import DecisionTransformer
from dt.policy import Policy

BETAS, EPSILON = (0.9, 0.999), 1e-8  # of AdamW (Loshchilov & Hutter 2019, algorithm 2), as in PyTorch
CLIP_EPSILON = 1e-6  # as in PyTorch


class Optimiser:
    """AdamW with linear warm-up and gradient clipping; the state of one training.

    It calls the kernel of `torch.optim.AdamW(fused=True)` itself: the class imports PyTorch's compiler, a second of
    every job. On a GPU a step is one CUDA graph.
    """

    def __init__(self, policy: Policy, settings: dict[str, Any]) -> None:
        self.model, self.settings, self.steps = policy.model, settings, 0
        self.parameters = {name: each for name, each in policy.model.named_parameters() if each.requires_grad}
        self.first, self.second = (
            {name: torch.zeros_like(each, requires_grad=False) for name, each in self.parameters.items()}
            for _ in range(2)
        )
        some = next(iter(self.parameters.values()))
        self.count, self.rate = some.new_zeros(2, requires_grad=False).unbind()  # on the device: steps, learning rate
        self.update: Callable[[dict[str, Tensor]], tuple[Tensor, ...]] = self._update
        if some.is_cuda:
            changed = [*self.parameters.values(), *self.first.values(), *self.second.values(), self.count]
            self.update = Graphs(self._update, changed)

    @property
    def on_gpu(self) -> bool:
        return self.count.is_cuda

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return self.settings["learning_rate"] * min(1.0, (self.steps + 1) / max(1, self.settings["warmup_steps"]))

    def step(self, windows: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """One update; returns the loss and the gradient's norm before clipping, both `[]`."""
        self.rate.fill_(self.learning_rate)
        self.steps += 1
        loss, norm = self.update(windows)
        return loss, norm

    def _update(self, windows: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        loss = action_loss(self.model, **windows)
        found = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
        named = {name: each for name, each in zip(self.parameters, found, strict=True) if each is not None}
        gradients = list(named.values())
        norm = get_total_norm(gradients, foreach=True)
        torch._foreach_mul_(gradients, self._factor(norm).clamp(max=1))
        weights, first, second = ([part[name] for name in named] for part in (self.parameters, self.first, self.second))
        self.count += 1
        with torch.no_grad():
            torch._fused_adamw_(
                *(weights, gradients, first, second, [], [self.count] * len(weights)),
                lr=self.rate,
                beta1=BETAS[0],
                beta2=BETAS[1],
                weight_decay=self.settings["weight_decay"],
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
            )
        return loss.detach(), norm

    def clips(self, norms: Tensor) -> Tensor:
        """Whether gradients of these `norms: [steps]` are shortened, `[steps] bool`."""
        return self._factor(norms) < 1

    def _factor(self, norm: Tensor) -> Tensor:
        """What brings a gradient to the allowed norm."""
        return self.settings["gradient_clip"] / (norm + CLIP_EPSILON)

    def tensors(self) -> dict[str, Tensor]:
        """Weights and AdamW's moments."""
        parts = {"weights": self.model.state_dict(), "first": self.first, "second": self.second}
        return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], steps: int) -> None:
        """The inverse of `tensors`, after `steps` steps."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
        self.count.fill_(steps)
        self.steps = steps


def action_loss(
    model: DecisionTransformer, states: Tensor, actions: Tensor, returns_to_go: Tensor, timesteps: Tensor, mask: Tensor
) -> Tensor:
    """Mean-squared error over the action components of the steps under `mask: [B, K] bool`."""
    errors = (model.actions(states, actions, returns_to_go, timesteps) - actions).square() * mask[:, :, None]
    return errors.sum() / (mask.sum() * actions.shape[2])
