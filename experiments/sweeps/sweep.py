"""A sweep: many runs handed to one of Hydra's launchers, each in a process of its own."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from omegaconf import DictConfig

from experiments.engine.configuration import Files
from experiments.engine.overrides import Overrides, word
from experiments.sweeps import process
from experiments.sweeps.job import LOG, Job, Outcome, blocked, outcome, summary, unfinished

Launch = Callable[[Sequence[Sequence[str]]], Sequence[JobReturn]]


def sweep(
    jobs: Iterable[Job],
    check: Callable[[DictConfig], object],
    launch: Launch,
    report: Callable[[str], object] = print,
) -> list[Outcome]:
    """Runs what is not finished, each run once and after those that it requires; prints a summary at the end.

    Args:
        jobs: in order.
        check: raises ValueError for a configuration that cannot run.
        launch: Hydra's launcher: runs each of these lists of overrides and returns how they ended, in order.
        report: is given the lines for the terminal.

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


def work(cfg: DictConfig, overrides: Sequence[str]) -> Outcome:
    """What a launcher does with one run of a sweep: train.py in a process of its own.

    A process that dies takes no other run along. It writes into train.log in the run directory, unless runs follow
    one another in this terminal.

    Args:
        cfg: the run's configuration.
        overrides: of the sweep and of the run.
    """
    job = Job.of(cfg, Overrides.parse(overrides).without("sweep", "launcher").words)
    words = [*Files.in_use().options, *job.overrides.words]
    if cfg.threads is not None and "threads" not in job.overrides:
        words.append(word("threads", cfg.threads))  # the launcher's
    alone = HydraConfig.get().runtime.choices["hydra/launcher"] == "basic"
    if alone:
        print(f"\n{job.label}", flush=True)
    status = process.train(words, log=None if alone else job.folder / LOG, cwd=Path.cwd())
    became = outcome(job, status)
    if not alone:
        print(became, flush=True)
    return became
