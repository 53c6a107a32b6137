"""Policies to and from Hugging Face: its own model loads them, and what it saves becomes a policy."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import synthetic
from damage import run_program
from safetensors.torch import load_file, save_file
from test_model import SIZES, assert_close, hugging_face, window
from test_workflow import TINY, copy_of_the_workflow, planned, snakemake, write
from transformers import DecisionTransformerModel

from dt.commands import main
from dt.data import Normalisation
from dt.huggingface import export_policy, import_policy
from dt.model import Architecture, DecisionTransformer
from dt.policy import Policy, PolicyError, Task, load_policy, save_policy

POSITIONS = "encoder.wpe.weight"
TASK = Task("hopper", "Hopper-v5", {}, 1.0, 4, None)


def a_policy(size: tuple, action_tanh: bool = True) -> Policy:
    """All weights away from their initial values."""
    state, action, layers, width, heads, activation, _ = size
    architecture = Architecture(state, action, layers, width, heads, activation, 0.1, 50, action_tanh)
    model = DecisionTransformer(architecture, torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    normalisation = Normalisation((0.1,) * state, (2.0,) * state, (0.0,) * action, (1.0,) * action, 1000.0)
    return Policy(model, normalisation, Task("hopper", "Hopper-v5", {"max_episode_steps": 50}, 0.99, 4, 3000.5))


@pytest.fixture
def published(tmp_path: Path) -> tuple[DecisionTransformerModel, Path]:
    """A folder as `save_pretrained` leaves it, of a model whose position embedding is not zero."""
    torch.manual_seed(0)
    theirs = hugging_face(Architecture(11, 3, 2, 32, 1, "relu", 0.1, 50))
    theirs.save_pretrained(tmp_path / "published")
    return theirs, tmp_path / "published"


def assert_equal_outputs(ours: DecisionTransformer, theirs: DecisionTransformerModel, context: int = 4) -> None:
    torch.manual_seed(2)
    inputs = window(ours.architecture, context)
    with torch.no_grad():
        states, actions, returns = theirs.eval()(**inputs, return_dict=False)
        for actual, expected in zip(ours.eval()(**inputs), (actions, states, returns), strict=True):
            assert_close(actual, expected)


@pytest.mark.parametrize("action_tanh", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_an_exported_policy_computes_the_same_in_hugging_faces_model(
    size: tuple, action_tanh: bool, tmp_path: Path
) -> None:
    policy = a_policy(size, action_tanh)
    export_policy(policy, tmp_path / "exported")
    theirs, loading = DecisionTransformerModel.from_pretrained(tmp_path / "exported", output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), loading
    assert_equal_outputs(policy.model, theirs, size[-1])


@pytest.mark.parametrize("size", SIZES)
def test_a_round_trip_gives_the_same_bytes(size: tuple, tmp_path: Path) -> None:
    save_policy(a_policy(size), tmp_path / "policy.safetensors")
    main(["export-hf", str(tmp_path), str(tmp_path / "exported")])
    main(["import-hf", str(tmp_path / "exported"), str(tmp_path / "back.safetensors")])
    assert (tmp_path / "back.safetensors").read_bytes() == (tmp_path / "policy.safetensors").read_bytes()
    main(["export-hf", str(tmp_path / "back.safetensors"), str(tmp_path / "exported")])  # replaces an export
    assert sorted(path.name for path in (tmp_path / "exported").iterdir()) == [
        "README.md",
        "config.json",
        "dt.json",
        "model.safetensors",
    ]


def test_a_published_model_becomes_a_policy_that_computes_the_same(
    published: tuple[DecisionTransformerModel, Path], tmp_path: Path
) -> None:
    theirs, folder = published
    stats = {**synthetic(11, 3)[1]}
    (tmp_path / "stats.json").write_text(json.dumps(stats))
    options = ["--gymnasium", "Hopper-v5", "--environment", "hopper", "--context", "7", "--stats"]
    main(["import-hf", str(folder), str(tmp_path / "policy.safetensors"), *options, str(tmp_path / "stats.json")])
    policy = load_policy(tmp_path / "policy.safetensors", "hopper")
    assert_equal_outputs(policy.model, theirs)
    assert policy.task == Task("hopper", "Hopper-v5", {}, 1.0, 7, 3000.0)
    assert policy.normalisation.state_mean == tuple(stats["states"]["mean"])
    assert import_policy(folder, TASK).normalisation == Normalisation.identity(11, 3, 1000.0)


def test_files_of_older_versions_are_read(published: tuple[DecisionTransformerModel, Path]) -> None:
    """With causal masks among the weights, a prefix, and half precision."""
    theirs, folder = published
    weights = load_file(folder / "model.safetensors")
    masks = {f"encoder.h.{layer}.attn.{name}": torch.ones(1, 1, 4, 4) for layer in (0, 1) for name in ("bias",)}
    old = {f"decision_transformer.{name}": weight.half() for name, weight in {**weights, **masks}.items()}
    save_file(old, folder / "model.safetensors")
    theirs.load_state_dict({name: weight.half().float() for name, weight in weights.items()})
    assert_equal_outputs(import_policy(folder, TASK).model, theirs)


@pytest.mark.parametrize("size", ["20KB", "40KB"])
def test_weights_in_several_files_are_read(
    size: str, published: tuple[DecisionTransformerModel, Path], tmp_path: Path
) -> None:
    theirs, folder = published
    theirs.save_pretrained(tmp_path / "parts", max_shard_size=size)
    assert not (tmp_path / "parts/model.safetensors").exists()
    whole, parts = (import_policy(path, TASK).model.state_dict() for path in (folder, tmp_path / "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(parts[name], weight) for name, weight in whole.items())
    missing = sorted((tmp_path / "parts").glob("model-*"))[1]
    missing.unlink()
    with pytest.raises(PolicyError, match=f"{missing} is missing, which .*index.json names"):
        import_policy(tmp_path / "parts", TASK)


@pytest.mark.parametrize("content", ["{}", "[]", '{"weight_map": {"a": 3}}', "", '{"weight_map": []}'])
def test_an_index_of_weights_that_is_none_is_named(
    content: str, published: tuple[DecisionTransformerModel, Path]
) -> None:
    (published[1] / "model.safetensors").unlink()
    (published[1] / "model.safetensors.index.json").write_text(content)
    with pytest.raises(PolicyError, match=r"index\.json is not an index of weights"):
        import_policy(published[1], TASK)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--reward-scale", "1e-40"], "reward_scale is 1e-40; expected a number from 1.2e-38 to 1e+30"),
        (["--reward-scale", "nan"], "reward_scale is nan"),
        (["--reward-scale", "-10"], "reward_scale is -10.0"),
        (["--reward-scale", "1e31"], "reward_scale is 1e+31"),
        (["--context", "0"], "context is 0; expected an integer ≥ 1"),
        (["--context", "51"], "context is 51, beyond its 50 time steps"),
    ],
)
def test_what_is_told_of_a_folder_is_checked(
    arguments: list[str],
    reason: str,
    published: tuple[DecisionTransformerModel, Path],
    tmp_path: Path,
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["import-hf", str(published[1]), str(tmp_path / "policy.safetensors"), *arguments])
    assert f"{published[1]} makes no policy: {reason}" in str(end.value)
    assert not (tmp_path / "policy.safetensors").exists()


def configured(**change: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | change))

    return apply


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04anything")


def weights_changed(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def filled(name: str, value: float) -> Callable[[Path], None]:
    """One number of a tensor is another; in float64, which holds more than float32."""

    def change(weights: dict[str, torch.Tensor]) -> None:
        weights[name] = weights[name].double()
        weights[name][0] = value

    return weights_changed(change)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (as_pickle, "pytorch_model.bin is a pickle, which is never opened"),
        (without("model.safetensors"), "model.safetensors is missing"),
        (without("config.json"), "config.json is missing"),
        (lambda folder: (folder / "config.json").write_text("[]"), "TypeError: it is []"),
        (lambda folder: (folder / "config.json").write_text("{"), "JSONDecodeError"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x00" * 20), "is not a safetensors file"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"PK\x03\x04"), "pickle or a zip archive"),
        (configured(model_type="gpt2"), "model_type is 'gpt2'; expected decision_transformer"),
        (configured(n_inner=7), "n_inner is 7; supported is 4 × hidden_size"),
        (configured(activation_function="tanh"), "activation_function is 'tanh'; supported is relu or gelu"),
        (configured(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx is True; supported is"),
        (configured(hidden_size="128"), "hidden_size is '128'; expected an integer ≥ 1"),
        (configured(hidden_size=10**12), "expected an integer ≥ 1"),
        (configured(n_layer=10**9), "they make no 1000000000 layers"),
        (configured(hidden_size=64), "it does not fit config.json"),
        (configured(resid_pdrop=2.0), "resid_pdrop is 2.0"),
        (configured(action_tanh="false"), "action_tanh is 'false'; expected true or false"),
        (configured(activation_function=["relu"]), "TypeError: unhashable"),
        (configured(attn_pdrop=[0.1]), "TypeError: unhashable"),
        (configured(n_head=3), "makes no policy: it has no 2 layers of width 32 and 3 heads"),
        (filled("embed_state.bias", float("nan")), "embed_state.bias holds values that are not finite"),
        (filled("encoder.h.1.mlp.c_proj.weight", float("-inf")), "mlp.c_proj.weight holds values that are not finite"),
        (filled("predict_return.weight", 1e200), "predict_return.weight holds values that are not finite"),
        (filled(POSITIONS, float("nan")), "encoder.wpe.weight holds values that are not finite"),
        (weights_changed(lambda weights: weights.update({POSITIONS: torch.ones(1024, 31)})), "it does not fit config"),
        (weights_changed(lambda weights: weights.update({POSITIONS: torch.ones(0, 32)})), "it does not fit config"),
        (weights_changed(lambda weights: weights.pop("embed_ln.weight")), "lacks 'embed_ln.weight'"),
        (weights_changed(lambda weights: weights.update(other=torch.ones(1))), "has an unknown 'other'"),
    ],
)
def test_a_folder_that_is_no_such_model_is_answered_in_a_sentence(
    damage: Callable[[Path], Any],
    reason: str,
    published: tuple[DecisionTransformerModel, Path],
    capsys: pytest.CaptureFixture,
    tmp_path: Path,
) -> None:
    damage(published[1])
    with pytest.raises(SystemExit) as end:
        main(["import-hf", str(published[1]), str(tmp_path / "policy.safetensors")])
    assert reason in str(end.value)
    assert str(published[1]) in str(end.value)
    assert not (tmp_path / "policy.safetensors").exists()


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("mine")
    with pytest.raises(PolicyError, match="is there and is no export of a policy"):
        export_policy(a_policy(SIZES[2]), tmp_path / "thesis")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"activation": "gelu"}, "has model.activation relu, but gelu is asked for"),
        ({"action_tanh": False}, "has action_tanh True, but False is asked for"),
        ({"heads": 2}, "has model.heads 1, but 2 is asked for"),
        ({}, None),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "parts", "policy"])
def test_a_source_that_computes_another_function_is_not_imported(
    kind: str,
    asked: dict[str, Any],
    reason: str | None,
    published: tuple[DecisionTransformerModel, Path],
    tmp_path: Path,
) -> None:
    theirs, checkpoint = published
    if kind == "parts":
        checkpoint = tmp_path / "parts"
        theirs.save_pretrained(checkpoint, max_shard_size="20KB")
    if kind == "policy":
        checkpoint = tmp_path / "policy.safetensors"
        save_policy(import_policy(published[1], TASK), checkpoint)
    settings = {"layers": 2, "width": 32, "heads": 1, "activation": "relu", "action_tanh": True} | asked
    arguments = {"settings": json.dumps({"model": settings}), "source": "mine"}
    files = {"checkpoint": checkpoint, "policy": tmp_path / "mine/policy.safetensors"}
    answer = run_program("import_policy", [f"--{name}={value}" for name, value in (arguments | files).items()])
    assert (answer is None) if reason is None else (reason in (answer or ""))
    assert files["policy"].exists() == (reason is None)


def test_a_study_fine_tunes_a_published_model_and_a_policy_file(tmp_path: Path) -> None:
    """Two imported sources and no pre-training; a checkpoint that does not fit stops before any training."""
    copy_of_the_workflow(tmp_path)
    torch.manual_seed(0)
    hugging_face(Architecture(11, 3, 2, 32, 1, "relu", 0.1, 1000)).save_pretrained(tmp_path / "published")
    save_policy(a_policy((17, 6, 2, 32, 1, "relu", 5)), tmp_path / "other.safetensors")
    sources = {"mine": {"checkpoint": "published", "title": "My model"}, "other": {"checkpoint": "other.safetensors"}}
    changed = TINY | {"sources": sources, "targets": ["hopper"], "strategies": ["unfreeze1"]}
    config = write(tmp_path, changed, "imported.yaml")
    missing = changed | {"sources": {"mine": {"checkpoint": "nothing"}}}
    answer = snakemake(tmp_path, "-n", "--configfile", write(tmp_path, missing), code=1)
    assert "sources.mine.checkpoint: nothing is no policy.safetensors" in answer
    snakemake(tmp_path, "--cores", "2", "--configfile", config)
    table = pd.read_csv(tmp_path / "results/tables/summary.csv", keep_default_na=False)
    assert table[["kind", "source"]].to_numpy().tolist() == [
        ["finetune", "mine"],
        ["finetune", "other"],
        ["scratch", ""],
    ]
    assert (tmp_path / "results/figures/fig2.png").exists()
    ours = load_policy(tmp_path / "results/policies/import/mine/policy.safetensors", "mine").model
    assert_equal_outputs(ours, DecisionTransformerModel.from_pretrained(tmp_path / "published"))
    assert planned(snakemake(tmp_path, "-n", "--configfile", config)) == {}
    export_policy(a_policy((11, 3, 2, 32, 1, "relu", 5)), tmp_path / "moved")
    changed["sources"]["mine"]["checkpoint"] = "moved"
    jobs = planned(snakemake(tmp_path, "-n", "--configfile", write(tmp_path, changed)))
    assert jobs == {"import_policy": 1, "finetune": 1, "evaluate": 1, "tables": 1, "figures": 1}
    changed["model"] = {"layers": 1, "width": 32, "context": 5}
    answer = snakemake(tmp_path, "--cores", "1", "--configfile", write(tmp_path, changed), code=1)
    assert "has model.layers 2, but 1 is asked for" in answer
    assert "Traceback" not in answer


@pytest.mark.parametrize(("mask", "mode"), [(0o002, 0o664), (0o022, 0o644), (0o077, 0o600), (0o027, 0o640)])
def test_an_export_and_a_policy_are_readable_and_writable_by_whom_the_umask_lets(
    mask: int, mode: int, tmp_path: Path
) -> None:
    policy, before = a_policy(SIZES[0]), os.umask(mask)
    try:
        export_policy(policy, tmp_path / "export")
        main(["import-hf", str(tmp_path / "export"), str(tmp_path / "export/policy.safetensors")])
    finally:
        os.umask(before)
    found = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "export").iterdir()}
    assert len(found) == 5
    assert set(found.values()) == {mode}
    assert (tmp_path / "export").stat().st_mode & 0o777 == 0o777 & ~mask
