# Needs: a run's policy and snapshots. Makes: one row per evaluation episode.


rule evaluate:
    input:
        policy=f"{RESULTS}/policies/{{run}}/policy.safetensors",
        training=f"{RESULTS}/policies/{{run}}/training.csv",
        snapshots=f"{RESULTS}/policies/{{run}}/snapshots.safetensors",
    output:
        f"{RESULTS}/evaluations/{{run}}/returns.csv",
    log:
        f"{RESULTS}/logs/evaluate/{{run}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{{run}}.tsv"
    conda:
        "../envs/dt.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        code=code("evaluate"),
        run=lambda wildcards: json.dumps(Run.from_path(wildcards.run)),
        settings=evaluation_settings,
        checkpoint=f"{RESULTS}/checkpoints/evaluate/{{run}}",
    message:
        "Evaluate {wildcards.run}"
    shell:
        "python workflow/scripts/evaluate.py --run {params.run:q} --settings {params.settings:q} --policy {input.policy}"
        " --snapshots {input.snapshots} --training {input.training} --returns {output}"
        " --checkpoint {params.checkpoint} > {log} 2>&1"
