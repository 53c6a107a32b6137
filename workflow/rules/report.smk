# Needs: evaluations and training tables, statistics for reference returns. Makes: the tables and figures 1–3.


rule tables:
    input:
        evaluations=expand(
            f"{RESULTS}/evaluations/{{run}}/returns.csv",
            run=[run.path for run in RUNS],
        ),
        training=expand(f"{RESULTS}/policies/{{run}}/training.csv", run=[run.path for run in RUNS]),
        stats=derived_references(),
        redo=lambda wildcards: redo(
            f"{PLACE}/tables/{TABLES[0]}.csv",
            f"{PLACE}/tables/provenance.json",
            "tables",
            table_settings(),
        ),
    output:
        returns=report(
            f"{RESULTS}/tables/returns.csv",
            category="Tables",
            labels={"table": "returns", "a row for": "every evaluation episode"},
            caption="../report/returns.rst",
        ),
        training=report(
            f"{RESULTS}/tables/training.csv",
            category="Tables",
            labels={"table": "training", "a row for": "every run and evaluation point"},
            caption="../report/training.rst",
        ),
        summary=report(
            f"{RESULTS}/tables/summary.csv",
            category="Tables",
            labels={"table": "summary", "a row for": "every arm"},
            caption="../report/summary.rst",
        ),
        page=report(
            f"{RESULTS}/tables/summary.html",
            category="Tables",
            labels={"table": "summary, to read", "a row for": "every arm"},
            caption="../report/summary.rst",
        ),
        provenance=f"{RESULTS}/tables/provenance.json",
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
        settings=table_settings(),
        script=script("tables"),
        results=subpath(output.provenance, ancestor=2),
        tables=subpath(output.provenance, parent=True),
    message:
        "Tables"
    shell:
        "python {params.script:q} --settings {params.settings:q} --results {params.results:q}"
        " --tables {params.tables:q} --provenance {output.provenance:q} > {log:q} 2>&1"


rule figures:
    input:
        returns=lambda wildcards: expand(f"{RESULTS}/evaluations/{{run}}/returns.csv", run=figure_runs(wildcards)),
        redo=lambda wildcards: redo(
            f"{PLACE}/figures/fig{wildcards.figure}.png",
            f"{PLACE}/figures/fig{wildcards.figure}.provenance.json",
            "figures",
            figure_settings(wildcards),
        ),
    output:
        png=report(
            f"{RESULTS}/figures/fig{{figure}}.png",
            category="Figures",
            labels=lambda wildcards: figure_labels(wildcards, bitmap="yes"),
            caption="../report/figures.rst",
        ),
        pdf=report(
            f"{RESULTS}/figures/fig{{figure}}.pdf",
            category="Figures",
            labels=lambda wildcards: figure_labels(wildcards, bitmap="no"),
            caption="../report/figures.rst",
        ),
        provenance=f"{RESULTS}/figures/fig{{figure}}.provenance.json",
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
        script=script("figures"),
        results=subpath(output.provenance, ancestor=2),
    message:
        "Figure {wildcards.figure}"
    shell:
        "python {params.script:q} --settings {params.settings:q} --results {params.results:q}"
        " --figures {output.png:q} {output.pdf:q} --provenance {output.provenance:q} > {log:q} 2>&1"
