"""The configuration's check, against wrong configurations by hand and by hypothesis; the runs it defines."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from snakemake.utils import update_config

from dt.config import ConfigError, check, complete
from dt.runs import Run, runs

ROOT = Path(__file__).parents[1]
SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text())
MISSING = object()
# keys that config.yaml need not have
OPTIONAL = {"environments.*.arguments", "data.path", "environments.*.data", "report.resamples"}

BAD = [  # key, its value, what the message must say: where, what was found, what is allowed
    ("sedes", [0], ["sedes: unknown key", "allowed are data, device", "seeds"]),
    ("model.layrs", 3, ["model.layrs: unknown key", "allowed are", "layers"]),
    ("environments.hopper.reference.best", 3, ["environments.hopper.reference.best: unknown", "expert, random"]),
    (1, 2, ["1: unknown key", "seeds"]),
    (None, 2, ["None: unknown key", "seeds"]),
    ("seeds", MISSING, ["seeds: missing"]),
    ("training.epochs", MISSING, ["training.epochs: missing"]),
    ("environments.hopper.reference.expert", MISSING, ["environments.hopper.reference.expert: missing"]),
    ("model", 3, ["model: found 3", "type object"]),
    ("model.layers", "three", ["model.layers: found 'three'", "type integer"]),
    ("model.layers", 3.5, ["model.layers: found 3.5", "type integer"]),
    ("model.layers", 3.0, ["model.layers: found 3.0", "type integer"]),
    ("model.context", 20.0, ["model.context: found 20.0", "integer"]),
    ("model.layers", True, ["model.layers: found True", "type integer"]),
    ("data.normalise_states", 1, ["data.normalise_states: found 1", "type boolean"]),
    ("training.learning_rate", 0, ["training.learning_rate: found 0", "> 0"]),
    ("model.dropout", 1, ["model.dropout: found 1", "< 1"]),
    ("data.gamma", 1.5, ["data.gamma: found 1.5", "≤ 1"]),
    ("report.confidence", 95, ["report.confidence: found 95", "< 1"]),
    ("evaluation.episodes", 0, ["evaluation.episodes: found 0", "≥ 1"]),
    ("model.activation", "tanh", ["model.activation: found 'tanh'", "relu", "gelu"]),
    ("training.learning_rate", float("nan"), ["training.learning_rate: found nan", "finite"]),
    ("training.weight_decay", float("inf"), ["training.weight_decay: found inf", "finite"]),
    ("environments.hopper.target_return", float("-inf"), ["environments.hopper.target_return: found -inf", "finite"]),
    ("seeds", [], ["seeds: found []", "at least 1"]),
    ("seeds", [0, 1, 0], ["seeds: found [0, 1, 0]", "only once"]),
    ("seeds", [-1], ["seeds.0: found -1", "≥ 0"]),
    ("seeds", [0, True], ["seeds.1: found True", "type integer"]),
    ("seeds", [1.0], ["seeds.0: found 1.0", "type integer"]),
    ("seeds", 0, ["seeds: found 0", "type array"]),
    ("sources", ["ant"], ["sources: found 'ant'", "halfcheetah, hopper, walker2d"]),
    ("targets", ["hopper", "ant"], ["targets: found 'ant'", "halfcheetah, hopper, walker2d"]),
    ("targets", ["hopper", "hopper"], ["targets: found", "only once"]),
    ("strategies", ["thaw1"], ["strategies.0: found 'thaw1'", "unfreeze"]),
    ("strategies", ["unfreeze01"], ["strategies.0: found 'unfreeze01'", "unfreeze"]),
    ("strategies", ["unfreeze1\n"], ["strategies.0: found 'unfreeze1\\n'", "unfreeze"]),
    ("strategies", ["unfreeze4"], ["strategies: found 'unfreeze4'", "unfreeze0 to unfreeze3"]),
    ("model.max_episode_length", 10, ["model.context: found 20", "at most model.max_episode_length (10)"]),
    ("model.context", [5, 2000], ["model.context: found 2000", "at most model.max_episode_length (1000)"]),
    ("model.context", [9, 4], ["model.context: found [9, 4]", "least ≤ most"]),
    ("model.context", [4], ["model.context: found [4]", "[least, most]"]),
    ("model.context", 0, ["model.context: found 0", "≥ 1"]),
    ("model.heads", 3, ["model.heads: found 3", "divisor of model.width (128)"]),
    ("data.trajectories", 63, ["data.trajectories: found 63", "at least training.batch_size (64)"]),
    ("environments.hopper.reference.random", 1e6, ["environments.hopper.reference: found", "random < expert"]),
    ("data.source", "hub", ["data.source: found 'hub'", "experts", "minari", "path"]),
    ("data.path", "mine", ["data.path: found", "allowed with source: path"]),
    ("data.path", "a\nb", ["data.path: found 'a\\nb'", "a path of printable characters"]),
    ("environments.hopper.data", {"paht": "x"}, ["environments.hopper.data.paht: unknown", "path, sha256, source"]),
    ("environments.hopper.data", {"source": "path"}, ["environments.hopper.data.path: missing", "or in data.path"]),
    ("environments.hopper.data", {"path": "x"}, ["environments.hopper.data.path: found with source: experts"]),
    ("environments.hopper.data", {"source": "minari", "path": "x"}, ["hopper.data.path: found with source: minari"]),
    ("environments.hopper.data", {"sha256": "0" * 64}, ["hopper.data.sha256: found with source: experts", "minari"]),
    ("environments.hopper.data", {"source": "minari", "sha256": "0"}, ["hopper.data.sha256: found '0'", "{64}"]),
    ("environments.hopper.reward_scale", 0, ["environments.hopper.reward_scale: found 0", "≥ 1.2e-38"]),
    ("environments.hopper.reward_scale", 1e-45, ["environments.hopper.reward_scale: found 1e-45", "≥ 1.2e-38"]),
    ("environments.hopper.reward_scale", -1.0, ["environments.hopper.reward_scale: found -1.0", "≥ 1.2e-38"]),
    *[
        ("results", path, [f"results: found {path!r}", "A-Za-z0-9_"])
        for path in ("../x", "/tmp/x", "", "a/../b", "..", ".", "a//b", "a/", "a b", "a\n", "-x", "~/x", "a;b", "{x}")
    ],
]


@pytest.mark.parametrize(
    "path", [ROOT / "config.yaml", *sorted(ROOT.glob("config/*.yaml"))], ids=lambda path: path.name
)
def test_every_shipped_configuration_is_accepted(path: Path) -> None:
    config = copy.deepcopy(CONFIG)
    update_config(config, yaml.safe_load(path.read_text()))
    check(config, SCHEMA)


@pytest.mark.parametrize(("key", "value", "parts"), BAD, ids=lambda item: repr(item)[:50])
def test_a_wrong_value_is_answered_with_where_what_and_what_is_allowed(key: Any, value: Any, parts: list[str]) -> None:
    message = problems(changed({key: value}))
    assert len(message.splitlines()) == 1, message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("name", ["../hopper", "hop per", "höpper", "", "Hopper", "hopper\n", "/hopper", "0", 1, None])
def test_an_environments_name_that_is_no_safe_folder_name_is_answered(name: Any) -> None:
    config = changed({})
    config["environments"][name] = config["environments"]["hopper"]
    message = problems(config)
    assert message.startswith("environments")
    assert repr(name) in message


@pytest.mark.parametrize("config", [None, [], [1], "text", 3, {}])
def test_a_configuration_that_is_no_mapping_or_empty_is_answered(config: Any) -> None:
    expected = "seeds: missing" if config == {} else f"the configuration: found {config!r}"
    assert expected in problems(config)


def test_minari_data_without_a_minari_id_names_the_environment() -> None:
    config = changed({"data.source": "minari", "environments.hopper.minari": MISSING})
    assert problems(config) == "environments.hopper.minari: missing; data.source: minari needs it"


@pytest.mark.parametrize(
    ("study", "own", "chosen"),
    [
        ({"source": "experts"}, {}, {"source": "experts"}),
        ({"source": "path", "path": "all"}, {}, {"source": "path", "path": "all"}),
        ({"source": "path", "path": "all"}, {"path": "own"}, {"source": "path", "path": "own"}),
        ({"source": "path", "path": "all"}, {"source": "minari"}, {"source": "minari"}),
        ({"source": "experts"}, {"source": "path", "path": "own"}, {"source": "path", "path": "own"}),
        ({"source": "minari"}, {"sha256": "0" * 64}, {"source": "minari", "sha256": "0" * 64}),
    ],
)
def test_an_environments_own_data_go_before_the_studys(study: Any, own: Any, chosen: Any) -> None:
    config = changed({"environments.hopper.data": own, **{f"data.{key}": value for key, value in study.items()}})
    check(config, SCHEMA)
    complete(config)
    assert config["environments"]["hopper"]["data"] == chosen


def test_a_configuration_with_the_bootstraps_resamples_is_told_that_they_have_no_effect(caplog: Any) -> None:
    config = changed({"report.resamples": 20})
    check(config, SCHEMA)
    complete(config)
    assert "resamples" not in config["report"]
    assert "report.resamples has no effect" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"sedes": 1, "model.layers": 0, "report.confidence": MISSING},
        {"sources": ["ant"], "model.heads": 3, "data.trajectories": 1},
    ],
    ids=["keys alone", "keys against each other"],
)
def test_all_problems_are_told_at_once(changes: dict[str, Any]) -> None:
    lines = problems(changed(changes)).splitlines()
    assert len(lines) == 3
    assert sorted(line.split(":")[0] for line in lines) == sorted(changes)


def test_a_long_value_does_not_flood_the_terminal() -> None:
    assert len(problems(changed({"seeds": "x" * 10_000}))) < 200


KEYS = st.text(max_size=3) | st.integers() | st.none()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)
NEARLY_RIGHT = st.integers(-1, 5) | st.floats(-1, 5) | st.integers(0, 5).map(float)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_configuration_is_accepted_or_answered_and_what_is_accepted_names_its_runs(data: st.DataObject) -> None:
    config = copy.deepcopy(CONFIG)
    for _ in range(data.draw(st.integers(1, 2))):
        *parents, key = data.draw(st.sampled_from(key_paths(config)))
        block = config
        for parent in parents:
            block = block[parent]
        change = data.draw(st.sampled_from(["replace", "number", "delete", "add"]))
        if change == "replace":
            block[key] = data.draw(VALUES)
        elif change == "number":
            block[key] = data.draw(NEARLY_RIGHT)
        elif change == "delete":
            del block[key]
        elif isinstance(block, dict):
            block[data.draw(KEYS)] = data.draw(VALUES)
        else:
            block.append(data.draw(VALUES))
    try:
        check(config, SCHEMA)
        all_runs = list(runs(config))
    except ConfigError as error:
        if not str(error).strip():
            raise AssertionError("an answer without words") from error
        return
    assert [Run.from_path(run.path) for run in all_runs] == all_runs


def test_the_paper_has_3_pretrainings_36_finetunings_and_3_trainings_from_scratch() -> None:
    kinds = [run.kind for run in runs(CONFIG)]
    assert kinds == ["pretrain"] * 3 + ["finetune"] * 36 + ["scratch"] * 3


def test_two_seeds_double_the_runs() -> None:
    config = changed({"seeds": [0, 1]})
    assert len(list(runs(config))) == 2 * len(list(runs(CONFIG)))
    assert {run for run in runs(config) if run.seed == 0} == set(runs(CONFIG))


def test_a_runs_path_is_unique_and_gives_the_run_back() -> None:
    all_runs = list(runs(changed({"seeds": [0, 7, 4294967295]})))
    assert len({run.path for run in all_runs}) == len(all_runs)
    assert [Run.from_path(run.path) for run in all_runs] == all_runs


def changed(changes: dict[Any, Any]) -> dict[Any, Any]:
    """config.yaml with other values at dotted keys; MISSING deletes."""
    config = copy.deepcopy(CONFIG)
    for path, value in changes.items():
        *parents, key = path.split(".") if isinstance(path, str) else [path]
        block = config
        for parent in parents:
            block = block[parent]
        if value is MISSING:
            del block[key]
        else:
            block[key] = value
    return config


def problems(config: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        check(config, SCHEMA)
    return str(caught.value)


def key_paths(block: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in nested dictionaries and lists."""
    items = block.items() if isinstance(block, dict) else enumerate(block) if isinstance(block, list) else ()
    return [found for key, value in items for found in [(*path, key), *key_paths(value, (*path, key))]]


def leaves(block: dict[str, Any], path: str = "") -> Iterator[str]:
    for key, value in block.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, dict) and name not in ("experts.options",) and not name.endswith(".reference"):
            yield from leaves(value, name)
        else:
            yield name


def test_the_table_of_keys_lists_every_key_and_no_other() -> None:
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    expected = {re.sub(r"^environments\.\w+", "environments.*", name) for name in leaves(config)}
    table = re.findall(r"^\| `([\w.*]+)` \|", (ROOT / "config/README.md").read_text().split("## Keys")[1], re.MULTILINE)
    assert set(table) == expected | OPTIONAL
    assert len(table) == len(set(table))


def test_every_key_of_the_configuration_has_a_comment() -> None:
    lines = (ROOT / "config.yaml").read_text().splitlines()
    names = list(leaves(yaml.safe_load("\n".join(lines))))
    known = {name.split(".")[-1] for name in names if not re.match(r"environments\.(?!halfcheetah)", name)}
    uncommented = set(known)
    for line in lines:
        key = line.strip().split(":")[0]
        if key in uncommented and "#" in line:
            uncommented.remove(key)
    assert uncommented == set()
