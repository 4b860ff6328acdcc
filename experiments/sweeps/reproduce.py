"""Fills one table or all: lists missing cells, trains what a time budget allows, publishes what is finished.

Everything is kept in two places only: run directories (resumable, `outputs/`) and published results
(`results/runs/<experiment>/<run>.json`, one file a run, so that results of several machines merge without conflict).
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments.engine import rundir
from experiments.engine.build import UserError
from experiments.engine.cli import BUSY
from experiments.engine.configuration import composing
from experiments.engine.files import ROOT
from experiments.engine.identity import config_hash, decides, identity
from experiments.engine.machine import threads_of, usual_jobs
from experiments.engine.result import Result
from experiments.report import Row, Table, details
from experiments.sections import TABLES
from experiments.sweeps import estimates, process
from experiments.sweeps.estimates import Estimate, Finished
from experiments.sweeps.process import LOG, told_device

ALL = "all"  # of them
# Rows by which a table comes later in `all`: crops are described by Table 1's CNN, which is then trained already.
LATER = {"colocalisation": 1}
LAUNCHERS_OWN = "hydra.launcher."  # overrides that start so


@dataclass(frozen=True)
class Run:
    """One run of a table: what train.py is told, and where its result goes."""

    overrides: tuple[str, ...]
    folder: Path  # the run directory
    published: Path  # results/runs/<experiment>/<run>.json
    config: dict[str, Any]
    seed: int

    @property
    def label(self) -> str:
        return f"{self.published.parent.name}/{self.published.stem}"

    @property
    def started(self) -> bool:
        return (self.folder / "last.pt").exists()

    @property
    def left(self) -> float:
        """The share of the training that is to be done, by its last logged step: 1 without a checkpoint."""
        iterations = int(self.config["trainer"]["iterations"])
        return 1 - min(_last_step(self.folder / "metrics.jsonl") / iterations, 1) if self.started else 1.0

    def result(self) -> Result | None:
        """The finished result of this very configuration, published or in the run directory."""
        held = (
            rundir.held_result(path, self.config) for path in (self.published, self.folder / "result.json")
        )
        return next((result for result in held if result is not None), None)


def plan(
    table: str,
    *,
    trainer: str,
    seeds: Sequence[int],
    results: Path,
    extra: Sequence[str] = (),
    dataset: str | None = None,
) -> list[Run]:
    """All runs of a table, the most telling first: seed by seed, and in each the rows by the table's `priority`.

    table: "all" for every table: seed by seed, the first row of each, then the second of each ...
    dataset: another than the experiments' own, such as cub50; with "all", only the tables whose images are of its kind.
    extra: overrides of circumstances (device=, threads=, data_dir=, output_dir=, wandb.mode=).
    raises: UserError for an unknown table, trainer or data set, a data set that does not fit, or an override that would
    change what is measured.
    """
    if table not in (*TABLES, ALL):
        raise UserError(f"There is no table {table!r}: choose {' or '.join(TABLES)}, or {ALL}.")
    trainers = sorted(path.stem for path in (ROOT / "configs" / "trainer").glob("*.yaml"))
    if trainer not in trainers:
        raise UserError(f"There is no trainer {trainer!r}: choose one of {', '.join(trainers)}.")
    extra = [override for override in extra if not override.startswith(LAUNCHERS_OWN)]
    for override in extra:
        if decides(override.split("=")[0]):
            raise UserError(f"{override} would change what a cell measures; use train.py for that.")
    datasets = sorted(path.stem for path in (ROOT / "configs" / "dataset").glob("*.yaml"))
    if dataset is not None and dataset not in datasets:
        raise UserError(f"There is no dataset {dataset!r}: choose one of {', '.join(datasets)}.")
    elsewhere = [] if dataset is None else [f"dataset={dataset}"]
    with composing() as make:
        fitting = [name for name in TABLES if dataset is None or _fits(make, dataset, TABLES[name])]
        chosen = fitting if table == ALL else [name for name in fitting if name == table]
        if not chosen:
            whose = "any table" if table == ALL else f"the table {table}"
            raise UserError(f"--dataset {dataset} is not of the kind of images that {whose} is about.")
        by_cell: list[tuple[int, list[Run]]] = []
        for name in chosen:
            definition = TABLES[name]
            rows = definition.priority or tuple(definition.rows)
            named = definition.trainers.get(trainer, trainer)
            later = LATER.get(name, 0) if table == ALL else 0
            for row, column in places(definition, rows):
                cell = [*definition.overrides(row, column), *elsewhere]
                runs = _runs(make, cell, named, seeds, results, extra)
                by_cell.append((rows.index(row) + later, runs))
    by_cell.sort(key=lambda one: one[0])
    planned = [runs[i] for i in range(len(seeds)) for _, runs in by_cell]
    return list({run.published: run for run in planned}.values())


def places(table: Table, rows: Sequence[Row]) -> list[tuple[Row, str]]:
    """The table's cells, row by row; without those that the paper has not."""
    return [
        (row, column)
        for row in rows
        for column in table.columns
        if not table.paper or column in table.paper.get(row, {})
    ]


