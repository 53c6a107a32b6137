# Needs: the extra `[experts]`. Makes: an expert actor and its card per environment; needed where resources/experts has none.


rule experts:
    input:
        expand(
            f"{RESULTS}/experts/{{environment}}.safetensors",
            environment=config["environments"],
        ),


rule expert:
    output:
        actor=f"{RESULTS}/experts/{{environment}}.safetensors",
        card=f"{RESULTS}/experts/{{environment}}.json",
        provenance=f"{RESULTS}/experts/{{environment}}.provenance.json",
    log:
        f"{RESULTS}/logs/experts/{{environment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/experts/{{environment}}.tsv"
    conda:
        "../envs/experts.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(1440),
    params:
        code=code("experts"),
        settings=lambda wildcards: settings(
            environment=environment_settings(wildcards.environment, "gymnasium", "arguments", "action_noise"),
            experts=config["experts"],
            **outside(wildcards.environment),
        ),
        script=script("experts"),
        state=expert_state,
    message:
        "Train an expert: {wildcards.environment}"
    shell:
        "python {params.script:q} --environment {wildcards.environment:q} --settings {params.settings:q}"
        " --state {params.state:q} --actor {output.actor:q} --card {output.card:q}"
        " --provenance {output.provenance:q} >> {log:q} 2>&1"
