"""A sweep: many runs handed to a launcher, each in a process of its own."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from omegaconf import DictConfig

from experiments.engine.overrides import Overrides, word
from experiments.sweeps import process
from experiments.sweeps.job import LOG, Job, Outcome, blocked, outcome, summary, unfinished
from experiments.sweeps.pool import run_pool
from experiments.sweeps.progress import Progress
from experiments.sweeps.watch import watching

Launch = Callable[[Sequence[Sequence[str]]], Sequence[JobReturn]]


def sweep(
    jobs: Iterable[Job],
    check: Callable[[DictConfig], object],
    launch: Launch,
    report: Callable[[str], object] = print,
    *,
    elsewhere: int | None = None,
) -> list[Outcome]:
    """Runs what is not finished, each run once and after those that it requires; prints a summary at the end.

    Args:
        jobs: in order.
        check: raises ValueError for a configuration that cannot run.
        launch: Hydra's launcher: runs each of these lists of overrides and returns how they ended, in order.
        report: is given the lines for the terminal.
        elsewhere: where the launcher hands the runs to a scheduler: how many it has running at a time. Their progress
            is then shown by what they write. Other launchers show their own.

    Returns:
        An outcome for each run, in order, those that others require among them.

    Raises:
        KeyboardInterrupt: after the summary.
    """
    asked: dict[Path, Job] = {}
    for job in jobs:
        asked.setdefault(job.folder, job)  # a network without a transformer is the same with every transform
    order: dict[Path, Job] = {}
    outcomes: dict[Path, Outcome] = {}
    for job in asked.values():
        try:
            held = job.result()
            if held is not None:
                outcomes[job.folder] = Outcome(job.label, "skipped", f"finished before: {held.summary}")
            else:
                check(job.cfg)
                for one in unfinished([job]):
                    order.setdefault(one.folder, one)
        except ValueError as error:
            outcomes[job.folder] = Outcome(job.label, "failed", str(error))
        order.setdefault(job.folder, job)
    waiting = [job for folder, job in order.items() if folder not in outcomes]
    report(f"{len(order)} runs: {len(order) - len(waiting)} finished or refused, {len(waiting)} to do.")
    stopped: BaseException | None = None
    while waiting and stopped is None:
        for job in waiting:
            if (hindered := blocked(job, outcomes)) is not None:
                outcomes[job.folder] = hindered
        left = [job for job in waiting if job.folder not in outcomes]
        folders = {job.folder for job in left}
        wave = [job for job in left if not any(one.folder in folders for one in job.requires)]
        waiting = [job for job in left if job not in wave]
        with watching(wave, at_once=elsewhere, report=report) if elsewhere else nullcontext():
            stopped = _launch(wave, launch, outcomes)
    for job in order.values():
        outcomes.setdefault(job.folder, Outcome(job.label, "open"))  # of a wave that was not launched
    ended = [outcomes[folder] for folder in order]
    report(summary(ended))
    if stopped is not None:
        reason = " ".join(str(stopped).split())[:300]
        report(f"The launcher stopped: {type(stopped).__name__}{f', {reason}' if reason else ''}.")
    if isinstance(stopped, KeyboardInterrupt):
        raise stopped
    return ended


def _launch(jobs: Sequence[Job], launch: Launch, outcomes: dict[Path, Outcome]) -> BaseException | None:
    """Launches jobs that need no other one and enters their outcomes. Returns what has stopped the launcher."""
    stopped: BaseException | None = None
    if jobs:
        try:
            ends = launch([job.overrides.words for job in jobs])
            for job, end in zip(jobs, ends, strict=True):
                outcomes[job.folder] = end.return_value
        except (Exception, KeyboardInterrupt) as error:  # the launcher's own, or a job that it lost
            stopped = error
    for job in jobs:
        if job.folder not in outcomes:  # its directory says what the launcher did not
            outcomes[job.folder] = outcome(job, None)
    return stopped


def side_by_side(
    jobs: Sequence[Job], *, at_once: int, report: Callable[[str], object] = print
) -> list[Outcome]:
    """What `launcher=local` does with the runs of a sweep: so many at a time, each with the launcher's threads.

    A run writes into train.log in its run directory; `Progress` shows how far they are.

    Args:
        jobs: with the overrides of the sweep.
        at_once: how many.
        report: is given the lines for the terminal.

    Returns:
        An outcome for each run, in order.
    """
    waiting = [replace(job, overrides=_overrides(job.cfg, job.overrides)) for job in jobs]
    outcomes: dict[Path, Outcome] = {}
    with Progress(waiting, at_once=at_once, report=report) as progress:

        def next_job(left: float) -> Job | None:
            return waiting.pop(0) if waiting else None

        def ended(job: Job, status: int | None) -> None:
            outcomes[job.folder] = became = outcome(job, status)
            progress.end(job, became.kind)
            progress.report(str(became))

        run_pool(next_job, ended, at_once=at_once, progress=progress, cwd=Path.cwd())
    return [outcomes[job.folder] for job in jobs]


def _overrides(cfg: DictConfig, overrides: Overrides) -> Overrides:
    """What train.py is told for one run of a sweep."""
    words = overrides.without("sweep", "launcher").words
    if cfg.threads is not None and "threads" not in overrides:
        words = [*words, word("threads", cfg.threads)]  # the launcher's
    return Overrides.parse(words)


def work(cfg: DictConfig, overrides: Sequence[str]) -> Outcome:
    """What one of Hydra's launchers does with one run of a sweep: train.py in a process of its own.

    A process that dies takes no other run along. It writes into train.log in the run directory, unless runs follow
    one another in this terminal.

    Args:
        cfg: the run's configuration.
        overrides: of the sweep and of the run.
    """
    job = Job.of(cfg, Overrides.parse(overrides).without("sweep", "launcher").words)
    words = _overrides(cfg, job.overrides).words
    alone = HydraConfig.get().runtime.choices["hydra/launcher"] == "basic"
    if alone:
        print(f"\n{job.label}", flush=True)
    status = process.train(words, log=None if alone else job.folder / LOG, cwd=Path.cwd())
    became = outcome(job, status)
    if not alone:
        print(became, flush=True)
    return became
