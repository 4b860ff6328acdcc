"""Many runs: which are still to do, each in a process of its own, and what became of every one."""

import signal
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from omegaconf import DictConfig

from experiments.engine import rundir
from experiments.engine.cli import BUSY
from experiments.engine.configuration import Files
from experiments.engine.result import Result
from experiments.sweeps import process
from experiments.sweeps.process import LOG

SWEEPS_OWN = ("sweep", "launcher")  # keys of a command line that say how many runs, not which


@dataclass(frozen=True)
class Job:
    """A run to be.   overrides: what train.py is told.   cfg: the configuration that they make."""

    overrides: tuple[str, ...]
    cfg: DictConfig

    @property
    def folder(self) -> Path:
        return rundir.run_dir(self.cfg, self.overrides)

    @property
    def label(self) -> str:
        return self.folder.relative_to(self.cfg.output_dir).as_posix()

    def result(self) -> Result | None:
        """The finished result of this very configuration."""
        return rundir.held_result(self.folder / "result.json", self.cfg)


@dataclass(frozen=True)
class Outcome:
    """What became of a run.   kind: done | skipped | failed | open.   says: its metrics, or why, in one line."""

    label: str
    kind: str
    says: str = ""


def sweep(
    jobs: Iterable[Job],
    check: Callable[[DictConfig], object],
    launch: Callable[[Sequence[Sequence[str]]], Sequence[JobReturn]],
    say: Callable[[str], object] = print,
) -> list[Outcome]:
    """Runs what is not finished, each run once, and says at the end what became of each.

    check: raises ValueError for a configuration that cannot run.
    launch: Hydra's launcher; of what `train.py` is told, each run's part, in order.
    returns: an outcome a run, in order.   raises: KeyboardInterrupt, after the summary.
    """
    found: dict[Path, Job] = {}
    for job in jobs:
        found.setdefault(job.folder, job)  # a network without transformer is the same with every transform
    outcomes: dict[Path, Outcome] = {}
    for folder, job in found.items():
        try:
            held = job.result()
            if held is None:
                check(job.cfg)
            else:
                outcomes[folder] = Outcome(job.label, "skipped", f"finished before: {held.summary}")
        except ValueError as error:
            outcomes[folder] = Outcome(job.label, "failed", str(error))
    waiting = [job for folder, job in found.items() if folder not in outcomes]
    say(f"{len(found)} runs: {len(found) - len(waiting)} finished or refused, {len(waiting)} to do.")
    stopped: BaseException | None = None
    if waiting:
        try:
            for job, told in zip(waiting, launch([job.overrides for job in waiting]), strict=True):
                outcomes[job.folder] = told.return_value
        except (Exception, KeyboardInterrupt) as error:  # the launcher's own, or a job that it lost
            stopped = error
    for job in waiting:
        if job.folder not in outcomes:  # its directory says what the launcher did not
            outcomes[job.folder] = outcome(job, None)
    told_all = [outcomes[folder] for folder in found]
    say(summary(told_all))
    if stopped is not None:
        reason = " ".join(str(stopped).split())[:300]
        say(f"The launcher stopped: {type(stopped).__name__}{f', {reason}' if reason else ''}.")
    if isinstance(stopped, KeyboardInterrupt):
        raise stopped
    return told_all


def summary(outcomes: Sequence[Outcome]) -> str:
    """A line a run, and how many of each kind."""
    kinds = Counter(one.kind for one in outcomes)
    lines = [f"  {one.kind:8}{one.label}{f'  {one.says}' if one.says else ''}" for one in outcomes]
    total = ", ".join(
        f"{kinds[kind]} {kind}" for kind in ("done", "skipped", "failed", "open") if kinds[kind]
    )
    lines.append(f"{total or 'nothing to do'}.")
    if kinds["open"] or kinds["failed"]:
        lines.append("The same command again runs what is failed or open, from its last checkpoint.")
    return "\n".join(["", *lines])


def work(cfg: DictConfig, overrides: Sequence[str]) -> Outcome:
    """What a launcher does with one run of a sweep: train.py in a process of its own.

    A process that dies takes no other run along. It writes into train.log in the run directory, unless runs follow
    one another in this terminal.
    """
    job = Job(tuple(one for one in overrides if _key(one) not in SWEEPS_OWN), cfg)
    told = [*Files.in_use().options, *job.overrides]
    if cfg.threads is not None and "threads" not in map(_key, told):
        told.append(f"threads={cfg.threads}")  # the launcher's
    alone = HydraConfig.get().runtime.choices["hydra/launcher"] == "basic"
    if alone:
        print(f"\n{job.label}", flush=True)
    status = process.train(told, log=None if alone else job.folder / LOG, cwd=Path.cwd())
    became = outcome(job, status)
    if not alone:
        print(f"{became.kind:8}{became.label}  {became.says}", flush=True)
    return became


def _key(override: str) -> str:
    return override.lstrip("+~").split("=")[0]


def outcome(job: Job, status: int | None) -> Outcome:
    """What became of a run, from its directory.   status: its process's exit status; None where it is not known."""
    result = job.result()
    if result is not None:
        return Outcome(job.label, "done", result.summary)
    if status == BUSY:
        return Outcome(job.label, "skipped", "another process is training it")
    failure = rundir.failure(job.folder)
    if status is None:
        return Outcome(job.label, "failed", failure) if failure else Outcome(job.label, "open")
    if status < 0:
        return Outcome(job.label, "failed", f"killed by {signal.Signals(-status).name}")
    return Outcome(job.label, "failed", failure or f"exit status {status}")
