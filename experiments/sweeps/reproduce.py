"""Fills one table or all: lists missing cells, trains what a time budget allows, publishes what is finished.

Everything is kept in two places only: run directories (resumable, `outputs/`) and published results (`results/`).
"""

import re
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from experiments.engine.build import UserError
from experiments.engine.configuration import CONFIGS, composing
from experiments.engine.durations import duration
from experiments.engine.files import ROOT
from experiments.engine.identity import config_hash, decides
from experiments.engine.machine import threads_of
from experiments.engine.overrides import Overrides
from experiments.engine.required import Compose
from experiments.engine.result import Result
from experiments.report import Row, Table
from experiments.sections import TABLES
from experiments.sweeps.estimates import Estimator, device_of, finished_runs
from experiments.sweeps.job import INTERRUPTED, Job, Outcome, blocked, outcome, summary, unfinished
from experiments.sweeps.pool import run_pool
from experiments.sweeps.publish import publish, refuse_dirty_tree

ALL = "all"  # of them
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
        table: "all" for every table: seed by seed, the first row of each, then the second of each ...
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
    _one_of("trainer", trainer)
    shared = Overrides.parse(extra).without(LAUNCHER)
    for override in shared.only(decides):
        raise UserError(f"{override.input_line} would change what a cell measures; use train.py for that.")
    if dataset is not None:
        _one_of("dataset", dataset)
    more = [*([] if dataset is None else [f"dataset={dataset}"])]
    with composing() as make:
        fitting = [name for name in TABLES if dataset is None or _fits(make, dataset, TABLES[name])]
        chosen = fitting if table == ALL else [name for name in fitting if name == table]
        if not chosen:
            whose = "any table" if table == ALL else f"the table {table}"
            raise UserError(f"--dataset {dataset} is not of the kind of images that {whose} is about.")
        cells = []  # (rank of the row, table, row, column)
        for definition in (TABLES[name] for name in chosen):
            rows = definition.priority or tuple(definition.rows)
            cells += [(rows.index(row), definition, row, column) for row, column in places(definition, rows)]
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
    """The table's cells, row by row; without those that the paper has not."""
    return [
        (row, column)
        for row in rows
        for column in table.columns
        if not table.paper or column in table.paper.get(row, {})
    ]


def _one_of(group: str, name: str) -> None:
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


def evidence(jobs: Sequence[Job]) -> list[Result]:
    """Every finished run where these are published and where their run directories are, of whatever table."""
    published = {job.published.parents[1] for job in jobs if job.published}
    folders = {job.folder.parents[2] for job in jobs}
    paths = [path for root in published for path in root.glob("*/*.json")]
    paths += [path for root in folders for path in root.glob("*/*/seed_*/result.json")]
    return finished_runs(paths)


def missing(
    finished: Sequence[Result], *, seeds: Sequence[int] = (0, 1, 2)
) -> tuple[dict[tuple[str, str], list[float | None]], str]:
    """The runs that the tables lack under the schedules paper and fast, and how long each would take.

    Args:
        finished: Every finished run; they alone decide, not the run directories of this machine.
        seeds: Of every cell.

    Returns:
        (table title, schedule) -> seconds of each missing run, None where nothing like it is finished; and the device
        that the seconds are for: the one that most finished runs used.
    """
    known = {config_hash(result.config) for result in finished}
    devices = Counter(result.device for result in finished)
    device = max(sorted(devices), key=lambda name: devices[name], default="")
    estimate = Estimator(finished, device, list(TABLES.values()))
    found: dict[tuple[str, str], list[float | None]] = {}
    for name, table in TABLES.items():
        for trainer in ("paper", "fast"):
            jobs = plan(name, trainer=trainer, seeds=seeds, results=ROOT / "results")
            each = [estimate(job, whole=True) for job in jobs if config_hash(job.identity) not in known]
            schedule = str(jobs[0].cfg.trainer.name)
            found[table.title, schedule] = [one.seconds if one else None for one in each]
    return found, device


