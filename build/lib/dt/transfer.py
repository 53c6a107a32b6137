"""Transfer: carry a pre-trained policy to another environment, and choose what may change in fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from dt.policy import Policy, PolicyError
from dt.runs import unfrozen_layers


def adapt(policy: Policy, target: Policy) -> list[str]:
    """Overwrite the fresh `target` with every weight of `policy` whose name and shape fit; returns the names kept.

    What does not fit (embeddings and heads of another state or action size) stays as `target` was initialised. Raises
    PolicyError if the encoders differ: nothing would be transferred.
    """
    check_encoder(policy, vars(target.model.architecture))
    source, weights = policy.model.state_dict(), target.model.state_dict()
    fitting = [name for name, weight in weights.items() if name in source and source[name].shape == weight.shape]
    target.model.load_state_dict({name: source[name] if name in fitting else weights[name] for name in weights})
    return fitting


def check_encoder(policy: Policy, expected: Mapping[str, Any]) -> None:
    """Raise PolicyError unless the policy has the `layers`, `width` and `heads` expected of a source."""
    for part in ("layers", "width", "heads"):
        found = getattr(policy.model.architecture, part)
        if found != expected[part]:
            raise PolicyError(
                f"the source policy of {policy.task.environment} has model.{part} {found}, but {expected[part]} is"
                " asked for; pre-train it with the same model"
            )


def freeze(policy: Policy, strategy: str) -> None:
    """`unfreezeN`: freeze all encoder layers but the last N; embeddings, outer norms and heads always train."""
    layers: nn.ModuleList = policy.model.layers
    for layer in layers[: len(layers) - unfrozen_layers(strategy)]:
        layer.requires_grad_(False)
