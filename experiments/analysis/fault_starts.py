"""Starts of train.py in processes of their own, disturbed at a chosen moment.

A server imports torch once and forks a fresh process for every start, which then costs half a second. A moment is a
number of calls and returns of functions inside `run`: with the same seed, a trial is disturbed at the same place again.
"""

import builtins
import multiprocessing
import os
import re
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.engine.files import ROOT

# What a start needs and imports late, torch._dynamo the longest: the first optimiser imports it.
PRELOAD = (
    "experiments.analysis.fault_starts", "experiments.engine.run", "experiments.sections", "experiments.sweeps.sweep",
    "sklearn.datasets", "torch._dynamo", "wandb",
)  # fmt: skip
TIMEOUT = 300  # seconds after which a start hangs
MARK = "\x1e"  # in what a start says: here the disturbance came
COUNTED = "\x1f(\\d+)\x1f"  # likewise: so many calls

Action = Callable[[], None]


@dataclass(frozen=True)
class Ended:
    """How a start has ended.

    Attributes:
        status: as of `subprocess`: a signal that ended it is negative. None: it did not end within `TIMEOUT`.
        said: its standard error.
        came: whether the moment of the disturbance came.
        calls: how many there were, where they were counted.
    """

    status: int | None
    said: str
    came: bool
    calls: int | None = None


class Starting:
    """A start of train.py that may still run.

    Args:
        arguments: of the command line.
        home: the home and the working directory of the process.
        before: what is done in the process before train.py.
        action: what is done at the moment.
        moment: the number of the call at which it is done. None: the calls are counted; 0: nothing is done.
    """

    def __init__(
        self,
        arguments: list[str],
        home: Path,
        *,
        before: Action | None = None,
        action: Action | None = None,
        moment: int | None = 0,
    ) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOAD))
        self._output, theirs = self._context.Pipe(duplex=False)
        self._process = self._context.Process(
            target=_start, args=(theirs, arguments, str(home), before, action, moment)
        )
        self._process.start()
        theirs.close()

    def until_stopped(self) -> None:
        """Waits until its moment has come, where SIGSTOP disturbs it; or until it ends."""
        self._output.poll(TIMEOUT)  # its mark

    def go_on(self) -> None:
        """Ends SIGSTOP."""
        if self._process.is_alive() and self._process.pid:
            os.kill(self._process.pid, signal.SIGCONT)

    def end(self) -> Ended:
        """Waits for the end."""
        self._process.join(TIMEOUT)
        status = self._process.exitcode
        if status is None:
            self._process.kill()
            self._process.join()
        os.set_blocking(
            self._output.fileno(), False
        )  # what it has started may live on and hold the pipe open
        try:
            said = os.read(self._output.fileno(), 1 << 20).decode(errors="replace")
        except BlockingIOError:
            said = ""
        self._output.close()
        counted = re.search(COUNTED, said)
        spoken = re.sub(f"{MARK}|{COUNTED}", "", said).strip()
        return Ended(status, spoken, MARK in said, int(counted[1]) if counted else None)


def _start(
    output: Connection,
    arguments: list[str],
    home: str,
    before: Action | None,
    action: Action | None,
    moment: int | None,
) -> None:
    """train.py, in the forked process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(output.fileno(), 2)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]
    os.environ["HOME"] = home
    tqdm.set_lock(threading.RLock())  # its own is of several processes, and a killed one leaks it
    os.chdir(home)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background process ignores
    if moment != 0:
        _watch(moment, action)
    if before is not None:
        before()
    sys.argv = ["train.py", *arguments]
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


def _watch(moment: int | None, action: Action | None) -> None:
    """Makes `run` count its calls and do the action at the moment."""
    import experiments.engine.run as module

    run, calls = module.run, 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == moment and action is not None:
            sys.setprofile(None)
            os.write(2, MARK.encode())
            action()

    def watched(*args: Any, **options: Any) -> Any:
        sys.setprofile(count)
        try:
            return run(*args, **options)
        finally:
            sys.setprofile(None)
            if moment is None:
                os.write(2, f"\x1f{calls}\x1f".encode())

    module.run = watched


# Actions and what is done before a start


def send(number: int) -> None:
    """Sends this process a signal."""
    os.kill(os.getpid(), number)


def interrupt_imports() -> None:
    """Makes Ctrl-C come where train.py imports torch."""
    make = builtins.__import__

    def interrupted(name: str, *args: Any, **options: Any) -> Any:
        if name == "experiments.engine.run":
            send(signal.SIGINT)
        return make(name, *args, **options)

    builtins.__import__ = interrupted


def vanish(folder: Path) -> None:
    """Removes a folder, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def move(source: Path, target: Path) -> None:
    """Renames a folder."""
    source.rename(target)


def block(folder: Path) -> None:
    """Puts a file into the place of a folder."""
    vanish(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("")


def set_clock_back(seconds: float) -> None:
    """Sets this process's clock back; what counts only forwards, such as perf_counter, goes on."""
    seconds_now, nanoseconds_now = time.time, time.time_ns
    time.time = lambda: seconds_now() - seconds
    time.time_ns = lambda: nanoseconds_now() - int(seconds * 1e9)


def no_room(size: int) -> None:
    """No file of this process may grow beyond so many bytes, as on a disk that is nearly full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def no_wandb() -> None:
    """W&B cannot be imported."""
    sys.modules["wandb"] = None  # type: ignore[assignment]


_children: list[int] = []


def note_children() -> None:
    """Notes what this process starts from now on, for `kill_children`."""
    start = subprocess.Popen.__init__

    def noted(self: Any, *args: Any, **options: Any) -> None:
        start(self, *args, **options)
        _children.append(self.pid)

    subprocess.Popen.__init__ = noted  # type: ignore[method-assign]


def kill_children() -> None:
    """Kills what this process has started, which is W&B's own process."""
    for pid in _children:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # it has ended: git, say
            continue
