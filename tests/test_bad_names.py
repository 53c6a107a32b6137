"""Names that are no safe paths, and numbers beyond all use: answered wherever they stand in the configuration."""

from typing import Any

import pytest
from test_config import CONFIG, SCHEMA, changed, problems

from dt.config import check

NAMES = [
    *[
        "../hopper",
        "..",
        ".",
        "/etc/passwd",
        "hop per",
        " hopper",
        "hopper ",
        "höpper",
        "跳",
        "hopper\n",
        "a\nb",
        "a\tb",
    ],
    *[
        "",
        "a" * 61,
        "a" * 5000,
        "-hopper",
        "--cores",
        "a/b",
        "a\\b",
        "a:b",
        "a*",
        "a?",
        "a|b",
        'a"b',
        "<a>",
        "a'b",
        "~a",
    ],
    *[
        "a\0b",
        "a\u202eb",
        "\ufeffa",
        "a\u200bb",
        "A",
        "0",
        "_a",
        "{a}",
        "{{a}}",
        "$HOME",
        "$(id)",
        "`id`",
        "a;b",
        "a&b",
    ],
    *["\ud800", "\x1b[31m", "%s", "a,b", "a=b", "a.b", "#a", "!a", "@a", "é", "a\r"],
]
SAFE = {
    "results": ["A", "0", "_a", "a" * 61, "a.b", "a/b"],
    "environments.hopper.minari": ["A", "0", "_a", "a" * 61, "a/b"],
}


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:20])
@pytest.mark.parametrize("key", ["environments", "results", "strategies", "environments.hopper.minari"])
def test_a_name_that_is_no_safe_path_is_answered(key: str, name: str) -> None:
    config = changed({})
    if key == "environments":
        config["environments"][name] = config["environments"]["hopper"]
        config["sources"] = [name]
    elif key == "environments.hopper.minari":
        config["environments"]["hopper"]["minari"] = f"{name}/expert-v0"
    else:
        config[key] = [name] if key == "strategies" else f"{name}"
    if name in SAFE.get(key, []):
        check(config, SCHEMA)
        return
    answer = problems(config)
    assert key.split(".")[0] in answer
    assert all(character.isprintable() or character == "\n" for character in answer)


@pytest.mark.parametrize("title", ["a\nb", "a\0b", "\x1b[31m", "\ud800", "a\u2028b", "", "a" * 61])
def test_a_title_of_more_than_one_printable_line_is_answered(title: str) -> None:
    assert "one line of printable text" in problems(changed({"environments.hopper.title": title}))


@pytest.mark.parametrize("title", ["Hopper $x", r"$\frac$", "100 % {x} {{y}}", "跳 höpper", "'\"`$(id)"])
def test_a_title_may_be_any_printable_line(title: str) -> None:
    check(changed({"environments.hopper.title": title}), SCHEMA)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e300, 10**400, -(10**400), 2**64])
def test_a_number_beyond_all_use_is_answered_wherever_it_stands(value: float) -> None:
    count = 0
    for path in number_paths(CONFIG):
        answer = problems(changed({path: value}))
        assert path.split(".")[-1] in answer
        count += 1
    assert count > 30


@pytest.mark.parametrize("value", [0.5, 1.0, True, "1", -(10**9), 10**9 + 1, 10**12])
def test_a_count_that_is_none_is_answered_wherever_it_stands(value: Any) -> None:
    counts = [path for path in number_paths(CONFIG) if path.startswith(("training.", "evaluation.", "report."))]
    for path in counts:
        if isinstance(CONFIG[path.split(".")[0]][path.split(".")[1]], int):
            assert path in problems(changed({path: value}))
    assert len(counts) > 8


def number_paths(block: dict[str, Any], path: str = "") -> list[str]:
    """Dotted paths of the settings that are whole numbers, and of others where they are floats."""
    found = []
    for key, value in block.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, dict) and name != "experts.options":
            found += number_paths(value, name)
        elif type(value) in (int, float):
            found.append(name)
    return found
