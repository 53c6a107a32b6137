"""How the environment that data were collected in differs from the one that policies are evaluated in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

ENVIRONMENT = re.compile(r"(?P<name>.+)-v(?P<version>[0-9]+)")
PINNED = re.compile(r"(?P<package>[A-Za-z0-9_.-]+?)\s*==\s*(?P<version>[0-9][0-9A-Za-z.]*)")
SIMULATORS = ("mujoco", "gymnasium")
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


def same_environment(found: str, expected: str) -> bool:
    """Whether two Gymnasium ids are of one environment, perhaps in two versions."""
    return _name_and_version(found)[0] == _name_and_version(expected)[0]


def differences(
    metadata: Mapping[str, Any], spec: Mapping[str, Any], env_id: str, arguments: Mapping[str, Any]
) -> Iterator[str]:
    """What a user should know of data, from their `metadata` and the environment's `spec` in it; a sentence each."""
    (name, of_data), (_, evaluated) = _name_and_version(spec.get("id", env_id)), _name_and_version(env_id)
    if of_data != evaluated:
        known = CHANGES_OF_V5.get(name) if min(of_data, evaluated) < 5 <= max(of_data, evaluated) else None
        yield f"the data are of {name}-v{of_data}, evaluation uses {env_id} ({known or 'see the pages of Gymnasium'})"
    if (made_with := dict(spec.get("kwargs") or {})) != dict(arguments):
        yield f"the data's environment was made with {made_with}, evaluation's is with {dict(arguments)} (`arguments`)"
    for requirement in metadata.get("requirements") or ():
        pinned = PINNED.fullmatch(str(requirement))
        if pinned and pinned["package"] in SIMULATORS and pinned["version"] != (here := _installed(pinned["package"])):
            yield (
                f"the data were collected with {pinned['package']} {pinned['version']}, evaluation uses {here}:"
                " the same actions may lead elsewhere"
            )


def _name_and_version(env_id: str) -> tuple[str, int]:
    parts = ENVIRONMENT.fullmatch(env_id.rpartition(":")[2])
    return (parts["name"], int(parts["version"])) if parts else (env_id, 0)


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
