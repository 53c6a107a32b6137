"""Configuration files as wrong as they come: answered in words, nothing run, nothing written, no object made."""

import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from damage import damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from snakemake.common.configfile import load_configfile
from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config
from test_config import SCHEMA
from test_workflow import copy_of_the_workflow

from dt.config import ConfigError, check, check_files, plain
from dt.runs import runs

TEXT = (ROOT / "config.yaml").read_text()
SAFE_PATH = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_./-]*")
NASTY = [  # pieces of YAML
    *["!!python/object/apply:os.system ['touch PROOF']", "!!python/name:os.system ''", "!!python/module:os ''"],
    *["!!python/object/new:os.system ['touch PROOF']", "!!python/tuple [1, 2]", "!!python/object:x.Y {}", "!unknown 3"],
    *["&a [*a]", "&a {b: *a}", "*missing", "{<<: 3}", "{<<: {a: 1}}", "!!binary AAAA", "!!binary ä", "!!set {a, b}"],
    *[
        "!!omap [a: 1]",
        "!!timestamp abc",
        "!!int abc",
        "!!float abc",
        "!!bool abc",
        "!!null abc",
        "2020-99-99",
        "2020-01-01",
    ],
    *[
        ".nan",
        ".inf",
        "-.inf",
        "1e999",
        "1.0e+999",
        "-0.0",
        "1e-4",
        "1:30",
        "0o17",
        "017",
        "0x1F",
        "9" * 30,
        "9" * 5000,
    ],
    *[
        "0x" + "f" * 5000,
        "1" + "0" * 400,
        "~",
        "",
        "yes",
        "'",
        '"',
        "[",
        "{",
        "]",
        "}",
        "- x",
        "? x",
        ": x",
        "| x",
        "> x",
    ],
    *[
        "[" * 50 + "]" * 50,
        "[" * 900 + "]" * 900,
        "{a: " * 30 + "1" + "}" * 30,
        "---",
        "...",
        "%YAML 9.9",
        "\t",
        "#",
        "\0",
    ],
    *[
        '"\\ud800"',
        '"\\x00"',
        '"\\n"',
        "\ufeff",
        "\u2028",
        "x" * 10_000,
        "__use_yte__: true",
        "seeds: [1]",
        "{a: 1, a: 2}",
    ],
    *[
        "{[a]: 1}",
        "[1, 2.0, true, ~]",
        "@x",
        "`x`",
        "&",
        "*",
        "!",
        "!<x> y",
        "=",
        "<<",
        "{1: 2}",
        "{~: 1}",
        "{true: 1}",
    ],
]


def laugh(depth: int = 9) -> str:
    """Nine references to nine references to …: 9^depth values in a kilobyte."""
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, depth)]
    return "\n".join([*lines, f"seeds: [*l{depth - 1}]", ""])


def enter(path: Path) -> str | None:
    """What the Snakefile does with a configuration file; the answer, or None where it is accepted."""
    try:
        check_files([path])
        config: dict[Any, Any] = {}
        update_config(config, load_configfile(path))
        check(plain(config), SCHEMA)
    except (ConfigError, WorkflowError) as error:
        answer = str(error)
        if not answer.strip() or len(answer) > 20_000:
            raise AssertionError(f"no answer: {answer[:1000]!r}") from error
        return answer
    for run in runs(config):
        assert SAFE_PATH.fullmatch(f"{config['results']}/{run.path}")
    return None


def spoilt(generator: random.Random) -> bytes:
    """config.yaml damaged as bytes, or with a nasty piece for a value, a key, a line or anywhere."""
    way, piece, lines = generator.choice(["bytes", "value", "value", "key", "line", "place"]), None, TEXT.splitlines()
    piece, number = generator.choice(NASTY), generator.randrange(len(lines))
    if way == "bytes":
        return damaged(TEXT.encode(), generator)
    if way == "place":
        place = generator.randrange(len(TEXT))
        return f"{TEXT[:place]}{piece}{TEXT[place:]}".encode()
    key, colon, _ = lines[number].partition(":")
    if way == "line":
        lines.insert(number, piece)
    elif way == "key":
        lines[number] = piece + colon + lines[number].partition(":")[2]
    else:
        lines[number] = f"{key}: {piece}"
    return "\n".join(lines).encode()


