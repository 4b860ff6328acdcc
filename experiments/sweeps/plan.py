"""The runs of a table: each cell with each seed, in the order in which they are trained."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from experiments.engine.build import UserError
from experiments.engine.configuration import CONFIGS, composing
from experiments.engine.files import ROOT
from experiments.engine.identity import decides
from experiments.engine.overrides import Overrides
from experiments.engine.required import Compose
from experiments.report import Row, Table
from experiments.sections import TABLES
from experiments.sweeps.job import (
    Job,
)

ALL = "all"  # of the tables
LAUNCHER = "hydra.launcher"  # above a launcher's own settings


def plan(
    table: str,
    *,
    trainer: str,
    seeds: Sequence[int],
    results: Path,
    extra: Sequence[str] = (),
    dataset: str | None = None,
) -> list[Job]:
    """All runs of a table, the most informative first: seed by seed, and in each the rows by the table's `priority`.

    The runs that they require are among them only where they stand in the table too; see `unfinished`.

    Args:
        table: "all" for every table: seed by seed, the first row of each, then the second of each ...; tables that are
            not the paper's come last.
        trainer: a schedule.
        seeds: of every cell.
        results: where results are published.
        extra: overrides that decide no result (device=, threads=, data_dir=, output_dir=, wandb.mode=); a launcher's
            settings may be among them.
        dataset: another than the experiments' own, such as cub50; with "all", only the tables whose images are of its
            kind.

    Raises:
        UserError: for an unknown table, trainer or data set, a data set that does not fit, or an override that would
            change what is measured.
    """
    if table not in (*TABLES, ALL):
        raise UserError(f"There is no table {table!r}: choose {' or '.join(TABLES)}, or {ALL}.")
    one_of("trainer", trainer)
    shared = Overrides.parse(extra).without(LAUNCHER)
    for override in shared.only(decides):
        raise UserError(f"{override.input_line} would change what a cell measures; use train.py for that.")
    if dataset is not None:
        one_of("dataset", dataset)
    more = [*([] if dataset is None else [f"dataset={dataset}"])]
    with composing() as make:
        fitting = [name for name in TABLES if dataset is None or _fits(make, dataset, TABLES[name])]
        chosen = fitting if table == ALL else [name for name in fitting if name == table]
        if not chosen:
            whose = "any table" if table == ALL else f"the table {table}"
            raise UserError(f"--dataset {dataset} is not of the kind of images that {whose} is about.")
        cells = []  # (not the paper's and rank of the row, table, row, column)
        for definition in (TABLES[name] for name in chosen):
            rows = definition.priority or tuple(definition.rows)
            cells += [
                ((not definition.of_paper, rows.index(row)), definition, row, column)
                for row, column in places(definition, rows)
            ]
        cells.sort(key=lambda cell: cell[0])
        by_cell = []
        # On a terminal: composing takes a tenth of a second a cell.
        for _, definition, row, column in tqdm(
            cells, desc="planning", unit="cell", leave=False, disable=None
        ):
            named = definition.trainers.get(trainer, trainer)
            words = [*definition.overrides(row, column), *more, f"trainer={named}", *shared.words]
            by_cell.append(_jobs(make, words, seeds, results, (definition.name, row, column)))
    planned = {jobs[i].folder: jobs[i] for i in range(len(seeds)) for jobs in by_cell}
    return [
        replace(job, requires=tuple(planned.get(one.folder, one) for one in job.requires))
        for job in planned.values()
    ]


def places(table: Table, rows: Sequence[Row]) -> list[tuple[Row, str]]:
    """The table's cells, row by row; of a row for which the paper has numbers, only those that it has.

    Where columns are metrics of the same runs, only the first is there.
    """
    columns = list(table.metrics)[:1] or table.columns
    return [
        (row, column) for row in rows for column in columns if column in table.paper.get(row, table.columns)
    ]


def one_of(group: str, name: str) -> None:
    known = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    if name not in known:
        raise UserError(f"There is no {group} {name!r}: choose one of {', '.join(known)}.")


def _fits(make: Compose, dataset: str, table: Table) -> bool:
    """Whether a data set is of the kind of the table's own."""
    theirs, ours = (make([f"dataset={name}"]).dataset._target_ for name in (dataset, table.dataset))
    return bool(theirs == ours)


def _jobs(
    make: Compose, words: Sequence[str], seeds: Sequence[int], results: Path, cell: tuple[str, Row, str]
) -> list[Job]:
    """A cell's jobs, one a seed, from one composed configuration."""
    cfg = make(words)
    jobs = []
    for seed in seeds:
        seeded = cfg.copy()
        seeded.seed = seed
        told = [*words, f"seed={seed}"]
        jobs.append(Job.of(seeded, told, root=ROOT, results=results, cell=cell, make=make))
    return jobs
