"""The suites cells and cells_gpu: one line a kind of cell, each trained as its schedule trains it."""

import pytest
import torch

from experiments import cost
from experiments.benchmarks import cells
from experiments.benchmarks.cells import Cell
from experiments.sections import TABLES
from experiments.sweeps import estimates, reproduce


def test_one_line_for_cells_that_cost_the_same(monkeypatch):
    tables = {name: TABLES[name] for name in ("tc", "3d")}
    monkeypatch.setattr(reproduce, "TABLES", tables)
    found = cells.every_cell()
    assert [(cell.row, cell.overrides[-1]) for cell in found[:3]] == [
        ("ST-CNN affine", "trainer=paper"), ("ST-CNN affine", "trainer=fast"), ("CNN", "trainer=paper"),
    ]  # fmt: skip
    assert len(found) == 4 * 2 + 4  # the paper gives 3-D no schedule


@pytest.mark.parametrize(
    ("overrides", "batch", "precision"),
    [
        (("experiment=mnist_r", "model=fcn", "trainer=paper"), 256, "fp32"),
        (("experiment=colocalisation", "images=t", "dataset.digit=3", "trainer=fast"), 50, None),
        (("experiment=cub_cnn_224", "trainer=paper_birds", "dataset.size=64"), 8, "fp32"),
    ],
)
def test_a_step_is_the_schedules(overrides, batch, precision, monkeypatch):
    choose = cells.choose  # leaves this process its threads
    monkeypatch.setattr(cells, "choose", lambda device, asked, threads: choose(device, asked, None))
    monkeypatch.setattr(cells, "ROUND", 0.0)
    monkeypatch.setattr(cells, "ENOUGH", 0.0)
    row = cells.measure(Cell("t", "r", "c", overrides), "cpu", 9)
    assert (row["batch"], row["precision"]) == (batch, precision or row["precision"])
    assert row["images/s"] > 0 and row["device"].startswith("cpu: ")


def test_a_cell_that_cannot_be_trained_is_named():
    with pytest.raises(RuntimeError, match=r"^experiment=mnist_r model=cnn model.width=x: \w+: ."):
        cells.measure(Cell("t", "r", "c", ("experiment=mnist_r", "model=cnn", "model.width=x")), "cpu", 3)


def test_a_row_is_found_again_by_the_calculator():
    cell = Cell("tc", "FCN", "TC", ("experiment=mnist_tc", "model=fcn"))
    row = {"table": cell.table, "network": cell.row, "column": cell.column, "schedule": "paper", "images/s": 4.0,
           "device": "cpu: A, 1 thread"}  # fmt: skip
    kinds = {job.label: job.kind for job in cost.jobs("tc", trainer="paper", seeds=[0])}
    found = cost.rates([], {"cells": {"rows": [row]}}, kinds)
    kind = estimates.kind(cells.rundir.identity(cells.config(*cell.overrides)))
    assert found["cpu: A, 1 thread"].seconds_per_image(kind) == 0.25


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would measure")
def test_without_a_gpu_its_suite_says_so():
    table = cells.cells_gpu(3)
    assert table.rows == [] and table.notes[-1] == "Skipped: no CUDA device."
