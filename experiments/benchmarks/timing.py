"""Two or more sides timed in turn, each in a process of its own; the ratios of their times, and the row of the two."""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Numbers as they were measured, with their units in the keys; page.py knows how each unit is written.
Row = dict[str, Any]


class SkippedError(Exception):
    """The suite cannot be measured here; the message says what it needs."""


@dataclass(frozen=True)
class Work:
    """What is timed.

    Attributes:
        call: One repetition.
        units: Images, steps or operations in one repetition; times are given for one of them.
        prepare: Called before each repetition, and not timed.
    """

    call: Callable[[], Any]
    units: int = 1
    prepare: Callable[[], Any] = lambda: None


Make = Callable[[], Work]  # called in the process of the side: a module's function, or a partial of one


@dataclass(frozen=True)
class Timing:
    """Seconds for one unit of work, one value a round."""

    label: str
    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def ms(self) -> float:
        """The median in milliseconds."""
        return 1000 * self.median


def ratio(over: Timing, under: Timing) -> dict[str, float]:
    """Quartiles (q1, median, q3) of how many times longer `over` takes than `under`, round by round."""
    quartiles = np.quantile(np.divide(over.seconds, under.seconds), [0.25, 0.5, 0.75])
    return dict(zip(("q1", "median", "q3"), quartiles.tolist(), strict=True))


def goal(value: float | dict[str, float], **bound: float | None) -> Row:
    """What was to be reached, and whether it is.   bound: one of at_least and at_most, or None for no goal."""
    ((kind, limit),) = bound.items()
    value = value["median"] if isinstance(value, dict) else value
    reached = None if limit is None else value >= limit if kind == "at_least" else value <= limit
    return {kind: limit, "reached": reached}


def largest_difference(ours: Tensor, theirs: Tensor, tolerance: float, what: str) -> float:
    """The largest absolute difference.   raises: RuntimeError where it is above the tolerance, or not a number."""
    difference = float((ours - theirs).detach().abs().max())
    if not difference <= tolerance:
        raise RuntimeError(
            f"{what}: the two sides differ by {difference:.3g}: they do not compute the same thing."
        )
    return difference


def in_turn(
    sides: Mapping[str, Make], *, rounds: int, at_least: float = 0.2, threads: int = 2
) -> list[Timing]:
    """Times A B A B ...: every round times each side once, while the others wait and nothing of theirs runs.

    Args:
        sides: Label -> what is timed; each gets a process of its own, with so many threads.
        rounds: Measured rounds; one more comes first and is not counted.
        at_least: Seconds of one measurement, in whole repetitions.

    Raises:
        RuntimeError: Where a side fails, or has worker processes after its turn.
    """
    timings = [Timing(label, []) for label in sides]
    with ExitStack() as stack:
        runners = [stack.enter_context(Runner(make, threads)) for make in sides.values()]
        for i in range(rounds + 1):
            for runner, timing in zip(runners, timings, strict=True):
                try:
                    seconds = runner.start(at_least).result()
                except Exception as error:
                    raise RuntimeError(f"{timing.label!r} failed: {type(error).__name__}: {error}") from error
                if i:
                    timing.seconds.append(seconds)
    return timings


def compare(case: str, sides: Mapping[str, Make], *, rounds: int, seconds: float = 0.2, **row: Any) -> Row:
    """Ours and theirs in turn, and their row.   seconds: of one measurement.   row: as for `comparison`."""
    return comparison(case, *in_turn(sides, rounds=rounds, at_least=seconds), **row)


def comparison(
    case: str, ours: Timing, theirs: Timing, *, at_least: float | None, difference: float, rate: bool = False
) -> Row:
    """The row of one comparison.   rate: the times are of one image; give images per second, not milliseconds."""
    gain = ratio(theirs, ours)
    unit = "images_per_second" if rate else "ms"
    sides = {"ours": ours, "theirs": theirs}
    times = {f"{name}_{unit}": 1 / side.median if rate else side.ms for name, side in sides.items()}
    row: Row = {"case": case, "against": theirs.label, **times, "times_as_fast": gain}
    return row | goal(gain, at_least=at_least) | {"largest_difference": difference}


class Runner(ProcessPoolExecutor):
    """A side in a process of its own: its allocator's settings and threads touch no other side."""

    def __init__(self, make: Make, threads: int) -> None:
        super().__init__(1, mp_context=multiprocessing.get_context("spawn"))
        self._side = make, threads

    def start(self, at_least: float) -> Future[float]:
        """Begins a turn of so many seconds; its result is the seconds for one unit of work."""
        return self.submit(_turn, *self._side, at_least)


def together(runners: Sequence[Runner], at_least: float) -> float:
    """Units of work per second of several processes at the same time."""
    turns = [runner.start(at_least) for runner in runners]
    return sum(1 / turn.result() for turn in turns)


_made: list[Work] = []  # in the process of a side: its work, once it is made


def _turn(make: Make, threads: int, at_least: float) -> float:
    if not _made:
        torch.set_num_threads(threads)
        _made.append(make())
        _measure(_made[0], 0.1)  # brings lazily made buffers into being
    seconds = _measure(_made[0], at_least)
    if workers := multiprocessing.active_children():
        raise RuntimeError(f"{len(workers)} of its worker processes would run in the others' turns.")
    return seconds


def _measure(work: Work, at_least: float) -> float:
    calls, elapsed = 0, 0.0
    while elapsed < at_least or not calls:
        work.prepare()
        start = time.perf_counter()
        work.call()
        elapsed += time.perf_counter() - start
        calls += 1
    start = time.perf_counter()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (elapsed + time.perf_counter() - start) / (calls * work.units)
