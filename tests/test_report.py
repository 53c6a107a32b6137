"""Snakemake's report of the tiny study: captions, labels, run times, and nothing from another host; and failures."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_workflow import copy_of_the_workflow, snakemake, write


class Fetched(HTMLParser):
    """What a browser fetches for a page: all but links to follow, and data that the page itself holds."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if tag != "a" and name in ("src", "href", "data", "srcset", "poster") and value:
                self.addresses += [value] if not value.startswith(("data:", "#")) else []


@pytest.fixture(scope="module")
def report(study: Path) -> str:
    path = study / "results/report.html"
    try:
        snakemake(study, "--configfile", "tiny.yaml", "--report", "results/report.html")
        return path.read_text()
    finally:
        path.unlink(missing_ok=True)


def test_the_report_says_what_its_figures_and_tables_show_and_how_they_were_computed(report: str) -> None:
    assert "Does a Decision Transformer that was pre-trained in one environment learn another one" in spaced(report)
    for text in (
        "Figure 1: policies pre-trained on Hopper",
        "What is seen.",
        "How it was computed.",
        "asked for a return of 5000 (Hopper), 5000 (Walker2d)",
        "with one seed there are no intervals",
        "Every arm in one row",
        "Every evaluation episode of every run",
        "Every evaluation point of every run",
        "Evaluation episodes of one policy",
    ):
        assert text in spaced(report)
    assert "{{" not in "".join(re.findall(r"Figure 1: .{600}", spaced(report)))


def test_the_report_labels_results_by_source_target_and_strategy(report: str) -> None:
    labels = re.findall(r'"labels":\s*(\{[^}]*\})', report)
    finetune = '"kind": "finetune", "source": "Hopper", "target": "Walker2d", "strategy": "unfreeze1", "seed": "0"'
    assert any(finetune in spaced(label) for label in labels)
    assert any('"source": "Hopper", "targets": "Hopper, Walker2d"' in spaced(label) for label in labels)


def test_the_report_has_run_times(report: str) -> None:
    assert len(re.findall(r'"runtime":\s*[0-9.]+', report)) >= 20


def test_the_report_fetches_nothing_from_elsewhere(report: str) -> None:
    page = Fetched(report)
    assert page.addresses == []
    styles = "".join(re.findall(r"<style[^>]*>.*?</style>", report, re.DOTALL))
    assert not re.search(r"@import|url\(\s*[\"']?(?:https?:)?//", styles)


def test_what_a_page_fetches_is_found() -> None:
    page = '<link href="https://a.example/b.css"><script src="//c.example/d.js"></script><img src="data:,">'
    assert Fetched(page).addresses == ["https://a.example/b.css", "//c.example/d.js"]


def test_a_failure_ends_with_the_name_and_the_last_line_of_its_log(tmp_path: Path) -> None:
    copy_of_the_workflow(tmp_path)
    config = write(tmp_path, {"environments": {"hopper": {"gymnasium": "Ant-v5"}}})
    output = snakemake(tmp_path, "--cores", "1", "results/stats/hopper.json", "--configfile", config, code=1)
    end = output.splitlines()[-12:]
    said = "has (state, action) sizes (11, 3), but Ant-v5 has (105, 8)"
    assert any(line.startswith("results/logs/datasets/hopper.log: error: ") and said in line for line in end)
    assert "Traceback" not in output


def spaced(text: str) -> str:
    """White space as one blank, tags left out."""
    return re.sub(r"\s+", " ", re.sub(r"</?\w+[^>]*>", "", text.replace("\\n", " ")))
