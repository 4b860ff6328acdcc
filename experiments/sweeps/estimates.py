"""How long a run takes, on the evidence of finished ones: of its own cell, else of the nearest that has any."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch

from experiments.engine.build import UserError
from experiments.engine.compute import device_name
from experiments.engine.identity import identity, transform_name
from experiments.engine.result import Result
from experiments.report import Row, Table
from experiments.report.costs import duration

SHOWN = 3  # columns that a source names


@dataclass(frozen=True)
class Finished:
    """A finished run: its decisive configuration, seconds of training, and the device."""

    config: dict[str, Any]
    seconds: float
    device: str

    @property
    def seconds_per_image(self) -> float:
        return self.seconds / images(self.config)


@dataclass(frozen=True)
class Estimate:
    """source: where it is from, "" for its own cell.   near: from the same network on the same images."""

    seconds: float
    source: str
    near: bool = True

    def __str__(self) -> str:
        return f"{'about ' if self.near else '~'}{duration(self.seconds)}" + (
            f" ({self.source})" if self.source else ""
        )


def device_of(overrides: Iterable[str], threads: int | None = None) -> str:
    """What a run with these overrides computes on, as its result will call it.

    threads: of the CPU, where `threads=` says nothing; None: as many as torch takes.
    """
    told = dict(override.split("=", 1) for override in overrides if "=" in override)
    on_gpu = told.get("device") != "cpu" and torch.cuda.is_available()
    chosen = told.get("threads", "null")
    count = int(chosen) if chosen.isdigit() else threads or torch.get_num_threads()
    return device_name(torch.device("cuda" if on_gpu else "cpu"), count)


def finished_runs(paths: Iterable[Path]) -> list[Finished]:
    """What stands in these result files; those that hold no result count for nothing."""
    return [run for path in sorted({*paths}) if (run := _read(path)) is not None]


def _read(path: Path) -> Finished | None:
    try:
        held = Result.read(path)
        run = Finished(identity(held.config), held.wall_seconds, held.device)
        return run if run.seconds_per_image > 0 else None
    except (UserError, KeyError, TypeError, ZeroDivisionError):  # of a configuration that is none
        return None


def images(config: dict[str, Any]) -> int:
    """How many images a run trains on, each as often as it comes."""
    return int(config["trainer"]["iterations"]) * int(config["trainer"]["batch_size"])


def estimate(
    config: dict[str, Any], finished: Sequence[Finished], device: str, tables: Sequence[Table]
) -> Estimate | None:
    """The time that a run of this configuration takes from its first step to its last.

    From the nearest finished runs, their median for each image times the images of this run (so that another
    schedule counts by its length, not by its precision, and another column not by the size of its images):
    those of its own cell, with any seed; the same network on the same images, under another schedule; the same model
    with another transform; the same model in another column of its table.
    device: as in results; runs on other devices count only where there is none on it, and the source says so.
    returns: None where nothing of this kind is finished.
    """
    for here in (True, False):
        ranked = [
            (rank, run)
            for run in finished
            if (run.device == device) == here and (rank := _distance(config, run.config, tables)) is not None
        ]
        if not ranked:
            continue
        least = min(rank for rank, _ in ranked)
        chosen = [run for rank, run in ranked if rank == least]
        source = _source(config, [run.config for run in chosen], least[0], tables)
        if not here:
            elsewhere = " / ".join(sorted({run.device or "an unknown device" for run in chosen}))
            source = ", ".join([*([source] if source else []), f"on {elsewhere}"])
        each = statistics.median(run.seconds_per_image for run in chosen)
        return Estimate(each * images(config), source, near=least[0] < OTHER_TRANSFORM)
    return None


SAME_CELL, SAME_NETWORK, OTHER_TRANSFORM, OTHER_COLUMN = range(4)


def _distance(
    ours: dict[str, Any], theirs: dict[str, Any], tables: Sequence[Table]
) -> tuple[float, ...] | None:
    """How far a finished run is from one: the smallest first; None where it says nothing about it."""
    if _cell(ours) == _cell(theirs):
        return (SAME_CELL,)
    length = abs(math.log(images(ours) / images(theirs)))  # the schedule most like it
    if _images(ours) == _images(theirs):
        if _network(ours) == _network(theirs):
            return SAME_NETWORK, length
        if _model(ours) == _model(theirs):
            return OTHER_TRANSFORM, length
    place, other = place_of(ours, tables), place_of(theirs, tables)
    if _model(ours) == _model(theirs) and place and other and place[0] is other[0]:
        larger = abs(math.log(_side(ours) / _side(theirs)))
        return OTHER_COLUMN, larger, _transform(ours) != _transform(theirs), length
    return None


def _source(
    ours: dict[str, Any], theirs: Sequence[dict[str, Any]], level: float, tables: Sequence[Table]
) -> str:
    """In words of the tables: the schedule, the row, the columns, as far as they differ from ours."""
    if level == SAME_CELL:
        return ""
    trainers = " / ".join(sorted({config["trainer"]["name"] for config in theirs}))
    other_schedule = trainers != ours["trainer"]["name"]
    if level == SAME_NETWORK and other_schedule:
        return f"from {trainers}"
    places = [place for config in theirs if (place := place_of(config, tables))]
    source = " / ".join(dict.fromkeys(_row_label(config, tables) for config in theirs))
    if level != OTHER_TRANSFORM and places:
        found = {column for _, _, column in places}
        columns = [header for column, header in places[0][0].columns.items() if column in found]
        more = f" and {len(columns) - SHOWN} more" if len(columns) > SHOWN else ""
        source += f" on {', '.join(columns[:SHOWN])}{more}"
    return f"from {source}{f' in {trainers}' if other_schedule else ''}"


def _row_label(config: dict[str, Any], tables: Sequence[Table]) -> str:
    place = place_of(config, tables)
    return (
        place[0].rows[place[1]] if place else f"{config['model']['name']} {_transform(config) or ''}".strip()
    )


def place_of(config: dict[str, Any], tables: Sequence[Table]) -> tuple[Table, Row, str] | None:
    """The cell that a run of this configuration stands in: table, row, column."""
    result = SimpleNamespace(
        experiment=config["experiment"],
        model=config["model"]["name"],
        transform=_transform(config),
        config=config,
    )
    for table in tables:
        found = table.place(cast(Result, result))
        if found and found[0] in table.rows and found[1] in table.columns:
            return table, *found
    return None


def _transform(config: dict[str, Any]) -> str | None:
    return transform_name(config)


def _cell(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "seed"}


def _images(config: dict[str, Any]) -> tuple[Any, ...]:
    """What an image costs to make and what its size is; not which images they are."""
    dataset = config["dataset"]
    return config["experiment"], dataset.get("distort"), dataset.get("size")


def _model(config: dict[str, Any]) -> tuple[Any, ...]:
    """A network but for its transform."""
    model = config["model"]
    return model["name"], model.get("num_transformers"), model.get("backbone", {}).get("arch")


def _network(config: dict[str, Any]) -> tuple[Any, ...]:
    model = {key: value for key, value in config["model"].items() if key != "backbone"}
    return *_model(config), model  # whatever weights a backbone starts with


def _side(config: dict[str, Any]) -> float:
    """Pixels a side of an image; a digit's own where nothing says more."""
    dataset = config["dataset"]
    return float(dataset.get("size") or dataset.get("distort", {}).get("canvas", 28))
