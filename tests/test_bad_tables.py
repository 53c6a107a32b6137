"""Broken statistics, arrays and tables: the programs that read them answer in a sentence and write nothing."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, synthetic
from damage import contents, run_program, try_damages

from dt.broken import BrokenFileError
from dt.data import DataError, Trajectories, check_sizes, read_stats
from dt.metrics import TRAINING_COLUMNS, read_returns, read_training
from dt.returns import EPISODE_COLUMNS, read_steps
from dt.runs import Run
from dt.train import Point

RUNS = ["finetune/walker2d/hopper/unfreeze0/seed0", "scratch/hopper/seed0", "pretrain/walker2d/seed0"]
STUDY = {"sources": ["walker2d"], "targets": ["hopper"], "strategies": ["unfreeze0"], "seeds": [0]}
ROWS = int(synthetic(11, 3)[0].starts[-1])
REPORT = {"final_points": 1, "confidence": 0.95}
FIGURE = {
    **STUDY,
    "source": "walker2d",
    "report": REPORT,
    "environments": {"hopper": {"title": r"Hopper $\frac $1 {}%s"}},  # no formula
}


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Returns and training of all runs of a study."""
    for number, run in enumerate(RUNS):
        identity = ",".join(map(str, Run.from_path(run)))
        episodes = [f"{identity},{epoch},{epoch * 15},0,{epoch * 10.5},{epoch + 9}" for epoch in (0, 5, 10)]
        points = [
            f"{epoch},{epoch * 15},{epoch or 'nan'},{epoch or 'nan'},0.0001,50,100,40,{0.5 if epoch else 'nan'}"
            for epoch in (0, 5, 10)
        ]
        for name, columns, rows in (("returns", EPISODE_COLUMNS, episodes), ("training", TRAINING_COLUMNS, points)):
            path = place(tmp_path, f"{name}{number}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join([",".join(columns), *rows, ""]))
    return tmp_path


def place(folder: Path, name: str) -> Path:
    """Of `returns0`, the first run's returns, for example."""
    kind, run = name[:-1], RUNS[int(name[-1])]
    return folder / ("evaluations" if kind == "returns" else "policies") / run / f"{kind}.csv"


def tables_arguments(folder: Path) -> list[str]:
    references = {name: {"random": -5.0, "expert": 95.0} for name in ("hopper", "walker2d")}
    settings = json.dumps({"report": REPORT, "references": references, "study": STUDY})
    return ["--settings", settings, "--results", str(folder), "--tables", f"{folder}/tables"]


def figures_arguments(folder: Path) -> list[str]:
    outputs = ["--figures", f"{folder}/figures/fig1.png"]
    return ["--settings", json.dumps(FIGURE), "--results", str(folder), *outputs]


def edit(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


BAD = {  # name: file, change, what the sentence must hold
    "empty": ("returns0", lambda text: "", "EmptyDataError"),
    "a header alone": ("returns0", lambda text: text.splitlines()[0] + "\n", "it has 0 rows"),
    "no header": ("returns0", lambda text: text.split("\n", 1)[1], "expected kind, source"),
    "a renamed column": ("returns0", edit("length", "lenght"), "expected kind, source"),
    "a column twice": ("returns0", edit("length", "return"), "expected kind, source"),
    "a return of text": ("returns0", edit("52.5", "fifty"), "return holds something else than finite numbers"),
    "a return that is NaN": ("returns0", edit("52.5", "nan"), "return holds something else than finite numbers"),
    "an infinite return": ("returns0", edit("52.5", "1e999"), "return holds something else than finite numbers"),
    "a missing return": ("returns0", edit("52.5", ""), "return holds something else than finite numbers"),
    "half an epoch": ("returns0", edit("0,5,75", "0,5.5,75"), "epoch holds something else than integers"),
    "an epoch beyond integers": ("returns0", edit("0,5,75", f"0,{10**30},75"), "epoch holds something else"),
    "a field too many": ("returns0", edit("52.5", "52.5,1"), "ParserError"),
    "a field too many everywhere": ("returns0", edit("unfreeze0", "unfreeze0,1"), "expected kind, source"),
    "an open quote": ("returns0", edit("52.5", '"52.5'), "ParserError"),
    "another run": ("returns0", edit("walker2d", "hopper"), "it has rows of another run"),
    "another seed": ("returns0", edit("unfreeze0,0,5", "unfreeze0,1,5"), "it has rows of another run"),
    "another target in unicode": ("returns1", edit("hopper", "höpper"), "it has rows of another run"),
    "no text": ("returns0", lambda text: "\udcff\udcfe" + text, "UnicodeDecodeError"),
    "a training table of text": ("training0", edit("75", "x"), "step holds something else than integers"),
    "no learning rate": ("training0", edit("0.0001", "nan"), "learning_rate holds something else than finite"),
    "training columns of returns": ("training1", edit("epoch", "kind"), "expected epoch, step"),
}


def test_whole_tables_are_read_and_drawn_whatever_the_title(tables: Path) -> None:
    assert run_program("tables", tables_arguments(tables)) is None
    assert run_program("figures", figures_arguments(tables)) is None
    names = ["returns.csv", "summary.csv", "summary.html", "training.csv"]
    assert sorted(path.name for path in (tables / "tables").iterdir()) == names
    assert (tables / "figures/fig1.png").stat().st_size > 5000


def test_the_columns_of_a_training_table_are_those_of_a_point() -> None:
    assert list(Point.__dataclass_fields__) == TRAINING_COLUMNS


@pytest.mark.parametrize("name", BAD)
def test_a_bad_table_is_named_with_its_reason_and_nothing_is_written(name: str, tables: Path) -> None:
    file, change, reason = BAD[name]
    path = place(tables, file)
    path.write_text(change(path.read_text()), errors="surrogateescape")
    before = contents(tables)
    programs = {"tables": tables_arguments, "figures": figures_arguments}
    for script in programs if file.startswith("returns") else ["tables"]:
        answer = run_program(script, programs[script](tables)) or ""
        assert f"{path} is not a" in answer
        assert reason in answer
        assert contents(tables) == before


@pytest.mark.parametrize("script", ["tables", "figures"])
def test_the_programs_end_with_one_line_and_code_1(script: str, tables: Path) -> None:
    place(tables, "returns1").write_bytes(b"\x80\x04\x95")
    arguments = {"tables": tables_arguments, "figures": figures_arguments}[script](tables)
    before = contents(tables)
    command = [sys.executable, ROOT / f"workflow/scripts/{script}.py", *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {place(tables, 'returns1')} is not a table of returns of {RUNS[1]}")
    assert len(result.stderr.splitlines()) == 1
    assert contents(tables) == before


@pytest.mark.parametrize("name", ["returns0", "training0"])
@pytest.mark.parametrize("cases", [200, pytest.param(3000, marks=pytest.mark.slow)])
def test_damaged_tables_are_answered_or_sound(name: str, cases: int, tables: Path) -> None:
    def read() -> None:
        if name == "returns0":
            table = read_returns(RUNS[:1], [place(tables, name)])
            assert np.isfinite(table["return"]).all()
        else:
            read_steps(place(tables, name))
            read_training(RUNS[:1], [place(tables, name)])

    counts = try_damages(place(tables, name), cases, read, seed=cases)
    assert counts["answered"] > 0.1 * cases


@pytest.mark.slow
@pytest.mark.parametrize("script", ["tables", "figures"])
def test_the_programs_write_whole_files_or_none_for_damaged_tables(script: str, tables: Path) -> None:
    arguments = {"tables": tables_arguments, "figures": figures_arguments}[script](tables)
    expected = {"tables": 4, "figures": 1}[script]

    def run() -> None:
        for path in (tables / script).glob("*"):
            path.unlink()
        before = set(contents(tables))
        answer = run_program(script, arguments)
        written = set(contents(tables)) - before
        assert len(written) == (0 if answer else expected), written
        if answer:
            raise BrokenFileError(answer)

    try_damages(place(tables, "returns0"), 300 if script == "tables" else 100, run)


@pytest.fixture
def learnable(tmp_path: Path) -> Path:
    """What a training reads."""
    data, stats = synthetic(11, 3)
    data.save(tmp_path / "arrays")
    (tmp_path / "stats.json").write_text(json.dumps(stats))
    return tmp_path


SOUND = {
    "states": {"mean": [0.0], "std": [1.0]},
    "actions": {"mean": [0.0], "std": [1.0], "low": [-1.0], "high": [1.0]},
    "derived": {"target_return": 5.0, "reward_scale": 1.0},
}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "JSONDecodeError"),
        ("[1]", "TypeError"),
        ("{}", "KeyError: 'states'"),
        ("[" * 100_000, "RecursionError"),
        ('{"states": {"mean": [0.0], "std": [1.0]}}', "KeyError: 'actions'"),
        *[
            (
                json.dumps({"states": {"mean": mean, "std": std}, "actions": {"mean": [0.0], "std": [1.0]}}),
                "states have no",
            )
            for mean, std in [
                ([0.0], [0.0]),
                ([0.0], [-1.0]),
                ([float("nan")], [1.0]),
                ([0.0], [float("inf")]),
                ([0.0, 0.0], [1.0]),
                (["0"], [1.0]),
                ([True], [1.0]),
                ([], []),
            ]
        ],
        *[
            (json.dumps({**SOUND, "actions": SOUND["actions"] | change}), "actions have no bounds")
            for change in ({"low": [2.0]}, {"low": [float("nan")]}, {"low": []}, {"high": ["1"]}, {"high": [True]})
        ],
        *[
            (json.dumps({**SOUND, "derived": SOUND["derived"] | change}), "derived")
            for change in (
                {"target_return": float("inf")},
                {"reward_scale": 0.0},
                {"reward_scale": "1"},
                {"reference": {"random": 1.0, "expert": 1.0}},
            )
        ],
        (json.dumps({**SOUND, "derived": {}}), "KeyError: 'target_return'"),
    ],
)
def test_bad_statistics_are_named_with_their_reason(content: str, reason: str, learnable: Path) -> None:
    (learnable / "stats.json").write_text(content)
    with pytest.raises(DataError) as caught:
        read_stats(learnable / "stats.json")
    assert str(learnable / "stats.json") in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("states", np.zeros((3, 11), "f8"), "2 dimensions of float64; expected 2 of f4"),
        ("states", np.zeros(3, "f4"), "1 dimensions of float32"),
        ("states", np.zeros((3, 11), "f4"), "do not belong together"),
        ("actions", np.zeros((3, 11), ">f4"), "of >f4"),
        ("starts", np.zeros(0, "i8"), "do not belong together"),
        ("starts", np.array([0, 5, 3]), "do not belong together"),
        ("starts", np.array([0, 5, 2**62]), "do not belong together"),
        ("starts", np.array([-5, 0, ROWS]), "do not belong together"),
        ("starts", np.array([0, 9, 9, ROWS]), "do not belong together"),
        ("starts", np.array([0, ROWS + 1, ROWS]), "do not belong together"),
    ],
)
def test_arrays_that_do_not_fit_are_named(name: str, array: np.ndarray, reason: str, learnable: Path) -> None:
    np.save(learnable / f"arrays/{name}.npy", array)
    with pytest.raises(DataError, match=reason) as caught:
        Trajectories.open(learnable / "arrays")
    assert str(learnable / "arrays") in str(caught.value)


