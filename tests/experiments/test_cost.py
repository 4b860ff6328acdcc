"""What a reproduction costs: rates and schedules by hand, what is not measured, and the published pages in step."""

import json
from pathlib import Path

import pytest

from experiments import cost
from experiments.cost import Column, Cost, Job, Machine, Rates
from experiments.engine.build import UserError
from experiments.engine.configuration import configuration
from experiments.engine.identity import identity
from experiments.sweeps import estimates
from experiments.sweeps.estimates import Finished

ROOT = Path(__file__).resolve().parents[2]
CPU, GPU = "cpu: A, 1 thread", "GPU B"


@pytest.mark.parametrize(
    ("seconds", "workers", "last"),
    [
        ([], 3, 0),
        ([5], 4, 5),  # one run cannot be split
        ([3, 3, 2, 2, 2], 2, 7),  # 3 2 2 and 3 2; the sum halved is 6
        ([1, 1, 1, 9], 2, 9),  # in the order given it would be 10
        ([4, 3, 2, 1], 1, 10),
    ],
)
def test_whole_runs_the_longest_first(seconds, workers, last):
    assert cost.makespan(seconds, workers) == last


def made(*overrides):
    return identity(configuration(overrides))


def row(table, network, column, schedule, rate, device=CPU):
    return {"table": table, "network": network, "column": column, "schedule": schedule, "images/s": rate,
            "device": device}  # fmt: skip


def test_finished_runs_come_before_the_suite_and_other_devices_count_for_nothing():
    config = made("experiment=mnist_r", "model=fcn", "trainer=fast")  # 1,280,000 images
    kind = estimates.kind(config)
    runs = [Finished(config | {"seed": i}, s, CPU) for i, s in enumerate((100.0, 300.0))]
    runs.append(Finished(config, 1.0, "cpu: A, 2 threads"))
    label = cost.label_of("table1", "FCN", "R", "fast")
    rows = [row("table1", "FCN", "R", "fast", 500), row("table1", "FCN", "R", "fast", 8000, GPU)]
    benchmarks = {"cells": {"rows": rows[:1]}, "cells_gpu": {"rows": rows[1:]}}
    found = cost.rates(runs, benchmarks, {label: kind})
    assert found[CPU].seconds_per_image(kind) * 1_280_000 == pytest.approx(200)
    assert found[GPU].seconds_per_image(kind) == pytest.approx(1 / 8000)
    assert cost.rates([], benchmarks, {label: kind})[CPU].seconds_per_image(kind) == pytest.approx(1 / 500)
    other = estimates.kind(made("experiment=mnist_r", "model=fcn"))  # in float32
    assert other != kind and found[CPU].seconds_per_image(other) is None


def test_the_device_with_most_of_it_measured_of_the_kind_that_is_asked_for():
    found = {
        "cpu: A, 1 thread": Rates(suite={"x": 1.0}),
        "cpu: B, 1 thread": Rates(suite={"x": 1.0, "y": 1.0}),
        "cpu: A, 2 threads": Rates(suite={"x": 1.0, "y": 1.0, "z": 1.0}),
        "GPU B": Rates(runs={"x": [1.0]}),
    }
    kinds = {"x", "y", "z"}
    assert cost.choose_device(found, kinds, gpu=False) == "cpu: B, 1 thread"
    assert cost.choose_device(found, kinds, gpu=True) == "GPU B"
    assert cost.choose_device({}, kinds, gpu=True) is None
    assert cost.choose_device(found, kinds, gpu=False, prefix="cpu: A") == "cpu: A, 2 threads"
    with pytest.raises(UserError, match=r"a device 'GPU C': choose one of GPU B; cpu: A, 1 thread"):
        cost.choose_device(found, kinds, gpu=True, prefix="GPU C")