def _fits(make: Callable[[Sequence[str]], DictConfig], dataset: str, table: Table) -> bool:
    """Whether a data set is of the kind of the table's own."""
    theirs, ours = (make([f"dataset={name}"]).dataset._target_ for name in (dataset, table.dataset))
    return bool(theirs == ours)


def _runs(
    make: Callable[[Sequence[str]], DictConfig],
    cell: Sequence[str],
    trainer: str,
    seeds: Sequence[int],
    results: Path,
    extra: Sequence[str],
) -> list[Run]:
    """A cell's runs, one a seed.   cell: the overrides that make it."""
    overrides = [*cell, f"trainer={trainer}", *extra]
    cfg = make(overrides)
    runs = []
    for seed in seeds:
        cfg.seed = seed
        folder = rundir.run_dir(cfg, overrides)
        published = results / "runs" / cfg.experiment / f"{folder.parent.name}-{folder.name}.json"
        runs.append(Run((*overrides, f"seed={seed}"), ROOT / folder, published, identity(cfg), seed))
    return runs


def publish(runs: Sequence[Run]) -> list[Path]:
    """Copies finished results from run directories to results/runs/, their predictions and learning curves to
    results/details/, and the first seed's pictures to results/figures/.

    returns: the result files that are new or changed.
    """
    written = []
    for run in runs:
        result = run.result()
        path = run.published
        new = result is not None and (not path.exists() or Result.read(path) != result)
        if new:
            path.parent.mkdir(parents=True, exist_ok=True)
            result.write(path)
            written.append(path)
            if run.seed == 0:
                _publish_pictures(run)
        if result is not None and (new or not details.details_path(path).exists()):
            own = run.folder / "result.json"
            if own.exists() and Result.read(own) == result:
                details.keep(run.folder, path)
    return written


def _publish_pictures(run: Run) -> None:
    figures = run.published.parents[2] / "figures" / run.published.parent.name
    for picture in sorted([*run.folder.glob("*.png"), *run.folder.glob("*.gif")]):
        figures.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, figures / f"{run.published.stem}-{picture.name}")


def estimate(run: Run, finished: Sequence[Finished], device: str) -> Estimate | None:
    """The time that a run still takes, as `estimates.estimate` has it; what its own checkpoint has done is taken off.

    finished: of any table.   device: that it will run on.
    """
    whole = estimates.estimate(run.config, finished, device, list(TABLES.values()))
    return whole and replace(whole, seconds=whole.seconds * run.left)


