"""How far runs are that a scheduler starts on other machines, by what appears in their directories."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from experiments.engine import rundir
from experiments.sweeps.job import LOG, Job, outcome
from experiments.sweeps.progress import POLL, Progress

log = logging.getLogger(__name__)

SIGNS = (LOG, "metrics.jsonl")  # a training writes into them from its start
ENDS = ("result.json", rundir.FAILURE)

State = tuple[int, int] | None  # size and time of a file; None: there is none


@contextmanager
def watching(jobs: Sequence[Job], *, at_once: int, report: Callable[[str], object]) -> Iterator[None]:
    """Shows the progress of runs that are started elsewhere, while the context lasts.

    A thread looks at the run directories, which have to be on a file system of this machine too. A run has begun when a
    log in its directory changes, and has ended when its result or its failure is there. Nothing is shown before the
    first has begun: the scheduler's own lines come first. An error in here ends the display and nothing else.

    Args:
        jobs: those that are started.
        at_once: how many of them run at a time, at most.
        report: is given the lines for the terminal.
    """
    over = threading.Event()
    progress = Progress(jobs, at_once=at_once, report=report)
    before = {job.folder: _states(job.folder) for job in jobs}
    thread = threading.Thread(target=_watch, args=(jobs, before, progress, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        progress.close()


def _watch(
    jobs: Sequence[Job], before: dict[Path, dict[str, State]], progress: Progress, over: threading.Event
) -> None:
    waiting = {job.folder: job for job in jobs}
    running: dict[Path, Job] = {}
    try:
        while not over.wait(POLL):
            for folder, job in [*waiting.items(), *running.items()]:
                now = _states(folder)
                new = {name for name in now if now[name] != before[folder][name]}
                if folder in waiting and new.intersection(SIGNS):
                    running[folder] = waiting.pop(folder)
                    progress.begin(job)
                if folder in running and new.intersection(ENDS):
                    ended = outcome(job, None)
                    if ended.kind != "open":
                        del running[folder]
                        progress.end(job, ended.kind)
                        progress.report(str(ended))
            if len(waiting) < len(jobs):
                progress.tick()
    except Exception as error:
        progress.close()
        log.warning("No progress is shown any more (%s: %s); the runs go on.", type(error).__name__, error)


def _states(folder: Path) -> dict[str, State]:
    return {name: _state(folder / name) for name in (*SIGNS, *ENDS)}


def _state(path: Path) -> State:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
