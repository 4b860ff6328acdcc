"""A training in a process of its own: started, watched, stopped so that its checkpoint stays."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from experiments.engine.configuration import Files
from experiments.engine.files import ROOT
from experiments.engine.machine import threads_of

GRACE = 20.0  # seconds that a stopped training has to end by itself
LOOK = 0.5  # seconds between two looks at a training that is watched
# Before Slurm ends a job it signals every process in it, the training too.
WARNINGS = (signal.SIGTERM, signal.SIGUSR2)
PATIENCE = 60.0  # seconds until a job that Slurm is ending has ended: more than its usual KillWait, 30
_running: set["subprocess.Popen[bytes]"] = set()


def train(
    overrides: Sequence[str],
    *,
    timeout: float = float("inf"),
    share: int = 1,
    log: Path | None = None,
    enough: Callable[[], bool] | None = None,
    cwd: Path | None = None,
) -> int | None:
    """Runs `python train.py <overrides>` in a process of its own.

    Args:
        overrides: of the configuration.
        timeout: seconds after which it is stopped.
        share: how many trainings share the processor; above 1, each has its part of the cores.
        log: the file that it prints into; None: the terminal.
        enough: asked twice a second whether to stop it; None: never.
        cwd: where relative folders are; None: in the repository.

    Returns:
        The exit status; None if it was stopped.
    """
    inside = shlex.split(os.environ.get("STN_INSIDE", ""))  # such as `apptainer exec --nv stn.sif`
    command = [*inside, "python" if inside else sys.executable, str(ROOT / "train.py")]
    command += [*Files.in_use().options, *overrides]
    if share > 1 and not any(override.startswith("threads=") for override in overrides):
        command.append(f"threads={threads_of(share)}")
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
    # Under Slurm, this process answers the warnings (submitit requeues the job); the training goes on until then.
    warned = _ignore_warnings if _under_slurm() else None
    with open(log, "a") if log else nullcontext() as file:
        process = subprocess.Popen(command, cwd=cwd or ROOT, stdout=file, stderr=file, preexec_fn=warned)
        _running.add(process)
        try:
            status = _wait(process, timeout, enough)
        except subprocess.SubprocessError as error:
            _stop(process)
            if isinstance(error, subprocess.TimeoutExpired) and error.cmd == command:
                return None
            # From submitit's answer to a warning: `scontrol requeue` is refused where Slurm has requeued the job by
            # itself. To return now would be to call a run failed that is about to go on.
            time.sleep(PATIENCE)
            raise
        except BaseException:  # Ctrl-C; SystemExit, where submitit has requeued the job
            _stop(process)
            raise
        finally:
            _running.discard(process)
    killed = status < 0 or status > 128  # above 128: what a program around it tells
    if killed and _under_slurm():  # by Slurm, most often, which is about to end the job
        time.sleep(PATIENCE)
    return status


def stop_all() -> None:
    """Stops the trainings of all threads of this program: Ctrl-C reaches the main one alone."""
    for process in list(_running):
        _stop(process)


def _under_slurm() -> bool:
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"


def _ignore_warnings() -> None:
    for number in WARNINGS:
        signal.signal(number, signal.SIG_IGN)


def _wait(process: "subprocess.Popen[bytes]", timeout: float, enough: Callable[[], bool] | None) -> int:
    if enough is None:
        return process.wait(None if timeout == float("inf") else timeout)
    end = time.monotonic() + timeout
    while True:
        try:
            return process.wait(LOOK)
        except subprocess.TimeoutExpired:
            if enough() or time.monotonic() >= end:
                raise


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Ends a training as Ctrl-C does."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
