"""Check a configuration. No job uses this module: a better message retrains nothing."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError
from snakemake.utils import update_config

from dt.broken import reason
from dt.runs import ExpectedError, context_range, unfrozen_layers

log = logging.getLogger(__name__)
NUMBER_OR_TRUTH = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?|true|false")
LARGEST = 1e30  # of a number: float32 holds it
MOST_VALUES, DEEPEST = 100_000, 20
TEMPLATE = "__use_yte__"  # makes Snakemake run the Python expressions in a file
MERGE = "tag:yaml.org,2002:merge"
EXPONENT_HINT = " (YAML reads 1e-4 as text; write 1.0e-4)"


class ConfigError(ExpectedError):
    """Everything that is wrong with a configuration, one problem a line."""


def check(config: dict[str, Any], schema: dict[str, Any]) -> None:
    """Raise ConfigError with every problem: key path, what was found, what is allowed."""
    for problem in _oversized(config):
        raise ConfigError(problem)  # the schema's check would print it in full
    errors = sorted(_Validator(schema).iter_errors(config), key=lambda error: [str(p) for p in error.path])
    problems = [problem for error in errors for problem in _describe(error)]
    wrong_blocks = {error.absolute_path[0] for error in errors if error.absolute_path}
    if isinstance(config, dict):
        problems += _relations({key: block for key, block in config.items() if key not in wrong_blocks})
    if problems:
        raise ConfigError("\n".join(problems))


def complete(config: dict[str, Any]) -> None:
    """Fill in what a checked configuration may leave out and no data are needed for, and drop what has no effect."""
    for name, environment in config["environments"].items():
        environment.setdefault("title", name.capitalize())
        environment["data"] = _source(environment, config["data"])
    sources = config["sources"] if isinstance(config["sources"], dict) else {}
    config["imported"] = {name: {"title": name.capitalize(), **entry} for name, entry in sources.items() if entry}
    config["sources"] = list(config["sources"])
    if config["report"].pop("resamples", None) is not None:
        log.warning("report.resamples has no effect: intervals over seeds are Student's t; leave it out")


def layered(config: dict[str, Any], layers: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Lay what differs over a configuration, as Snakemake lays a `--configfile` over the Snakefile's own."""
    for layer in layers:
        if isinstance(layer.get("sources"), dict) and isinstance(config["sources"], list):
            config["sources"] = {}  # a mapping is not laid over a list
        update_config(config, layer)
    return config


def configured(workflow: Path, files: Iterable[Path]) -> dict[str, Any]:
    """The configuration of the workflow in a folder, with `files` laid over it, completed; raises ConfigError."""
    default, schema = workflow / "config.yaml", workflow / "workflow/schemas/config.schema.yaml"
    paths = [default, *files]
    for path in (schema, *paths):
        if not path.is_file():
            raise ConfigError(f"there is no {path}; name an existing file, and do so where the workflow lies")
    check_files(paths)
    config, *layers = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in paths)
    for path, layer in zip(paths[1:], layers, strict=True):
        if not isinstance(layer, dict):
            raise ConfigError(f"{path}: found {_shorten(layer)}; allowed are keys with values")
    config = layered(config, layers)
    check(config, yaml.safe_load(schema.read_text(encoding="utf-8")))
    complete(config)
    return config


def check_files(paths: Iterable[str | Path]) -> None:
    """Raise ConfigError for a configuration file that cannot be read, or has a key twice; absent ones are none."""
    for path in filter(Path.is_file, map(Path, paths)):
        try:
            problems = _file_problems(path.read_text(encoding="utf-8"))
        except Exception as error:  # readers of wrong YAML raise nearly anything
            problems = [f"cannot be read as YAML ({reason(error)})"]
        if problems:
            raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems))


