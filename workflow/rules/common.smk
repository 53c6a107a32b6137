# Needs: config. Makes: the checked configuration, names and functions that the other rule files use.
import json
import os
import re
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config

from dt.config import ConfigError, check, plain
from dt.fingerprint import fingerprint
from dt.runs import Run, runs

os.environ.update(DT_SNAKEMAKE_PID=str(os.getpid()))  # jobs that outlive this process leave its outputs alone
# Programs run with the Python that runs Snakemake, also in a cluster's jobs, which activate no environment.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]))

SCHEMA = Path(workflow.basedir) / "workflow/schemas/config.schema.yaml"

update_config(config, plain(workflow.config_settings.config))
try:
    check(config, yaml.safe_load(SCHEMA.read_text()))
except ConfigError as error:
    raise WorkflowError(f"The configuration is wrong:\n{error}") from None

RESULTS = config["results"]
RUNS = list(runs(config))
TABLES = ["returns", "training", "summary"]
ARRAYS = ["states", "actions", "returns_to_go", "starts"]


def one_of(names):
    """A wildcard constraint that matches these names only."""
    return "|".join(re.escape(str(name)) for name in names)


def any_run(config):
    """A wildcard constraint that matches the paths of the study's runs; a list of them all would be slow to search."""
    source, target, strategy, seed = (one_of(config[key]) for key in ("sources", "targets", "strategies", "seeds"))
    arms = f"pretrain/({source})|finetune/({source})/({target})/({strategy})|scratch/({target})"
    return f"({arms})/seed({seed})"


def refuse_unwritable(folder):
    """Stop before any job if nothing can be written below a folder."""
    place = next(part for part in (folder.absolute(), *folder.absolute().parents) if part.exists())
    if not os.access(place, os.W_OK):
        raise WorkflowError(f"{place} cannot be written; make it writable, or name another folder with `results`")


@cache
def code(script):
    """A parameter that changes when the code of a program in workflow/scripts does."""
    return fingerprint(Path(workflow.basedir) / f"workflow/scripts/{script}.py")


def growing(amount):
    """A resource of which every retry asks for that much more."""
    return lambda wildcards, attempt: amount * attempt


def settings(**blocks):
    """A rule's part of the configuration as JSON: one parameter, so that any change in it, and no other, reruns."""
    return json.dumps(blocks, sort_keys=True)


def environment_settings(name, *keys):
    """The given keys of an environment's entry, where it has them."""
    return {key: config["environments"][name][key] for key in keys if key in config["environments"][name]}


def dataset_settings(wildcards):
    """What a dataset depends on."""
    experts = config["data"]["source"] == "experts"
    keys = ("gymnasium", "action_noise") if experts else ("minari",)
    block = {"environment": environment_settings(wildcards.environment, *keys)}
    return settings(**block, trajectories=config["data"]["trajectories"]) if experts else settings(**block)


def stats_settings(wildcards):
    """What arrays and statistics depend on besides the dataset; `gymnasium` is what the data are checked against."""
    gymnasium = environment_settings(wildcards.environment, "gymnasium")
    return settings(trajectories=config["data"]["trajectories"], gamma=config["data"]["gamma"], **gymnasium)


def train_settings(name):
    """What training on the environment `name` depends on."""
    keys = ("gymnasium", "reward_scale")
    data = {key: value for key, value in config["data"].items() if key not in ("source", "trajectories")}
    training = {key: value for key, value in config["training"].items() if "epochs" not in key}
    return settings(
        environments={name: environment_settings(name, *keys)},
        data=data,
        model=config["model"],
        training=training,
        evaluation={"every": config["evaluation"]["every"]},
        device=config["device"],
        precision=config["precision"],
    )


def evaluation_settings(wildcards):
    """What an evaluation depends on besides the policy."""
    environment = Run.from_path(wildcards.run).environment
    keys = environment_settings(environment, "target_return", "reference")
    machine = {key: config[key] for key in ("device", "precision")}
    return settings(episodes=config["evaluation"]["episodes"], **machine, **keys)


def expert_state(wildcards):
    """Where a stopped training lies: another folder for other settings, but for the number of steps."""
    recipe = {key: value for key, value in config["experts"].items() if key != "steps"}
    gymnasium = environment_settings(wildcards.environment, "gymnasium")
    digest = sha256(settings(recipe=recipe, **gymnasium).encode()).hexdigest()[:8]
    return f"{RESULTS}/experts/state/{wildcards.environment}-{digest}"


def figure_settings(wildcards):
    """What a figure depends on besides the evaluations."""
    titles = {target: environment_settings(target, "title") for target in config["targets"]}
    shared = {key: config[key] for key in ("targets", "strategies")}
    intervals = {key: config["report"][key] for key in ("confidence", "resamples")}
    return settings(environments=titles, report=intervals, **shared)


def figure_runs(wildcards):
    """The runs that a figure shows: fine-tunings of one source, and scratch."""
    source = config["sources"][int(wildcards.figure) - 1]
    return [run.path for run in RUNS if run.kind == "scratch" or (run.kind == "finetune" and run.source == source)]


def run_json(kind, seed, source="", target="", strategy=""):
    """A run's identity, as the scripts take it."""
    return json.dumps(Run(kind, source, target, strategy, int(seed)))
