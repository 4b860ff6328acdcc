"""Fills the tables: lists a table's missing cells, trains what a time budget allows, publishes what is finished.

Everything is kept in two places only: run directories (resumable, `outputs/`) and published results
(`results/runs/<experiment>/<run>.json`, one file a run, so that results of several machines merge without conflict).
"""

import json
import re
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments import birds, colocalisation, distorted_mnist, mnist_3d, mnist_addition
from experiments.engine import process, rundir
from experiments.engine.build import UserError
from experiments.engine.checkpoint import write_json
from experiments.engine.configuration import composing
from experiments.engine.process import LOG, ROOT
from experiments.report import Row, Table, details

TABLES: dict[str, tuple[Table, Sequence[Row]]] = {
    "table1": (distorted_mnist.TABLE1, distorted_mnist.TELLING),
    "tc": (distorted_mnist.TC, distorted_mnist.TELLING),
    "addition": (mnist_addition.ADDITION, mnist_addition.TELLING),
    "colocalisation": (colocalisation.COLOCALISATION, colocalisation.TELLING),
    "birds": (birds.BIRDS, birds.TELLING),
    "3d": (mnist_3d.SOLIDS, mnist_3d.TELLING),
}


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
    def cell(self) -> tuple[str, str]:
        """What takes the same time whatever the seed."""
        return self.published.parent.name, self.folder.parent.name

    def result(self) -> dict[str, Any] | None:
        """The finished result of this very configuration, published or in the run directory."""
        for path in (self.published, self.folder / "result.json"):
            if path.exists():
                try:
                    held = json.loads(path.read_text())
                except ValueError as error:
                    raise UserError(
                        f"{path} cannot be read ({error}): delete it to run this cell anew."
                    ) from error
                if rundir.decisive(held.get("config", {})) == self.config:
                    return held
        return None


def plan(
    table: str,
    *,
    trainer: str,
    seeds: Sequence[int],
    results: Path,
    extra: Sequence[str] = (),
    dataset: str | None = None,
) -> list[Run]:
    """All runs of a table, the most telling first: seed by seed, and in each the rows of the section's `TELLING`.

    dataset: another than the experiments' own, such as cub50.
    extra: overrides of circumstances (device=, threads=, data_dir=, output_dir=, wandb.mode=).
    raises: UserError for an unknown table, trainer or an override that would change what is measured.
    """
    if table not in TABLES:
        raise UserError(f"There is no table {table!r}: choose {' or '.join(TABLES)}.")
    trainers = sorted(path.stem for path in (ROOT / "configs" / "trainer").glob("*.yaml"))
    if trainer not in trainers:
        raise UserError(f"There is no trainer {trainer!r}: choose one of {', '.join(trainers)}.")
    for override in extra:
        if override.split("=")[0].split(".")[0] not in rundir.CIRCUMSTANCES:
            raise UserError(f"{override} would change what a cell measures; use train.py for that.")
    datasets = sorted(path.stem for path in (ROOT / "configs" / "dataset").glob("*.yaml"))
    if dataset is not None and dataset not in datasets:
        raise UserError(f"There is no dataset {dataset!r}: choose one of {', '.join(datasets)}.")
    definition, telling = TABLES[table]
    trainer = definition.trainers.get(trainer, trainer)
    elsewhere = [] if dataset is None else [f"dataset={dataset}"]
    cells = [
        [*definition.overrides(row, column), *elsewhere]
        for row in telling
        for column in definition.columns
        if not definition.paper or column in definition.paper.get(row, {})  # else the paper has no such cell
    ]
    with composing() as make:
        by_cell = [_runs(make, cell, trainer, seeds, results, extra) for cell in cells]
    return [runs[i] for i in range(len(seeds)) for runs in by_cell]


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
        runs.append(Run((*overrides, f"seed={seed}"), ROOT / folder, published, rundir.identity(cfg), seed))
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
        new = result is not None and (not path.exists() or json.loads(path.read_text()) != result)
        if new:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, result)
            written.append(path)
            if run.seed == 0:
                _publish_pictures(run)
        if result is not None and (new or not details.details_path(path).exists()):
            own = run.folder / "result.json"
            if own.exists() and json.loads(own.read_text()) == result:
                details.keep(run.folder, path)
    return written


def _publish_pictures(run: Run) -> None:
    figures = run.published.parents[2] / "figures" / run.published.parent.name
    for picture in sorted([*run.folder.glob("*.png"), *run.folder.glob("*.gif")]):
        figures.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, figures / f"{run.published.stem}-{picture.name}")


def estimate(run: Run, runs: Sequence[Run]) -> float | None:
    """Seconds that a run takes on the evidence of finished runs of the same cell, its median. None without any.

    What its own checkpoint has done already is not taken off.
    """
    held = (other.result() for other in runs if other.cell == run.cell)
    seconds = [result["wall_seconds"] for result in held if result is not None]
    return statistics.median(seconds) if seconds else None


def parse_budget(text: str | None) -> float:
    """ "90s", "30m", "2h", "1h30m" in seconds; None is without end. raises: UserError for anything else."""
    if text is None:
        return float("inf")
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    if not text or match is None:
        raise UserError(f"--budget {text} is not a time: write 90s, 30m, 2h or 1h30m.")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return hours * 3600.0 + minutes * 60.0 + seconds


def reproduce(
    runs: Sequence[Run], *, budget: float, dry_run: bool, jobs: int = 1, say: Callable[[str], None] = print
) -> dict[str, list[str]]:
    """Trains the missing runs in order, until none is missing or the budget (seconds) is spent.

    A run that would not end within the budget is started all the same: it is stopped in time, and the same command
    goes on from its checkpoint. A run known to need more than is left gives way to a later one that fits.
    jobs: so many at a time, the processor's cores divided among them; what each prints goes to train.log in its run
    directory.   returns: labels of the runs `done` (before and now), `failed`, and `open`.
    """
    outcome: dict[str, list[str]] = {"done": [], "failed": [], "open": []}
    publish([] if dry_run else runs)
    missing = [run for run in runs if run.result() is None]
    outcome["done"] = [run.label for run in runs if run not in missing]
    say(f"{len(runs)} runs: {len(runs) - len(missing)} finished, {len(missing)} missing.")
    if dry_run:
        for run in missing:
            seconds, state = (
                estimate(run, runs),
                "started" if (run.folder / "last.pt").exists() else "missing",
            )
            say(f"  {state}  {run.label}" + (f"  about {seconds / 60:.0f} min" if seconds else ""))
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
                fits = [run for run in waiting if (estimate(run, runs) or 0) <= left]
                run = (fits or waiting)[0]
                waiting.remove(run)
                say(f"\n{run.label}  ({len(runs) - len(waiting)} of {len(runs)})")
            status = _train(run, left, jobs)
            with lock:
                publish([run])
                result = run.result()
                kind = "done" if result is not None else "open" if status is None else "failed"
                outcome[kind].append(run.label)
                if jobs > 1:
                    say(f"{run.label}: {_numbers(result) if result else process.last_line(run.folder / LOG)}")

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


def _numbers(result: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value:.2f}" for key, value in result["metrics"].items())


def _train(run: Run, timeout: float, share: int = 1) -> int | None:
    """As `process.train`; a run that shares the processor with others prints into a file."""
    log = run.folder / LOG if share > 1 else None
    return process.train(run.overrides, timeout=timeout, share=share, log=log)
