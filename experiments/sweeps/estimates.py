"""How long a run takes, by the finished runs that are most like it."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.engine.build import UserError
from experiments.engine.compute import device_name
from experiments.engine.durations import duration
from experiments.engine.identity import identity, transform_name
from experiments.engine.overrides import Overrides
from experiments.engine.result import Result
from experiments.report import Row, Table
from experiments.sweeps.job import Job

SHOWN = 3  # columns that a source names
Config = Mapping[str, Any]


@dataclass(frozen=True)
class Estimate:
    """Seconds of training; `source`, the runs that they are from, "" for the cell's own; `near`, the same network on
    the same images."""

    seconds: float
    source: str
    near: bool

    def __str__(self) -> str:
        about = f"{'about ' if self.near else '~'}{duration(max(self.seconds, 60))}"
        return about + (f" ({self.source})" if self.source else "")


@dataclass(frozen=True)
class _Run:
    """What an estimate compares: of a finished run or of one to come."""

    config: Config
    cell: tuple[Table, Row, str] | None

    @property
    def images(self) -> int:
        """How many images the run trains on, each as often as it comes."""
        return int(self.config["trainer"]["iterations"]) * int(self.config["trainer"]["batch_size"])

    @property
    def side(self) -> float:
        """Pixels a side of an image; a digit's own where nothing says more."""
        dataset = self.config["dataset"]
        return float(dataset.get("size") or dataset.get("distort", {}).get("canvas", 28))

    @property
    def levels(self) -> list[object]:
        """What a run shares with the runs that are like it, the most like it first; None: with none."""
        model, dataset = self.config["model"], self.config["dataset"]
        name = (model["name"], model.get("num_transformers"), model.get("backbone", {}).get("arch"))
        network = (*name, {key: value for key, value in model.items() if key != "backbone"})
        images = (self.config["experiment"], dataset.get("distort"), dataset.get("size"))
        return [
            {key: value for key, value in self.config.items() if key != "seed"},  # its own cell
            (network, images),  # under another schedule
            (name, images),  # with another transform
            self.cell and (name, self.cell[0].name),  # in another column of the table
        ]

    @property
    def row(self) -> str:
        if self.cell is None:
            return f"{self.config['model']['name']} {transform_name(self.config) or ''}".strip()
        return self.cell[0].rows[self.cell[1]]


class Estimator:
    """The time that runs take from their first step to their last, by finished ones.

    The median of the nearest finished runs for each image, times the images of the run: another schedule counts by its
    length, not by its precision, and another column not by the size of its images. Runs on other devices count only
    where there is none on this one, and the source says so.

    Args:
        finished: of any table.
        device: as in results.
        tables: in which cells are looked for.
    """

    def __init__(self, finished: Iterable[Result], device: str, tables: Sequence[Table]) -> None:
        self.device = device
        self.tables = {table.name: table for table in tables}
        self.known = []
        for result in finished:
            run = _Run(identity(result.config), self._cell_of(result))
            if {"trainer", "model", "dataset"} <= run.config.keys() and result.wall_seconds > 0:
                self.known.append((run, run.levels, result))

    def __call__(self, job: Job, *, whole: bool = False) -> Estimate | None:
        """The time that a job takes; None where nothing like it is finished.

        Args:
            job: to be run.
            whole: also what its checkpoint has done already.
        """
        cell = (self.tables[job.cell[0]], *job.cell[1:]) if job.cell and self.tables else None
        ours = _Run(job.identity, cell)
        wanted = ours.levels
        for here in (True, False):
            candidates = [one for one in self.known if (one[2].device == self.device) == here]
            for level, key in enumerate(wanted):
                alike = [(run, result) for run, keys, result in candidates if key and keys[level] == key]
                if alike:
                    nearest = min(_distance(ours, run) for run, _ in alike)
                    chosen = [one for one in alike if _distance(ours, one[0]) == nearest]
                    each = statistics.median(result.wall_seconds / run.images for run, result in chosen)
                    source = _source(ours, [run for run, _ in chosen], level)
                    if not here:
                        elsewhere = " / ".join(sorted({result.device for _, result in chosen}))
                        source = f"{source + ', ' if source else ''}on {elsewhere}"
                    return Estimate(each * ours.images * (1 if whole else job.left), source, near=level < 2)
        return None

    def _cell_of(self, result: Result) -> tuple[Table, Row, str] | None:
        for table in self.tables.values():
            place = table.place(result)
            if place and place[0] in table.rows and place[1] in table.columns:
                return table, *place
        return None


def _distance(ours: _Run, theirs: _Run) -> tuple[float, ...]:
    """Of runs on one level: the size of images, then the transform, then the length of the schedule."""
    return (
        abs(math.log(ours.side / theirs.side)),
        transform_name(ours.config) != transform_name(theirs.config),
        abs(math.log(ours.images / theirs.images)),
    )


def _source(ours: _Run, theirs: Sequence[_Run], level: int) -> str:
    """The schedule, the row and the columns of finished runs, as far as they differ from ours."""
    trainers = " / ".join(sorted({run.config["trainer"]["name"] for run in theirs}))
    other_schedule = trainers != ours.config["trainer"]["name"]
    if level == 0 or (level == 1 and other_schedule):
        return f"from {trainers}" if level else ""
    source = " / ".join(dict.fromkeys(run.row for run in theirs))
    cells = [run.cell for run in theirs if run.cell]
    if level != 2 and cells:
        columns = [
            header for key, header in cells[0][0].columns.items() if key in {cell[2] for cell in cells}
        ]
        more = f" and {len(columns) - SHOWN} more" if len(columns) > SHOWN else ""
        source += f" on {', '.join(columns[:SHOWN])}{more}"
    return f"from {source}{f' in {trainers}' if other_schedule else ''}"


def finished_runs(paths: Iterable[Path]) -> list[Result]:
    """The results in these files, each file once; files that hold none are passed over."""
    found = []
    for path in sorted({*paths}):
        try:
            found.append(Result.read(path))
        except UserError:
            continue
    return found


def device_of(overrides: Overrides, threads: int | None = None) -> str:
    """What a run with these overrides computes on, as its result will call it.

    Args:
        overrides: of `train.py`.
        threads: of the CPU, where `threads=` says nothing; None: as many as torch takes.
    """
    on_gpu = overrides.value("device") != "cpu" and torch.cuda.is_available()
    count = overrides.value("threads") or threads or torch.get_num_threads()
    return device_name(torch.device("cuda" if on_gpu else "cpu"), count)
