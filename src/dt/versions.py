"""How the environment that data were collected in differs from the one that policies are evaluated in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

ENVIRONMENT = re.compile(r"(?P<name>.+)-v(?P<version>[0-9]+)")
PINNED = re.compile(r"(?P<package>[A-Za-z0-9_.-]+?)\s*==\s*(?P<version>[0-9][0-9A-Za-z.]*)")
SIMULATORS = ("mujoco", "gymnasium")
SHOWN = ("render_mode",)  # arguments of `gymnasium.make` that change pictures alone
CHANGES_NOTHING = (  # wrappers, as evaluation flattens states, clips actions and counts steps by itself
    "ClipAction",
    "DataCollector",
    "FlattenObservation",
    "HumanRendering",
    "OrderEnforcing",
    "PassiveEnvChecker",
    "RecordEpisodeStatistics",
    "RecordVideo",
    "RenderCollection",
    "TimeLimit",
)
HEALTHY = "v5 gives no healthy reward at the step at which an episode ends unhealthily, v4 did"
SMALLER = "its states leave out in v5 what is always 0"
AFTER = "v5 gives the reward of the state after a step, v4 of the one before"
CHANGES_OF_V5 = {  # as Gymnasium's own pages list them, as far as states, rewards or physics are concerned
    "Ant": f"{HEALTHY}; v5 counts contact costs, and its states hold contact forces unless arguments leave them out",
    "HalfCheetah": "no change of states, rewards or physics is known",
    "Hopper": HEALTHY,
    "Humanoid": f"{HEALTHY}; v5 counts contact costs, and {SMALLER}",
    "HumanoidStandup": SMALLER,
    "InvertedDoublePendulum": f"{HEALTHY}; {SMALLER}",
    "InvertedPendulum": HEALTHY,
    "Pusher": f"{AFTER}; its object is denser in v5",
    "Reacher": f"{AFTER}; {SMALLER}",
    "Swimmer": "no change of states, rewards or physics is known",
    "Walker2d": f"{HEALTHY}; the right foot's friction is 1.9 in v5, 0.9 in v4",
}


class Evaluated(NamedTuple):
    """The environment that evaluation makes, as JSON holds Gymnasium's `EnvSpec`.

    made: its spec, with all wrappers; registered: what it was made from, which the data name that are collected here;
    defaults: the values that its code gives to arguments.
    """

    made: Mapping[str, Any]
    registered: Mapping[str, Any]
    defaults: Mapping[str, Any]


def same_environment(found: str, expected: str) -> bool:
    """Whether two Gymnasium ids are of one environment, perhaps in two versions."""
    return _name_and_version(found)[0] == _name_and_version(expected)[0]


def differences(metadata: Mapping[str, Any], data: Mapping[str, Any] | None, evaluated: Evaluated) -> Iterator[str]:
    """What a user should know of data, from their `metadata` and the spec in it, `data`; a sentence each."""
    made, defaults = evaluated.made, evaluated.defaults
    env_id = made["id"]
    if data is None:
        yield f"the data do not say of which environment they are (no env_spec): that it is {env_id} is not checked"
        data = made
    (name, of_data), (_, version_here) = _name_and_version(data["id"]), _name_and_version(env_id)
    if of_data != version_here:
        known = CHANGES_OF_V5.get(name) if min(of_data, version_here) < 5 <= max(of_data, version_here) else None
        yield f"the data are of {name}-v{of_data}, evaluation uses {env_id} ({known or 'see the pages of Gymnasium'})"
        defaults = {}  # of another version
    yield from _differing_arguments(data.get("kwargs") or {}, made["kwargs"], defaults)
    if "max_episode_steps" in data and data["max_episode_steps"] != made["max_episode_steps"]:
        yield (
            f"the time limit of the data's environment is {data['max_episode_steps'] or 'none'}, evaluation's is"
            f" {made['max_episode_steps']}, so returns are sums of other numbers of rewards"
            " (`arguments: {max_episode_steps: …}` sets evaluation's)"
        )
    wrappers, here, registered = (_wrappers(spec) for spec in (data, made, evaluated.registered))
    if wrappers not in (here, registered):
        yield (
            f"the data's environment was wrapped in {_listed(wrappers)}, evaluation's is in {_listed(here)}:"
            " states, actions and rewards may mean something else; collect without them, or evaluate in one that is"
            " registered with them (`additional_wrappers` of `gymnasium.register`)"
        )
    for requirement in metadata.get("requirements") or ():
        pinned = PINNED.fullmatch(str(requirement))
        package = pinned["package"] if pinned else ""
        if pinned and package in SIMULATORS and pinned["version"] != (installed := _installed(package)):
            yield (
                f"the data were collected with {package} {pinned['version']}, evaluation uses {installed}:"
                " the same actions may lead elsewhere"
            )


def _differing_arguments(
    data: Mapping[str, Any], evaluated: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Iterator[str]:
    full = [
        {**{name: defaults[name] for name in defaults if name in (*data, *evaluated)}, **each}
        for each in (data, evaluated)
    ]
    names = [name for name in dict.fromkeys((*full[0], *full[1])) if name not in SHOWN]
    differ = [name for name in names if name not in full[0] or name not in full[1] or full[0][name] != full[1][name]]
    if differ:
        made = [{name: each[name] for name in differ if name in each} for each in full]
        yield f"the data's environment was made with {made[0]}, evaluation's is with {made[1]} (`arguments`)"


def _wrappers(spec: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Name and arguments of the wrappers that change what a policy sees, does or earns."""
    wrappers = [(each["name"], dict(each.get("kwargs") or {})) for each in spec.get("additional_wrappers") or ()]
    return [each for each in wrappers if each[0] not in CHANGES_NOTHING]


def _listed(wrappers: list[tuple[str, dict[str, Any]]]) -> str:
    texts = (f"{name}({', '.join(f'{key}={value!r}' for key, value in kwargs.items())})" for name, kwargs in wrappers)
    return ", ".join(texts) or "none"


def _name_and_version(env_id: str) -> tuple[str, int]:
    parts = ENVIRONMENT.fullmatch(env_id.rpartition(":")[2])
    return (parts["name"], int(parts["version"])) if parts else (env_id, 0)


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