def small():
    """Two tables of three runs each, of kinds x, y and z, a million images a run; one run is in both."""
    x = [Job(f"x{i}", "x", "First", "X on R", 1_000_000) for i in range(3)]
    y = [Job(f"y{i}", "y", "Second", "Y on R", 1_000_000) for i in range(2)]
    z = [Job("z0", "z", "Second", "Z on R", 1_000_000)]
    rows = {"First": x, "Second": [*y, *z, x[0]], cost.EVERYTHING: [*x, *y, *z]}
    measured = Rates(suite={"x": 3600 / 1e6, "y": 7200 / 1e6})  # an hour, two hours
    columns = [
        Column(Machine("two cores", 2), CPU, measured),
        Column(Machine("one GPU", 1, gpu=True), None, Rates()),
        Column(Machine("many cores", 50), CPU, measured),
    ]
    return Cost(rows, columns, "paper", 3)


def test_hours_by_hand_and_what_was_not_measured_is_said():
    text = small().markdown()
    assert "| First | 3 | 2.0 h | — | 1.0 h |\n" in text
    assert "| Second | 4 | more than 3.0 h | — | more than 2.0 h |\n" in text  # z is missing
    assert "| all tables | 6 | more than 4.0 h | — | more than 2.0 h |\n" in text  # 2 1 1 and 2 1
    assert f"two cores, many cores: rates of {CPU}; 7.0 h of runs in all, the longest 2.0 h." in text
    assert "two cores, many cores: not measured, and not in the sums: Z on R." in text
    assert (
        "one GPU: not measured: `python scripts/benchmark.py cells_gpu --json results/benchmarks.json`"
        in text
    )
    assert "1 networks ([which](results/cost.md))" in small().markdown(every=False)


def test_a_whole_table_that_was_not_measured_is_named_once():
    kinds = {"x": "X on R", "y": "Y on R", "z": "Z on R"}
    runs = small().rows[cost.EVERYTHING]
    assert cost._named({"x": kinds["x"], "z": kinds["z"]}, runs) == "First, all of it; Z on R"


def test_a_table_brings_what_its_runs_need_first():
    found = cost.jobs("colocalisation", trainer="paper", seeds=[0, 1])
    assert len(found) == 2 * 20 + 1 == len({job.identity for job in found})
    assert [job.label for job in found if job.label.startswith("CNN")] == ["CNN on P (table1, fast)"]
    assert len({job.kind for job in found}) == 3  # T, TC and the CNN


def test_pages_keep_what_is_around_the_marks(tmp_path):
    page, out = tmp_path / "README.md", tmp_path / "cost.md"
    page.write_text("Before.\n<!-- cost -->\nold\n<!-- /cost -->\nAfter.\n")
    assert cost.write(small(), out=out, page=page) == [out, page]
    assert (
        page.read_text() == f"Before.\n<!-- cost -->\n{small().markdown(every=False)}<!-- /cost -->\nAfter.\n"
    )
    assert out.read_text() == small().page()
    page.write_text("no marks")
    with pytest.raises(UserError, match="has no place for the costs"):
        cost.write(small(), out=None, page=page)


@pytest.fixture(scope="module")
def published():
    return cost.cost()


def test_the_published_pages_are_in_step_with_results_and_benchmarks(published):
    assert (ROOT / "results" / "cost.md").read_text() == published.page()


def test_every_table_with_its_runs(published):
    counts = {title: len(runs) for title, runs in published.rows.items()}
    assert list(counts.values()) == [96, 12, 24, 61, 12, 12, 217]


def test_a_machine_of_ones_own_and_files_of_another(tmp_path, monkeypatch):
    monkeypatch.setattr(cost.reproduce, "TABLES", {"tc": cost.TABLES["tc"]})
    path = tmp_path / "b.json"
    path.write_text(json.dumps({"cells": {"rows": [row("tc", "FCN", "TC", "paper", 1000)]}}))
    found = cost.cost(results=tmp_path, benchmarks=path, workers=2, device="cpu: A", seeds=[0, 1, 2])
    assert (
        "| all tables | 12 | more than 21.3 h |" in found.grid()
    )  # 38.4 million images a run, two runs on one core
    assert "|  | runs | 2 workers |" in found.grid()
    for wrong, message in (
        ({"workers": 0}, "is a whole number from 1"),
        ({"benchmarks": tmp_path / "none.json"}, "cannot be read"),
        ({"device": "cpu: C"}, "Nothing was measured on a device"),
    ):
        with pytest.raises(UserError, match=message):
            cost.cost(**{"results": tmp_path, "benchmarks": path, **wrong})
