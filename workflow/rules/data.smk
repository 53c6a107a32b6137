# Needs: expert actors (or the Minari hub). Makes: a Minari dataset per environment, its flat arrays and statistics.


rule datasets:
    input:
        actor=branch(
            config["data"]["source"] == "experts",
            then="resources/experts/{environment}.safetensors",
            otherwise=[],
        ),
        card=branch(
            config["data"]["source"] == "experts",
            then="resources/experts/{environment}.json",
            otherwise=[],
        ),
    output:
        directory(f"{RESULTS}/datasets/{{environment}}"),
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
        actor=lambda wildcards, input: f"--actor {input.actor}" if input.actor else "",
    message:
        "Dataset of expert trajectories: {wildcards.environment}"
    shell:
        "python workflow/scripts/datasets.py --environment {wildcards.environment} --settings {params.settings:q}"
        " {params.actor} --folder {output} > {log} 2>&1"


rule stats:
    input:
        f"{RESULTS}/datasets/{{environment}}",
    output:
        stats=f"{RESULTS}/stats/{{environment}}.json",
        arrays=expand(f"{RESULTS}/stats/{{{{environment}}}}/{{array}}.npy", array=ARRAYS),
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
        arrays=subpath(output.stats, strip_suffix=".json"),
    message:
        "Arrays and statistics: {wildcards.environment}"
    shell:
        "python workflow/scripts/stats.py --dataset {input} --settings {params.settings:q}"
        " --arrays {params.arrays} --stats {output.stats} > {log} 2>&1"
