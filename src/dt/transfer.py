"""Transfer: carry a pre-trained policy to another environment, and choose what may change in fine-tuning."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from dt.policy import Policy, PolicyError
from dt.runs import unfrozen_layers

SHARED = {  # what a source and its target must have in common: field of Architecture → how to get it
    "layers": "pre-train it with the same model",
    "width": "pre-train it with the same model",
    "heads": "pre-train it with the same model",
    "activation": "its weights would compute another function; set model.activation, or take another source",
    "action_tanh": "its actions end in tanh or not as data.normalise_actions was false or true; set that, or take"
    " another source",
}
TIMES = "embed_timestep"
log = logging.getLogger(__name__)


class Carried(NamedTuple):
    """The modules of a target by where their weights come from; of `shared_rows` only the first rows are carried."""

    carried: list[str]
    new: list[str]
    shared_rows: dict[str, int]  # module → rows


def adapt(policy: Policy, target: Policy) -> Carried:
    """Overwrite the modules of the fresh `target` by those of `policy` that fit; returns which.

    A module of which one tensor has another shape (embeddings and heads of another state or action size) stays new as a
    whole, weight and bias, as `target` was initialised: so does the authors' code. Of the time-step embedding the rows
    that both have are carried. Raises PolicyError if the two compute different functions: see `check_encoder`.
    """
    check_encoder(policy, vars(target.model.architecture))
    source, weights = policy.model.state_dict(), target.model.state_dict()
    result = Carried([], [], {})
    for module in dict.fromkeys(name.rpartition(".")[0] for name in weights):
        names = [name for name in weights if name.rpartition(".")[0] == module]
        if all(name in source and source[name].shape == weights[name].shape for name in names):
            result.carried.append(module)
            weights |= {name: source[name] for name in names}
        elif module == TIMES:
            (name,) = names
            weights[name] = _first_rows(source[name], weights[name])
            result.shared_rows[module] = min(len(source[name]), len(weights[name]))
        else:
            result.new.append(module)
    target.model.load_state_dict(weights)
    log.info("carried from %s: %s", policy.task.environment, ", ".join(result.carried))
    for module, rows in result.shared_rows.items():
        log.info("carried from %s: the first %d rows of %s", policy.task.environment, rows, module)
    log.info("new: %s", ", ".join(result.new) or "nothing")
    return result


def check_encoder(policy: Policy, expected: Mapping[str, Any]) -> None:
    """Raise PolicyError unless the policy computes the function expected of a source, whatever its weights.

    `expected` holds some or all of an Architecture's fields; dropout may differ, it is no part of the function.
    """
    for part, cure in SHARED.items():
        found = getattr(policy.model.architecture, part)
        if found != expected.get(part, found):
            name = part if part == "action_tanh" else f"model.{part}"
            raise PolicyError(
                f"the source policy of {policy.task.environment} has {name} {found}, but {expected[part]} is"
                f" asked for; {cure}"
            )


def freeze(policy: Policy, strategy: str) -> None:
    """`unfreezeN`: freeze all encoder layers but the last N; embeddings, outer norms and heads always train."""
    layers: nn.ModuleList = policy.model.layers
    for layer in layers[: len(layers) - unfrozen_layers(strategy)]:
        layer.requires_grad_(False)


def _first_rows(source: Tensor, fresh: Tensor) -> Tensor:
    """The rows of `source` that `fresh` has too, and then those of `fresh`."""
    result = fresh.clone()
    result[: len(source)] = source[: len(fresh)]
    return result