def evidence(runs: Sequence[Run]) -> list[Finished]:
    """Every finished run where these are published and where their run directories are, of whatever table."""
    published = {run.published.parents[1] for run in runs}
    folders = {run.folder.parents[2] for run in runs}
    paths = [path for root in published for path in root.glob("*/*.json")]
    paths += [path for root in folders for path in root.glob("*/*/seed_*/result.json")]
    return estimates.finished_runs(paths)


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
    evidence = [Finished(identity(r.config), r.wall_seconds, r.device) for r in finished]
    evidence = [run for run in evidence if run.seconds_per_image > 0]
    devices = Counter(result.device for result in finished)
    device = max(sorted(devices), key=lambda name: devices[name], default="")
    definitions = list(TABLES.values())
    found: dict[tuple[str, str], list[float | None]] = {}
    for name, table in TABLES.items():
        for trainer in ("paper", "fast"):
            runs = plan(name, trainer=trainer, seeds=seeds, results=ROOT / "results")
            lacking = [run for run in runs if config_hash(run.config) not in known]
            each = [estimates.estimate(run.config, evidence, device, definitions) for run in lacking]
            schedule = str(runs[0].config["trainer"]["name"])
            found[table.title, schedule] = [one.seconds if one else None for one in each]
    return found, device


def _last_step(path: Path) -> int:
    """The step of the last whole line of a metrics.jsonl, 0 without one."""
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        file.seek(max(path.stat().st_size - 10_000, 0))  # of a long one
        lines = file.read().splitlines()
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):  # cut short
            continue
    return 0


def parse_budget(text: str | None) -> float:
    """ "90s", "30m", "2h", "1h30m" in seconds; None is without end. raises: UserError for anything else."""
    if text is None:
        return float("inf")
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    if not text or match is None:
        raise UserError(f"--budget {text} is not a time: write 90s, 30m, 2h or 1h30m.")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return hours * 3600.0 + minutes * 60.0 + seconds


def parse_seeds(text: str) -> list[int]:
    """ "0,1,2" as numbers.   raises: UserError for anything else."""
    if not all(seed.isdigit() for seed in text.split(",")):
        raise UserError(f"--seeds {text} is not a list of seeds: write 0,1,2.")
    return [int(seed) for seed in text.split(",")]


