"""What is missing in the tables, and how long it takes."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.engine.durations import duration
from experiments.engine.files import ROOT
from experiments.engine.identity import config_hash
from experiments.engine.machine import threads_of
from experiments.engine.overrides import Overrides
from experiments.engine.result import Result
from experiments.sections import TABLES
from experiments.sweeps.estimates import Estimator, device_of, finished_runs
from experiments.sweeps.job import (
    Job,
    unfinished,
)
from experiments.sweeps.plan import plan


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
    estimate = estimator_for(jobs, at_once)
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
    estimated: dict[Path, float | None] = {}  # a run in two tables has one duration
    for name, table in TABLES.items():
        for trainer in dict.fromkeys(table.trainers.get(one, one) for one in ("paper", "fast")):
            jobs = plan(name, trainer=trainer, seeds=seeds, results=ROOT / "results")
            lacking = [job for job in jobs if config_hash(job.identity) not in known]
            for job in lacking:
                if job.folder not in estimated:
                    one = estimate(job, whole=True)
                    estimated[job.folder] = one.seconds if one else None
            schedule = str(jobs[0].cfg.trainer.name)
            found[table.title, schedule] = [estimated[job.folder] for job in lacking]
    return found, device


def evidence(jobs: Sequence[Job]) -> list[Result]:
    """Every finished run where these are published and where their run directories are, of whatever table.

    Of jobs that are not published, every published run of the repository.
    """
    published = {job.published.parents[1] for job in jobs if job.published} or {ROOT / "results" / "runs"}
    folders = {job.folder.parents[2] for job in jobs}
    paths = [path for root in published for path in root.glob("*/*.json")]
    paths += [path for root in folders for path in root.glob("*/*/seed_*/result.json")]
    return finished_runs(paths)


def estimator_for(jobs: Sequence[Job], at_once: int) -> Estimator:
    overrides = jobs[0].overrides if jobs else Overrides()
    device = device_of(overrides, threads_of(at_once) if at_once > 1 else None)
    return Estimator(evidence(jobs), device, list(TABLES.values()))


def seconds_of(job: Job, estimate: Estimator) -> float:
    """The time that a job takes, 0 where it is not known."""
    known = estimate(job)
    return known.seconds if known else 0.0


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
