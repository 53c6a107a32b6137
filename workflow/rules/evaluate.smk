# Needs: a run's policy and snapshots. Makes: one row per evaluation episode.


rule evaluate:
    input:
        policy=f"{RESULTS}/policies/{{run}}/policy.safetensors",
        training=f"{RESULTS}/policies/{{run}}/training.csv",
        snapshots=f"{RESULTS}/policies/{{run}}/snapshots.safetensors",
        stats=lambda wildcards: f"{RESULTS}/stats/{Run.from_path(wildcards.run).environment}.json",
        redo=lambda wildcards: redo(
            f"{PLACE}/evaluations/{wildcards.run}/returns.csv",
            f"{PLACE}/evaluations/{wildcards.run}/provenance.json",
            "evaluate",
            evaluation_settings(wildcards),
        ),
    output:
        returns=report(
            f"{RESULTS}/evaluations/{{run}}/returns.csv",
            category="Runs",
            labels=run_labels,
            caption="../report/runs.rst",
        ),
        provenance=f"{RESULTS}/evaluations/{{run}}/provenance.json",
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
        script=script("evaluate"),
        checkpoint=f"{PLACE}/checkpoints/evaluate/{{run}}",
    message:
        "Evaluate {wildcards.run}"
    shell:
        "python {params.script:q} --run {params.run:q} --settings {params.settings:q} --policy {input.policy:q}"
        " --snapshots {input.snapshots:q} --training {input.training:q} --stats {input.stats:q}"
        " --returns {output.returns:q} --checkpoint {params.checkpoint:q}"
        " --provenance {output.provenance:q} > {log:q} 2>&1"
