"""What a full reproduction costs: every table's runs at measured rates, laid whole onto the workers of some machines.

A rate is images a second in training: of finished runs, or of the suites cells and cells_gpu (scripts/benchmark.py) for
networks that none has trained under the schedule yet. Where neither has measured, it is said; nothing is guessed.
"""

import heapq
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.engine.build import UserError
from experiments.engine.configuration import configuration
from experiments.engine.files import ROOT
from experiments.engine.identity import config_hash, identity
from experiments.report import embed
from experiments.sections import TABLES
from experiments.sweeps import estimates, reproduce
from experiments.sweeps.estimates import Finished

SUITES = {False: "cells", True: "cells_gpu"}
MARK = "cost"  # of its place on a page
MISSING = "\N{EM DASH}"
EVERYTHING = "all tables"
LONGEST_FIRST = (
    "Each run stays whole, on one worker: the longest left is begun wherever one falls free. Hours are from the first "
    "run's begin to the last one's end, of training alone: starts, tests and pictures are left out, and so is the "
    "wait of co-localisation's runs for the CNN of Table 1 that describes their crops, which is among the runs."
)


@dataclass(frozen=True)
class Machine:
    """workers: runs at a time, one a core or one a GPU."""

    title: str
    workers: int
    gpu: bool = False


MACHINES = (
    Machine("two cores", 2),
    Machine("one GPU", 1, gpu=True),
    Machine("eight GPUs", 8, gpu=True),
    Machine("100 nodes of two cores", 200),
    Machine("100 nodes of one GPU", 100, gpu=True),
)


@dataclass(frozen=True)
class Job:
    """A run.   kind: what it shares with all that need the same time an image.   table, label: of it, for people."""

    identity: str
    kind: str
    table: str
    label: str
    images: int


@dataclass
class Rates:
    """Of one device: kind -> seconds an image, every measurement."""

    runs: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    suite: dict[str, float] = field(default_factory=dict)

    def seconds_per_image(self, kind: str) -> float | None:
        """Finished runs' median before the suite's, which took a few steps."""
        return statistics.median(self.runs[kind]) if self.runs.get(kind) else self.suite.get(kind)

    @property
    def measured(self) -> set[str]:
        return {*self.runs, *self.suite}


def jobs(table: str, *, trainer: str, seeds: Sequence[int]) -> list[Job]:
    """A table's runs, and those that they need first: the network that describes crops for co-localisation."""
    found: dict[str, Job] = {}
    for run in reproduce.plan(table, trainer=trainer, seeds=seeds, results=ROOT / "results"):
        first = run.config["task"].get("embedding", {}).get("overrides")
        for config in [run.config] if first is None else [run.config, needed(tuple(first))]:
            job = _job(config)
            found.setdefault(job.identity, job)
    return list(found.values())


_needed: dict[tuple[str, ...], dict[str, Any]] = {}


def needed(overrides: tuple[str, ...]) -> dict[str, Any]:
    """The configuration of a run that others need; the same for all of a section."""
    if overrides not in _needed:
        _needed[overrides] = identity(configuration(overrides))
    return _needed[overrides]


def _job(config: dict[str, Any]) -> Job:
    place = estimates.place_of(config, list(TABLES.values()))
    assert place is not None
    definition, row, column = place
    label = label_of(
        definition.name, definition.rows[row], definition.columns[column], config["trainer"]["name"]
    )
    return Job(config_hash(config), estimates.kind(config), definition.title, label, estimates.images(config))


def label_of(table: str, row: str, column: str, schedule: str) -> str:
    return f"{row} on {column} ({table}, {schedule})"


def rates(
    finished: Iterable[Finished], benchmarks: Mapping[str, Any], kinds: Mapping[str, str]
) -> dict[str, Rates]:
    """Device -> what was measured on it.

    benchmarks: the content of results/benchmarks.json.   kinds: a job's label -> its kind.
    """
    found: dict[str, Rates] = defaultdict(Rates)
    for run in finished:
        found[run.device].runs[estimates.kind(run.config)].append(run.seconds_per_image)
    for suite in SUITES.values():
        for row in benchmarks.get(suite, {}).get("rows", []):
            label = label_of(row["table"], row["network"], row["column"], row["schedule"])
            if label in kinds:
                found[row["device"]].suite[kinds[label]] = 1 / row["images/s"]
    return dict(found)


