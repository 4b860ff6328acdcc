"""How far several runs are, while they train: a block of lines in a terminal, plain lines elsewhere."""

import contextlib
import heapq
import json
import logging
import os
import statistics
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from experiments.engine.durations import duration
from experiments.sweeps.estimates import Estimator
from experiments.sweeps.job import Job, Outcome
from experiments.sweeps.overview import estimator_for

log = logging.getLogger(__name__)

POLL = 1.0  # seconds between two looks at the run directories
QUIET = 300.0  # seconds at least between two plain lines of one run
TAIL = 65_536  # bytes of a metrics.jsonl that are read at first sight
ERASE = "\r\x1b[J"  # from the start of the line to the end of the screen
POINTS = 30  # log lines, at most, over which a rate is measured


class Progress:
    """Shows how far runs are that train in processes of their own, by what their directories hold.

    In a terminal: a line a run, with a bar, the newest error and the time left, and below one line for all; it is gone
    when the context ends. Elsewhere: a plain line of a run when it has passed another tenth, not more than one in
    five minutes. A failure of the display is logged once and ends nothing else.

    Args:
        jobs: those that are to be made, as far as they are known.
        at_once: so many at a time.
        report: is given whole lines. Use `Progress.report` in its place within the context.
        total: how many runs are to be made; None: as many as `jobs`.
        name: what a run is called; None: its label, in a terminal without what all labels share.
        budget: seconds until the runs are stopped.
        output: where the block is drawn if it is a terminal; None: standard output.
        clock: seconds, of the same clock as the times of files.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        at_once: int,
        report: Callable[[str], object] = print,
        total: int | None = None,
        name: Callable[[Job], str] | None = None,
        budget: float = float("inf"),
        output: TextIO | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._output = output or sys.stdout
        self.live = self._output.isatty() and os.environ.get("TERM") != "dumb"
        self._report, self._clock, self._at_once = report, clock, at_once
        self._total = len(jobs) if total is None else total
        self._end = clock() + budget
        self._full_name = name or (lambda job: job.label)
        self._name = name or short_names(jobs)
        self._jobs = list(jobs)
        self._waiting = {job.folder: job for job in jobs}
        self._running: dict[Path, _Watched] = {}
        self._kinds: Counter[str] = Counter()
        self._measured: dict[Path, float] = {}  # seconds of a whole training, of runs that were watched
        self._estimate: Estimator | None = None
        self._estimated: dict[Path, float | None] = {}
        self._drawn = False  # whether the block is on the screen, the cursor at its start
        self._broken = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, job: Job) -> None:
        """Takes note that a run starts now."""
        self._waiting.pop(job.folder, None)
        self._running[job.folder] = _Watched(job, self._clock())
        self._guard(self._show)

    def end(self, job: Job, kind: str) -> None:
        """Takes note that a run has ended, or will not begin.

        Args:
            job: the run.
            kind: as `Outcome.kind`, or another word that counts as neither done, failed nor open.
        """
        self._waiting.pop(job.folder, None)
        self._running.pop(job.folder, None)
        self._kinds[kind] += 1
        self._guard(self._show)

    def tick(self) -> None:
        """Looks at the run directories and shows what is new. To be called every `POLL` seconds."""
        self._guard(self._look)

    def report(self, text: str) -> None:
        """Gives lines to `report`; in a terminal they stand above the block."""
        self._guard(self._clear)
        self._report(text)
        if self.live:
            self._guard(self._draw)

    def close(self) -> None:
        """Removes the block. Nothing is shown any more."""
        self._guard(self._clear)
        self._broken = True

    def _guard(self, action: Callable[[], object]) -> None:
        if self._broken:
            return
        try:
            action()
        except Exception as error:
            self._broken = True
            with contextlib.suppress(Exception):
                self._clear()
            log.warning(
                "No progress is shown any more (%s: %s); the runs go on.", type(error).__name__, error
            )

    def _look(self) -> None:
        job = next((job for job in self._jobs if job.folder not in self._estimated), None)
        if job is not None:  # one a look: it takes up to a tenth of a second
            self._estimate = self._estimate or estimator_for(self._jobs, self._at_once)
            known = self._estimate(job)
            self._estimated[job.folder] = known.seconds if known else None
        for folder, run in self._running.items():
            run.look()
            if run.rate:
                self._measured[folder] = run.iterations / run.rate
        self._show()

    def _show(self) -> None:
        if self.live:
            self._draw()
        else:
            self._say()

    # -- numbers

    def _typical(self) -> float | None:
        """Seconds of a run of which nothing is known: the mean of those of which something is."""
        known = [*self._measured.values()] or [one for one in self._estimated.values() if one is not None]
        return statistics.fmean(known) if known else None

    def _left_of(self, run: "_Watched") -> float | None:
        """The seconds that a running one has left; None where nothing is known."""
        if run.rate:
            return run.seconds_left(self._clock())
        estimated, typical = self._estimated.get(run.job.folder), self._typical()
        if estimated is not None:
            return estimated
        return None if typical is None else typical * (1 - run.share)

    def _left(self) -> float | None:
        """The seconds until all runs are made, as they follow one another; None where nothing is known."""
        typical = self._typical()
        if typical is None:
            return None
        slots = [self._left_of(run) or 0.0 for run in self._running.values()]
        slots += [0.0] * max(self._at_once - len(slots), 0)
        heapq.heapify(slots)
        waiting = [self._estimated.get(folder) for folder in self._waiting]
        unlisted = self._total - sum(self._kinds.values()) - len(self._running) - len(self._waiting)
        for seconds in [*waiting, *[None] * max(unlisted, 0)]:
            heapq.heapreplace(slots, slots[0] + (typical if seconds is None else seconds))
        return max(slots)

    def _all(self) -> str:
        """The line for all runs."""
        ended = {kind: count for kind, count in self._kinds.items() if kind != "open"}
        kinds = {"done": 0, "failed": 0, **ended, "open": self._total - sum(ended.values())}
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        left = self._left()
        text = f"{counts}; " + ("time left unknown" if left is None else f"~{duration(left)} left")
        budget = max(self._end - self._clock(), 0.0)
        return text if budget >= (left or 0.0) else f"{text}, budget {duration(budget)}"

    # -- plain lines

    def _say(self) -> None:
        now = self._clock()
        for run in self._running.values():
            tenth = int(10 * run.share)
            if run.tenth < tenth < 10 and now - run.said >= QUIET:
                run.tenth, run.said = tenth, now
                left = self._left_of(run)
                of_all = f"all: {self._all()}"
                time_left = "time left unknown" if left is None else f"{duration(left)} left"
                parts = [f"step {run.step} of {run.iterations}", run.error, time_left]
                reason = f"{', '.join(part for part in parts if part)}; {of_all}"
                self._report(str(Outcome(self._full_name(run.job), "running", reason)))

    # -- the block

    def _draw(self) -> None:
        """Draws the block over the one before, in one write: a Ctrl-C between two would leave half a block.

        tqdm draws the bars, but not the block: its lines end up in wrong places when the terminal changes its width.
        """
        size = _size(self._output)
        shown = list(self._running.values())[: max(size.lines - 2, 0)]
        texts = [*self._bars(shown, size.columns - 1), self._all()[: size.columns - 1]]
        up = f"\x1b[{len(texts) - 1}A" if len(texts) > 1 else ""
        self._write(ERASE + "\n".join(texts) + "\r" + up)
        self._drawn = True

    def _clear(self) -> None:
        if self._drawn:
            self._write(ERASE)
            self._drawn = False

    def _write(self, text: str) -> None:
        self._output.write(text)
        self._output.flush()

    def _bars(self, runs: Sequence["_Watched"], width: int) -> list[str]:
        """A line of so many columns for each run."""
        names = [self._name(run.job) for run in runs]
        steps = [f"{run.step}/{run.iterations}" for run in runs]
        errors = [run.error for run in runs]
        times = [self._state(run) for run in runs]
        longest = max(map(len, names), default=0)
        columns = [steps, errors, times]
        if width - _wide(columns) - 15 < min(longest, 24):  # a narrow terminal; the percentage tells it too
            columns = [errors, times]
        room = min(longest, max(width - _wide(columns) - 15, 8))  # 15: the percentage and a short bar
        widths = [max(map(len, column)) for column in columns] if runs else []
        ascii_only = "utf" not in (self._output.encoding or "").lower()
        lines = []
        for run, name, *texts in zip(runs, names, *columns, strict=True):
            tail = "".join(f"  {text:>{n}}" for text, n in zip(texts, widths, strict=True))
            short = name if len(name) <= room else f"{name[: room - 2]}.."
            bar: Any = tqdm.format_meter(
                min(run.step, run.iterations), run.iterations, 0, ncols=width, ascii=ascii_only,
                prefix=f"{short:{room}}", bar_format="{desc} {percentage:3.0f}%|{bar}|{tail}", tail=tail,
            )  # fmt: skip
            lines.append(str(bar))
        return lines

    def _state(self, run: "_Watched") -> str:
        """The time that a run has left, in a few characters."""
        if run.step >= run.iterations:
            return "testing"
        left = self._left_of(run)
        return "unknown" if left is None else f"{'' if run.rate else '~'}{duration(left)}"


class _Watched:
    """What the metrics.jsonl of a running training tells from outside.

    Attributes:
        step: the last logged one.
        error: the newest error, in words: of held-out images where there is one; "" before the first.
        said, tenth: when the last plain line was, and of how many tenths of the training.
    """

    def __init__(self, job: Job, now: float) -> None:
        self.job, self.path = job, job.folder / "metrics.jsonl"
        self.iterations = int(job.cfg.trainer.iterations)
        self.step, self.said = 0, now
        self._numbers: dict[str, float] = {}
        self._offset = 0
        self._inode: int | None = None
        self._points: deque[tuple[float, int]] = deque(maxlen=POINTS)  # time and step of log lines
        self.look()
        self._points.clear()  # the file is of an earlier attempt; the training writes it anew at its start
        if not job.started:  # nothing of it counts
            self.step, self._numbers = 0, {}
        self.tenth = int(10 * self.share)

    @property
    def share(self) -> float:
        return min(self.step / self.iterations, 1.0)

    @property
    def rate(self) -> float | None:
        """Steps a second since this attempt has begun, over the last log lines; None before there are two."""
        if len(self._points) < 2:
            return None
        (began, first), (ended, last) = self._points[0], self._points[-1]
        return (last - first) / (ended - began) if ended > began and last > first else None

    def seconds_left(self, now: float) -> float:
        """By the rate, which is known; between two log lines it counts down."""
        assert self.rate is not None
        (before, _), (last, _) = self._points[-2], self._points[-1]
        since = min(max(now - last, 0.0), last - before)
        return max((self.iterations - self.step) / self.rate - since, 0.0)

    @property
    def error(self) -> str:
        for key, word in (("val/error", "val"), ("train/error", "train")):
            if key in self._numbers:
                return f"{word} {self._numbers[key]:.2f}%"
        return f"loss {self._numbers['train/loss']:.3f}" if "train/loss" in self._numbers else ""

    def look(self) -> None:
        """Reads the whole lines that are new. A file that is missing or cannot be read tells nothing."""
        with contextlib.suppress(OSError):
            state = self.path.stat()
            anew = state.st_ino != self._inode or state.st_size < self._offset
            if anew:
                self.step, self._numbers = 0, {}
                self._inode, self._offset = state.st_ino, max(state.st_size - TAIL, 0)
            before = self.step
            if state.st_size > self._offset:
                with open(self.path, "rb") as file:
                    file.seek(self._offset)
                    new = file.read(state.st_size - self._offset)
                whole = new[: new.rfind(b"\n") + 1]
                self._offset += len(whole)
                for line in whole.splitlines():
                    self._enter(line)
            if anew or self.step > before:
                self._points.append((state.st_mtime, self.step))

    def _enter(self, line: bytes) -> None:
        try:
            logged = json.loads(line)
            step = int(logged.pop("step"))
            numbers = {key: float(value) for key, value in logged.items()}
        except (ValueError, KeyError, TypeError, AttributeError):  # cut short
            return
        self.step = step
        self._numbers |= numbers


def short_names(jobs: Sequence[Job]) -> Callable[[Job], str]:
    """Names of runs without what all of them share, such as `mnist_r cnn seed_1`.

    Args:
        jobs: the runs that are to be told from one another.
    """
    shared = set.intersection(*(set(_words(job)) for job in jobs)) if len(jobs) > 1 else set()
    return lambda job: " ".join(word for word in _words(job) if word not in shared) or job.label


def _words(job: Job) -> list[str]:
    network, *overrides = job.name.split(",")
    return [str(job.cfg.experiment), *network.split("-"), *overrides, f"seed_{job.seed}"]


def _wide(columns: Sequence[Sequence[str]]) -> int:
    return sum(2 + max(map(len, column), default=0) for column in columns)


def _size(output: TextIO) -> os.terminal_size:
    try:
        size = os.get_terminal_size(output.fileno())
    except (OSError, ValueError):
        size = os.terminal_size((0, 0))
    return os.terminal_size((size.columns or 80, size.lines or 24))