def reproduce(
    runs: Sequence[Run],
    *,
    budget: float = float("inf"),
    dry_run: bool = False,
    jobs: int | None = None,
    launcher: str | None = None,
    told: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> dict[str, list[str]]:
    """Trains the missing runs in order, until none is missing or the budget (seconds) is spent.

    A run that would not end within the budget is started all the same: it is stopped in time, and the same command
    goes on from its checkpoint. A run known to need more than is left gives way to a later one that fits.
    jobs: so many at a time, the processor's cores divided among them; what each prints goes to train.log in its run
    directory. None: as many as `usual_jobs` says.
    launcher: a file of configs/launcher, which gets all of them at once instead.
    told: the command line's overrides, some of which may be the launcher's.
    returns: labels of the runs `done` (before and now), `failed`, and `open`.
    raises: UserError for fewer jobs than one, or what does not go together.
    """
    settings = [one for one in told if one.startswith(LAUNCHERS_OWN)]
    if launcher and (jobs is not None or budget < float("inf")):
        raise UserError("--budget and --jobs are for runs on this machine: leave them out with --launcher.")
    if settings and not launcher:
        raise UserError(f"{settings[0]} is a launcher's: give --launcher too.")
    if launcher and not dry_run:
        return fan_out(runs, launcher, settings, say)
    jobs = usual_jobs(told_device(told)) if jobs is None else jobs
    if jobs < 1:
        raise UserError(f"--jobs {jobs} is not valid: it is a whole number from 1.")
    outcome: dict[str, list[str]] = {"done": [], "failed": [], "open": []}
    publish([] if dry_run else runs)
    missing = [run for run in runs if run.result() is None]
    outcome["done"] = [run.label for run in runs if run not in missing]
    say(f"{len(runs)} runs: {len(runs) - len(missing)} finished, {len(missing)} missing.")
    device = estimates.device_of(runs[0].overrides if runs else (), threads_of(jobs) if jobs > 1 else None)
    if dry_run:
        _list(missing, evidence(runs), device, jobs, say)
        outcome["open"] = [run.label for run in missing]
        return outcome

    end = time.monotonic() + budget
    waiting = list(missing)
    lock = threading.Lock()
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            with lock:
                left = end - time.monotonic()
                if not waiting or left <= 0:
                    return
                known = evidence(runs) if left < float("inf") else []
                fits = [
                    run for run in waiting if not (e := estimate(run, known, device)) or e.seconds <= left
                ]
                run = (fits or waiting)[0]
                waiting.remove(run)
                say(f"\n{run.label}  ({len(runs) - len(waiting)} of {len(runs)})")
            status = _train(run, left, jobs)
            with lock:
                publish([run])
                result = run.result()
                kind = "done" if result is not None else "open" if status in (None, BUSY) else "failed"
                outcome[kind].append(run.label)
                if jobs > 1:
                    why = rundir.failure(run.folder) or process.last_line(run.folder / LOG)
                    say(f"{run.label}: {result.summary if result else why}")

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for worker in [pool.submit(work) for _ in range(jobs)]:
                worker.result()
        except BaseException:  # Ctrl-C, above all: the trainings are told too, and keep their checkpoints
            ended.set()
            process.stop_all()
            raise
    outcome["open"] += [run.label for run in waiting]
    say(f"\n{len(outcome['done'])} finished, {len(outcome['open'])} open, {len(outcome['failed'])} failed.")
    for label in outcome["failed"]:
        say(f"  failed  {label}")
    if outcome["open"]:
        say("The same command goes on where this one stopped.")
    return outcome


def fan_out(
    runs: Sequence[Run], launcher: str, settings: Sequence[str] = (), say: Callable[[str], None] = print
) -> dict[str, list[str]]:
    """Hands the missing runs to one of Hydra's launchers, as one sweep, waits for them and publishes what is finished.

    launcher: a file of configs/launcher.   settings: of it, such as hydra.launcher.partition=gpu.
    returns: as `reproduce`.   raises: UserError for an unknown launcher.
    """
    known = sorted(path.stem for path in (ROOT / "configs" / "launcher").glob("*.yaml"))
    if launcher not in known:
        raise UserError(f"There is no launcher {launcher!r}: choose one of {', '.join(known)}.")
    publish(runs)
    missing = [run for run in runs if run.result() is None]
    say(f"{len(runs)} runs: {len(runs) - len(missing)} finished, {len(missing)} missing.")
    if missing:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("".join(f"{shlex.join(run.overrides)}\n" for run in missing))
            file.flush()
            command = [sys.executable, "train.py", "-m", f"hydra.sweeper.file={file.name}"]
            subprocess.run([*command, f"launcher={launcher}", *settings], cwd=ROOT, check=False)
    publish(missing)
    outcome: dict[str, list[str]] = {"done": [], "failed": [], "open": []}
    for run in runs:
        failed = rundir.failure(run.folder)
        outcome["done" if run.result() is not None else "failed" if failed else "open"].append(run.label)
    return outcome


def _list(
    missing: Sequence[Run], finished: Sequence[Finished], device: str, jobs: int, say: Callable[[str], None]
) -> None:
    """What is missing, how long each takes and by what this is known, and the sum."""
    known = [estimate(run, finished, device) for run in missing]
    for run, one in zip(missing, known, strict=True):
        say(f"  {'started' if run.started else 'missing'}  {run.label}  {one or 'unknown'}")
    if missing:
        hours = sum(one.seconds for one in known if one) / 3600
        at_once = f", {hours / jobs:.1f} h with {jobs} at a time" if jobs > 1 else ""
        say(
            f"In all {hours:.1f} h of runs on {device}{at_once}; unknown: {known.count(None)} of {len(missing)} runs."
        )


def _train(run: Run, timeout: float, share: int = 1) -> int | None:
    """As `process.train`; a run that shares the processor with others prints into a file."""
    log = run.folder / LOG if share > 1 else None
    return process.train(run.overrides, timeout=timeout, share=share, log=log)
