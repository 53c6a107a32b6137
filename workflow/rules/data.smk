# Needs: expert actors, the Minari hub, or datasets that are there. Makes: a Minari dataset per environment, its arrays.
for environment in used_environments():
    is_there = config["environments"][environment]["data"]["source"] == "path"
    folder = dataset_folder(environment) if is_there else None  # or an answer, before any job
    if workflow.is_main_process:
        drop_wrong_links(Path(f"{PLACE}/datasets/{environment}"), folder)


rule datasets:
    input:
        expert=trained_expert,
        redo=lambda wildcards: redo(
            f"{PLACE}/datasets/{wildcards.environment}/data/main_data.hdf5",
            f"{PLACE}/datasets/{wildcards.environment}.provenance.json",
            "datasets",
            dataset_settings(wildcards),
        ),
    output:
        data=f"{RESULTS}/datasets/{{environment}}/data/main_data.hdf5",
        metadata=f"{RESULTS}/datasets/{{environment}}/data/metadata.json",
        provenance=f"{RESULTS}/datasets/{{environment}}.provenance.json",
    log:
        f"{RESULTS}/logs/datasets/{{environment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/datasets/{{environment}}.tsv"
    conda:
        "../envs/dt.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        code=code("datasets"),
        settings=dataset_settings,
        script=script("datasets"),
        source=source_option,
        folder=subpath(output.data, ancestor=2),
    message:
        "Dataset: {wildcards.environment}"
    shell:
        "python {params.script:q} --environment {wildcards.environment:q} --settings {params.settings:q}"
        " {params.source:q} --folder {params.folder:q} --provenance {output.provenance:q} > {log:q} 2>&1"


rule stats:
    input:
        data=f"{RESULTS}/datasets/{{environment}}/data/main_data.hdf5",
        metadata=f"{RESULTS}/datasets/{{environment}}/data/metadata.json",
        redo=lambda wildcards: redo(
            f"{PLACE}/stats/{wildcards.environment}.json",
            f"{PLACE}/stats/{wildcards.environment}.provenance.json",
            "stats",
            stats_settings(wildcards),
        ),
    output:
        stats=f"{RESULTS}/stats/{{environment}}.json",
        arrays=expand(f"{RESULTS}/stats/{{{{environment}}}}/{{array}}.npy", array=ARRAYS),
        provenance=f"{RESULTS}/stats/{{environment}}.provenance.json",
    log:
        f"{RESULTS}/logs/stats/{{environment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/stats/{{environment}}.tsv"
    conda:
        "../envs/dt.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        code=code("stats"),
        settings=stats_settings,
        script=script("stats"),
        dataset=subpath(input.data, ancestor=2),
        asked=asked_of_data,
        arrays=subpath(output.stats, strip_suffix=".json"),
    message:
        "Arrays and statistics: {wildcards.environment}"
    shell:
        "python {params.script:q} --environment {wildcards.environment:q} --dataset {params.dataset:q}"
        " --settings {params.settings:q} --asked {params.asked:q} --arrays {params.arrays:q} --stats {output.stats:q}"
        " --provenance {output.provenance:q} > {log:q} 2>&1"
