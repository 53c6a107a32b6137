# Needs: the checked configuration. Makes: the part of it that each rule depends on, as one parameter.


def settings(**blocks):
    """A rule's part of the configuration as JSON: one parameter, so that any change in it, and no other, reruns."""
    return json.dumps(blocks, sort_keys=True)


def environment_settings(name, *keys):
    """The given keys of an environment's entry, where it has them."""
    return {key: config["environments"][name][key] for key in keys if key in config["environments"][name]}


@cache
def outside(name):
    """What an environment's module and files are made of, for what is made by stepping it; nothing for Gymnasium's own."""
    entry = config["environments"][name]
    found = made_of(entry["gymnasium"], entry.get("arguments", {}))
    return {"made_of": found} if found else {}


def dataset_settings(wildcards):
    """What a dataset depends on."""
    data = config["environments"][wildcards.environment]["data"]
    keys = ("gymnasium", "arguments", "action_noise" if data["source"] == "experts" else "minari")
    block = {"environment": environment_settings(wildcards.environment, *keys)}
    if data["source"] == "experts":
        block |= {"trajectories": config["data"]["trajectories"], "actor": actor_checksums(wildcards.environment)}
        block |= outside(wildcards.environment)
    else:
        block |= {key: value for key, value in data.items() if key != "path"}
    if data["source"] == "path":  # where they lie does not matter, what they are does
        block["identity"] = identity(dataset_folder(wildcards.environment))
    return settings(**block)


@cache
def dataset_folder(environment):
    """Of an environment whose data are there already. They are no input files: where they lie does not matter."""
    entry = config["environments"][environment]
    try:
        return find(Path(entry["data"]["path"]), entry.get("minari"))
    except NoDatasetError as error:
        raise WorkflowError(f"environments.{environment}.data.path: {error}") from None


def source_option(wildcards, output):
    """Where the data come from: the expert to roll out, a folder, or what a download goes on from."""
    name = wildcards.environment
    source = config["environments"][name]["data"]["source"]
    if source == "experts":
        return ["--actor", str(shipped_expert(name) or f"{PLACE}/experts/{name}.safetensors")]
    if source == "path":
        return ["--dataset", str(dataset_folder(name))]
    return ["--unfinished", f"{PLACE}/checkpoints/datasets/{name}"]


def shipped_expert(environment):
    """The actor in resources/experts, if there is one: else it is trained."""
    path = ROOT / f"resources/experts/{environment}.safetensors"
    return path if path.exists() else None


def trained_expert(wildcards):
    """The actor that is trained for an environment which is to be collected and has none in resources/experts."""
    name = wildcards.environment
    if config["environments"][name]["data"]["source"] != "experts" or shipped_expert(name):
        return []
    return [f"{RESULTS}/experts/{name}{suffix}" for suffix in (".safetensors", ".json")]


@cache
def actor_checksums(environment):
    """Of a shipped expert and its card. They are no input files: where they lie, and their age, do not matter."""
    path = shipped_expert(environment)
    if path is None:
        return {}
    try:
        return {suffix: checksum(path.with_suffix(suffix)) for suffix in (".safetensors", ".json")}
    except OSError as error:
        raise WorkflowError(f"The expert of {environment} has no card: {error}") from None


def stats_settings(wildcards):
    """What arrays and statistics depend on besides the dataset; `gymnasium` is what the data are checked against."""
    data = {key: config["data"][key] for key in ("trajectories", "gamma")}
    entry = environment_settings(wildcards.environment, "gymnasium", "arguments")
    entry |= outside(wildcards.environment)
    return settings(derive_reference="reference" not in config["environments"][wildcards.environment], **data, **entry)


def asked_of_data(wildcards, output):
    """What training and evaluation will ask of data, to be answered before the first training.

    As a function of `output` it reruns nothing: it changes no statistics.
    """
    entry = environment_settings(wildcards.environment, "reward_scale", "target_return")
    return settings(**{key: config["data"][key] for key in ("normalise_states", "normalise_actions")}, **entry)


def train_settings(name):
    """What training on the environment `name` depends on."""
    keys = ("gymnasium", "arguments", "reward_scale")
    data = {key: value for key, value in config["data"].items() if key not in ("source", "path", "trajectories")}
    training = {key: value for key, value in config["training"].items() if "epochs" not in key}
    return settings(
        environments={name: environment_settings(name, *keys)},
        data=data,
        model=config["model"],
        training=training,
        evaluation={"every": config["evaluation"]["every"]},
        device=config["device"],
        precision=config["precision"],
    )


def asked(environment):
    """What the study asks for, noted in the policies that it trains, if the configuration says it.

    As a function of `output` it trains nothing anew: it changes no weight. Snakemake compares no such parameters.
    """
    entry = environment_settings(environment, "target_return")
    return [f"--target-return={value}" for value in entry.values()]


def evaluation_settings(wildcards):
    """What an evaluation depends on besides the policy."""
    environment = Run.from_path(wildcards.run).environment
    keys = environment_settings(environment, "target_return")
    machine = {key: config[key] for key in ("device", "precision")}
    return settings(episodes=config["evaluation"]["episodes"], **machine, **keys, **outside(environment))


def expert_state(wildcards):
    """Where a stopped training lies: another folder for other settings, but for the number of steps."""
    recipe = {key: value for key, value in config["experts"].items() if key != "steps"}
    gymnasium = environment_settings(wildcards.environment, "gymnasium", "arguments") | outside(wildcards.environment)
    digest = sha256(settings(recipe=recipe, **gymnasium).encode()).hexdigest()[:8]
    return f"{PLACE}/experts/state/{wildcards.environment}-{digest}"


def study():
    """What says which runs there are; of imported sources, their names."""
    return {key: list(config[key]) for key in STUDY}


def table_settings():
    """What the tables depend on besides the runs' own."""
    references = {name: config["environments"][name].get("reference") for name in used_environments()}
    return settings(report=config["report"], references=references, study=study())


def derived_references():
    """The statistics of those environments whose reference returns the configuration leaves out."""
    names = [name for name in used_environments() if "reference" not in config["environments"][name]]
    return [f"{RESULTS}/stats/{name}.json" for name in names]


def figure_settings(wildcards):
    """What a figure depends on besides the evaluations."""
    titles = {target: environment_settings(target, "title") for target in config["targets"]}
    shared = {key: value for key, value in study().items() if key != "sources"}
    intervals = {"confidence": config["report"]["confidence"]}
    return settings(environments=titles, report=intervals, source=figure_source(wildcards), **shared)


def import_settings():
    """What an imported policy has to fit."""
    model = {key: config["model"][key] for key in ("layers", "width", "heads", "activation")}
    return settings(model=model | {"action_tanh": not config["data"]["normalise_actions"]})


def film_settings(wildcards):
    """What a film depends on besides the summary and the policies."""
    return settings(seed=config["seeds"][0], **environment_settings(wildcards.target, "target_return"))