def plain(value: Any) -> Any:
    """Numbers and truth values for the texts that Snakemake makes of them in nested `--config` values."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return yaml.safe_load(value) if isinstance(value, str) and NUMBER_OR_TRUTH.fullmatch(value) else value


def _matches(_: Any, pattern: str, text: Any, schema: dict[str, Any]) -> Iterator[ValidationError]:
    if isinstance(text, str) and not re.fullmatch(pattern, text):
        yield ValidationError(f"{text!r} does not match {pattern!r}")


# JSON Schema counts 3.0 as an integer, and lets a line break follow what a pattern ends with: neither makes a folder.
_Validator = validators.extend(
    Draft202012Validator,
    {"pattern": _matches},
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int),
)


def _file_problems(text: str) -> list[str]:
    try:
        return list(_oversized(json.loads(text)))  # as Snakemake tries first; tabs are fine in JSON
    except ValueError:
        loader = yaml.SafeLoader(text)  # not the one in C: it crashes on what is nested 30000 deep
    node = loader.get_single_node()
    problems = list(_duplicates(node))
    if problems or node is None:
        return problems
    value = loader.construct_document(node)
    if isinstance(value, dict) and TEMPLATE in value:
        return [f"{TEMPLATE}: unknown key; a configuration is no template, which could run any program"]
    return list(_oversized(value))


def _oversized(config: Any) -> Iterator[str]:
    """What no setting holds, and what cannot be shown or walked to its end: deep, endless or huge values."""
    waiting, count = [("the configuration", config, 0)], 0
    while waiting:
        path, value, depth = waiting.pop()
        count += 1
        if count > MOST_VALUES or depth > DEEPEST:
            yield f"{path}: nested without end, or too much; allowed are {DEEPEST} levels, {MOST_VALUES} values in all"
            return
        if type(value) is int and abs(value) >= 2**63:
            yield f"{path}: found an integer of {value.bit_length()} bits; allowed are 64"
        prefix = f"{path}." if depth else ""
        if isinstance(value, Mapping):
            for key, item in value.items():
                name = key[:60] if isinstance(key, str) else f"({type(key).__name__})"
                waiting += [(f"{prefix}{name!r}".replace("'", ""), part, depth + 1) for part in (key, item)]
        elif isinstance(value, list | tuple | set):
            waiting += [(f"{prefix}{number}", item, depth + 1) for number, item in enumerate(value)]


def _duplicates(node: yaml.Node | None) -> Iterator[str]:
    """Keys that stand twice in one mapping below `node`."""
    waiting, seen = [node], set()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            known = set()
            for key, value in node.value:
                waiting += [key, value]
                if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                    if (key.tag, key.value) in known:
                        yield f"line {key.start_mark.line + 1}: {key.value!r:.60} stands twice; allowed is once"
                    known.add((key.tag, key.value))
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _describe(error: ValidationError) -> Iterator[str]:
    path = ".".join(str(part) for part in error.absolute_path)
    prefix = f"{path}." if path else ""
    if error.validator == "additionalProperties":
        allowed = sorted(error.schema["properties"])
        for key in sorted(set(map(str, error.instance)) - set(allowed)):
            yield f"{prefix}{repr(key)[1:-1]}: unknown key; allowed are {', '.join(allowed)}"
    elif error.validator == "required":
        for key in sorted(set(error.validator_value) - set(error.instance)):
            if f"'{key}'" in error.message:
                yield f"{prefix}{key}: missing; it is required"
    else:
        yield f"{path or 'the configuration'}: found {_shorten(error.instance)}; allowed is {_allowed(error)}"


def _allowed(error: ValidationError) -> str:
    value = error.validator_value
    if error.validator in ("oneOf", "pattern") and "description" in error.schema:
        return error.schema["description"]
    return {
        "type": f"a value of type {value}" + (EXPONENT_HINT if _is_exponent(error.instance) else ""),
        "enum": f"one of {value}",
        "minimum": f"a value ≥ {value}",
        "maximum": f"a value ≤ {value}",
        "exclusiveMinimum": f"a value > {value}",
        "exclusiveMaximum": f"a value < {value}",
        "minItems": f"a list of at least {value}",
        "maxItems": f"a list of at most {value}",
        "maxLength": f"at most {value} characters",
        "minProperties": f"at least {value} entry",
        "uniqueItems": "every entry only once",
        "pattern": f"a text that matches {value}",
    }.get(error.validator, f"{error.validator}: {value}")


def _is_exponent(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[+-]?\d+e[+-]?\d+", value, re.IGNORECASE) is not None


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _relations(config: dict[str, Any]) -> list[str]:
    """What one key says about another, as far as their blocks are there."""
    problems: list[str] = []
    for part in (_check_numbers, _check_names, _check_model, _check_budget, _check_options):
        with suppress(KeyError):  # of a block that the schema has found wrong
            problems.extend(part(config))
    return problems


def _check_numbers(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _check_numbers(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, float) and not abs(value) <= LARGEST:
        yield f"{path}: found {value}; allowed is a finite number, at most {LARGEST:g}"


def _check_names(config: dict[str, Any]) -> Iterator[str]:
    environments = config["environments"]
    imported = config["sources"] if isinstance(config["sources"], dict) else {}
    for key in ("sources", "targets"):
        for name in config[key]:
            if name not in environments and not (key == "sources" and imported.get(name)):
                yield f"{key}: found {name!r}; allowed are the keys of environments: {', '.join(environments)}"
    for name, entry in imported.items():
        if entry and name in environments:
            yield f"sources.{name}: found a checkpoint; allowed is a name that is no key of environments"
    for strategy in config["strategies"]:
        if unfrozen_layers(strategy) > config["model"]["layers"]:
            yield f"strategies: found {strategy!r}; allowed are unfreeze0 to unfreeze{config['model']['layers']}"
    for name, environment in environments.items():
        yield from _check_environment(f"environments.{name}", environment, config["data"])
    chosen = [_source(environment, config["data"])["source"] for environment in environments.values()]
    if "path" in config["data"] and "path" not in chosen:
        yield "data.path: found, but no environment's data have source: path; allowed with source: path"


def _check_environment(path: str, environment: dict[str, Any], data: dict[str, Any]) -> Iterator[str]:
    reference = environment.get("reference")
    if reference and reference["random"] >= reference["expert"]:
        yield f"{path}.reference: found random ≥ expert; allowed is random < expert"
    yield from _check_plain(f"{path}.arguments", environment.get("arguments", {}))
    chosen = _source(environment, data)
    if chosen["source"] == "minari" and "minari" not in environment:
        yield f"{path}.minari: missing; data.source: minari needs it"
    if chosen["source"] == "path" and "path" not in chosen:
        yield f"{path}.data.path: missing; data.source: path needs it, there or in data.path"
    if chosen["source"] != "path" and "path" in chosen:
        yield f"{path}.data.path: found with source: {chosen['source']}; allowed with source: path"
    if chosen["source"] == "experts" and "sha256" in chosen:
        yield f"{path}.data.sha256: found with source: experts; allowed with source: minari and path"


def _source(environment: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Where an environment's data come from: its own `data` block over the study's, whose path only `path` takes."""
    chosen = {"source": data["source"], **environment.get("data", {})}
    return {"path": data["path"], **chosen} if chosen["source"] == "path" and "path" in data else chosen


def _check_model(config: dict[str, Any]) -> Iterator[str]:
    model = config["model"]
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
    epochs = min(config["training"]["epochs"], config["training"]["pretrain_epochs"])
    points, final_points = -(-epochs // config["evaluation"]["every"]), config["report"]["final_points"]
    if final_points > points:
        yield f"report.final_points: found {final_points}; allowed is at most {points}, the points after epoch 0"


def _check_options(config: dict[str, Any]) -> Iterator[str]:
    yield from _check_plain("experts.options", config["experts"]["options"])


def _check_plain(path: str, options: Any) -> Iterator[str]:
    try:
        json.dumps(options, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        yield f"{path}: found {_shorten(options)}; allowed are names with plain values ({error})"
