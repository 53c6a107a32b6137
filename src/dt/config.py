"""Check a configuration, and name the runs that it defines. Imports no torch: the Snakefile parses with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError


class ConfigError(ValueError):
    """Everything that is wrong with a configuration, one problem a line."""


class Run(NamedTuple):
    """The identity of one trained policy. A scratch run has no source and strategy, a pre-training no target."""

    kind: str
    source: str
    target: str
    strategy: str
    seed: int

    @property
    def environment(self) -> str:
        """The environment whose data the run learns from and is evaluated in."""
        return self.source if self.kind == "pretrain" else self.target

    @property
    def path(self) -> str:
        """Its folder below `policies/` and `evaluations/`, `finetune/hopper/walker2d/unfreeze1/seed0` for example."""
        parts = (self.kind, self.source, self.target, self.strategy, f"seed{self.seed}")
        return "/".join(part for part in parts if part)

    @classmethod
    def from_path(cls, path: str) -> Run:
        """The inverse of `path`."""
        kind, *names, seed = path.split("/")
        source, target, strategy = {
            "pretrain": (*names[:1], "", ""),
            "finetune": names,
            "scratch": ("", *names[:1], ""),
        }[kind]
        return cls(kind, source, target, strategy, int(seed.removeprefix("seed")))


def runs(config: dict[str, Any]) -> Iterator[Run]:
    """Every run of a study: pre-trainings, then fine-tunings, then trainings from scratch, in the config's order."""
    sources, targets, seeds = config["sources"], config["targets"], config["seeds"]
    yield from (Run("pretrain", source, "", "", seed) for source, seed in product(sources, seeds))
    yield from (Run("finetune", *arm) for arm in product(sources, targets, config["strategies"], seeds))
    yield from (Run("scratch", "", target, "", seed) for target, seed in product(targets, seeds))


def check(config: dict[str, Any], schema: dict[str, Any]) -> None:
    """Raise ConfigError with every problem: key path, what was found, what is allowed."""
    errors = sorted(Draft202012Validator(schema).iter_errors(config), key=lambda error: [str(p) for p in error.path])
    problems = [problem for error in errors for problem in _describe(error, config)]
    problems += [] if problems else _relations(config)
    if problems:
        raise ConfigError("\n".join(problems))


def context_range(context: int | list[int]) -> tuple[int, int]:
    """Least and most time steps of a window."""
    least, most = (context, context) if isinstance(context, int) else context
    return least, most


def unfrozen_layers(strategy: str) -> int:
    """2 for `unfreeze2`."""
    return int(strategy.removeprefix("unfreeze"))


def _describe(error: ValidationError, config: dict[str, Any]) -> Iterator[str]:
    path = ".".join(str(part) for part in error.absolute_path)
    prefix = f"{path}." if path else ""
    if error.validator == "additionalProperties":
        allowed = sorted(error.schema["properties"])
        for key in sorted(set(map(str, error.instance)) - set(allowed)):
            yield f"{prefix}{key}: unknown key; allowed are {', '.join(allowed)}"
    elif error.validator == "required":
        for key in sorted(set(error.validator_value) - set(error.instance)):
            if f"'{key}'" in error.message:
                yield f"{prefix}{key}: missing; it is required"
    elif error.parent is not None and error.parent.validator == "propertyNames":
        yield f"{prefix}{error.instance}: not a name; allowed is {_allowed(error)}"
    else:
        yield f"{path or 'the configuration'}: found {_shorten(error.instance)}; allowed is {_allowed(error)}"


def _allowed(error: ValidationError) -> str:
    value = error.validator_value
    if error.validator in ("propertyNames", "oneOf") and "description" in error.schema:
        return error.schema["description"]
    return {
        "type": f"a value of type {value}",
        "enum": f"one of {value}",
        "minimum": f"a value ≥ {value}",
        "maximum": f"a value ≤ {value}",
        "exclusiveMinimum": f"a value > {value}",
        "exclusiveMaximum": f"a value < {value}",
        "minItems": f"a list of at least {value}",
        "maxItems": f"a list of at most {value}",
        "minLength": "a text that is not empty",
        "minProperties": f"at least {value} entry",
        "uniqueItems": "every entry only once",
        "pattern": f"a text that matches {value}",
    }.get(error.validator, f"{error.validator}: {value}")


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _relations(config: dict[str, Any]) -> list[str]:
    """What one key says about another; only called when every key alone is right."""
    return [
        *_check_numbers(config, ""),
        *_check_names(config),
        *_check_model(config["model"]),
        *_check_budget(config),
    ]


def _check_numbers(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _check_numbers(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{path}: found {value}; allowed is a finite number"


def _check_names(config: dict[str, Any]) -> Iterator[str]:
    environments = config["environments"]
    for key in ("sources", "targets"):
        for name in config[key]:
            if name not in environments:
                yield f"{key}: found {name!r}; allowed are the keys of environments: {', '.join(environments)}"
    for strategy in config["strategies"]:
        if unfrozen_layers(strategy) > config["model"]["layers"]:
            yield f"strategies: found {strategy!r}; allowed are unfreeze0 to unfreeze{config['model']['layers']}"
    for name, environment in environments.items():
        if environment["reference"]["random"] >= environment["reference"]["expert"]:
            yield f"environments.{name}.reference: found random ≥ expert; allowed is random < expert"
        if config["data"]["source"] == "minari" and "minari" not in environment:
            yield f"environments.{name}.minari: missing; data.source: minari needs it"


def _check_model(model: dict[str, Any]) -> Iterator[str]:
    least, most = context_range(model["context"])
    if least > most:
        yield f"model.context: found {model['context']}; allowed is [least, most] with least ≤ most"
    if most > model["max_episode_length"]:
        yield (
            f"model.context: found {most}, longer than an episode;"
            f" allowed is at most model.max_episode_length ({model['max_episode_length']})"
        )
    if model["width"] % model["heads"]:
        yield f"model.heads: found {model['heads']}; allowed is a divisor of model.width ({model['width']})"


def _check_budget(config: dict[str, Any]) -> Iterator[str]:
    trajectories, batch_size = config["data"]["trajectories"], config["training"]["batch_size"]
    if trajectories < batch_size:
        yield f"data.trajectories: found {trajectories}; allowed is at least training.batch_size ({batch_size})"
