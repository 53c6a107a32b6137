# Needs: tables, policies, and OpenGL without a screen. Makes: a film per target; never needed by `rule all`.


rule films:
    input:
        expand(f"{RESULTS}/films/{{target}}.gif", target=config["targets"]),


rule film:
    input:
        summary=f"{RESULTS}/tables/summary.csv",
        policies=lambda wildcards: [
            f"{RESULTS}/policies/{run.path}/policy.safetensors" for run in finetunings(wildcards.target)
        ],
        redo=lambda wildcards: redo(
            f"{PLACE}/films/{wildcards.target}.gif",
            f"{PLACE}/films/{wildcards.target}.provenance.json",
            "films",
            film_settings(wildcards),
        ),
    output:
        film=report(
            f"{RESULTS}/films/{{target}}.gif",
            category="Films",
            labels=lambda wildcards: {"target": title(wildcards.target)},
            caption="../report/films.rst",
        ),
        provenance=f"{RESULTS}/films/{{target}}.provenance.json",
    log:
        f"{RESULTS}/logs/films/{{target}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/films/{{target}}.tsv"
    conda:
        "../envs/dt.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code("films"),
        settings=film_settings,
        script=script("films"),
        results=subpath(output.film, ancestor=2),
    message:
        "Film of {wildcards.target}"
    shell:
        "python {params.script:q} --target {wildcards.target:q} --settings {params.settings:q}"
        " --results {params.results:q} --film {output.film:q} --provenance {output.provenance:q} > {log:q} 2>&1"