def parse_budget(text: str | None) -> float:
    """ "90s", "30m", "2h", "1h30m" in seconds; None is without end. Raises UserError for anything else."""
    if text is None:
        return float("inf")
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    if not text or match is None:
        raise UserError(f"--budget {text} is not a time: write 90s, 30m, 2h or 1h30m.")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return hours * 3600.0 + minutes * 60.0 + seconds


def parse_seeds(text: str) -> list[int]:
    """ "0,1,2" as numbers. Raises UserError for anything else."""
    if not all(seed.isdigit() for seed in text.split(",")):
        raise UserError(f"--seeds {text} is not a list of seeds: write 0,1,2.")
    return [int(seed) for seed in text.split(",")]


def reproduce(
    jobs: Sequence[Job],
    *,
    budget: float = float("inf"),
    at_once: int = 1,
    publishing: bool = True,
    report: Callable[[str], object] = print,
) -> list[Outcome]:
    """Trains the missing runs in order, until none is missing or the budget is spent, and publishes what is finished.

    A run starts when those that it requires are finished. A run that would not end within the budget is started all the
    same: it is stopped in time, and the same command goes on from its checkpoint. A run known to need more than is left
    gives way to a later one that fits.

    Args:
        jobs: of `plan`.
        budget: seconds.
        at_once: so many at a time, the processor's cores divided among them; above one, what each prints goes to
            train.log in its run directory.
        publishing: whether finished results are published.
        report: is given the lines for the terminal.

    Returns:
        An outcome for each run, those that others require among them.

    Raises:
        UserError: where results would be published and the code is not committed.
    """
    outcomes, waiting = _begin(jobs, publishing, report)
    count = len(waiting)
    estimate = Estimator([], "", ())

    def next_job(left: float) -> Job | None:
        for job in list(waiting):
            if (hindered := blocked(job, outcomes)) is not None:
                outcomes[job.folder] = hindered
                waiting.remove(job)
        ready = [job for job in waiting if all(one.trained() for one in job.requires)]
        if not ready:
            return None
        job = next((job for job in ready if _seconds(job, estimate) <= left), ready[0])
        waiting.remove(job)
        report(f"\n{job.label}  ({count - len(waiting)} of {count})")
        return job

    def ended(job: Job, status: int | None) -> None:
        nonlocal estimate
        outcomes[job.folder] = outcome(job, status)
        if publishing:
            publish([job], report)
        if at_once > 1:
            report(str(outcomes[job.folder]))
        if budget < float("inf"):
            estimate = _estimator(jobs, at_once)

    if budget < float("inf"):
        estimate = _estimator(jobs, at_once)
    run_pool(next_job, ended, at_once=at_once, budget=budget)
    for job in waiting:
        outcomes.setdefault(job.folder, Outcome(job.label, "open"))
    return _end(outcomes, report)


def launch(
    jobs: Sequence[Job],
    launcher: str,
    settings: Sequence[str] = (),
    *,
    publishing: bool = True,
    report: Callable[[str], object] = print,
) -> list[Outcome]:
    """Hands the missing runs to one of Hydra's launchers, as one sweep, waits for them and publishes what is finished.

    Args:
        jobs: of `plan`.
        launcher: a file of configs/launcher.
        settings: of it, such as hydra.launcher.partition=gpu.
        publishing, report: as of `reproduce`.

    Returns:
        As `reproduce`.

    Raises:
        UserError: as `reproduce`, and for an unknown launcher.
        KeyboardInterrupt: where the sweep was interrupted.
    """
    _one_of("launcher", launcher)
    outcomes, waiting = _begin(jobs, publishing, report)
    status = 0
    if waiting:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("".join(f"{shlex.join(job.overrides.words)}\n" for job in waiting))
            file.flush()
            command = [sys.executable, "train.py", "-m", f"hydra.sweeper.file={file.name}"]
            command += [f"launcher={launcher}", *settings]
            status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if publishing:
        publish(waiting, report)
    outcomes |= {job.folder: outcome(job, None) for job in waiting}
    ended = _end(outcomes, report)
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    return ended


