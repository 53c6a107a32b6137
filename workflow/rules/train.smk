# Needs: arrays and statistics. Makes: a policy per run, its training table, and the snapshots that `evaluate` reads.

# Before evaluations, which are shorter: cores then run out of work together. In a large study the snapshots of all runs,
# some 60 MB each, would fill the disk meanwhile.
TRAININGS_FIRST = 1 if len(RUNS) <= 100 else 0


rule import_policy:
    input:
        files=checkpoint_files,
        redo=lambda wildcards: redo(
            f"{PLACE}/policies/import/{wildcards.source}/policy.safetensors",
            f"{PLACE}/policies/import/{wildcards.source}/provenance.json",
            "import_policy",
            import_settings(),
        ),
    output:
        policy=f"{RESULTS}/policies/import/{{source}}/policy.safetensors",
        provenance=f"{RESULTS}/policies/import/{{source}}/provenance.json",
    log:
        f"{RESULTS}/logs/import/{{source}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/import/{{source}}.tsv"
    priority: 2  # fine-tunings wait for it
    conda:
        "../envs/dt.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code("import_policy"),
        script=script("import_policy"),
        settings=lambda wildcards: import_settings(),
        checkpoint=lambda wildcards: config["imported"][wildcards.source]["checkpoint"],
    message:
        "Import {wildcards.source}"
    shell:
        "python {params.script:q} --source {wildcards.source:q} --settings {params.settings:q}"
        " --checkpoint {params.checkpoint:q} --policy {output.policy:q}"
        " --provenance {output.provenance:q} > {log:q} 2>&1"


rule pretrain:
    input:
        stats=f"{RESULTS}/stats/{{source}}.json",
        arrays=expand(f"{RESULTS}/stats/{{{{source}}}}/{{array}}.npy", array=ARRAYS),
        redo=redo_training("pretrain"),
    output:
        policy=f"{RESULTS}/policies/pretrain/{{source}}/seed{{seed}}/policy.safetensors",
        training=f"{RESULTS}/policies/pretrain/{{source}}/seed{{seed}}/training.csv",
        # kept: were it temporary, evaluating a source later would train it again, and all that was fine-tuned from it
        snapshots=f"{RESULTS}/policies/pretrain/{{source}}/seed{{seed}}/snapshots.safetensors",
        provenance=f"{RESULTS}/policies/pretrain/{{source}}/seed{{seed}}/provenance.json",
    log:
        f"{RESULTS}/logs/pretrain/{{source}}/seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/pretrain/{{source}}/seed{{seed}}.tsv"
    priority: 2  # every fine-tuning waits for one
    conda:
        "../envs/dt.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(120),
    params:
        code=code("train"),
        script=script("train"),
        run=lambda wildcards: run_json("pretrain", **wildcards),
        settings=lambda wildcards: train_settings(wildcards.source),
        epochs=config["training"]["pretrain_epochs"],
        checkpoint=f"{PLACE}/checkpoints/pretrain/{{source}}/seed{{seed}}",
        arrays=subpath(input.stats, strip_suffix=".json"),
        asked=lambda wildcards, output: asked(wildcards.source),
    message:
        "Pre-train on {wildcards.source}, seed {wildcards.seed}"
    shell:
        "python {params.script:q} --run {params.run:q} --settings {params.settings:q}"
        " --epochs {params.epochs:q} --stats {input.stats:q} --arrays {params.arrays:q}"
        " {params.asked:q} --policy {output.policy:q} --training {output.training:q}"
        " --snapshots {output.snapshots:q} --checkpoint {params.checkpoint:q}"
        " --provenance {output.provenance:q} > {log:q} 2>&1"


