"""Suites cells and cells_gpu: how fast every network of every table trains, as each schedule trains it.

`scripts/cost.py` multiplies these rates out.
"""

import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from experiments.benchmarks.ours import config, optimizer_config
from experiments.benchmarks.rows import Table
from experiments.engine import rundir
from experiments.engine.build import build
from experiments.engine.compute import Compute, choose
from experiments.engine.configuration import composing
from experiments.engine.optim import make_optimizer
from experiments.engine.run import assemble
from experiments.engine.step import make_step
from experiments.sweeps import estimates, reproduce
from stn.models.mnist import cnn

SCHEDULES = ("paper", "fast")
PHOTOGRAPHS = {"cpu": 8, "cuda": 32}  # at most so many in a batch
ROUND = 0.1  # seconds that a round lasts, in whole steps
ENOUGH = 1.5  # seconds after which three rounds do


@dataclass(frozen=True)
class Cell:
    """What stands for every cell that trains the same network on images of the same kind under the same schedule.

    table, row, column: in the tables' words.   overrides: what train.py would be told.
    """

    table: str
    row: str
    column: str
    overrides: tuple[str, ...]


def every_cell() -> list[Cell]:
    """One of each kind, in the order of the tables."""
    cells: dict[str, Cell] = {}
    with composing() as make:
        for table, telling in reproduce.TABLES.values():
            for row, column in reproduce.places(table, telling):
                for trainer in dict.fromkeys(table.trainers.get(name, name) for name in SCHEDULES):
                    told = [*table.overrides(row, column), f"trainer={trainer}"]
                    kind = estimates.kind(rundir.identity(make(told)))
                    cell = Cell(table.name, table.rows[row], table.columns[column], tuple(told))
                    cells.setdefault(kind, cell)
    return list(cells.values())


def cell_step(overrides: tuple[str, ...], device: str) -> tuple[Callable[[], Any], DictConfig, Compute, int]:
    """A training step as train.py makes it, of digits on scikit-learn's, of photographs on one random batch for ever.

    device: cpu, with one thread, or cuda.   returns: the step, its configuration, what it computes on, its batch.
    """
    digits = "distort" in config(*overrides).dataset
    cfg = config(*overrides, "dataset=digits" if digits else "backbone.weights=none")
    compute = choose(device, cfg.trainer.precision, 1 if device == "cpu" else None)
    batch = cfg.trainer.batch_size if digits else min(cfg.trainer.batch_size, PHOTOGRAPHS[device])
    if digits:
        data, model = assemble(cfg, compute.device)
        stream = data.train_stream(batch)
    else:
        model, stream = _on_photographs(cfg, compute.device, batch)
    task = _task(cfg)
    if isinstance(task, nn.Module):
        task.to(compute.device)
    optimizer = make_optimizer(model, optimizer_config(cfg), plain=compute.plain)
    step = make_step(model.train(), optimizer, stream, task, compute.autocast, graph=compute.graph)
    return step, cfg, compute, batch


class _Photographs:
    """A stream that costs nothing."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self._batch = images, labels

    def next_batch(self) -> tuple[Tensor, Tensor]:
        return self._batch


def _on_photographs(cfg: DictConfig, device: torch.device, batch: int) -> tuple[nn.Module, _Photographs]:
    side, classes = cfg.dataset.size, cfg.dataset.expected.classes
    torch.manual_seed(cfg.seed)
    model = build(cfg.model, in_shape=(3, side, side), num_classes=classes).to(device)
    images = torch.rand(batch, 3, side, side, device=device)
    labels = torch.randint(classes, (batch,), device=device)
    return model.to(memory_format=torch.channels_last), _Photographs(images, labels)


def _task(cfg: DictConfig) -> Any:
    """The task; one that describes crops has an untrained network for it, which costs the same."""
    node = OmegaConf.to_container(cfg.task, resolve=True)
    assert isinstance(node, dict)
    if node.pop("embedding", None) is None:
        return build(node)
    side = cfg.model.out_size
    network = cnn(in_shape=(1, side, side), num_classes=10)
    return build({**node, "_partial_": True})((network, {"metrics": {"test_error": 0.0}}))


def measure(cell: Cell, device: str, rounds: int) -> dict[str, Any]:
    """The cell's row.   raises: RuntimeError where it cannot be trained, with what was said."""
    try:
        step, cfg, compute, batch = cell_step(cell.overrides, device)
        on_gpu = compute.device.type == "cuda"
        for _ in range(6 if on_gpu else 1):  # a GPU's first steps record its graph
            step()
        _wait(on_gpu)
        rates: list[float] = []
        begun = time.perf_counter()
        while len(rates) < rounds and (len(rates) < 3 or time.perf_counter() - begun < ENOUGH):
            steps, start = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - start) < ROUND or not steps:
                step()
                steps += 1
            _wait(on_gpu)
            elapsed = time.perf_counter() - start
            rates.append(steps * batch / elapsed)
    except Exception as error:
        told = " ".join(cell.overrides)
        raise RuntimeError(f"{told}: {type(error).__name__}: {error}") from error
    low, median, high = statistics.quantiles(rates, n=4, method="inclusive")
    return {
        "table": cell.table,
        "network": cell.row,
        "column": cell.column,
        "schedule": cfg.trainer.name,
        "precision": compute.precision,
        "batch": batch,
        "images/s": _short(median),
        "quartiles": f"{_short(low)}–{_short(high)}",
        "device": compute.name,
    }


def _wait(on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.synchronize()


def _short(rate: float) -> float:
    return round(rate) if rate >= 100 else round(rate, 2)


def cells(rounds: int) -> Table:
    return _suite(
        "cells",
        "cpu",
        "One thread each, one process a core at the same time, as `scripts/reproduce.py` runs them.",
        rounds,
    )


def cells_gpu(rounds: int) -> Table:
    return _suite("cells_gpu", "cuda", "One process on the GPU.", rounds)


def _suite(name: str, device: str, how: str, rounds: int) -> Table:
    table = Table(
        f"{name}: images a second in training, every network of every table",
        [
            f"{how} Batch and precision are the schedule's own, and its optimiser; photographs come in batches of "
            f"{PHOTOGRAPHS[device]} at most, random and ready-made: nothing is decoded.",
            "One line stands for all cells that train the same network on such images: a line of co-localisation for "
            "all digits.",
        ],
        repeats=f"3 to {rounds} rounds of a step or {ROUND:g} s",
    )
    if device == "cuda" and not torch.cuda.is_available():
        table.notes.append("Skipped: no CUDA device.")
        return table
    every = every_cell()
    workers = reproduce.usual_jobs([f"device={device}"])
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        table.rows.extend(pool.map(measure, every, itertools.repeat(device), itertools.repeat(rounds)))
    return table