def choose_device(
    found: Mapping[str, Rates], kinds: set[str], *, gpu: bool, prefix: str | None = None
) -> str | None:
    """The device of a kind on which most of the kinds are measured: a GPU, or one thread of a processor.

    prefix: of its name, instead.   returns: None where nothing is measured on such a one.
    raises: UserError for a prefix that no measured device has.
    """
    if prefix is not None:
        fitting = [name for name in found if name.startswith(prefix)]
        if not fitting:
            raise UserError(
                f"Nothing was measured on a device {prefix!r}: choose one of {'; '.join(sorted(found)) or 'none'}, or "
                "measure with python scripts/benchmark.py cells --json FILE and give --rates FILE."
            )
    else:
        fitting = [
            name for name in found
            if (not name.startswith("cpu: ") if gpu else name.startswith("cpu: ") and name.endswith(", 1 thread"))
        ]  # fmt: skip
    return max(sorted(fitting), key=lambda name: len(found[name].measured & kinds), default=None)


def makespan(seconds: Iterable[float], workers: int) -> float:
    """The time until the last of some whole runs ends: the longest first, each to the worker that is free first."""
    ends = [0.0] * workers
    for run in sorted(seconds, reverse=True):
        heapq.heapreplace(ends, ends[0] + run)
    return max(ends)


@dataclass(frozen=True)
class Column:
    """A machine and what its device was measured at."""

    machine: Machine
    device: str | None
    rates: Rates

    def seconds(self, runs: Iterable[Job]) -> list[float]:
        """Of the runs whose rate is known."""
        each = ((job, self.rates.seconds_per_image(job.kind)) for job in runs)
        return [job.images * rate for job, rate in each if rate is not None]

    def unknown(self, runs: Iterable[Job]) -> dict[str, str]:
        """Kind -> label, of what was not measured."""
        return {job.kind: job.label for job in runs if self.rates.seconds_per_image(job.kind) is None}

    def cell(self, runs: Sequence[Job]) -> str:
        known = self.seconds(runs)
        if not known:
            return MISSING
        return ("" if len(known) == len(runs) else "more than ") + hours(
            makespan(known, self.machine.workers)
        )


def hours(seconds: float) -> str:
    value = seconds / 3600
    return (
        f"{value:,.0f} h"
        if value >= 100
        else f"{value:.1f} h"
        if value >= 0.95
        else f"{seconds / 60:.0f} min"
    )


def _named(unknown: Mapping[str, str], runs: Iterable[Job]) -> str:
    """What is unknown, whole tables by their titles."""
    tables: dict[str, dict[str, str]] = defaultdict(dict)
    for job in runs:
        tables[job.table][job.kind] = job.label
    parts = []
    for title, kinds in tables.items():
        missing = [label for kind, label in kinds.items() if kind in unknown]
        parts += [f"{title}, all of it"] if len(missing) == len(kinds) else missing
    return "; ".join(parts)


