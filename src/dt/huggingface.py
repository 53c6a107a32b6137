"""Policies to and from the folders of `transformers.DecisionTransformerModel`, which is not needed for it.

Both models compute the same (tests/test_model.py), so only names change, and GPT-2's linear maps are transposed. Two of
GPT-2's parts are missing here: its position embedding, of which that model uses row 0 alone, a constant that belongs to
the bias of the embeddings' norm; and the causal mask, which is none of its weights.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dt.broken import reading, refuse_pickle
from dt.data import Normalisation
from dt.files import WriteError, share, sync, unfinished_path
from dt.model import ACTIVATIONS, Architecture, DecisionTransformer
from dt.policy import Policy, PolicyError, Task, check_numbers, described, description_of

log = logging.getLogger(__name__)

CONFIG, WEIGHTS, DESCRIPTION, CARD = "config.json", "model.safetensors", "dt.json", "README.md"
INDEX = f"{WEIGHTS}.index.json"  # says which files hold the weights, if they are several
POSITIONS = 1024  # rows of GPT-2's position embedding: as in published models
PARTS = {
    "embed_norm": "embed_ln",
    "final_norm": "encoder.ln_f",
    "predict_action": "predict_action.0",
    "attention_norm": "ln_1",
    "mlp_norm": "ln_2",
    "attention_in": "attn.c_attn",
    "attention_out": "attn.c_proj",
    "mlp_in": "mlp.c_fc",
    "mlp_out": "mlp.c_proj",
}  # those that are called otherwise there
LINEAR = ("attention_in", "attention_out", "mlp_in", "mlp_out")
POSITION_EMBEDDING, WORD_EMBEDDING = "encoder.wpe.weight", "encoder.wte.weight"
BUFFERS = re.compile(r"encoder\.h\.\d+\.attn\.(bias|masked_bias)")  # causal masks, in files of older versions
MODEL = "the configuration of a DecisionTransformerModel"
FIXED = {
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}  # what this model cannot do otherwise


def export_policy(policy: Policy, folder: Path) -> None:
    """Write a folder that `DecisionTransformerModel.from_pretrained` loads, and `import_policy` reads back to the bit.

    `dt.json` in it holds what the other model does not know: normalisation and task. Raises PolicyError if the folder
    is there and is no such export.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / DESCRIPTION).is_file():
        raise PolicyError(f"{folder} is there and is no export of a policy; name another one")
    architecture = policy.model.architecture
    weights = {name: _theirs(name, weight) for name, weight in policy.model.state_dict().items()}
    weights = {their_name(name): weight for name, weight in weights.items()}
    weights[WORD_EMBEDDING] = torch.zeros(1, architecture.width)  # of GPT-2, and never used
    weights[POSITION_EMBEDDING] = torch.zeros(max(POSITIONS, 3 * policy.task.context), architecture.width)
    description = description_of(policy, f"{folder} is not written")
    unfinished = unfinished_path(folder.resolve())
    try:
        unfinished.mkdir(parents=True)
        save_file(weights, unfinished / WEIGHTS, metadata={"format": "pt"})
        for name, content in ((CONFIG, their_config(policy)), (DESCRIPTION, description)):
            (unfinished / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        (unfinished / CARD).write_text(_card(policy), encoding="utf-8")
        for path in unfinished.iterdir():
            share(path)
            sync(path)
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.replace(folder.resolve())
    except OSError as error:
        raise WriteError(folder, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def import_policy(
    folder: Path, task: Task, stats: dict[str, Any] | None = None, reward_scale: float = 1000.0
) -> Policy:
    """The policy in a folder of `DecisionTransformerModel.save_pretrained`, or of `export_policy`.

    An export says its task and normalisation itself; other folders know neither: `task` and `reward_scale` are theirs,
    and states are not normalised unless `stats` of their data are given. Raises PolicyError if the folder is none,
    holds a pickle alone, or a model that computes something else than ours.
    """
    config, (path, weights) = _read_config(folder / CONFIG), _read_weights(folder)
    with reading(folder, "a folder of a DecisionTransformerModel", PolicyError):
        architecture = _architecture(config, folder / CONFIG)
        ours = _ours(weights, architecture, path)
        description = _described_by(folder, architecture) or {
            "architecture": asdict(architecture),
            "normalisation": asdict(_normalisation(architecture, stats, reward_scale)),
            "task": asdict(task),
        }
        policy = described(description, f"{folder} makes no policy", tensors=len(ours))
    policy.model.to_empty(device="cpu").load_state_dict(ours)
    return policy


def renamed(policy: Policy, environment: str) -> Policy:
    """The policy, as one of the environment or source that it is called in a study."""
    return replace(policy, task=replace(policy.task, environment=environment))


def their_name(name: str) -> str:
    """A parameter's name in Hugging Face's model: `encoder.h.0.ln_1.bias` for `layers.0.attention_norm.bias`."""
    *outer, part, kind = name.split(".")
    prefix = f"encoder.h.{outer[1]}." if outer else ""
    return f"{prefix}{PARTS.get(part, part)}.{kind}"


def their_config(policy: Policy) -> dict[str, Any]:
    """The fields of `DecisionTransformerConfig` that say what a policy's model is."""
    architecture = policy.model.architecture
    return {
        "architectures": ["DecisionTransformerModel"],
        "model_type": "decision_transformer",
        "state_dim": architecture.state_size,
        "act_dim": architecture.action_size,
        "hidden_size": architecture.width,
        "n_layer": architecture.layers,
        "n_head": architecture.heads,
        "n_inner": None,
        "activation_function": architecture.activation,
        "max_ep_len": architecture.max_episode_length,
        "action_tanh": architecture.action_tanh,
        "n_positions": max(POSITIONS, 3 * policy.task.context),
        "vocab_size": 1,
        "bos_token_id": None,
        "eos_token_id": None,
        **{f"{part}_pdrop": architecture.dropout for part in ("attn", "embd", "resid")},
        **FIXED,
        "torch_dtype": "float32",
    }


def _theirs(name: str, weight: Tensor) -> Tensor:
    return weight.T.contiguous() if _transposed(name) else weight.contiguous()


def _transposed(name: str) -> bool:
    return name.endswith("weight") and name.split(".")[-2] in LINEAR


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise PolicyError(f"{path} is missing, so {path.parent} is no folder of a DecisionTransformerModel")
    with reading(path, MODEL, PolicyError):
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise TypeError(f"it is {config!r:.40}")
    if config.get("model_type") != "decision_transformer":
        raise PolicyError(f"{path}: model_type is {config.get('model_type')!r:.40}; expected decision_transformer")
    return config


def _architecture(config: Mapping[str, Any], path: Path) -> Architecture:
    """Raises PolicyError if the configuration asks for what our model does not do."""
    defaults = {"n_layer": 3, "n_head": 1, "hidden_size": 128, "max_ep_len": 4096, "activation_function": "relu"}
    settings = {**defaults, "action_tanh": True, **FIXED, **config}
    for name, value in FIXED.items():
        if settings[name] != value:
            raise PolicyError(f"{path}: {name} is {settings[name]!r:.40}; supported is {value}")
    for name in ("state_dim", "act_dim", "hidden_size", "n_layer", "n_head", "max_ep_len"):
        if type(settings.get(name)) is not int or not 1 <= settings[name] < 2**31:
            raise PolicyError(f"{path}: {name} is {settings.get(name)!r:.40}; expected an integer ≥ 1")
    if settings.get("n_inner") not in (None, 4 * settings["hidden_size"]):
        raise PolicyError(f"{path}: n_inner is {settings['n_inner']!r:.40}; supported is 4 × hidden_size")
    if settings["activation_function"] not in ACTIVATIONS:
        found, allowed = settings["activation_function"], " or ".join(ACTIVATIONS)
        raise PolicyError(f"{path}: activation_function is {found!r:.40}; supported is {allowed}")
    dropout = settings.get("resid_pdrop", 0.1)
    if type(dropout) not in (int, float) or not (math.isfinite(dropout) and 0 <= dropout < 1):
        raise PolicyError(f"{path}: resid_pdrop is {dropout!r:.40}; expected 0 ≤ resid_pdrop < 1")
    if type(settings["action_tanh"]) is not bool:
        raise PolicyError(f"{path}: action_tanh is {settings['action_tanh']!r:.40}; expected true or false")
    if {settings.get("attn_pdrop", dropout), settings.get("embd_pdrop", dropout)} != {dropout}:
        log.info("%s has several rates of dropout; resid_pdrop, %s, stands for all", path, dropout)
    return Architecture(
        state_size=settings["state_dim"],
        action_size=settings["act_dim"],
        layers=settings["n_layer"],
        width=settings["hidden_size"],
        heads=settings["n_head"],
        activation=settings["activation_function"],
        dropout=float(dropout),
        max_episode_length=settings["max_ep_len"],
        action_tanh=settings["action_tanh"],
    )


def _described_by(folder: Path, architecture: Architecture) -> dict[str, Any] | None:
    """What an export says of itself; None if the folder is none."""
    path = folder / DESCRIPTION
    if not path.is_file():
        return None
    with reading(path, "the description of an exported policy", PolicyError):
        description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if Architecture(**description["architecture"]) != architecture:
            raise PolicyError(f"{path} says another architecture than {folder / CONFIG}")
    return description


def _normalisation(architecture: Architecture, stats: dict[str, Any] | None, reward_scale: float) -> Normalisation:
    if stats is None:
        return Normalisation.identity(architecture.state_size, architecture.action_size, reward_scale)
    return Normalisation.from_stats(stats, {"normalise_states": True, "normalise_actions": False}, reward_scale)


def _read_weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """All tensors of a folder, and the file to name where they do not fit: the index of several files."""
    weights, index = folder / WEIGHTS, folder / INDEX
    if weights.is_file():
        return weights, _read_tensors(weights)
    if index.is_file():
        with reading(index, "an index of weights", PolicyError):
            names = sorted(
                {Path(name).name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
            )
        for name in names:
            if not (folder / name).is_file():
                raise PolicyError(f"{folder / name} is missing, which {index} names")
        return index, {key: tensor for name in names for key, tensor in _read_tensors(folder / name).items()}
    pickles = sorted([*folder.glob("pytorch_model*.bin"), *folder.glob("*.pt")])
    if pickles:
        raise PolicyError(
            f"{pickles[0]} is a pickle, which is never opened; where you trust it, make {WEIGHTS} of it:"
            " DecisionTransformerModel.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    raise PolicyError(f"{weights} is missing, and so is {INDEX}: {folder} is no folder of a DecisionTransformerModel")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    refuse_pickle(path, "a safetensors file", PolicyError)
    with reading(path, "a safetensors file", PolicyError):
        return load_file(path)


def _ours(theirs: dict[str, Tensor], architecture: Architecture, path: Path) -> dict[str, Tensor]:
    """Raises PolicyError unless the weights are those of the architecture, and no others."""
    if architecture.layers > len(theirs):
        raise PolicyError(f"{path} has {len(theirs)} tensors; they make no {architecture.layers} layers")
    with torch.device("meta"):
        expected = DecisionTransformer(architecture).state_dict()
    names = {their_name(name): name for name in expected}
    prefix = "decision_transformer." if f"decision_transformer.{next(iter(names))}" in theirs else ""
    theirs = {name.removeprefix(prefix): weight for name, weight in theirs.items() if not BUFFERS.search(name)}
    theirs.pop(WORD_EMBEDDING, None)
    positions = theirs.pop(POSITION_EMBEDDING, None)
    for missing, problem in ((names.keys() - theirs.keys(), "lacks"), (theirs.keys() - names.keys(), "has an unknown")):
        if missing:
            raise PolicyError(f"{path} {problem} {min(missing)!r:.80} (of {len(missing)})")
    ours = {}
    for their, weight in theirs.items():
        name = names[their]
        weight = weight.T if _transposed(name) and weight.ndim == 2 else weight
        if weight.shape != expected[name].shape or not weight.is_floating_point():
            raise PolicyError(f"{path}: {their} is {weight.dtype} {list(weight.shape)}; it does not fit {CONFIG}")
        ours[name] = weight.to(torch.float32).contiguous()
    check_numbers({their: ours[name] for their, name in names.items()}, str(path))
    if positions is not None:
        if positions.ndim != 2 or not len(positions) or positions.shape[1] != architecture.width:
            raise PolicyError(f"{path}: {POSITION_EMBEDDING} is {list(positions.shape)}; it does not fit {CONFIG}")
        if positions[0].any():
            ours["embed_norm.bias"] = ours["embed_norm.bias"] + positions[0].to(torch.float32)
            check_numbers({POSITION_EMBEDDING: ours["embed_norm.bias"]}, str(path))
    return ours


def _card(policy: Policy) -> str:
    task, architecture = policy.task, policy.model.architecture
    return f"""---
library_name: transformers
tags: [decision-transformer, reinforcement-learning, {task.gymnasium}]
---
# A Decision Transformer for {task.gymnasium}
Trained by `dt` (https://arxiv.org/abs/2106.01345) on `{task.environment}`: {architecture.layers} layers of width
{architecture.width}, context of {task.context} steps.

    from transformers import DecisionTransformerModel
    model = DecisionTransformerModel.from_pretrained(FOLDER).eval()

Inputs are normalised by `{DESCRIPTION}`: states by `(x - state_mean) / state_std`, returns-to-go divided by
`reward_scale`, actions by `(a - action_mean) / action_std`, and predicted ones back. `dt import-hf` makes a policy of
this folder again.
"""
