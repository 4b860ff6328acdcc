"""The pool: jobs in processes of their own, several at a time, until there are none or the time is up."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from experiments.engine.build import UserError
from experiments.engine.machine import usual_jobs
from experiments.engine.overrides import Overrides
from experiments.sweeps import process
from experiments.sweeps.job import LOG, Job
from experiments.sweeps.progress import POLL, Progress


def parse_jobs(count: int | None, overrides: Sequence[str]) -> int:
    """How many runs at a time; None: as many as this machine carries. Raises UserError for fewer than one."""
    device = Overrides.parse(overrides).value("device", "auto")
    at_once = usual_jobs(device) if count is None else count
    if at_once < 1:
        raise UserError(f"--jobs {count} is not valid: it is a whole number from 1.")
    return at_once


def run_pool(
    next_job: Callable[[float], Job | None],
    ended: Callable[[Job, int | None], None],
    *,
    at_once: int,
    budget: float = float("inf"),
    enough: Callable[[Job], bool] | None = None,
    progress: Progress | None = None,
    cwd: Path | None = None,
) -> None:
    """Runs jobs until none is left or the budget is spent.

    Both callbacks are called in the thread of the caller. On Ctrl-C, or an error in a callback, all trainings are
    stopped so that they keep their checkpoints, before the exception goes on.

    Args:
        next_job: given the seconds that are left, the next job to start; None where none can start now. It is asked
            again when a job has ended; the pool ends where none is running.
        ended: given a job and its exit status; None: it was stopped, by the budget or by `enough`.
        at_once: so many jobs run at a time, the processor's cores divided among them.
        budget: seconds. A job that is running when they are over is stopped.
        enough: asked of a running job, from another thread, twice a second: whether to stop it.
        progress: shows how far the jobs are, which print into `LOG` in their run directories; None: they print in the
            terminal, which only one at a time can.
        cwd: as of `process.train`.
    """
    end = time.monotonic() + budget
    stopped = threading.Event()
    running: dict[Future[int | None], Job] = {}

    def train(job: Job) -> int | None:
        left = end - time.monotonic()
        if stopped.is_set() or left <= 0:
            return None
        log = job.folder / LOG if progress else None
        until = (lambda: enough(job)) if enough else None
        return process.train(job.overrides.words, timeout=left, share=at_once, log=log, enough=until, cwd=cwd)

    with ThreadPoolExecutor(at_once) as threads:
        try:
            while True:
                while len(running) < at_once and (left := end - time.monotonic()) > 0:
                    job = next_job(left)
                    if job is None:
                        break
                    if progress:
                        progress.begin(job)
                    running[threads.submit(train, job)] = job
                if not running:
                    return
                timeout = POLL if progress else None
                for future in wait(running, timeout, return_when=FIRST_COMPLETED).done:
                    ended(running.pop(future), future.result())
                if progress:
                    progress.tick()
        except BaseException:
            stopped.set()
            if progress:
                progress.close()  # before the trainings, which take their time
            process.stop_all()
            while wait(running, timeout=1).not_done:  # one had not started yet
                process.stop_all()
            raise
