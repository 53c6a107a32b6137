# Needs: config. Makes: the checked configuration, names and functions that the other rule files use.
import json
import os
import re
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path

import yaml
from snakemake.common.configfile import load_configfile
from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config

from dt.config import ConfigError, check, check_files, plain
from dt.fingerprint import fingerprint
from dt.provenance import checksum, says
from dt.runs import Run, runs, unfrozen_layers

os.environ.update(DT_SNAKEMAKE_PID=str(os.getpid()))  # jobs that outlive this process leave its outputs alone
# Programs run with the Python that runs Snakemake, also in a cluster's jobs, which activate no environment.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]))

ROOT = Path(workflow.current_basedir).parents[1]  # where the workflow lies; results go below the working directory
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"

try:
    check_files([ROOT / "config.yaml", *workflow.configfiles])
    given, config = config, load_configfile(ROOT / "config.yaml")
    update_config(config, given)
    if workflow.modifier.is_main_snakefile():  # a `module` is configured by who imports it
        update_config(config, plain(workflow.config_settings.config))
    check(config, yaml.safe_load(SCHEMA.read_text()))
except ConfigError as error:
    raise WorkflowError(f"The configuration is wrong:\n{error}") from None

RESULTS = config["results"]
RUNS = list(runs(config))
STUDY = ("sources", "targets", "strategies", "seeds")  # what runs there are
TABLES = ["returns", "training", "summary"]
ARRAYS = ["states", "actions", "returns_to_go", "starts"]
PLACE = str(workflow.modifier.modify_path(RESULTS))  # with the prefix of a `module`: for what is no input or output


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
    return fingerprint(ROOT / f"workflow/scripts/{script}.py")


def script(name):
    """The path of a program in workflow/scripts.

    As a function of `output` it reruns nothing where the workflow lies elsewhere: Snakemake compares no such parameters.
    """
    path = ROOT / f"workflow/scripts/{name}.py"
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return lambda wildcards, output: str(shown)


def redo(result, provenance, name, blocks, **expected):
    """No input; but if `result` is there, and its record does not say this code and these settings, the job runs.

    So nothing goes stale where Snakemake's own records are lost, or code was changed and changed back during a run.
    """
    asked = {"CODE", "PARAMS"} <= {trigger.name for trigger in workflow.rerun_triggers}
    expected |= {"code": code(name), "settings": json.loads(blocks)}
    if asked and Path(result).exists() and not says(Path(provenance), **expected):
        workflow.dag.forcefiles.add(provenance)
    return []


def redo_training(kind):
    """`redo` as an input function of the rule of these trainings."""

    def function(wildcards):
        run = Run(kind, *(wildcards.get(key, "") for key in ("source", "target", "strategy")), int(wildcards.seed))
        folder = f"{PLACE}/policies/{run.path}"
        epochs = config["training"]["pretrain_epochs" if kind == "pretrain" else "epochs"]
        blocks = train_settings(run.environment)
        return redo(f"{folder}/policy.safetensors", f"{folder}/provenance.json", "train", blocks, epochs=epochs)

    return function


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
    if experts:
        block |= {"trajectories": config["data"]["trajectories"], "actor": actor_checksums(wildcards.environment)}
    return settings(**block)


def actor_option(wildcards, output):
    """The expert to roll out, if data are made here."""
    experts = config["data"]["source"] == "experts"
    return ["--actor", str(ROOT / f"resources/experts/{wildcards.environment}.safetensors")] if experts else []


@cache
def actor_checksums(environment):
    """Of an expert and its card. They are no input files: where they lie, and how old they are, does not matter."""
    try:
        return {
            suffix: checksum(ROOT / f"resources/experts/{environment}{suffix}") for suffix in (".safetensors", ".json")
        }
    except OSError as error:
        raise WorkflowError(f"There is no expert for {environment}: {error}") from None


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
    return f"{PLACE}/experts/state/{wildcards.environment}-{digest}"


def table_settings():
    """What the tables depend on besides the runs' own."""
    return settings(report=config["report"], study={key: config[key] for key in STUDY})


def figure_settings(wildcards):
    """What a figure depends on besides the evaluations."""
    titles = {target: environment_settings(target, "title") for target in config["targets"]}
    shared = {key: config[key] for key in STUDY if key != "sources"}
    intervals = {key: config["report"][key] for key in ("confidence", "resamples")}
    return settings(environments=titles, report=intervals, source=figure_source(wildcards), **shared)


def figure_source(wildcards):
    """The environment whose pre-trainings a figure shows."""
    return config["sources"][int(wildcards.figure) - 1]


def figure_runs(wildcards):
    """The runs that a figure shows: fine-tunings of one source, and scratch."""
    source = figure_source(wildcards)
    return [run.path for run in RUNS if run.kind == "scratch" or (run.kind == "finetune" and run.source == source)]


def figure_labels(wildcards, bitmap):
    """What the report says of a figure beside its caption. It shows that one of two files whose label is `yes` first."""
    return {
        "figure": wildcards.figure,
        "source": title(figure_source(wildcards)),
        "targets": ", ".join(map(title, config["targets"])),
        "strategies": f"unfreeze{', '.join(str(unfrozen_layers(strategy)) for strategy in config['strategies'])}",
        "bitmap": bitmap,
    }


def run_labels(wildcards):
    """What the report says of a run beside its caption."""
    run = Run.from_path(wildcards.run)
    return {
        "kind": run.kind,
        "source": title(run.source) if run.source else "–",
        "target": title(run.target) if run.target else "–",
        "strategy": run.strategy or "–",
        "seed": str(run.seed),
    }


def title(environment):
    """An environment's name for readers."""
    return config["environments"][environment]["title"]


def run_json(kind, seed, source="", target="", strategy=""):
    """A run's identity, as the scripts take it."""
    return json.dumps(Run(kind, source, target, strategy, int(seed)))


def failed_logs(snakemake_logs):
    """The logs of failed jobs, as Snakemake's own log names them."""
    text = "\n".join(Path(path).read_text(errors="replace") for path in snakemake_logs)
    return dict.fromkeys(re.findall(r"^ *log: (\S+) \(check log", text, re.MULTILINE))


def last_line(path):
    """Of a log; what a program that failed said."""
    lines = Path(path).read_text(errors="replace").split("\n") if Path(path).exists() else []
    return next((line for line in reversed(lines) if line.strip()), "(empty)")
