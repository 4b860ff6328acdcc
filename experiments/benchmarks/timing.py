"""Two or more sides timed in turn, each in a process of its own, and the ratios of their times."""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch

# What a side is made of: a module-level function that returns what is to be timed, and its work per call.
Work = tuple[Callable[[], Any], int]


@dataclass(frozen=True)
class Side:
    """label: for the table.   make: called with `arguments` in the side's process; returns (call, work per call)."""

    label: str
    make: Callable[..., Work]
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Timing:
    """Seconds per unit of work (image or step), one a round."""

    label: str
    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Ratio:
    """A ratio of times, round by round: its median and quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


def ratio(over: Timing, under: Timing) -> Ratio:
    """How many times longer `over` takes than `under`, from rounds in which both ran one after the other."""
    values = [a / b for a, b in zip(over.seconds, under.seconds, strict=True)]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Ratio(median, low, high)


def in_turn(sides: Sequence[Side], *, rounds: int, at_least: float = 0.2, threads: int = 2) -> list[Timing]:
    """A B A B ...: every round times each side once, in a process of its own, while the others wait.

    rounds: measured, after one that is not.   at_least: seconds that one measurement lasts, in whole calls.
    threads: of each side.   raises: RuntimeError where a side fails, with what it said.
    """
    seconds: list[list[float]] = [[] for _ in sides]
    with ExitStack() as stack:
        runners = [stack.enter_context(Runner(side, threads)) for side in sides]
        for i in range(rounds + 1):
            for runner, times in zip(runners, seconds, strict=True):
                measured = runner.measure(at_least)
                if i:
                    times.append(measured)
    return [Timing(side.label, times) for side, times in zip(sides, seconds, strict=True)]


class Runner:
    """A side in a process of its own: its allocator's settings, threads and data loaders touch no other side."""

    def __init__(self, side: Side, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, side, threads))
        self._label = side.label

    def __enter__(self) -> "Runner":
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.is_alive():
            self._pipe.send(None)
        self._process.join(20)
        if self._process.is_alive():
            self._process.kill()

    def measure(self, at_least: float) -> float:
        """Seconds per unit of work."""
        self.start(at_least)
        return self.result()

    def start(self, at_least: float) -> None:
        self._pipe.send(at_least)

    def result(self) -> float:
        try:
            answer = self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"The process of {self._label!r} ended before it answered.") from None
        if isinstance(answer, str):
            raise RuntimeError(f"{self._label!r} failed: {answer}")
        return answer


def _serve(pipe: Connection, side: Side, threads: int) -> None:
    try:
        torch.set_num_threads(threads)
        call, work = side.make(**side.arguments)
        for _ in range(3):
            call()
        while (at_least := pipe.recv()) is not None:
            calls, start = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - start) < at_least or not calls:
                call()
                calls += 1
            _wait()
            elapsed = time.perf_counter() - start
            pipe.send(elapsed / (calls * work))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