@dataclass(frozen=True)
class Cost:
    """rows: a table's title -> its runs."""

    rows: Mapping[str, Sequence[Job]]
    columns: Sequence[Column]
    trainer: str
    seeds: int

    def grid(self) -> str:
        """The Markdown table."""
        lines = [["", "runs", *(column.machine.title for column in self.columns)]]
        lines += [
            [title, f"{len(runs):,}", *(column.cell(runs) for column in self.columns)]
            for title, runs in self.rows.items()
        ]
        head, *body = ("| " + " | ".join(line) + " |" for line in lines)
        return "\n".join([head, "|:--" + "|--:" * (len(lines[0]) - 1) + "|", *body]) + "\n"

    def notes(self, *, every: bool = True) -> list[str]:
        """What stands below it.   every: name each network that was not measured, instead of counting them."""
        runs = self.rows[EVERYTHING]
        notes = [
            f"Schedule {self.trainer}, {self.seeds} seed{'s' if self.seeds > 1 else ''}; `fast` where the paper gives "
            "none (co-localisation, 3-D).",
            LONGEST_FIRST,
        ]
        for gpu in dict.fromkeys(column.machine.gpu for column in self.columns):
            column = next(one for one in self.columns if one.machine.gpu == gpu)
            titles = ", ".join(one.machine.title for one in self.columns if one.machine.gpu == gpu)
            if column.device is None:
                command = f"python scripts/benchmark.py {SUITES[gpu]} --json results/benchmarks.json"
                notes.append(f"{titles}: not measured: `{command}` on that machine.")
                continue
            known, unknown = column.seconds(runs), column.unknown(runs)
            text = f"{titles}: rates of {column.device}"
            if known:
                text += f"; {hours(sum(known))} of runs in all, the longest {hours(max(known))}"
            notes.append(f"{text}.")
            if unknown:
                what = (
                    _named(unknown, runs) if every else f"{len(unknown)} networks ([which](results/cost.md))"
                )
                notes.append(f"{titles}: not measured, and not in the sums: {what}.")
        return notes

    def markdown(self, *, every: bool = True) -> str:
        return self.grid() + "\n" + "".join(f"- {note}\n" for note in self.notes(every=every))

    def page(self) -> str:
        """results/cost.md."""
        return (
            "<!-- Generated by `python scripts/cost.py`; never edited by hand. -->\n\n"
            "# What a full reproduction costs\n\n"
            "`python scripts/cost.py --trainer fast` has the short schedule, `--workers N --device NAME` another "
            "machine. Rates: of finished runs ([runs](README.md)), else of the suites cells and cells_gpu "
            f"([benchmarks](benchmarks.md)).\n\n{self.markdown()}"
        )


def cost(
    *,
    trainer: str = "paper",
    seeds: Sequence[int] = (0, 1, 2),
    results: Path = ROOT / "results",
    benchmarks: Path | None = None,
    workers: int | None = None,
    device: str | None = None,
) -> Cost:
    """Everything that the calculator shows.

    benchmarks: results/benchmarks.json, unless given.   workers: of one machine, instead of MACHINES; device: the start
    of the name of what each of them computes on, as results and benchmarks call it.
    raises: UserError for what `reproduce.plan` refuses, no workers, an unknown device, a file that cannot be read.
    """
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers} is not valid: it is a whole number from 1.")
    by_table = {
        definition.title: jobs(name, trainer=trainer, seeds=seeds) for name, definition in TABLES.items()
    }
    every = {job.identity: job for runs in by_table.values() for job in runs}
    rows = {**by_table, EVERYTHING: list(every.values())}
    kinds = {job.label: job.kind for job in every.values()}
    found = rates(
        estimates.finished_runs((results / "runs").glob("*/*.json")),
        _read(benchmarks or results / "benchmarks.json"),
        kinds,
    )
    wanted = set(kinds.values())
    machines: Sequence[Machine] = MACHINES
    if workers is not None or device is not None:
        name = choose_device(found, wanted, gpu=False, prefix=device)
        count = workers or 1
        machines = [
            Machine(
                f"{count} worker{'s' if count > 1 else ''}",
                count,
                gpu=not (name or "cpu: ").startswith("cpu: "),
            )
        ]
    columns = []
    for machine in machines:
        name = choose_device(found, wanted, gpu=machine.gpu, prefix=device)
        if name is not None and not found[name].measured & wanted:
            name = None
        columns.append(Column(machine, name, found[name] if name else Rates()))
    return Cost(rows, columns, trainer, len(seeds))


def _read(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): give --rates a file of scripts/benchmark.py."
        ) from error
    return dict(held)


def write(found: Cost, *, out: Path | None, page: Path | None) -> list[Path]:
    """results/cost.md and the README's passage.   raises: UserError where the page has no place for it."""
    written = []
    if out is not None:
        out.write_text(found.page(), encoding="utf-8")
        written.append(out)
    if page is not None:
        if not embed(page, found.markdown(every=False), MARK):
            raise UserError(f"{page} has no place for the costs: <!-- {MARK} --> ... <!-- /{MARK} -->.")
        written.append(page)
    return written
