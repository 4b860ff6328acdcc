"""A training in a process of its own: started, watched, stopped so that its checkpoint stays."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from experiments.engine.configuration import CONFIGS

ROOT = CONFIGS.parent
LOG = "train.log"  # in the run directory: what a training prints that does not own the terminal
GRACE = 20.0  # seconds that a stopped training has to end by itself
LOOK = 0.5  # seconds between two looks at a training that is watched
_running: set["subprocess.Popen[bytes]"] = set()


def train(
    overrides: Sequence[str],
    *,
    timeout: float = float("inf"),
    share: int = 1,
    log: Path | None = None,
    enough: Callable[[], bool] | None = None,
) -> int | None:
    """`python train.py <overrides>`. returns: its exit status, None if it was stopped, the time being up or it enough.

    timeout: seconds.   share: how many trainings share the processor; above 1, each has its part of the cores.
    log: the file that it prints into; None: the terminal.   enough: asked twice a second whether to stop it.
    """
    command = [sys.executable, str(ROOT / "train.py"), *overrides]
    if share > 1 and not any(override.startswith("threads=") for override in overrides):
        command.append(f"threads={max((os.cpu_count() or 1) // share, 1)}")
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") if log else nullcontext() as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
        _running.add(process)
        try:
            return _wait(process, timeout, enough)
        except subprocess.TimeoutExpired:
            _stop(process)
            return None
        except BaseException:
            _stop(process)
            raise
        finally:
            _running.discard(process)


def stop_all() -> None:
    """Stops the trainings of all threads of this program: Ctrl-C reaches the main one alone."""
    for process in list(_running):
        _stop(process)


def last_line(log: Path) -> str:
    """What a training said last, which is its error's one sentence where it failed."""
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "stopped")


def usual_jobs(extra: Sequence[str]) -> int:
    """How many runs at a time finish most an hour: one a core, of one thread each, on a CPU (the benchmark's suite
    seeds measures it); one after the other on a GPU.   extra: overrides, of which device= matters.
    """
    import torch

    on_gpu = torch.cuda.is_available() and "device=cpu" not in extra
    return 1 if on_gpu else os.cpu_count() or 1


def _wait(
    process: "subprocess.Popen[bytes]", timeout: float, enough: Callable[[], bool] | None
) -> int | None:
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
    if process.poll() is None:
        os.kill(process.pid, signal.SIGINT)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