rule finetune:
    input:
        source_policy=source_policy,
        stats=f"{RESULTS}/stats/{{target}}.json",
        arrays=expand(f"{RESULTS}/stats/{{{{target}}}}/{{array}}.npy", array=ARRAYS),
        redo=redo_training("finetune"),
    output:
        policy=f"{RESULTS}/policies/finetune/{{source}}/{{target}}/{{strategy}}/seed{{seed}}/policy.safetensors",
        training=f"{RESULTS}/policies/finetune/{{source}}/{{target}}/{{strategy}}/seed{{seed}}/training.csv",
        snapshots=snapshots(f"{RESULTS}/policies/finetune/{{source}}/{{target}}/{{strategy}}/seed{{seed}}"),
        provenance=f"{RESULTS}/policies/finetune/{{source}}/{{target}}/{{strategy}}/seed{{seed}}/provenance.json",
    log:
        f"{RESULTS}/logs/finetune/{{source}}/{{target}}/{{strategy}}/seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/finetune/{{source}}/{{target}}/{{strategy}}/seed{{seed}}.tsv"
    priority: TRAININGS_FIRST
    conda:
        "../envs/dt.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(120),
    params:
        code=code("train"),
        script=script("train"),
        run=lambda wildcards: run_json("finetune", **wildcards),
        settings=lambda wildcards: train_settings(wildcards.target),
        epochs=config["training"]["epochs"],
        checkpoint=f"{PLACE}/checkpoints/finetune/{{source}}/{{target}}/{{strategy}}/seed{{seed}}",
        arrays=subpath(input.stats, strip_suffix=".json"),
        asked=lambda wildcards, output: asked(wildcards.target),
    message:
        "Fine-tune {wildcards.source} on {wildcards.target}, {wildcards.strategy}, seed {wildcards.seed}"
    shell:
        "python {params.script:q} --run {params.run:q} --settings {params.settings:q}"
        " --epochs {params.epochs:q} --stats {input.stats:q} --arrays {params.arrays:q}"
        " --source-policy {input.source_policy:q} {params.asked:q} --policy {output.policy:q} --training {output.training:q}"
        " --snapshots {output.snapshots:q} --checkpoint {params.checkpoint:q}"
        " --provenance {output.provenance:q} > {log:q} 2>&1"


rule scratch:
    input:
        stats=f"{RESULTS}/stats/{{target}}.json",
        arrays=expand(f"{RESULTS}/stats/{{{{target}}}}/{{array}}.npy", array=ARRAYS),
        redo=redo_training("scratch"),
    output:
        policy=f"{RESULTS}/policies/scratch/{{target}}/seed{{seed}}/policy.safetensors",
        training=f"{RESULTS}/policies/scratch/{{target}}/seed{{seed}}/training.csv",
        snapshots=snapshots(f"{RESULTS}/policies/scratch/{{target}}/seed{{seed}}"),
        provenance=f"{RESULTS}/policies/scratch/{{target}}/seed{{seed}}/provenance.json",
    log:
        f"{RESULTS}/logs/scratch/{{target}}/seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/scratch/{{target}}/seed{{seed}}.tsv"
    priority: TRAININGS_FIRST
    conda:
        "../envs/dt.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(120),
    params:
        code=code("train"),
        script=script("train"),
        run=lambda wildcards: run_json("scratch", **wildcards),
        settings=lambda wildcards: train_settings(wildcards.target),
        epochs=config["training"]["epochs"],
        checkpoint=f"{PLACE}/checkpoints/scratch/{{target}}/seed{{seed}}",
        arrays=subpath(input.stats, strip_suffix=".json"),
        asked=lambda wildcards, output: asked(wildcards.target),
    message:
        "Train from scratch on {wildcards.target}, seed {wildcards.seed}"
    shell:
        "python {params.script:q} --run {params.run:q} --settings {params.settings:q}"
        " --epochs {params.epochs:q} --stats {input.stats:q} --arrays {params.arrays:q}"
        " {params.asked:q} --policy {output.policy:q} --training {output.training:q}"
        " --snapshots {output.snapshots:q} --checkpoint {params.checkpoint:q}"
        " --provenance {output.provenance:q} > {log:q} 2>&1"
