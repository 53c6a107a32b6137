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

from dt.config import ConfigError, check, check_files, complete, layered, plain
from dt.existing import NoDatasetError, find, identity
from dt.files import checksum
from dt.fingerprint import fingerprint
from dt.outside import made_of
from dt.provenance import says
from dt.runs import Run, runs, unfrozen_layers

os.environ.update(DT_SNAKEMAKE_PID=str(os.getpid()))  # jobs that outlive this process leave its outputs alone
if workflow.remote_exec:
    os.environ.update(DT_SENT_TO_CLUSTER="1")  # the cluster has chosen the job's GPU
# Programs run with the Python that runs Snakemake, also in a cluster's jobs, which activate no environment.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]))

if not isinstance(workflow.current_basedir, os.PathLike):  # a file of a git repository that Snakemake reads itself
    raise WorkflowError(
        "A module cannot be imported from git or GitHub directly: its programs and their package have to lie on this"
        " machine, at one commit; clone the repository, `pip install` the clone, and let `snakefile` be the path of its"
        " workflow/Snakefile"
    )
ROOT = Path(workflow.current_basedir).parents[1]  # where the workflow lies; results go below the working directory
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"

try:
    check_files([ROOT / "config.yaml", *workflow.configfiles])
    given, config = config, load_configfile(ROOT / "config.yaml")
    layers = [given]
    if workflow.modifier.is_main_snakefile():  # a `module` is configured by who imports it
        layers.append(plain(workflow.config_settings.config))
    config = layered(config, layers)
    check(config, yaml.safe_load(SCHEMA.read_text(encoding="utf-8")))
    complete(config)
except ConfigError as error:
    raise WorkflowError(f"The configuration is wrong:\n{error}") from None

RESULTS = config["results"]
RUNS = list(runs(config))
STUDY = ("sources", "imported", "targets", "strategies", "seeds")  # what runs there are
TRAINED = [source for source in config["sources"] if source not in config["imported"]]
CHECKPOINT_FILES = ["policy.safetensors", "config.json", "model.safetensors", "dt.json", "pytorch_model.bin"]
CHECKPOINT_PARTS = "model*.safetensors*"  # of weights in several files, and their index
TABLES = ["returns", "training", "summary"]
ARRAYS = ["states", "actions", "returns_to_go", "starts"]
PLACE = str(workflow.modifier.modify_path(RESULTS))  # with the prefix of a `module`: for what is no input or output


def one_of(names):
    """A wildcard constraint that matches these names only."""
    return "|".join(re.escape(str(name)) for name in names)


def any_run(config):
    """A wildcard constraint that matches the paths of the study's runs; a list of them all would be slow to search."""
    source, target, strategy, seed = (one_of(config[key]) for key in ("sources", "targets", "strategies", "seeds"))
    arms = f"pretrain/({one_of(TRAINED)})|finetune/({source})/({target})/({strategy})|scratch/({target})"
    return f"({arms})/seed({seed})"


def refuse_unwritable(folder):
    """Stop before any job if nothing can be written below a folder."""
    place = next(part for part in (folder.absolute(), *folder.absolute().parents) if part.exists())
    if not os.access(place, os.W_OK):
        raise WorkflowError(f"{place} cannot be written; make it writable, or name another folder with `results`")


def used_environments():
    """Those that the study has data of."""
    return [name for name in config["environments"] if name in config["sources"] or name in config["targets"]]


def drop_wrong_links(folder, dataset):
    """Delete links to a dataset that was moved: Snakemake stops at dead ones. If needed, the right ones are made.

    `dataset` is where the configuration says that it lies, None if it does not.
    """
    for path in folder.glob("data/*"):
        if path.is_symlink() and not (
            path.exists() and (dataset is None or path.samefile(dataset / "data" / path.name))
        ):
            path.unlink()


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


def snapshots(folder):
    """The snapshots of a run that nothing is trained from: gone once they are evaluated, unless they shall be kept."""
    path = f"{folder}/snapshots.safetensors"
    return path if config["evaluation"]["keep_snapshots"] else temp(path)


def growing(amount):
    """A resource of which every retry asks for that much more."""
    return lambda wildcards, attempt: amount * attempt


def figure_source(wildcards):
    """The environment whose pre-trainings a figure shows."""
    return config["sources"][int(wildcards.figure) - 1]


def figure_runs(wildcards):
    """The runs that a figure shows: fine-tunings of one source, and scratch."""
    source = figure_source(wildcards)
    return [run.path for run in RUNS if run.kind == "scratch" or (run.kind == "finetune" and run.source == source)]


def finetunings(target):
    """The fine-tunings on one target that a film may show: those of the first seed."""
    seed = config["seeds"][0]
    return [run for run in RUNS if run.kind == "finetune" and run.target == target and run.seed == seed]


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


def title(name):
    """An environment's name for readers, or that of an imported source."""
    return (config["environments"].get(name) or config["imported"][name])["title"]


def source_policy(wildcards):
    """What a fine-tuning starts from."""
    imported = wildcards.source in config["imported"]
    folder = "import/{source}" if imported else "pretrain/{source}/seed{seed}"
    return f"{RESULTS}/policies/{folder}/policy.safetensors".format(**wildcards)


def checkpoint_files(wildcards):
    """Of an imported source: its inputs, so that other weights run the rule again."""
    path = Path(config["imported"][wildcards.source]["checkpoint"])
    named = [path] if path.is_file() else [path / name for name in CHECKPOINT_FILES]
    parts = sorted(path.glob(CHECKPOINT_PARTS))
    found = [str(file) for file in dict.fromkeys([*named, *parts]) if file.is_file()]
    if not found:
        raise WorkflowError(
            f"sources.{wildcards.source}.checkpoint: {path} is no policy.safetensors, and no folder with"
            f" {' or '.join(CHECKPOINT_FILES)}"
        )
    return found


def run_json(kind, seed, source="", target="", strategy=""):
    """A run's identity, as the scripts take it."""
    return json.dumps(Run(kind, source, target, strategy, int(seed)))


def failed_logs(snakemake_logs):
    """The logs of failed jobs, as Snakemake's own log names them."""
    text = "\n".join(Path(path).read_text(encoding="utf-8", errors="replace") for path in snakemake_logs)
    return dict.fromkeys(re.findall(r"^ *log: (\S+) \(check log", text, re.MULTILINE))


def last_line(path):
    """Of a log; what a program that failed said."""
    lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n") if Path(path).exists() else []
    return next((line for line in reversed(lines) if line.strip()), "(empty)")
