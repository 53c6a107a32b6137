# The DAG's top: configuration, schema check, rules, and what `snakemake` makes by default.
from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from dt.config import ConfigError, check_files

min_version("9.0")
try:
    check_files(["config.yaml", *workflow.configfiles])
except ConfigError as error:
    raise WorkflowError(f"The configuration is wrong:\n{error}") from None


configfile: "config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/experts.smk"


report: "workflow/report/workflow.rst"


# seconds each: on a cluster they run where Snakemake does
localrules:
    all,
    experts,
    tables,
    figures,


wildcard_constraints:
    environment=one_of(config["environments"]),
    source=one_of(config["sources"]),
    target=one_of(config["targets"]),
    strategy=one_of(config["strategies"]),
    seed=one_of(config["seeds"]),
    figure=one_of(range(1, len(config["sources"]) + 1)),
    run=any_run(config),


onstart:
    refuse_unwritable(Path(RESULTS))  # Snakemake itself answers with a traceback


rule all:
    default_target: True
    input:
        expand(f"{RESULTS}/tables/{{table}}.csv", table=TABLES),
        expand(
            f"{RESULTS}/figures/fig{{figure}}.{{format}}",
            figure=range(1, len(config["sources"]) + 1),
            format=["png", "pdf"],
        ),
