"""What runs cost: hours added by hand, runs that no finished one is like, and the published page in step."""

import dataclasses
import re
from pathlib import Path

import pytest

from experiments.engine.configuration import configuration
from experiments.engine.identity import identity
from experiments.report import Result, Table, load_results
from experiments.report.costs import costs_page, duration
from experiments.sections import TABLES
from experiments.sweeps import overview, plan

ROOT = Path(__file__).resolve().parents[3]
FIRST = Table("first", "First", {"exp_a": "A"}, {("cnn", None): "CNN"}, {}, source="a paper")
SECOND = Table("second", "Second", {"exp_b": "B"}, {("cnn", None): "CNN"}, {}, source="a paper")


def finished(experiment, seconds, *, config=None, trainer="fast", device="GPU | A", seed=0):
    return Result(
        schema=1, experiment=experiment, dataset="mnist", model="cnn", transform=None, trainer=trainer, seed=seed,
        metrics={}, width=None, parameters=1, iterations=1, wall_seconds=seconds, images_per_second=None,
        git_revision=None, git_dirty=None, versions={}, device=device, test_fingerprint="", config_hash="",
        config=config or {}, path=Path(f"{seed}.json"),
    )  # fmt: skip


def lines(page):
    """The cells of every line of every table."""
    rows = (line for line in page.splitlines() if line.startswith("| "))
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "5 s"), (90, "2 min"),
     (2700, "45 min"), (5400, "1.5 h"), (11160, "3.1 h"), (359_000, "99.7 h"), (4_683_600, "1,301 h")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_hours_by_hand():
    four_hours = (1800.0, 3600.0, 9000.0)
    results = [finished("exp_a", seconds, seed=i) for i, seconds in enumerate(four_hours)]
    results += [finished("exp_a", 600.0, device="cpu"), finished("exp_b", 7200.0, trainer="paper")]
    results += [finished("elsewhere", 1e6)]
    missing = {
        ("First", "paper"): [3600.0, 5400.0, None],  # 2.5 h, and one of which nothing is known
        ("First", "fast"): [],
        ("Second", "fast"): [None],
    }
    page = costs_page([FIRST, SECOND], results, missing, "GPU A")
    assert lines(page) == [
        ["table", "data set", "schedule", "device", "runs", "median of a run", "all runs"],
        ["First", "mnist", "fast", r"GPU \| A", "3", "60 min", "4.0 h"],
        ["First", "mnist", "fast", "cpu", "1", "10 min", "10 min"],
        ["Second", "mnist", "paper", r"GPU \| A", "1", "2.0 h", "2.0 h"],
        ["table", "schedule", "runs", "all runs", "of these without an estimate"],
        ["First", "paper", "3", "2.5 h", "1"],
        ["Second", "fast", "1", "unknown", "1"],
    ]
    assert page == costs_page([FIRST, SECOND], results[::-1], missing, "GPU A")
    assert "Estimated" not in costs_page([FIRST], results, {}, "GPU A")
    again = dataclasses.replace(FIRST, name="again", title="Again")  # the same runs, which are counted once
    assert "| Again |" not in costs_page([FIRST, again], results, {}, "GPU A")


def test_what_is_missing_and_how_long_it_takes(monkeypatch):
    for module in (plan, overview):
        monkeypatch.setattr(module, "TABLES", {"tc": TABLES["tc"]})
    done = identity(configuration(["experiment=mnist_tc", "model=fcn", "trainer=fast", "seed=0"]))
    seconds = done["trainer"]["iterations"] / 10
    found, device = overview.missing(
        [finished("mnist_tc", seconds, config=done, device="cpu: A")], seeds=[0, 1]
    )
    assert device == "cpu: A"
    title = TABLES["tc"].title
    assert {key: len(each) for key, each in found.items()} == {(title, "paper"): 8, (title, "fast"): 7}
    paper = configuration(["experiment=mnist_tc", "model=fcn", "trainer=paper"]).trainer.iterations / 10
    assert sorted(s for s in found[title, "fast"] if s) == [pytest.approx(seconds)]
    assert sorted(s for s in found[title, "paper"] if s) == [pytest.approx(paper)] * 2


def test_a_run_in_two_tables_has_one_estimate(monkeypatch):
    two = {name: TABLES[name] for name in ("upright", "upright_classes")}
    for module in (plan, overview):
        monkeypatch.setattr(module, "TABLES", two)
    done = identity(configuration(["experiment=upright", "model=st_cnn", "trainer=fast", "seed=0"]))
    found, _ = overview.missing([finished("upright", 800, config=done, device="cpu: A")], seeds=[0])
    first, second = (found[table.title, "fast"] for table in two.values())
    assert first == second and len(first) == 5


def test_the_published_page_is_in_step_with_the_results(monkeypatch):
    results = load_results([ROOT / "results"])
    published = (ROOT / "results" / "cost.md").read_text().splitlines()
    for module in (plan, overview):  # what is missing takes a tenth of a second a cell to find
        monkeypatch.setattr(module, "TABLES", {name: TABLES[name] for name in ("tc", "3d")})
    page = costs_page(list(TABLES.values()), results, *overview.missing(results)).splitlines()
    assert [line for line in page if line not in published] == []
    measured = published[
        : next(i for i, line in enumerate(published) if line.startswith("| table | schedule"))
    ]
    assert page[: len(measured)] == measured
