# Needs: evaluations and training tables. Makes: the tables and figures 1–3.


rule tables:
    input:
        evaluations=expand(
            f"{RESULTS}/evaluations/{{run}}/returns.csv",
            run=[run.path for run in RUNS],
        ),
        training=expand(f"{RESULTS}/policies/{{run}}/training.csv", run=[run.path for run in RUNS]),
    output:
        report(
            expand(f"{RESULTS}/tables/{{table}}.csv", table=TABLES),
            category="Tables",
            caption="../report/tables.rst",
        ),
    log:
        f"{RESULTS}/logs/tables.log",
    benchmark:
        f"{RESULTS}/benchmarks/tables.tsv"
    conda:
        "../envs/dt.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(10),
    params:
        code=code("tables"),
        settings=settings(**config["report"]),
        runs=[run.path for run in RUNS],
        tables=subpath(output[0], parent=True),
    message:
        "Tables"
    shell:
        "python workflow/scripts/tables.py --settings {params.settings:q} --runs {params.runs}"
        " --returns {input.evaluations} --training {input.training} --tables {params.tables} > {log} 2>&1"


rule figures:
    input:
        lambda wildcards: expand(f"{RESULTS}/evaluations/{{run}}/returns.csv", run=figure_runs(wildcards)),
    output:
        report(
            multiext(f"{RESULTS}/figures/fig{{figure}}", ".png", ".pdf"),
            category="Figures",
            caption="../report/figures.rst",
        ),
    log:
        f"{RESULTS}/logs/figures/fig{{figure}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/figures/fig{{figure}}.tsv"
    conda:
        "../envs/dt.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(10),
    params:
        code=code("figures"),
        settings=figure_settings,
        runs=figure_runs,
    message:
        "Figure {wildcards.figure}"
    shell:
        "python workflow/scripts/figures.py --settings {params.settings:q} --runs {params.runs} --returns {input}"
        " --figures {output} > {log} 2>&1"
