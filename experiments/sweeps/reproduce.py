"""Fills one table or all: lists missing cells, trains what a time budget allows, publishes what is finished.

Everything is kept in two places only: run directories (resumable, `outputs/`) and published results (`results/`).
"""

import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from experiments.engine.build import UserError
from experiments.engine.files import ROOT
from experiments.engine.overrides import Overrides
from experiments.sweeps.estimates import Estimator
from experiments.sweeps.job import (
    INTERRUPTED,
    Job,
    Outcome,
    blocked,
    exit_status,
    outcome,
    summary,
    unfinished,
)
from experiments.sweeps.overview import estimator_for, overview, seconds_of
from experiments.sweeps.plan import LAUNCHER, one_of, plan
from experiments.sweeps.pool import parse_jobs, run_pool
from experiments.sweeps.progress import Progress
from experiments.sweeps.publish import publish, refuse_dirty_tree


def fill(
    table: str,
    overrides: Sequence[str],
    *,
    trainer: str,
    dataset: str | None,
    seeds: str,
    budget: str | None,
    jobs: int | None,
    launcher: str | None,
    results: Path,
    publishing: bool,
    dry_run: bool,
    listed: bool,
) -> int:
    """What `scripts/reproduce.py` does with its arguments, which have the same names.

    Returns:
        The exit status.

    Raises:
        UserError: for arguments that are not valid or do not go together; as `plan`, `reproduce` and `launch`.
    """
    settings = Overrides.parse(overrides).below(LAUNCHER).words
    if launcher and (jobs is not None or budget):
        raise UserError("--budget and --jobs are for runs on this machine: leave them out with --launcher.")
    if settings and not launcher:
        raise UserError(f"{settings[0]} is a launcher's: give --launcher too.")
    seconds, at_once = parse_budget(budget), parse_jobs(jobs, overrides)
    planned = plan(
        table, trainer=trainer, seeds=parse_seeds(seeds), results=results, extra=overrides, dataset=dataset
    )
    if dry_run or listed:
        overview(planned, at_once=at_once, listed=listed)
        return 0
    if launcher:
        outcomes = launch(planned, launcher, settings, publishing=publishing)
    else:
        outcomes = reproduce(planned, budget=seconds, at_once=at_once, publishing=publishing)
    return exit_status(outcomes, budget=budget is not None)


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
    if not re.fullmatch(r"[0-9]+(,[0-9]+)*", text):
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
            train.log in its run directory, and `Progress` shows how far they are.
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
    progress = Progress(waiting, at_once=at_once, report=report, budget=budget) if at_once > 1 else None
    say = progress.report if progress else report

    def next_job(left: float) -> Job | None:
        for job in list(waiting):
            if (hindered := blocked(job, outcomes)) is not None:
                outcomes[job.folder] = hindered
                waiting.remove(job)
                if progress:
                    progress.end(job, hindered.kind)
        ready = [job for job in waiting if all(one.trained() for one in job.requires)]
        if not ready:
            return None
        job = next((job for job in ready if seconds_of(job, estimate) <= left), ready[0])
        waiting.remove(job)
        if not (progress and progress.live):
            say(f"\n{job.label}  ({count - len(waiting)} of {count})")
        return job

    def ended(job: Job, status: int | None) -> None:
        nonlocal estimate
        outcomes[job.folder] = outcome(job, status)
        if publishing:
            publish([job], say)
        if progress:
            progress.end(job, outcomes[job.folder].kind)
            say(str(outcomes[job.folder]))
        if budget < float("inf"):
            estimate = estimator_for(jobs, at_once)

    if budget < float("inf"):
        estimate = estimator_for(jobs, at_once)
    with progress or nullcontext():
        run_pool(next_job, ended, at_once=at_once, budget=budget, progress=progress)
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
    one_of("launcher", launcher)
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
