# The DAG's top: configuration, schema check, rules, and what `snakemake` makes by default.
from snakemake.utils import min_version

min_version("9.0")


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
    run=one_of(run.path for run in RUNS),


rule all:
    default_target: True
    input:
        expand(f"{RESULTS}/tables/{{table}}.csv", table=TABLES),
        expand(
            f"{RESULTS}/figures/fig{{figure}}.{{format}}",
            figure=range(1, len(config["sources"]) + 1),
            format=["png", "pdf"],
        ),
