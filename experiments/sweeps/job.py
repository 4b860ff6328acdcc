"""One run among many: what it is told, where it is kept, what it needs, and what became of it."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from experiments.engine import rundir
from experiments.engine.cli import BUSY
from experiments.engine.configuration import configuration
from experiments.engine.identity import identity
from experiments.engine.overrides import Overrides
from experiments.engine.required import Compose, required
from experiments.engine.result import Result

if TYPE_CHECKING:  # it imports torch, which train.py --help does not need
    from experiments.report import Row

LOG = "train.log"  # in the run directory: what a training prints that does not own the terminal
INTERRUPTED = 130  # exit status after Ctrl-C


@dataclass(frozen=True, eq=False)
class Job:
    """A run to be made, or made.

    Attributes:
        overrides: of `train.py`.
        cfg: the configuration that they make.
        name: the run's, of `run_name`.
        folder: the run directory.
        published: where its result is copied to; None: nowhere.
        cell: table, row and column that its result stands in; None: in no table.
        requires: the runs that must be finished first.
    """

    overrides: Overrides
    cfg: DictConfig = field(repr=False)
    name: str
    folder: Path
    published: Path | None = None
    cell: tuple[str, Row, str] | None = None
    requires: tuple[Job, ...] = ()

    @classmethod
    def of(
        cls,
        cfg: DictConfig,
        overrides: Iterable[str],
        *,
        root: Path = Path(),
        results: Path | None = None,
        cell: tuple[str, Row, str] | None = None,
        make: Compose = configuration,
    ) -> Job:
        """The job of a configuration, and those that it requires.

        Args:
            cfg: the configuration that `overrides` make.
            overrides: of `train.py`.
            root: what a relative `output_dir` is relative to.
            results: the folder of published results; None: the result is not published.
            cell: as the attribute.
            make: overrides -> configuration.
        """
        words = Overrides.parse(overrides)
        name = rundir.run_name(cfg, words)
        folder = root / rundir.run_dir(cfg, words)
        published = results and results / "runs" / cfg.experiment / f"{name}-seed_{cfg.seed}.json"
        needed = tuple(cls.of(one.cfg, one.overrides, root=root, make=make) for one in required(cfg, make))
        return cls(words, cfg, name, folder, published, cell, needed)

    @property
    def label(self) -> str:
        """Such as `mnist_r/cnn-fast-seed_0`: below results/runs, the result's file without its ending."""
        return f"{self.cfg.experiment}/{self.name}-seed_{self.cfg.seed}"

    @property
    def seed(self) -> int:
        return int(self.cfg.seed)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The part of the configuration that decides the result."""
        return identity(self.cfg)

    @property
    def started(self) -> bool:
        """Whether there is a checkpoint."""
        return rundir.has_checkpoint(self.folder)

    @property
    def left(self) -> float:
        """The share of the training that is to be done, by the last logged step: 1 without a checkpoint."""
        if not self.started:
            return 1.0
        return 1 - min(_last_step(self.folder / "metrics.jsonl") / self.cfg.trainer.iterations, 1)

    def trained(self) -> Result | None:
        """The result of this very configuration in the run directory, where the weights are too.

        Raises:
            UserError: where the file cannot be read.
        """
        return rundir.held_result(self.folder / "result.json", self.cfg)

    def result(self) -> Result | None:
        """The finished result of this very configuration, published or in the run directory.

        Raises:
            UserError: where a file cannot be read.
        """
        held = self.published and rundir.held_result(self.published, self.cfg)
        return held or self.trained()


def unfinished(jobs: Iterable[Job]) -> list[Job]:
    """The jobs without a result, each once, and before each what it requires and what is not finished.

    Of a required run the weights are needed: a published result alone is not enough.

    Raises:
        UserError: where a result cannot be read.
    """
    found: dict[Path, Job] = {}

    def add(job: Job, done: Result | None) -> None:
        if done is None:
            for one in job.requires:
                add(one, one.trained())
            found.setdefault(job.folder, job)

    for job in jobs:
        add(job, job.result())
    return list(found.values())


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        label: the job's.
        kind: `done`; `skipped`, finished before; `failed`; `open`, not finished and not failed.
        reason: its metrics, or why, in one line.
    """

    label: str
    kind: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.kind:8}{self.label}{f'  {self.reason}' if self.reason else ''}"


def outcome(job: Job, status: int | None) -> Outcome:
    """What became of a run, from its directory.

    Args:
        job: that was run.
        status: its process's exit status; None where it is not known, or was stopped.
    """
    result = job.trained()
    if result is not None:
        return Outcome(job.label, "done", result.summary)
    if status == BUSY:
        return Outcome(job.label, "open", "another process is training it")
    if status in (INTERRUPTED, -signal.SIGINT):
        return Outcome(job.label, "open", "interrupted")
    failure = rundir.failure(job.folder)
    if status is None:
        return Outcome(job.label, "failed", failure) if failure else Outcome(job.label, "open")
    if status < 0:
        return Outcome(job.label, "failed", f"killed by {signal.Signals(-status).name}")
    return Outcome(job.label, "failed", failure or last_line(job.folder / LOG) or f"exit status {status}")


def blocked(job: Job, outcomes: dict[Path, Outcome]) -> Outcome | None:
    """The outcome of a job that cannot run because one that it requires did not end well; None where it can."""
    for one in job.requires:
        needed = outcomes.get(one.folder)
        if needed and needed.kind in ("failed", "open"):
            return Outcome(job.label, "open", f"needs {one.label}, which is {needed.kind}")
    return None


def summary(outcomes: Sequence[Outcome], shown: Sequence[Outcome] | None = None) -> str:
    """A line for each outcome and how many there are of each kind.

    Args:
        outcomes: of all runs.
        shown: those that have a line; None: all.
    """
    kinds = Counter(one.kind for one in outcomes)
    counts = [f"{kinds[kind]} {kind}" for kind in ("done", "skipped", "failed", "open") if kinds[kind]]
    lines = ["", *(f"  {one}" for one in (outcomes if shown is None else shown))]
    lines.append(f"{', '.join(counts) or 'nothing to do'}.")
    if kinds["open"] or kinds["failed"]:
        lines.append("The same command again runs what is failed or open, from its last checkpoint.")
    return "\n".join(lines)


def exit_status(outcomes: Iterable[Outcome], *, budget: bool = False) -> int:
    """1 where a run has failed, or is open and none was to be left open; else 0.

    Args:
        outcomes: of all runs.
        budget: whether a time budget was given, which leaves runs open as it was told to.
    """
    kinds = {one.kind for one in outcomes}
    return int("failed" in kinds or ("open" in kinds and not budget))


def last_line(log: Path) -> str:
    """The last line that a training has printed; "" without one."""
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


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
