"""One training step: mean-squared error on actions under the mask, AdamW, linear warm-up (Gawri 2023, section 4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dt.model import DecisionTransformer
from dt.policy import Policy


class Optimiser:
    """AdamW with linear warm-up and gradient clipping; the state of one training."""

    def __init__(self, policy: Policy, settings: dict[str, Any]) -> None:
        self.model, self.settings, self.steps = policy.model, settings, 0
        self.parameters = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
        self.adamw = torch.optim.AdamW(
            self.parameters, lr=settings["learning_rate"], weight_decay=settings["weight_decay"], fused=True
        )

    @property
    def on_gpu(self) -> bool:
        return self.parameters[0].is_cuda

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return self.settings["learning_rate"] * min(1.0, (self.steps + 1) / max(1, self.settings["warmup_steps"]))

    def step(self, windows: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """One update; returns the loss and the gradient's norm before clipping, both `[]`."""
        self.adamw.param_groups[0]["lr"] = self.learning_rate
        loss = action_loss(self.model, **windows)
        self.adamw.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings["gradient_clip"], foreach=True)
        self.adamw.step()
        self.steps += 1
        return loss.detach(), norm

    def tensors(self) -> dict[str, Tensor]:
        """Weights, and AdamW's state of each trained one that has a gradient."""
        weights = {f"weights/{name}": weight for name, weight in self.model.state_dict().items()}
        return weights | {
            f"adamw/{index}/{name}": value
            for index, parameter in enumerate(self.parameters)
            for name, value in self.adamw.state[parameter].items()
        }

    def restore(self, tensors: dict[str, Tensor], steps: int) -> None:
        """The inverse of `tensors`, after `steps` steps."""
        self.model.load_state_dict({name: tensors[f"weights/{name}"] for name in self.model.state_dict()})
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("adamw/"):
                _, index, name = key.split("/")
                state.setdefault(int(index), {})[name] = tensor
        self.adamw.load_state_dict(self.adamw.state_dict() | {"state": state})
        self.steps = steps


def action_loss(
    model: DecisionTransformer, states: Tensor, actions: Tensor, returns_to_go: Tensor, timesteps: Tensor, mask: Tensor
) -> Tensor:
    """Mean-squared error over the action components of the steps under `mask: [B, K] bool`."""
    errors = (model.actions(states, actions, returns_to_go, timesteps) - actions).square() * mask[:, :, None]
    return errors.sum() / (mask.sum() * actions.shape[2])