@pytest.mark.parametrize("cases", [150, pytest.param(8000, marks=pytest.mark.slow)])
def test_a_spoilt_file_is_accepted_or_answered(cases: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path, counts = tmp_path / "config.yaml", Counter()
    for case in range(cases):
        path.write_bytes(spoilt(random.Random(f"{cases} {case}")))
        try:
            counts["accepted" if enter(path) is None else "answered"] += 1
        except Exception as error:
            raise AssertionError(f"case {case} of {cases}: {error!r:.500}") from error
    print(f"config.yaml: {cases} cases, {dict(counts)}")
    assert [item.name for item in tmp_path.iterdir()] == ["config.yaml"]  # no PROOF
    assert counts["answered"] > 0.4 * cases
    assert counts["accepted"] > 0.02 * cases


@pytest.mark.parametrize("piece", NASTY, ids=lambda piece: repr(piece)[:30])
def test_a_nasty_value_for_any_key_is_answered(piece: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    for key in ("seeds", "environments", "nothing"):
        path.write_text(f"{key}: {piece}\n", encoding="utf-8")
        assert enter(path) is not None
    assert [item.name for item in tmp_path.iterdir()] == ["config.yaml"]


@given(st.text(max_size=30) | st.binary(max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_text_is_answered(tmp_path_factory: pytest.TempPathFactory, content: str | bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
    assert enter(path) is not None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("seeds: [0]\nseeds: [1]\n", ["line 2", "'seeds' stands twice"]),
        ("model:\n  layers: 1\n  width: 2\n  layers: 3\n", ["line 4", "'layers' stands twice"]),
        ("a: &a {x: 1, x: 2}\nb: *a\n", ["line 1", "'x' stands twice"]),
        (laugh(), ["nested without end, or too much", "100000 values"]),
        ("experts: {options: &a {b: *a}}\n", ["experts.options.b", "20 levels"]),
        ("seeds: [0x" + "f" * 5000 + "]\n", ["seeds.0: found an integer of 20000 bits"]),
        ("__use_yte__: true\n?open('PROOF', 'w'):\n  seeds: [0]\n", ["no template"]),
        ("seeds: !!python/object/apply:os.system ['touch PROOF']\n", ["cannot be read as YAML", "os.system", "line 1"]),
        ("seeds: [0\nmodel: 3\n", ["cannot be read as YAML", "line 2"]),
        ("seeds: 2020-99-99\n", ["cannot be read as YAML", "month must be in 1..12"]),
        (b"results: caf\xe9\n", ["cannot be read as YAML", "UnicodeDecodeError"]),
        ("- " * 5000, ["cannot be read as YAML", "RecursionError"]),
        ("[" * 100_000, ["cannot be read as YAML", "RecursionError"]),
    ],
    ids=lambda item: repr(item)[:25],
)
def test_a_file_that_cannot_be_read_is_answered_with_file_and_reason(
    text: str | bytes, parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    answer = enter(Path("study.yaml")) or ""
    for part in ("study.yaml: ", *parts):
        assert part in answer
    assert len(answer) < 500
    assert not Path("PROOF").exists()


def test_merge_keys_aliases_and_tabs_in_json_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for text in ("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: {<<: *a, x: 3}\nd: [*a, *a]\n", '{\n\t"seeds": [0]\n}'):
        path.write_text(text)
        check_files([path, tmp_path / "absent.yaml"])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_the_workflow(tmp_path_factory.mktemp("project"))


def start_snakemake(project: Path, text: bytes, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """With `text` as config.yaml, or as the file named in the arguments."""
    (project / (arguments[-1] if arguments else "config.yaml")).write_bytes(text)
    command = [sys.executable, "-m", "snakemake", "-n", *arguments]
    return subprocess.run(command, cwd=project, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (b"seeds: !!python/object/apply:os.system ['touch PROOF']\n", "could not determine a constructor"),
        (b"results: caf\xe9\n", "UnicodeDecodeError"),
        (laugh().encode(), "nested without end"),
        (TEXT.replace("walker2d:", "../walker2d:").encode(), "'../walker2d'; allowed is a text that matches"),
    ],
    ids=["python object", "latin-1", "billion laughs", "dots"],
)
def test_snakemake_answers_a_wrong_config_yaml_in_words(text: bytes, part: str, project: Path) -> None:
    result = start_snakemake(project, text, [])
    assert result.returncode == 1
    assert part in result.stdout
    assert_in_words(result.stdout)
    assert not (project / "PROOF").exists()
    assert not (project / "results").exists()


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["--configfile", "study.yaml"]], ids=["config.yaml", "--configfile"])
def test_snakemake_answers_spoilt_files_or_plans(arguments: list[str], project: Path) -> None:
    """A file given by --configfile is read by Snakemake before the workflow: what it cannot read is its to answer."""
    counts: Counter[str] = Counter()
    (project / "config.yaml").write_text(TEXT)
    for case in range(70):
        text = spoilt(random.Random(f"snakemake {case}"))
        result = start_snakemake(project, text, arguments)
        if result.returncode == 0:
            counts["planned"] += 1
        elif arguments and not snakemake_reads(project / "study.yaml"):
            counts["answered by Snakemake"] += 1
        else:
            counts["answered"] += 1
            assert result.returncode == 1
            assert_in_words(result.stdout)
        assert not (project / "PROOF").exists()
        assert not (project / "results").exists()
    print(f"snakemake -n {' '.join(arguments)}: {sum(counts.values())} cases, {dict(counts)}")
    assert counts["answered"] > 20


def snakemake_reads(path: Path) -> bool:
    try:
        update_config({}, load_configfile(path))
    except WorkflowError:
        return True  # and answers what is wrong
    except Exception:
        return False
    return True


def assert_in_words(output: str) -> None:
    assert "Error" in output
    assert "Traceback" not in output
    assert not re.search(r'File ".*site-packages', output), output[-3000:]
    assert len(output) < 30_000