def test_arrays_of_another_environment_than_the_statistics_are_refused(learnable: Path) -> None:
    with pytest.raises(DataError, match=r"states\.npy has 11 columns, but its statistics 17"):
        check_sizes(Trajectories.open(learnable / "arrays"), synthetic(17, 6)[1], learnable / "arrays")


@pytest.mark.parametrize("name", ["stats.json", "arrays/states.npy", "arrays/starts.npy"])
@pytest.mark.parametrize("cases", [150, pytest.param(3000, marks=pytest.mark.slow)])
def test_damaged_statistics_and_arrays_are_answered_or_fit(name: str, cases: int, learnable: Path) -> None:
    def read() -> None:
        stats, data = read_stats(learnable / "stats.json"), Trajectories.open(learnable / "arrays")
        check_sizes(data, stats, learnable / "arrays")
        assert len(data.states) == data.starts[-1] == data.lengths.sum()

    counts = try_damages(learnable / name, cases, read, seed=cases)
    assert counts["answered"] > 0.1 * cases


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stats.json", "arrays/states.npy", "arrays/actions.npy", "arrays/starts.npy"])
def test_a_training_on_damaged_data_writes_everything_or_nothing(
    name: str, learnable: Path, config: dict[str, Any]
) -> None:
    config["model"]["width"] = 8
    outputs = {"policy": "policy.safetensors", "training": "training.csv", "snapshots": "snapshots.safetensors"}
    arguments = [
        *("--run", '["scratch", "", "hopper", "", 0]', "--settings", json.dumps(config), "--epochs", "1"),
        *("--stats", f"{learnable}/stats.json", "--arrays", f"{learnable}/arrays"),
        *(part for option, name in outputs.items() for part in (f"--{option}", f"{learnable}/{name}")),
    ]

    def train() -> None:
        for output in outputs.values():
            (learnable / output).unlink(missing_ok=True)
        before = set(contents(learnable))
        answer = run_program("train", arguments)
        written = set(contents(learnable)) - before
        assert written == (set() if answer else set(outputs.values())), answer
        if answer:
            raise DataError(answer)

    try_damages(learnable / name, 200, train)