def overview(
    jobs: Sequence[Job], *, at_once: int = 1, listed: bool = False, report: Callable[[str], object] = print
) -> None:
    """What is missing and how long it takes: a line for each table, and the sum. Trains and writes nothing.

    Args:
        jobs: of `plan`.
        at_once: so many runs at a time.
        listed: also a line for each missing run.
        report: is given the lines for the terminal.
    """
    waiting = unfinished(jobs)
    estimate = _estimator(jobs, at_once)
    known = {job.folder: estimate(job) for job in waiting}
    lines = []
    for name in [*TABLES, ""]:
        cells = {job.cell for job in jobs if _table(job) == name}
        left = [job for job in waiting if _table(job) == name]
        if cells or left:
            filled = len(cells) - len({job.cell for job in left if job.result() is None})
            of_cells = f"{filled} of {len(cells)}" if name else ""
            seconds = [one.seconds for job in left if (one := known[job.folder])]
            time = duration(sum(seconds)) if seconds or not left else "unknown"
            title = TABLES[name].title if name else "required by them"
            lines.append([title, of_cells, str(len(left)), time, str(len(left) - len(seconds))])
    heads = ["table", "cells filled", "runs missing", "time left", "runs of unknown time"]
    report(_columns([heads, *lines]))
    total = sum(one.seconds for one in known.values() if one)
    at_a_time = f", {duration(total / at_once)} with {at_once} at a time" if at_once > 1 else ""
    report(
        f"In all {duration(total)} of runs on {estimate.device}{at_a_time}; "
        f"unknown: {list(known.values()).count(None)} of {len(waiting)} runs."
    )
    for job in waiting if listed else ():
        report(f"  {'started' if job.started else 'missing'}  {job.label}  {known[job.folder] or 'unknown'}")
    if waiting and not listed:
        report("Each run: --list.")


def _begin(
    jobs: Sequence[Job], publishing: bool, report: Callable[[str], object]
) -> tuple[dict[Path, Outcome], list[Job]]:
    """Publishes what is finished. Returns the outcomes of finished runs, and the runs to make, in order."""
    waiting = unfinished(jobs)
    if publishing and waiting:
        refuse_dirty_tree()
    if publishing:
        publish(jobs, report)
    open_folders = {job.folder for job in waiting}
    finished = [job for job in jobs if job.folder not in open_folders]
    outcomes = {job.folder: Outcome(job.label, "skipped", "finished before") for job in finished}
    report(f"{len(finished) + len(waiting)} runs: {len(finished)} finished, {len(waiting)} missing.")
    return outcomes, waiting


def _end(outcomes: dict[Path, Outcome], report: Callable[[str], object]) -> list[Outcome]:
    """Prints the summary, without a line for a run that was finished before or not begun."""
    ended = list(outcomes.values())
    shown = [one for one in ended if one.kind in ("done", "failed") or (one.kind == "open" and one.reason)]
    report(summary(ended, shown))
    return ended


def _columns(lines: Sequence[Sequence[str]]) -> str:
    """Lines of texts as columns for the terminal: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(text.rjust(n) for text, n in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )


def _table(job: Job) -> str:
    return job.cell[0] if job.cell else ""


def _seconds(job: Job, estimate: Estimator) -> float:
    """The time that a job takes, 0 where it is not known."""
    known = estimate(job)
    return known.seconds if known else 0.0


def _estimator(jobs: Sequence[Job], at_once: int) -> Estimator:
    overrides = jobs[0].overrides if jobs else Overrides()
    device = device_of(overrides, threads_of(at_once) if at_once > 1 else None)
    return Estimator(evidence(jobs), device, list(TABLES.values()))
